//! Measures memory: of stored responses behind a real client with large read buffers, and of request bodies that are being read.
#![allow(missing_docs)]

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use allocation_counter::measure;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, header};
use http_body_util::{BodyExt, Full, combinators::WithTrailers};
use hyper::{
    body::{Body, Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt};
use tower_response_cache::{CacheLayer, Memory, RequestBodyLayer, Rule, Rules, Store, request_body::ReadBody};

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

/// Content that sends a number of chunks, and then neither data nor an end.
struct Stalling {
    chunks: usize,
}

impl Body for Stalling {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(left) = self.chunks.checked_sub(1) else { return Poll::Pending };
        self.chunks = left;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![b'x'; CHUNK])))))
    }
}

const CHUNK: usize = 1 << 10;
const CLIENTS: usize = 1_000;

/// Begins requests of many clients whose content has no end, and returns those that are still being read.
async fn begin_endless(layer: &RequestBodyLayer, passed: &Arc<AtomicUsize>) -> usize {
    let count = passed.clone();
    let service = layer.layer(tower::service_fn(move |_: Request<ReadBody<Stalling>>| {
        count.fetch_add(1, Ordering::Relaxed);
        ready(Ok::<_, Infallible>(Response::new(())))
    }));
    let begun: Vec<_> = (0..CLIENTS)
        .filter_map(|_| {
            // Almost as much as a rule allows.
            let request = Request::post("/search").body(Stalling { chunks: 63 }).expect("a request");
            let mut future = Box::pin(service.clone().oneshot(request));
            match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(_) => None,
                Poll::Pending => Some(future),
            }
        })
        .collect();
    begun.len()
}

/// Without the limit, the content alone would take 63 MiB.
#[test]
fn memory_of_endless_request_bodies_is_bounded() {
    const LIMIT: usize = 4 << 20;
    let layer = RequestBodyLayer::new(Rules::new().fallback(Rule::ttl(Duration::from_secs(60)).reads_by_post()))
        .max_buffered_bytes(LIMIT);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let passed = Arc::new(AtomicUsize::new(0));
    let (mut reading, mut again) = (0, 0);
    let measured = measure(|| {
        let run = async {
            reading = begin_endless(&layer, &passed).await;
            // All shares were returned with the requests.
            again = begin_endless(&layer, &passed).await;
        };
        runtime.block_on(async { pin!(run).await });
    });
    println!("{reading} of {CLIENTS} clients are being read, at most {} bytes were allocated", measured.bytes_max);
    assert!(reading > LIMIT / (64 * CHUNK) - 2 && reading <= LIMIT / (63 * CHUNK) + 1, "{reading} are being read");
    assert_eq!((again, passed.load(Ordering::Relaxed)), (reading, 2 * (CLIENTS - reading)), "the others have passed on");
    // Buffers grow by doubling. The futures of the requests count as well.
    assert!(measured.bytes_max < 3 * LIMIT as u64, "{} bytes were allocated", measured.bytes_max);
}
