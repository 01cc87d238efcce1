//! The whole road of a fill: from the inner service's answer to the client and into the store.

pub(crate) mod admission;

pub(crate) mod begin;

pub(crate) mod body;

pub(crate) mod commit;

pub(crate) mod fast_path;

pub(crate) mod future;

pub(crate) mod partial;

pub(crate) mod revalidate;
pub(crate) mod run;

pub(crate) mod upstream;

use std::{
    future::Future,
    ops::{Deref, DerefMut},
    pin::Pin,
    sync::Arc,
};

use http::Response;

use crate::{
    body::CacheBody, clock::Nanos, lookup::request::MissedRequest, single_flight::Leader, state::LayerState,
    store::backend::Store,
};

/// How long it is remembered that responses for a key are not fit to be shared.
pub(crate) const PASS: Nanos = 5_000_000_000;

/// What a request that waits, or sets out for the inner service, is answered.
pub(crate) type Answer<B, E> = Result<Response<CacheBody<B>>, E>;

/// What is left to do where something has to be waited for.
pub(crate) type RestFuture<B, E> = Pin<Box<dyn Future<Output = Answer<B, E>> + Send>>;

/// What becomes of the answer to a call of the inner service.
pub(crate) struct Fill<St: Store> {
    pub(crate) shared: Arc<LayerState<St>>,
    pub(crate) missed: Box<MissedRequest<St>>,
    /// When the inner service was called.
    pub(crate) began: Nanos,
    /// When it had answered; until then the same.
    pub(crate) answered: Nanos,
    /// None if nobody waits for this fill.
    pub(crate) leader: Option<Leader>,
}

/// The request and its lookup, as `self.request` and `self.miss`.
impl<St: Store> Deref for Fill<St> {
    type Target = MissedRequest<St>;

    #[inline(always)]
    fn deref(&self) -> &MissedRequest<St> {
        &self.missed
    }
}

impl<St: Store> DerefMut for Fill<St> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut MissedRequest<St> {
        &mut self.missed
    }
}
