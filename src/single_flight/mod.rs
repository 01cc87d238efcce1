//! One fill per key and living stamp.

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

/// What became of the wish to join, for one whose fill would make a `T`.
pub(crate) enum Join<T: Send + 'static> {
    Lead(Leader, Detachable<T, Flight>),
    Follow(Follower),
    /// There are as many flights, or waiters on this one, as there may be.
    Full,
}

/// Whoever fills. Dropped without a landing, it passes the baton: those who wait look again.
pub(crate) struct Leader {
    flights: Arc<Flights>,
    flight: Arc<dyn AnyFlight>,
    /// The fill of the same key that could not be joined.
    before: Option<Arc<dyn AnyFlight>>,
    landed: bool,
}

impl Flights {
    /// Joins the fill of a key, or begins one. A fill whose inner call has not begun is joined by everybody: what it brings will
    /// have been computed after they came. Once it has begun, it is joined only while its stamp is `alive` for who wants to join;
    /// one that is not goes on for those who joined it before, and a new one takes its place.
    ///
    /// With a `stamp` the inner call begins at once; without, [`Leader::begins`] says when. The work of the fill, once nobody wants it
    /// any more, is given up after `limit`.
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
            if flight.is_closed.load(Ordering::SeqCst) || flight.stamp().is_none_or(alive) {
                // Counted before the list is let go: who lands takes the flight off it, and knows then who waits.
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

    /// One more who waits for this flight, if so many may.
    fn follow(&self, flying: &Arc<dyn AnyFlight>) -> Option<Follower> {
        let flight = flying.flight();
        if flight.waiters.fetch_add(1, Ordering::SeqCst) >= self.limits.waiters {
            flight.waiters.fetch_sub(1, Ordering::SeqCst);
            return None;
        }
        Some(Follower { looks_again: flight.is_closed.load(Ordering::SeqCst), flight: flying.clone() })
    }
}

impl Leader {
    /// The inner call begins now, under this stamp.
    pub(crate) fn begins(&mut self, stamp: &Stamp) {
        self.before = None;
        let flight = self.flight.flight();
        let _shard = self.flights.shard(flight.key.hash());
        let _ = flight.begins.set(stamp.clone());
    }

    /// Where nothing says whether the fill before this one is still good, it is waited for: one call is running, one forming, and
    /// there is no third.
    pub(crate) async fn after_the_one_before(&self, until: Instant) {
        if let Some(before) = &self.before {
            before.flight().moves(until).await;
        }
    }

    /// From here on nobody joins: what is read now says nothing of those who come later. They wait for the end, and look again.
    pub(crate) fn closes(&self) {
        let flight = self.flight.flight();
        let _shard = self.flights.shard(flight.key.hash());
        flight.is_closed.store(true, Ordering::SeqCst);
    }

    /// Whether the fill before this one has begun under another stamp than the caller `may` share.
    pub(crate) fn is_after_another(&self, may: impl FnOnce(&Stamp) -> bool) -> bool {
        self.before.as_ref().and_then(|before| before.flight().stamp()).is_some_and(|stamp| !may(stamp))
    }

    /// Gives way to the fill before this one, if that has begun under a stamp that the caller `may` share after all: follows it, and puts
    /// it back in its place. Those who wait for this fill look again, since they may have come after what the caller has read.
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

    /// The flight, for asking who waits for it.
    pub(crate) fn flight(&self) -> Arc<dyn AnyFlight> {
        self.flight.clone()
    }

    /// The response is fit and its body on the way, but whether it may be shared is known at its end.
    pub(crate) fn reads(&self) {
        self.flight.flight().reads.store(true, Ordering::Relaxed);
    }

    /// The response is fit, and its body on the way.
    pub(crate) fn arrives(&self, arriving: ArrivingResponse) {
        let flight = self.flight.flight();
        *flight.progress() = Progress::Arriving(Arc::new(arriving));
        flight.moved.notify_waiters();
    }

    /// The end of the fill. To be called after the entry is stored: who comes later finds it there.
    pub(crate) fn land(self, landing: FlightOutcome) {
        self.land_with(|| landing);
    }

    /// The same, with what only those need who wait.
    pub(crate) fn land_with(mut self, landing: impl FnOnce() -> FlightOutcome) {
        self.landed = true;
        self.end(landing);
    }

    fn end(&self, landing: impl FnOnce() -> FlightOutcome) {
        // Before it can be missed in the list: who no longer finds it there sees that one more has landed.
        self.flights.landings.fetch_add(1, Ordering::SeqCst);
        self.flights.landings_of(self.flight.flight().key.hash()).fetch_add(1, Ordering::SeqCst);
        self.flights.remove(&self.flight, None);
        // From here on nobody joins, and who has was counted before the list was let go.
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
