//! Functions that make one measured call.

use std::{
    collections::VecDeque,
    hint::black_box,
    pin::pin,
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Empty;
use tokio::runtime::{Builder, Runtime};
use tower::{Layer, Service};
use tower_response_cache::{Memory, Store};

use crate::{
    measure::counted_call,
    setup,
    work::{Origin, item, nth_item, request, send_ready},
};

/// A measured function.
pub type Call = Box<dyn FnMut()>;

/// The number of requests that exist at once. Their memory fills more than the allocator's small caches, as in a server with many connections.
pub const BATCH: usize = 256;

/// Requests that are created in batches and handed out one by one.
pub struct Batches<R> {
    create: Box<dyn FnMut() -> Request<R>>,
    ready: VecDeque<Request<R>>,
}

impl<R> Batches<R> {
    /// Creates the batches from a function that creates one request.
    pub fn of(create: impl FnMut() -> Request<R> + 'static) -> Self {
        Self { create: Box::new(create), ready: VecDeque::with_capacity(BATCH) }
    }

    /// Returns the next request. Creates a batch if none is left.
    pub fn take(&mut self) -> Request<R> {
        if self.ready.is_empty() {
            for _ in 0..BATCH {
                self.ready.push_back((self.create)());
            }
        }
        self.ready.pop_front().expect("a batch")
    }
}

/// Sends the item's request repeatedly.
pub fn repeat_item<S, B>(service: S) -> Call
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>> + 'static,
    B: Body<Data = Bytes>,
{
    repeat(service, || request(item()))
}

/// Sends the same request repeatedly, after some calls that are not counted.
pub fn repeat<S, B>(mut service: S, create: fn() -> Request<Empty<Bytes>>) -> Call
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>> + 'static,
    B: Body<Data = Bytes>,
{
    for _ in 0..100 {
        send_ready(&mut service, create());
    }
    batched(service, create)
}

/// Sends a different request each time. All targets have the same length.
pub fn distinct<S, B>(service: S) -> Call
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>> + 'static,
    B: Body<Data = Bytes>,
{
    batched(service, distinct_requests())
}

/// Returns a function that creates a different request each time.
pub fn distinct_requests() -> impl FnMut() -> Request<Empty<Bytes>> {
    let mut n = FIRST;
    move || {
        n += 1;
        request(nth_item(n))
    }
}

/// Sends requests for this number of targets in turn, after each one has been sent twice.
pub fn in_turn<S, R, B>(mut service: S, targets: u64, convert: fn(Request<Empty<Bytes>>) -> Request<R>) -> Call
where
    S: Service<Request<R>, Response = Response<B>> + 'static,
    R: 'static,
    B: Body<Data = Bytes>,
{
    let mut create = requests_in_turn(targets);
    for _ in 0..2 * targets {
        send_ready(&mut service, convert(create()));
    }
    batched(service, move || convert(create()))
}

/// Returns a function that creates requests for this number of targets in turn.
pub fn requests_in_turn(targets: u64) -> impl FnMut() -> Request<Empty<Bytes>> {
    let mut n = 0;
    move || {
        n = (n + 1) % targets;
        request(nth_item(FIRST + n))
    }
}

/// The number of the first of many targets, which all have the same length.
pub const FIRST: u64 = 1_000_000;

/// Sends one request of a batch.
pub fn batched<S, R, B>(mut service: S, create: impl FnMut() -> Request<R> + 'static) -> Call
where
    S: Service<Request<R>, Response = Response<B>> + 'static,
    R: 'static,
    B: Body<Data = Bytes>,
{
    let mut batches = Batches::of(create);
    Box::new(move || {
        let request = batches.take();
        black_box(counted_call(|| send_ready(&mut service, request)));
    })
}

/// Calls a function all of which is counted.
pub fn whole(mut call: impl FnMut() + 'static) -> Call {
    Box::new(move || counted_call(&mut call))
}

/// Fills a cache, one entry for each call. The cache is never dropped, so that its memory is in use at the end of the process.
pub fn fill<S, R, B>(service: S, convert: fn(Request<Empty<Bytes>>) -> Request<R>) -> Call
where
    S: Service<Request<R>, Response = Response<B>> + 'static,
    R: 'static,
    B: Body<Data = Bytes>,
{
    let service: &'static mut S = Box::leak(Box::new(service));
    let mut create = distinct_requests();
    Box::new(move || {
        let request = convert(create());
        black_box(counted_call(|| send_ready(service, request)));
    })
}

/// Runs a function inside a runtime and stays in it, as a server's worker thread does.
pub fn in_runtime(make: impl FnOnce() -> Call) -> Call {
    let runtime: &'static Runtime = Box::leak(Box::new(runtime()));
    // Entered for the lifetime of the process.
    std::mem::forget(runtime.enter());
    make()
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("a runtime")
}

/// Serves a stale response and refreshes it.
pub fn stale() -> Call {
    let runtime = runtime();
    let (mut cache, clock) = runtime.block_on(async { setup::stale(Origin::of(1 << 10)) });
    Box::new(move || {
        clock.advance(Duration::from_secs(120));
        let request = request(item());
        counted_call(|| {
            runtime.block_on(async {
                black_box(send_ready(&mut cache, request));
                tokio::task::yield_now().await;
            });
        });
    })
}

/// Invalidates the namespace of the item.
pub fn invalidate() -> Call {
    let store = Memory::new(1 << 20);
    let mut cache = setup::layer(store.clone(), setup::minute_rule(), setup::Report::Default).layer(Origin::of(1 << 10));
    drop(in_runtime(|| Box::new(|| ())));
    send_ready(&mut cache, request(item()));
    whole(move || {
        let cx = &mut Context::from_waker(Waker::noop());
        let mut invalidation = pin!(store.invalidate(["items"]));
        assert!(std::future::Future::poll(invalidation.as_mut(), cx).is_ready());
    })
}

/// Decodes a stored entry repeatedly.
#[cfg(feature = "redis")]
pub fn decoded((entry, stored): (tower_response_cache::__private::Entry, Vec<u8>)) -> Call {
    whole(move || {
        drop(black_box(tower_response_cache::__private::bench_read(stored.clone().into(), &entry).expect("an entry")))
    })
}
