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
