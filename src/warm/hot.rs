//! The hottest requests of a cache, as the requests of a warmer.

use std::collections::HashSet;

use http::{HeaderMap, HeaderValue, Request, header};

use crate::{cdn::Purge, handle::ResponseCache, hottest::listed::HotRequest};

/// The fields of all requests that have none of their own.
#[derive(Debug, Clone, Default)]
pub(super) struct CommonFields {
    pub(super) host: Option<HeaderValue>,
    pub(super) headers: HeaderMap,
}

impl CommonFields {
    /// Adds the fields to a request.
    pub(super) fn complete(&self, mut request: Request<()>) -> Request<()> {
        let headers = request.headers_mut();
        let own: Vec<_> = self.headers.keys().filter(|name| !headers.contains_key(*name)).collect();
        for name in own {
            self.headers.get_all(name).iter().for_each(|value| _ = headers.append(name, value.clone()));
        }
        if let (Some(host), None) = (&self.host, request.uri().authority()) {
            request.headers_mut().entry(header::HOST).or_insert_with(|| host.clone());
        }
        request
    }
}

/// The hottest requests, of a namespace or of all.
#[derive(Debug, Clone)]
pub(super) struct HotList {
    pub(super) namespace: Option<Box<str>>,
    pub(super) most: usize,
}

impl HotList {
    /// Returns the requests of now.
    pub(super) fn requests(&self, cache: &ResponseCache) -> Vec<Request<()>> {
        requests(self.listed(cache), self.most).map(|(_, request)| request).collect()
    }

    fn listed(&self, cache: &ResponseCache) -> Vec<HotRequest> {
        match &self.namespace {
            None => cache.hottest_requests(),
            Some(namespace) => cache.hottest_requests_of(namespace),
        }
    }

    /// Returns the requests of an invalidated namespace.
    fn invalidated(&self, cache: &ResponseCache, bumped: &str) -> Vec<HotRequest> {
        match self.namespace.as_deref() {
            None => cache.hottest_requests_of(bumped),
            Some(namespace) if is_within(namespace, bumped) => cache.hottest_requests_of(namespace),
            Some(namespace) if is_within(bumped, namespace) => cache.hottest_requests_of(bumped),
            Some(_) => Vec::new(),
        }
    }
}

/// Returns single requests with their keys.
fn requests(listed: Vec<HotRequest>, most: usize) -> impl Iterator<Item = (u128, Request<()>)> {
    let single = |hot: HotRequest| Some((hot.key.as_ref()?.hash(), hot.request()?));
    listed.into_iter().filter_map(single).take(most)
}

/// The hottest requests that are sent after invalidations.
pub(super) struct HotAgain {
    pub(super) lists: Vec<HotList>,
    pub(super) cache: ResponseCache,
    pub(super) fields: CommonFields,
}

impl HotAgain {
    /// Returns the requests to be sent after an invalidation, each once.
    pub(super) fn after(&self, purge: &Purge) -> Vec<Request<()>> {
        let mut all = Vec::new();
        for list in &self.lists {
            if purge.is_everything() {
                all.extend(requests(list.listed(&self.cache), list.most));
            }
            for bumped in purge.namespaces() {
                all.extend(requests(list.invalidated(&self.cache, bumped.as_str()), list.most));
            }
        }
        let mut keys = HashSet::new();
        all.retain(|(key, _)| keys.insert(*key));
        all.into_iter().map(|(_, request)| self.fields.complete(request)).collect()
    }
}

/// Returns true if a namespace is another one or a descendant of it.
pub(super) fn is_within(name: &str, other: &str) -> bool {
    name.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
}
