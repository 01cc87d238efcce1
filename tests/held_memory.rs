//! Measures memory: of stored responses behind a real client with large read buffers, and of request bodies that are being read.
#![allow(missing_docs)]

use std::{
    convert::Infallible,
    future::{Future, Ready, pending, ready},
    pin::Pin,
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

/// Content that begins with some bytes, sends a number of chunks, and then neither data nor an end.
struct Endless {
    begin: &'static [u8],
    chunks: usize,
}

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(left) = self.chunks.checked_sub(1) else { return Poll::Pending };
        self.chunks = left;
        let mut chunk = vec![b'x'; CHUNK];
        let begin = std::mem::take(&mut self.begin);
        chunk[..begin.len()].copy_from_slice(begin);
        Poll::Ready(Some(Ok(Frame::data(chunk.into()))))
    }
}

const CHUNK: usize = 1 << 10;
const CLIENTS: usize = 1_000;
const LIMIT: usize = 4 << 20;
/// Almost as much as a rule allows.
const CHUNKS: usize = 63;
/// The begin of a frame with a message that the chunks do not complete.
const FRAME: &[u8] = &[0, 0, 0, 0xff, 0xff];

/// A kind of request whose content the layer reads.
struct Kind {
    method: &'static str,
    content_type: &'static str,
    begin: &'static [u8],
    rule: fn() -> Rule,
}

const MINUTE: Duration = Duration::from_secs(60);

const KINDS: [Kind; 6] = [
    Kind { method: "POST", content_type: "text/plain", begin: b"", rule: || Rule::ttl(MINUTE).reads_by_post() },
    Kind { method: "QUERY", content_type: "text/plain", begin: b"", rule: || Rule::ttl(MINUTE) },
    Kind { method: "POST", content_type: "application/grpc", begin: FRAME, rule: || Rule::rpc(MINUTE) },
    Kind { method: "POST", content_type: "application/grpc-web+proto", begin: FRAME, rule: || Rule::rpc(MINUTE) },
    Kind { method: "POST", content_type: "application/proto", begin: b"", rule: || Rule::rpc(MINUTE) },
    // A write that names what it invalidates by its message.
    Kind {
        method: "POST",
        content_type: "text/plain",
        begin: b"",
        rule: || Rule::uncached().invalidates_from_request(|_| Ok(Vec::new())),
    },
];

impl Kind {
    fn layer(&self) -> RequestBodyLayer {
        RequestBodyLayer::new(Rules::new().fallback((self.rule)())).max_buffered_bytes(LIMIT)
    }

    fn request(&self, chunks: usize) -> Request<Endless> {
        let request = Request::builder().method(self.method).uri("/s.S/A").header("content-type", self.content_type);
        request.body(Endless { begin: self.begin, chunks }).expect("a request")
    }
}

/// Begins requests of many clients, to a handler that has one unread body for each and never responds. Returns the number of requests that
/// have not reached the handler.
fn begin_requests(layer: &RequestBodyLayer, kind: &Kind, chunks: usize) -> usize {
    let called = Arc::new(AtomicUsize::new(0));
    let count = called.clone();
    let service = layer.layer(tower::service_fn(move |request: Request<ReadBody<Endless>>| {
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            let _unread = request;
            pending::<Result<Response<()>, Infallible>>().await
        }
    }));
    let mut begun: Vec<_> = (0..CLIENTS).map(|_| Box::pin(service.clone().oneshot(kind.request(chunks)))).collect();
    // The layer reads a part of a body at once, and goes on at the next poll.
    for client in (0..3).flat_map(|_| 0..CLIENTS) {
        let future = &mut begun[client];
        assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    CLIENTS - called.load(Ordering::Relaxed)
}

/// Returns the numbers of requests that are being read, in two rounds on one layer, and the number of bytes that were allocated at once.
fn measure_requests(kind: &Kind, chunks: usize) -> ([usize; 2], u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let layer = kind.layer();
    let mut reading = [0; 2];
    let measured = measure(|| {
        let _entered = runtime.enter();
        reading = [(); 2].map(|()| begin_requests(&layer, kind, chunks));
    });
    (reading, measured.bytes_max)
}

/// Without the limit, the content alone would take 63 MiB.
#[test]
fn memory_of_endless_request_bodies_is_bounded() {
    for kind in &KINDS {
        let name = format!("{} {}", kind.method, kind.content_type);
        let (reading, bytes) = measure_requests(kind, CHUNKS);
        println!("{name}: {} of {CLIENTS} clients are being read, at most {bytes} bytes were allocated", reading[0]);
        // All shares were returned with the requests of the first round. The other requests have passed on.
        assert_eq!(reading[0], reading[1], "{name}");
        assert!(reading[0] > LIMIT / (64 * CHUNK) - 2 && reading[0] <= LIMIT / (CHUNKS * CHUNK) + 1, "{name}: {reading:?}");
        // Buffers grow by doubling. The futures of the requests count as well.
        assert!(bytes < 3 * LIMIT as u64, "{name}: {bytes} bytes were allocated");
    }
}

/// Endless content passes on. The bytes that the layer has read count until the handler takes them.
#[test]
fn memory_of_unread_request_bodies_is_bounded() {
    for kind in &KINDS {
        let name = format!("{} {}", kind.method, kind.content_type);
        let (reading, bytes) = measure_requests(kind, usize::MAX);
        println!("{name}: at most {bytes} bytes were allocated");
        assert_eq!(reading, [0, 0], "{name}: all have passed on");
        assert!(bytes < 3 * LIMIT as u64, "{name}: {bytes} bytes were allocated");
    }
}
