//! The inner service: asks the origin, and answers for it where it does not.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, HOST, TE, TRANSFER_ENCODING},
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body_util::{Either, Full};
use hyper::body::{Body, Incoming};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::timeout;
use tower::Service;

use crate::fields::{append_via, remove_hop_by_hop};

/// How long the origin has to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long it has for the head of its response.
const ANSWER: Duration = Duration::from_secs(60);
/// How long a connection is kept for the next request: less than the five seconds after which Node, for one, closes it,
/// for a request on a connection that is just being closed would fail.
const IDLE: Duration = Duration::from_secs(4);

#[derive(Clone)]
pub(crate) struct Origin {
    client: Client<HttpConnector, Incoming>,
    authority: Authority,
}

pub(crate) type OriginBody = Either<Incoming, Full<Bytes>>;

impl Origin {
    pub(crate) fn new(authority: Authority) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT));
        let client =
            Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE).build(connector);
        Self { client, authority }
    }

    /// Addresses a request to the origin.
    fn address(&self, request: &mut Request<Incoming>) {
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let uri = Uri::builder().scheme(Scheme::HTTP).authority(self.authority.clone()).path_and_query(path).build();
        *request.uri_mut() = uri.unwrap_or_default();

        // `Host` stays what the client sent, so that what the origin says about itself, in `Location`, say, is true for the
        // client as well. HTTP/1.0 has none.
        let whole = !request.body().is_end_stream() && !request.headers().contains_key(CONTENT_LENGTH);
        let headers = request.headers_mut();
        if !headers.contains_key(HOST)
            && let Ok(host) = HeaderValue::try_from(self.authority.as_str())
        {
            headers.insert(HOST, host);
        }
        // hyper takes a GET for one without content unless its framing is spelled out.
        if whole {
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        // RFC 9110, section 6.5.1: trailers are welcome here, whoever asks for the stored response later.
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
}

impl Service<Request<Incoming>> for Origin {
    type Response = Response<OriginBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Incoming>) -> Self::Future {
        self.address(&mut request);
        let asked = self.client.request(request);
        Box::pin(async move {
            let answer = match timeout(ANSWER, asked).await {
                Ok(Ok(response)) => received(response).map(Either::Left),
                Ok(Err(error)) => {
                    eprintln!("proxy: {}", chain(&error));
                    said(StatusCode::BAD_GATEWAY, "the origin cannot be reached\n").map(Either::Right)
                }
                Err(_) => said(StatusCode::GATEWAY_TIMEOUT, "the origin does not answer\n").map(Either::Right),
            };
            Ok(answer)
        })
    }
}

/// The origin's response as this proxy's own.
fn received(mut response: Response<Incoming>) -> Response<Incoming> {
    let version = response.version();
    let headers = response.headers_mut();
    remove_hop_by_hop(headers);
    append_via(headers, version);
    date(headers);
    *response.version_mut() = Version::HTTP_11;
    response
}

/// RFC 9110, section 6.6.1: who receives a response without a date writes down when that was.
fn date(headers: &mut HeaderMap) {
    if !headers.contains_key(DATE)
        && let Ok(now) = HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::now()))
    {
        headers.insert(DATE, now);
    }
}

/// A response that this proxy makes by itself.
pub(crate) fn said(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
