//! The servers of this program: axum in a process with one thread.

use std::{
    convert::Infallible,
    fmt::Debug,
    future::{Ready, ready},
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use axum::{
    BoxError, Router, ServiceExt,
    body::{Body, HttpBody},
    routing::{get, get_service},
    serve::{Listener, ListenerExt},
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::{net::TcpListener, runtime::Builder};
use tower::{Layer, Service, layer::util::Identity, util::MapResponse};
use tower_response_cache::{CacheLayer, Memory};
use tower_response_cache_cost::{
    bounds::CorrectCache,
    setup::{self, Report, Store},
    work::Origin,
};

use crate::wire::BODY;

/// The type of axum's requests.
type AxumRequest = axum::extract::Request;

const ROOM: usize = 256 << 20;

/// The path that returns the number of calls of the handler.
pub const COUNT: &str = "/count";

/// Serves one candidate until the process ends. The first line of output is the address.
pub fn serve(name: &str) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", listener.local_addr().expect("an address"));
        io::stdout().flush().expect("a reader");
        let listener = listener.tap_io(|io| io.set_nodelay(true).expect("a socket option"));

        let handler = Counting { origin: Origin::of(BODY), calls: Arc::default() };
        let count = count(handler.calls.clone());
        let served = match name {
            "constant" => axum::serve(listener, items(handler).merge(count)).await,
            "layered" => axum::serve(listener, items(handler).layer(Identity::new()).merge(count)).await,
            "bound" => axum::serve(listener, items(CorrectCache::over(handler.origin, ROOM as u64)).merge(count)).await,
            "default" => axum::serve(listener, items(handler).layer(cache(Report::Default)).merge(count)).await,
            "status" => axum::serve(listener, items(handler).layer(cache(Report::Header)).merge(count)).await,
            "length" => {
                axum::serve(listener, items(handler).layer(cache(Report::Default).content_length(true)).merge(count)).await
            }
            "extension" => axum::serve(listener, items(handler).layer(cache(Report::Extension)).merge(count)).await,
            "outside" => without_router(listener, cache(Report::Default).layer(items(handler).merge(count))).await,
            "bare" => without_router(listener, handler).await,
            _ => panic!("unknown server {name:?}"),
        };
        served.expect("a running server");
    });
}

fn items<S>(service: S) -> Router
where
    S: Service<AxumRequest, Response = Response<Full<Bytes>>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    Router::new().route("/items/{id}", get_service(service))
}

/// Serves a service without a router.
async fn without_router<L, S, B>(listener: L, service: S) -> io::Result<()>
where
    L: Listener<Addr: Debug>,
    S: Service<AxumRequest, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let boxed = MapResponse::new(service, |response: Response<B>| response.map(Body::new));
    axum::serve(listener, ServiceExt::<AxumRequest>::into_make_service(boxed)).await
}

fn count(calls: Arc<AtomicU64>) -> Router {
    Router::new().route(COUNT, get(move || ready(calls.load(Ordering::Relaxed).to_string())))
}

fn cache(report: Report) -> CacheLayer<Store> {
    setup::layer(Memory::new(ROOM), setup::minute_rule(), report)
}

/// A handler with a constant response, which counts its calls.
#[derive(Clone)]
struct Counting {
    origin: Origin,
    calls: Arc<AtomicU64>,
}

impl<B> Service<Request<B>> for Counting {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        self.calls.fetch_add(1, Ordering::Relaxed);
        ready(Ok(self.origin.respond()))
    }
}
