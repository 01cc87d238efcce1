//! State that the services of one layer share.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use http::Response;

use crate::{
    body::CacheBody,
    rules::Rules,
    single_flight::flights::Flights,
    status::{
        CacheStatus,
        field::{self, CACHE_STATUS, StatusField},
    },
    store::Store,
    switch::Switch,
};

/// The options of a layer.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The name of the `Cache-Status` field, if it is sent.
    pub(crate) cache_status: Option<StatusField>,
    /// Adds a [`CacheStatus`] to the extensions of responses.
    pub(crate) extension: bool,
    /// Adds `Content-Length` to stored responses.
    pub(crate) content_length: bool,
    pub(crate) fill_limit: Duration,
    pub(crate) max_buffered_bytes: usize,
    pub(crate) enabled: Switch,
}

/// State that all services of one layer share.
#[derive(Debug)]
pub(crate) struct LayerState<St> {
    /// A number that is unique in the process.
    pub(crate) id: u64,
    pub(crate) store: St,
    pub(crate) rules: Rules,
    pub(crate) options: Options,
    pub(crate) flights: Arc<Flights>,
    /// The bytes of bodies that are being read into the store.
    pub(crate) taping: AtomicUsize,
}

impl<St: Store> LayerState<St> {
    /// Returns the response with its status.
    #[inline]
    pub(crate) fn marked<B>(&self, mut response: Response<CacheBody<B>>, status: CacheStatus) -> Response<CacheBody<B>> {
        self.mark(&mut response, status);
        response
    }

    /// Sets the status of a response: in its body, and in the places that the options name.
    #[inline]
    pub(crate) fn mark<B>(&self, response: &mut Response<CacheBody<B>>, status: CacheStatus) {
        let Options { cache_status, extension, .. } = &self.options;
        response.body_mut().set_status(status);
        if *extension {
            response.extensions_mut().insert(status);
        }
        match cache_status {
            Some(field) => field.put(status, response.headers_mut()),
            None => without_slot(response),
        }
    }
}

/// Removes the empty `Cache-Status` field that a layer with other options has stored.
#[inline]
fn without_slot<B>(response: &mut Response<B>) {
    if field::slot(response.headers_mut()).is_some() {
        response.headers_mut().remove(CACHE_STATUS);
    }
}
