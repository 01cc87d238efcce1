//! Remembered targets of requests with content: the part of the target is remembered, and the part of the content is written for each request.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use proptest::{prelude::*, sample::select};
use tower::{ServiceBuilder, ServiceExt, service_fn, util::BoxCloneService};
use tower_response_cache::{
    __private::remember_at_once, CacheStatus, Clock, Memory, Outcome, ResponseCache, RouteAndQuery, Rule,
    request_body::ReadBody,
};

use super::remembered::Unremembered;
use crate::common::{MINUTE, rpc::success};

/// A response with everything that a client sees.
type Seen = (Option<Outcome>, HeaderMap, Bytes, Option<HeaderMap>);

type Service = BoxCloneService<Request<Full<Bytes>>, Seen, Infallible>;

#[derive(Debug, Clone)]
struct Step {
    target: &'static str,
    /// A GET, of Connect if it has a message.
    is_get: bool,
    kind: &'static str,
    message: &'static str,
    fields: Vec<(&'static str, &'static str)>,
    invalidates: bool,
}

impl Step {
    fn request(&self) -> Request<Full<Bytes>> {
        let mut request = match self.is_get {
            true if self.message.is_empty() => Request::get(self.target),
            true => Request::get(format!("{}?connect=v1&encoding=json&message={}", self.target, self.message)),
            false => Request::post(self.target).header("content-type", self.kind),
        };
        for (name, value) in &self.fields {
            request = request.header(*name, *value);
        }
        let content = match self.is_get {
            true => Vec::new(),
            false if self.kind == "application/grpc" => {
                [&[0, 0, 0, 0, self.message.len() as u8], self.message.as_bytes()].concat()
            }
            false => self.message.as_bytes().to_vec(),
        };
        request.body(content.into()).expect("a request")
    }
}

fn step() -> impl Strategy<Value = Step> {
    let targets = select(&["/s.S/A", "/s.S/B", "/s.S/A?x=1", "http://one.example/s.S/A"][..]);
    let kinds = select(&["application/grpc", "application/json", "application/proto"][..]);
    let fields = prop::collection::vec(
        select(
            &[
                ("grpc-encoding", "gzip"),
                ("accept-encoding", "gzip"),
                ("accept-encoding", "br"),
                ("grpc-timeout", "5S"),
                ("x-forwarded-host", "one.example"),
                ("x-forwarded-host", "two.example"),
                ("authorization", "Bearer 1"),
                ("range", "bytes=0-1"),
            ][..],
        ),
        0..2,
    );
    (targets, prop::bool::weighted(0.2), kinds, select(&["", "a", "b"][..]), fields, prop::bool::weighted(0.05)).prop_map(
        |(target, is_get, kind, message, fields, invalidates)| {
            // The query of the target has its own parameters.
            let is_get = is_get && !target.contains('?');
            Step { target, is_get, kind, message, fields, invalidates }
        },
    )
}

fn cache(rule: Rule) -> ResponseCache {
    let store = Memory::builder().clock(Clock::manual()).build();
    ResponseCache::new(store).route("/s.S/{method}", rule.namespace("s"))
}

fn service(cache: &ResponseCache) -> Service {
    let inner = service_fn(|request: Request<ReadBody<Full<Bytes>>>| async {
        let (head, body) = request.into_parts();
        let content = body.collect().await.expect("a whole body").to_bytes();
        let text = format!("{} {} {:?} {content:?}", head.method, head.uri, head.headers);
        Ok::<_, Infallible>(success(&head.headers, &text))
    });
    let service = ServiceBuilder::new().layer(cache.layer_with_request_bodies()).service(inner);
    BoxCloneService::new(service_fn(move |request: Request<Full<Bytes>>| {
        let service = service.clone();
        async move {
            let response = service.oneshot(request).await?;
            let outcome = CacheStatus::of(&response).map(|status| status.outcome());
            let (head, body) = response.into_parts();
            let body = body.collect().await.expect("a whole body");
            let trailers = body.trailers().cloned();
            Ok((outcome, head.headers, body.to_bytes(), trailers))
        }
    }))
}

/// Sends the same requests to a cache that remembers targets and to one that does not, and compares the responses.
async fn compare(rule: fn() -> Rule, extractor: RouteAndQuery, steps: &[Step]) -> usize {
    let caches = [cache(rule()), cache(rule().key(Unremembered(extractor)))];
    let services = caches.each_ref().map(service);
    let mut hits = 0;
    for step in steps {
        if step.invalidates {
            for cache in &caches {
                cache.invalidate(["s"]).await.expect("memory is always reached");
            }
        }
        let [mut one, mut other] = [Vec::new(), Vec::new()];
        for (service, seen) in services.iter().zip([&mut one, &mut other]) {
            seen.push(service.clone().oneshot(step.request()).await.expect("a response"));
        }
        hits += usize::from(one[0].0 == Some(Outcome::Hit));
        assert_eq!(one, other, "{step:?}");
    }
    hits
}

fn run(rule: fn() -> Rule, extractor: RouteAndQuery, steps: &[Step]) -> usize {
    remember_at_once();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(compare(rule, extractor, steps))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn remembered_calls_get_the_responses_of_others(steps in prop::collection::vec(step(), 1..60)) {
        run(|| Rule::rpc(MINUTE), RouteAndQuery.query_as_sent(), &steps);
        run(|| Rule::rpc(MINUTE).rpc_age(), RouteAndQuery.query_as_sent(), &steps);
        run(|| Rule::ttl(MINUTE).reads_by_post(), RouteAndQuery, &steps);
    }
}

#[test]
fn repeated_calls_of_several_messages_are_hits() {
    let step = |message| Step {
        target: "/s.S/A",
        is_get: false,
        kind: "application/grpc",
        message,
        fields: Vec::new(),
        invalidates: false,
    };
    let steps: Vec<_> = (0..30).map(|n| step(["a", "b", "c"][n % 3])).collect();
    assert_eq!(run(|| Rule::rpc(MINUTE), RouteAndQuery.query_as_sent(), &steps), 27);
}

#[test]
fn get_is_never_answered_with_remembered_content() {
    let step = |is_get, message| Step {
        target: "/s.S/A",
        is_get,
        kind: "application/json",
        message,
        fields: Vec::new(),
        invalidates: false,
    };
    let steps: Vec<_> = [step(false, "a"), step(false, "a"), step(false, "a"), step(true, ""), step(true, "")].into();
    run(|| Rule::ttl(MINUTE).reads_by_post(), RouteAndQuery, &steps);
}
