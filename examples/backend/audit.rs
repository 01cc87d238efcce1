//! Rows are written, and the audit of the hits must find those that were written past the cache, and no others.

use std::time::{Duration, Instant};

use axum::http::Method;
use serde_json::json;
use tower_response_cache::{ResponseCache, stats::AuditResult};

use super::{BoxError, client::Client, external};

const LIST: &str = "/tables/flights?carrier=HA&sort=-id&limit=3";

/// The number of audits to wait for.
const AUDITS: u64 = 3;

const PATIENCE: Duration = Duration::from_secs(60);

/// The way of the writes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writes {
    ThroughCache,
    PastCache,
    PastCacheWithListener,
}

/// Writes rows by `writer`, which belongs to a server without the cache if the writes bypass it, and reads until enough hits are audited.
pub(crate) async fn run(reader: &Client, writer: &Client, cache: &ResponseCache, writes: Writes) -> Result<(), BoxError> {
    let way = match writes {
        Writes::ThroughCache => "through the cache",
        Writes::PastCache => "past the cache",
        Writes::PastCacheWithListener => "past the cache, which the listener sees",
    };
    println!("\nAn audit of one hit in a hundred, after writes {way}");
    let token = writer.login(0).await?;
    let audits = |result| cache.stats().audits(result);
    let compared = || audits(AuditResult::Same) + audits(AuditResult::Differed);
    let (before, begun) = (compared(), Instant::now());
    reader.send(Method::GET, LIST, None, "").await?;
    for flight in 1..4 {
        let row = json!({ "day": 30, "carrier": "HA", "flight": flight, "origin": "JFK", "dest": "HNL" });
        writer.send(Method::POST, "/tables/flights", Some(&token), row.to_string()).await?;
        if writes == Writes::PastCacheWithListener {
            external::invalidated(cache, LIST).await?;
        }
        reader.send(Method::GET, LIST, None, "").await?;
    }
    while compared() < before + AUDITS {
        if begun.elapsed() > PATIENCE {
            return Err(format!("the audit has not compared {AUDITS} hits within {PATIENCE:?}").into());
        }
        reader.send(Method::GET, LIST, None, "").await?;
    }
    let differed = audits(AuditResult::Differed);
    println!("  audited hits: {} the same, {differed} differed", audits(AuditResult::Same));
    match (writes, differed) {
        (Writes::PastCache, 0) => Err("failed: the audit has not found the writes past the cache".into()),
        (Writes::PastCache, _) => {
            println!("  ok: the audit has found the writes past the cache");
            Ok(())
        }
        (_, 0) => {
            println!("  ok: the audit has found no outdated hit");
            Ok(())
        }
        (_, _) => Err("failed: the audit has found outdated hits".into()),
    }
}
