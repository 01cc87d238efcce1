//! Calls by gRPC over a store that two processes share.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use tower::{ServiceBuilder, ServiceExt, service_fn, util::BoxCloneService};
use tower_response_cache::{
    CacheBody, CacheLayer, InvalidateLayer, Outcome, Redis, RequestBodyLayer, Rule, Rules, invalidate::InvalidateBody,
    redis::Coherence, request_body::ReadBody,
};

use crate::{
    common::{
        MINUTE, outcome,
        redis::{Server, until},
    },
    setup::{builder, store},
};

const GET: &str = "/notes.v1.Notes/Get";
const PUT: &str = "/notes.v1.Notes/Put";
const MISSING: &[u8] = b"\0\0\0\0\x01?";

type Served = Response<InvalidateBody<CacheBody<BoxBody<Bytes, Infallible>>>>;
type Process = BoxCloneService<Request<Full<Bytes>>, Served, Infallible>;

fn fields(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

/// A process with a method that reads the number of the last write, fails for `?`, and counts its calls.
fn process(store: Redis, written: Arc<AtomicUsize>, calls: Arc<AtomicUsize>) -> Process {
    let get = Rule::rpc(MINUTE).rpc_status(5, MINUTE).namespace("notes");
    let rules = Rules::new().route(GET, get).route(PUT, Rule::uncached().invalidates("notes"));
    let inner = service_fn(move |request: Request<ReadBody<Full<Bytes>>>| {
        let (written, calls) = (written.clone(), calls.clone());
        async move {
            let path = request.uri().path().to_owned();
            let message = request.into_body().collect().await.unwrap().to_bytes();
            let response = Response::builder().header("content-type", "application/grpc");
            if message == MISSING {
                calls.fetch_add(1, Ordering::SeqCst);
                let body = Full::default().with_trailers(async { Some(Ok(fields(&[("grpc-status", "5")]))) }).boxed();
                return Ok::<_, Infallible>(response.body(body).unwrap());
            }
            let number = match path == PUT {
                true => written.fetch_add(1, Ordering::SeqCst) + 1,
                false => {
                    calls.fetch_add(1, Ordering::SeqCst);
                    written.load(Ordering::SeqCst)
                }
            };
            let message = [&b"\0\0\0\0\x01"[..], &[b'0' + number as u8]].concat();
            let trailers = [("grpc-status", "0"), ("x-trace-bin", "AQID"), ("x-repeated", "1"), ("x-repeated", "2")];
            let body = Full::from(message).with_trailers(async move { Some(Ok(fields(&trailers))) });
            Ok(response.header("x-call", "7").body(body.boxed()).unwrap())
        }
    });
    let service = ServiceBuilder::new()
        .layer(InvalidateLayer::new(store.clone()).rules(rules.clone()))
        .layer(RequestBodyLayer::new(rules.clone()))
        .layer(CacheLayer::new(store).rules(rules))
        .service(inner);
    BoxCloneService::new(service)
}

/// Makes a call. Returns its outcome, and all that its client receives.
async fn call(process: &Process, path: &str, message: &'static [u8]) -> (Outcome, HeaderMap, Bytes, Option<HeaderMap>) {
    let request = Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
    let response = process.clone().oneshot(request.body(Full::from(message)).unwrap()).await.unwrap();
    let outcome = outcome(&response);
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned();
    (outcome, head.headers, body.to_bytes(), trailers)
}

#[tokio::test(flavor = "multi_thread")]
async fn call_stored_by_one_process_is_replayed_by_another() {
    let server = Server::start().await;
    for (n, coherence) in [Coherence::Leased, Coherence::Validated].into_iter().enumerate() {
        let prefix = format!("calls{n}");
        let (written, calls) = (Arc::default(), Arc::<AtomicUsize>::default());
        let one = process(store(&server, &prefix, coherence, true).await, Arc::clone(&written), calls.clone());
        let other = process(store(&server, &prefix, coherence, true).await, written, calls.clone());
        for message in [&b"\0\0\0\0\x01a"[..], MISSING] {
            calls.store(0, Ordering::SeqCst);
            let (_, headers, body, trailers) = call(&one, GET, message).await;
            assert!(trailers.is_some());
            assert_eq!(call(&other, GET, message).await, (Outcome::Hit, headers, body, trailers));
            assert_eq!(calls.load(Ordering::SeqCst), 1);
        }
        for number in 1..4 {
            call(&one, PUT, b"\0\0\0\0\x01b").await;
            let is_seen = async || call(&other, GET, b"\0\0\0\0\x01a").await.2[5] == b'0' + number;
            match coherence {
                Coherence::Validated => assert!(is_seen().await),
                _ => until("the write is seen", is_seen).await,
            }
        }
    }
}

/// The entries of a strict store come back after a call that writes.
#[tokio::test(flavor = "multi_thread")]
async fn call_that_writes_removes_its_fence() {
    let server = Server::start().await;
    let store = builder(&server).strict(MINUTE).build().await.unwrap();
    let process = process(store, Arc::default(), Arc::default());
    call(&process, GET, b"\0\0\0\0\x01a").await;
    call(&process, PUT, b"\0\0\0\0\x01b").await;
    assert_eq!(server.keys("*:f:*").await, Vec::<String>::new());
    until("hits are back", async || call(&process, GET, b"\0\0\0\0\x01a").await.0 == Outcome::Hit).await;
}
