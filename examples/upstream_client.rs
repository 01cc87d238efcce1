//! A cache around an HTTP client: responses of an upstream are reused as its `Cache-Control` allows (RFC 9111).
//!
//! ```text
//! $ cargo run --example upstream_client
//! GET  /rates 200 in 308.5 ms: client; fwd=uri-miss; stored
//! GET  /rates 200 in   0.7 ms: client; hit; ttl=59
//! POST /rates 200 in   0.8 ms: client; fwd=method
//! GET  /rates 200 in 302.5 ms: client; fwd=uri-miss; stored
//! ```
//!
//! `reqwest::Client` is a service of `reqwest::Request`, not of `http::Request`. Put this service in its place:
//!
//! ```ignore
//! let client = reqwest::Client::new();
//! let client = tower::service_fn(move |request: http::Request<reqwest::Body>| {
//!     let client = client.clone();
//!     async move { client.execute(request.try_into()?).await.map(http::Response::<reqwest::Body>::from) }
//! });
//! ```

use std::time::{Duration, Instant};

use axum::{Router, body::Body, routing::get};
use http::{Method, Request, header::CACHE_CONTROL};
use http_body_util::BodyExt;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{net::TcpListener, time::sleep};
use tower::{ServiceBuilder, ServiceExt};
use tower_response_cache::{BoxError, Memory, ResponseCache, Rule, Rules};

/// A slow upstream, which allows its responses to be stored for a minute.
async fn upstream() -> Result<String, BoxError> {
    let slow = async || {
        sleep(Duration::from_millis(300)).await;
        ([(CACHE_CONTROL, "max-age=60")], "1 EUR = 1.08 USD")
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let app = Router::new().route("/rates", get(slow).post(async || "changed"));
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(format!("http://{address}"))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let upstream = upstream().await?;
    let cache = ResponseCache::new(Memory::new(64 << 20)).rules(Rules::new().fallback(Rule::http())).cache_status("client");
    // A POST invalidates its URI, because `layer` contains an `InvalidateLayer`.
    let client = ServiceBuilder::new().layer(cache.layer()).service(Client::builder(TokioExecutor::new()).build_http::<Body>());

    for method in [Method::GET, Method::GET, Method::POST, Method::GET] {
        let begin = Instant::now();
        let request = Request::builder().method(&method).uri(format!("{upstream}/rates")).body(Body::empty())?;
        let (head, body) = client.clone().oneshot(request).await?.into_parts();
        body.collect().await?;
        let (status, took) = (head.status.as_u16(), begin.elapsed().as_secs_f64() * 1000.0);
        println!("{:<4} /rates {status} in {took:>5.1} ms: {}", method.as_str(), head.headers["cache-status"].to_str()?);
    }
    Ok(())
}
