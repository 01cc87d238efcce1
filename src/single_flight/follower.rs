//! A request that waits for another fill.

use std::sync::{Arc, atomic::Ordering};

use tokio::time::Instant;

use super::{
    flight::AnyFlight,
    outcome::{FlightOutcome, Progress},
};
use crate::{entry::stamp::Stamp, key::Key, single_flight::flights::Flights};

/// Whoever waits.
pub(crate) struct Follower {
    pub(crate) flight: Arc<dyn AnyFlight>,
    /// Whatever it comes to, it may not be what this one may have.
    pub(crate) looks_again: bool,
}

impl Follower {
    /// The stamp of the fill that is waited for, if its call has begun.
    pub(crate) fn stamp(&self) -> Option<&Stamp> {
        self.flight.flight().stamp()
    }

    /// The key of the fill that is waited for.
    pub(crate) fn key(&self) -> &Key {
        &self.flight.flight().key
    }

    /// Nobody joins this fill any more: it has outlived its response's lifetime, or the time that anybody waits for it. It may even be
    /// one that nothing drives, left on a runtime that is not run.
    pub(crate) fn gives_up(&self, flights: &Flights) {
        flights.unlist(&self.flight);
    }

    /// Whether the inner service has answered with a body whose end has to be waited for.
    pub(crate) fn waits_for_a_body(&self) -> bool {
        self.flight.flight().reads.load(Ordering::Relaxed)
    }

    /// Waits until the fill arrives or lands; `None` if that takes longer than one may wait.
    pub(crate) async fn wait(&self, until: Instant) -> Option<Progress> {
        let progress = self.flight.flight().moves(until).await?;
        Some(if self.looks_again { Progress::Landed(FlightOutcome::LeaderLost) } else { progress })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.flight.flight().waiters.fetch_sub(1, Ordering::SeqCst);
    }
}
