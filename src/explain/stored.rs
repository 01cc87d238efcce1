//! A stored response, as explanations show it.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::names::most_specific;
use crate::{
    clock::Nanos,
    entry::{Content, Entry, validity::Validity},
    namespace::Namespace,
};

/// A stored response, fresh or stale.
#[derive(Debug, Clone)]
pub struct StoredResponse {
    entry: Arc<Entry>,
    validity: Validity,
    now: Nanos,
}

impl StoredResponse {
    pub(super) fn new(entry: Arc<Entry>, validity: Validity, now: Nanos) -> Self {
        Self { entry, validity, now }
    }

    /// Returns the status.
    pub fn status(&self) -> StatusCode {
        match self.entry.content() {
            Content::Response { status, .. } => *status,
            Content::Variants(_) => StatusCode::OK,
        }
    }

    /// Returns the time since the response was generated.
    pub fn age(&self) -> Duration {
        Duration::from_nanos(self.now.saturating_sub(self.entry.times().born))
    }

    /// Returns the time until the response expires: zero if it has expired.
    pub fn time_left(&self) -> Duration {
        Duration::from_nanos(self.entry.times().fresh_until.saturating_sub(self.now))
    }

    /// Returns true if a namespace of the response was invalidated softly, so that it counts as expired.
    pub fn is_softly_invalidated(&self) -> bool {
        self.validity == Validity::Stale
    }

    /// Returns true if the response has neither expired nor been invalidated softly.
    pub fn is_fresh(&self) -> bool {
        self.validity == Validity::Valid && !self.time_left().is_zero()
    }

    /// Returns the size of the body in bytes.
    pub fn body_size(&self) -> usize {
        self.body().len()
    }

    /// Returns the size of the entry in memory: body, header fields, key, namespaces and overhead.
    pub fn size(&self) -> u64 {
        self.entry.weight()
    }

    /// Returns the namespaces of the response, without their ancestors. The handler may have added some.
    pub fn namespaces(&self) -> Vec<Namespace> {
        most_specific(self.entry.namespaces())
    }

    /// Returns the header fields as they are stored.
    pub fn headers(&self) -> HeaderMap {
        match self.entry.content() {
            Content::Response { headers, .. } => headers.to_map(),
            Content::Variants(_) => HeaderMap::new(),
        }
    }

    /// Returns the body.
    pub fn body(&self) -> Bytes {
        match self.entry.content() {
            Content::Response { body, .. } => body.clone(),
            Content::Variants(_) => Bytes::new(),
        }
    }
}

impl fmt::Display for StoredResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (age, left) = (self.age().as_secs(), self.time_left().as_secs());
        write!(f, "status {}, age {age} s, {left} s left, body of {} bytes", self.status().as_u16(), self.body_size())?;
        if self.is_softly_invalidated() { f.write_str(", softly invalidated") } else { Ok(()) }
    }
}
