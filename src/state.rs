//! State that the services of one layer share.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use http::Response;

use crate::{
    rules::Rules,
    single_flight::flights::Flights,
    status::{self, CACHE_STATUS, CacheStatus, StatusField},
    store::backend::Store,
    switch::Switch,
};

/// What the owner of a layer has chosen.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Sent with every response, if it is.
    pub(crate) cache_status: Option<StatusField>,
    /// Whether responses carry a [`CacheStatus`].
    pub(crate) extension: bool,
    /// Whether stored responses say how long their bodies are.
    pub(crate) content_length: bool,
    pub(crate) fill_limit: Duration,
    pub(crate) max_buffered_bytes: usize,
    pub(crate) enabled: Switch,
}

/// What all services of one layer share.
#[derive(Debug)]
pub(crate) struct LayerState<St> {
    /// Its number, which no other of this process has.
    pub(crate) id: u64,
    pub(crate) store: St,
    pub(crate) rules: Rules,
    pub(crate) options: Options,
    pub(crate) flights: Arc<Flights>,
    /// Bytes of bodies that are on their way into the store.
    pub(crate) taping: AtomicUsize,
}

impl<St: Store> LayerState<St> {
    /// The response with what its owner wants to see on it.
    #[inline]
    pub(crate) fn marked<B>(&self, mut response: Response<B>, status: CacheStatus) -> Response<B> {
        self.mark(&mut response, || status);
        response
    }

    /// Puts on a response what its owner wants to see on it.
    #[inline]
    pub(crate) fn mark<B>(&self, response: &mut Response<B>, status: impl FnOnce() -> CacheStatus) {
        let Options { cache_status, extension, .. } = &self.options;
        if cache_status.is_none() && !extension {
            return without_slot(response);
        }
        let status = status();
        if *extension {
            response.extensions_mut().insert(status);
        }
        match cache_status {
            Some(field) => field.put(status, response.headers_mut()),
            None => without_slot(response),
        }
    }
}

/// Takes off what a layer over the same store has left for what it says of hits.
#[inline]
fn without_slot<B>(response: &mut Response<B>) {
    if status::slot(response.headers_mut()).is_some() {
        response.headers_mut().remove(CACHE_STATUS);
    }
}
