//! Age, freshness lifetime, and the decision whether a stored response can be served (RFC 9111 §4.2).

use std::time::Duration;

use http::StatusCode;
use http::header::{AGE, DATE, EXPIRES, HeaderMap, HeaderValue, LAST_MODIFIED};

use super::date::date_field;
use super::directives::{CacheControl, MaxStale, Scope};
use super::list;
use super::storable::heuristically_cacheable;

/// Values of a rule that apply where a response states none, and the rule's treatment of stale responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FreshnessRules {
    /// The lifetime of a response that states none. Defaults to [`DefaultLifetime::Stale`].
    pub default_lifetime: DefaultLifetime,
    /// The time past its lifetime for which a response without `stale-while-revalidate` may be served while it is validated in the
    /// background. Defaults to 0.
    pub stale_while_revalidate: Duration,
    /// The time past its lifetime for which a response without `stale-if-error` may replace a 500, 502, 503 or 504. Defaults to 0.
    pub stale_if_error: Duration,
    /// The time past its lifetime for which a response without `stale-if-error` may be served if the inner service does not respond
    /// (RFC 9111 §4.2.4, disconnected caches). Defaults to one hour.
    ///
    /// A stated `stale-if-error` replaces this value, even if it is shorter. A value below [`stale_if_error`](Self::stale_if_error) is
    /// raised to it.
    pub stale_if_unreachable: Duration,
    /// True if windows stated by a response apply in spite of its `s-maxage`. Defaults to false.
    ///
    /// `s-maxage` forbids stale responses as `proxy-revalidate` does (RFC 9111 §5.2.2.10). Yet many origins send
    /// `s-maxage=60, stale-while-revalidate=30` and intend both.
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

/// The lifetime of a response that states none and is cacheable by default, by its status or by `public` (RFC 9111 §4.2.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DefaultLifetime {
    /// No lifetime: the response is stale on receipt.
    #[default]
    Stale,
    /// A fixed lifetime.
    Fixed(Duration),
    /// A fraction of the time since `Last-Modified`, typically 10 %. Without `Last-Modified` the response is stale on receipt.
    Heuristic {
        /// The fraction, in percent.
        percent: u8,
        /// The upper limit of the lifetime.
        at_most: Duration,
    },
}

/// The age and lifetime of a stored response, and the windows in which it may be served stale.
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
    /// The time of receipt, in milliseconds since the Unix epoch.
    pub received: u64,
    /// The age on receipt (§4.2.3).
    pub initial_age: Duration,
    /// The freshness lifetime (§4.2.1). The response is stale from this age on.
    pub lifetime: Duration,
    /// The time past the lifetime for which the response may be served while it is validated in the background. Zero means never.
    pub stale_while_revalidate: Duration,
    /// The time past the lifetime for which the response may replace a 500, 502, 503 or 504. Zero means never.
    pub stale_if_error: Duration,
    /// The time past the lifetime for which the response may be served if the inner service does not respond. Zero means never.
    pub stale_if_unreachable: Duration,
    /// True if a directive forbids serving the response stale without validation, even to a request with `max-stale` (§4.2.4).
    pub forbids_stale: bool,
    /// True if the response is never served without validation (`no-cache`, §5.2.2.4).
    pub validate_always: bool,
    /// True if a reload does not validate the response while it is fresh (`immutable`, RFC 8246).
    pub immutable: bool,
}

/// The times at which a request was sent and its response received, in milliseconds since the Unix epoch (§4.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExchangeTimes {
    /// The time at which the request was sent to the inner service (`request_time`).
    pub requested: u64,
    /// The time at which the header section of the response was received (`response_time`).
    pub received: u64,
}

/// The treatment of a stored response, ordered from the most to the least favourable. As a response ages, it only moves down this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Decision {
    /// Serve the fresh response.
    Serve,
    /// Serve the stale response and validate it in the background (RFC 5861 §3).
    ServeAndRefresh,
    /// Serve the stale response, because the request accepts it (`max-stale`).
    ServeStale,
    /// Validate before serving. If the validation fails, [`Freshness::usable_on_failure`] decides whether to serve the response.
    Revalidate,
    /// Respond with status 504, because the request accepts only a stored response (`only-if-cached`).
    GatewayTimeout,
}

/// The way in which a call of the inner service failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Failure {
    /// A response with status 500, 502, 503 or 504 (RFC 5861 §4).
    ServerError,
    /// No response, or none within the time limit.
    Unreachable,
}

impl Failure {
    /// Returns the failure that a status stands for, or `None` for other statuses.
    pub fn of_status(status: StatusCode) -> Option<Failure> {
        matches!(status.as_u16(), 500 | 502 | 503 | 504).then_some(Failure::ServerError)
    }
}

impl Freshness {
    /// Computes the freshness of a response for a shared cache (RFC 9111 §4.2). `cc` holds the directives of the response.
    pub fn shared(
        status: StatusCode,
        response: &HeaderMap,
        cc: &CacheControl,
        at: ExchangeTimes,
        rules: &FreshnessRules,
    ) -> Freshness {
        let forbids_stale = cc.forbids_stale();
        // With the rule's exception, windows stated by the response are allowed if nothing but s-maxage forbids them.
        let stated_only = rules.stale_windows_with_s_maxage && !cc.forbids_stale_without_s_maxage();
        let window = |stated: Option<Duration>, rule: Duration| match stated {
            Some(stated) if !forbids_stale || stated_only => stated,
            None if !forbids_stale => rule,
            _ => Duration::ZERO,
        };
        let stale_if_error = window(cc.stale_if_error, rules.stale_if_error);
        // RFC 5861 §4: no response is an error, too. The rule's window applies only if the response states none (§4.2.4).
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

    /// Returns the freshness of a response whose lifetime is set by a rule and counts from the time of receipt.
    ///
    /// It has no initial age, no windows and no directives. Change the public fields to add them.
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

    /// Returns the current age: the initial age and the time since receipt (§4.2.3). A clock set back before the receipt adds nothing.
    pub fn age(&self, now: u64) -> Duration {
        self.initial_age.saturating_add(since(self.received, now))
    }

    /// Returns the value of the `Age` field, in whole seconds and at most 2^31 (§5.1).
    pub fn age_seconds(&self, now: u64) -> u32 {
        u32::try_from(self.age(now).as_secs()).map_or(list::MAX_DELTA, |age| age.min(list::MAX_DELTA))
    }

    /// Returns true while the age is less than the lifetime (§4.2).
    pub fn is_fresh(&self, now: u64) -> bool {
        self.age(now) < self.lifetime
    }

    /// Returns the remaining lifetime, or zero for a stale response.
    pub fn remaining(&self, now: u64) -> Duration {
        self.lifetime.saturating_sub(self.age(now))
    }

    /// Returns the first time at which the response is stale, in milliseconds since the Unix epoch.
    pub fn fresh_until(&self) -> u64 {
        self.end_of_window(Duration::ZERO)
    }

    /// Returns the end of the last window, in milliseconds since the Unix epoch. From then on the response must be validated before use.
    ///
    /// A response with a validator may be worth storing for longer.
    pub fn useful_until(&self) -> u64 {
        self.end_of_window(self.stale_while_revalidate.max(self.stale_if_error).max(self.stale_if_unreachable))
    }

    /// Decides how to treat the response for a request with these directives ([`CacheControl::of_request`]).
    ///
    /// Pass [`CacheControl::default`] to ignore the directives of the request.
    pub fn decide(&self, request: &CacheControl, now: u64) -> Decision {
        let decision = self.decide_ignoring_only_if_cached(request, now);
        // §5.2.1.7: a stored response or a 504.
        if request.only_if_cached && decision >= Decision::Revalidate { Decision::GatewayTimeout } else { decision }
    }

    /// Returns true if the response may be served because the inner service failed, after [`decide`](Freshness::decide) returned
    /// [`Decision::Revalidate`] (§4.2.4, RFC 5861 §4).
    ///
    /// A fresh response may be served. A stale one may be served within the window for this failure. The request's own `stale-if-error`
    /// extends the window, unless a directive of the response forbids stale responses. With `no-cache` in the request or the response the
    /// result is false.
    pub fn usable_on_failure(&self, failure: Failure, request: &CacheControl, now: u64) -> bool {
        // A reload asks for the origin's current response, so the client receives the failure.
        if self.validate_always || request.no_cache.is_some() {
            return false;
        }
        if self.is_fresh(now) {
            return true;
        }
        let window = match failure {
            Failure::ServerError => self.stale_if_error,
            Failure::Unreachable => self.stale_if_unreachable,
        };
        let requested = request.stale_if_error.filter(|_| !self.forbids_stale).unwrap_or_default();
        self.staleness(now) < window.max(requested)
    }

    fn decide_ignoring_only_if_cached(&self, request: &CacheControl, now: u64) -> Decision {
        // §5.2.1.4 and §5.2.2.4: only after successful validation.
        if self.validate_always || request.no_cache.is_some() {
            return Decision::Revalidate;
        }
        let fresh = self.is_fresh(now);
        // RFC 8246 §2: a reload does not validate a fresh immutable response. `no-cache` still does.
        let reload = request.max_age == Some(Duration::ZERO) && fresh && self.immutable;
        // §5.2.1.1: the request accepts no response older than this.
        if request.max_age.is_some_and(|oldest| self.age(now) > oldest) && !reload {
            return Decision::Revalidate;
        }
        // §5.2.1.3: the request accepts only a response that stays fresh for this long.
        if request.min_fresh.is_some_and(|least| self.remaining(now) < least) {
            return Decision::Revalidate;
        }
        if fresh {
            return Decision::Serve;
        }
        let staleness = self.staleness(now);
        // §5.2.1.1: a request with max-age accepts nothing stale, unless it has max-stale, too.
        if staleness < self.stale_while_revalidate && (request.max_age.is_none() || request.max_stale.is_some()) {
            return Decision::ServeAndRefresh;
        }
        // §5.2.1.2: the staleness that the request accepts. §4.2.4: unless the response forbids it.
        let accepted = match request.max_stale {
            None => false,
            Some(MaxStale::Any) => true,
            Some(MaxStale::Within(limit)) => staleness <= limit,
        };
        if accepted && !self.forbids_stale { Decision::ServeStale } else { Decision::Revalidate }
    }

    fn staleness(&self, now: u64) -> Duration {
        self.age(now).saturating_sub(self.lifetime)
    }

    fn end_of_window(&self, window: Duration) -> u64 {
        let left = self.lifetime.saturating_add(window).saturating_sub(self.initial_age);
        self.received.saturating_add(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Returns the age stated by the first `Age` line.
fn age_field(headers: &HeaderMap) -> Option<Duration> {
    parse_age(headers.get(AGE)?)
}

/// Parses the first member of an `Age` line, which saturates at 2^31 seconds. An invalid age is ignored (§5.1).
pub(crate) fn parse_age(line: &HeaderValue) -> Option<Duration> {
    let first = line.as_bytes().split(|byte| *byte == b',').next()?;
    list::delta_seconds(first.trim_ascii()).map(|seconds| Duration::from_secs(seconds.into()))
}

/// Computes the age on receipt (§4.2.3): the larger of the apparent age, in whole seconds because `Date` has no fractions, and the stated
/// age corrected by the response delay.
fn initial_age(response: &HeaderMap, at: ExchangeTimes) -> Duration {
    let apparent = match date_field(response, DATE, at.received) {
        Some(date) => Duration::from_secs(since(date, at.received).as_secs()),
        None => Duration::ZERO,
    };
    let delay = since(at.requested, at.received);
    let corrected = age_field(response).unwrap_or_default().saturating_add(delay);
    // Without Age there is probably no cache in between. Ignoring a delay below a second keeps `max-age=1` usable.
    let corrected = if response.contains_key(AGE) { corrected } else { Duration::from_secs(delay.as_secs()) };
    apparent.max(corrected)
}

/// Returns the lifetime (§4.2.1): s-maxage, else max-age, else Expires minus Date, else the rule's default.
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
        // §5.3: an invalid date, especially `0`, lies in the past.
        let expires = date_field(response, EXPIRES, received).unwrap_or(0);
        return since(date, expires).min(Duration::from_secs(list::MAX_DELTA.into()));
    }
    // §4.2.2: only for responses that are cacheable without a stated lifetime.
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
