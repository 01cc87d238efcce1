//! The server: connections, until a signal comes.

use std::{convert::Infallible, future::Future, io, pin::pin, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Either;
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::{sleep, timeout},
};
use tower::ServiceExt;
use tower_response_cache::BoxError;

use crate::{front, origin::said};

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
    S: tower::Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
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
        let service = service.clone();
        let answer = service_fn(move |request| {
            let service = service.clone();
            async move {
                match front::prepare(request) {
                    Ok(request) => service.oneshot(request).await.map(|response| response.map(Either::Left)),
                    Err((status, text)) => Ok(said(status, text).map(Either::Right)),
                }
            }
        });
        let connection = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), answer);
        let connection = graceful.watch(connection);
        // What fails here is one client's connection, and the client knows.
        tokio::spawn(async move { drop(connection.await) });
    }
    drop(listener);
    let _ = timeout(PATIENCE, graceful.shutdown()).await;
}
