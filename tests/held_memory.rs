//! Measures the memory that stored responses hold behind a real client with large read buffers.
#![allow(missing_docs)]

use std::{
    convert::Infallible,
    future::{Ready, ready},
    time::Duration,
};

use allocation_counter::measure;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, header};
use http_body_util::{BodyExt, Full, combinators::WithTrailers};
use hyper::{
    body::{Body, Incoming},
    service::service_fn,
};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt};
use tower_response_cache::{CacheLayer, Memory, Rule, Rules, Store};

const ENTRIES: usize = 150;
/// Large enough that the client's read buffers grow to hundreds of KiB.
const LARGE: usize = 1 << 20;

type TestResponse = Response<WithTrailers<Full<Bytes>, Ready<Option<Result<HeaderMap, Infallible>>>>>;

/// Returns a large response, or a small one with unique values in its fields, content and trailers.
fn respond(request: &Request<Incoming>) -> TestResponse {
    let path = request.uri().path();
    if path == "/large" {
        return Response::new(Full::from(vec![b'x'; LARGE]).with_trailers(ready(None)));
    }
    let text = format!("{path}: {}", "v".repeat(40));
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("x-sum"), text.parse().expect("a value"))]);
    let mut response = Response::new(Full::from(text.clone()).with_trailers(ready(Some(Ok(trailers)))));
    for name in ["etag", "x-a", "x-b"] {
        response.headers_mut().insert(name, format!("\"{text}\"").parse().expect("a value"));
    }
    response.headers_mut().insert(header::TRAILER, "x-sum".parse().expect("a value"));
    response
}

async fn serve(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let service = service_fn(|request| ready(Ok::<_, Infallible>(respond(&request))));
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

/// Fills a store through a hyper client. A large response precedes each small one.
async fn fill(store: Memory) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(serve(listener));
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let rules = Rules::new().route("/t/{id}", Rule::ttl(Duration::from_secs(600)));
    let cache = CacheLayer::new(store).rules(rules).layer(client);
    let send = async |path: &str| {
        let request = Request::get(format!("http://{address}{path}")).header("te", "trailers").body(Full::default());
        let response = cache.clone().oneshot(request.expect("a request")).await.expect("a response");
        let body = response.into_body();
        assert!(!body.is_end_stream());
        body.collect().await.expect("a complete body").to_bytes().len()
    };
    for n in 0..ENTRIES {
        assert_eq!(send("/large").await, LARGE);
        assert!(send(&format!("/t/{n}")).await > 40);
    }
}

#[test]
fn stored_responses_hold_no_buffers_of_the_client() {
    let store = Memory::new(64 << 20);
    // The first run allocates the state that stays.
    let run = |store: Memory| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(fill(store));
    };
    run(Memory::new(64 << 20));
    let before = store.stats().bytes;
    let measured = measure(|| run(store.clone()));
    let counted = store.stats().bytes - before;
    assert_eq!(store.stats().entries, ENTRIES as u64);
    // Not exact: the store also counts table slots, which exist before, and tables grow in steps.
    let held = u64::try_from(measured.bytes_current).expect("memory grew");
    println!("counted {counted}, held {held}");
    assert!(held < 2 * counted, "entries hold {held} bytes but are counted as {counted}");
}
