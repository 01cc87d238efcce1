//! The record of a run: requests, calls of the origin and invalidations, in one order.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use http::HeaderMap;

use super::{
    program::{Ask, Name, Setup},
    routes::{HOSTS, QUERIES},
};

/// A place in the order of everything that happens.
pub type Tick = u64;

#[derive(Default)]
pub struct History {
    pub tick: Tick,
    /// Milliseconds since the run began, by the clock of the cache.
    pub now: u64,
    pub sent: Vec<Sent>,
    pub calls: Vec<Call>,
    pub cleared: Vec<Cleared>,
    /// By thing: how often it has changed.
    pub versions: HashMap<Thing, u64>,
    /// By resource: the last `ETag` and `Last-Modified` that a client has seen.
    pub validators: HashMap<Resource, (Option<String>, Option<i64>)>,
}

/// What changes as one: the route and the id.
pub type Thing = (usize, u8);

/// What a URI names: host, route, id and query, each as far as spellings of it differ in meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Resource {
    pub host: u8,
    pub route: usize,
    pub id: u8,
    pub query: u8,
}

/// A request that was sent.
pub struct Sent {
    pub ask: Ask,
    /// The members of `If-None-Match`, as they were meant.
    pub tags: Option<Vec<String>>,
    /// `If-Modified-Since`, in seconds.
    pub since: Option<i64>,
    pub if_range: Option<String>,
    pub begin: Tick,
    pub began: u64,
    /// What the oracle demanded when it was sent.
    pub demand: Option<Demand>,
    pub seen: Option<Seen>,
    pub left: bool,
}

/// What use a cache must be, where nothing else is under way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Demand {
    /// Answered without a call, by this call's response or one that it freshened.
    Hit(usize),
    /// One of a burst: its first request is this, and all of them make one call.
    OneCall(usize),
    /// If it is served stale for a while, then it is refreshed.
    Refresh,
}

/// What a client has seen.
pub struct Seen {
    pub end: Tick,
    pub ended: u64,
    /// `Err`: the service failed.
    pub head: Result<(u16, HeaderMap), String>,
    pub body: Bytes,
    /// The body ended with an error.
    pub broken: bool,
    /// The body was read to its end.
    pub read: bool,
}

/// A call of the origin.
pub struct Call {
    /// The request that it was made for.
    pub ask: usize,
    pub begin: Tick,
    pub began: u64,
    /// When the head of its response was there.
    pub answered: Option<(Tick, u64)>,
    /// 0: it failed.
    pub status: u16,
    pub rep: Rep,
    /// The bytes that it sent of the whole, if that is not all.
    pub part: Option<(u64, u64)>,
    /// `Date`, in seconds.
    pub date: i64,
    pub etag: Option<String>,
    pub modified: Option<i64>,
    /// Seconds of `Age`.
    pub age: u64,
}

/// What a response shows, and all by which its content is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rep(pub String);

impl Rep {
    /// All of its bytes.
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

/// An invalidation that was asked for, or a write.
pub struct Cleared {
    pub scope: Scope,
    pub soft: bool,
    /// What began before this may not show what was written.
    pub commit: Tick,
    /// When whoever asked for it has been answered.
    pub ack: Option<Tick>,
}

#[derive(Clone, Debug)]
pub enum Scope {
    Name(Levels),
    /// All that is stored for it.
    Uri(Resource),
    /// What is stored under the key of this request.
    Key(Box<Ask>),
}

/// A namespace as the oracle has it: its levels.
pub type Levels = Vec<String>;

/// The levels of a namespace.
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

    /// Whether anything is under way for this request.
    pub fn is_open(&self, sent: usize) -> bool {
        self.sent[sent].seen.is_none() && !self.sent[sent].left
    }
}

impl Ask {
    pub fn resource(&self) -> Resource {
        Resource { host: HOSTS[self.host].1, route: self.route, id: self.id, query: QUERIES[self.query].1 }
    }

    pub fn thing(&self) -> Thing {
        (self.route, self.id)
    }

    /// The user that counts for a route whose key holds one; `Err` if nobody can tell.
    pub fn identity(&self, setup: &Setup) -> Result<Option<u8>, ()> {
        match self.user {
            Some((by, user)) if by == setup.identity => {
                if self.twice {
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
