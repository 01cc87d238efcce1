//! Progress and outcome of a fill, for its followers.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};

use super::shared_body::SharedBody;
use crate::{
    clock::Nanos,
    entry::{self, Entry, times::Http},
    key::Key,
    namespace::set::Namespaces,
    semantics::{Failure, Vary},
};

impl SharedResponse {
    /// The only response of its key, of which everything was known from the request.
    pub(crate) fn alone(entry: Arc<Entry>) -> Self {
        Self { entry, vary: Vary::default(), added: Namespaces::default() }
    }

    pub(crate) fn terms(&self) -> (&Key, &Vary, &Namespaces) {
        (self.entry.key(), &self.vary, &self.added)
    }
}

impl ArrivingResponse {
    pub(crate) fn terms(&self) -> (&Key, &Vary, &Namespaces) {
        (&self.key, &self.vary, &self.added)
    }
}

/// How many fills had landed at some moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CompletionCount {
    pub(crate) all: u64,
    pub(crate) of_key: u32,
}

/// How far a fill is, for those who wait for it.
#[derive(Clone)]
pub(crate) enum Progress {
    /// The inner service has not answered, or its answer is not known to be fit yet.
    Calling,
    /// It is fit, and on its way.
    Arriving(Arc<ArrivingResponse>),
    Landed(FlightOutcome),
}

/// The fate of a fill.
#[derive(Clone)]
pub(crate) enum FlightOutcome {
    /// Whoever waits may have it.
    Stored(Arc<SharedResponse>),
    /// Not to be shared: all go alone, at once.
    NotShareable,
    /// The inner service has failed so: who may have something in place of that does not ask it; all others go alone, at once.
    Failed(Failure),
    /// Its leader was lost: look again, and elect another.
    LeaderLost,
    /// Nobody could say whether those who wait may have it, since the namespaces that came with it are new, or were invalidated: look again.
    /// Who hears this time and again goes alone.
    Unverified,
}

/// A response that may be shared, with what a follower must check before it takes it.
pub(crate) struct SharedResponse {
    pub(crate) entry: Arc<entry::Entry>,
    pub(crate) vary: Vary,
    /// Namespaces that were known only from the response: whether they live is asked at landing.
    pub(crate) added: Namespaces,
}

/// A response that may be shared, while its body is still coming.
pub(crate) struct ArrivingResponse {
    pub(crate) key: Key,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) born: Nanos,
    /// The end of its lifetime, if it has any: a body that takes longer is not shared with requests that come after that.
    pub(crate) fresh_until: Option<Nanos>,
    /// The length of its body, if that is known.
    pub(crate) length: Option<u64>,
    pub(crate) tape: Arc<SharedBody>,
    pub(crate) vary: Vary,
    pub(crate) added: Namespaces,
    pub(crate) http: Option<Box<Http>>,
}
