//! A future that outlives whoever awaits it.
//!
//! It is polled where it is awaited, in the task of its own request, and costs no task. It moves to a task of its own when
//! that is needed: when its awaiter is dropped (the client has left), or when somebody else begins to depend on it and
//! must not be held up by how often its awaiter is polled.

use std::{
    any::Any,
    future::{Future, poll_fn},
    mem,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use tokio::runtime::Handle;
use tracing::{Instrument, Span, level_filters::LevelFilter};

/// Boxed where it is made: a future is copied whole each time it is handed on.
pub(crate) type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Awaits the work. Dropped before its end, it leaves the work to a task.
#[must_use]
pub(crate) struct Detachable<T: Send + 'static, O: AwaitCount = ()> {
    cell: Arc<Task<T, O>>,
    /// The output was handed out: there is nothing left.
    ended: bool,
}

/// Work, and what it is done for.
pub(crate) struct Task<T, O> {
    place: Mutex<TaskState<T>>,
    /// Somebody depends on it: to a task with it at the next opportunity.
    wanted: AtomicBool,
    /// Nobody awaits it any more.
    left: AtomicBool,
    /// How long it may go on after that, unless somebody else waits for it.
    limit: Option<Duration>,
    /// Who else may wait for it.
    others: O,
    /// Where it was begun and where it goes on: no other runtime's end is to end it.
    runtime: Option<Handle>,
    /// The span of the request that began it, in which it goes on.
    span: Span,
}

enum TaskState<T> {
    /// With its awaiter, whose waker is the one it was polled with last.
    Here(Work<T>, Option<Waker>),
    /// In a task; the awaiter is to be woken at its end.
    Away(Option<Waker>),
    /// Done in a task, or ended there by a panic. Boxed, so that a place is small.
    Done(Box<thread::Result<T>>),
    /// Not begun, being polled, handed over, or lost with its runtime.
    Gone,
}

/// What work is done for: others than its awaiter may wait for it, too.
pub(crate) trait AwaitCount: Send + Sync + 'static {
    /// Whether somebody waits.
    fn is_awaited(&self) -> bool;
}

/// Nobody else.
impl AwaitCount for () {
    fn is_awaited(&self) -> bool {
        false
    }
}

impl<T: Send + 'static> Detachable<T> {
    /// Work that goes on to its end, whether or not somebody awaits it.
    pub(crate) fn to_the_end(work: impl Future<Output = T> + Send + 'static) -> Self {
        let drive = Self::new(None, ());
        drive.begin(Box::pin(work));
        drive
    }
}

impl<T: Send + 'static, O: AwaitCount> Detachable<T, O> {
    /// Work still to [begin](Self::begin) that, once its awaiter has left and no other waits for it, is given up after `limit`.
    #[inline(always)]
    pub(crate) fn limited(limit: Duration, others: O) -> Self {
        Self::new(Some(limit), others)
    }

    #[inline(always)]
    fn new(limit: Option<Duration>, others: O) -> Self {
        let cell = Task {
            place: Mutex::new(TaskState::Gone),
            wanted: AtomicBool::new(false),
            left: AtomicBool::new(false),
            limit,
            others,
            runtime: Handle::try_current().ok(),
            // Where nobody listens there is none to look for.
            span: if LevelFilter::current() == LevelFilter::OFF { Span::none() } else { Span::current() },
        };
        Self { cell: Arc::new(cell), ended: false }
    }

    /// Begins the work. It moves to a task at once if somebody wants it already.
    pub(crate) fn begin(&self, work: Work<T>) {
        *self.cell.lock() = TaskState::Here(work, None);
        if self.cell.wanted.load(Ordering::SeqCst) {
            self.cell.send_away();
        }
    }

    /// The work with what it is done for: others have it moved to a task by that.
    pub(crate) fn cell(&self) -> &Arc<Task<T, O>> {
        &self.cell
    }
}

impl<T: Send + 'static, O: AwaitCount> Future for Detachable<T, O> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Self { cell, ended } = &mut *self;
        let mut place = cell.lock();
        // Taken out while it is polled: should it panic, what is left of it is dropped by the unwinding and not kept here.
        let polled = match mem::replace(&mut *place, TaskState::Gone) {
            TaskState::Here(mut work, waker) => match work.as_mut().poll(cx) {
                Poll::Ready(output) => {
                    *ended = true;
                    return Poll::Ready(output);
                }
                Poll::Pending => {
                    let waker = waker.filter(|waker| waker.will_wake(cx.waker()));
                    TaskState::Here(work, Some(waker.unwrap_or_else(|| cx.waker().clone())))
                }
            },
            TaskState::Away(_) => TaskState::Away(Some(cx.waker().clone())),
            TaskState::Done(end) => match *end {
                Ok(output) => {
                    *ended = true;
                    return Poll::Ready(output);
                }
                Err(panic) => resume_unwind(panic),
            },
            TaskState::Gone => panic!("awaited after its end, or its runtime was shut down"),
        };
        *place = polled;
        drop(place);
        // Who wanted it while it was being polled could not take it: the flag was set before that attempt, so it is seen here.
        if cell.wanted.load(Ordering::SeqCst) {
            cell.send_away();
        }
        Poll::Pending
    }
}

impl<T: Send + 'static, O: AwaitCount> Drop for Detachable<T, O> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.cell.left.store(true, Ordering::SeqCst);
        self.cell.send_away();
        // Nowhere to go: what is still here ends here, and says so to those who wait for it. What has come of it is for nobody.
        let mut place = self.cell.lock();
        let left = match *place {
            TaskState::Here(..) | TaskState::Done(_) => mem::replace(&mut *place, TaskState::Gone),
            // In a task it goes on, but with nobody to wake.
            TaskState::Away(_) => mem::replace(&mut *place, TaskState::Away(None)),
            TaskState::Gone => TaskState::Gone,
        };
        drop(place);
        drop(left);
    }
}

impl<T, O> Task<T, O> {
    /// What the work is done for.
    pub(crate) fn others(&self) -> &O {
        &self.others
    }
}

impl<T: Send + 'static, O: AwaitCount> Task<T, O> {
    /// Somebody depends on this work now.
    pub(crate) fn promote(self: &Arc<Self>) {
        self.wanted.store(true, Ordering::SeqCst);
        self.send_away();
    }

    fn lock(&self) -> MutexGuard<'_, TaskState<T>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the work to a task, unless it is there, at its end, or being polled just now.
    fn send_away(self: &Arc<Self>) {
        let Some(runtime) = self.runtime.clone().or_else(|| Handle::try_current().ok()) else { return };
        let Ok(mut place) = self.place.try_lock() else { return };
        match mem::replace(&mut *place, TaskState::Gone) {
            TaskState::Here(work, awaiter) => {
                *place = TaskState::Away(awaiter);
                drop(place);
                runtime.spawn(self.clone().run(work).instrument(self.span.clone()));
            }
            other => *place = other,
        }
    }

    fn run(self: Arc<Self>, mut work: Work<T>) -> impl Future<Output = ()> + Send {
        // Made before the first poll, which a runtime that is shutting down does not grant.
        let report = Report(self.clone());
        async move {
            let guarded = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
                Ok(Poll::Pending) => Poll::Pending,
                Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
                Err(panic) => Poll::Ready(Err(panic)),
            });
            let left = || self.left.load(Ordering::SeqCst) && !self.others.is_awaited();
            if let Some(result) = unless_left(guarded, self.limit, left).await {
                report.done(result);
            }
        }
    }
}

/// Reports the end of the task to the awaiter, also if that end is the runtime's.
struct Report<T: Send + 'static, O: AwaitCount>(Arc<Task<T, O>>);

impl<T: Send + 'static, O: AwaitCount> Report<T, O> {
    fn done(self, result: Result<T, Box<dyn Any + Send>>) {
        self.put(TaskState::Done(Box::new(result)));
    }

    fn put(&self, end: TaskState<T>) {
        let mut place = self.0.lock();
        if let TaskState::Away(awaiter) = &mut *place {
            let awaiter = awaiter.take();
            // For nobody, it is not kept: a body in it would count as being read.
            let left = self.0.left.load(Ordering::SeqCst);
            *place = if left { TaskState::Gone } else { end };
            drop(place);
            if let Some(awaiter) = awaiter {
                awaiter.wake();
            }
        }
    }
}

impl<T: Send + 'static, O: AwaitCount> Drop for Report<T, O> {
    fn drop(&mut self) {
        self.put(TaskState::Gone);
    }
}

/// Awaits work, but gives it up once nobody has wanted it for `limit`, or for up to twice as long: it looks only so often.
pub(crate) async fn unless_left<T>(
    work: impl Future<Output = T>,
    limit: Option<Duration>,
    left: impl Fn() -> bool,
) -> Option<T> {
    let Some(limit) = limit else { return Some(work.await) };
    let mut work = pin!(work);
    let mut was_left = left();
    loop {
        let mut patience = pin!(tokio::time::sleep(limit));
        let ended = poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => patience.as_mut().poll(cx).map(|()| None),
        })
        .await;
        if ended.is_some() {
            return ended;
        }
        let is_left = left();
        if was_left && is_left {
            return None;
        }
        was_left = is_left;
    }
}
