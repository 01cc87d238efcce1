//! Lower bounds: what nobody who does the same can do much cheaper. They leave out everything that makes a cache usable by
//! others, and no duty of a single correct answer.

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
use tower_service::Service;
use xxhash_rust::xxh3::xxh3_128;

use crate::work::{Origin, Respond};

/// A get of a prepared response, by the bare target.
#[derive(Clone)]
pub struct BareGet(Arc<Cache<String, Arc<Stored>>>);

impl BareGet {
    /// With one entry in it.
    pub fn holding(target: &str, origin: &Origin) -> Self {
        let cache = Cache::new(1_000);
        cache.insert(target.to_owned(), Arc::new(Stored::of(Vec::new(), origin.respond())));
        Self(Arc::new(cache))
    }
}

impl<B> Service<Request<B>> for BareGet {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let target = request.uri().path_and_query().expect("a target").as_str();
        let stored = self.0.get(target).expect("it is there");
        ready(Ok(stored.response()))
    }
}

/// A response as it is kept: its fields finished, a slot for `Age` in front.
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
        // A value that was received is a slice of a buffer that may be a thousand times as large: what is kept is a copy.
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

/// Every duty of a correct hit, each done as cheaply as it can be: one walk over the request's fields, a canonical key on the
/// stack, a stored key compared in full, two epochs, a coarse clock, a finished map, `Age` from a table.
#[derive(Clone)]
pub struct Correct<O = Origin> {
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

impl<O> Correct<O> {
    /// One over this service, with room for so many bytes.
    pub fn over(origin: O, bytes: u64) -> Self {
        let shared = Shared {
            entries: Cache::with_weighter((bytes / 1024) as usize, bytes, ByWeight),
            epochs: (0..4096).map(|_| AtomicU64::new(0)).collect(),
            seconds: AtomicU64::new(1),
            ages: (0..3600u64).map(HeaderValue::from).collect(),
        };
        Self { shared: Arc::new(shared), origin }
    }

    /// How many entries it holds, and their bytes.
    pub fn held(&self) -> (u64, u64) {
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
        *response.headers_mut().values_mut().next().expect("the slot") = age;
        Some(response)
    }
}

impl<O: Respond, B> Service<Request<B>> for Correct<O> {
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
        let body = response.body().clone();
        let mut kept = Response::new(body);
        kept.headers_mut().clone_from(response.headers());
        self.shared.entries.insert(hash, Arc::new(Stored::of(key, kept)));
        drop(request);
        ready(Ok(response))
    }
}

/// Method, host, path and sorted query; `None` for what is to be left alone.
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
