//! A hook purges the CDN in front of the application after each write. A local server stands for the API of Fastly.
//!
//! ```sh
//! cargo run --example purge_cdn
//! curl -i localhost:3000/price/tea           # surrogate-key: %2A price price:tea
//! curl -X PUT localhost:3000/price/tea       # the server prints "purged at the CDN: {"surrogate_keys":["price:tea"]}"
//! ```

use std::time::Duration;

use axum::{Router, extract::Path, routing::get, routing::post};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{net::TcpListener, signal::ctrl_c, time::timeout};
use tower_response_cache::{BoxError, CacheTags, Memory, ResponseCache, Rule, cdn::PurgeHook};

/// The address of the API: `https://api.fastly.com` for Fastly.
const API: &str = "http://127.0.0.1:3001";

async fn price(Path(product): Path<String>) -> String {
    format!("the price of {product}\n")
}

/// Purges keys, at most 256 by one request. After an error the hook is called again.
async fn purge(keys: Vec<String>) -> Result<(), BoxError> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    for keys in keys.chunks(256) {
        let body = format!("{{\"surrogate_keys\":[\"{}\"]}}", keys.join("\",\""));
        let request = Request::post(format!("{API}/service/demo/purge")).header("fastly-key", "token");
        let response = client.request(request.body(Full::<Bytes>::from(body))?).await?;
        if !response.status().is_success() {
            return Err(format!("purge: status {}", response.status()).into());
        }
    }
    Ok(())
}

/// Stands for the API of the CDN.
async fn serve_api() -> std::io::Result<()> {
    let purged = async |body: String| println!("purged at the CDN: {body}");
    axum::serve(TcpListener::bind("127.0.0.1:3001").await?, Router::new().route("/service/{id}/purge", post(purged))).await
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    tokio::spawn(serve_api());
    let tags = CacheTags::surrogate_key();
    let names = tags.clone();
    let cache = ResponseCache::new(Memory::new(64 << 20))
        .route("/price/{product}", Rule::ttl(Duration::from_secs(60)).namespace("price:{product}"))
        .cache_tags(tags)
        .after_invalidation(PurgeHook::new(move |changed| purge(changed.tags(&names))));
    let routes = Router::new().route("/price/{product}", get(price).put(async || "changed\n")).layer(cache.layer());
    let stopped = async || _ = ctrl_c().await;
    axum::serve(TcpListener::bind("127.0.0.1:3000").await?, routes).with_graceful_shutdown(stopped()).await?;
    let _ = timeout(Duration::from_secs(5), cache.wait_for_purges()).await; // the queue is in memory
    Ok(())
}
