//! The record of a run: requests, calls of the origin and invalidations, in one order.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use http::HeaderMap;

use super::{
    program::{Name, RequestSpec, Setup},
    routes::{HOSTS, QUERIES},
};

/// A position in the order of all events.
pub type Tick = u64;

#[derive(Default)]
pub struct History {
    pub tick: Tick,
    /// Milliseconds since the run began, by the clock of the cache.
    pub now: u64,
    pub requests: Vec<SentRequest>,
    pub calls: Vec<Call>,
    pub invalidations: Vec<Invalidation>,
    /// Number of changes of each item.
    pub versions: HashMap<Item, u64>,
    /// The last `ETag` and `Last-Modified` that a client received, by resource.
    pub validators: HashMap<Resource, (Option<String>, Option<i64>)>,
}

/// A route and an id, whose representations change together.
pub type Item = (usize, u8);

/// The resource of a URI. Spellings with the same meaning are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Resource {
    pub host: u8,
    pub route: usize,
    pub id: u8,
    pub query: u8,
}

/// A request that was sent.
pub struct SentRequest {
    pub spec: RequestSpec,
    /// The members of `If-None-Match` before they were spelled.
    pub tags: Option<Vec<String>>,
    /// `If-Modified-Since`, in seconds.
    pub since: Option<i64>,
    pub if_range: Option<String>,
    pub begin: Tick,
    pub began: u64,
    /// The oracle's expectation when the request was sent.
    pub expectation: Option<Expectation>,
    pub received: Option<Received>,
    pub disconnected: bool,
}

/// A required result of a request, where nothing else is in progress.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Expectation {
    /// The request is answered without a call, with the response of this earlier call.
    Hit(usize),
    /// The request belongs to a burst whose first request this is. The burst makes one call.
    OneCall(usize),
    /// A stale response may be served, and is then refreshed.
    Refresh,
}

/// A response that a client received.
pub struct Received {
    pub end: Tick,
    pub ended: u64,
    /// The status and the headers, or the service's error.
    pub head: Result<(u16, HeaderMap), String>,
    pub body: Bytes,
    /// The body ended with an error.
    pub broken: bool,
    /// The body was read to its end.
    pub read: bool,
}

/// A call of the origin.
pub struct Call {
    /// The number of the request that caused the call.
    pub request: usize,
    pub begin: Tick,
    pub began: u64,
    /// When the head of its response was complete.
    pub answered: Option<(Tick, u64)>,
    /// The status, or 0 if the call failed.
    pub status: u16,
    pub representation: Representation,
    /// The range that it sent, if the response was partial.
    pub part: Option<(u64, u64)>,
    /// `Date`, in seconds.
    pub date: i64,
    pub etag: Option<String>,
    pub modified: Option<i64>,
    /// `Age`, in seconds.
    pub age: u64,
}

/// The text that identifies the content of a response.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Representation(pub String);

impl Representation {
    /// Returns the full content.
    pub fn bytes(&self, big: bool) -> Bytes {
        let hash =
            self.0.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        let mut rng = fastrand::Rng::with_seed(hash);
        let length = if big { 6000 } else { rng.usize(20..200) };
        let noise = std::iter::repeat_with(|| rng.alphanumeric());
        let text: String = self.0.chars().chain(['\n']).chain(noise).take(length.max(self.0.len() + 1)).collect();
        text.into()
    }
}

/// A manual invalidation or a write.
pub struct Invalidation {
    pub scope: Scope,
    pub soft: bool,
    /// Calls that began earlier may return data from before the invalidation.
    pub commit: Tick,
    /// When the caller's request was acknowledged.
    pub ack: Option<Tick>,
}

#[derive(Clone, Debug)]
pub enum Scope {
    Name(Levels),
    /// All variants and keys of a resource.
    Uri(Resource),
    /// The key of this request.
    Key(Box<RequestSpec>),
}

/// The levels of a namespace.
pub type Levels = Vec<String>;

/// Returns the levels of a namespace.
pub fn levels(name: &Name) -> Levels {
    match name {
        Name::Everything => vec!["*".into()],
        Name::Family(family) => vec![(*family).into()],
        Name::Member(family, id) => vec![(*family).into(), id.to_string()],
        Name::User(user) => vec!["u".into(), format!("user{user}")],
    }
}

/// The record, shared by the driver and the origin.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<History>>);

impl Log {
    pub fn lock(&self) -> MutexGuard<'_, History> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl History {
    pub fn next(&mut self) -> Tick {
        self.tick += 1;
        self.tick
    }

    /// Returns true if the request has no response yet and its client is still connected.
    pub fn is_open(&self, sent: usize) -> bool {
        self.requests[sent].received.is_none() && !self.requests[sent].disconnected
    }
}

impl RequestSpec {
    pub fn resource(&self) -> Resource {
        Resource { host: HOSTS[self.host].1, route: self.route, id: self.id, query: QUERIES[self.query].1 }
    }

    pub fn item(&self) -> Item {
        (self.route, self.id)
    }

    /// Returns the user in the key of a route with an identity, or `Err` if the user is ambiguous.
    pub fn identity(&self, setup: &Setup) -> Result<Option<u8>, ()> {
        match self.user {
            Some((by, user)) if by == setup.identity => {
                if self.second_user {
                    Err(())
                } else {
                    Ok(Some(user))
                }
            }
            Some(_) => Err(()),
            None => Ok(None),
        }
    }
}
