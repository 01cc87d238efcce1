//! Writes by RPC: the bodies of their responses, their status, and the time of their invalidation.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneService};
use tower_response_cache::{CacheBody, CacheLayer, InvalidateLayer, Memory, Outcome, Rule, Store, invalidate::InvalidateBody};

use super::{memory, table};
use crate::common::*;

const GRPC: &str = "application/grpc";
const WEB: &str = "application/grpc-web+proto";
const WEB_TEXT: &str = "application/grpc-web-text";
const CONNECT_STREAM: &str = "application/connect+json";

/// A body that is always ready. Each frame is made when it is polled.
struct Steps(VecDeque<Box<dyn FnOnce() -> Frame<Bytes> + Send>>);

impl Steps {
    fn step(mut self, step: impl FnOnce() -> Frame<Bytes> + Send + 'static) -> Self {
        self.0.push_back(Box::new(step));
        self
    }

    fn data(self, data: &'static [u8]) -> Self {
        self.step(move || Frame::data(Bytes::from_static(data)))
    }
}

impl Body for Steps {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|step| Ok(step())))
    }
}

fn steps() -> Steps {
    Steps(VecDeque::new())
}

fn trailers(status: &str) -> Frame<Bytes> {
    Frame::trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())]))
}

fn write(kind: &str, version: Version) -> Request<Plain> {
    let mut request = post("/t/a");
    *request.version_mut() = version;
    request.headers_mut().insert(header::CONTENT_TYPE, kind.parse().unwrap());
    request
}

/// A value that is read through a cache, and written by calls.
struct App {
    store: Memory,
    value: Arc<AtomicUsize>,
    read: BoxCloneService<Request<Plain>, Response<CacheBody<Plain>>, Infallible>,
    rule: Rule,
}

impl App {
    fn new(rule: Rule) -> Self {
        let (store, value) = (memory(), Arc::new(AtomicUsize::new(1)));
        let now = value.clone();
        let (inner, _) = counting(move |_, _| ok(now.load(Ordering::SeqCst).to_string()));
        let read = CacheLayer::new(store.clone()).rules(one_rule(table())).layer(inner).boxed_clone();
        Self { store, value, read, rule }
    }

    /// Writes by a call with this response.
    async fn write<B>(&self, request: Request<Plain>, response: Response<B>) -> Response<InvalidateBody<B>>
    where
        B: Body<Data: Send, Error: Send> + Send + 'static,
    {
        let response = Arc::new(Mutex::new(Some(response)));
        let inner = service_fn(move |_: Request<Plain>| {
            let response = response.lock().unwrap().take().expect("one call");
            async move { Ok::<_, Infallible>(response) }
        });
        InvalidateLayer::new(self.store.clone()).rules(one_rule(self.rule.clone())).layer(inner).oneshot(request).await.unwrap()
    }

    async fn value(&self) -> String {
        text(send(&self.read, get("/t/a")).await).await
    }

    fn change(&self) -> impl Fn() + Send + use<> {
        let value = self.value.clone();
        move || _ = value.fetch_add(1, Ordering::SeqCst)
    }

    fn invalidations(&self) -> u64 {
        self.store.stats().invalidations
    }
}

#[tokio::test]
async fn change_by_the_last_poll_of_a_call_is_invalidated() {
    let ends: [(&str, Version, &[u8]); 8] = [
        (GRPC, Version::HTTP_2, b""),
        (GRPC, Version::HTTP_11, b""),
        ("application/grpc+proto", Version::HTTP_11, b""),
        (WEB, Version::HTTP_11, b"\x80\0\0\0\x0fgrpc-status:0\r\n"),
        (WEB, Version::HTTP_2, b"\x80\0\0\0\x0fgrpc-status:0\r\n"),
        (WEB_TEXT, Version::HTTP_11, b"gAAAAA9ncnBjLXN0YXR1czowDQo="),
        (CONNECT_STREAM, Version::HTTP_11, b"\x02\0\0\0\x02{}"),
        (CONNECT_STREAM, Version::HTTP_2, b"\x02\0\0\0\x02{}"),
    ];
    for (kind, version, end) in ends {
        let app = App::new(table());
        let change = app.change();
        let message: &[u8] = if kind == WEB_TEXT { b"AAAAAAFh" } else { b"\0\0\0\0\x01a" };
        let body = steps().data(message).step(move || {
            change();
            if end.is_empty() { trailers("0") } else { Frame::data(Bytes::from_static(end)) }
        });
        let mut body = Box::pin(app.write(write(kind, version), Response::new(body)).await.into_body());
        assert_eq!(app.value().await, "1", "stored during the call");
        let mut frames = Vec::new();
        loop {
            let Some(frame) = body.frame().await else { break };
            frames.push(frame.unwrap());
            if frames.len() == 2 && end.is_empty() {
                assert_eq!(app.value().await, "2", "{kind} {version:?}: the status has arrived");
            }
        }
        assert_eq!(app.value().await, "2", "{kind} {version:?}: the body has ended");
        let [first, second] = &frames[..] else { panic!("{kind}: {frames:?}") };
        assert_eq!(first.data_ref().unwrap(), message, "{kind}");
        assert_eq!(second.data_ref().map_or(&b""[..], |data| data), end, "{kind}");
    }
}

#[tokio::test]
async fn unary_call_invalidates_once_before_its_status() {
    let app = App::new(table());
    app.change()();
    let body = steps().data(b"\0\0\0\0\x01a").step(|| trailers("0"));
    let mut body = Box::pin(app.write(write(GRPC, Version::HTTP_2), Response::new(body)).await.into_body());
    assert!(body.frame().await.unwrap().unwrap().is_data());
    assert_eq!(app.invalidations(), 0);
    assert!(body.frame().await.unwrap().unwrap().is_trailers());
    assert_eq!((app.invalidations(), body.frame().await.is_none()), (1, true));
}

#[tokio::test]
async fn stream_invalidates_before_its_status() {
    let app = App::new(table());
    let (source, body) = channel_body(None);
    let mut body = Box::pin(app.write(write(GRPC, Version::HTTP_2), Response::new(body)).await.into_body());
    source.send(&b"\0\0\0\0\x01a"[..]);
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "\0\0\0\0\x01a");
    assert_eq!((app.value().await.as_str(), app.invalidations()), ("1", 0));
    source.send(&b"\0\0\0\0\x01b"[..]);
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "\0\0\0\0\x01b");
    app.change()();
    source.trailers("grpc-status", "0");
    assert!(body.frame().await.unwrap().unwrap().is_trailers());
    assert_eq!((app.value().await.as_str(), app.invalidations()), ("2", 1));
}

#[tokio::test(start_paused = true)]
async fn abandoned_call_ends_and_invalidates_after_its_limit() {
    let app = App::new(table());
    let (source, body) = channel_body(None);
    let mut body = Box::pin(app.write(write(GRPC, Version::HTTP_2), Response::new(body)).await.into_body());
    source.send(&b"\0\0\0\0\x01a"[..]);
    body.frame().await.unwrap().unwrap();
    assert_eq!(app.value().await, "1");
    let before = app.invalidations();
    drop(body);
    tokio::time::sleep(59 * SECOND).await;
    app.change()();
    assert_eq!((source.is_dropped(), app.invalidations()), (false, before));
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!((source.is_dropped(), app.invalidations()), (true, before + 1));
    assert_eq!(app.value().await, "2");
}

#[tokio::test]
async fn abandoned_call_that_is_always_ready_lets_others_run() {
    const FRAMES: usize = 1_000_000;
    let app = App::new(table());
    let polled = Arc::new(AtomicUsize::new(0));
    struct Ready(Arc<AtomicUsize>);
    impl Body for Ready {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let is_left = self.0.fetch_add(1, Ordering::SeqCst) < FRAMES;
            Poll::Ready(is_left.then(|| Ok(Frame::data(Bytes::from_static(b"\0\0\0\0\x01a")))))
        }
    }
    let mut body = Box::pin(app.write(write(GRPC, Version::HTTP_2), Response::new(Ready(polled.clone()))).await.into_body());
    body.frame().await.unwrap().unwrap();
    drop(body);
    tokio::task::yield_now().await;
    assert!(polled.load(Ordering::SeqCst) < FRAMES, "the body was read without a pause");
    let before = app.invalidations();
    eventually(|| app.invalidations() > before).await;
}

/// Statuses that may follow a change invalidate also if the rule keeps entries after errors of the client.
#[tokio::test]
async fn statuses_that_may_follow_a_change_invalidate() {
    let may_follow = [0, 1, 2, 4, 8, 10, 11, 13, 14, 15, 17, 99];
    for status in (0..=17).chain([99]) {
        let text = status.to_string();
        let web: &'static [u8] = Box::leak(format!("grpc-status: {text}\r\n").into_bytes().into_boxed_slice());
        for kind in [GRPC, WEB] {
            for in_head in [true, false] {
                let app = App::new(table().skip_on_client_error());
                let last = text.clone();
                let body = match (in_head, kind) {
                    (true, _) => steps(),
                    (false, GRPC) => steps().step(move || trailers(&last)),
                    _ => steps().step(move || {
                        let length = u32::try_from(web.len()).unwrap().to_be_bytes();
                        Frame::data([&[0x80], &length[..], web].concat().into())
                    }),
                };
                let mut response = Response::new(body);
                if in_head {
                    response.headers_mut().insert("grpc-status", text.parse().unwrap());
                }
                app.write(write(kind, Version::HTTP_2), response).await.into_body().collect().await.unwrap();
                // A status in the body is not read.
                let may_follow = may_follow.contains(&status) || kind == WEB && !in_head;
                assert_eq!(app.invalidations() > 0, may_follow, "{kind} {status}, in the head: {in_head}");
            }
        }
    }
}

#[tokio::test]
async fn call_without_a_status_always_invalidates() {
    for rule in [table(), table().skip_on_client_error(), table().skip_on_error()] {
        for body in [steps(), steps().data(b"\0\0\0\0\x01a"), steps().step(|| trailers("none"))] {
            let app = App::new(rule.clone());
            let response = app.write(write(GRPC, Version::HTTP_2), Response::new(body)).await;
            response.into_body().collect().await.unwrap();
            assert!(app.invalidations() > 0);
        }
    }
}

#[tokio::test]
async fn reads_are_hits_between_calls() {
    let app = App::new(table());
    let body = steps().step(|| trailers("0"));
    app.write(write(GRPC, Version::HTTP_2), Response::new(body)).await.into_body().collect().await.unwrap();
    app.value().await;
    assert_eq!(outcome(&send(&app.read, get("/t/a")).await), Outcome::Hit);
}
