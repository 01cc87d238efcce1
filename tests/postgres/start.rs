//! Errors at the start, and that each names its remedy.

use tower_response_cache::postgres::{PostgresError, PostgresErrorKind, PostgresListener};

use crate::{App, ORDERS, Server, listener, started};

async fn error(listener: PostgresListener) -> PostgresError {
    listener.start(&App::new().cache).await.expect_err("an error")
}

/// Checks the kind and the text of an error.
async fn refused(listener: PostgresListener, kind: PostgresErrorKind, expected: &[&str]) {
    let error = error(listener).await;
    assert_eq!(error.kind(), kind, "{error}");
    for expected in expected {
        assert!(error.to_string().contains(expected), "{error}: expected {expected}");
    }
}

#[tokio::test]
async fn tables_that_cannot_be_watched_are_refused() {
    let server = Server::start();
    server.sql(
        "CREATE TABLE plain (id int PRIMARY KEY, customer int, twice int GENERATED ALWAYS AS (id * 2) STORED);
         CREATE TABLE bare (id int); CREATE VIEW shown AS SELECT 1;
         CREATE TABLE included (id int, customer int, PRIMARY KEY (id) INCLUDE (customer));
         CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (9);
         ALTER TABLE part REPLICA IDENTITY NOTHING;
         CREATE TABLE indexed (id int PRIMARY KEY, customer int NOT NULL, UNIQUE (customer));
         ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_customer_key;",
    );
    let on = |table: &str, template: &str| PostgresListener::new(server.url("postgres")).table(table, [template]);
    use PostgresErrorKind::{Column, ReplicaIdentity, Table};
    refused(on("missing", "a"), Table, &["table public.missing does not exist"]).await;
    refused(on("shown", "a"), Table, &["table public.shown is not a table"]).await;
    refused(on("plain", "a:{nothing}"), Column, &["\"nothing\" does not exist: expected one of id, customer, twice"]).await;
    refused(on("plain", "a:{twice}"), Column, &["table plain: column \"twice\" is generated"]).await;
    let remedy = "ALTER TABLE plain REPLICA IDENTITY FULL";
    refused(on("plain", "a:{customer}"), ReplicaIdentity, &["table plain: column \"customer\"", remedy, "USING INDEX"]).await;
    refused(on("bare", "a"), ReplicaIdentity, &["table bare has no primary key", "ALTER TABLE bare REPLICA IDENTITY FULL"])
        .await;
    refused(on("included", "a:{customer}"), ReplicaIdentity, &["column \"customer\""]).await;
    refused(on("parted", "a:{id}"), ReplicaIdentity, &["table part has REPLICA IDENTITY NOTHING"]).await;
    refused(on("indexed", "a:{id}"), ReplicaIdentity, &["column \"id\""]).await;
    // Nothing was left behind: a publication of a table without a key would make its updates fail.
    assert_eq!(server.sql("SELECT (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_replication_slots)"), "0");
    started(on("indexed", "a:{customer}"), &App::new()).await.stop().await;
}

#[tokio::test]
async fn publications_that_lack_changes_are_refused() {
    let server = Server::start();
    server.sql(ORDERS);
    server.sql("CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id)");
    for (options, remedy) in [
        ("FOR TABLE parted", "ALTER PUBLICATION \"response_cache\" ADD TABLE \"public\".\"orders\""),
        ("FOR TABLE orders WITH (publish = 'insert')", "SET (publish = 'insert, update, delete, truncate')"),
        ("FOR TABLE orders WHERE (id > 1)", "filters the rows of table public.orders"),
    ] {
        server.sql(&format!("DROP PUBLICATION IF EXISTS response_cache; CREATE PUBLICATION response_cache {options}"));
        refused(listener(&server), PostgresErrorKind::Publication, &[remedy]).await;
    }
    server.sql("DROP PUBLICATION response_cache; CREATE PUBLICATION response_cache FOR ALL TABLES");
    let parted = || PostgresListener::new(server.url("postgres")).table("parted", ["a"]);
    refused(parted(), PostgresErrorKind::Publication, &["SET (publish_via_partition_root = true)"]).await;
    server.sql("DROP PUBLICATION response_cache; CREATE PUBLICATION response_cache FOR TABLE orders (id)");
    let by_id = PostgresListener::new(server.url("postgres")).table("orders", ["order:{id}", "customer:{customer}"]);
    refused(by_id, PostgresErrorKind::Publication, &["lacks the column \"customer\""]).await;
    server.sql("DROP PUBLICATION response_cache");
    let create = "Run: CREATE PUBLICATION \"response_cache\" FOR TABLE \"public\".\"orders\"";
    refused(listener(&server).create_missing(false), PostgresErrorKind::Publication, &["does not exist", create]).await;
    assert_eq!(server.sql("SELECT count(*) FROM pg_replication_slots"), "0");
}

#[tokio::test]
async fn publications_with_special_names_are_created_and_read() {
    let server = Server::start();
    server.sql(ORDERS);
    let app = App::new();
    for (number, name) in [r"a\b", r"it's", "a \"b\", Ä", r#"\'"\n"#].into_iter().enumerate() {
        let running = started(listener(&server).publication(name), &app).await;
        let before = app.read("/tables/orders").await;
        server.sql(&format!("INSERT INTO orders VALUES ({number}, 7)"));
        app.renewed("/tables/orders", before).await;
        running.stop().await;
    }
    assert_eq!(server.sql("SELECT count(*) FROM pg_publication"), "4");
}

#[tokio::test]
async fn slots_that_belong_to_others_are_refused() {
    let server = Server::start();
    server.sql(ORDERS);
    server.sql("SELECT pg_create_physical_replication_slot('physical')");
    let on = |slot: &str| listener(&server).slot(slot);
    refused(on("physical"), PostgresErrorKind::Slot, &["slot \"physical\" is for physical replication: use another name"])
        .await;
    started(on("cache"), &App::new()).await.stop().await;
    server.sql("SELECT pg_drop_replication_slot('cache')");
    refused(
        on("cache").create_missing(false),
        PostgresErrorKind::Slot,
        &["pg_create_logical_replication_slot('cache', 'pgoutput')"],
    )
    .await;
    let elsewhere =
        PostgresListener::new(server.url("postgres").replace("/app", "/postgres")).slot("other").table("orders", ["a"]);
    server.sql("SELECT pg_create_logical_replication_slot('other', 'pgoutput')");
    refused(elsewhere, PostgresErrorKind::Table, &["table public.orders does not exist"]).await;

    let first = started(on("cache"), &App::new()).await;
    refused(on("cache"), PostgresErrorKind::SlotActive, &["Another process uses the slot \"cache\""]).await;
    first.stop().await;
    // The slot is free when `stop` returns.
    started(on("cache"), &App::new()).await.stop().await;
}

#[tokio::test]
async fn servers_and_roles_that_cannot_replicate_are_refused() {
    let server = Server::with(&["wal_level=replica"]);
    server.sql(ORDERS);
    refused(listener(&server), PostgresErrorKind::Server, &["wal_level is replica", "ALTER SYSTEM SET wal_level = logical"])
        .await;
    let server = Server::start();
    server.sql(ORDERS);
    server.sql("CREATE ROLE reader LOGIN");
    let as_role = |role: &str| PostgresListener::new(server.url(role)).slot("cache").table("orders", ["order:{id}"]);
    let remedy = "As the owner of the tables, run: CREATE PUBLICATION \"response_cache\" FOR TABLE \"public\".\"orders\"";
    refused(as_role("reader"), PostgresErrorKind::Permission, &["the publication was not created", remedy]).await;
    server.sql("CREATE PUBLICATION response_cache FOR TABLE orders");
    refused(as_role("reader"), PostgresErrorKind::Permission, &["ALTER ROLE \"reader\" REPLICATION"]).await;
    // No permission on the table is needed.
    started(as_role("replicator"), &App::new()).await.stop().await;
    refused(as_role("nobody"), PostgresErrorKind::SignIn, &["role \"nobody\" does not exist"]).await;
}

#[tokio::test]
async fn errors_of_connections_hide_the_password() {
    let unreachable = "postgres://app:sEcReT@127.0.0.1:1/app?connect_timeout=5";
    let error = error(PostgresListener::new(unreachable).table("orders", ["a"])).await;
    assert_eq!(error.kind(), PostgresErrorKind::Connection);
    assert!(error.to_string().starts_with("no connection to PostgreSQL at 127.0.0.1:1, database app: "), "{error}");
    assert!(!format!("{error} {error:?}").contains("sEcReT"), "{error:?}");
}

#[tokio::test]
async fn listener_that_would_be_a_synchronous_standby_is_refused() {
    let server = Server::with(&["wal_level=logical", "synchronous_standby_names=*"]);
    let listener = PostgresListener::new(server.url("postgres")).table("orders", ["a"]);
    refused(listener, PostgresErrorKind::Server, &["synchronous_standby_names is \"*\"", "name the standbys in it"]).await;
}
