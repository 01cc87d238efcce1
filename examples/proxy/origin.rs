//! The inner service, which forwards requests to the origin.

use std::{
    error, fmt,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, DATE, ETAG, HOST, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, TE, TRANSFER_ENCODING,
        UPGRADE,
    },
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body_util::{BodyExt, Either, Empty, combinators::UnsyncBoxBody};
use hyper::{
    body::{Body, Incoming},
    ext::on_informational,
};
use hyper_util::{
    client::legacy::{self, Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::timeout;
use tower::Service;
use tower_response_cache::{
    request_body::ReadBody,
    semantics::{self, ETag},
};

use crate::{
    headers::{append_via, remove_hop_by_hop},
    interim::Interim,
    upgrade,
};

/// The time in which the origin must accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The time in which the head of a response must arrive.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// The time after which an idle connection is closed. It is shorter than the five seconds of Node, because a request on a connection
/// that the origin is closing fails.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

#[derive(Clone)]
pub(crate) struct Origin {
    client: Client<HttpConnector, Either<RequestBody, Empty<Bytes>>>,
    authority: Authority,
}

/// The body of a request to the origin.
type RequestBody = ReadBody<Incoming>;

/// The head of a request that may be repeated: a safe request without content. A write is never repeated, because the origin may have
/// processed it the first time.
struct Retry(Parts);

impl Retry {
    fn of(request: Request<RequestBody>) -> (Request<Either<RequestBody, Empty<Bytes>>>, Option<Self>) {
        // Such a field may change the method.
        let overridden = |name: &str| name.starts_with("x-") && name.contains("method");
        let repeatable = request.method().is_safe()
            && request.body().is_end_stream()
            && !request.headers().keys().any(|name| *name == UPGRADE || overridden(name.as_str()));
        let (head, body) = request.into_parts();
        let retry = repeatable.then(|| Self(head.clone()));
        (Request::from_parts(head, Either::Left(body)), retry)
    }

    fn request(&self) -> Request<Either<RequestBody, Empty<Bytes>>> {
        Request::from_parts(self.0.clone(), Either::Right(Empty::new()))
    }

    /// Returns whether a 304 has another validator than the request (RFC 9111, section 4.3.4).
    fn mismatches(&self, response: &Response<Incoming>) -> bool {
        if response.status() != StatusCode::NOT_MODIFIED {
            return false;
        }
        let mut validators = HeaderMap::new();
        if let Some(tag) = self.0.headers.get(IF_NONE_MATCH) {
            // With several tags, the 304 may be about any of them.
            if ETag::parse(tag.as_bytes()).is_none() {
                return false;
            }
            validators.insert(ETAG, tag.clone());
        }
        if let Some(date) = self.0.headers.get(IF_MODIFIED_SINCE) {
            validators.insert(LAST_MODIFIED, date.clone());
        }
        semantics::validated(&[&validators], response.headers()).is_none()
    }

    fn without_conditions(mut self) -> Self {
        for name in [IF_NONE_MATCH, IF_MODIFIED_SINCE] {
            self.0.headers.remove(name);
        }
        self
    }
}

pub(crate) type OriginBody = UnsyncBoxBody<Bytes, hyper::Error>;

/// The reason why there is no response. As an error it allows the cache to serve a stale response.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OriginError {
    Unreachable,
    Timeout,
}

impl OriginError {
    /// Returns the status and text for the client, and the detail of `Cache-Status`.
    pub(crate) fn response(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Unreachable => (StatusCode::BAD_GATEWAY, "the origin cannot be reached\n", "unreachable"),
            Self::Timeout => (StatusCode::GATEWAY_TIMEOUT, "the origin does not respond\n", "timeout"),
        }
    }
}

impl fmt::Display for OriginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.response().1.trim_end())
    }
}

impl error::Error for OriginError {}

impl Origin {
    pub(crate) fn new(authority: Authority) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(connector);
        Self { client, authority }
    }

    /// Sets the URI and the hop-by-hop fields of a request to the origin.
    fn set_target(&self, request: &mut Request<RequestBody>) {
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let uri = Uri::builder().scheme(Scheme::HTTP).authority(self.authority.clone()).path_and_query(path).build();
        *request.uri_mut() = uri.unwrap_or_default();

        // The `Host` of the client is kept, so that URIs in the response, for example in `Location`, are valid for the client. HTTP/1.0
        // has no `Host`.
        let has_unsized_body = !request.body().is_end_stream() && !request.headers().contains_key(CONTENT_LENGTH);
        let headers = request.headers_mut();
        if !headers.contains_key(HOST)
            && let Ok(host) = HeaderValue::try_from(self.authority.as_str())
        {
            headers.insert(HOST, host);
        }
        // hyper sends the content of a GET only with an explicit framing.
        if has_unsized_body {
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        // RFC 9110, section 6.5.1: the proxy accepts trailers, which it stores with the response.
        headers.insert(TE, HeaderValue::from_static("trailers"));
        let options = if headers.contains_key(UPGRADE) { "te, upgrade" } else { "te" };
        headers.insert(CONNECTION, HeaderValue::from_static(options));
    }
}

impl Service<Request<RequestBody>> for Origin {
    type Response = Response<OriginBody>;
    type Error = OriginError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, OriginError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), OriginError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<RequestBody>) -> Self::Future {
        self.set_target(&mut request);
        let client = upgrade::Client::of(&mut request);
        if let Some(interim) = request.extensions_mut().remove::<Interim>() {
            on_informational(&mut request, move |response| {
                // RFC 9110, section 15.2.1: the origin's 100 is not for the client, because `Expect` was removed.
                if response.status() != StatusCode::CONTINUE {
                    interim.send(response.status(), response.headers());
                }
            });
        }
        let (request, retry) = Retry::of(request);
        let origin = self.client.clone();
        let exchange = async move {
            let mut result = origin.request(request).await;
            let Some(retry) = retry else { return result };
            if result.as_ref().is_err_and(broke_off) {
                // RFC 9112, section 9.3.1: the origin may close a connection at any time, also while a request is on its way.
                result = origin.request(retry.request()).await;
            }
            if result.as_ref().is_ok_and(|response| retry.mismatches(response)) {
                result = origin.request(retry.without_conditions().request()).await;
            }
            result
        };
        Box::pin(async move {
            match timeout(RESPONSE_TIMEOUT, exchange).await {
                Ok(Ok(mut response)) => {
                    if client.join(&mut response).is_err() {
                        eprintln!("proxy: the origin switched to a protocol that the client has not offered");
                        return Err(OriginError::Unreachable);
                    }
                    Ok(received(response).map(|body| body.boxed_unsync()))
                }
                Ok(Err(error)) => {
                    eprintln!("proxy: {}", with_causes(&error));
                    Err(OriginError::Unreachable)
                }
                Err(_) => Err(OriginError::Timeout),
            }
        })
    }
}

/// Returns whether the connection has ended before the head of a response.
fn broke_off(error: &legacy::Error) -> bool {
    let ended = |error: &hyper::Error| {
        error.is_incomplete_message() || error.is_canceled() || error.is_closed() || cause::<io::Error>(error).is_some()
    };
    !error.is_connect() && cause(error).is_some_and(ended)
}

fn cause<'a, T: error::Error + 'static>(error: &'a (dyn error::Error + 'static)) -> Option<&'a T> {
    error.source()?.downcast_ref()
}

/// Converts the response of the origin to a response of the proxy.
fn received(mut response: Response<Incoming>) -> Response<Incoming> {
    let version = response.version();
    let protocol = upgrade::requested(response.headers()).filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    // RFC 9112, section 6.3: the transfer coding overrides the length.
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    remove_hop_by_hop(headers);
    append_via(headers, version);
    match protocol {
        Some(protocol) => upgrade::set_upgrade(headers, protocol),
        None => add_date(headers),
    }
    *response.version_mut() = Version::HTTP_11;
    response
}

/// Adds the time of receipt to a response without `Date` (RFC 9110, section 6.6.1).
fn add_date(headers: &mut HeaderMap) {
    if !headers.contains_key(DATE)
        && let Ok(now) = HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::now()))
    {
        headers.insert(DATE, now);
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
