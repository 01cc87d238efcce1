//! Single flight: one fill per key and valid stamp.

pub(crate) mod detach;
pub(crate) mod flight;
pub(crate) mod flights;
pub(crate) mod follower;
pub(crate) mod outcome;
pub(crate) mod permit;
pub(crate) mod shared_body;

use std::{
    collections::hash_map::Entry,
    mem,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use self::{
    detach::{AwaitCount, Detachable},
    flight::{AnyFlight, Flight},
    flights::Flights,
    follower::Follower,
    outcome::{ArrivingResponse, FlightOutcome, Progress},
};
use crate::{entry::stamp::Stamp, key::Key};

/// The result of joining a fill. `T` is the output of the fill if this request leads it.
pub(crate) enum Join<T: Send + 'static> {
    Lead(Leader, Detachable<T, Flight>),
    Follow(Follower),
    /// The limit of fills, or of followers of this one, is reached.
    Full,
}

/// The result of joining a fill, if a request joined now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExpectedJoin {
    Lead,
    Follow,
    Full,
}

/// The leader of a fill. If it is dropped before the end, the followers look up again, and another one leads.
pub(crate) struct Leader {
    flights: Arc<Flights>,
    flight: Arc<dyn AnyFlight>,
    /// The earlier fill of the key that could not be joined.
    before: Option<Arc<dyn AnyFlight>>,
    landed: bool,
}

impl Flights {
    /// Joins the fill of a key, or begins one. Every request may join a fill whose call has not begun, since its response will be computed after
    /// the request arrived. A fill whose call has begun is joined only if its stamp is `alive` for the request. Otherwise it goes on for its
    /// followers, and a new fill replaces it.
    ///
    /// With a `stamp` the call begins at once. Without one, it begins with [`Leader::begins`]. The work is dropped `limit` after the last request
    /// that wants it has left.
    pub(crate) fn join<T: Send + 'static>(
        self: &Arc<Self>,
        key: &Key,
        stamp: Option<&Stamp>,
        limit: Duration,
        alive: impl Fn(&Stamp) -> bool,
    ) -> Join<T> {
        let mut shard = self.shard(key.hash());
        let place = shard.entry(key.hash());
        if let Entry::Occupied(place) = &place {
            let flight = place.get().flight();
            if flight.key != *key {
                return Join::Full;
            }
            if may_be_joined(flight, alive) {
                // Counted under the lock of the list, so that a leader that ends the fill knows its followers.
                let follower = self.follow(place.get());
                drop(shard);
                return match follower {
                    // The fill moves to a task of its own: a follower does not depend on how often the leader is polled.
                    Some(follower) => {
                        follower.flight.clone().promote();
                        Join::Follow(follower)
                    }
                    None => Join::Full,
                };
            }
        }
        if self.flying.fetch_add(1, Ordering::SeqCst) >= self.limits.flights {
            self.flying.fetch_sub(1, Ordering::SeqCst);
            return Join::Full;
        }
        self.flying_of_all.fetch_add(1, Ordering::Relaxed);
        let drive = Detachable::limited(
            limit,
            Flight {
                key: key.clone(),
                begun: stamp.cloned(),
                begins: OnceLock::new(),
                progress: Mutex::new(Progress::Calling),
                moved: Notify::const_new(),
                waiters: AtomicUsize::new(0),
                reads: AtomicBool::new(false),
                has_successor: AtomicBool::new(false),
                is_closed: AtomicBool::new(false),
                has_ended: AtomicBool::new(false),
            },
        );
        let flight: Arc<dyn AnyFlight> = drive.cell().clone();
        let before = match place {
            Entry::Vacant(place) => {
                place.insert(flight.clone());
                None
            }
            Entry::Occupied(mut place) => {
                place.get().flight().has_successor.store(true, Ordering::SeqCst);
                Some(place.insert(flight.clone()))
            }
        };
        drop(shard);
        Join::Lead(Leader { flights: self.clone(), flight, before, landed: false }, drive)
    }

    /// Returns the result of [`join`](Self::join), without joining.
    pub(crate) fn peek(&self, key: &Key, alive: impl FnOnce(&Stamp) -> bool) -> ExpectedJoin {
        let shard = self.shard(key.hash());
        match shard.get(&key.hash()).map(|flying| flying.flight()) {
            Some(flight) if flight.key != *key => ExpectedJoin::Full,
            Some(flight) if may_be_joined(flight, alive) => match flight.waiters.load(Ordering::SeqCst) < self.limits.waiters {
                true => ExpectedJoin::Follow,
                false => ExpectedJoin::Full,
            },
            _ if self.flying.load(Ordering::SeqCst) >= self.limits.flights => ExpectedJoin::Full,
            _ => ExpectedJoin::Lead,
        }
    }

    /// Adds a follower, if the limit allows it.
    fn follow(&self, flying: &Arc<dyn AnyFlight>) -> Option<Follower> {
        let flight = flying.flight();
        if flight.waiters.fetch_add(1, Ordering::SeqCst) >= self.limits.waiters {
            flight.waiters.fetch_sub(1, Ordering::SeqCst);
            return None;
        }
        Some(Follower { looks_again: flight.is_closed.load(Ordering::SeqCst), flight: flying.clone() })
    }
}

/// Returns true if a request may follow a fill: its call has not begun, or began under a stamp that is `alive` for the request. A closed fill is
/// followed to its end.
fn may_be_joined(flight: &Flight, alive: impl FnOnce(&Stamp) -> bool) -> bool {
    flight.is_closed.load(Ordering::SeqCst) || flight.stamp().is_none_or(alive)
}

impl Leader {
    /// Sets the stamp under which the call begins now.
    pub(crate) fn begins(&mut self, stamp: &Stamp) {
        self.before = None;
        let flight = self.flight.flight();
        let _shard = self.flights.shard(flight.key.hash());
        let _ = flight.begins.set(stamp.clone());
    }

    /// Waits for the earlier fill if the store cannot verify it. One call runs, one waits, and there is no third.
    pub(crate) async fn after_the_one_before(&self, until: Instant) {
        if let Some(before) = &self.before {
            before.flight().moves(until).await;
        }
    }

    /// Closes the flight: the response is not for requests that join later. They wait for the end, and look up again.
    pub(crate) fn closes(&self) {
        let flight = self.flight.flight();
        let _shard = self.flights.shard(flight.key.hash());
        flight.is_closed.store(true, Ordering::SeqCst);
    }

    /// Returns true if the earlier fill has begun under a stamp that the caller may not share.
    pub(crate) fn is_after_another(&self, may: impl FnOnce(&Stamp) -> bool) -> bool {
        self.before.as_ref().and_then(|before| before.flight().stamp()).is_some_and(|stamp| !may(stamp))
    }

    /// Gives way to the earlier fill if it has begun under a stamp that the caller may share: puts it back into the list and follows it. The
    /// followers of this fill look up again, since they may have arrived after the caller's lookup.
    pub(crate) fn gives_way(&mut self, may: impl FnOnce(&Stamp) -> bool) -> Option<Follower> {
        let before = self.before.take_if(|before| before.flight().stamp().is_some_and(may))?;
        let follower = self.flights.follow(&before)?;
        before.clone().promote();
        self.landed = true;
        self.flights.remove(&self.flight, Some(&before));
        let flight = self.flight.flight();
        *flight.progress() = Progress::Landed(FlightOutcome::LeaderLost);
        flight.moved.notify_waiters();
        Some(follower)
    }

    /// Returns the flight.
    pub(crate) fn flight(&self) -> Arc<dyn AnyFlight> {
        self.flight.clone()
    }

    /// Records that a body is read that can be shared only when it is complete.
    pub(crate) fn reads(&self) {
        self.flight.flight().reads.store(true, Ordering::Relaxed);
    }

    /// Shares a response while its body is read.
    pub(crate) fn arrives(&self, arriving: ArrivingResponse) {
        let flight = self.flight.flight();
        *flight.progress() = Progress::Arriving(Arc::new(arriving));
        flight.moved.notify_waiters();
    }

    /// Ends the fill. Must be called after the entry is stored, so that later requests find it.
    pub(crate) fn land(self, landing: FlightOutcome) {
        self.land_with(|| landing);
    }

    /// Ends the fill with an outcome that is computed only if there are followers.
    pub(crate) fn land_with(mut self, landing: impl FnOnce() -> FlightOutcome) {
        self.landed = true;
        self.end(landing);
    }

    fn end(&self, landing: impl FnOnce() -> FlightOutcome) {
        // Counted before the flight leaves the list: a request that does not find the flight sees the new count.
        self.flights.landings.fetch_add(1, Ordering::SeqCst);
        self.flights.landings_of(self.flight.flight().key.hash()).fetch_add(1, Ordering::SeqCst);
        self.flights.remove(&self.flight, None);
        // No request joins after this, and every follower was counted under the lock.
        let flight = self.flight.flight();
        let landing = match flight.is_awaited() {
            true => landing(),
            false if flight.has_successor.load(Ordering::SeqCst) => FlightOutcome::LeaderLost,
            false => return,
        };
        *flight.progress() = Progress::Landed(landing);
        flight.moved.notify_waiters();
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if !mem::replace(&mut self.landed, true) {
            self.end(|| FlightOutcome::LeaderLost);
        }
    }
}
