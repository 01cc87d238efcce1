//! The hottest requests and namespaces, as tables and as JSON.

use http::{HeaderValue, Request, header};
use maud::{Markup, html};
use serde_json::{Map, Value, json};

use super::{shared::Shared, shown::Shown, table::table};
use crate::{
    hottest::listed::{HotNamespace, HotRequest},
    route::ANY_ROUTE,
};

/// The number of requests and of namespaces that are shown.
const LISTED: usize = 50;

/// Returns the lists, or null if nothing is tracked.
pub(super) fn json(shared: &Shared) -> Value {
    let cache = &shared.cache;
    if !cache.tracks_hottest() {
        return Value::Null;
    }
    let namespaces =
        |all: Vec<HotNamespace>| all.iter().take(LISTED).map(|of| namespace_json(of, shared.shown)).collect::<Value>();
    json!({
        "requests": cache.hottest_requests_up_to(LISTED).iter().map(request_json).collect::<Vec<_>>(),
        "namespaces": namespaces(cache.hottest_namespaces()),
        "overinvalidated": namespaces(cache.overinvalidated_namespaces()),
    })
}

fn request_json(hot: &HotRequest) -> Value {
    let request = hot.request();
    let fields: Map<_, _> = request.iter().flat_map(fields).map(|(name, value)| (name, value.into())).collect();
    json!({
        "route": hot.route(),
        "method": request.as_ref().map(|request| request.method().as_str()),
        "target": request.as_ref().map(|request| request.uri().to_string()),
        "host": request.as_ref().and_then(host),
        "fields": fields,
        "count": hot.count(),
        "error": hot.error(),
    })
}

/// Returns the fields of a request other than its host, each with all its values.
fn fields(request: &Request<()>) -> Vec<(String, String)> {
    let names = request.headers().keys().filter(|name| **name != header::HOST);
    let values = |name| request.headers().get_all(name).iter().map(text).collect::<Vec<_>>().join(", ");
    names.map(|name| (name.to_string(), values(name))).collect()
}

fn host(request: &Request<()>) -> Option<String> {
    let field = || request.headers().get(header::HOST).map(text);
    request.uri().authority().map(ToString::to_string).or_else(field)
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn namespace_json(of: &HotNamespace, shown: Shown) -> Value {
    json!({
        "namespace": shown.name(of.name()),
        "reads": of.reads(),
        "reads_error": of.reads_error(),
        "invalidations": of.invalidations(),
        "invalidations_error": of.invalidations_error(),
    })
}

/// Returns the tables, if the hottest requests are tracked.
pub(super) fn tables(shared: &Shared) -> Markup {
    let cache = &shared.cache;
    if !cache.tracks_hottest() {
        return html! {};
    }
    html! {
        (requests(&cache.hottest_requests_up_to(LISTED)))
        (namespaces("hottest-namespaces", "Hottest namespaces", "Namespaces by their reads.", &cache.hottest_namespaces(), shared.shown))
        (namespaces(
            "overinvalidated",
            "Invalidated more often than read",
            "Namespaces for which the cache costs more than it saves.",
            &cache.overinvalidated_namespaces(),
            shared.shown,
        ))
    }
}

fn requests(hottest: &[HotRequest]) -> Markup {
    let heads = [("Request", false), ("Host", false), ("Fields", false), ("Route", false), ("Requests", true), ("Error", true)];
    let rows = html! {
        @for hot in hottest {
            @let request = hot.request();
            tr {
                th scope="row" {
                    @match &request {
                        Some(request) => { (request.method().as_str()) " " (request.uri().path_and_query().map_or("", |target| target.as_str())) }
                        None => "(with an identity, a secret or content)",
                    }
                }
                td { (request.as_ref().and_then(host).unwrap_or_default()) }
                @let fields = request.iter().flat_map(fields).map(|(name, value)| format!("{name}: {value}"));
                td { (fields.collect::<Vec<_>>().join("; ")) }
                td { (hot.route().unwrap_or(ANY_ROUTE)) }
                td.number { (hot.count()) }
                td.number { (hot.error()) }
            }
        }
        @if hottest.is_empty() { tr { td colspan="6" { "None." } } }
    };
    let caption = "Requests by their number, halved every hour. One fresh hit in 64 counts for all of them.";
    table("hottest-requests", "Hottest requests", caption, &heads, &rows)
}

fn namespaces(id: &str, title: &str, caption: &str, all: &[HotNamespace], shown: Shown) -> Markup {
    let heads = [("Namespace", false), ("Reads", true), ("Error", true), ("Invalidations", true), ("Error", true)];
    let rows = html! {
        @for of in all.iter().take(LISTED) {
            tr {
                th scope="row" { (shown.name(of.name())) }
                @for count in [of.reads(), of.reads_error(), of.invalidations(), of.invalidations_error()] {
                    td.number { (count) }
                }
            }
        }
        @if all.is_empty() { tr { td colspan="5" { "None." } } }
    };
    table(id, title, caption, &heads, &rows)
}
