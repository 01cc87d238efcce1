//! Options of a rule under which HTTP decides about the lifetime.

use std::time::Duration;

use http::{HeaderMap, HeaderName, header};

use crate::semantics::{DefaultLifetime, FreshnessRules};

/// Options of [`Rule::http`](super::Rule::http) that other rules do not have.
#[derive(Clone, Debug)]
pub(crate) struct HttpOptions {
    pub(crate) default_ttl: Duration,
    pub(crate) heuristics: bool,
    pub(crate) targets: Vec<HeaderName>,
    pub(crate) if_unreachable: Duration,
    pub(crate) keep: Duration,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            default_ttl: Duration::ZERO,
            heuristics: false,
            targets: Vec::new(),
            if_unreachable: Duration::from_secs(3600),
            keep: Duration::from_secs(24 * 3600),
        }
    }
}

impl HttpOptions {
    /// Returns true if a response without a stated lifetime gets one.
    pub(crate) fn fills_silence(&self) -> bool {
        self.heuristics || !self.default_ttl.is_zero()
    }

    /// Returns the rules of freshness for parts that this response does not state.
    pub(crate) fn freshness(&self, response: &HeaderMap, while_revalidate: Duration, if_error: Duration) -> FreshnessRules {
        let default_lifetime = if self.heuristics && response.contains_key(header::LAST_MODIFIED) {
            // RFC 9111, section 4.2.2, suggests a tenth of the time since the last change. A day is the limit here.
            DefaultLifetime::Heuristic { percent: 10, at_most: Duration::from_secs(24 * 3600) }
        } else if self.default_ttl.is_zero() {
            DefaultLifetime::Stale
        } else {
            DefaultLifetime::Fixed(self.default_ttl)
        };
        FreshnessRules {
            default_lifetime,
            stale_while_revalidate: while_revalidate,
            stale_if_error: if_error,
            stale_if_unreachable: self.if_unreachable.max(if_error),
            ..FreshnessRules::default()
        }
    }
}
