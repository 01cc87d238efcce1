//! A custom key: the language that the handler chooses, and the query without tracking parameters.
//!
//! ```sh
//! cargo run --example custom_key
//! curl -i 'localhost:3000/hello/Anna?utm_source=mail' -H 'accept-language: de-AT, de;q=0.9'   # Guten Tag: fwd=uri-miss; stored
//! curl -i 'localhost:3000/hello/Anna?utm_source=news' -H 'accept-language: de'                # Guten Tag: hit; ttl=59
//! curl -i 'localhost:3000/hello/Anna?utm_source=news' -H 'accept-language: fr'                # Hello: fwd=uri-miss; stored
//! curl -i 'localhost:3000/hello/Anna?utm_source=news' -H 'x-preview: 1'                       # Hello: fwd=bypass; detail=extractor
//! ```

use std::time::Duration;

use axum::http::{HeaderMap, header::ACCEPT_LANGUAGE};
use axum::{Router, extract::Path, routing::get};
use tokio::net::TcpListener;
use tower_response_cache::key::{Extracted, KeyWriter, RequestView};
use tower_response_cache::{KeyExtractor, Memory, ResponseCache, RouteAndQuery, Rule};

/// Chooses a supported language. The handler and the key call the same function.
fn language(headers: &HeaderMap) -> &'static str {
    match headers.get(ACCEPT_LANGUAGE).map(|value| value.as_bytes()) {
        Some([b'd', b'e', ..]) => "de",
        _ => "en",
    }
}

/// Adds the chosen language to the key. A preview bypasses the cache.
struct Language;

impl KeyExtractor for Language {
    fn extract(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted {
        if request.headers().contains_key("x-preview") {
            return Extracted::Bypass;
        }
        key.part(language(request.headers()));
        Extracted::Key
    }
}

async fn hello(headers: HeaderMap, Path(name): Path<String>) -> String {
    let text = if language(&headers) == "de" { "Guten Tag" } else { "Hello" };
    format!("{text}, {name}!\n")
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let key = RouteAndQuery.without_query(["utm_*"]).and(Language);
    let cache = ResponseCache::new(Memory::new(64 << 20))
        .route("/hello/{name}", Rule::ttl(Duration::from_secs(60)).key(key).namespace("hello"))
        .cache_status("custom-key");
    let app = Router::new().route("/hello/{name}", get(hello)).layer(cache.layer());
    axum::serve(TcpListener::bind("127.0.0.1:3000").await?, app).await
}
