//! The servers, forwarders and logs that the Redis tests use.

use std::time::Duration;

use crate::common::redis::{Fault, Forwarder, Options, Server, until};

async fn connect(url: String) -> ::redis::aio::MultiplexedConnection {
    ::redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap()
}

async fn ping(connection: &mut ::redis::aio::MultiplexedConnection) -> Result<String, ::redis::RedisError> {
    ::redis::cmd("PING").query_async(connection).await
}

#[tokio::test]
async fn log_counts_only_commands_of_clients() {
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
async fn restart_keeps_or_drops_persisted_data() {
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
    let forwarder = Forwarder::to(&server);
    let mut client = connect(forwarder.url()).await;
    for set in [Forwarder::requests, Forwarder::answers] {
        let (up, down) = forwarder.bytes();
        set(&forwarder, Fault::Stall);
        let mut asking = client.clone();
        let answer = tokio::spawn(async move { ping(&mut asking).await });
        until("the bytes were read", async || forwarder.bytes().0 > up).await;
        assert!(!answer.is_finished());
        set(&forwarder, Fault::Pass);
        // On a slow machine the client may have timed out. The stalled bytes have arrived nevertheless.
        let _ = answer.await.unwrap();
        until("the reply was read", async || forwarder.bytes().1 > down).await;
    }
    forwarder.requests(Fault::Delay(Duration::from_millis(1)));
    ping(&mut client).await.unwrap();
}

#[tokio::test]
async fn cut_closes_open_connections_and_refusal_new_ones() {
    let (one, two) = (Server::start().await, Server::start().await);
    let forwarder = Forwarder::to(&one);
    let mut client = connect(forwarder.url()).await;
    forwarder.cut();
    until("the connection is closed", async || forwarder.open() == 0).await;
    assert!(ping(&mut client).await.is_err());
    forwarder.refuse(true);
    let client = ::redis::Client::open(forwarder.url()).unwrap();
    assert!(client.get_multiplexed_async_connection().await.is_err());
    forwarder.refuse(false);
    forwarder.retarget(two.addr());
    two.command(&["SET", "here", "1"]).await;
    let mut client = connect(forwarder.url()).await;
    let here: u8 = ::redis::cmd("EXISTS").arg("here").query_async(&mut client).await.unwrap();
    assert_eq!(here, 1);
}
