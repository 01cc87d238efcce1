//! The time from a change to the first read that sees it.

use std::time::{Duration, Instant};

use crate::{App, ORDERS, Server, listener, started};

const CHANGES: usize = 1000;

fn shown(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("{what}: p50 {:.2?}, p99 {:.2?}, longest {:.2?}, of {} changes", at(0.5), at(0.99), at(1.0), times.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn time_from_a_change_to_the_read_that_sees_it() {
    let server = Server::start();
    server.sql(ORDERS);
    server.sql("INSERT INTO orders VALUES (1, 7)");
    let app = App::new();
    let running = started(listener(&server).check_interval(Duration::from_secs(10)), &app).await;
    let mut session = server.session();
    let (mut from_statement, mut from_commit) = (Vec::new(), Vec::new());
    for change in 0..CHANGES {
        let before = app.read("/orders/1").await;
        let sent = Instant::now();
        session.run(&format!("UPDATE orders SET note = '{change}' WHERE id = 1;"));
        let committed = Instant::now();
        while app.read("/orders/1").await == before {
            tokio::task::yield_now().await;
        }
        from_statement.push(sent.elapsed());
        from_commit.push(committed.elapsed());
    }
    shown("from the statement in psql", from_statement);
    shown("from the reply to psql", from_commit);
    assert_eq!(running.stats().changes, CHANGES as u64);
}
