//! Two processes share their responses in Redis, and a write in one is visible in the other.
//!
//! ```sh
//! redis-server --save '' &
//! cargo run --example redis --features redis -- 3000 &
//! cargo run --example redis --features redis -- 3001 &
//! curl -i localhost:3000/rows                # rows; fwd=uri-miss; stored, listed by the process on port 3000
//! curl -i localhost:3001/rows                # rows; hit; ttl=59, listed by the process on port 3000
//! curl localhost:3001/rows -d 'a row'        # adds a row
//! curl -i localhost:3000/rows                # rows; fwd=uri-miss; stored, with the new row
//! ```

use std::{error::Error, fs, io::Write, time::Duration};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::net::TcpListener;
use tower_response_cache::{Redis, ResponseCache, RouteAndQuery, Rule};

/// Stands for a database that both processes use.
fn database() -> std::path::PathBuf {
    std::env::temp_dir().join("tower-response-cache-rows.txt")
}

async fn list(State(port): State<String>) -> String {
    format!("listed by the process on port {port}\n{}", fs::read_to_string(database()).unwrap_or_default())
}

async fn insert(row: String) -> Result<StatusCode, StatusCode> {
    let file = fs::File::options().create(true).append(true).open(database());
    let written = file.and_then(|mut file| writeln!(file, "{row}"));
    written.map(|()| StatusCode::CREATED).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = std::env::args().nth(1).unwrap_or_else(|| "3000".to_owned());
    // Entries are in Redis and in front of it in memory. A hit in memory is at most 120 ms stale: see `Coherence::Leased`.
    // Without Redis the process still starts, and calls the handlers for every request until Redis is back.
    let store = Redis::builder("redis://127.0.0.1:6379").prefix("rows").memory(64 << 20).build().await?;
    // `Host` contains the port, and is part of the default key.
    let rule = Rule::ttl(Duration::from_secs(60)).key(RouteAndQuery.without_host()).namespace("rows");
    let cache = ResponseCache::new(store).route("/rows", rule).cache_status("rows");
    let app = Router::new().route("/rows", get(list).post(insert)).with_state(port.clone()).layer(cache.layer());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    Ok(axum::serve(listener, app).await?)
}
