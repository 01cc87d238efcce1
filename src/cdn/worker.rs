//! The hooks of a store, and the task that calls one of them.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use tokio::{runtime::Handle, sync::Notify, time::Instant};

use super::{
    purge::{Purge, PurgeHook},
    queue::{Next, PurgeQueue},
};
use crate::{
    error::BoxError,
    namespace::{Namespace, set::Namespaces},
    stats::counters::{Counters, PurgeCounts},
};

/// The pause between two looks at the invalidations that wait for a shared store, and at the fences. Short, because the number of those
/// invalidations includes those that are just being delivered, and is rarely zero for long while there are many writes.
const CHECK: Duration = Duration::from_millis(100);

/// The hooks of a store.
#[derive(Debug, Default)]
pub(crate) struct PurgeHooks(RwLock<Vec<Arc<Worker>>>);

impl PurgeHooks {
    /// Adds a hook.
    pub(crate) fn add(&self, hook: PurgeHook, counters: &Counters) {
        self.push(hook, counters.purges.clone(), counters);
    }

    /// Adds a hook that purges nothing, so that its calls do not count as purges.
    pub(crate) fn add_uncounted(&self, hook: PurgeHook, counters: &Counters) -> AddedHook {
        AddedHook(self.push(hook, Arc::default(), counters))
    }

    /// Removes a hook.
    pub(crate) fn remove(&self, AddedHook(removed): &AddedHook) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).retain(|worker| !Arc::ptr_eq(worker, removed));
    }

    fn push(&self, hook: PurgeHook, counts: Arc<PurgeCounts>, counters: &Counters) -> Arc<Worker> {
        let undelivered = counters.waiting.clone();
        let worker = Arc::new(Worker { hook, state: Mutex::default(), changed: Notify::new(), counts, undelivered });
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(worker.clone());
        worker
    }

    /// Puts the names of an invalidation into the queues of all hooks. `is_delivered` is false if a shared store does not know of it yet.
    pub(crate) fn invalidated(&self, names: &Namespaces, is_delivered: bool) {
        let workers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        workers.iter().for_each(|worker| worker.enqueue(names, is_delivered));
    }

    /// Puts the names of a write whose outcome is not known into the queues of all hooks, to be purged when its fence has ended. A statement of
    /// the write may commit until then.
    pub(crate) fn fenced(&self, names: &Namespaces, stands: Duration) {
        let workers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let until = Instant::now() + stands;
        workers.iter().for_each(|worker| worker.enqueue_fenced(names, until));
    }

    /// Waits until no hook has anything left to do.
    pub(crate) async fn idle(&self) {
        let workers = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        for worker in workers {
            worker.idle().await;
        }
    }
}

/// A hook of a store, to be removed.
#[derive(Debug)]
pub(crate) struct AddedHook(Arc<Worker>);

/// A hook with its queue.
#[derive(Debug)]
struct Worker {
    hook: PurgeHook,
    state: Mutex<State>,
    /// The queue was emptied, or its task has ended.
    changed: Notify,
    counts: Arc<PurgeCounts>,
    /// The number of invalidations that wait for a shared store.
    undelivered: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct State {
    queue: PurgeQueue,
    /// The names of the call in progress.
    calling: Vec<Namespace>,
    is_running: bool,
}

impl Worker {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enqueue(self: &Arc<Self>, names: &Namespaces, is_delivered: bool) {
        let overflows = self.state().queue.add(owned(names), is_delivered, self.hook.max_namespaces);
        self.enqueued(overflows);
    }

    fn enqueue_fenced(self: &Arc<Self>, names: &Namespaces, until: Instant) {
        let overflows = self.state().queue.add_fenced(owned(names), until, self.hook.max_namespaces);
        self.enqueued(overflows);
    }

    /// Warns if the queue has exceeded its bound, and starts the task.
    fn enqueued(self: &Arc<Self>, overflows: bool) {
        if overflows {
            self.counts.overflows.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                max_namespaces = self.hook.max_namespaces,
                "more namespaces wait for a purge hook than its queue holds: the next call purges everything. Raise \
                 `PurgeHook::max_namespaces`, or make the hook faster"
            );
        }
        self.start();
    }

    /// Starts the task if there is something to do. Without a runtime, a later call starts it.
    fn start(self: &Arc<Self>) {
        let Ok(runtime) = Handle::try_current() else { return };
        let mut state = self.state();
        if !state.is_running && !state.queue.is_empty() {
            state.is_running = true;
            runtime.spawn(Running { worker: self.clone(), has_ended: false }.run());
        }
    }

    async fn run(&self) {
        loop {
            match self.next() {
                Next::Purge(names) => self.purge(Purge { names }).await,
                Next::Wait => tokio::time::sleep(CHECK).await,
                Next::Idle => return,
            }
        }
    }

    fn next(&self) -> Next {
        let mut state = self.state();
        state.calling.clear();
        let next = state.queue.next(self.undelivered.load(Ordering::Relaxed) == 0, Instant::now(), self.hook.max_namespaces);
        match &next {
            Next::Purge(names) => state.calling.clone_from(names),
            Next::Wait => {}
            // Under the same lock, so that a name that arrives now starts a new task.
            Next::Idle => state.is_running = false,
        }
        next
    }

    /// Calls the hook until it succeeds or its attempts are used up.
    async fn purge(&self, purge: Purge) {
        for attempt in 1..=self.hook.attempts {
            let Err(error) = self.call(purge.clone()).await else {
                self.counts.done.fetch_add(1, Ordering::Relaxed);
                return;
            };
            self.counts.failed_attempts.fetch_add(1, Ordering::Relaxed);
            if attempt == self.hook.attempts {
                self.counts.abandoned.fetch_add(1, Ordering::Relaxed);
                let namespaces = &purge.names;
                tracing::error!(%error, attempt, ?namespaces, "purge hook failed: it is not called again for these namespaces");
                return;
            }
            tracing::warn!(%error, attempt, namespaces = purge.names.len(), "purge hook failed: it will be called again");
            tokio::time::sleep(self.hook.pause(attempt)).await;
        }
    }

    /// Calls the hook once. A panic is an error.
    async fn call(&self, purge: Purge) -> Result<(), BoxError> {
        let called = catch_unwind(AssertUnwindSafe(|| (self.hook.call)(purge)));
        let mut call = called.map_err(|_| BoxError::from(PANICKED))?;
        let guarded = poll_fn(move |cx| match catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(purged)) => Poll::Ready(purged),
            Err(_) => Poll::Ready(Err(PANICKED.into())),
        });
        tokio::time::timeout(self.hook.attempt_timeout, guarded).await.unwrap_or_else(|late| Err(late.into()))
    }

    async fn idle(self: &Arc<Self>) {
        loop {
            let changed = self.changed.notified();
            {
                let state = self.state();
                if state.queue.is_empty() && state.calling.is_empty() && !state.is_running {
                    return;
                }
            }
            self.start();
            changed.await;
        }
    }
}

fn owned(names: &Namespaces) -> impl Iterator<Item = Namespace> {
    names.iter().map(|name| Namespace::rendered(name.to_owned()))
}

const PANICKED: &str = "the hook panicked";

/// A running task. If its runtime is shut down, the names of its call go back into the queue, for a later task.
struct Running {
    worker: Arc<Worker>,
    has_ended: bool,
}

impl Running {
    async fn run(mut self) {
        self.worker.run().await;
        self.has_ended = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let worker = &self.worker;
        if !self.has_ended {
            let mut state = worker.state();
            let State { queue, calling, .. } = &mut *state;
            queue.add(calling.drain(..), true, worker.hook.max_namespaces);
            state.is_running = false;
        }
        worker.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn removed_hook_is_called_no_more() {
        let (hooks, counters) = (PurgeHooks::default(), Counters::default());
        let calls = Arc::new(AtomicUsize::new(0));
        let added = [(); 2].map(|()| {
            let calls = calls.clone();
            let hook = PurgeHook::new(move |_| {
                calls.fetch_add(1, Ordering::Relaxed);
                async { Ok::<_, BoxError>(()) }
            });
            hooks.add_uncounted(hook, &counters)
        });
        hooks.remove(&added[0]);
        hooks.invalidated(&Namespaces::root(), true);
        hooks.idle().await;
        assert_eq!((calls.load(Ordering::Relaxed), hooks.0.read().expect("no panic").len()), (1, 1));
    }
}
