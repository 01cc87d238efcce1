//! Beside the layers of tower-http: traces, timeouts, CORS, request ids, panics and compression.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{minute, tower_layers::all_finish, yielding};
use crate::common::*;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::CompressionLayer,
    cors::CorsLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    timeout::TimeoutLayer,
    trace::TraceLayer,
};
use tower_response_cache::Outcome;

#[tokio::test]
async fn trace_works_inside_and_outside() {
    let (inner, calls) = yielding();
    all_finish(ServiceBuilder::new().layer(TraceLayer::new_for_http()).layer(minute()).service(inner), calls).await;
    let (inner, calls) = yielding();
    all_finish(ServiceBuilder::new().layer(minute()).layer(TraceLayer::new_for_http()).service(inner), calls).await;
}

#[tokio::test(start_paused = true)]
async fn inner_timeout_answers_followers_and_is_not_stored() {
    let layer = minute();
    let (mock, mut handle) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
    let timeout = TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, 5 * SECOND);
    let cache = ServiceBuilder::new().layer(layer).layer(timeout).service(mock);
    let leader = tokio::spawn(begin(&cache, get("/t/a")).await);
    let follower = tokio::spawn(begin(&cache, get("/t/a")).await);
    let _held = next_call(&mut handle).await;
    assert_eq!(leader.await.unwrap().unwrap().status(), StatusCode::GATEWAY_TIMEOUT);
    next_call(&mut handle).await.1.send_response(ok("rows"));
    assert_eq!(text(follower.await.unwrap().unwrap()).await, "rows");
}

#[tokio::test(start_paused = true)]
async fn outer_timeout_ends_the_wait_and_not_the_fill() {
    let (mock, mut handle) = tower_test::mock::pair::<Request<Plain>, Response<Plain>>();
    let timeout = TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, 5 * SECOND);
    let cache = ServiceBuilder::new().layer(timeout).layer(minute()).service(mock);
    let leader = begin(&cache, get("/t/a")).await;
    assert_eq!(leader.await.unwrap().status(), StatusCode::GATEWAY_TIMEOUT);
    let (_, answer) = next_call(&mut handle).await;
    let follower = begin(&cache, get("/t/a")).await;
    answer.send_response(ok("rows"));
    assert_eq!(text(follower.await.unwrap()).await, "rows");
}

fn from_origin(origin: &str) -> Request<Plain> {
    let mut request = get("/t/a");
    request.headers_mut().insert(header::ORIGIN, origin.parse().unwrap());
    request
}

#[tokio::test]
async fn cors_headers_of_one_origin_reach_no_other() {
    let cors = || CorsLayer::new().allow_origin(["http://one", "http://two"].map(HeaderValue::from_static));
    let allowed = |response: &http::HeaderMap| response.get(header::ACCESS_CONTROL_ALLOW_ORIGIN).cloned();
    for inside in [false, true] {
        let (inner, calls) = counting(|_, call| ok(format!("call {call}")));
        let responses = if inside {
            let cache = ServiceBuilder::new().layer(minute()).layer(cors()).service(inner);
            let mut responses = Vec::new();
            for origin in ["http://one", "http://two", "http://one", "http://two", "http://three"] {
                responses.push((origin, send(&cache, from_origin(origin)).await.headers().clone()));
            }
            responses
        } else {
            let cache = ServiceBuilder::new().layer(cors()).layer(minute()).service(inner);
            let mut responses = Vec::new();
            for origin in ["http://one", "http://two", "http://one", "http://two", "http://three"] {
                responses.push((origin, send(&cache, from_origin(origin)).await.headers().clone()));
            }
            responses
        };
        for (origin, headers) in responses {
            let expected = (origin != "http://three").then(|| HeaderValue::from_str(origin).unwrap());
            assert_eq!(allowed(&headers), expected, "{origin}, inside: {inside}");
        }
        assert_eq!(calls.load(Ordering::SeqCst), if inside { 3 } else { 1 });
    }
}

#[tokio::test]
async fn outer_request_ids_are_set_on_hits_too() {
    let (inner, calls) = counting(|_, call| ok(format!("call {call}")));
    let cache = ServiceBuilder::new()
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(minute())
        .service(inner);
    let first = send(&cache, get("/t/a")).await.headers()["x-request-id"].clone();
    let second = send(&cache, get("/t/a")).await.headers()["x-request-id"].clone();
    assert_ne!(first, second);
    let mut own = get("/t/a");
    own.headers_mut().insert("x-request-id", "own".parse().unwrap());
    assert_eq!(send(&cache, own).await.headers()["x-request-id"], "own");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn inner_request_ids_do_not_prevent_storing() {
    let (inner, calls) = counting(|request, _| ok(request.headers()["x-request-id"].to_str().unwrap().to_owned()));
    let cache = ServiceBuilder::new().layer(minute()).layer(SetRequestIdLayer::x_request_id(MakeRequestUuid)).service(inner);
    let first = text(send(&cache, get("/t/a")).await).await;
    assert_eq!(text(send(&cache, get("/t/a")).await).await, first);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn caught_panic_is_an_unstored_500_inside_and_outside() {
    let handler = |calls: Arc<AtomicUsize>| {
        service_fn(move |_: Request<Plain>| {
            let call = calls.fetch_add(1, Ordering::SeqCst) + 1;
            async move {
                assert_ne!(call, 1, "this panic is part of the test");
                Ok::<_, Infallible>(ok(format!("call {call}")))
            }
        })
    };
    let inside = ServiceBuilder::new().layer(minute()).layer(CatchPanicLayer::new()).service(handler(Arc::default()));
    assert_eq!(send(&inside, get("/t/a")).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(text(send(&inside, get("/t/a")).await).await, "call 2");
    let outside = ServiceBuilder::new().layer(CatchPanicLayer::new()).layer(minute()).service(handler(Arc::default()));
    assert_eq!(send(&outside, get("/t/a")).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(text(send(&outside, get("/t/a")).await).await, "call 2");
}

// ---- Compression -----------------------------------------------------------------------------------------------------

fn encoded(encoding: Option<&str>) -> Request<Plain> {
    let mut request = get("/t/a");
    if let Some(encoding) = encoding {
        request.headers_mut().insert(header::ACCEPT_ENCODING, encoding.parse().unwrap());
    }
    request
}

fn long() -> String {
    "a row of some length, ".repeat(200)
}

/// Returns the encoding and the body. Decompresses a gzip body and compares it.
async fn received<B>(response: Response<B>) -> (Option<String>, Bytes)
where
    B: http_body::Body<Error: Into<tower_response_cache::BoxError>>,
{
    let vary: Vec<_> =
        response.headers().get_all(header::VARY).iter().map(|v| v.to_str().unwrap().to_ascii_lowercase()).collect();
    assert!(vary.iter().any(|vary| vary.contains("accept-encoding")), "Vary: {vary:?}");
    let encoding = response.headers().get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap().to_owned());
    let body = response.into_body().collect().await.map_err(Into::into).unwrap().to_bytes();
    match encoding.as_deref() {
        None => assert_eq!(body, long()),
        Some("gzip") => {
            let mut plain = String::new();
            std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&body[..]), &mut plain).unwrap();
            assert_eq!(plain, long());
        }
        Some(_) => assert!(body.len() < long().len() / 2),
    }
    (encoding, body)
}

const ENCODINGS: [(Option<&str>, Option<&str>); 4] =
    [(Some("gzip"), Some("gzip")), (Some("br"), Some("br")), (Some("identity"), None), (None, None)];

#[tokio::test]
async fn outer_compression_is_served_from_one_uncompressed_entry() {
    let (inner, calls) = counting(|_, _| ok(long()));
    let layer = minute();
    let outside = ServiceBuilder::new().layer(CompressionLayer::new()).layer(layer.clone()).service(inner.clone());
    for _ in 0..2 {
        for (asked, expected) in ENCODINGS {
            assert_eq!(received(send(&outside, encoded(asked)).await).await.0.as_deref(), expected);
        }
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    // The entry itself is not compressed.
    let send_raw = send(&layer.layer(inner), encoded(Some("gzip"))).await;
    assert_eq!(outcome(&send_raw), Outcome::Hit);
    assert_eq!(text(send_raw).await, long());
}

#[tokio::test]
async fn inner_compression_is_done_once_per_encoding() {
    let (inner, calls) = counting(|_, _| ok(long()));
    let cache = ServiceBuilder::new().layer(minute()).layer(CompressionLayer::new()).service(inner);
    let mut first = Vec::new();
    for (asked, expected) in ENCODINGS {
        let (encoding, body) = received(send(&cache, encoded(asked)).await).await;
        assert_eq!(encoding.as_deref(), expected);
        first.push(body);
    }
    assert_eq!(calls.load(Ordering::SeqCst), ENCODINGS.len());
    for _ in 0..2 {
        for ((asked, expected), body) in ENCODINGS.iter().zip(&first) {
            let hit = send(&cache, encoded(*asked)).await;
            assert_eq!(outcome(&hit), Outcome::Hit);
            assert_eq!(received(hit).await, (expected.map(str::to_owned), body.clone()));
        }
    }
    assert_eq!(calls.load(Ordering::SeqCst), ENCODINGS.len());
}

#[tokio::test]
async fn concurrent_clients_get_their_own_encoding() {
    let (inner, calls) = yielding_long();
    let cache = ServiceBuilder::new().layer(minute()).layer(CompressionLayer::new()).service(inner);
    let mut clients = Vec::new();
    for _ in 0..4 {
        for (asked, expected) in ENCODINGS {
            clients.push((tokio::spawn(begin(&cache, encoded(asked)).await), expected));
        }
    }
    for (client, expected) in clients {
        let response = within(client).await.unwrap().unwrap();
        assert_eq!(within(received(response)).await.0.as_deref(), expected);
    }
    assert_eq!(calls.load(Ordering::SeqCst), ENCODINGS.len());
}

fn yielding_long() -> (
    impl Service<Request<Plain>, Response = Response<Plain>, Error = Infallible, Future: Send> + Clone + Send + 'static,
    Arc<AtomicUsize>,
) {
    let (inner, calls) = yielding();
    (inner.map_response(|_| ok(long())), calls)
}
