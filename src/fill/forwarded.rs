//! A request that the inner service answers without a fill.

use std::sync::Arc;

use http::Response;
use http_body::Body;

use crate::{
    body::CacheBody,
    clock::Nanos,
    error::BoxError,
    state::LayerState,
    status::{CacheStatus, Outcome},
    store::Store,
};

/// A request that the inner service answers without a fill, and its outcome.
pub(crate) struct Forwarded<St> {
    shared: Arc<LayerState<St>>,
    outcome: Outcome,
    /// The place of the rule.
    place: usize,
    began: Nanos,
}

impl<St: Store> Forwarded<St> {
    /// Counts the request, just before the inner service is called.
    pub(crate) fn begin(shared: &Arc<LayerState<St>>, outcome: Outcome, place: usize) -> Self {
        let route = &shared.routes[place];
        match outcome {
            Outcome::Bypass(reason) => {
                route.bypass(reason);
                tracing::debug!(reason = reason.as_str(), "cache bypassed");
            }
            Outcome::Miss(reason) => route.miss(reason),
            _ => {}
        }
        Self { shared: shared.clone(), outcome, place, began: shared.store.context().clock.nanos() }
    }

    /// Returns the response with its status.
    pub(crate) fn answered<B: Body<Error: Into<BoxError>>>(self, response: Response<CacheBody<B>>) -> Response<CacheBody<B>> {
        let Self { shared, outcome, place, began } = self;
        let (route, took) = (&shared.routes[place], shared.store.context().clock.nanos().saturating_sub(began));
        match outcome {
            Outcome::Bypass(_) => route.time_of_bypass(took),
            _ => route.time_of_miss(took),
        }
        route.inner_bytes(response.body().known_length());
        shared.marked(response, CacheStatus::new(outcome))
    }
}
