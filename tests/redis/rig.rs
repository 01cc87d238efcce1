//! The rig that the tests of Redis stand on does what it says.

use std::{net::SocketAddr, time::Duration};

use crate::common::redis::{Fault, Forwarder, Options, Server, until};

async fn connect(url: String) -> ::redis::aio::MultiplexedConnection {
    ::redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap()
}

async fn ping(connection: &mut ::redis::aio::MultiplexedConnection) -> Result<String, ::redis::RedisError> {
    ::redis::cmd("PING").query_async(connection).await
}

fn addr(server: &Server) -> SocketAddr {
    ([127, 0, 0, 1], server.port()).into()
}

#[tokio::test]
async fn the_log_counts_what_others_send_and_nothing_else() {
    let server = Server::start().await;
    let mut client = connect(server.url()).await;
    let mut log = server.command_log().await;
    assert!(log.take().await.is_empty());
    for _ in 0..3 {
        ping(&mut client).await.unwrap();
    }
    assert_eq!(log.take().await, [("ping".to_owned(), 3)].into());
    assert!(log.take().await.is_empty());
}

#[tokio::test]
async fn a_restart_keeps_what_was_persisted_or_forgets_it() {
    let mut server = Options::default().password("secret").appendonly().start().await;
    server.command(&["SET", "k", "v"]).await;
    server.restart(true).await;
    assert_eq!(server.keys("*").await, ["k"]);
    server.restart(false).await;
    assert!(server.keys("*").await.is_empty());
}

#[tokio::test]
async fn stalled_bytes_arrive_once_the_stall_ends() {
    let server = Server::start().await;
    let forwarder = Forwarder::start(addr(&server));
    let mut client = connect(forwarder.url()).await;
    for set in [Forwarder::requests, Forwarder::answers] {
        let (up, down) = forwarder.bytes();
        set(&forwarder, Fault::Stall);
        let mut asking = client.clone();
        let answer = tokio::spawn(async move { ping(&mut asking).await });
        until("the bytes were taken", async || forwarder.bytes().0 > up).await;
        assert!(!answer.is_finished());
        set(&forwarder, Fault::Pass);
        // The client may have lost patience on a slow machine; what was kept has arrived nevertheless.
        let _ = answer.await.unwrap();
        until("the answer was taken", async || forwarder.bytes().1 > down).await;
    }
    forwarder.requests(Fault::Delay(Duration::from_millis(1)));
    ping(&mut client).await.unwrap();
}

#[tokio::test]
async fn a_cut_closes_what_is_open_and_a_refusal_what_is_new() {
    let (one, two) = (Server::start().await, Server::start().await);
    let forwarder = Forwarder::start(addr(&one));
    let mut client = connect(forwarder.url()).await;
    forwarder.cut();
    until("the connection is closed", async || forwarder.open() == 0).await;
    assert!(ping(&mut client).await.is_err());
    forwarder.refuse(true);
    let client = ::redis::Client::open(forwarder.url()).unwrap();
    assert!(client.get_multiplexed_async_connection().await.is_err());
    forwarder.refuse(false);
    forwarder.retarget(addr(&two));
    two.command(&["SET", "here", "1"]).await;
    let mut client = connect(forwarder.url()).await;
    let here: u8 = ::redis::cmd("EXISTS").arg("here").query_async(&mut client).await.unwrap();
    assert_eq!(here, 1);
}
