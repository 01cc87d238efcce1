//! Listed requests and namespaces, for applications.

use http::Request;

use crate::key::{Key, replay::Replay};

/// A frequent request, or all requests of a route whose keys hold an identity, a secret, the content of a request or a part of an application's
/// [`KeyExtractor`](crate::KeyExtractor): the item of [`ResponseCache::hottest_requests`](crate::ResponseCache::hottest_requests).
#[derive(Debug, Clone)]
pub struct HotRequest {
    pub(crate) key: Option<Key>,
    pub(crate) replay: Option<Replay>,
    pub(crate) route: Option<Box<str>>,
    pub(crate) count: u64,
    pub(crate) error: u64,
}

/// Marks a request of a list with the pattern of its route. Logs show the route in place of the target.
#[derive(Debug, Clone)]
pub(crate) struct Frequent(pub(crate) Option<Box<str>>);

impl HotRequest {
    /// Returns a request with the target and the fields that belong to the key. Returns `None` for a route of which no single request is known.
    pub fn request(&self) -> Option<Request<()>> {
        let mut request = self.replay.as_ref()?.request.clone();
        request.extensions_mut().insert(Frequent(self.route.clone()));
        Some(request)
    }

    /// Returns the pattern of the route, or `None` for the [fallback](crate::Rules::fallback).
    pub fn route(&self) -> Option<&str> {
        self.route.as_deref()
    }

    /// Returns the number of requests. It is an estimate: one fresh hit in 64 is counted, with a weight of 64. The count may include
    /// [`error`](Self::error) other requests.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the part of the count that may belong to other requests.
    pub fn error(&self) -> u64 {
        self.error
    }
}

/// A frequent namespace: the item of [`ResponseCache::hottest_namespaces`](crate::ResponseCache::hottest_namespaces). Its counts include its
/// descendants for reads, and do not for invalidations.
#[derive(Debug, Clone)]
pub struct HotNamespace {
    pub(crate) name: Box<str>,
    pub(crate) reads: u64,
    pub(crate) reads_error: u64,
    pub(crate) invalidations: u64,
    pub(crate) invalidations_error: u64,
}

impl HotNamespace {
    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the number of reads. It is an estimate: one fresh hit in 64 is counted, with a weight of 64. The count may include
    /// [`reads_error`](Self::reads_error) reads of other namespaces.
    pub fn reads(&self) -> u64 {
        self.reads
    }

    /// Returns the part of the reads that may belong to other namespaces.
    pub fn reads_error(&self) -> u64 {
        self.reads_error
    }

    /// Returns the number of invalidations in this process that named the namespace. The count may include
    /// [`invalidations_error`](Self::invalidations_error) invalidations of other namespaces.
    pub fn invalidations(&self) -> u64 {
        self.invalidations
    }

    /// Returns the part of the invalidations that may belong to other namespaces.
    pub fn invalidations_error(&self) -> u64 {
        self.invalidations_error
    }
}
