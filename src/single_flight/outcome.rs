//! Progress and outcome of a fill, for its followers.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};

use super::shared_body::SharedBody;
use crate::{
    cdn::response::TaggedBy,
    clock::Nanos,
    entry::{self, Entry, times::Http},
    key::Key,
    namespace::set::Namespaces,
    semantics::{Failure, Vary},
};

impl SharedResponse {
    /// Returns a response without variants whose namespaces were all known from the request.
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

/// The number of fills that had ended at some time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CompletionCount {
    pub(crate) all: u64,
    pub(crate) of_key: u32,
}

/// The progress of a fill, for its followers.
#[derive(Clone)]
pub(crate) enum Progress {
    /// The inner service has not answered, or its response may not be shared yet.
    Calling,
    /// The response may be shared, and its body is being read.
    Arriving(Arc<ArrivingResponse>),
    Landed(FlightOutcome),
}

/// The outcome of a fill.
#[derive(Clone)]
pub(crate) enum FlightOutcome {
    /// The followers may have the entry.
    Stored(Arc<SharedResponse>),
    /// The response may not be shared. The followers fetch alone, at once.
    NotShareable,
    /// The inner service has failed. Followers that may be served a stale entry get that. All others fetch alone, at once.
    Failed(Failure),
    /// The leader was lost. The followers look up again, and one of them leads.
    LeaderLost,
    /// The store could not verify the response, because its namespaces are new or were invalidated. The followers look up again. After a few
    /// times they fetch alone.
    Unverified,
}

/// A response that may be shared, with the data for the checks of a follower.
pub(crate) struct SharedResponse {
    pub(crate) entry: Arc<entry::Entry>,
    pub(crate) vary: Vary,
    /// The namespaces that only the response named. The follower checks that they are still valid.
    pub(crate) added: Namespaces,
}

/// A response that may be shared while its body is being read.
pub(crate) struct ArrivingResponse {
    pub(crate) key: Key,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) born: Nanos,
    /// The end of its lifetime, if it has one. Later requests do not share the body.
    pub(crate) fresh_until: Option<Nanos>,
    /// The length of the body, if known.
    pub(crate) length: Option<u64>,
    pub(crate) tape: Arc<SharedBody>,
    pub(crate) vary: Vary,
    pub(crate) added: Namespaces,
    /// The cache tags, if they are sent.
    pub(crate) tagged_by: Option<TaggedBy>,
    pub(crate) http: Option<Box<Http>>,
}
