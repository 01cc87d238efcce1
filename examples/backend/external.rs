//! A row is changed in the database past the cache, and the listener must invalidate the stored response.

use std::time::{Duration, Instant};

use axum::{
    body::Body,
    http::{Method, Request},
};
use tower_response_cache::{Outcome, ResponseCache};

use super::{
    BoxError,
    client::Client,
    db::{Db, Statement},
    hash::random_hex,
    walkthrough::{check, print_exchange},
};

const READ: &str = "/tables/airlines?carrier=HA";

const PATIENCE: Duration = Duration::from_secs(60);

/// Changes a row, waits until the listener has invalidated the stored response, and reads.
pub(crate) async fn change_row(client: &Client, cache: &ResponseCache, db: &Db) -> Result<(), BoxError> {
    println!("\nA row changed in PostgreSQL, past the cache");
    let get = async || Ok::<_, BoxError>(print_exchange("GET", READ, client.send(Method::GET, READ, None, "").await?));
    let begun = Instant::now();
    // A late invalidation may remove the response again.
    while !is_hit(cache, READ).await? {
        if begun.elapsed() > PATIENCE {
            return Err(format!("{READ} is never stored").into());
        }
        get().await?;
    }
    let name = format!("Hawaiian Airlines {}", random_hex());
    println!("  UPDATE airlines SET name = '{name}' WHERE carrier = 'HA'");
    let change = Statement::new("UPDATE airlines SET name = $1 WHERE carrier = 'HA'", [name.clone().into()]);
    db.write(change).await?;
    let took = invalidated(cache, READ).await?;
    println!("  the stored response was invalidated {:.2} ms after the commit", took.as_secs_f64() * 1000.0);
    let seen = &get().await?.json()["rows"][0]["name"];
    check(*seen == name, "the next read has the change")
}

/// Waits until the response to a GET is not stored any more. Returns the time.
pub(crate) async fn invalidated(cache: &ResponseCache, path: &str) -> Result<Duration, BoxError> {
    let begun = Instant::now();
    while is_hit(cache, path).await? {
        if begun.elapsed() > PATIENCE {
            return Err(
                format!("failed: the response to {path} is still served {PATIENCE:?} after a write past the cache").into()
            );
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(begun.elapsed())
}

async fn is_hit(cache: &ResponseCache, path: &str) -> Result<bool, BoxError> {
    let request = Request::get(path).body(Body::empty())?;
    Ok(cache.explain(&request).await.outcome() == Some(Outcome::Hit))
}
