//! A store of many entries: the time until invalidated entries have left it, the processor time for that, and the time of a drop.
//!
//! `cargo bench --bench large_store [-- ENTRIES]`, 1,000,000 by default. They need about 2 KiB each.

use std::{
    convert::Infallible,
    fs,
    pin::pin,
    task::{Context, Waker},
    thread,
    time::{Duration, Instant},
};

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, service_fn};
use tower_response_cache::{Memory, ResponseCache, Rule, Store};

/// Returns the processor time of this process, in seconds.
fn processor_time() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    let after_name = stat.rsplit_once(')').expect("a name").1;
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum();
    ticks as f64 / 100.0
}

fn ready<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("the service answers at once"),
    }
}

fn fill(cache: &ResponseCache, entries: u64) {
    let body = bytes::Bytes::from(vec![b'x'; 1 << 10]);
    let inner = service_fn(move |_: Request<Full<bytes::Bytes>>| {
        std::future::ready(Ok::<_, Infallible>(Response::new(Full::new(bytes::Bytes::copy_from_slice(&body)))))
    });
    let mut service = cache.cache_layer().layer(inner);
    for n in 0..entries {
        let request = Request::get(format!("/items/{n}")).body(Full::default()).expect("a request");
        let response = ready(service.call(request)).unwrap_or_else(|never| match never {});
        ready(response.into_body().collect()).expect("a body");
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let entries = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(1_000_000);
    let store = Memory::new(entries as usize * 4096);
    let cache = ResponseCache::new(store.clone()).route("/items/{id}", Rule::ttl(Duration::from_secs(3600)).namespace("items"));
    fill(&cache, entries);
    println!("{} entries, {} MiB", store.stats().entries, store.stats().bytes >> 20);

    let (begin, before) = (Instant::now(), processor_time());
    store.invalidate(["items"]).await.expect("memory");
    while store.stats().entries > 0 {
        thread::sleep(Duration::from_millis(10));
    }
    println!(
        "all have left {:.1} s after their invalidation; {:.2} s of processor time",
        begin.elapsed().as_secs_f64(),
        processor_time() - before
    );

    fill(&cache, entries);
    println!("{} entries", store.stats().entries);
    let begin = Instant::now();
    drop((cache, store));
    println!("dropped in {:.3} ms for the caller", begin.elapsed().as_secs_f64() * 1000.0);
}
