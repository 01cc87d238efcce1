//! Outages: nothing is lost.

use crate::{App, ORDERS, Server, listener, started, until};

#[tokio::test]
async fn changes_around_a_crash_of_the_server_are_not_lost() {
    let mut server = Server::start();
    server.sql(ORDERS);
    let app = App::new();
    let running = started(listener(&server), &app).await;
    let before = app.read_all(["/orders/1", "/orders/2", "/orders/3"]).await;
    // One transaction is open, and one has just committed.
    let mut open = server.session();
    open.run("BEGIN; INSERT INTO orders VALUES (1, 7);");
    server.sql("INSERT INTO orders VALUES (2, 8)");
    server.crash();
    until("the outage is noticed", || !running.stats().connected).await;
    server.restart();
    app.renewed("/orders/2", before[1]).await;
    server.sql("INSERT INTO orders VALUES (3, 8)");
    app.renewed("/orders/3", before[2]).await;
    assert_eq!(app.read("/orders/1").await, before[0]);
    assert!(running.stats().reconnections >= 1);
}

#[tokio::test]
async fn changes_while_no_listener_runs_are_not_lost() {
    let server = Server::start();
    server.sql(ORDERS);
    let app = App::new();
    started(listener(&server), &app).await.stop().await;
    let before = app.read_all(["/orders/1", "/orders/2"]).await;
    server.sql("INSERT INTO orders VALUES (1, 7)");
    let running = started(listener(&server), &app).await;
    app.renewed("/orders/1", before[0]).await;
    // The slot was kept: not everything is invalidated.
    assert_eq!((app.read("/orders/2").await, running.stats().fallbacks), (before[1], 0));
}

#[tokio::test]
async fn everything_is_invalidated_when_the_slot_is_lost() {
    let server = Server::start();
    server.sql(ORDERS);
    let app = App::new();
    let running = started(listener(&server), &app).await;
    let fallbacks = running.stats().fallbacks;
    let before = app.read_all(["/orders/1", "/customers/7", "/other"]).await;
    server.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots");
    // The listener connects again at once, unless the slot is gone by then.
    until("the slot is dropped", || {
        server
            .sql(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active_pid IS NOT NULL;
             SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE active_pid IS NULL;
             SELECT count(*) FROM pg_replication_slots",
            )
            .ends_with('0')
    })
    .await;
    app.renewed("/orders/1", before[0]).await;
    app.renewed("/customers/7", before[1]).await;
    assert_eq!(app.read("/other").await, before[2]);
    assert!(running.stats().fallbacks > fallbacks);
    // The new slot streams.
    until("the listener streams again", || running.stats().connected).await;
    let before = app.read("/orders/1").await;
    server.sql("INSERT INTO orders VALUES (1, 7)");
    app.renewed("/orders/1", before).await;
}

#[tokio::test]
async fn everything_is_invalidated_when_another_process_has_read_the_slot() {
    let server = Server::start();
    server.sql(ORDERS);
    let app = App::new();
    let running = started(listener(&server), &app).await;
    let before = app.read("/orders/1").await;
    // The listener may be faster than the other reader, and then has missed nothing.
    while app.read("/orders/1").await == before {
        server.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active_pid IS NOT NULL");
        server.sql("INSERT INTO orders VALUES (2, 7); DELETE FROM orders");
        server.succeeds("SELECT pg_replication_slot_advance('cache', pg_current_wal_lsn())");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(running.stats().fallbacks > 1);
}

#[tokio::test]
async fn everything_is_invalidated_beyond_the_largest_lag() {
    let server = Server::start();
    server.sql(ORDERS);
    let app = App::new();
    let bounded = || listener(&server).max_lag(100_000);
    started(bounded(), &app).await.stop().await;
    let small = app.read("/orders/2").await;
    server.sql("INSERT INTO orders VALUES (1, 7)");
    let running = started(bounded(), &app).await;
    until("the change is processed", || running.stats().changes == 1).await;
    assert_eq!((app.read("/orders/2").await, running.stats().fallbacks), (small, 0));
    running.stop().await;
    server.sql("CREATE TABLE other (text text); INSERT INTO other SELECT repeat('x', 1000) FROM generate_series(1, 1000)");
    let running = started(bounded(), &app).await;
    app.renewed("/orders/2", small).await;
    assert_eq!(running.stats().fallbacks, 1);
    until("the sizes are known", || running.stats().retained_bytes > 0).await;
}

#[tokio::test]
async fn everything_is_invalidated_while_a_table_is_not_published() {
    let server = Server::start();
    server.sql(ORDERS);
    server.sql("CREATE TABLE other (id int PRIMARY KEY)");
    let app = App::new();
    let running = started(listener(&server).table("other", ["other"]), &app).await;
    let first = app.read("/orders/1").await;
    server.sql("ALTER PUBLICATION response_cache DROP TABLE orders");
    let second = app.renewed("/orders/1", first).await;
    server.sql("INSERT INTO orders VALUES (1, 7)");
    app.renewed("/orders/1", second).await;
    server.sql("ALTER PUBLICATION response_cache ADD TABLE orders");
    // The last check that invalidates everything may be on its way.
    loop {
        let before = app.read_all(["/orders/1", "/orders/2"]).await;
        server.sql("UPDATE orders SET note = 'a'");
        app.renewed("/orders/1", before[0]).await;
        if app.read("/orders/2").await == before[1] {
            break;
        }
    }
    assert_eq!(running.stats().reconnections, 0);
}

#[tokio::test]
async fn temporary_slots_end_with_their_listener() {
    let server = Server::start();
    server.sql(ORDERS);
    let app = App::new();
    let temporary = || listener(&server).temporary_slot(true);
    let before = app.read("/orders/2").await;
    let running = started(temporary(), &app).await;
    let before = app.renewed("/orders/2", before).await;
    let changed = app.read("/orders/1").await;
    server.sql("INSERT INTO orders VALUES (1, 7)");
    app.renewed("/orders/1", changed).await;
    assert_eq!(app.read("/orders/2").await, before);
    // Changes during an outage are not kept.
    server.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots");
    app.renewed("/orders/2", before).await;
    running.stop().await;
    assert_eq!(server.sql("SELECT count(*) FROM pg_replication_slots"), "0");
}

#[tokio::test]
async fn publications_that_are_created_again_are_read() {
    let server = Server::start();
    server.sql(ORDERS);
    let app = App::new();
    let running = started(listener(&server), &app).await;
    running.stop().await;
    // The change before the new publication cannot be decoded by it.
    server.sql("DROP PUBLICATION response_cache");
    server.sql("INSERT INTO orders VALUES (1, 7)");
    let before = app.read_all(["/orders/1", "/orders/2"]).await;
    let running = started(listener(&server), &app).await;
    app.renewed("/orders/1", before[0]).await;
    let before = app.renewed("/orders/2", before[1]).await;
    until("the listener streams again", || running.stats().connected).await;
    server.sql("INSERT INTO orders VALUES (2, 7)");
    app.renewed("/orders/2", before).await;
}
