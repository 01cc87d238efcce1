//! A slow read, made fast; a write that shows at once. `cargo run --example quickstart`, then:
//! `curl -i localhost:3000/tables/orders` (twice), `curl -X POST localhost:3000/tables/orders`, and the first again.

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::State, routing::get};
use tokio::{net::TcpListener, sync::Mutex, time::sleep};
use tower_response_cache::{CacheLayer, InvalidateLayer, Memory, Rule, Rules};

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
    let store = Memory::new(64 << 20);
    let rules = Rules::new().route("/tables/{table}", Rule::ttl(Duration::from_secs(60)).namespace("db_query:{table}"));
    let app = Router::new()
        .route("/tables/{table}", get(list).post(insert))
        .with_state(Arc::default())
        .layer(CacheLayer::new(store.clone()).rules(rules.clone()).cache_status("quickstart"))
        .layer(InvalidateLayer::new(store).rules(rules));
    axum::serve(TcpListener::bind("127.0.0.1:3000").await?, app).await
}
