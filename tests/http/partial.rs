//! Partial content: after any sequence of ranges and writes, a response equals the one of the inner service.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use crate::common::{Plain, outcome};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use proptest::prelude::*;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_response_cache::{CacheLayer, CachePolicy, InvalidateLayer, Memory, Namespace, Outcome, Rule, Rules, Store};

#[derive(Debug, Clone)]
enum Step {
    /// A range of bytes: its start and length.
    Part(usize, usize),
    /// A range of bytes from a start to the end.
    Rest(usize),
    Whole,
    Write(Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let content = prop::collection::vec(any::<u8>(), 1..12);
    prop_oneof![
        6 => (0_usize..12, 1_usize..8).prop_map(|(from, count)| Step::Part(from, count)),
        2 => (0_usize..12).prop_map(Step::Rest),
        2 => Just(Step::Whole),
        1 => content.prop_map(Step::Write),
    ]
}

/// Content of the origin, and the count of its changes.
type Content = Arc<Mutex<(Vec<u8>, u32)>>;

/// Responds to ranges, with a strong tag for each version of the content.
fn respond(origin: &Content, request: &Request<Plain>) -> Response<Plain> {
    let (content, version) = origin.lock().expect("not poisoned").clone();
    let response = Response::builder().header("cache-control", "max-age=60").header("etag", format!("\"{version}\""));
    let range = request.headers().get("range").map(|range| range.to_str().expect("text").trim_start_matches("bytes="));
    let Some((first, last)) = range.and_then(|range| range.split_once('-')) else {
        return response.body(Full::from(content)).expect("a response");
    };
    let first: usize = first.parse().expect("a number");
    let end = last.parse::<usize>().map_or(content.len(), |last| (last + 1).min(content.len()));
    if first >= end {
        return response.status(StatusCode::RANGE_NOT_SATISFIABLE).body(Full::default()).expect("a response");
    }
    let content_range = format!("bytes {first}-{}/{}", end - 1, content.len());
    let part = Bytes::copy_from_slice(&content[first..end]);
    response
        .status(StatusCode::PARTIAL_CONTENT)
        .header("content-range", content_range)
        .body(Full::new(part))
        .expect("a response")
}

async fn walk(steps: Vec<Step>) -> Result<usize, TestCaseError> {
    let origin: Content = Arc::new(Mutex::new((b"0123456789".to_vec(), 0)));
    let rules = Rules::new().fallback(Rule::http());
    let store = Memory::default();
    let service = ServiceBuilder::new()
        .layer(InvalidateLayer::new(store.clone()).rules(rules.clone()))
        .layer(CacheLayer::new(store).rules(rules))
        .service(service_fn({
            let origin = origin.clone();
            move |request: Request<Plain>| {
                let response = respond(&origin, &request);
                async move { Ok::<_, Infallible>(response) }
            }
        }));
    let mut hits = 0;
    for (at, step) in steps.iter().enumerate() {
        let request = Request::get("http://a.test/x");
        let request = match step {
            Step::Part(from, count) => request.header("range", format!("bytes={from}-{}", from + count - 1)),
            Step::Rest(from) => request.header("range", format!("bytes={from}-")),
            Step::Whole => request,
            Step::Write(content) => {
                let mut origin = origin.lock().expect("not poisoned");
                *origin = (content.clone(), origin.1 + 1);
                Request::put("http://a.test/x")
            }
        };
        let request = request.body(Plain::default()).expect("a request");
        let want = respond(&origin, &request);
        let got = service.clone().oneshot(request).await.expect("a response");
        if matches!(step, Step::Write(_)) {
            continue;
        }
        hits += usize::from(outcome(&got) == Outcome::Hit);
        prop_assert_eq!(got.status(), want.status(), "step {}: {:?}", at, step);
        prop_assert_eq!(
            got.headers().get("content-range").cloned(),
            want.headers()
                .get("content-range")
                .cloned()
                .or_else(|| { (want.status() == 416).then(|| got.headers().get("content-range").cloned()).flatten() })
        );
        prop_assert_eq!(body(got).await, body(want).await, "step {}: {:?}", at, step);
    }
    Ok(hits)
}

async fn body<B>(response: Response<B>) -> Bytes
where
    B: http_body::Body<Error: Into<tower_response_cache::BoxError>>,
{
    use http_body_util::BodyExt;
    let whole = response.into_body().collect().await.map_err(Into::into).expect("a whole body");
    whole.to_bytes()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn rfc9111_3_4_responses_equal_those_of_the_origin(steps in prop::collection::vec(step(), 1..24)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(walk(steps))?;
    }
}

#[tokio::test]
async fn rfc9111_3_4_parts_combine_in_any_order() {
    let parts =
        |order: [usize; 5]| order.into_iter().map(|at| Step::Part(at * 2, 2)).chain([Step::Whole, Step::Rest(3)]).collect();
    for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 1, 3, 0, 4]] {
        assert_eq!(walk(parts(order)).await.expect("all responses are right"), 2, "{order:?}");
    }
    // A part that does not adjoin the stored part replaces it: the whole is requested, and stored.
    assert_eq!(walk(parts([0, 4, 1, 3, 2])).await.expect("all responses are right"), 1);
}

/// A part may be invalidated by a namespace that only its own response named.
#[tokio::test]
async fn combined_parts_keep_the_namespaces_of_each() {
    for (name, whole) in [("row:0", true), ("row:1", true), ("row:0", false), ("row:1", false)] {
        let origin: Content = Arc::new(Mutex::new((b"0123456789".to_vec(), 0)));
        let store = Memory::default();
        let cache = CacheLayer::new(store.clone()).rules(Rules::new().fallback(Rule::http()));
        let service = ServiceBuilder::new().layer(cache).service(service_fn({
            let origin = origin.clone();
            move |request: Request<Plain>| {
                let mut response = respond(&origin, &request);
                let first = request.headers().get("range").is_some_and(|range| range == "bytes=0-4");
                let row = Namespace::of(["row", if first { "0" } else { "1" }]);
                response.extensions_mut().insert(CachePolicy::new().namespace(row));
                async move { Ok::<_, Infallible>(response) }
            }
        }));
        let ask = async |range: Option<&str>| {
            let mut request = Request::get("http://a.test/x");
            if let Some(range) = range {
                request = request.header("range", range);
            }
            let request = request.body(Plain::default()).expect("a request");
            let got = service.clone().oneshot(request).await.expect("a response");
            (outcome(&got) == Outcome::Hit, body(got).await)
        };
        let last = if whole { "bytes=5-9" } else { "bytes=5-8" };
        let wanted = if whole { None } else { Some("bytes=3-6") };
        assert!(!ask(Some("bytes=0-4")).await.0);
        assert!(!ask(Some(last)).await.0);
        assert!(ask(wanted).await.0, "{name}: combined");
        store.invalidate([name]).await.expect("memory is always reachable");
        *origin.lock().expect("not poisoned") = (b"abcdefghij".to_vec(), 1);
        let (hit, got) = ask(wanted).await;
        assert!(!hit && got.iter().all(u8::is_ascii_lowercase), "{name}: {got:?} after its invalidation");
    }
}
