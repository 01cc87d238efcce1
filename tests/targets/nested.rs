//! Nested routers: layers at different places see a target differently, and a write invalidates the entries of all.

use std::convert::Infallible;

use crate::common::{MINUTE, outcome_in_extension, send};
use axum::{Router, body::Body, routing};
use http::{Request, Response, header};
use tower::{Layer, ServiceExt, util::BoxCloneSyncService};
use tower_http::normalize_path::NormalizePathLayer;
use tower_response_cache::{CacheLayer, InvalidateLayer, Memory, Outcome, RouteAndQuery, Rule, Rules, Store, status::Miss};

pub(crate) const ABSENT: Outcome = Outcome::Miss(Miss::Absent);

pub(crate) const HIT: Outcome = Outcome::Hit;

pub(crate) type App = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// Nesting of the routes of an application.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Nest {
    Flat,
    Router,
    Service,
}

/// Positions of the layers of an application.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) nest: Nest,
    pub(crate) cache_inside: bool,
    pub(crate) invalidate_inside: bool,
    /// A layer between the inner and the outer layers: `true` trims trailing slashes, `false` appends one.
    pub(crate) normalize: Option<bool>,
}

impl Shape {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let nests = [Nest::Flat, Nest::Router, Nest::Service].into_iter();
        nests.flat_map(|nest| {
            (0..12).map(move |n| Self {
                nest,
                cache_inside: n % 2 == 0,
                invalidate_inside: n / 2 % 2 == 0,
                normalize: [None, Some(true), Some(false)][n / 4],
            })
        })
    }

    /// Without the feature `axum`, no layer knows that the router removed a prefix.
    pub(crate) fn is_known(&self) -> bool {
        cfg!(feature = "axum") || self.nest == Nest::Flat || !self.cache_inside && !self.invalidate_inside
    }

    pub(crate) fn prefix(&self) -> &'static str {
        if self.nest == Nest::Flat { "" } else { "/api" }
    }

    /// Builds the application: every path responds to every method, and a POST has the `Location` `t/7`.
    pub(crate) fn app(&self, store: &Memory, rules: &Rules) -> App {
        let cache = CacheLayer::new(store.clone()).rules(rules.clone()).status_extension(true);
        let clear = InvalidateLayer::new(store.clone()).rules(rules.clone());
        let answer = async |request: Request<Body>| {
            let response = Response::builder().header(header::CACHE_CONTROL, "max-age=60");
            let response = match request.method().as_str() {
                "POST" => response.status(201).header(header::LOCATION, "7"),
                _ => response,
            };
            response.body(Body::from(request.uri().to_string())).expect("a response")
        };
        let mut part = Router::new().fallback(routing::any(answer));
        part = if self.cache_inside { part.layer(cache.clone()) } else { part };
        part = if self.invalidate_inside { part.layer(clear.clone()) } else { part };
        let router = match self.nest {
            Nest::Flat => part,
            Nest::Router => Router::new().nest("/api", part),
            Nest::Service => Router::new().nest_service("/api", part),
        };
        let mut app: App = match self.normalize {
            None => BoxCloneSyncService::new(router),
            Some(true) => BoxCloneSyncService::new(NormalizePathLayer::trim_trailing_slash().layer(router)),
            Some(false) => BoxCloneSyncService::new(NormalizePathLayer::append_trailing_slash().layer(router)),
        };
        if !self.cache_inside {
            app = BoxCloneSyncService::new(cache.layer(app).map_response(|response| response.map(Body::new)));
        }
        if !self.invalidate_inside {
            app = BoxCloneSyncService::new(clear.layer(app).map_response(|response| response.map(Body::new)));
        }
        app
    }
}

pub(crate) async fn ask(app: &App, method: &str, host: &str, target: &str) -> Option<Outcome> {
    let request = Request::builder().method(method).uri(target).header(header::HOST, host);
    let response = send(app, request.body(Body::empty()).expect("a request")).await;
    assert!(response.status().is_success(), "{method} {target}: {}", response.status());
    outcome_in_extension(&response)
}

/// Stores the response to a GET, and returns whether a write has invalidated it.
pub(crate) async fn invalidates(app: &App, read: (&str, &str), method: &str, write: (&str, &str)) -> bool {
    assert_eq!(ask(app, "GET", read.0, read.1).await, Some(ABSENT), "{read:?}");
    assert_eq!(ask(app, "GET", read.0, read.1).await, Some(HIT), "{read:?}");
    ask(app, method, write.0, write.1).await;
    ask(app, "GET", read.0, read.1).await != Some(HIT)
}

/// RFC 9111, section 4.4.
#[tokio::test]
async fn write_under_nest_invalidates_its_own_uri() {
    for shape in Shape::all().filter(Shape::is_known) {
        for rules in [
            Rules::new().fallback(Rule::http()),
            Rules::new().route("/api/t/{id}", Rule::http()).fallback(Rule::http()),
            Rules::new().route("/t/{id}", Rule::http()).fallback(Rule::http()),
        ] {
            let target = |tail: &str| format!("{}/t/{tail}", shape.prefix());
            let app = shape.app(&Memory::default(), &rules);
            let own = target("1?q=2");
            assert!(invalidates(&app, ("s.test", &own), "PUT", ("s.test", &own)).await, "{shape:?} {rules:?}");
            let other = target("2");
            assert!(!invalidates(&app, ("s.test", &other), "PUT", ("s.test", &own)).await, "{shape:?} {rules:?}");
            let made = target("7");
            assert!(invalidates(&app, ("s.test", &made), "POST", ("s.test", &target("new"))).await, "{shape:?} {rules:?}");
        }
    }
}

#[tokio::test]
async fn normalised_slash_hides_no_entry() {
    for shape in Shape::all().filter(Shape::is_known) {
        let app = shape.app(&Memory::default(), &Rules::new().fallback(Rule::http()));
        let at = |tail: &str| format!("{}/t/{tail}", shape.prefix());
        for (read, write) in [(at("1"), at("1/")), (at("2/"), at("2")), (at("3"), at("3//"))] {
            assert!(invalidates(&app, ("s.test", &read), "PUT", ("s.test", &write)).await, "{shape:?} {read} {write}");
        }
    }
}

/// One table is used inside and outside of a nested router, with the patterns of either.
#[tokio::test]
async fn nested_table_is_used_for_outer_writes() {
    for shape in Shape::all().filter(|shape| shape.is_known() && shape.cache_inside && shape.normalize.is_none()) {
        for pattern in ["/t/{id}", "/api/t/{id}"] {
            if shape.nest == Nest::Flat && pattern != "/t/{id}" {
                continue;
            }
            let rules = Rules::new().route(pattern, Rule::ttl(MINUTE).namespace("t:{id}"));
            let app = shape.app(&Memory::default(), &rules);
            let at = |id: &str| format!("{}/t/{id}", shape.prefix());
            assert!(invalidates(&app, ("s.test", &at("1")), "PUT", ("s.test", &at("1"))).await, "{shape:?} {pattern}");
            assert!(!invalidates(&app, ("s.test", &at("2")), "PUT", ("s.test", &at("1"))).await, "{shape:?} {pattern}");
        }
    }
}

#[tokio::test]
async fn key_names_the_entry_of_a_nested_router() {
    for shape in Shape::all().filter(|shape| shape.is_known() && shape.normalize.is_none()) {
        for rule in [Rule::ttl(MINUTE), Rule::http(), Rule::http().key(RouteAndQuery.without_query(["utm_*"]))] {
            for rules in [
                Rules::new().fallback(rule.clone()),
                Rules::new().route("/t/{id}", rule.clone()).route("/api/t/{id}", rule.clone()),
                Rules::new().route("/{part}/t/{id}", rule.clone()).route("/t/{id}", rule),
            ] {
                let store = Memory::default();
                let app = shape.app(&store, &rules);
                let at = |id: &str| format!("{}/t/{id}", shape.prefix());
                for (read, named) in [(at("~1?a=1"), at("~1?a=1")), (at("~2"), at("%7e2"))] {
                    assert_eq!(ask(&app, "GET", "s.test", &read).await, Some(ABSENT));
                    assert_eq!(ask(&app, "GET", "s.test", &read).await, Some(HIT));
                    let request = Request::get(&named).header("host", "s.test:80").body(()).expect("a request");
                    store
                        .invalidate_key(&rules.key(&store, &request).expect("a rule covers it"))
                        .await
                        .expect("memory is reachable");
                    assert_eq!(ask(&app, "GET", "s.test", &read).await, Some(ABSENT), "{shape:?} {rules:?} {named}");
                }
            }
        }
    }
}

/// The table has only the patterns of the nested router.
#[cfg(feature = "axum")]
#[tokio::test]
async fn nested_table_names_the_entries_of_its_router() {
    for nest in [Nest::Router, Nest::Service] {
        let shape = Shape { nest, cache_inside: true, invalidate_inside: false, normalize: None };
        let (store, rules) = (Memory::default(), Rules::new().route("/t/{id}", Rule::ttl(MINUTE)));
        let app = shape.app(&store, &rules);
        ask(&app, "GET", "s.test", "/api/t/1").await;
        let key = rules.key(&store, &Request::get("/api/t/1").header("host", "s.test").body(()).expect("a request"));
        store.invalidate_key(&key.expect("the pattern is found")).await.expect("memory is reachable");
        assert_eq!(ask(&app, "GET", "s.test", "/api/t/1").await, Some(ABSENT), "{nest:?}");
    }
}

/// The bytes of the key are equal in every build with the feature `axum`: no other feature changes them.
#[cfg(feature = "axum")]
#[test]
fn nested_key_is_equal_in_all_builds() {
    let mut request = Request::get("/t/1?b=1&a=2").header("host", "s.test").body(()).expect("a request");
    request.extensions_mut().insert(axum::extract::OriginalUri("/api/t/1?b=1&a=2".parse().expect("a target")));
    let rules = Rules::new().route("/t/{id}", Rule::ttl(MINUTE));
    let key = rules.key(&Memory::default(), &request).expect("a key");
    let parts: [&[u8]; 5] = [b"\x01\x07/t/{id}", b"\x03\x06s.test", b"\x02\x08/api/t/1", b"\x02\x04/t/1", b"\x13\x07a=2&b=1"];
    assert_eq!(key.canonical(), parts.concat());
}
