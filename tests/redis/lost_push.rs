//! A push that `NOLOOP` suppresses: another client deletes a generation in the event-loop cycle in which this process creates it again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::common::{
    redis::{Server, until},
    *,
};
use ::redis::{AsyncConnectionConfig, Client, ProtocolVersion, PushInfo, PushKind, Value, aio::MultiplexedConnection};
use tokio::sync::Notify;
use tower::Layer;
use tower_response_cache::{
    BeginFill, CacheLayer, Context, Entry, Fence, FillOptions, InvalidationKind, KeyRef, Lock, Namespaces, Outcome, Put, Redis,
    Rule, Stamp, Store, StoreError, StoreLookup, Usage, Validity,
};

/// How often the push has to be lost, and how many attempts that may take.
const ENOUGH: usize = 20;
const ATTEMPTS: usize = 500;

/// Keeps the server busy for ten milliseconds, so that what is sent meanwhile is read in one cycle.
const SLOW: &str = "local function now() local t = redis.call('TIME') return t[1] * 1000000 + t[2] end
    local stop = now() + 10000
    while now() < stop do end";

/// A store whose fill waits before it begins, until it is let go.
#[derive(Debug, Clone)]
struct Held {
    store: Redis,
    /// Whether the next fill is to wait.
    holds: Arc<AtomicBool>,
    go: Arc<Notify>,
}

impl Store for Held {
    fn get_now(&self, key: KeyRef<'_>) -> Option<StoreLookup> {
        self.store.get_now(key)
    }

    async fn get(&self, key: KeyRef<'_>, names: &Namespaces) -> Result<StoreLookup, StoreError> {
        self.store.get(key, names).await
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn begin(
        &self,
        key: KeyRef<'_>,
        names: &Namespaces,
        stamp: Stamp,
        wish: FillOptions,
    ) -> Result<BeginFill, StoreError> {
        let go = self.go.notified();
        if self.holds.swap(false, Ordering::SeqCst) {
            go.await;
        }
        self.store.begin(key, names, stamp, wish).await
    }

    async fn put(&self, entry: Arc<Entry>, lock: Option<Lock>) -> Result<Put, StoreError> {
        self.store.put(entry, lock).await
    }

    fn may_join(&self, stamp: &Stamp, seen: &Stamp, names: &Namespaces) -> bool {
        self.store.may_join(stamp, seen, names)
    }

    async fn fence(&self, names: &Namespaces) -> Result<Fence, StoreError> {
        self.store.fence(names).await
    }

    async fn bump(&self, names: &Namespaces, kind: InvalidationKind, fence: Option<Fence>) -> Result<(), StoreError> {
        self.store.bump(names, kind, fence).await
    }

    fn bump_now(&self, names: &Namespaces) {
        self.store.bump_now(names);
    }

    fn life(&self, stamp: &Stamp, names: &Namespaces) -> Validity {
        self.store.life(stamp, names)
    }

    fn context(&self) -> &Context {
        self.store.context()
    }

    fn usage(&self) -> Usage {
        self.store.usage()
    }
}

/// A connection like that of the store, which counts what is pushed to it.
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
    let config = AsyncConnectionConfig::new().set_push_sender(hears);
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await.expect("a connection");
    let tracking = "CLIENT TRACKING ON BCAST PREFIX witness NOLOOP";
    ask(&mut connection, &tracking.split(' ').collect::<Vec<_>>()).await;
    (connection, pushed)
}

async fn ask(connection: &mut MultiplexedConnection, words: &[&str]) -> Value {
    let mut command = ::redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async(connection).await.expect("an answer")
}

/// Sends a command at once; the answer comes whenever it comes.
async fn sent(connection: &MultiplexedConnection, words: Vec<String>) -> tokio::task::JoinHandle<Value> {
    let mut connection = connection.clone();
    let answer = tokio::spawn(async move { ask(&mut connection, &words.iter().map(String::as_str).collect::<Vec<_>>()).await });
    tokio::time::sleep(Duration::from_millis(1)).await;
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn created_generation_ends_entries_whose_push_was_lost() {
    let server = Server::start().await;
    let client = Client::open(server.url()).expect("a client");
    let connect = async || client.get_multiplexed_async_connection().await.expect("a connection");
    let (busy, mut other) = (connect().await, connect().await);
    let (mut witness, pushed) = witness(&server).await;

    let builder = Redis::builder(&server.url()).memory(8 << 20).command_timeout(Duration::from_secs(5));
    let store = builder.max_round_trip(Duration::from_secs(2)).build().await.expect("a server is there");
    let held = Held { store: store.clone(), holds: Arc::default(), go: Arc::default() };
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let rules = || one_rule(Rule::ttl(MINUTE).namespace("t:{table}"));
    let reads = CacheLayer::new(store.clone()).rules(rules()).layer(inner.clone());
    let fills = CacheLayer::new(held.clone()).rules(rules()).layer(inner);
    // The other generations are there from now on.
    send(&reads, get("/t/x?first")).await;
    let generation = server.keys("*:g:{t:x}").await.pop().expect("a generation");

    let (mut lost, mut attempts) = (0, 0);
    while lost < ENOUGH {
        attempts += 1;
        assert!(attempts <= ATTEMPTS, "the push was lost only {lost} times in {ATTEMPTS} attempts");
        // A fill has seen that the generation is missing, and is held before it creates it.
        ask(&mut other, &["UNLINK", &generation]).await;
        ask(&mut other, &["SET", "witness", "before"]).await;
        held.holds.store(true, Ordering::SeqCst);
        let target = format!("/t/x?fill={attempts}");
        let fill = tokio::spawn({
            let fills = fills.clone();
            async move { send(&fills, get(&target)).await }
        });
        until("the fill has looked", async || !held.holds.load(Ordering::SeqCst)).await;
        // Meanwhile another fill creates it, and its entry is in memory. A hit before that is of the entry before, whose push is on its way.
        let asks = connect().await;
        until("the entry is in memory", async || {
            let is_hit = outcome(&send(&reads, get("/t/x")).await) == Outcome::Hit;
            is_hit && store.is_leased() && ask(&mut asks.clone(), &["GET", &generation]).await != Value::Nil
        })
        .await;
        let before = text(send(&reads, get("/t/x")).await).await;
        let old = ask(&mut other, &["GET", &generation]).await;
        assert_ne!(old, Value::Nil);

        let heard = pushed.load(Ordering::SeqCst);
        let slow = sent(&busy, ["EVAL", SLOW, "0"].map(str::to_owned).into()).await;
        let gone = sent(&other, vec!["UNLINK".into(), generation.clone(), "witness".into()]).await;
        let seen = sent(&witness, ["SET", "witness", "after", "NX", "GET"].map(str::to_owned).into()).await;
        held.go.notify_waiters();
        assert_eq!(fill.await.expect("an answer").status(), 200);
        slow.await.expect("it ends");
        gone.await.expect("it is deleted");
        let is_created = ask(&mut other, &["GET", &generation]).await != old;
        if is_created {
            // The invalidation was acknowledged, and this process knows of it, whether or not it was pushed.
            let after = text(send(&reads, get("/t/x")).await).await;
            assert_ne!(after, before, "attempt {attempts}: an entry from before the generation was created");
        }
        // What the witness was not told by two answers later, it never is.
        let is_created_there = seen.await.expect("an answer") == Value::Nil;
        ask(&mut witness, &["PING"]).await;
        ask(&mut witness, &["PING"]).await;
        lost += usize::from(is_created && is_created_there && pushed.load(Ordering::SeqCst) == heard);
    }
}
