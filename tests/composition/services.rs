//! The cache over any Tower service: types, uncovered requests, clones, stated lengths.

use std::{cell::Cell, convert::Infallible, marker::PhantomData, sync::atomic::Ordering};

use super::{Tenant, minute, with_clock, yielding};
use crate::common::*;
use axum::body::Body as AxumBody;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_response_cache::{
    CacheStatus, Outcome, Rule,
    status::{Bypass, Stale},
};

#[tokio::test]
async fn error_type_is_that_of_the_inner_service() {
    #[derive(Debug, PartialEq)]
    struct Own(u8);
    fn error_is_own<S: Service<Request<Plain>, Error = Own>>(service: S) -> S {
        service
    }
    let inner = service_fn(async |_: Request<Plain>| Err::<Response<Plain>, _>(Own(7)));
    let cache = error_is_own(minute().layer(inner));
    assert_eq!(cache.clone().oneshot(get("/t/a")).await.unwrap_err(), Own(7), "a miss");
    assert_eq!(cache.clone().oneshot(post("/t/a")).await.unwrap_err(), Own(7), "a bypass");
    assert_eq!(cache.oneshot(get("/other")).await.unwrap_err(), Own(7), "not covered");
}

/// `Clone` and `Send`, and not `Sync`.
#[derive(Clone)]
struct NotSync<S>(S, PhantomData<Cell<()>>);

impl<R, S: Service<R>> Service<R> for NotSync<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.0.call(request)
    }
}

#[tokio::test]
async fn inner_service_need_not_be_sync() {
    let (inner, _) = counting(|_, call| ok(format!("call {call}")));
    let cache = minute().layer(NotSync(inner, PhantomData));
    let mut task = cache.clone();
    let call = tokio::spawn(async move { task.ready().await.unwrap().call(get("/t/a")).await });
    assert_eq!(text(call.await.unwrap().unwrap()).await, "call 1");
    let hit = cache.oneshot(get("/t/a")).await.unwrap();
    assert_eq!(outcome(&hit), Outcome::Hit);
}

#[tokio::test]
async fn response_body_need_be_neither_sync_nor_unpin() {
    let cache = minute().layer(service_fn(async |_: Request<Plain>| {
        let (source, body) = channel_body(None);
        source.send("rows");
        Ok::<_, Infallible>(Response::new(body))
    }));
    // In a task, and as a body of axum.
    let miss = tokio::spawn(cache.clone().oneshot(get("/t/a"))).await.unwrap().unwrap();
    assert_eq!(text(miss.map(AxumBody::new)).await, "rows");
    let hit = cache.oneshot(get("/t/a")).await.unwrap();
    assert_eq!(outcome(&hit), Outcome::Hit);
}

#[tokio::test]
async fn request_with_an_open_body_passes() {
    let inner = service_fn(async |request: Request<ChannelBody>| {
        let mut body = Box::pin(request.into_body());
        let first = piece(&mut body).await.unwrap().unwrap();
        let (source, answer) = channel_body(None);
        source.send(first);
        source.send(body.collect().await.unwrap().to_bytes());
        Ok::<_, Infallible>(Response::new(answer))
    });
    let cache = minute().layer(inner);
    for method in [Method::POST, Method::GET] {
        let (source, body) = channel_body(None);
        let request = Request::builder().method(method.clone()).uri("/t/a").body(body).unwrap();
        let mut call = Box::pin(begin(&cache, request).await);
        assert!(poll_once(&mut call).is_pending());
        source.send("one");
        assert!(poll_once(&mut call).is_pending());
        source.send("two");
        drop(source);
        let response = within(call).await.unwrap();
        let why = if method == Method::GET { Bypass::RequestBody } else { Bypass::Method };
        assert_eq!(outcome(&response), Outcome::Bypass(why));
        assert_eq!(text(response).await, "onetwo");
    }
}

#[tokio::test]
async fn uncovered_requests_pass_unchanged() {
    let cache = minute().cache_status("cache");
    let (service, mut handle) = mocked::<ChannelBody>(&cache);
    let mut request = get("/other?x=1");
    request.headers_mut().insert(header::IF_NONE_MATCH, "\"a\"".parse().unwrap());
    request.extensions_mut().insert(Tenant("acme"));
    let call = begin(&service, request).await;
    let (seen, answer) = within(next_call(&mut handle)).await;
    assert_eq!(
        (seen.uri().to_string().as_str(), seen.headers()[header::IF_NONE_MATCH].as_bytes()),
        ("/other?x=1", &b"\"a\""[..])
    );
    assert_eq!(seen.extensions().get::<Tenant>().unwrap().0, "acme");
    let (source, body) = channel_body(None);
    answer.send_response(Response::new(body));
    let response = within(call).await.unwrap();
    assert!(response.headers().is_empty());
    assert!(CacheStatus::of(&response).is_none());
    let mut body = opened(response);
    source.send("one");
    assert_eq!(within(piece(&mut body)).await.unwrap().unwrap(), "one", "the piece arrives while the body is open");
    drop(body);
    assert!(source.is_dropped());
}

#[tokio::test]
async fn inner_service_is_not_called_before_the_lookup() {
    let (service, mut handle) = mocked::<Plain>(&minute());
    let miss = begin(&service, get("/t/a")).await;
    within(next_call(&mut handle)).await.1.send_response(ok("rows"));
    drop(within(miss).await.unwrap());
    for _ in 0..3 {
        let hit = within(begin(&service, get("/t/a")).await).await.unwrap();
        assert_eq!(outcome(&hit), Outcome::Hit);
    }
    drop(service);
    assert!(within(handle.next_request()).await.is_none(), "only the first request reached the inner service");
}

#[tokio::test]
async fn dropping_one_clone_stops_no_fill() {
    let (clock, layer) = with_clock(Rule::ttl(MINUTE).stale_while_revalidate(MINUTE));
    let (service, mut handle) = mocked::<Plain>(&layer);
    drop(layer.clone());
    let one = service.clone();
    let leader = begin(&one, get("/t/a")).await;
    let follower = begin(&service, get("/t/a")).await;
    drop((one, leader));
    drop(layer);
    within(next_call(&mut handle)).await.1.send_response(ok("one"));
    assert_eq!(text(within(follower).await.unwrap()).await, "one");
    // A refresh continues although the clone that began it is dropped.
    clock.advance(MINUTE + SECOND);
    let last = service.clone();
    let stale = within(begin(&last, get("/t/a")).await).await.unwrap();
    drop(last);
    assert_eq!(outcome(&stale), Outcome::Stale(Stale::WhileRevalidate));
    within(next_call(&mut handle)).await.1.send_response(ok("two"));
    within(async {
        while text(within(begin(&service, get("/t/a")).await).await.unwrap()).await != "two" {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn late_request_does_not_repeat_an_ended_fill() {
    let (inner, calls) = yielding();
    let cache = minute().layer(inner);
    for round in 0..1000 {
        let target = format!("/t/a?round={round}");
        let mut tasks = Vec::new();
        for i in 0..16 {
            let (service, request) = (cache.clone(), get(&target));
            tasks.push(tokio::spawn(async move {
                // Some come while the first fill is running, some when it has just ended.
                for _ in 0..i {
                    tokio::task::yield_now().await;
                }
                drop(service.oneshot(request).await.unwrap());
            }));
        }
        for task in tasks {
            within(task).await.unwrap();
        }
        assert_eq!(calls.load(Ordering::SeqCst), round + 1);
    }
}

#[tokio::test]
async fn stored_responses_state_their_length_if_configured() {
    let length = |response: &Response<tower_response_cache::CacheBody<ChannelBody>>| {
        response.headers().get(header::CONTENT_LENGTH).cloned()
    };
    for (configured, stated) in [(false, None), (true, Some("4"))] {
        let (service, mut handle) = mocked::<ChannelBody>(&minute().content_length(configured));
        let call = begin(&service, get("/t/a")).await;
        let (_, answer) = within(next_call(&mut handle)).await;
        let (source, body) = channel_body(None);
        source.send("rows");
        drop(source);
        answer.send_response(Response::new(body));
        let miss = within(call).await.unwrap();
        assert_eq!(length(&miss), None, "the response of the inner service is unchanged");
        let hit = within(begin(&service, get("/t/a")).await).await.unwrap();
        assert_eq!(length(&hit), stated.map(HeaderValue::from_static));
        assert_eq!(within(text(hit)).await, "rows");
        // A HEAD or a range response states its length in any case.
        let mut head = get("/t/a");
        *head.method_mut() = Method::HEAD;
        assert_eq!(length(&within(begin(&service, head).await).await.unwrap()), Some(HeaderValue::from_static("4")));
        let mut part = get("/t/a");
        part.headers_mut().insert(header::RANGE, HeaderValue::from_static("bytes=1-2"));
        assert_eq!(length(&within(begin(&service, part).await).await.unwrap()), Some(HeaderValue::from_static("2")));
    }
}

#[tokio::test]
async fn responses_that_exclude_a_length_state_none() {
    let (service, mut handle) = mocked::<ChannelBody>(&minute().content_length(true));
    for (target, status, trailers) in [("/t/a", StatusCode::OK, true), ("/t/b", StatusCode::NO_CONTENT, false)] {
        let call = begin(&service, get(target)).await;
        let (_, answer) = within(next_call(&mut handle)).await;
        let (source, body) = channel_body(None);
        if trailers {
            source.send("rows");
            source.trailers("grpc-status", "0");
        }
        drop(source);
        let mut response = Response::new(body);
        *response.status_mut() = status;
        answer.send_response(response);
        drop(within(call).await.unwrap());
        for method in [Method::GET, Method::HEAD] {
            let mut request = get(target);
            *request.method_mut() = method.clone();
            let hit = within(begin(&service, request).await).await.unwrap();
            assert_eq!((hit.status(), hit.headers().get(header::CONTENT_LENGTH)), (status, None), "{method} {target}");
        }
    }
}
