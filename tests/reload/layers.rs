//! The rules that services, the handle and the statistics use after a reload.

use std::sync::atomic::Ordering;

use crate::common::*;
use http::{Method, Request};
use tower::Layer;
use tower_response_cache::{
    Identity, Memory, Outcome, ResponseCache, RouteAndQuery, Rule, Rules, Stats,
    lint::FindingKind,
    status::{Bypass, Miss},
};

const ABSENT: Outcome = Outcome::Miss(Miss::Absent);

fn rule() -> Rule {
    Rule::ttl(MINUTE).namespace("db:{table}")
}

fn cache(rules: Rules) -> ResponseCache {
    ResponseCache::new(Memory::default()).rules(rules)
}

#[tokio::test]
async fn reload_reaches_all_layers_of_handle_and_clones() {
    let cache = cache(one_rule(rule()));
    let (inner, _) = counting(|_, n| ok(n.to_string()));
    let before = cache.cache_layer().layer(inner.clone());
    let by_hand = cache.cache_layer().wait_limit(SECOND).layer(inner.clone());
    let of_clone = cache.clone().cache_layer().layer(inner.clone());
    assert_eq!(outcome(&send(&before, get("/t/a")).await), ABSENT);

    cache.reload(Rules::new().route("/u/{table}", rule())).await.unwrap();
    let after = cache.cache_layer().layer(inner);
    for service in [&before, &by_hand, &of_clone, &after] {
        assert_eq!(outcome(&send(service, get("/u/a")).await) == ABSENT, std::ptr::eq(service, &before));
        assert!(tower_response_cache::CacheStatus::of(&send(service, get("/t/a")).await).is_none(), "no rule covers it");
    }
    // Twice, from services that never took the first new rules.
    cache.reload(one_rule(rule())).await.unwrap();
    cache.reload(one_rule(rule()).fallback(Rule::uncached())).await.unwrap();
    assert_eq!(outcome(&send(&before, get("/t/a")).await), ABSENT);
    assert_eq!(outcome(&send(&by_hand, get("/t/a")).await), Outcome::Hit);
    assert_eq!(outcome(&send(&of_clone, get("/x")).await), Outcome::Bypass(Bypass::Uncached));
}

#[tokio::test]
async fn handle_with_other_options_keeps_its_rules() {
    let cache = cache(one_rule(rule()));
    let other = cache.clone().cache_status("other");
    let route = cache.clone().route("/u/{table}", rule());
    cache.reload(Rules::new()).await.unwrap();
    assert_eq!([&cache, &other, &route].map(|cache| cache.rule_summaries().len()), [0, 1, 2]);
}

#[tokio::test]
async fn handle_reports_the_rules_in_force() {
    let minute = Rule::ttl(MINUTE);
    let cache = cache(Rules::new().route("/a", minute.clone().namespace("x")));
    cache.reload(Rules::new().route("/b", minute.namespace("y").invalidates("z"))).await.unwrap();
    assert_eq!(cache.unmatched().collect::<Vec<_>>(), ["/b"]);
    assert!(cache.matches(&Method::GET, &"/a".parse().unwrap()).is_err());
    assert_eq!(cache.matches(&Method::GET, &"/b".parse().unwrap()).unwrap().route(), Some("/b"));
    assert_eq!(cache.lint()[0].kind(), FindingKind::NamespaceNotInvalidated);
    let explained = cache.explain(&Request::get("/b").body(String::new()).unwrap()).await;
    assert_eq!(explained.outcome(), Some(ABSENT));
    assert_eq!(cache.stats().unmatched_rules, 1, "only the rules in force count");
}

#[tokio::test]
async fn entries_stay_under_other_lifetimes() {
    let cache = cache(one_rule(rule()));
    let (inner, calls) = counting(|_, n| ok(n.to_string()));
    let service = cache.cache_layer().layer(inner);
    send(&service, get("/t/a")).await;
    cache.reload(one_rule(Rule::ttl(SECOND).namespace("db:{table}")).route("/health", Rule::uncached())).await.unwrap();
    assert_eq!(outcome(&send(&service, get("/t/a")).await), Outcome::Hit);
    assert_eq!((calls.load(Ordering::SeqCst), cache.stats().invalidations), (1, 0));
}

#[tokio::test]
async fn only_entries_of_changed_rules_are_invalidated() {
    let other = || Rule::ttl(MINUTE).namespace("other");
    let cache = cache(one_rule(rule()).route("/o", other()));
    let (inner, _) = counting(|_, n| ok(n.to_string()));
    let service = cache.cache_layer().layer(inner);
    for target in ["/t/a", "/t/b", "/o"] {
        send(&service, get(target)).await;
    }
    cache.reload(one_rule(rule().namespace("more")).route("/o", other())).await.unwrap();
    for (target, is_hit) in [("/t/a", false), ("/t/b", false), ("/o", true)] {
        assert_eq!(outcome(&send(&service, get(target)).await) == Outcome::Hit, is_hit, "{target}");
    }
}

#[tokio::test]
async fn counters_of_a_route_never_go_down() {
    let cache = cache(one_rule(rule()).route("/u", rule_u()));
    let (inner, _) = counting(|_, n| ok(n.to_string()));
    let service = cache.cache_layer().layer(inner);
    let count = |stats: &Stats, route: &str| {
        let of_route = stats.routes.iter().find(|of| of.route.as_deref() == Some(route));
        of_route.map_or(0, |of| of.count(|_| true))
    };
    let mut last = (0, 0);
    for n in 0..4 {
        for target in ["/t/a", "/t/a", "/u"] {
            send(&service, get(target)).await;
        }
        let stats = cache.stats();
        let now = (count(&stats, "/t/{table}"), count(&stats, "/u"));
        assert!(now.0 == last.0 + 2 && now.1 >= last.1, "{now:?}");
        last = now;
        // The route `/u` comes and goes.
        let rules = if n % 2 == 0 { one_rule(rule()) } else { Rules::new().route("/u", rule_u()).route("/t/{table}", rule()) };
        cache.reload(rules).await.unwrap();
        let stats = cache.stats();
        assert_eq!((count(&stats, "/t/{table}"), count(&stats, "/u")), last);
    }
    assert_eq!(last, (8, 2));
}

fn rule_u() -> Rule {
    Rule::ttl(MINUTE).namespace("u")
}

#[tokio::test]
async fn entry_of_a_less_strict_key_is_never_served() {
    let strict = [rule().identity(Identity::bearer()), rule().key(RouteAndQuery), rule().ignore_forwarded()];
    let loose = [rule().ignore_credentials(), rule().key(RouteAndQuery.only_query(["a"])), rule().ignore_cookies()];
    let request = |secret: &str| {
        let request = Request::get(format!("/t/x?b={secret}")).header("authorization", format!("Bearer {secret}"));
        request.body(Plain::default()).unwrap()
    };
    let anonymous = |secret: &str| Request::get(format!("/t/x?b={secret}")).body(Plain::default()).unwrap();
    for before in loose.iter().chain(&strict) {
        for after in &strict {
            let cache = cache(one_rule(before.clone()));
            let (inner, _) = counting(|request, _| {
                let user = request.headers().get("authorization").map_or("nobody", |value| value.to_str().unwrap());
                ok(format!("{user} {}", request.uri()))
            });
            let service = cache.cache_layer().layer(inner);
            for secret in ["ada", "bob"] {
                send(&service, request(secret)).await;
                send(&service, anonymous(secret)).await;
            }
            cache.reload(one_rule(after.clone())).await.unwrap();
            assert_eq!(text(send(&service, request("eve")).await).await, "Bearer eve /t/x?b=eve");
            assert_eq!(text(send(&service, anonymous("fay")).await).await, "nobody /t/x?b=fay");
        }
    }
}

#[tokio::test]
async fn fill_in_progress_ends_and_is_not_stored() {
    let cache = cache(one_rule(rule()));
    let (inner, mut handle) = tower_test::mock::pair::<Request<Plain>, http::Response<Plain>>();
    let service = cache.cache_layer().layer(inner);
    let old = tokio::spawn(begin(&service, get("/t/a")).await);
    let (_, old_call) = next_call(&mut handle).await;
    let follower = tokio::spawn(begin(&service, get("/t/a")).await);

    cache.reload(one_rule(rule().namespace("more"))).await.unwrap();
    // A request under the new rules does not follow the old fill.
    let new = tokio::spawn(begin(&service, get("/t/a")).await);
    let (_, new_call) = next_call(&mut handle).await;
    old_call.send_response(ok("old"));
    for request in [old, follower] {
        assert_eq!(text(request.await.unwrap().unwrap()).await, "old");
    }
    new_call.send_response(ok("new"));
    assert_eq!(text(new.await.unwrap().unwrap()).await, "new");
    let hit = begin(&service, get("/t/a")).await.await.unwrap();
    assert_eq!((outcome(&hit), text(hit).await), (Outcome::Hit, "new".to_owned()));
}

#[tokio::test]
async fn remembered_targets_are_forgotten() {
    tower_response_cache::__private::remember_at_once();
    let cache = cache(one_rule(rule()));
    let (inner, _) = counting(|_, n| ok(n.to_string()));
    let service = cache.cache_layer().layer(inner);
    for _ in 0..50 {
        send(&service, get("/t/a")).await;
    }
    cache.reload(one_rule(rule().identity(Identity::bearer().required()))).await.unwrap();
    assert_eq!(outcome(&send(&service, get("/t/a")).await), Outcome::Bypass(Bypass::IdentityMissing));
}
