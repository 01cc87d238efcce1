//! How much memory a store of 64 MiB takes for real, as the kernel counts it.
//!
//! 100,000 responses of 1 KiB are offered through the layer, then ten times as many; each to a key of its own. What the
//! process has grown by since before the store was made is compared with the capacity. Linux only: it reads
//! `/proc/self/status`. Fails if either ratio is above 1.2.
//!
//! ```text
//! cargo bench --bench memory_bound
//! ```
#![allow(missing_docs)]

use std::{convert::Infallible, fs, process::ExitCode, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::Full;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_response_cache::{CacheLayer, Memory, Rule, Store};

const MIB: usize = 1 << 20;
const CAPACITY: usize = 64 * MIB;
const BODY: usize = 1024;
const LIMIT: f64 = 1.2;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(run())
}

async fn run() -> ExitCode {
    let Some(before) = resident() else {
        println!("no /proc/self/status here: nothing measured");
        return ExitCode::SUCCESS;
    };
    println!("resident before: {}", mib(before));
    let store = Memory::new(CAPACITY);
    let layer = CacheLayer::new(store.clone()).route("/t/{id}", Rule::ttl(Duration::from_secs(3600)).namespace("db:{id}"));
    let mut service = layer.layer(service_fn(async |request: Request<Full<Bytes>>| {
        // Not one shared body: each is an allocation of its own, as a handler makes it.
        let mut body = vec![b'.'; BODY];
        let path = request.uri().path().as_bytes();
        body[..path.len()].copy_from_slice(path);
        let mut response = Response::new(Full::<Bytes>::from(body));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().insert(header::ETAG, HeaderValue::from_str(request.uri().path()).expect("a value"));
        Ok::<_, Infallible>(response)
    }));
    let mut worst = 0.0_f64;
    let mut next = 0_u64;
    for offered in [100_000, 1_000_000] {
        for _ in 0..offered {
            let request = Request::get(format!("/t/{next}")).body(Full::default()).expect("valid");
            let _ = service.ready().await.expect("ready").call(request).await.expect("an answer");
            next += 1;
        }
        let usage = store.usage();
        let grown = resident().unwrap_or_default().saturating_sub(before);
        let ratio = grown as f64 / CAPACITY as f64;
        worst = worst.max(ratio);
        println!(
            "after {next:>9} offered: {} entries, {} counted of {}; resident grew by {}: ratio {ratio:.3} (limit {LIMIT})",
            usage.entries,
            mib(usage.bytes as usize),
            mib(CAPACITY),
            mib(grown),
        );
    }
    println!("bytes of bodies alone: {}", mib(store.usage().entries as usize * BODY));
    if worst > LIMIT {
        println!("above the limit");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// The resident memory of this process in bytes.
fn resident() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? * 1024)
}

fn mib(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / MIB as f64)
}
