//! How old a response is, how long it is fresh, and what may be done with it now (RFC 9111 §4.2).

use std::time::Duration;

use http::StatusCode;
use http::header::{AGE, DATE, EXPIRES, HeaderMap, HeaderValue, LAST_MODIFIED};

use super::date::date_field;
use super::directives::{CacheControl, MaxStale, Scope};
use super::list;
use super::storable::heuristically_cacheable;

/// What a rule adds where a response is silent, and what it makes of stale responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FreshnessRules {
    /// The lifetime of a response that states none. Defaults to [`DefaultLifetime::Stale`].
    pub default_lifetime: DefaultLifetime,
    /// How long past its lifetime a response may be served without waiting, while it is validated, where the response does
    /// not say it (`stale-while-revalidate`). Defaults to 0.
    pub stale_while_revalidate: Duration,
    /// How long past its lifetime a response may stand in for a 5xx, where the response does not say it (`stale-if-error`).
    /// Defaults to 0.
    pub stale_if_error: Duration,
    /// How long past its lifetime a response may stand in when the inner service gives no answer at all (RFC 9111 §4.2.4 lets
    /// a disconnected cache do that), where the response does not say it: a stated `stale-if-error` holds for no answer as well, also if
    /// it is shorter. Not less than [`stale_if_error`](Self::stale_if_error). Defaults to one hour.
    pub stale_if_unreachable: Duration,
    /// `s-maxage` forbids stale answers as `proxy-revalidate` does (RFC 9111 §5.2.2.10). Many origins write
    /// `s-maxage=60, stale-while-revalidate=30` and mean both; with this, windows that a response states itself hold beside
    /// `s-maxage`. Defaults to no.
    pub stale_windows_with_s_maxage: bool,
}

impl Default for FreshnessRules {
    fn default() -> FreshnessRules {
        FreshnessRules {
            default_lifetime: DefaultLifetime::Stale,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            stale_if_unreachable: Duration::from_secs(3600),
            stale_windows_with_s_maxage: false,
        }
    }
}

/// The lifetime of a response that states none, and whose status may be kept by default or that is `public`
/// (RFC 9111 §4.2.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DefaultLifetime {
    /// None: it is stale from the start.
    #[default]
    Stale,
    /// Always this.
    Fixed(Duration),
    /// A share of the time since `Last-Modified`, which is typically a tenth.
    Heuristic {
        /// Of that time, in percent.
        percent: u8,
        /// And never longer.
        at_most: Duration,
    },
}

/// The age and the lifetime of one response: everything about time that has to be stored with it.
///
/// ```
/// use std::time::Duration;
/// use http::{HeaderMap, StatusCode};
/// use tower_response_cache::semantics::{CacheControl, Decision, ExchangeTimes, Freshness, FreshnessRules};
///
/// let mut response = HeaderMap::new();
/// response.insert("cache-control", "max-age=60, stale-while-revalidate=30".parse().unwrap());
/// let cc = CacheControl::of(&response);
/// let sent = ExchangeTimes { requested: 1_000_000, received: 1_000_000 };
/// let freshness = Freshness::shared(StatusCode::OK, &response, &cc, sent, &FreshnessRules::default());
///
/// let anyone = CacheControl::default();
/// for (seconds, want) in [(59, Decision::Serve), (60, Decision::ServeAndRefresh), (90, Decision::Revalidate)] {
///     assert_eq!(freshness.decide(&anyone, 1_000_000 + seconds * 1000), want);
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Freshness {
    /// When the response arrived, in milliseconds since the Unix epoch.
    pub received: u64,
    /// How old it was by then.
    pub initial_age: Duration,
    /// At which age it stops being fresh.
    pub lifetime: Duration,
    /// How long past its lifetime it may be served while it is validated; zero if not.
    pub stale_while_revalidate: Duration,
    /// How long past its lifetime it may stand in for a 5xx; zero if not.
    pub stale_if_error: Duration,
    /// How long past its lifetime it may stand in for no answer; zero if not.
    pub stale_if_unreachable: Duration,
    /// Past its lifetime it is not served without validation, whatever a client takes (RFC 9111 §4.2.4).
    pub forbids_stale: bool,
    /// It is never served without validation (`no-cache`, §5.2.2.4).
    pub validate_always: bool,
    /// While it is fresh, a reload does not ask for it again (RFC 8246).
    pub immutable: bool,
}

/// When a request was sent on and its response arrived, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExchangeTimes {
    /// When the request left.
    pub requested: u64,
    /// When the response's header section was there.
    pub received: u64,
}

/// What to do with a stored response, from best to worst. As a response ages it only ever moves down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Decision {
    /// Answer with it; it is fresh.
    Serve,
    /// Answer with it, and validate it meanwhile (RFC 5861 §3).
    ServeAndRefresh,
    /// Answer with it, although it is stale: the client takes that (`max-stale`).
    ServeStale,
    /// Validate it first. If that fails, [`Freshness::usable_on_failure`] says whether it may answer nevertheless.
    Revalidate,
    /// Answer 504: the client wants no other answer than a stored one (`only-if-cached`).
    GatewayTimeout,
}

/// How asking the inner service failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Failure {
    /// It answered 500, 502, 503 or 504 (RFC 5861 §4).
    ServerError,
    /// It gave no answer, or none in time.
    Unreachable,
}

impl Failure {
    /// The failure that a status stands for, if it is one.
    pub fn of_status(status: StatusCode) -> Option<Failure> {
        matches!(status.as_u16(), 500 | 502 | 503 | 504).then_some(Failure::ServerError)
    }
}

impl Freshness {
    /// As RFC 9111 §4.2 has it for a shared cache. `cc` is the response's.
    pub fn shared(
        status: StatusCode,
        response: &HeaderMap,
        cc: &CacheControl,
        at: ExchangeTimes,
        rules: &FreshnessRules,
    ) -> Freshness {
        let forbids_stale = cc.forbids_stale();
        // Only s-maxage stands in the way, and the rule lets the response's own windows hold beside it.
        let lenient = rules.stale_windows_with_s_maxage && !cc.says_revalidate();
        let window = |stated: Option<Duration>, rule: Duration| match stated {
            Some(stated) if !forbids_stale || lenient => stated,
            None if !forbids_stale => rule,
            _ => Duration::ZERO,
        };
        let stale_if_error = window(cc.stale_if_error, rules.stale_if_error);
        // RFC 5861 §4: no answer is an error, too. The default for it counts only where the response states no window (§4.2.4).
        let stale_if_unreachable = match cc.stale_if_error {
            Some(_) => stale_if_error,
            None => window(None, rules.stale_if_unreachable).max(stale_if_error),
        };
        Freshness {
            received: at.received,
            initial_age: initial_age(response, at),
            lifetime: lifetime(status, response, cc, at.received, rules.default_lifetime),
            stale_while_revalidate: window(cc.stale_while_revalidate, rules.stale_while_revalidate),
            stale_if_error,
            stale_if_unreachable,
            forbids_stale,
            validate_always: cc.no_cache == Some(Scope::Whole),
            immutable: cc.immutable,
        }
    }

    /// As a rule has it that sets the lifetime itself, from the moment of arrival. There are no windows past it, and nothing
    /// is asked by a client or the response; set the fields for that.
    pub fn fixed(lifetime: Duration, received: u64) -> Freshness {
        Freshness {
            received,
            initial_age: Duration::ZERO,
            lifetime,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            stale_if_unreachable: Duration::ZERO,
            forbids_stale: false,
            validate_always: false,
            immutable: false,
        }
    }

    /// The current age (§4.2.3): what it was on arrival and the time since. A clock that went back adds nothing.
    pub fn age(&self, now: u64) -> Duration {
        self.initial_age.saturating_add(since(self.received, now))
    }

    /// The number for the `Age` field (§5.1): whole seconds, at most 2^31.
    pub fn age_seconds(&self, now: u64) -> u32 {
        u32::try_from(self.age(now).as_secs()).map_or(list::MAX_DELTA, |age| age.min(list::MAX_DELTA))
    }

    /// §4.2: fresh while its age is less than its lifetime.
    pub fn is_fresh(&self, now: u64) -> bool {
        self.age(now) < self.lifetime
    }

    /// How long it stays fresh; zero once it is stale.
    pub fn remaining(&self, now: u64) -> Duration {
        self.lifetime.saturating_sub(self.age(now))
    }

    /// When it stops being fresh, in milliseconds since the Unix epoch: the first that is too late.
    pub fn fresh_until(&self) -> u64 {
        self.until(Duration::ZERO)
    }

    /// When it can no longer be served without being validated, whatever window applies. With a validator it may be worth keeping
    /// longer.
    pub fn useful_until(&self) -> u64 {
        self.until(self.stale_while_revalidate.max(self.stale_if_error).max(self.stale_if_unreachable))
    }

    /// What to do for a request with these directives ([`CacheControl::of_request`]). For a rule under which a client has no
    /// say, pass those of no request at all, [`CacheControl::default`].
    pub fn decide(&self, request: &CacheControl, now: u64) -> Decision {
        let decision = self.decide_online(request, now);
        // §5.2.1.7: from the store, or a 504.
        if request.only_if_cached && decision >= Decision::Revalidate { Decision::GatewayTimeout } else { decision }
    }

    /// Whether it may answer in place of a failure, although [`decide`](Freshness::decide) said to validate it.
    ///
    /// §4.2.4 and RFC 5861 §4: not where a directive forbids it, else within the window for that failure, which a request's
    /// `stale-if-error` may widen. A response that is still fresh may, unless the response itself (`no-cache`) says that it is
    /// always to be validated.
    pub fn usable_on_failure(&self, failure: Failure, request: &CacheControl, now: u64) -> bool {
        // A client that asked for the origin's own answer (a reload) gets its failure rather than an answer it refused.
        if self.validate_always || request.no_cache.is_some() {
            return false;
        }
        if self.is_fresh(now) {
            return true;
        }
        let own = match failure {
            Failure::ServerError => self.stale_if_error,
            Failure::Unreachable => self.stale_if_unreachable,
        };
        let asked = request.stale_if_error.filter(|_| !self.forbids_stale).unwrap_or_default();
        self.staleness(now) < own.max(asked)
    }

    fn decide_online(&self, request: &CacheControl, now: u64) -> Decision {
        // §5.2.1.4 and §5.2.2.4: not without successful validation.
        if self.validate_always || request.no_cache.is_some() {
            return Decision::Revalidate;
        }
        let fresh = self.is_fresh(now);
        // RFC 8246 §2: while fresh, an immutable response is not validated on a reload; no-cache (above) still is.
        let reload = request.max_age == Some(Duration::ZERO) && fresh && self.immutable;
        // §5.2.1.1: prefers no response older than this.
        if request.max_age.is_some_and(|oldest| self.age(now) > oldest) && !reload {
            return Decision::Revalidate;
        }
        // §5.2.1.3: prefers one that stays fresh for at least this long.
        if request.min_fresh.is_some_and(|least| self.remaining(now) < least) {
            return Decision::Revalidate;
        }
        if fresh {
            return Decision::Serve;
        }
        let staleness = self.staleness(now);
        // §5.2.1.1: a client that names an age takes nothing stale, unless it says max-stale, too.
        if staleness < self.stale_while_revalidate && (request.max_age.is_none() || request.max_stale.is_some()) {
            return Decision::ServeAndRefresh;
        }
        // §5.2.1.2: past its lifetime by no more than this; §4.2.4: unless the response forbids it.
        let takes = match request.max_stale {
            None => false,
            Some(MaxStale::Any) => true,
            Some(MaxStale::Within(by)) => staleness <= by,
        };
        if takes && !self.forbids_stale { Decision::ServeStale } else { Decision::Revalidate }
    }

    fn staleness(&self, now: u64) -> Duration {
        self.age(now).saturating_sub(self.lifetime)
    }

    fn until(&self, beyond: Duration) -> u64 {
        let left = self.lifetime.saturating_add(beyond).saturating_sub(self.initial_age);
        self.received.saturating_add(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The value of `Age`: that of its first line.
fn age_field(headers: &HeaderMap) -> Option<Duration> {
    parse_age(headers.get(AGE)?)
}

/// The age that a line of `Age` states: its first member, if that is a whole number (§5.1: one that is not is ignored), at most 2^31
/// seconds.
pub(crate) fn parse_age(line: &HeaderValue) -> Option<Duration> {
    let first = line.as_bytes().split(|byte| *byte == b',').next()?;
    list::delta_seconds(first.trim_ascii()).map(|seconds| Duration::from_secs(seconds.into()))
}

/// §4.2.3: the larger of what the two clocks say (in the whole seconds that `Date` is written in) and what caches on the way
/// say, corrected by how long the answer took.
fn initial_age(response: &HeaderMap, at: ExchangeTimes) -> Duration {
    let apparent = match date_field(response, DATE, at.received) {
        Some(date) => Duration::from_secs(since(date, at.received).as_secs()),
        None => Duration::ZERO,
    };
    let delay = since(at.requested, at.received);
    let corrected = age_field(response).unwrap_or_default().saturating_add(delay);
    // Without Age nobody on the way has kept it, and a delay below a second would turn `max-age=1` into less than one.
    let corrected = if response.contains_key(AGE) { corrected } else { Duration::from_secs(delay.as_secs()) };
    apparent.max(corrected)
}

/// §4.2.1: s-maxage, else max-age, else Expires less Date, else what the rule says.
fn lifetime(
    status: StatusCode,
    response: &HeaderMap,
    cc: &CacheControl,
    received: u64,
    default_lifetime: DefaultLifetime,
) -> Duration {
    if let Some(stated) = cc.s_maxage.or(cc.max_age) {
        return stated;
    }
    let date = date_field(response, DATE, received).unwrap_or(received);
    if !cc.targeted && response.contains_key(EXPIRES) {
        // §5.3: what is no date, `0` above all, lies in the past.
        let expires = date_field(response, EXPIRES, received).unwrap_or(0);
        return since(date, expires).min(Duration::from_secs(list::MAX_DELTA.into()));
    }
    // §4.2.2: only where keeping it is allowed without a stated lifetime.
    if !(heuristically_cacheable(status) || cc.public) {
        return Duration::ZERO;
    }
    match default_lifetime {
        DefaultLifetime::Stale => Duration::ZERO,
        DefaultLifetime::Fixed(lifetime) => lifetime,
        DefaultLifetime::Heuristic { percent, at_most } => match date_field(response, LAST_MODIFIED, received) {
            Some(modified) => (since(modified, date) / 100).saturating_mul(percent.into()).min(at_most),
            None => Duration::ZERO,
        },
    }
}

fn since(earlier: u64, later: u64) -> Duration {
    Duration::from_millis(later.saturating_sub(earlier))
}

#[cfg(test)]
#[path = "tests/freshness.rs"]
mod tests;
