//! Rules that are replaced while layers use them.

#[cfg(feature = "dashboard")]
use std::time::SystemTime;
use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

#[cfg(feature = "dashboard")]
use super::reload_history::ReloadHistory;
use super::{difference::Difference, table::Rules};
use crate::namespace::set::Namespaces;

/// The rules in force of one or several layers. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct LiveRules(Arc<Shared>);

#[derive(Default)]
struct Shared {
    current: RwLock<Rules>,
    /// The number of times that `current` was replaced. It changes while `current` is locked.
    replaced: AtomicU64,
    /// The number of reloads that have begun.
    begun: AtomicU64,
    /// The number of the reload from which on a write need not know the namespaces of earlier ones: all of them have ended.
    ended: AtomicU64,
    log: Mutex<ReloadLog>,
    users: Mutex<Vec<Weak<dyn RulesUser>>>,
    #[cfg(feature = "dashboard")]
    history: Mutex<ReloadHistory>,
}

/// The latest reloads.
#[derive(Default)]
struct ReloadLog {
    /// The namespaces of what each of the last reloads has changed.
    changed: VecDeque<(u64, Namespaces)>,
    /// The reloads whose namespaces are not invalidated yet.
    pending: BTreeSet<u64>,
}

/// The number of reloads whose namespaces are known. A write that began before them invalidates all entries.
const LOGGED: usize = 16;

/// State made from rules, that a reload replaces.
pub(crate) trait RulesUser: Send + Sync {
    /// Makes the state for new rules. Returns `None` if this state was replaced before: its users then get the newest one.
    fn replace(&self, rules: &Rules) -> Option<Arc<dyn RulesUser>>;
}

/// A reload whose namespaces are to be invalidated. Writes that end before invalidate them as well.
#[must_use]
pub(crate) struct PendingReload {
    rules: LiveRules,
    number: u64,
    /// The entries that the new rules must not use.
    pub(crate) old: Namespaces,
    /// The names that old rules do not know.
    pub(crate) new: Namespaces,
}

impl LiveRules {
    pub(crate) fn new(rules: Rules) -> Self {
        Self(Arc::new(Shared { current: RwLock::new(rules), ..Shared::default() }))
    }

    /// Returns the rules in force.
    pub(crate) fn current(&self) -> Rules {
        self.0.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Calls `read` with the rules in force.
    #[inline]
    pub(crate) fn with<T>(&self, read: impl FnOnce(&Rules) -> T) -> T {
        read(&self.0.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the number of reloads that have begun.
    #[inline]
    fn begun(&self) -> u64 {
        self.0.begun.load(Ordering::Acquire)
    }

    /// Returns the version of the rules in force.
    #[inline]
    pub(crate) fn version(&self) -> u64 {
        self.0.replaced.load(Ordering::Acquire)
    }

    /// Returns the rules in force, and their version.
    pub(crate) fn versioned(&self) -> (u64, Rules) {
        self.with(|rules| (self.version(), rules.clone()))
    }

    /// Returns true if both are the rules of the same layers.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Makes state from the rules in force, which later reloads replace.
    pub(crate) fn used_by<T: RulesUser + 'static>(&self, make: impl FnOnce(Rules) -> Arc<T>) -> Arc<T> {
        let mut users = self.users();
        let user = make(self.current());
        let shared: Arc<dyn RulesUser> = user.clone();
        users.push(Arc::downgrade(&shared));
        user
    }

    /// Puts new rules into force, for all layers. `also` are further namespaces for the writes in progress. `then` is called before any other reload
    /// of these rules.
    pub(crate) fn replace(&self, rules: &Rules, also: &Namespaces, then: impl FnOnce()) -> PendingReload {
        let mut users = self.users();
        let Difference { old, new, .. } = Difference::between(&self.current(), rules);
        let mut all = old.clone();
        all.extend(&new);
        all.extend(also);
        let number = {
            let mut log = self.log();
            let number = self.0.begun.load(Ordering::Relaxed) + 1;
            log.pending.insert(number);
            log.changed.push_back((number, all));
            if log.changed.len() > LOGGED {
                log.changed.pop_front();
            }
            // Writes that end from here on know of the reload.
            self.0.begun.store(number, Ordering::Release);
            number
        };
        {
            let mut current = self.0.current.write().unwrap_or_else(PoisonError::into_inner);
            *current = rules.clone();
            self.0.replaced.fetch_add(1, Ordering::Release);
        }
        users.retain(|user| user.strong_count() > 0);
        // The newest first, so that the users of an older one find it.
        let replaced = users.iter().rev().filter_map(Weak::upgrade).filter_map(|user| user.replace(rules));
        let replaced: Vec<_> = replaced.map(|user| Arc::downgrade(&user)).collect();
        users.extend(replaced);
        then();
        PendingReload { rules: self.clone(), number, old, new }
    }

    /// Returns the number by which a write that begins now asks for [later changes](Self::changed_since).
    #[inline]
    pub(crate) fn begin_write(&self) -> u64 {
        self.0.ended.load(Ordering::Acquire)
    }

    /// Adds the namespaces that reloads have changed since a write began. The rules of the write do not have them, but readers may already
    /// use them.
    #[inline]
    pub(crate) fn add_changed_since(&self, number: u64, names: &mut Namespaces) {
        if self.begun() != number {
            self.add_changed(number, names);
        }
    }

    #[cold]
    fn add_changed(&self, number: u64, names: &mut Namespaces) {
        let log = self.log();
        let is_known = log.changed.front().is_none_or(|(first, _)| *first <= number + 1);
        if !is_known {
            names.extend(&Namespaces::root());
        }
        log.changed.iter().filter(|(changed, _)| *changed > number).for_each(|(_, changed)| names.extend(changed));
    }

    /// Returns the reloads so far.
    #[cfg(feature = "dashboard")]
    pub(crate) fn history(&self) -> ReloadHistory {
        self.locked_history().clone()
    }

    /// Records that rules were put into force.
    #[cfg(feature = "dashboard")]
    pub(crate) fn record_replaced(&self, at: SystemTime) {
        self.locked_history().replaced(at);
    }

    /// Records that a content was refused.
    #[cfg(all(feature = "config", feature = "dashboard"))]
    pub(crate) fn record_refused(&self, at: SystemTime, message: String) {
        self.locked_history().refused(at, message);
    }

    #[cfg(feature = "dashboard")]
    fn locked_history(&self) -> MutexGuard<'_, ReloadHistory> {
        self.0.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> MutexGuard<'_, ReloadLog> {
        self.0.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn users(&self) -> MutexGuard<'_, Vec<Weak<dyn RulesUser>>> {
        self.0.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PendingReload {
    fn drop(&mut self) {
        let mut log = self.rules.log();
        log.pending.remove(&self.number);
        let ended = log.pending.first().map_or(self.rules.begun(), |first| first - 1);
        self.rules.0.ended.store(ended, Ordering::Release);
    }
}

impl fmt::Debug for LiveRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with(|rules| rules.fmt(f))
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;
    use crate::rules::rule::Rule;

    #[test]
    fn version_is_never_newer_than_its_rules() {
        const RELOADS: u64 = 20_000;
        let live = LiveRules::default();
        let tables = ["/even", "/odd"].map(|path| Rules::new().route(path, Rule::ttl(Duration::from_secs(60))));
        let writer = thread::spawn({
            let (live, tables) = (live.clone(), tables.clone());
            move || (1..=RELOADS).for_each(|n| drop(live.replace(&tables[n as usize % 2], &Namespaces::default(), || ())))
        });
        loop {
            let (version, rules) = live.versioned();
            let known = rules.in_use().next().and_then(|rule| rule.route().map(str::to_owned));
            assert_eq!(known, (version > 0).then(|| ["/even", "/odd"][version as usize % 2].to_owned()), "{version}");
            if version == RELOADS {
                break;
            }
        }
        writer.join().unwrap();
    }
}
