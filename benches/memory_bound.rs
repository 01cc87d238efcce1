//! The resident memory of a store of 64 MiB, as counted by the kernel.
//!
//! The benchmark sends 100,000 responses of 1 KiB through the layer, each for a different key, and then ten times as many. It compares the growth
//! of the process since before the creation of the store with the capacity. It needs Linux, because it reads `/proc/self/status`. It fails if a
//! ratio is above 1.2.
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
        println!("/proc/self/status not found: skipped");
        return ExitCode::SUCCESS;
    };
    println!("resident before: {}", mib(before));
    let store = Memory::new(CAPACITY);
    let layer = CacheLayer::new(store.clone()).route("/t/{id}", Rule::ttl(Duration::from_secs(3600)).namespace("db:{id}"));
    let mut service = layer.layer(service_fn(async |request: Request<Full<Bytes>>| {
        // Each body is a separate allocation, as in a handler.
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
    for count in [100_000, 1_000_000] {
        for _ in 0..count {
            let request = Request::get(format!("/t/{next}")).body(Full::default()).expect("valid");
            let _ = service.ready().await.expect("ready").call(request).await.expect("a response");
            next += 1;
        }
        let usage = store.stats();
        let grown = resident().unwrap_or_default().saturating_sub(before);
        let ratio = grown as f64 / CAPACITY as f64;
        worst = worst.max(ratio);
        println!(
            "after {next:>9} responses: {} entries, {} of {} used; resident grew by {}: ratio {ratio:.3} (limit {LIMIT})",
            usage.entries,
            mib(usage.bytes as usize),
            mib(CAPACITY),
            mib(grown),
        );
    }
    println!("bytes of bodies alone: {}", mib(store.stats().entries as usize * BODY));
    if worst > LIMIT {
        println!("ratio above the limit");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Returns the resident memory of this process in bytes.
fn resident() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? * 1024)
}

fn mib(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / MIB as f64)
}
