//! Calls by Connect and gRPC-Web. Calls by gRPC are in `examples/tonic/rpc`.

use std::{
    convert::Infallible,
    future::{pending, ready},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use tower::{ServiceBuilder, ServiceExt, service_fn, util::BoxCloneService};
use tower_response_cache::{
    CacheBody, CacheStatus, Clock, Memory, Outcome, ResponseCache, Rule,
    invalidate::InvalidateBody,
    request_body::ReadBody,
    status::{Bypass, Miss, Stale},
};

use crate::common::{MINUTE, outcome};

const PATH: &str = "/notes.v1.Notes/Get";

type Served = Response<InvalidateBody<CacheBody<Full<Bytes>>>>;
type Call = Request<Full<Bytes>>;

/// A service that answers with status, content type and body, and a cache around it.
struct Method {
    service: BoxCloneService<Call, Served, Infallible>,
    calls: Arc<AtomicUsize>,
    cache: ResponseCache,
}

impl Method {
    fn new(rule: Rule, answer: impl Fn(usize) -> (u16, &'static str, Bytes) + Clone + Send + 'static) -> Self {
        let cache = ResponseCache::new(Memory::default()).route(PATH, rule);
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = calls.clone();
        let inner = service_fn(move |_: Request<ReadBody<Full<Bytes>>>| {
            let (status, kind, body) = answer(counter.fetch_add(1, Ordering::SeqCst) + 1);
            let response = Response::builder().status(status).header("content-type", kind).body(Full::new(body));
            async move { Ok::<_, Infallible>(response.expect("a response")) }
        });
        let service = ServiceBuilder::new().layer(cache.layer_with_request_bodies()).service(inner);
        Self { service: BoxCloneService::new(service), calls, cache }
    }

    async fn send(&self, request: Call) -> (StatusCode, HeaderMap, Bytes) {
        let (head, body) = self.service.clone().oneshot(request).await.expect("a response").into_parts();
        (head.status, head.headers, body.collect().await.expect("a whole body").to_bytes())
    }

    /// Sends requests, and returns the number of the calls that they made.
    async fn calls_of(&self, requests: impl IntoIterator<Item = Call>) -> usize {
        let before = self.calls.load(Ordering::SeqCst);
        for request in requests {
            self.send(request).await;
        }
        self.calls.load(Ordering::SeqCst) - before
    }
}

fn post(kind: &str, content: &'static [u8], fields: &[(&str, &str)]) -> Call {
    let mut request = Request::post(PATH).header("content-type", kind);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(Full::from(content)).expect("a request")
}

fn get(query: &str) -> Call {
    Request::get(format!("{PATH}?{query}")).body(Full::default()).expect("a request")
}

#[tokio::test]
async fn unary_call_by_connect_is_keyed_by_its_message() {
    let method = Method::new(Rule::rpc(MINUTE), |call| (200, "application/json", format!("{{\"call\":{call}}}").into()));
    let version = ("connect-protocol-version", "1");
    let one = || post("application/json", b"{\"name\":\"a\"}", &[version]);
    let timed = post("application/json", b"{\"name\":\"a\"}", &[version, ("connect-timeout-ms", "1000")]);
    assert_eq!(method.calls_of([one(), one(), timed]).await, 1);
    assert_eq!(method.send(one()).await, method.send(one()).await);
    let others = [
        post("application/json", b"{\"name\":\"b\"}", &[version]),
        post("application/proto", b"{\"name\":\"a\"}", &[version]),
        post("application/json", b"{\"name\":\"a\"}", &[version, ("content-encoding", "gzip")]),
    ];
    assert_eq!(method.calls_of(others).await, 3);
}

#[tokio::test]
async fn get_of_connect_is_keyed_by_its_query_as_sent() {
    let method = Method::new(Rule::rpc(MINUTE), |call| (200, "application/proto", call.to_string().into()));
    let query = "connect=v1&encoding=proto&base64=1&message=CgFh";
    assert_eq!(method.calls_of([get(query), get(query)]).await, 1);
    let others = [
        "connect=v1&encoding=proto&base64=1&message=CgFi",
        "connect=v1&encoding=json&base64=1&message=CgFh",
        "message=CgFh&connect=v1&encoding=proto&base64=1",
        "connect=v1&encoding=json&message=%7B%22b%22%3A1%2C%22a%22%3A2%7D",
        "connect=v1&encoding=json&message=%7B%22a%22%3A2%2C%22b%22%3A1%7D",
    ];
    assert_eq!(method.calls_of(others.map(get)).await, 5);
}

/// Connect negotiates the compression of a response by `Accept-Encoding`, and need not say so in `Vary`.
#[tokio::test]
async fn accepted_encodings_share_no_response() {
    let method = Method::new(Rule::rpc(MINUTE), |call| (200, "application/proto", call.to_string().into()));
    let with_encoding = |mut request: Call, accepted: &'static str| {
        request.headers_mut().insert("accept-encoding", HeaderValue::from_static(accepted));
        request
    };
    for request in [|| post("application/proto", b"a", &[]), || get("connect=v1&encoding=proto&message=a")] {
        let all = || [request(), with_encoding(request(), "gzip"), with_encoding(request(), "br, gzip")];
        assert_eq!((method.calls_of(all()).await, method.calls_of(all()).await), (3, 0));
    }
    let target: Uri = format!("{PATH}?connect=v1&encoding=proto&message=a").parse().expect("a URI");
    method.cache.invalidate_uri(&target).await.expect("memory");
    let gets = [get("connect=v1&encoding=proto&message=a"), with_encoding(get("connect=v1&encoding=proto&message=a"), "gzip")];
    assert_eq!(method.calls_of(gets).await, 2);
}

#[tokio::test]
async fn errors_of_connect_are_stored_only_with_a_lifetime() {
    for (rule, calls) in [
        (Rule::rpc(MINUTE), 2),
        (Rule::rpc(MINUTE).status(StatusCode::NOT_FOUND, MINUTE), 1),
        (Rule::rpc(MINUTE).rpc_status(5, MINUTE), 2),
    ] {
        let method = Method::new(rule, |_| (404, "application/json", Bytes::from_static(b"{\"code\":\"not_found\"}")));
        let request = || post("application/json", b"{}", &[]);
        assert_eq!(method.calls_of([request(), request()]).await, calls);
    }
}

#[tokio::test]
async fn streams_of_connect_and_text_pass_uncached() {
    for (kind, content) in [
        ("application/connect+json", &b"\0\0\0\0\x02{}"[..]),
        ("application/grpc-web-text", b"AAAAAAFh"),
        ("application/grpc-web-text+proto", b"AAAAAAA=YQ=="),
    ] {
        let body = Bytes::from_static(b"AAAAAAFigAAAABBncnBjLXN0YXR1czogMA0K");
        let method = Method::new(Rule::rpc(MINUTE), move |_| (200, kind, body.clone()));
        let request = || post(kind, content, &[]);
        assert_eq!(method.calls_of([request(), request()]).await, 2, "{kind}");
        assert!(method.cache.stats().bypasses.contains(&(Bypass::NotUnary, 2)), "{kind}: {}", method.cache.stats());
    }
}

#[tokio::test]
async fn grpc_web_is_replayed_with_the_trailers_in_its_body() {
    const KIND: &str = "application/grpc-web+proto";
    let request = || post(KIND, b"\0\0\0\0\x01a", &[]);
    let ok = Bytes::from_static(b"\0\0\0\0\x01b\x80\0\0\0\x10grpc-status: 0\r\n");
    let body = ok.clone();
    let method = Method::new(Rule::rpc(MINUTE), move |_| (200, KIND, body.clone()));
    let (miss, hit) = (method.send(request()).await, method.send(request()).await);
    assert_eq!((&miss, &hit.2), (&hit, &ok));
    assert_eq!(method.calls.load(Ordering::SeqCst), 1);
    // The same message by gRPC has an entry of its own.
    assert_eq!(method.calls_of([post("application/grpc+proto", b"\0\0\0\0\x01a", &[])]).await, 1);
    for body in [&b"\0\0\0\0\x01b"[..], b"\0\0\0\0\x01b\x80\0\0\0\x10grpc-status: 5\r\n", b"\x80\0\0\0\x10grpc-status: 5\r\n"] {
        let method = Method::new(Rule::rpc(MINUTE), move |_| (200, KIND, Bytes::from_static(body)));
        assert_eq!(method.calls_of([request(), request()]).await, 2, "{body:?}");
    }
    let method = Method::new(Rule::rpc(MINUTE).rpc_status(5, MINUTE), |_| {
        (200, KIND, Bytes::from_static(b"\x80\0\0\0\x10grpc-status: 5\r\n"))
    });
    assert_eq!(method.calls_of([request(), request()]).await, 1);
}

#[tokio::test]
async fn call_is_no_write() {
    let method = Method::new(Rule::rpc(MINUTE).namespace("notes"), |_| (200, "application/json", Bytes::from_static(b"{}")));
    method.calls_of([post("application/json", b"{}", &[]), post("text/plain", b"{}", &[])]).await;
    assert_eq!(method.cache.stats().invalidations, 0);
}

#[tokio::test(start_paused = true)]
async fn passed_deadline_has_a_cache_status() {
    let cache = ResponseCache::new(Memory::default()).route(PATH, Rule::rpc(MINUTE));
    let inner = service_fn(|_: Request<ReadBody<Full<Bytes>>>| pending::<Result<Response<Full<Bytes>>, Infallible>>());
    let service = ServiceBuilder::new().layer(cache.layer_with_request_bodies()).service(inner);
    let call = post("application/grpc", b"\0\0\0\0\x01a", &[("grpc-timeout", "50m")]);
    let response = service.oneshot(call).await.expect("a response");
    assert_eq!(CacheStatus::of(&response).map(|status| status.outcome()), Some(Outcome::DeadlineExceeded));
    assert_eq!(response.headers()["grpc-status"], "4");
}

/// A method that fails after its first call. Its responses have their status in the head, or in trailers after a message.
fn failing(status: &'static str, seen: Arc<Mutex<Vec<HeaderMap>>>) -> BoxCloneService<Call, Grpc, Infallible> {
    BoxCloneService::new(service_fn(move |request: Call| {
        let mut seen = seen.lock().expect("no panic");
        seen.push(request.headers().clone());
        let response = Response::builder().header("content-type", "application/grpc");
        let (response, body) = match seen.len() {
            1 => {
                (response, Full::from(&b"\0\0\0\0\x01a"[..]).with_trailers(ready(Some(Ok(fields("grpc-status", "0"))))).boxed())
            }
            _ => (response.header("grpc-status", status), Full::default().boxed()),
        };
        ready(Ok(response.body(body).expect("a response")))
    }))
}

type Grpc = Response<BoxBody<Bytes, Infallible>>;

fn fields(name: &'static str, value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))])
}

/// Calls a method three times after its response has expired. Returns the outcomes and the heads of the calls that it has seen.
async fn after_expiry(rule: Rule, status: &'static str) -> (Vec<Outcome>, Vec<HeaderMap>) {
    let clock = Clock::manual();
    let seen = Arc::default();
    let cache = ResponseCache::new(Memory::builder().clock(clock.clone()).build()).route(PATH, rule);
    let service = ServiceBuilder::new()
        .layer(cache.layer_with_request_bodies())
        .map_request(|request: Request<ReadBody<Full<Bytes>>>| request.map(|_| Full::default()))
        .service(failing(status, Arc::clone(&seen)));
    let mut outcomes = Vec::new();
    for _ in 0..3 {
        let call = post("application/grpc", b"\0\0\0\0\x01a", &[("grpc-timeout", "9S")]);
        let response = service.clone().oneshot(call).await.expect("a response");
        outcomes.push(outcome(&response));
        response.into_body().collect().await.expect("a whole body");
        clock.advance(MINUTE);
        tokio::task::yield_now().await;
    }
    let seen = seen.lock().expect("no panic").clone();
    (outcomes, seen)
}

#[tokio::test]
async fn failed_call_is_answered_by_the_stale_response() {
    let rule = || Rule::rpc(MINUTE).stale_if_error(MINUTE * 9);
    const STALE: Outcome = Outcome::Stale(Stale::IfError);
    for status in ["2", "4", "13", "14", "15"] {
        let (outcomes, _) = after_expiry(rule(), status).await;
        assert_eq!(outcomes, [Outcome::Miss(Miss::Absent), STALE, STALE], "{status}");
    }
    for status in ["3", "5", "7"] {
        let (outcomes, _) = after_expiry(rule(), status).await;
        assert_eq!(outcomes[1], Outcome::Miss(Miss::Expired), "{status}");
    }
}

#[tokio::test]
async fn background_call_has_no_deadline() {
    let (_, seen) = after_expiry(Rule::rpc(MINUTE).stale_while_revalidate(MINUTE * 9), "14").await;
    assert!(seen.len() > 1, "{seen:?}");
    let has_deadline: Vec<_> = seen.iter().map(|head| head.contains_key("grpc-timeout")).collect();
    assert!(has_deadline[0] && !has_deadline[1..].contains(&true), "{has_deadline:?}");
}
