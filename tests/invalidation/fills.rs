//! Invalidations during fills: later requests never get an earlier response.

use super::{memory, name};
use crate::common::*;
use http::Response;
use tokio::time::timeout;
use tower_response_cache::{CacheLayer, CachePolicy, Clock, Memory, Outcome, Rule, Rules, Store};

/// Source of the namespace of a response.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Source {
    Template,
    Closure,
    Response,
}

fn rule(source: Source) -> Rule {
    let rule = Rule::ttl(MINUTE);
    match source {
        Source::Template => rule.namespace("table:{table}"),
        Source::Closure => rule.namespaces_by(|request| vec![name(&["table", request.param("table")])]),
        Source::Response => rule,
    }
}

fn with_namespace<B>(source: Source, mut response: Response<B>) -> Response<B> {
    if source == Source::Response {
        response.extensions_mut().insert(CachePolicy::new().namespace(name(&["table", "a"])));
    }
    response
}

/// Invalidations that cover the running fill.
const INVALIDATIONS: [&str; 4] = ["table:a", "table", "*", "key"];

async fn invalidate(store: &Memory, rules: &Rules, how: &str) {
    match how {
        "key" => store.invalidate_key(&rules.key(store, &get("/t/a")).unwrap()).await.unwrap(),
        name => store.invalidate([name]).await.unwrap(),
    }
}

#[tokio::test(start_paused = true)]
async fn request_after_an_invalidation_joins_no_earlier_fill() {
    for source in [Source::Template, Source::Closure, Source::Response] {
        for how in INVALIDATIONS {
            let case = format!("{source:?}, {how}");
            let store = memory();
            let rules = one_rule(rule(source));
            let (cache, mut handle) = mocked(&CacheLayer::new(store.clone()).rules(rules.clone()));
            let leader = begin(&cache, get("/t/a")).await;
            let before = begin(&cache, get("/t/a")).await;
            let (_, old) = next_call(&mut handle).await;
            invalidate(&store, &rules, how).await;
            let after = [begin(&cache, get("/t/a")).await, begin(&cache, get("/t/a")).await];
            // Namespaces that only the response names are compared when the fill ends.
            let known = source != Source::Response || ["*", "key"].contains(&how);
            let second = if known {
                Some(timeout(SECOND, handle.next_request()).await.expect("a second call begins at once").unwrap())
            } else {
                None
            };
            old.send_response(with_namespace(source, ok("old")));
            assert_eq!(text(leader.await.unwrap()).await, "old", "{case}");
            let before = tokio::spawn(before);
            let after: Vec<_> = after.into_iter().map(|one| tokio::spawn(one)).collect();
            let (_, new) = match second {
                Some(call) => call,
                None => next_call(&mut handle).await,
            };
            new.send_response(with_namespace(source, ok("new")));
            // If a handler named the namespace, even the earlier follower gets the new response.
            let got = text(timeout(SECOND, before).await.expect("the request does not wait").unwrap().unwrap()).await;
            assert_eq!(got, if known { "old" } else { "new" }, "{case}");
            for one in after {
                let response = timeout(SECOND, one).await.expect("the request does not wait").unwrap().unwrap();
                assert_eq!(text(response).await, "new", "{case}");
            }
            let hit = begin(&cache, get("/t/a")).await.await.unwrap();
            assert_eq!(outcome(&hit), Outcome::Hit, "{case}");
            assert_eq!(text(hit).await, "new", "{case}");
            no_call(&mut handle).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn invalidation_during_a_body_ends_sharing_and_storing() {
    for source in [Source::Template, Source::Closure, Source::Response] {
        for how in INVALIDATIONS {
            let case = format!("{source:?}, {how}");
            let store = memory();
            let rules = one_rule(rule(source));
            let (cache, mut handle) = mocked::<ChannelBody>(&CacheLayer::new(store.clone()).rules(rules.clone()));
            let leader = begin(&cache, get("/t/a")).await;
            let (response, old) = channel_response(Some(3));
            next_call(&mut handle).await.1.send_response(with_namespace(source, response));
            let leader = leader.await.unwrap();
            invalidate(&store, &rules, how).await;
            let after = tokio::spawn(begin(&cache, get("/t/a")).await);
            let (_, answer) = timeout(SECOND, handle.next_request()).await.expect("a second call begins at once").unwrap();
            let (response, new) = channel_response(Some(3));
            answer.send_response(with_namespace(source, response));
            old.send("old");
            drop(old);
            assert_eq!(text(leader).await, "old", "{case}");
            // The new response has not arrived, and the old one is not stored.
            let more = tokio::spawn(begin(&cache, get("/t/a")).await);
            new.send("new");
            drop(new);
            assert_eq!(text(after.await.unwrap().unwrap()).await, "new", "{case}");
            if let Ok(Some((_, answer))) = timeout(SECOND, handle.next_request()).await {
                let (response, new) = channel_response(Some(3));
                new.send("new");
                answer.send_response(with_namespace(source, response));
            }
            assert_eq!(text(more.await.unwrap().unwrap()).await, "new", "{case}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn invalidation_during_a_refresh_discards_its_response() {
    for ahead in [false, true] {
        let clock = Clock::manual();
        let store = Memory::builder().clock(clock.clone()).build();
        let rule = Rule::ttl(10 * SECOND).namespace("table:{table}");
        let rule = match ahead {
            // So eager that every hit refreshes a response whose fill took time.
            true => rule.refresh_ahead(1e12),
            false => rule.stale_while_revalidate(MINUTE),
        };
        let (cache, mut handle) = mocked(&CacheLayer::new(store.clone()).rules(one_rule(rule)));
        let first = begin(&cache, get("/t/a")).await;
        let (_, answer) = next_call(&mut handle).await;
        clock.advance(SECOND);
        answer.send_response(ok("1"));
        first.await.unwrap();
        clock.advance(if ahead { SECOND } else { 11 * SECOND });
        assert_eq!(text(begin(&cache, get("/t/a")).await.await.unwrap()).await, "1");
        let (_, refresh) = next_call(&mut handle).await;
        store.invalidate(["table:a"]).await.unwrap();
        let after = tokio::spawn(begin(&cache, get("/t/a")).await);
        let (_, new) = timeout(SECOND, handle.next_request()).await.expect("the request calls the inner service").unwrap();
        refresh.send_response(ok("2"));
        until("the refresh ends", || store.stats().flights == 1).await;
        let also = tokio::spawn(begin(&cache, get("/t/a")).await);
        new.send_response(ok("3"));
        for one in [after, also] {
            assert_eq!(text(one.await.unwrap().unwrap()).await, "3", "ahead: {ahead}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn invalidation_of_other_namespaces_keeps_coalescing() {
    let store = memory();
    let rules = one_rule(rule(Source::Template));
    let (cache, mut handle) = mocked(&CacheLayer::new(store.clone()).rules(rules.clone()));
    let leader = begin(&cache, get("/t/a")).await;
    store.invalidate(["table:b", "tab", "table:a:row", "other"]).await.unwrap();
    store.invalidate_key(&rules.key(&store, &get("/t/b")).unwrap()).await.unwrap();
    let follower = begin(&cache, get("/t/a")).await;
    next_call(&mut handle).await.1.send_response(ok("rows"));
    leader.await.unwrap();
    assert_eq!(outcome(&follower.await.unwrap()), Outcome::Collapsed);
    assert_eq!(outcome(&begin(&cache, get("/t/a")).await.await.unwrap()), Outcome::Hit);
}
