//! Lower bounds: the cheapest known implementations of the same work.
//!
//! They perform every step that a correct response needs, and leave out everything else that makes a cache usable.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use quick_cache::{Weighter, sync::Cache};
use tower::Service;
use xxhash_rust::xxh3::xxh3_128;

use crate::work::{Origin, Respond};

/// Gets a prepared response by its target alone. On a miss, stores the response of the origin.
#[derive(Clone)]
pub struct TargetLookup {
    entries: Arc<Cache<String, Arc<Stored>>>,
    origin: Origin,
}

impl TargetLookup {
    /// Creates a cache of this number of entries over a service.
    pub fn over(origin: Origin, entries: usize) -> Self {
        Self { entries: Arc::new(Cache::new(entries)), origin }
    }
}

impl<B> Service<Request<B>> for TargetLookup {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let target = request.uri().path_and_query().expect("a target").as_str();
        if let Some(stored) = self.entries.get(target) {
            return ready(Ok(stored.response()));
        }
        let response = self.origin.respond();
        self.entries.insert(target.to_owned(), Arc::new(Stored::of(Vec::new(), copy_of(&response))));
        ready(Ok(response))
    }
}

/// Copies a response, with a reference to its body.
fn copy_of(response: &Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    let mut copy = Response::new(response.body().clone());
    copy.headers_mut().clone_from(response.headers());
    copy
}

/// A stored response. Its fields are complete, with a slot for `Age` in front.
pub struct Stored {
    key: Vec<u8>,
    stamp: u64,
    fresh_until: u64,
    born: u64,
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Stored {
    fn of(key: Vec<u8>, response: Response<Full<Bytes>>) -> Self {
        let (parts, body) = response.into_parts();
        let mut headers = HeaderMap::with_capacity(parts.headers.len() + 1);
        headers.insert(header::AGE, HeaderValue::from_static("0"));
        // A received value may be a slice of a much larger buffer, so it is copied.
        let mut all = Bytes::from(parts.headers.values().map(HeaderValue::as_bytes).collect::<Vec<_>>().concat());
        for (name, value) in &parts.headers {
            headers.append(name, HeaderValue::from_maybe_shared(all.split_to(value.len())).expect("a value"));
        }
        let body = body.into_inner().unwrap_or_default();
        Self { key, stamp: 0, fresh_until: 60, born: 0, status: parts.status, headers, body }
    }

    fn response(&self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body.clone()));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers.clone();
        response
    }

    fn weight(&self) -> u64 {
        let fields: usize = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 64).sum();
        (self.key.len() + self.body.len() + fields + 256) as u64
    }
}

/// A cache that performs every step of a correct hit as cheaply as possible.
///
/// The steps are: one pass over the request fields, a canonical key on the stack, comparison of the complete stored key, two epochs, a coarse
/// clock, a complete header map, and `Age` from a table.
#[derive(Clone)]
pub struct CorrectCache<O = Origin> {
    shared: Arc<Shared>,
    origin: O,
}

struct Shared {
    entries: Cache<u128, Arc<Stored>, ByWeight>,
    epochs: Box<[AtomicU64]>,
    seconds: AtomicU64,
    ages: Vec<HeaderValue>,
}

#[derive(Clone)]
struct ByWeight;

impl Weighter<u128, Arc<Stored>> for ByWeight {
    fn weight(&self, _: &u128, stored: &Arc<Stored>) -> u64 {
        stored.weight()
    }
}

impl<O> CorrectCache<O> {
    /// Creates a cache of this capacity in bytes over a service.
    pub fn over(origin: O, bytes: u64) -> Self {
        let shared = Shared {
            entries: Cache::with_weighter((bytes / 1024) as usize, bytes, ByWeight),
            epochs: (0..4096).map(|_| AtomicU64::new(0)).collect(),
            seconds: AtomicU64::new(1),
            ages: (0..3600u64).map(HeaderValue::from).collect(),
        };
        Self { shared: Arc::new(shared), origin }
    }

    /// Returns the number of entries and their total weight in bytes.
    pub fn usage(&self) -> (u64, u64) {
        (self.shared.entries.len() as u64, self.shared.entries.weight())
    }
}

impl Shared {
    fn hit(&self, key: &[u8], hash: u128) -> Option<Response<Full<Bytes>>> {
        let stored = self.entries.get(&hash)?;
        let now = self.seconds.load(Ordering::Relaxed);
        let untouched = |name: u64| self.epochs[(name & 4095) as usize].load(Ordering::SeqCst) <= stored.stamp;
        if stored.key != key || now >= stored.fresh_until || !untouched(17) || !untouched(1042) {
            return None;
        }
        let mut response = stored.response();
        let age = self.ages[(now - stored.born) as usize].clone();
        *response.headers_mut().values_mut().next().expect("a slot for Age") = age;
        Some(response)
    }
}

impl<O: Respond, B> Service<Request<B>> for CorrectCache<O> {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut room = [0; 512];
        let Some(key) = canonical(&request, &mut room) else {
            return ready(Ok(self.origin.respond()));
        };
        let hash = xxh3_128(key);
        if let Some(response) = self.shared.hit(key, hash) {
            return ready(Ok(response));
        }
        let (key, response) = (key.to_vec(), self.origin.respond());
        self.shared.entries.insert(hash, Arc::new(Stored::of(key, copy_of(&response))));
        drop(request);
        ready(Ok(response))
    }
}

/// Writes method, host, path and sorted query. Returns `None` for a request that bypasses the cache.
fn canonical<'a, B>(request: &Request<B>, room: &'a mut [u8; 512]) -> Option<&'a [u8]> {
    if *request.method() != Method::GET {
        return None;
    }
    let mut host: &[u8] = b"";
    for (name, value) in request.headers() {
        match *name {
            header::HOST => host = value.as_bytes(),
            header::AUTHORIZATION | header::COOKIE | header::RANGE | header::UPGRADE | header::IF_NONE_MATCH => return None,
            _ => {}
        }
    }
    let mut len = 0;
    let mut write = |part: &[u8]| {
        room.get_mut(len..len + 2)?.copy_from_slice(&(part.len() as u16).to_le_bytes());
        room.get_mut(len + 2..len + 2 + part.len())?.copy_from_slice(part);
        len += 2 + part.len();
        Some(())
    };
    write(b"GET")?;
    write(host)?;
    write(request.uri().path().as_bytes())?;
    let mut pieces = [&[] as &[u8]; 16];
    let mut count = 0;
    for piece in request.uri().query().unwrap_or_default().as_bytes().split(|b| *b == b'&') {
        *pieces.get_mut(count)? = piece;
        count += 1;
    }
    let pieces = &mut pieces[..count];
    if !pieces.is_sorted() {
        pieces.sort();
    }
    for piece in pieces {
        write(piece)?;
    }
    Some(&room[..len])
}
