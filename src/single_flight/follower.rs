//! A request that waits for another fill.

use std::sync::{Arc, atomic::Ordering};

use tokio::time::Instant;

use super::{
    flight::AnyFlight,
    outcome::{FlightOutcome, Progress},
};
use crate::{entry::stamp::Stamp, key::Key, single_flight::flights::Flights};

/// A request that follows a flight.
pub(crate) struct Follower {
    pub(crate) flight: Arc<dyn AnyFlight>,
    /// The flight was closed before this follower joined. Its response is not for this follower.
    pub(crate) looks_again: bool,
}

impl Follower {
    /// Returns the stamp of the fill, if its call has begun.
    pub(crate) fn stamp(&self) -> Option<&Stamp> {
        self.flight.flight().stamp()
    }

    /// Returns the key of the fill.
    pub(crate) fn key(&self) -> &Key {
        &self.flight.flight().key
    }

    /// Removes the fill from the list, because it took longer than the lifetime of its response or than the wait limit. It may be on a runtime
    /// that no longer runs.
    pub(crate) fn gives_up(&self, flights: &Flights) {
        flights.unlist(&self.flight);
    }

    /// Returns true if the fill reads a body that cannot be shared before it is complete.
    pub(crate) fn waits_for_a_body(&self) -> bool {
        self.flight.flight().reads.load(Ordering::Relaxed)
    }

    /// Waits until the response may be shared, or the fill has ended. Returns `None` if that takes too long.
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
