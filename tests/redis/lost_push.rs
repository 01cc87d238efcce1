//! A push that `NOLOOP` suppresses in a cluster: another client deletes a generation in the event-loop cycle in which this process creates
//! it again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::common::{
    redis::{Cluster, Server, unhurried, until},
    *,
};
use crate::paused::PausedFill;
use ::redis::{Client, ProtocolVersion, PushInfo, PushKind, Value, aio::MultiplexedConnection};
use tower::Layer;
use tower_response_cache::{CacheLayer, Outcome, Rule, redis::RedisBuilder};

/// The number of lost pushes to reach, and the largest number of attempts.
const ENOUGH: usize = 20;
const ATTEMPTS: usize = 500;

/// Keeps the server busy for twenty milliseconds, so that commands sent meanwhile are read in one cycle. A script that reads `TIME` in a loop
/// would not do: since Redis 7.2, and in Valkey, the time stands still while a script runs.
const SLOW: [&str; 3] = ["DEBUG", "SLEEP", "0.02"];

/// A key in the slot of the generation.
const WITNESS: &str = "{t:x}witness";

/// A connection with the settings of the store, which counts its pushes.
async fn witness(server: &Server) -> (MultiplexedConnection, Arc<AtomicUsize>) {
    let info = ::redis::IntoConnectionInfo::into_connection_info(server.url()).expect("an address");
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let client = Client::open(info.set_redis_settings(settings)).expect("a client");
    let pushed = Arc::new(AtomicUsize::new(0));
    let counter = pushed.clone();
    let hears = move |push: PushInfo| {
        counter.fetch_add(usize::from(push.kind == PushKind::Invalidate), Ordering::SeqCst);
        Ok::<_, ::redis::aio::SendError>(())
    };
    let config = unhurried().set_push_sender(hears);
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await.expect("a connection");
    let tracking = format!("CLIENT TRACKING ON BCAST PREFIX {WITNESS} NOLOOP");
    command(&mut connection, &tracking.split(' ').collect::<Vec<_>>()).await;
    (connection, pushed)
}

async fn command(connection: &mut MultiplexedConnection, arguments: &[&str]) -> Value {
    let mut command = ::redis::cmd(arguments[0]);
    command.arg(&arguments[1..]);
    command.query_async(connection).await.expect("an answer")
}

/// Sends a command at once, without waiting for the reply.
async fn send_now(connection: &MultiplexedConnection, arguments: Vec<String>) -> tokio::task::JoinHandle<Value> {
    let mut connection = connection.clone();
    let answer =
        tokio::spawn(async move { command(&mut connection, &arguments.iter().map(String::as_str).collect::<Vec<_>>()).await });
    tokio::time::sleep(Duration::from_millis(1)).await;
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn created_generation_ends_entries_whose_push_was_lost() {
    let cluster = Cluster::start_with(1, 0, &["enable-debug-command local"]).await;
    let server = &cluster.servers()[0];
    let client = Client::open(server.url()).expect("a client");
    let connect = async || client.get_multiplexed_async_connection_with_config(&unhurried()).await.expect("a connection");
    let (busy, mut other) = (connect().await, connect().await);
    let (mut witness, pushed) = witness(server).await;

    let builder = RedisBuilder::cluster(cluster.urls()).memory(8 << 20).command_timeout(Duration::from_secs(5));
    let store = builder.max_round_trip(Duration::from_secs(2)).build().await.expect("a server is there");
    let paused = PausedFill::of(store.clone());
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let rules = || one_rule(Rule::ttl(MINUTE).namespace("t:{table}"));
    let reads = CacheLayer::new(store.clone()).rules(rules()).layer(inner.clone());
    let fills = CacheLayer::new(paused.clone()).rules(rules()).layer(inner);
    // The other generations exist from now on.
    send(&reads, get("/t/x?first")).await;
    let generation = server.keys("*:g:{t:x}").await.pop().expect("a generation");

    let (mut lost, mut attempts) = (0, 0);
    while lost < ENOUGH {
        attempts += 1;
        assert!(attempts <= ATTEMPTS, "the push was lost only {lost} times in {ATTEMPTS} attempts");
        // A fill has seen that the generation is missing, and is paused before it creates it.
        command(&mut other, &["UNLINK", &generation]).await;
        command(&mut other, &["SET", WITNESS, "before"]).await;
        paused.pause_next();
        let target = format!("/t/x?fill={attempts}");
        let fill = tokio::spawn({
            let fills = fills.clone();
            async move { send(&fills, get(&target)).await }
        });
        paused.wait_for_fill().await;
        // Meanwhile another fill creates it, and its entry is in memory. An earlier hit is of the previous entry, whose push is
        // on its way.
        let reader = connect().await;
        until("the entry is in memory", async || {
            let is_hit = outcome(&send(&reads, get("/t/x")).await) == Outcome::Hit;
            is_hit && store.is_leased() && command(&mut reader.clone(), &["GET", &generation]).await != Value::Nil
        })
        .await;
        let before = text(send(&reads, get("/t/x")).await).await;
        let old = command(&mut other, &["GET", &generation]).await;
        assert_ne!(old, Value::Nil);

        let pushes = pushed.load(Ordering::SeqCst);
        let slow = send_now(&busy, SLOW.map(str::to_owned).into()).await;
        let gone = send_now(&other, vec!["UNLINK".into(), generation.clone(), WITNESS.into()]).await;
        let seen = send_now(&witness, ["SET", WITNESS, "after", "NX", "GET"].map(str::to_owned).into()).await;
        paused.release();
        assert_eq!(fill.await.expect("an answer").status(), 200);
        slow.await.expect("it ends");
        gone.await.expect("it is deleted");
        let is_created = command(&mut other, &["GET", &generation]).await != old;
        if is_created {
            // The invalidation was acknowledged, and this process knows of it, whether or not it was pushed.
            let after = text(send(&reads, get("/t/x")).await).await;
            assert_ne!(after, before, "attempt {attempts}: an entry from before the generation was created");
        }
        // A push that the witness has not received two replies later is lost.
        let is_created_there = seen.await.expect("an answer") == Value::Nil;
        command(&mut witness, &["PING"]).await;
        command(&mut witness, &["PING"]).await;
        lost += usize::from(is_created && is_created_there && pushed.load(Ordering::SeqCst) == pushes);
    }
}
