//! The servers that are written here: axum, in a process of one thread.

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
    bounds::Correct,
    ours::{self, Told},
    work::Origin,
};

use crate::wire::BODY;

/// A request as axum hands it on.
type Asked = axum::extract::Request;

const ROOM: usize = 256 << 20;

/// Where the servers are asked how often the handler was called.
pub const COUNT: &str = "/count";

/// Serves one of them for as long as the process lives; the first line that is printed says where.
pub fn serve(name: &str) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", listener.local_addr().expect("an address"));
        io::stdout().flush().expect("somebody reads it");
        let listener = listener.tap_io(|io| io.set_nodelay(true).expect("an option of every socket"));

        let handler = Counting { origin: Origin::of(BODY), asked: Arc::default() };
        let count = count(handler.asked.clone());
        let served = match name {
            "constant" => axum::serve(listener, items(handler).merge(count)).await,
            "layered" => axum::serve(listener, items(handler).layer(Identity::new()).merge(count)).await,
            "bound" => axum::serve(listener, items(Correct::over(handler.origin, ROOM as u64)).merge(count)).await,
            "cache" => axum::serve(listener, items(handler).layer(cache(Told::Age)).merge(count)).await,
            "extension" => axum::serve(listener, items(handler).layer(cache(Told::Extension)).merge(count)).await,
            "outside" => alone(listener, cache(Told::Age).layer(items(handler).merge(count))).await,
            "bare" => alone(listener, handler).await,
            _ => panic!("no server is called {name:?}"),
        };
        served.expect("it serves until it is ended");
    });
}

fn items<S>(service: S) -> Router
where
    S: Service<Asked, Response = Response<Full<Bytes>>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    Router::new().route("/items/{id}", get_service(service))
}

/// Serves without a router around it.
async fn alone<L, S, B>(listener: L, service: S) -> io::Result<()>
where
    L: Listener<Addr: Debug>,
    S: Service<Asked, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let boxed = MapResponse::new(service, |response: Response<B>| response.map(Body::new));
    axum::serve(listener, ServiceExt::<Asked>::into_make_service(boxed)).await
}

fn count(asked: Arc<AtomicU64>) -> Router {
    Router::new().route(COUNT, get(move || ready(asked.load(Ordering::Relaxed).to_string())))
}

fn cache(told: Told) -> CacheLayer {
    ours::layer(Memory::new(ROOM), ours::minute(), told).content_length(true)
}

/// A handler that answers from a constant, and counts how often.
#[derive(Clone)]
struct Counting {
    origin: Origin,
    asked: Arc<AtomicU64>,
}

impl<B> Service<Request<B>> for Counting {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        self.asked.fetch_add(1, Ordering::Relaxed);
        ready(Ok(self.origin.respond()))
    }
}
