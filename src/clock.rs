//! The clock that a store, its layers and its expiry share.
//!
//! Two times are kept apart:
//!
//! - the **timeline** of this process ([`Clock::nanos`]). It never goes back. Every deadline of an entry in memory counts on it;
//! - the **wall clock** ([`Clock::wall`]), which an administrator or NTP may set. HTTP dates are written and compared by it.
//!
//! The timeline starts at the wall clock and follows the monotonic clock. When the wall clock diverges from it, [`follow_the_wall`]
//! anchors the two anew. A wall clock that was set back moves only the wall clock: entries keep the lifetime that they have left. A wall
//! clock that is ahead moves the timeline as well, because the machine may have been suspended: then entries have aged, and where it was
//! only set, they end early.

use std::{
    fmt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::runtime;

/// Nanoseconds since the Unix epoch: enough until the year 2554.
pub(crate) type Nanos = u64;

/// Nanoseconds in a millisecond. The pure rules in [`semantics`](crate::semantics) count milliseconds.
pub(crate) const MS: Nanos = 1_000_000;

/// The largest divergence of the wall clock from the monotonic clock that is ignored.
const TOLERANCE: Nanos = 100 * MS;

/// The longest pause between two readings of the clocks. After a longer one their divergence means nothing.
const MOST_BETWEEN: Duration = Duration::from_millis(10);

/// Reports the time to a store and to every layer over it.
///
/// [`Clock::system`] is the default. Lifetimes in memory count by the monotonic clock, so a wall clock that is set back neither revives
/// an entry nor prolongs it. The wall clock is compared with the monotonic clock every second while a store exists. If it is ahead by
/// more than 100 ms, the machine may have been suspended, and that time counts as passed.
///
/// Tests use one of the others: [`Clock::manual`] moves only when it is told to, [`Clock::tokio`] follows `tokio::time::pause` and
/// `tokio::time::advance`. A store takes its clock when it is built, and the layers over it use the same one:
/// `Memory::builder().clock(clock.clone()).build()`. The five minutes before a rule is reported as unmatched are real time under every
/// clock.
///
/// ```
/// use std::time::Duration;
/// use tower_response_cache::Clock;
///
/// let clock = Clock::manual();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(clock.now().duration_since(before).unwrap(), Duration::from_secs(60));
/// ```
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System,
    Manual(Arc<Manual>),
    Tokio(Arc<Paused>),
}

struct Manual {
    timeline: AtomicU64,
    /// The time by which the wall clock is behind the timeline.
    behind: AtomicU64,
}

struct Paused {
    began: tokio::time::Instant,
    wall: Nanos,
    /// The latest time that was read within a runtime. A thread outside the runtime does not see its pauses, and reads this.
    seen: AtomicU64,
}

/// The moment at which the wall clock and the monotonic clock met. Taken once, so that all clocks of a process agree.
static ANCHOR: OnceLock<(Instant, Nanos)> = OnceLock::new();

/// The time by which the wall clock has gone ahead of the monotonic clock since, in steps.
static AHEAD: AtomicU64 = AtomicU64::new(0);

/// The time by which the wall clock is behind the timeline.
static BEHIND: AtomicU64 = AtomicU64::new(0);

impl Clock {
    /// Returns the clock of the operating system.
    pub fn system() -> Self {
        anchor();
        Self(Source::System)
    }

    /// Returns a clock that moves only when [`advance`](Self::advance) or [`set`](Self::set) is called. Its clones move with it.
    ///
    /// The clock starts at the present time.
    pub fn manual() -> Self {
        Self(Source::Manual(Arc::new(Manual { timeline: AtomicU64::new(wall()), behind: AtomicU64::new(0) })))
    }

    /// Returns a clock that follows Tokio's. It stands still after `tokio::time::pause` and moves with `tokio::time::advance`.
    ///
    /// The clock starts at the present time. It is for tests of a current-thread runtime with Tokio's feature `test-util`. Without a pause
    /// it runs as Tokio's clock does. Threads outside the runtime read the time that was last read within it. A paused runtime that only
    /// waits for a timer moves its clock to that timer, and entries age accordingly.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
    /// use std::{convert::Infallible, time::Duration};
    /// use http::{Request, Response};
    /// use tower::{Layer, ServiceExt, service_fn};
    /// use tower_response_cache::{CacheLayer, CacheStatus, Clock, Memory, Outcome, Rule};
    ///
    /// let store = Memory::builder().clock(Clock::tokio()).build();
    /// let layer = CacheLayer::new(store).rule(Rule::ttl(Duration::from_secs(60)).namespace("rows"));
    /// let service = layer.layer(service_fn(async |_: Request<String>| Ok::<_, Infallible>(Response::new(String::from("rows")))));
    /// let outcome = async || {
    ///     let response = service.clone().oneshot(Request::new(String::new())).await.unwrap();
    ///     CacheStatus::of(&response).unwrap().outcome()
    /// };
    ///
    /// assert!(matches!(outcome().await, Outcome::Miss(_)));
    /// tokio::time::advance(Duration::from_secs(59)).await;
    /// assert_eq!(outcome().await, Outcome::Hit);
    /// tokio::time::advance(Duration::from_secs(2)).await;
    /// assert!(matches!(outcome().await, Outcome::Miss(_)));
    /// # });
    /// ```
    pub fn tokio() -> Self {
        let wall = wall();
        Self(Source::Tokio(Arc::new(Paused { began: tokio::time::Instant::now(), wall, seen: AtomicU64::new(wall) })))
    }

    /// Moves a manual clock forward.
    ///
    /// # Panics
    ///
    /// If this is not a [manual](Self::manual) clock. `tokio::time::advance` moves a [`Clock::tokio`].
    pub fn advance(&self, by: Duration) {
        self.as_manual("advanced").timeline.fetch_add(nanos(by), Ordering::SeqCst);
    }

    /// Sets the wall clock of a manual clock, as NTP or an administrator sets that of a machine.
    ///
    /// Setting it back changes no lifetime. Setting it ahead counts as time that has passed, as with [`Clock::system`].
    ///
    /// # Panics
    ///
    /// If this is not a [manual](Self::manual) clock.
    pub fn set(&self, to: SystemTime) {
        let Manual { timeline, behind } = self.as_manual("set");
        let to = nanos(to.duration_since(UNIX_EPOCH).unwrap_or_default());
        let now = self.wall();
        timeline.fetch_add(to.saturating_sub(now), Ordering::SeqCst);
        behind.fetch_add(now.saturating_sub(to), Ordering::SeqCst);
    }

    #[track_caller]
    fn as_manual(&self, what: &str) -> &Manual {
        match &self.0 {
            Source::Manual(manual) => manual,
            _ => panic!("{self:?} cannot be {what}: use Clock::manual()"),
        }
    }

    /// Returns the time of the wall clock.
    pub fn now(&self) -> SystemTime {
        system_time(self.wall())
    }

    /// Returns the time on the timeline of this process, which starts at the wall clock and never goes back.
    #[inline(always)]
    pub(crate) fn nanos(&self) -> Nanos {
        match &self.0 {
            Source::System => {
                let (instant, wall) = anchor();
                wall + instant.elapsed().as_nanos() as Nanos + AHEAD.load(Ordering::Relaxed)
            }
            _ => self.injected(),
        }
    }

    #[cold]
    #[inline(never)]
    fn injected(&self) -> Nanos {
        match &self.0 {
            Source::System => unreachable!("it was not injected"),
            Source::Manual(manual) => manual.timeline.load(Ordering::SeqCst),
            Source::Tokio(paused) => paused.nanos(),
        }
    }

    /// Returns the time of the wall clock, which may go back.
    pub(crate) fn wall(&self) -> Nanos {
        self.wall_at(self.nanos())
    }

    /// Returns the time of the wall clock, as it is set now, at a moment of the timeline.
    pub(crate) fn wall_at(&self, moment: Nanos) -> Nanos {
        moment.saturating_sub(self.behind())
    }

    /// Returns the time by which the wall clock is behind the timeline.
    fn behind(&self) -> Nanos {
        match &self.0 {
            Source::System => BEHIND.load(Ordering::Relaxed),
            Source::Manual(manual) => manual.behind.load(Ordering::SeqCst),
            Source::Tokio(_) => 0,
        }
    }

    /// Returns true for the clock of the machine, whose seconds are as long as those of other machines.
    #[cfg(feature = "redis")]
    pub(crate) fn is_system(&self) -> bool {
        matches!(self.0, Source::System)
    }
}

impl Paused {
    fn nanos(&self) -> Nanos {
        if runtime::Handle::try_current().is_err() {
            return self.seen.load(Ordering::SeqCst);
        }
        let now = self.wall.saturating_add(nanos(self.began.elapsed()));
        self.seen.fetch_max(now, Ordering::SeqCst).max(now)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::System => "Clock::system()",
            Source::Manual(_) => "Clock::manual()",
            Source::Tokio(_) => "Clock::tokio()",
        })
    }
}

/// Converts a span to nanoseconds. More than 584 years count as 584 years.
#[inline]
pub(crate) fn nanos(span: Duration) -> Nanos {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) fn system_time(at: Nanos) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(at)
}

/// Returns the nanoseconds of a clock that is never set, for comparing spans of time between two machines. Time in which the machine was
/// suspended counts after [`follow_the_wall`] has seen it.
#[cfg(feature = "redis")]
#[inline]
pub(crate) fn monotonic() -> Nanos {
    nanos(anchor().0.elapsed()).saturating_add(AHEAD.load(Ordering::Relaxed))
}

/// Compares the wall clock with the timeline of the system's clock, and anchors both again if they have diverged. Called repeatedly,
/// outside the path of a request.
pub(crate) fn follow_the_wall() {
    static FOLLOWING: Mutex<()> = Mutex::new(());
    let _one = FOLLOWING.lock().unwrap_or_else(PoisonError::into_inner);
    let before = Instant::now();
    let (wall, timeline) = (wall(), Clock::system().nanos());
    // Between two distant readings the thread was not running.
    if before.elapsed() > MOST_BETWEEN {
        return;
    }
    match diverged(timeline.saturating_sub(BEHIND.load(Ordering::Relaxed)), wall) {
        Diverged::No => {}
        Diverged::Ahead(by) => {
            AHEAD.fetch_add(by, Ordering::Relaxed);
            tracing::warn!(seconds = by / (1000 * MS), "the wall clock is ahead: it was set, or the machine was suspended");
        }
        Diverged::Back(by) => {
            BEHIND.fetch_add(by, Ordering::Relaxed);
            tracing::warn!(seconds = by / (1000 * MS), "the wall clock was set back");
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Diverged {
    No,
    Ahead(Nanos),
    Back(Nanos),
}

fn diverged(expected: Nanos, wall: Nanos) -> Diverged {
    match (wall.saturating_sub(expected), expected.saturating_sub(wall)) {
        (ahead, _) if ahead > TOLERANCE => Diverged::Ahead(ahead),
        (_, back) if back > TOLERANCE => Diverged::Back(back),
        _ => Diverged::No,
    }
}

#[inline]
fn anchor() -> (Instant, Nanos) {
    *ANCHOR.get_or_init(|| (Instant::now(), wall()))
}

fn wall() -> Nanos {
    nanos(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn wall_clock_set_back_does_not_move_the_timeline() {
        let clock = Clock::manual();
        let (timeline, wall) = (clock.nanos(), clock.now());
        clock.set(wall - HOUR);
        assert_eq!((clock.nanos(), clock.now()), (timeline, wall - HOUR));
        clock.advance(HOUR);
        assert_eq!((clock.nanos(), clock.now()), (timeline + nanos(HOUR), wall));
    }
    #[test]
    fn wall_clock_set_ahead_counts_as_time_passed() {
        let clock = Clock::manual();
        let (timeline, wall) = (clock.nanos(), clock.now());
        clock.set(wall + HOUR);
        assert_eq!((clock.nanos(), clock.now()), (timeline + nanos(HOUR), wall + HOUR));
    }
    #[test]
    fn only_a_step_is_a_divergence() {
        let at = 1_000_000 * MS;
        assert_eq!(diverged(at, at + TOLERANCE), Diverged::No);
        assert_eq!(diverged(at + TOLERANCE, at), Diverged::No);
        assert_eq!(diverged(at, at + TOLERANCE + 1), Diverged::Ahead(TOLERANCE + 1));
        assert_eq!(diverged(at + TOLERANCE + 1, at), Diverged::Back(TOLERANCE + 1));
    }
    #[test]
    fn thread_outside_of_the_runtime_reads_the_paused_time() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let clock = runtime.block_on(async { Clock::tokio() });
        let before = clock.nanos();
        let within = runtime.block_on(async {
            tokio::time::advance(HOUR).await;
            clock.nanos()
        });
        assert_eq!(within - before, nanos(HOUR));
        assert_eq!(clock.nanos(), within);
    }
}
