//! Stores that are slow or that fail, defined by a test.

use std::sync::Arc;

use super::{ABSENT, HIT, counts::of_reason, settle, stored, with_manual_clock};
use crate::backend::delegate_to;
use crate::common::{MINUTE, Plain, SECOND, counting, get, next_call, ok, one_rule, outcome, send, text};
use http::{HeaderValue, Request, Response};
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    __private::{Admitted, Backend, Entry, Fence, InvalidationKind, Lock, Namespaces, Put, Stamp, StoreLookup},
    CacheLayer, Memory, Outcome, Rule, Store, StoreError,
    key::KeyRef,
    status::{Miss, NoStore, Stale, Storing},
};

/// Memory behind a connection: it never answers at once, and reads and writes fail while the connection is down.
#[derive(Clone, Debug)]
pub(crate) struct Faulty {
    pub(crate) memory: Memory,
    pub(crate) put: bool,
    pub(crate) get: bool,
}

impl Faulty {
    fn slow(memory: &Memory) -> Self {
        Self { memory: memory.clone(), put: true, get: true }
    }
}

async fn connection(up: bool) -> Result<(), StoreError> {
    tokio::task::yield_now().await;
    if up { Ok(()) } else { Err(StoreError::new("the wire is cut")) }
}

impl Store for Faulty {}

impl Backend for Faulty {
    fn get_now(&self, _: KeyRef<'_>) -> Option<StoreLookup> {
        None
    }

    async fn get(&self, key: KeyRef<'_>, names: &Namespaces) -> Result<StoreLookup, StoreError> {
        connection(self.get).await?;
        self.memory.get(key, names).await
    }

    async fn admit(&self, stamp: &Stamp, added: &Namespaces) -> Result<Admitted, StoreError> {
        match added.iter().any(|name| name == "new") {
            true => Ok(Admitted::New),
            false => self.memory.admit(stamp, added).await,
        }
    }

    async fn put(&self, entry: Arc<Entry>, lock: Option<Lock>) -> Result<Put, StoreError> {
        connection(self.put).await?;
        self.memory.put(entry, lock).await
    }

    async fn fence(&self, names: &Namespaces) -> Result<Fence, StoreError> {
        connection(self.put).await?;
        self.memory.fence(names).await
    }

    async fn bump(&self, names: &Namespaces, kind: InvalidationKind, fence: Option<Fence>) -> Result<(), StoreError> {
        connection(self.put).await?;
        self.memory.bump(names, kind, fence).await
    }

    delegate_to!(memory);
}

#[tokio::test]
async fn asynchronous_store_serves_like_a_synchronous_one() {
    let (clock, memory) = with_manual_clock(1 << 20);
    let store = Faulty::slow(&memory);
    let rules = one_rule(Rule::ttl(MINUTE).namespace("db:{table}").stale_while_revalidate(MINUTE));
    let (inner, _) = counting(|request, call| {
        let mut response = ok(call.to_string());
        if request.uri().query() == Some("vary") {
            response.headers_mut().insert("vary", HeaderValue::from_static("accept"));
        }
        response
    });
    let service = CacheLayer::new(store.clone()).rules(rules.clone()).layer(inner);
    let ask = async |target: &str| {
        let response = send(&service, get(target)).await;
        (outcome(&response), text(response).await)
    };
    assert_eq!(ask("/t/a").await, (ABSENT, "1".into()));
    assert_eq!(ask("/t/a").await, (HIT, "1".into()));
    clock.advance(MINUTE);
    assert_eq!(ask("/t/a").await, (Outcome::Stale(Stale::WhileRevalidate), "1".into()));
    settle().await;
    assert_eq!(ask("/t/a").await, (HIT, "2".into()));
    store.invalidate(["db:a"]).await.expect("a name");
    assert_eq!(ask("/t/a").await, (ABSENT, "3".into()));
    store.invalidate_key(&rules.key(&store, &get("/t/a")).expect("a key")).await.expect("the connection is up");
    assert_eq!(ask("/t/a").await, (ABSENT, "4".into()));
    assert_eq!(ask("/t/a?vary").await, (ABSENT, "5".into()));
    assert_eq!(ask("/t/a?vary").await, (HIT, "5".into()));
}

#[tokio::test]
async fn head_is_never_stored_for_a_get() {
    for up in [true, false] {
        let memory = with_manual_clock(1 << 20).1;
        let store = Faulty { memory: memory.clone(), put: true, get: up };
        let (inner, _) = counting(|request, _| ok(if request.method() == "HEAD" { "" } else { "rows" }));
        let service = CacheLayer::new(store).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
        let head = || Request::head("/t/a").body(Plain::default()).expect("valid");
        assert_eq!(outcome(&send(&service, head()).await), Outcome::Miss(Miss::Head));
        assert_eq!(memory.stats().entries, 0);
        assert_eq!(text(send(&service, get("/t/a")).await).await, "rows");
        let response = send(&service, head()).await;
        assert_eq!(outcome(&response), if up { HIT } else { Outcome::Miss(Miss::Head) });
    }
}

#[tokio::test]
async fn requests_to_a_slow_store_make_one_call() {
    let memory = with_manual_clock(1 << 20).1;
    let layer = CacheLayer::new(Faulty::slow(&memory)).rules(one_rule(Rule::ttl(MINUTE)));
    let (inner, mut handle) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
    let service = layer.layer(inner);
    let asking: Vec<_> = (0..20).map(|_| tokio::spawn(service.clone().oneshot(get("/t/a")))).collect();
    settle().await;
    let (_, call) = next_call(&mut handle).await;
    assert!(handle.poll_request().is_pending());
    call.send_response(ok("x"));
    for answer in asking {
        assert_eq!(text(answer.await.expect("no panic").expect("a response")).await, "x");
    }
    assert_eq!((memory.stats().inner_calls, memory.stats().collapsed), (1, 19));
}

#[tokio::test]
async fn refresh_over_a_slow_store_does_not_delay_hits() {
    for ahead in [true, false] {
        let (clock, memory) = with_manual_clock(1 << 20);
        let rule = match ahead {
            true => Rule::ttl(MINUTE).refresh_ahead(1e9),
            false => Rule::ttl(MINUTE).stale_while_revalidate(MINUTE),
        };
        let layer = CacheLayer::new(Faulty::slow(&memory)).rules(one_rule(rule));
        let (inner, mut handle) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
        let service = layer.layer(inner);
        let asking = tokio::spawn(service.clone().oneshot(get("/t/a")));
        let (_, call) = next_call(&mut handle).await;
        clock.advance(SECOND);
        call.send_response(ok("old"));
        asking.await.expect("no panic").expect("a response");
        clock.advance(if ahead { SECOND } else { MINUTE });
        // From here on, the inner service is not ready.
        handle.allow(0);
        let want = if ahead { HIT } else { Outcome::Stale(Stale::WhileRevalidate) };
        for _ in 0..3 {
            // This clone has not been polled and is not ready.
            let mut service = service.clone();
            let asking = tokio::spawn(async move { tower::Service::call(&mut service, get("/t/a")).await });
            settle().await;
            assert!(asking.is_finished(), "the request waits for the inner service");
            let response = asking.await.expect("no panic").expect("a response");
            assert_eq!((outcome(&response), text(response).await.as_str()), (want, "old"));
        }
        handle.allow(1);
        next_call(&mut handle).await.1.send_response(ok("new"));
        settle().await;
        handle.allow(9);
        assert_eq!(text(send(&service, get("/t/a")).await).await, "new");
        assert_eq!(memory.stats().refreshes, 1);
    }
}

#[tokio::test]
async fn failing_store_fails_no_request() {
    for (get_up, put_up) in [(false, false), (false, true), (true, false)] {
        let memory = with_manual_clock(1 << 20).1;
        let store = Faulty { memory: memory.clone(), get: get_up, put: put_up };
        let (inner, _) = counting(|_, call| ok(call.to_string()));
        let rule = Rule::ttl(MINUTE).stale_while_revalidate(MINUTE).stale_if_error(MINUTE);
        let service = CacheLayer::new(store).rules(one_rule(rule)).layer(inner);
        for call in 1..4 {
            let response = send(&service, get("/t/a")).await;
            assert_eq!((response.status().as_u16(), outcome(&response)), (200, ABSENT));
            assert_eq!(text(response).await, call.to_string());
        }
        let wanted = if put_up { 0 } else { 3 };
        assert_eq!(of_reason(&memory.stats().not_stored, NoStore::Store), wanted);
        assert_eq!(memory.stats().flights, 0);
    }
}

#[tokio::test]
async fn outage_fill_is_not_stored_after_an_invalidation() {
    let memory = with_manual_clock(1 << 20).1;
    memory.invalidate(["*"]).await.expect("a name");
    let store = Faulty { memory: memory.clone(), get: false, put: true };
    let service = CacheLayer::new(store).rules(one_rule(Rule::ttl(MINUTE))).layer(counting(|_, _| ok("x")).0);
    assert_eq!(stored(&send(&service, get("/t/a")).await), Some(Storing::Not(NoStore::Invalidated)));
}
