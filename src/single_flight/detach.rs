//! A future that finishes even if its awaiter is dropped.
//!
//! The future is polled by its awaiter, in the task of the request, and needs no task of its own. It moves to a new task if the awaiter is
//! dropped (the client has left), or if another request begins to depend on it: that request must not depend on how often the awaiter is
//! polled.

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

/// Boxed at once, since a future is copied each time it is moved.
pub(crate) type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Starts a task that nobody awaits. The type of its work is erased, since a runtime has much code for each type of a task.
#[inline(never)]
pub(crate) fn start_in(runtime: &Handle, work: Work<()>) {
    runtime.spawn(work.in_current_span());
}

/// Awaits the work. If it is dropped before the end, the work moves to a task.
#[must_use]
pub(crate) struct Detachable<T: Send + 'static, O: AwaitCount = ()> {
    cell: Arc<Task<T, O>>,
    /// The output was returned.
    ended: bool,
}

/// The work, shared by its awaiter and by others who depend on it.
pub(crate) struct Task<T, O> {
    place: Mutex<TaskState<T>>,
    /// Another request depends on the work. It moves to a task at the next opportunity.
    wanted: AtomicBool,
    /// The awaiter was dropped.
    left: AtomicBool,
    /// The time for which the work goes on after that if no other request waits for it.
    limit: Option<Duration>,
    /// The others who may wait for the work.
    others: O,
    /// The runtime in which the work began and goes on. The end of another runtime does not end it.
    runtime: Option<Handle>,
    /// The tracing span of the request that began the work.
    span: Span,
}

enum TaskState<T> {
    /// The work is polled by its awaiter, last with this waker.
    Here(Work<T>, Option<Waker>),
    /// The work is in a task, which wakes the awaiter at the end.
    Away(Option<Waker>),
    /// The work has ended in a task, or panicked there. Boxed to keep the type small.
    Done(Box<thread::Result<T>>),
    /// The work has not begun, is being polled, was moved, or was lost with its runtime.
    Gone,
}

/// Others who may wait for the work, beside its awaiter.
pub(crate) trait AwaitCount: Send + Sync + 'static {
    /// Returns true if another request waits.
    fn is_awaited(&self) -> bool;
}

/// No others.
impl AwaitCount for () {
    fn is_awaited(&self) -> bool {
        false
    }
}

impl<T: Send + 'static> Detachable<T> {
    /// Returns work that goes on to its end, also if its awaiter is dropped.
    pub(crate) fn to_the_end(work: impl Future<Output = T> + Send + 'static) -> Self {
        let drive = Self::new(None, ());
        drive.begin(Box::pin(work));
        drive
    }
}

impl<T: Send + 'static, O: AwaitCount> Detachable<T, O> {
    /// Returns work that still has to [begin](Self::begin). It is dropped `limit` after its awaiter was dropped, unless others wait for it.
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
            // Without a subscriber there is no span.
            span: if LevelFilter::current() == LevelFilter::OFF { Span::none() } else { Span::current() },
        };
        Self { cell: Arc::new(cell), ended: false }
    }

    /// Begins the work. It moves to a task at once if others depend on it.
    pub(crate) fn begin(&self, work: Work<T>) {
        *self.cell.lock() = TaskState::Here(work, None);
        if self.cell.wanted.load(Ordering::SeqCst) {
            self.cell.send_away();
        }
    }

    /// Returns the shared state of the work, by which others can move it to a task.
    pub(crate) fn cell(&self) -> &Arc<Task<T, O>> {
        &self.cell
    }
}

impl<T: Send + 'static, O: AwaitCount> Future for Detachable<T, O> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Self { cell, ended } = &mut *self;
        let mut place = cell.lock();
        // Taken out while it is polled, so that a panic drops the work.
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
        // A request that wanted the work during the poll could not move it. It has set the flag before, so that it is seen here.
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
        // Without a runtime, the work ends here, and its followers are told.
        let mut place = self.cell.lock();
        let left = match *place {
            TaskState::Here(..) | TaskState::Done(_) => mem::replace(&mut *place, TaskState::Gone),
            // The task goes on, and wakes nobody.
            TaskState::Away(_) => mem::replace(&mut *place, TaskState::Away(None)),
            TaskState::Gone => TaskState::Gone,
        };
        drop(place);
        drop(left);
    }
}

impl<T, O> Task<T, O> {
    /// Returns the others who may wait for the work.
    pub(crate) fn others(&self) -> &O {
        &self.others
    }
}

impl<T: Send + 'static, O: AwaitCount> Task<T, O> {
    /// Moves the work to a task, because another request depends on it.
    pub(crate) fn promote(self: &Arc<Self>) {
        self.wanted.store(true, Ordering::SeqCst);
        self.send_away();
    }

    fn lock(&self) -> MutexGuard<'_, TaskState<T>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the work to a task, unless it is in a task, has ended, or is being polled.
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
        // Made before the first poll, because a runtime that shuts down does not poll the task.
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

/// Reports the end of the task to the awaiter, also if the runtime ends.
struct Report<T: Send + 'static, O: AwaitCount>(Arc<Task<T, O>>);

impl<T: Send + 'static, O: AwaitCount> Report<T, O> {
    fn done(self, result: Result<T, Box<dyn Any + Send>>) {
        self.put(TaskState::Done(Box::new(result)));
    }

    fn put(&self, end: TaskState<T>) {
        let mut place = self.0.lock();
        if let TaskState::Away(awaiter) = &mut *place {
            let awaiter = awaiter.take();
            // Without an awaiter the output is dropped: a body in it would count as being read.
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

/// Awaits work, and drops it if it was unwanted for `limit`, or for up to twice as long: the check runs once per `limit`.
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
