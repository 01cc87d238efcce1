//! Warms the cache at the start, and again after each invalidation.
//!
//! ```sh
//! cargo run --example warm                           # a progress bar, then the summary
//! curl -i localhost:3000/tables/orders               # warm; hit; ttl=59, with no wait
//! curl -X POST localhost:3000/tables/orders          # invalidates, and the table is warmed again
//! ```

use std::time::Duration;

use axum::{Router, extract::Path, routing::get};
use indicatif::ProgressBar;
use tokio::{net::TcpListener, time::sleep};
use tower_response_cache::{Memory, ResponseCache, Rule, warm::Warmer};

async fn list(Path(table): Path<String>) -> String {
    sleep(Duration::from_millis(300)).await; // the slow database
    format!("the rows of {table}\n")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cache = ResponseCache::new(Memory::new(64 << 20))
        .route("/tables/{table}", Rule::ttl(Duration::from_secs(60)).namespace("db_query:{table}"))
        .cache_status("warm");
    let app = Router::new().route("/tables/{table}", get(list).post(async || "")).layer(cache.layer());
    let listener = TcpListener::bind("127.0.0.1:3000").await?;

    // The host that clients send is a part of each key.
    let tables = ["orders", "customers"].into_iter().map(str::to_owned).chain((0..30).map(|n| format!("part_{n}")));
    let warmer =
        Warmer::new(&cache, app.clone()).host("localhost:3000").targets(tables.map(|table| format!("/tables/{table}")))?;
    let _after_invalidations = warmer.clone().after_invalidations();
    let mut warming = warmer.start();
    let bar = ProgressBar::new(warming.progress().requests);
    tokio::spawn(async move {
        while let Some(progress) = warming.next().await {
            bar.set_position(progress.succeeded + progress.failed);
        }
        bar.finish();
        println!("{}", warming.await);
    });
    // Clients are served meanwhile.
    Ok(axum::serve(listener, app).await?)
}
