//! Capacity of the memory store, and entries that leave it.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{HIT, sized, stored, with_manual_clock};
use crate::common::{MINUTE, SECOND, counting, get, ok, one_rule, outcome, send, text};
use bytes::Bytes;
use http::HeaderValue;
use proptest::prelude::*;
use tower::Layer;
use tower_response_cache::{
    __private::{Backend, Entry},
    CacheLayer, CachePolicy, Memory, Rule, Rules, Store,
    status::{NoStore, Storing},
};

// ---- Capacity --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn stored_bytes_never_exceed_the_capacity() {
    for capacity in [64 << 10, 1 << 20, 17 << 20] {
        let (_, store) = with_manual_clock(capacity);
        let service = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE))).layer(counting(sized).0);
        let (mut passed, mut random) = (0, fastrand::Rng::with_seed(7));
        let mut n = 0;
        while passed < 10 * capacity {
            let len = match random.u8(..) {
                0..100 => random.usize(..64),
                100..200 => random.usize(..4 << 10),
                200..250 => random.usize(..64 << 10),
                _ => random.usize(..1 << 20),
            };
            passed += len + 500;
            n += 1;
            send(&service, get(&format!("/t/{n}-{len}"))).await;
            let usage = store.stats();
            assert!(usage.bytes <= usage.capacity, "{} of {} after {n}", usage.bytes, usage.capacity);
            assert_eq!(usage.capacity, capacity as u64);
        }
        let stats = store.stats();
        assert!(stats.evictions > 0 && stats.entries > 0);
        let used = capacity < 1 << 20 || stats.bytes > stats.capacity / 3;
        assert!(used, "{} of {}: most of the room is not used", stats.bytes, stats.capacity);
    }
}

#[tokio::test]
async fn invalidated_and_replaced_entries_take_no_capacity() {
    let (_, store) = with_manual_clock(1 << 20);
    let rule = Rule::ttl(MINUTE).namespace("db:{table}");
    let service = CacheLayer::new(store.clone()).rules(one_rule(rule)).layer(counting(sized).0);
    for _ in 0..2_000 {
        send(&service, get("/t/a-1000")).await;
        store.invalidate(["db"]).await.expect("a name");
    }
    let usage = store.stats();
    assert!(usage.entries <= 1 && usage.bytes < 64 << 10, "{usage:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn entry_weighs_at_least_its_content(
        body in 0_usize..5_000,
        fields in prop::collection::vec(("[a-z]{1,30}", "[ -~]{0,60}"), 0..20),
        table in "[a-z]{1,100}",
        query in "[a-z]{0,400}",
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let (_, store) = with_manual_clock(1 << 20);
            let rules = one_rule(Rule::ttl(MINUTE).namespace("db:{table}"));
            let size: usize = fields.iter().map(|(name, value)| name.len() + value.trim().len() + 2).sum();
            let sent = fields.clone();
            let (inner, _) = counting(move |_, _| {
                let mut response = ok(vec![0; body]);
                for (name, value) in &sent {
                    let name = http::HeaderName::from_bytes(format!("x-{name}").as_bytes()).expect("a name");
                    response.headers_mut().append(name, HeaderValue::from_str(value.trim()).expect("a value"));
                }
                response
            });
            let before = store.stats().bytes;
            let service = CacheLayer::new(store.clone()).rules(rules.clone()).layer(inner);
            let request = || get(&format!("/t/{table}?{query}"));
            send(&service, request()).await;
            let key = rules.key(&store, &request()).expect("a key");
            let (entry, _) = store.get_now(key.as_ref()).and_then(|look| look.found).expect("stored");
            let least = body + size + key.canonical().len() + size_of::<Entry>();
            assert!(entry.weight() >= least as u64, "{} < {least}", entry.weight());
            assert_eq!(store.stats().bytes - before, entry.weight());
        });
    }
}

#[tokio::test]
async fn stored_body_releases_the_buffer_of_the_handler() {
    let (_, store) = with_manual_clock(1 << 20);
    let large = Bytes::from(vec![1; 1 << 20]);
    let slice = large.slice(10..20);
    let (inner, _) = counting(move |_, _| ok(slice.clone()));
    let service = CacheLayer::new(store).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    send(&service, get("/t/a")).await;
    let hit = send(&service, get("/t/a")).await;
    assert_eq!(outcome(&hit), HIT);
    let body = http_body_util::BodyExt::collect(hit.into_body()).await.expect("a body").to_bytes();
    assert!(!large.as_ptr_range().contains(&body.as_ptr()), "a slice of the buffer of the handler is kept");
}

#[tokio::test]
async fn entry_larger_than_the_capacity_is_not_stored() {
    let (_, store) = with_manual_clock(1 << 20);
    let rule = Rule::ttl(MINUTE).max_body(8 << 20);
    let service = CacheLayer::new(store.clone()).rules(one_rule(rule)).layer(counting(sized).0);
    send(&service, get("/t/small-10")).await;
    for _ in 0..2 {
        let response = send(&service, get("/t/large-2000000")).await;
        assert_eq!(stored(&response), Some(Storing::Not(NoStore::TooLarge)));
        assert_eq!(text(response).await.len(), 2_000_000);
    }
    assert_eq!(outcome(&send(&service, get("/t/small-10")).await), HIT);
    assert_eq!((store.stats().entries, store.stats().evictions), (1, 0));
}

#[tokio::test]
async fn response_reported_as_stored_is_stored() {
    for percent in 80..105 {
        let (_, store) = with_manual_clock(1 << 20);
        let len = (1 << 20) / 100 * percent;
        let rule = Rule::ttl(MINUTE).max_body(8 << 20);
        let service = CacheLayer::new(store).rules(one_rule(rule)).layer(counting(sized).0);
        let target = format!("/t/a-{len}");
        let reported = stored(&send(&service, get(&target)).await) == Some(Storing::Stored);
        assert_eq!(outcome(&send(&service, get(&target)).await) == HIT, reported, "{percent} % of the capacity");
    }
}

#[test]
#[should_panic(expected = "invalid capacity 65535: expected at least 65536 bytes (64 KiB)")]
fn too_small_capacity_is_refused() {
    let _ = Memory::new((64 << 10) - 1);
}

/// A response that replaces an older one evicts nothing.
#[tokio::test]
async fn replaced_entry_does_not_count_as_evicted() {
    let (clock, store) = with_manual_clock(1 << 20);
    let service =
        CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(SECOND).stale_if_error(MINUTE))).layer(counting(sized).0);
    for _ in 0..3 {
        send(&service, get("/t/a-100")).await;
        clock.advance(2 * SECOND);
    }
    let stats = store.stats();
    assert_eq!((stats.stored, stats.entries, stats.evictions), (3, 1, 0));
}

// ---- Expiry ----------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn expired_entries_leave_without_being_requested() {
    let (clock, store) = with_manual_clock(1 << 20);
    let empty = store.stats().bytes;
    let rules = Rules::new().route("/t/{a}", Rule::ttl(MINUTE)).route("/u/{a}", Rule::ttl(MINUTE).stale_if_error(MINUTE));
    let service = CacheLayer::new(store.clone()).rules(rules).layer(counting(sized).0);
    for n in 0..50 {
        send(&service, get(&format!("/t/{n}-100"))).await;
        send(&service, get(&format!("/u/{n}-100"))).await;
    }
    for (passes, left) in [(59 * SECOND, 100), (2 * SECOND, 50), (58 * SECOND, 50), (2 * SECOND, 0)] {
        clock.advance(passes);
        store.remove_expired();
        assert_eq!(store.stats().entries, left);
    }
    assert_eq!(store.stats().bytes, empty);
    assert_eq!((store.stats().expired, store.stats().evictions), (100, 0));
}

#[tokio::test]
async fn expired_entries_leave_without_any_request() {
    let (clock, store) = with_manual_clock(1 << 20);
    let service = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE))).layer(counting(sized).0);
    send(&service, get("/t/a-100")).await;
    clock.advance(2 * MINUTE);
    // A thread sweeps twice a second of wall-clock time. Ten seconds are patience.
    let patience = Instant::now() + 10 * SECOND;
    while store.stats().entries > 0 {
        assert!(Instant::now() < patience, "it stays");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(store.stats().expired, 1);
}

#[tokio::test]
async fn replacing_entry_expires_by_its_own_lifetime() {
    let (clock, store) = with_manual_clock(1 << 20);
    let (inner, _) = counting(|_, call| {
        let mut response = ok("x");
        let ttl = if call == 1 { SECOND } else { 100 * SECOND };
        response.extensions_mut().insert(CachePolicy::new().ttl(ttl));
        response
    });
    let service = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    send(&service, get("/t/a")).await;
    clock.advance(SECOND);
    send(&service, get("/t/a")).await;
    clock.advance(10 * SECOND);
    store.remove_expired();
    assert_eq!((outcome(&send(&service, get("/t/a")).await), store.stats().expired), (HIT, 0));
}

#[tokio::test]
async fn invalidated_entry_leaves_when_it_is_requested() {
    let (_, store) = with_manual_clock(1 << 20);
    let rules = one_rule(Rule::ttl(MINUTE));
    let empty = store.stats().bytes;
    let service = CacheLayer::new(store.clone()).rules(rules.clone()).layer(counting(sized).0);
    send(&service, get("/t/a-100")).await;
    store.invalidate(["*"]).await.expect("a name");
    let key = rules.key(&store, &get("/t/a-100")).expect("a key");
    assert!(store.get_now(key.as_ref()).expect("memory answers").found.is_none());
    assert_eq!((store.stats().entries, store.stats().bytes), (0, empty));
}
