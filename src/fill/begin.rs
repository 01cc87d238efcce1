//! The last steps before the inner service is called.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    entry::{Entry, stamp::Stamp, validity::Validity},
    lookup::{
        decision::Decision,
        request::{CacheRequest, LookupMiss},
    },
    single_flight::{Leader, follower::Follower, outcome::CompletionCount},
    state::LayerState,
    store::{
        Store,
        backend::{BeginFill, FillOptions},
        lock_guard::LockGuard,
    },
};

/// Another fill makes the call of the inner service unnecessary.
pub(crate) enum FilledElsewhere {
    /// A fill of this process that ended between the lookup and the join has stored a fresh entry.
    Before(Arc<Entry>),
    /// A fill of this process or of another process has stored a fresh entry.
    Stored(Arc<Entry>),
    /// A fill of this process has begun under the same stamp.
    InProgress(Follower),
}

/// The first and the longest pause before the store is queried again while another process holds the lock.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// The number of times that an invalidated stamp is taken again before the call.
const MOST_STAMPS: u32 = 3;

/// The number of entries stored meanwhile that may fail to answer the request.
const MOST_APPEARED: u32 = 2;

/// Completes the stamp of a fill, takes the distributed lock if the rule uses one, and takes a permit if the shared store does not coordinate the
/// call.
///
/// A leader gives way to another fill of this process if the store shows that nothing was invalidated since that fill began. A request that
/// found a generation missing may not join a fill that has created it since. Once the request has read the same generation, it may join.
pub(crate) async fn begin<St: Store>(
    shared: &Arc<LayerState<St>>,
    request: &CacheRequest,
    miss: &mut LookupMiss<St>,
    mut leads: Option<(&mut Leader, CompletionCount)>,
    until: Instant,
) -> Option<FilledElsewhere> {
    let store = &shared.store;
    if !store.is_shared() {
        return None;
    }
    let lock = request.rule.lock().filter(|_| leads.is_some());
    let mut begins = Beginning {
        shared,
        request,
        wish: FillOptions {
            lock,
            looks: miss.refresh_ahead.is_none(),
            counts: request.rule.learned().names_namespaces(),
            max_body: Some(request.rule.max_body()),
        },
        pause: LOOK_AGAIN.0,
        until,
        stamps: 0,
        appeared: 0,
    };
    // A fill that has ended since the lookup may have stored the missing entry.
    let landed = |since| shared.flights.have_landed_since(since, miss.key(request), miss.varying.is_some());
    let mut looks = leads.as_ref().is_some_and(|(_, landings)| landed(*landings));
    loop {
        if !looks && begins.asks(miss).await {
            match begins.is_outdated(miss, leads.as_mut().map(|(leader, _)| &mut **leader)) {
                Outdated::No => break,
                Outdated::Follows(follower) => return Some(FilledElsewhere::InProgress(follower)),
                Outdated::Perhaps => {}
            }
        }
        if let Some(entry) = begins.looks_again(miss).await {
            return Some(FilledElsewhere::Stored(entry));
        }
        looks = false;
    }
    if let Some((leader, _)) = leads {
        if !miss.stamp.is_whole() {
            leader.after_the_one_before(until).await;
        }
        miss.permit = shared.flights.leave(&miss.stamp, until).await;
        leader.begins(&miss.stamp);
    } else {
        miss.permit = shared.flights.leave(&miss.stamp, until).await;
    }
    None
}

/// A fill that is about to begin.
struct Beginning<'a, St: Store> {
    shared: &'a Arc<LayerState<St>>,
    request: &'a CacheRequest,
    wish: FillOptions,
    /// The next pause while another process holds the lock.
    pause: Duration,
    until: Instant,
    /// The number of times that the stamp was taken again.
    stamps: u32,
    /// The number of entries stored meanwhile.
    appeared: u32,
}

/// The state of a stamp before the inner service is called.
enum Outdated {
    No,
    /// Another fill has begun under the same stamp.
    Follows(Follower),
    /// A namespace was invalidated, or may have been. The stamp may be taken again until the inner service is called.
    Perhaps,
}

impl<St: Store> Beginning<'_, St> {
    /// Asks the store to let the fill begin. Returns false if the store has to be queried again first.
    async fn asks(&mut self, miss: &mut LookupMiss<St>) -> bool {
        let store = &self.shared.store;
        let stamp = miss.stamp.clone();
        let begun = match stamp.generations() {
            // The store did not answer the lookup.
            None => Ok(BeginFill::Proceed { stamp, lock: None }),
            Some(_) => store.begin(miss.key(self.request).as_ref(), &self.request.plan.names, stamp, self.wish).await,
        };
        match begun {
            Ok(BeginFill::Proceed { stamp, lock }) => {
                miss.stamp = stamp;
                if let Some(lock) = lock {
                    miss.lock = Some(Box::new(LockGuard::new(store.clone(), lock)));
                    self.wish.lock = None;
                }
            }
            Ok(BeginFill::Uncacheable { stamp }) => {
                miss.stamp = stamp;
                self.wish.lock = None;
            }
            Ok(BeginFill::Locked) => {
                // With jitter, so that waiting processes do not query at the same moment.
                let nap = self.pause.mul_f64(0.75 + 0.5 * fastrand::f64());
                self.pause = (self.pause * 2).min(LOOK_AGAIN.1);
                if tokio::time::timeout_at(self.until, tokio::time::sleep(nap)).await.is_err() {
                    self.wish.lock = None;
                }
                return false;
            }
            Ok(BeginFill::AlreadyStored) => {
                // An entry that does not answer this request would be found each time that the lock is taken.
                self.appeared += 1;
                self.wish.looks &= self.appeared < MOST_APPEARED;
                return false;
            }
            Err(error) => {
                tracing::debug!(%error, "a fill begins without the store");
                miss.stamp = Stamp::local(miss.stamp.epoch());
            }
        }
        true
    }

    /// Queries the store again. Returns an entry that answers the request. Without one, takes the stamp of this lookup.
    async fn looks_again(&self, miss: &mut LookupMiss<St>) -> Option<Arc<Entry>> {
        let Ok(lookup) = self.request.look_up(self.shared).await else {
            miss.stamp = Stamp::local(miss.stamp.epoch());
            return None;
        };
        (miss.stamp, miss.varying) = (lookup.stamp, lookup.varying.map(Box::new));
        let decision = self.request.decide(lookup.found.as_ref(), self.shared.store.context().clock.nanos());
        let found = lookup.found.map(|(entry, _)| entry);
        let left = match decision.as_chosen(miss.refresh_ahead.as_deref(), found.as_deref()) {
            Decision::Fresh | Decision::Audit => return found,
            Decision::RefreshAhead if miss.refresh_ahead.is_none() => return found,
            Decision::RefreshAhead | Decision::Stale => found,
            Decision::Fetch { fallback, .. } => found.filter(|_| fallback),
            Decision::AcceptedStale | Decision::OnlyIfCached => None,
        };
        miss.replace_found(left);
        None
    }

    /// Returns the state of the stamp, as far as this process can know it.
    fn is_outdated(&mut self, miss: &LookupMiss<St>, leader: Option<&mut Leader>) -> Outdated {
        let (store, names) = (&self.shared.store, &self.request.plan.names);
        let Some(leader) = leader.filter(|_| miss.stamp.is_whole()) else { return Outdated::No };
        let may = |stamp: &Stamp| store.may_join(stamp, &miss.stamp, names);
        if let Some(follower) = leader.gives_way(may) {
            return Outdated::Follows(follower);
        }
        let is_dead = store.life(&miss.stamp, names) == Validity::Invalidated;
        // One of two fills with different stamps is outdated. One more lookup shows which.
        let is_other = self.stamps == 0 && leader.is_after_another(may);
        if self.stamps == MOST_STAMPS || !is_dead && !is_other {
            return Outdated::No;
        }
        self.stamps += 1;
        Outdated::Perhaps
    }
}
