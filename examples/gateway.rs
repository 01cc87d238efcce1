//! A gateway whose rules are in a file, in front of another service.
//!
//! ```sh
//! cargo run --example quickstart &                       # the service, on port 3000
//! cargo run --example gateway --features config          # the gateway, on port 8080, with the rules of gateway.toml
//! curl -i localhost:8080/tables/orders                   # cache-status: gateway; fwd=uri-miss; stored
//! curl -i localhost:8080/tables/orders                   # cache-status: gateway; hit; ttl=29
//! curl -i -X POST localhost:8080/tables/orders           # cache-status: gateway; fwd=method
//! curl -i localhost:8080/tables/orders                   # cache-status: gateway; fwd=uri-miss; stored, with a new row
//! ```
//!
//! The first `cache-status` of each response is the one of `quickstart`. The example `proxy` is a complete reverse proxy.

use std::{error::Error, fs};

use axum::{Router, body::Body};
use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::net::TcpListener;
use tower_response_cache::{Memory, ResponseCache, Rules};

const SERVICE: &str = "127.0.0.1:3000";

/// Removes the fields that concern only one connection.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    for name in [header::CONNECTION, header::TE, header::TRANSFER_ENCODING, header::UPGRADE] {
        headers.remove(name);
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "examples/gateway.toml".to_owned());
    let rules = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let rules = Rules::from_toml(&rules).map_err(|error| format!("{path}: {error}"))?;
    let cache = ResponseCache::new(Memory::new(64 << 20)).rules(rules).cache_status("gateway");

    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let forward = async move |mut request: Request<Body>| -> Result<Response<Body>, StatusCode> {
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        let uri = Uri::builder().scheme("http").authority(SERVICE).path_and_query(target).build();
        *request.uri_mut() = uri.map_err(|_| StatusCode::BAD_REQUEST)?;
        remove_hop_by_hop(request.headers_mut());
        let mut response = client.request(request).await.map_err(|_| StatusCode::BAD_GATEWAY)?;
        remove_hop_by_hop(response.headers_mut());
        Ok(response.map(Body::new))
    };
    let app = Router::new().fallback(forward).layer(cache.layer());
    Ok(axum::serve(TcpListener::bind("127.0.0.1:8080").await?, app).await?)
}
