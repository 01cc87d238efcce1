//! The inner service: asks the origin.

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
    ContentBody,
    semantics::{self, ETag},
};

use crate::{
    fields::{append_via, remove_hop_by_hop},
    interim::Interim,
    upgrade,
};

/// How long the origin has to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long it has for the head of its response.
const ANSWER: Duration = Duration::from_secs(60);
/// How long a connection is kept for the next request: less than the five seconds after which Node, for one, closes it,
/// for a request on a connection that is just being closed would fail.
const IDLE: Duration = Duration::from_secs(4);

#[derive(Clone)]
pub(crate) struct Origin {
    client: Client<HttpConnector, Either<Asked, Empty<Bytes>>>,
    authority: Authority,
}

/// The body of a request on its way to the origin.
type Asked = ContentBody<Incoming>;

/// The head of a request that can be sent again: one that changes nothing, and has no content. A write is never sent again: its first sending
/// may have been carried out, and an error as the answer to the second would look as if nothing had changed.
struct Again(Parts);

impl Again {
    fn of(request: Request<Asked>) -> (Request<Either<Asked, Empty<Bytes>>>, Option<Self>) {
        // A method that another field overrides may be any.
        let overridden = |name: &str| name.starts_with("x-") && name.contains("method");
        let repeats = request.method().is_safe()
            && request.body().is_end_stream()
            && !request.headers().keys().any(|name| *name == UPGRADE || overridden(name.as_str()));
        let (head, body) = request.into_parts();
        let again = repeats.then(|| Self(head.clone()));
        (Request::from_parts(head, Either::Left(body)), again)
    }

    fn request(&self) -> Request<Either<Asked, Empty<Bytes>>> {
        Request::from_parts(self.0.clone(), Either::Right(Empty::new()))
    }

    /// Whether this says that something has not been modified which the request has not asked about (RFC 9111, section 4.3.4).
    fn is_missed_by(&self, response: &Response<Incoming>) -> bool {
        if response.status() != StatusCode::NOT_MODIFIED {
            return false;
        }
        let mut about = HeaderMap::new();
        if let Some(tag) = self.0.headers.get(IF_NONE_MATCH) {
            // Several, or any at all: one of them is good.
            if ETag::parse(tag.as_bytes()).is_none() {
                return false;
            }
            about.insert(ETAG, tag.clone());
        }
        if let Some(date) = self.0.headers.get(IF_MODIFIED_SINCE) {
            about.insert(LAST_MODIFIED, date.clone());
        }
        semantics::validated(&[&about], response.headers()).is_none()
    }

    fn without_conditions(mut self) -> Self {
        for name in [IF_NONE_MATCH, IF_MODIFIED_SINCE] {
            self.0.headers.remove(name);
        }
        self
    }
}

pub(crate) type OriginBody = UnsyncBoxBody<Bytes, hyper::Error>;

/// Why the origin gave no answer: an error, so that the cache may serve a stale response in its place.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NoAnswer {
    Unreachable,
    Silent,
}

impl NoAnswer {
    /// What the client gets if there is nothing else, and the word for it in `Cache-Status`.
    pub(crate) fn answer(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Unreachable => (StatusCode::BAD_GATEWAY, "the origin cannot be reached\n", "unreachable"),
            Self::Silent => (StatusCode::GATEWAY_TIMEOUT, "the origin does not answer\n", "timeout"),
        }
    }
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.answer().1.trim_end())
    }
}

impl error::Error for NoAnswer {}

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
    fn address(&self, request: &mut Request<Asked>) {
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
        let options = if headers.contains_key(UPGRADE) { "te, upgrade" } else { "te" };
        headers.insert(CONNECTION, HeaderValue::from_static(options));
    }
}

impl Service<Request<Asked>> for Origin {
    type Response = Response<OriginBody>;
    type Error = NoAnswer;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, NoAnswer>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NoAnswer>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Asked>) -> Self::Future {
        self.address(&mut request);
        let client = upgrade::Client::of(&mut request);
        if let Some(interim) = request.extensions_mut().remove::<Interim>() {
            on_informational(&mut request, move |response| {
                // RFC 9110, section 15.2.1: a 100 is for whoever has said `Expect`, and that is not the client's any more.
                if response.status() != StatusCode::CONTINUE {
                    interim.send(response.status(), response.headers());
                }
            });
        }
        let (request, again) = Again::of(request);
        let ours = self.client.clone();
        let asked = async move {
            let mut answer = ours.request(request).await;
            let Some(again) = again else { return answer };
            if answer.as_ref().is_err_and(broke_off) {
                // RFC 9112, section 9.3.1: the origin closes a connection when it likes, perhaps just when a request is on its way.
                answer = ours.request(again.request()).await;
            }
            if answer.as_ref().is_ok_and(|response| again.is_missed_by(response)) {
                answer = ours.request(again.without_conditions().request()).await;
            }
            answer
        };
        Box::pin(async move {
            match timeout(ANSWER, asked).await {
                Ok(Ok(mut response)) => {
                    if client.join(&mut response).is_err() {
                        eprintln!("proxy: the origin switches to a protocol that was not asked for");
                        return Err(NoAnswer::Unreachable);
                    }
                    Ok(received(response).map(|body| body.boxed_unsync()))
                }
                Ok(Err(error)) => {
                    eprintln!("proxy: {}", chain(&error));
                    Err(NoAnswer::Unreachable)
                }
                Err(_) => Err(NoAnswer::Silent),
            }
        })
    }
}

/// Whether the connection has ended before the head of a response.
fn broke_off(error: &legacy::Error) -> bool {
    let ended = |error: &hyper::Error| {
        error.is_incomplete_message() || error.is_canceled() || error.is_closed() || cause::<io::Error>(error).is_some()
    };
    !error.is_connect() && cause(error).is_some_and(ended)
}

fn cause<'a, T: error::Error + 'static>(error: &'a (dyn error::Error + 'static)) -> Option<&'a T> {
    error.source()?.downcast_ref()
}

/// The origin's response as this proxy's own.
fn received(mut response: Response<Incoming>) -> Response<Incoming> {
    let version = response.version();
    let protocol = upgrade::wanted(response.headers()).filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    // RFC 9112, section 6.3: the coding frames the content, and the length is none.
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    remove_hop_by_hop(headers);
    append_via(headers, version);
    match protocol {
        Some(protocol) => upgrade::name(headers, protocol),
        None => date(headers),
    }
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

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
