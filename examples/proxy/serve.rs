//! The server: connections, until a signal comes.

use std::{convert::Infallible, future::Future, io, pin::pin, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Version, header::CONTENT_TYPE};
use http_body_util::{Either, Full};
use hyper::{
    body::{Body, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::{sleep, timeout},
};
use tower::ServiceExt;
use tower_response_cache::{BoxError, CacheStatus, semantics::CACHE_STATUS};

use crate::{
    NAME, front,
    interim::{Interim, Stream},
    origin::NoAnswer,
};

/// How long open requests have to finish.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait if the system has no connection to give, for want of file descriptors, say.
const PAUSE: Duration = Duration::from_millis(50);

/// Ends at SIGINT or SIGTERM.
pub(crate) fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Serves until `stop`, and then what has begun for a little longer.
pub(crate) async fn serve<S, B>(listener: TcpListener, service: S, stop: impl Future<Output = ()>)
where
    S: tower::Service<Request<Incoming>, Response = Response<B>, Error = NoAnswer> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let graceful = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    eprintln!("proxy: cannot accept a connection: {error}");
                    sleep(PAUSE).await;
                    continue;
                }
            },
            () = &mut stop => break,
        };
        // Small answers must not wait in the kernel for more to send.
        let _ = stream.set_nodelay(true);
        let (stream, turns) = Stream::new(stream);
        let service = service.clone();
        let answer = service_fn(move |request| {
            let (service, turns) = (service.clone(), turns.clone());
            async move {
                let response = answer(service, request, turns.begin()).await;
                turns.end();
                Ok::<_, Infallible>(response)
            }
        });
        let mut server = auto::Builder::new(TokioExecutor::new()).http1_only();
        // RFC 9112, section 9.6: a client that has sent all it has to say may close its half of the connection, and still reads.
        server.http1().timer(TokioTimer::new()).half_close(true);
        let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), answer).into_owned();
        let connection = graceful.watch(connection);
        // What fails here is one client's connection, and the client knows.
        tokio::spawn(async move { drop(connection.await) });
    }
    drop(listener);
    let _ = timeout(PATIENCE, graceful.shutdown()).await;
}

/// The answer to one request: the service's, or this proxy's own where there is none.
async fn answer<S, B>(service: S, mut request: Request<Incoming>, interim: Interim) -> Response<Either<B, Full<Bytes>>>
where
    S: tower::Service<Request<Incoming>, Response = Response<B>, Error = NoAnswer>,
{
    // RFC 9110, section 15.2: HTTP/1.0 knows no interim responses.
    if request.version() == Version::HTTP_11 {
        request.extensions_mut().insert(interim);
    }
    let request = match front::prepare(request) {
        Ok(request) => request,
        Err((status, text)) => return said(status, text, "refused").map(Either::Right),
    };
    match service.oneshot(request).await {
        Ok(mut response) => {
            // What no rule covers has passed through, and even that is said (RFC 9211, section 2.2).
            if response.extensions().get::<CacheStatus>().is_none() {
                status(&mut response, "fwd=bypass");
            }
            response.map(Either::Left)
        }
        Err(why) => {
            let (status, text, word) = why.answer();
            said(status, text, word).map(Either::Right)
        }
    }
}

/// A response that this proxy makes by itself, and why, for `Cache-Status`.
fn said(code: StatusCode, text: &'static str, why: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    status(&mut response, &format!("detail={why}"));
    response
}

fn status<B>(response: &mut Response<B>, what: &str) {
    if let Ok(value) = HeaderValue::try_from(format!("{NAME}; {what}")) {
        response.headers_mut().append(CACHE_STATUS, value);
    }
}
