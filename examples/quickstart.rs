//! A slow read that becomes fast, and a write that shows at once. `cargo run --example quickstart`, then:
//! `curl -i localhost:3000/tables/orders` (twice), `curl -X POST localhost:3000/tables/orders`, and the first again.

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::State, routing::get};
use tokio::{net::TcpListener, sync::Mutex, time::sleep};
use tower_response_cache::{Memory, ResponseCache, Rule};

type Rows = State<Arc<Mutex<Vec<String>>>>;

async fn list(State(rows): Rows) -> String {
    sleep(Duration::from_millis(300)).await; // the slow database
    rows.lock().await.join("\n") + "\n"
}

async fn insert(State(rows): Rows) {
    let mut rows = rows.lock().await;
    let row = format!("row {}", rows.len() + 1);
    rows.push(row);
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let cache = ResponseCache::new(Memory::new(64 << 20))
        .route("/tables/{table}", Rule::ttl(Duration::from_secs(60)).namespace("db_query:{table}"))
        .cache_status("quickstart");
    let app = Router::new()
        .route("/tables/{table}", get(list).post(insert))
        .with_state(Arc::new(Mutex::new(vec!["row 1".to_owned()])))
        .layer(cache.layer());
    axum::serve(TcpListener::bind("127.0.0.1:3000").await?, app).await
}
