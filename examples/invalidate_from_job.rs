//! A job changes data without a request, and invalidates the responses that depend on it.
//!
//! ```sh
//! cargo run --example invalidate_from_job            # prints "tea costs 1", and every ten seconds a new price
//! curl -i localhost:3000/price/tea                   # prices; fwd=uri-miss; stored
//! curl -i localhost:3000/price/tea                   # prices; hit; ttl=59
//! curl -i localhost:3000/price/tea                   # after the next price: prices; fwd=uri-miss; stored
//! curl localhost:3000/stats                          # the counters of the cache
//! ```

use std::{sync::Arc, time::Duration};

use axum::extract::{Path, State};
use axum::{Router, routing::get};
use tokio::{net::TcpListener, sync::Mutex, time::interval};
use tower_response_cache::{Memory, ResponseCache, Rule};

#[derive(Clone)]
struct App {
    price: Arc<Mutex<u32>>,
    /// Clones of the handle are cheap and share the store.
    cache: ResponseCache,
}

async fn price(State(app): State<App>, Path(product): Path<String>) -> String {
    format!("{product} costs {}\n", app.price.lock().await)
}

async fn stats(State(app): State<App>) -> String {
    app.cache.stats().to_string()
}

async fn change_price_every_ten_seconds(app: App) {
    let mut interval = interval(Duration::from_secs(10));
    loop {
        interval.tick().await;
        *app.price.lock().await += 1;
        // Invalidate after the change is committed, not before. A read in between would store the old price again.
        // An error means that Redis is down: the invalidation is queued, and the job goes on.
        if let Err(error) = app.cache.invalidate(["price:tea"]).await {
            eprintln!("invalidation: {error}");
        }
        println!("tea costs {}", app.price.lock().await);
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let rule = Rule::ttl(Duration::from_secs(60)).namespace("price:{product}");
    let cache = ResponseCache::new(Memory::new(64 << 20)).route("/price/{product}", rule).cache_status("prices");
    let app = App { price: Arc::default(), cache: cache.clone() };
    tokio::spawn(change_price_every_ten_seconds(app.clone()));
    let routes =
        Router::new().route("/price/{product}", get(price)).route("/stats", get(stats)).with_state(app).layer(cache.layer());
    axum::serve(TcpListener::bind("127.0.0.1:3000").await?, routes).await
}
