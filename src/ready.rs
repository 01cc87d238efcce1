//! The ready instance of a service (the contract of [`tower::Service`]).

use std::mem;

/// Takes the instance that was made ready, for a call that is made now or later, and leaves a clone that may not be ready.
#[inline]
pub(crate) fn take_ready<S: Clone>(service: &mut S) -> S {
    let next = service.clone();
    mem::replace(service, next)
}
