//! QUERY: its content is read, enters the key, and reaches the inner service as it was sent.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use crate::common::{MINUTE, counting, outcome, text};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_response_cache::{
    CacheLayer, Memory, Outcome, RequestBodyLayer, Rule, Rules,
    request_body::ReadBody,
    status::{Bypass, Miss},
};

/// Content that comes in pieces, followed by trailers or an error.
struct Pieces(Vec<&'static str>, Option<Result<HeaderMap, &'static str>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        Poll::Ready(match self.0.is_empty() {
            false => Some(Ok(Frame::data(self.0.remove(0).into()))),
            true => self.1.take().map(|end| end.map(Frame::trailers)),
        })
    }
}

/// Sends content to a service that returns it with the number of its trailers. Returns outcomes and bodies.
async fn ask(service_max: usize, method: &str, times: usize, content: impl Fn() -> Pieces) -> Vec<(Outcome, String)> {
    let rules = Rules::new().fallback(Rule::ttl(MINUTE).max_request_body(service_max));
    let service = ServiceBuilder::new()
        .layer(RequestBodyLayer::new(rules.clone()))
        .layer(CacheLayer::new(Memory::default()).rules(rules))
        .service(service_fn(|request: Request<ReadBody<Pieces>>| async {
            let said = match request.into_body().collect().await {
                Ok(whole) => {
                    let trailers = whole.trailers().map_or(0, HeaderMap::len);
                    format!("{} +{trailers}", String::from_utf8_lossy(&whole.to_bytes()))
                }
                Err(error) => error.to_owned(),
            };
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(said)))
        }));
    let mut answers = Vec::new();
    for _ in 0..times {
        let request = Request::builder().method(method).uri("/q").body(content()).expect("a request");
        let response = service.clone().oneshot(request).await.expect("a response");
        answers.push((outcome(&response), text(response).await));
    }
    answers
}

const MISS: Outcome = Outcome::Miss(Miss::Absent);
const BYPASS: Outcome = Outcome::Bypass(Bypass::Method);
const TOO_LARGE: Outcome = Outcome::Bypass(Bypass::RequestBodyTooLarge);

#[tokio::test]
async fn content_within_the_limit_is_part_of_the_key() {
    let trailers = || Some(Ok(HeaderMap::from_iter([(http::header::AGE, http::HeaderValue::from_static("1"))])));
    for pieces in [vec![], vec!["abcd"], vec!["ab", "", "cd"]] {
        let want = format!("{} +1", pieces.concat());
        let got = ask(4, "QUERY", 2, || Pieces(pieces.clone(), trailers())).await;
        assert_eq!(got, [(MISS, want.clone()), (Outcome::Hit, want)], "{pieces:?}");
    }
}

#[tokio::test]
async fn content_beyond_the_limit_passes_uncached() {
    for pieces in [vec!["abcde"], vec!["abcd", "e"], vec!["ab", "cde", "fgh"]] {
        let want = format!("{} +0", pieces.concat());
        let got = ask(4, "QUERY", 2, || Pieces(pieces.clone(), None)).await;
        assert_eq!(got, [(TOO_LARGE, want.clone()), (TOO_LARGE, want)], "{pieces:?}");
    }
}

#[tokio::test]
async fn failed_content_is_an_error_for_the_handler() {
    let got = ask(4, "QUERY", 2, || Pieces(vec!["ab"], Some(Err("broken")))).await;
    let failed = Outcome::Bypass(Bypass::RequestBodyError);
    assert_eq!(got, [(failed, "broken".into()), (failed, "broken".into())]);
}

#[tokio::test]
async fn content_of_other_methods_is_not_read() {
    for method in ["POST", "query", "REPORT"] {
        let got = ask(4, method, 2, || Pieces(vec!["ab"], None)).await;
        assert_eq!(got, [(BYPASS, "ab +0".into()), (BYPASS, "ab +0".into())], "{method}");
    }
}

#[tokio::test]
async fn query_bypasses_without_the_request_body_layer() {
    let (inner, _) = counting(|_, _| crate::common::ok("x"));
    let service = ServiceBuilder::new().layer(CacheLayer::new(Memory::default()).rule(Rule::ttl(MINUTE))).service(inner);
    let request = Request::builder().method("QUERY").uri("/q").body(Full::from("a")).expect("a request");
    assert_eq!(outcome(&service.oneshot(request).await.expect("a response")), BYPASS);
}
