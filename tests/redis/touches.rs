//! Pushes of one master: each invalidation is pushed once, also if Redis has no generation of the namespace. Nothing else is pushed.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::{
    common::{
        redis::{Server, unhurried, until},
        *,
    },
    setup::{HOUR, builder, read, rule},
};
use ::redis::{Client, ProtocolVersion, PushInfo, PushKind, Value, aio::MultiplexedConnection};
use tower::Layer;
use tower_response_cache::{CacheLayer, Rule, Store};

/// A connection that receives the pushes of a store, and the numbers of pushed keys and of messages.
pub(crate) struct Listener {
    connection: MultiplexedConnection,
    keys: Arc<AtomicUsize>,
    messages: Arc<AtomicUsize>,
}

impl Listener {
    pub(crate) async fn start(server: &Server) -> Self {
        let info = ::redis::IntoConnectionInfo::into_connection_info(server.url()).unwrap();
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(settings)).unwrap();
        let (keys, messages) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (count, count_messages) = (keys.clone(), messages.clone());
        let hears = move |push: PushInfo| {
            if let (PushKind::Invalidate, Some(Value::Array(keys))) = (push.kind, push.data.first()) {
                count.fetch_add(keys.len(), Ordering::SeqCst);
                count_messages.fetch_add(1, Ordering::SeqCst);
            }
            Ok::<_, ::redis::aio::SendError>(())
        };
        let config = unhurried().set_push_sender(hears);
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
        let tracking = "TRACKING ON BCAST PREFIX cache:1:t: PREFIX cache:1:f:";
        let () =
            ::redis::cmd("CLIENT").arg(tracking.split(' ').collect::<Vec<_>>()).query_async(&mut connection).await.unwrap();
        Self { connection, keys, messages }
    }

    /// Returns the number of keys that were pushed since the last call.
    async fn take(&mut self) -> usize {
        self.take_both().await.0
    }

    /// Returns the numbers of keys and of messages that were pushed since the last call.
    pub(crate) async fn take_both(&mut self) -> (usize, usize) {
        // A push may follow the reply to a command that was sent after the change, but not the next reply.
        for _ in 0..2 {
            let () = ::redis::cmd("PING").query_async(&mut self.connection).await.unwrap();
        }
        (self.keys.swap(0, Ordering::SeqCst), self.messages.swap(0, Ordering::SeqCst))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalidation_is_pushed_once_and_a_fill_never() {
    let server = Server::start().await;
    let store = builder(&server).memory(8 << 20).build().await.unwrap();
    let mut listener = Listener::start(&server).await;
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    // The lives of the generations are extended as well.
    let cache = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(HOUR).namespace("t:{table}"))).layer(inner);
    for n in 0..3 {
        until("requests are hits", async || read(&cache, "/t/x").await.1).await;
        assert_eq!(listener.take().await, 0, "round {n}");
        store.invalidate(["t:x"]).await.unwrap();
        assert_eq!(listener.take().await, 1);
        store.invalidate_softly(["t:x"]).await.unwrap();
        assert_eq!(listener.take().await, 1, "also without a generation");
    }
    assert_eq!(server.keys("cache:1:t:*").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn invalidation_without_a_generation_is_pushed_by_a_full_server() {
    let server = Server::start().await;
    let (one, two) = (builder(&server).memory(8 << 20), builder(&server));
    let (one, two) = (one.build().await.unwrap(), two.build().await.unwrap());
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(one.clone()).rules(one_rule(rule())).layer(inner);
    until("hits are served from memory under a lease", async || read(&cache, "/t/x").await.1 && one.is_leased()).await;
    let before = read(&cache, "/t/x").await.0;
    assert_eq!(server.command(&["UNLINK", "cache:1:g:{t:x}"]).await, Value::Int(1));
    assert_eq!(read(&cache, "/t/x").await, (before.clone(), true), "nothing was invalidated");
    server.config_set("maxmemory-policy", "noeviction").await;
    server.config_set("maxmemory", "1").await;
    two.invalidate(["t:x"]).await.unwrap();
    until("the push arrives", async || read(&cache, "/t/x").await.0 != before).await;
}
