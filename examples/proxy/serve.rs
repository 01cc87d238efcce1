//! The server.

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
use tower_response_cache::{BoxError, CacheStatus, semantics::CACHE_STATUS, status::StatusBody};

use crate::{
    NAME,
    interim::{Interim, Stream},
    origin::OriginError,
    request,
};

/// The time for open requests to finish at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after a failed `accept`, for example because no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Recounter a future that ends at SIGINT or SIGTERM.
pub(crate) fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Serves until `stop` ends, and then waits for open requests.
pub(crate) async fn serve<S, B>(listener: TcpListener, service: S, stop: impl Future<Output = ()>)
where
    S: tower::Service<Request<Incoming>, Response = Response<B>, Error = OriginError> + Clone + Send + 'static,
    S::Future: Send,
    B: StatusBody + Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let graceful = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    eprintln!("proxy: cannot accept a connection: {error}");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            () = &mut stop => break,
        };
        // Nagle's algorithm would delay small responses.
        let _ = stream.set_nodelay(true);
        let (stream, counter) = Stream::new(stream);
        let service = service.clone();
        let handler = service_fn(move |request| {
            let (service, counter) = (service.clone(), counter.clone());
            async move {
                let response = respond(service, request, counter.begin()).await;
                counter.end();
                Ok::<_, Infallible>(response)
            }
        });
        let mut server = auto::Builder::new(TokioExecutor::new()).http1_only();
        // RFC 9112, section 9.6: a client may close its half of the connection after its request and still read the response.
        server.http1().timer(TokioTimer::new()).half_close(true);
        let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), handler).into_owned();
        let connection = graceful.watch(connection);
        // An error concerns only this client, which notices it.
        tokio::spawn(async move { drop(connection.await) });
    }
    drop(listener);
    let _ = timeout(SHUTDOWN_TIMEOUT, graceful.shutdown()).await;
}

/// Returns the response of the service, or a response of the proxy itself.
async fn respond<S, B>(service: S, mut request: Request<Incoming>, interim: Interim) -> Response<Either<B, Full<Bytes>>>
where
    S: tower::Service<Request<Incoming>, Response = Response<B>, Error = OriginError>,
    B: StatusBody,
{
    // RFC 9110, section 15.2: HTTP/1.0 has no interim responses.
    if request.version() == Version::HTTP_11 {
        request.extensions_mut().insert(interim);
    }
    let request = match request::prepare(request) {
        Ok(request) => request,
        Err((status, text)) => return own_response(status, text, "refused").map(Either::Right),
    };
    match service.oneshot(request).await {
        Ok(mut response) => {
            // No rule covers the request (RFC 9211, section 2.2).
            if CacheStatus::of(&response).is_none() {
                status(&mut response, "fwd=bypass");
            }
            response.map(Either::Left)
        }
        Err(error) => {
            let (status, text, detail) = error.response();
            own_response(status, text, detail).map(Either::Right)
        }
    }
}

/// Makes a response of the proxy itself, with the reason in `Cache-Status`.
fn own_response(code: StatusCode, text: &'static str, detail: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    status(&mut response, &format!("detail={detail}"));
    response
}

fn status<B>(response: &mut Response<B>, params: &str) {
    if let Ok(value) = HeaderValue::try_from(format!("{NAME}; {params}")) {
        response.headers_mut().append(CACHE_STATUS, value);
    }
}
