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
        backend::{BeginFill, FillOptions, Store},
        lock_guard::LockGuard,
    },
};

/// The state of a fill that may begin.
pub(crate) enum Begins {
    /// The inner service is to be called.
    Call,
    /// Another fill has stored something fresh meanwhile, in this process or in another.
    Answered(Arc<Entry>),
    /// Another fill of this process has begun under the same stamp: its response is waited for.
    Follows(Follower),
}

/// How long the owner of a lock is left alone before the store is looked at again: at first, and at most.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// How often a stamp that is dead before the inner service is called is taken again.
const MOST_STAMPS: u32 = 3;

/// How often an entry may appear and not answer the request.
const MOST_APPEARED: u32 = 2;

/// Makes the stamp of a fill whole, takes the lock across processes if the rule wants one, and a permit if the call is not backed by the
/// shared store.
///
/// A leader gives way to another fill of this process wherever the store shows that nothing was invalidated since that began. A request
/// that found a generation missing may not join a fill that has created it since. Once it has read the same generation, it may.
pub(crate) async fn begin<St: Store>(
    shared: &Arc<LayerState<St>>,
    quest: &CacheRequest,
    missed: &mut LookupMiss<St>,
    mut leads: Option<(&mut Leader, CompletionCount)>,
    until: Instant,
) -> Begins {
    let store = &shared.store;
    if !store.is_shared() {
        return Begins::Call;
    }
    let lock = quest.rule.lock().filter(|_| leads.is_some());
    let mut begins = Beginning {
        shared,
        quest,
        wish: FillOptions {
            lock,
            looks: !missed.early,
            counts: quest.rule.adds_namespaces(),
            max_body: Some(quest.rule.max_body()),
        },
        pause: LOOK_AGAIN.0,
        until,
        stamps: 0,
        appeared: 0,
    };
    // A fill that has landed since the look may have stored what was not found.
    let landed = |since| shared.flights.have_landed_since(since, missed.key(quest), missed.varying.is_some());
    let mut looks = leads.as_ref().is_some_and(|(_, landings)| landed(*landings));
    loop {
        if !looks && begins.asks(missed).await {
            match begins.is_outdated(missed, leads.as_mut().map(|(leader, _)| &mut **leader)) {
                Outdated::No => break,
                Outdated::Follows(follower) => return Begins::Follows(follower),
                Outdated::Perhaps => {}
            }
        }
        if let Some(entry) = begins.looks_again(missed).await {
            return Begins::Answered(entry);
        }
        looks = false;
    }
    if let Some((leader, _)) = leads {
        if !missed.stamp.is_whole() {
            leader.after_the_one_before(until).await;
        }
        missed.permit = shared.flights.leave(&missed.stamp, until).await;
        leader.begins(&missed.stamp);
    } else {
        missed.permit = shared.flights.leave(&missed.stamp, until).await;
    }
    Begins::Call
}

/// A fill that is about to begin.
struct Beginning<'a, St: Store> {
    shared: &'a Arc<LayerState<St>>,
    quest: &'a CacheRequest,
    wish: FillOptions,
    /// How long the owner of the lock is left alone the next time.
    pause: Duration,
    until: Instant,
    /// How often the stamp was taken again.
    stamps: u32,
    /// How often an entry has appeared.
    appeared: u32,
}

/// Whether a stamp was overtaken before the inner service was called.
enum Outdated {
    No,
    /// Not, and another fill has begun under the same.
    Follows(Follower),
    /// Something was invalidated, or may have been: to be taken again, which is right as long as the inner service is not called.
    Perhaps,
}

impl<St: Store> Beginning<'_, St> {
    /// Asks the store to let the fill begin. False if the store has to be looked at again first.
    async fn asks(&mut self, missed: &mut LookupMiss<St>) -> bool {
        let store = &self.shared.store;
        let stamp = missed.stamp.clone();
        let begun = match stamp.generations() {
            // The store could not be asked a moment ago.
            None => Ok(BeginFill::Proceed { stamp, lock: None }),
            Some(_) => store.begin(missed.key(self.quest).as_ref(), &self.quest.plan.names, stamp, self.wish).await,
        };
        match begun {
            Ok(BeginFill::Proceed { stamp, lock }) => {
                missed.stamp = stamp;
                if let Some(lock) = lock {
                    missed.lock = Some(Box::new(LockGuard::new(store.clone(), lock)));
                    self.wish.lock = None;
                }
            }
            Ok(BeginFill::Uncacheable { stamp }) => {
                missed.stamp = stamp;
                self.wish.lock = None;
            }
            Ok(BeginFill::Locked) => {
                // With jitter, so that those who wait do not all come at the same moment.
                let nap = self.pause.mul_f64(0.75 + 0.5 * fastrand::f64());
                self.pause = (self.pause * 2).min(LOOK_AGAIN.1);
                if tokio::time::timeout_at(self.until, tokio::time::sleep(nap)).await.is_err() {
                    self.wish.lock = None;
                }
                return false;
            }
            Ok(BeginFill::AlreadyStored) => {
                // What is of no use to this request would appear each time that the lock is taken.
                self.appeared += 1;
                self.wish.looks &= self.appeared < MOST_APPEARED;
                return false;
            }
            Err(error) => {
                tracing::debug!(%error, "a fill begins without the store");
                missed.stamp = Stamp::local(missed.stamp.epoch());
            }
        }
        true
    }

    /// Looks at the store again. An entry that answers the request is returned; else the stamp is that of this look.
    async fn looks_again(&self, missed: &mut LookupMiss<St>) -> Option<Arc<Entry>> {
        let Ok(look) = self.quest.look(self.shared).await else {
            missed.stamp = Stamp::local(missed.stamp.epoch());
            return None;
        };
        (missed.stamp, missed.varying) = (look.stamp, look.varying.map(Box::new));
        let left = match self.quest.decide(look.found, self.shared.store.context().clock.nanos()) {
            Decision::Fresh(entry) => return Some(entry),
            Decision::Early(entry) if !missed.early => return Some(entry),
            Decision::Early(entry) | Decision::Stale(entry) => Some(entry),
            Decision::Ask(_, spare) => spare,
            Decision::Accepted(_) | Decision::Refused => None,
        };
        missed.finds(left);
        None
    }

    /// Whether the stamp that the fill would begin under was overtaken, as far as this process can know.
    fn is_outdated(&mut self, missed: &LookupMiss<St>, leader: Option<&mut Leader>) -> Outdated {
        let (store, names) = (&self.shared.store, &self.quest.plan.names);
        let Some(leader) = leader.filter(|_| missed.stamp.is_whole()) else { return Outdated::No };
        let may = |stamp: &Stamp| store.may_join(stamp, &missed.stamp, names);
        if let Some(follower) = leader.gives_way(may) {
            return Outdated::Follows(follower);
        }
        let is_dead = store.life(&missed.stamp, names) == Validity::Invalidated;
        // One of two fills with different stamps is outdated: once is enough to see which.
        let is_other = self.stamps == 0 && leader.is_after_another(may);
        if self.stamps == MOST_STAMPS || !is_dead && !is_other {
            return Outdated::No;
        }
        self.stamps += 1;
        Outdated::Perhaps
    }
}
