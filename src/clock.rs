//! The one clock that a store, its layers and its expiry share.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Nanoseconds since the Unix epoch: enough until the year 2554.
pub(crate) type Nanos = u64;

/// Nanoseconds in a millisecond, which is what the pure rules count in.
pub(crate) const MS: Nanos = 1_000_000;

/// Tells the time to a store and to every layer over it.
///
/// The system's clock is the default. It is read from the wall once per process and monotonic from
/// then on, so a step of the wall clock neither revives an entry nor kills one.
///
/// [`Clock::manual`] stands still until it is told to advance, which lets a test see an entry expire
/// without waiting for it:
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
    Manual(Arc<AtomicU64>),
}

/// Where the wall clock and the monotonic one met: taken once, so that all clocks of a process agree.
static ANCHOR: OnceLock<(Instant, Nanos)> = OnceLock::new();

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        anchor();
        Self(Source::System)
    }

    /// A clock that moves only when [`advance`](Self::advance) is called; its clones move with it.
    ///
    /// It starts at the present time.
    pub fn manual() -> Self {
        Self(Source::Manual(Arc::new(AtomicU64::new(wall()))))
    }

    /// Moves a manual clock forward.
    ///
    /// # Panics
    ///
    /// If this is the system's clock, which nobody can move.
    pub fn advance(&self, by: Duration) {
        match &self.0 {
            Source::Manual(now) => now.fetch_add(nanos(by), Ordering::SeqCst),
            Source::System => panic!("the system's clock cannot be advanced: use Clock::manual()"),
        };
    }

    /// The time as this clock tells it.
    pub fn now(&self) -> SystemTime {
        system_time(self.nanos())
    }

    #[inline]
    pub(crate) fn nanos(&self) -> Nanos {
        match &self.0 {
            Source::System => {
                let (instant, wall) = anchor();
                wall + instant.elapsed().as_nanos() as Nanos
            }
            Source::Manual(now) => now.load(Ordering::SeqCst),
        }
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
        })
    }
}

/// A span as nanoseconds; 584 years and more count as 584 years.
#[inline]
pub(crate) fn nanos(span: Duration) -> Nanos {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) fn system_time(at: Nanos) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(at)
}

/// Nanoseconds of a clock that nobody sets: for what is promised of spans of time between two machines.
#[cfg(feature = "redis")]
#[inline]
pub(crate) fn monotonic() -> Nanos {
    nanos(anchor().0.elapsed())
}

#[inline]
fn anchor() -> (Instant, Nanos) {
    *ANCHOR.get_or_init(|| (Instant::now(), wall()))
}

fn wall() -> Nanos {
    nanos(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
