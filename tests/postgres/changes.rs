//! Changes of rows.

use std::time::Duration;

use tower_response_cache::postgres::PostgresListener;

use crate::{App, ORDERS, Server, common::warnings::warned, listen_notify, listener, started, until};

const HOUR: Duration = Duration::from_secs(3600);

const PATHS: [&str; 5] = ["/tables/orders", "/orders/1", "/orders/2", "/customers/7", "/customers/8"];

#[tokio::test]
async fn each_kind_of_change_invalidates_the_namespaces_of_its_rows() {
    let server = Server::start();
    server.sql(ORDERS);
    let app = App::new();
    let running = started(listener(&server), &app).await;
    // Each change, and the paths whose responses it concerns.
    for (sql, concerned) in [
        ("INSERT INTO orders VALUES (1, 7)", [0, 1, 3].as_slice()),
        ("INSERT INTO orders VALUES (2, 8)", &[0, 2, 4]),
        ("UPDATE orders SET note = 'a' WHERE id = 1", &[0, 1, 3]),
        ("UPDATE orders SET customer = 8 WHERE id = 1", &[0, 1, 3, 4]),
        ("BEGIN; DELETE FROM orders WHERE id = 2; UPDATE orders SET id = 2; COMMIT", &[0, 1, 2, 4]),
        ("DELETE FROM orders", &[0, 2, 4]),
        ("TRUNCATE orders", &[0, 1, 2, 3, 4]),
    ] {
        let before = app.read_all(PATHS).await;
        server.sql(sql);
        for path in concerned {
            app.renewed(PATHS[*path], before[*path]).await;
        }
        let after = app.read_all(PATHS).await;
        let renewed: Vec<_> = (0..PATHS.len()).filter(|path| before[*path] != after[*path]).collect();
        assert_eq!(renewed, concerned, "{sql}");
    }
    let stats = running.stats();
    assert_eq!((stats.transactions, stats.changes, stats.invalidations, stats.fallbacks), (7, 8, 8, 1), "{stats}");
    assert_eq!((stats.failed_invalidations, stats.reconnections), (0, 0));
}

#[tokio::test]
async fn rolled_back_changes_and_other_tables_invalidate_nothing() {
    let server = Server::start();
    server.sql(ORDERS);
    server.sql("CREATE TABLE other (id int PRIMARY KEY); CREATE PUBLICATION response_cache FOR ALL TABLES");
    let app = App::new();
    let running = started(listener(&server), &app).await;
    let before = app.read_all(PATHS).await;
    server.sql("BEGIN; INSERT INTO orders VALUES (1, 7); ROLLBACK");
    server.sql("INSERT INTO other VALUES (1); TRUNCATE other");
    server.sql("BEGIN; INSERT INTO orders VALUES (2, 8); SAVEPOINT s; INSERT INTO orders VALUES (1, 7); ROLLBACK TO s; COMMIT");
    app.renewed("/orders/2", before[2]).await;
    let after = app.read_all(PATHS).await;
    assert_eq!((before[1], before[3]), (after[1], after[3]));
    assert_eq!((running.stats().changes, running.stats().fallbacks), (1, 1));
}

#[tokio::test]
async fn tables_of_other_schemas_and_partitions_have_their_own_names() {
    let server = Server::start();
    server.sql(
        "CREATE SCHEMA shop; CREATE TABLE shop.orders (id int PRIMARY KEY); CREATE TABLE plain (id int PRIMARY KEY);
         CREATE TABLE orders (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (100);",
    );
    let app = App::new();
    let running = PostgresListener::new(server.url("postgres"))
        .table("shop.orders", ["db_query:{schema}-{table}"])
        .table("public.orders", ["order:{id}"])
        .table("plain", ["db_query:{table}"]);
    let running = started(running, &app).await;
    for (sql, path) in [
        ("INSERT INTO shop.orders VALUES (1)", "/tables/shop-orders"),
        ("INSERT INTO orders VALUES (1)", "/orders/1"),
        ("DELETE FROM orders_1", "/orders/1"),
        ("INSERT INTO plain VALUES (1)", "/tables/plain"),
    ] {
        let before = app.read(path).await;
        let other = app.read("/other").await;
        server.sql(sql);
        app.renewed(path, before).await;
        assert_eq!(app.read("/other").await, other);
    }
    running.stop().await;
}

#[tokio::test]
async fn large_transactions_are_invalidated_whole_before_they_are_confirmed() {
    let server = Server::start();
    server.sql(ORDERS);
    let app = App::new();
    let running = started(listener(&server), &app).await;
    let first = running.stats();
    server.sql("INSERT INTO orders SELECT id, 0 FROM generate_series(1, 5000) id");
    until("the transaction is processed", || running.stats().transactions > first.transactions).await;
    let stats = running.stats();
    assert_eq!(stats.changes - first.changes, 5000);
    // 5,000 orders, and the table and the customer in each of the 6 calls at most.
    let namespaces = stats.namespaces - first.namespaces;
    assert!((5002..=5012).contains(&namespaces), "{namespaces}");
    assert!((6..=7).contains(&(stats.invalidations - first.invalidations)), "{stats}");
}

#[tokio::test]
async fn changes_invalidate_only_after_a_query_sees_them() {
    let server = Server::start();
    server.sql(ORDERS);
    let app = App::new();
    let running = started(listener(&server), &app).await;
    let before = app.read_all(PATHS).await;
    // The commit waits for a standby that does not exist: it is in the log, and not visible.
    server.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    server.sql("SELECT pg_reload_conf()");
    let mut session = server.session();
    session.send("INSERT INTO orders VALUES (1, 7);");
    until("the commit waits", || server.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") == "1").await;
    let sent = "SELECT count(*) FROM pg_stat_replication WHERE sent_lsn >= pg_current_wal_flush_lsn()";
    until("the change is sent", || server.sql(sent) == "1").await;
    assert_eq!(server.sql("SELECT count(*) FROM orders"), "0");
    assert_eq!((app.read_all(PATHS).await, running.stats().transactions), (before, 0));
    server.sql("ALTER SYSTEM RESET synchronous_standby_names");
    server.sql("SELECT pg_reload_conf()");
    app.renewed("/orders/1", before[1]).await;
    assert_eq!(server.sql("SELECT count(*) FROM orders"), "1");
}

#[tokio::test]
async fn values_that_are_not_sent_invalidate_the_ancestor() {
    let server = Server::start();
    server.sql("CREATE TABLE orders (id text PRIMARY KEY, note text); ALTER TABLE orders ALTER note SET STORAGE EXTERNAL;");
    let app = App::new();
    let running = PostgresListener::new(server.url("postgres")).table("orders", ["order:{id}"]);
    let running = started(running, &app).await;
    let before = app.read_all(PATHS).await;
    server.sql("INSERT INTO orders VALUES ('1', repeat('x', 100000))");
    let first = app.renewed("/orders/1", before[1]).await;
    // The name of the column is not known any more.
    server.sql("ALTER TABLE orders RENAME id TO number; UPDATE orders SET number = '3'");
    app.renewed("/orders/1", first).await;
    app.renewed("/orders/2", before[2]).await;
    assert_eq!(app.read("/customers/7").await, before[3]);
    assert!(running.stats().fallbacks > 1);
}

#[test]
fn values_that_are_not_sent_are_logged_once() {
    let server = Server::start();
    server.sql(ORDERS);
    let warnings = warned(async {
        let app = App::new();
        let running = started(listener(&server).check_interval(HOUR), &app).await;
        let before = app.read("/customers/7").await;
        server.sql("INSERT INTO orders VALUES (1, 7), (2, 7)");
        let first = app.renewed("/customers/7", before).await;
        // From here on, an update does not state the customer before it.
        server.sql("ALTER TABLE orders REPLICA IDENTITY DEFAULT; UPDATE orders SET note = 'a'");
        let second = app.renewed("/customers/7", first).await;
        server.sql("UPDATE orders SET note = 'b'");
        app.renewed("/customers/7", second).await;
        until("four changes are widened", || running.stats().fallbacks == 5).await;
    });
    let logged = warnings.all_with("the server has not sent all values");
    assert_eq!(logged.len(), 1, "{logged:?}");
    assert!(logged[0].contains("public.orders") && logged[0].contains("namespace=\"customer\""), "{logged:?}");
}

/// The statements of the recipe, as its comment has them.
fn recipe() -> String {
    let text = include_str!("../../examples/listen_notify.rs");
    let sql = text.split("```sql").nth(1).and_then(|rest| rest.split("```").next()).expect("the statements");
    sql.lines().map(|line| line.trim_start_matches("//!").trim()).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn notifications_of_the_recipe_invalidate_their_table() {
    let server = Server::start();
    server.sql("CREATE TABLE orders (id int PRIMARY KEY)");
    server.sql(&recipe());
    let app = App::new();
    let before = app.read_all(["/tables/orders", "/other"]).await;
    let task = tokio::spawn(listen_notify::listen(server.url("postgres"), app.cache.clone()));
    // It begins with everything, because earlier changes are not known.
    let other = app.renewed("/other", before[1]).await;
    let table = app.renewed("/tables/orders", before[0]).await;
    server.sql("INSERT INTO orders VALUES (1)");
    app.renewed("/tables/orders", table).await;
    assert_eq!(app.read("/other").await, other);
    // Changes during an outage are lost: everything is invalidated after it.
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'LISTEN cache'");
    app.renewed("/other", other).await;
    task.abort();
}
