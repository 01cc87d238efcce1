//! The decision about a stored response: one function, for the fast path, the slow path and the background refresh.

use std::sync::Arc;

use super::info::RequestDirectives;
use crate::{
    clock::{MS, Nanos},
    entry::{Content, Entry, times::Times, validity::Validity},
    rules::policy::Policy,
    semantics,
    status::Miss,
};

/// The use of a stored response for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The entry answers.
    Fresh,
    /// The entry answers, and is refreshed in the background because it expires soon.
    RefreshAhead,
    /// The entry answers, and is compared with a fresh response in the background.
    Audit,
    /// The entry answers although it is stale, and is refreshed in the background.
    Stale,
    /// The entry answers although it is stale, because the client accepts that (`max-stale`).
    AcceptedStale,
    /// The response is 504: the client accepts a stored response only (`only-if-cached`), and no stored response may answer.
    OnlyIfCached,
    /// The inner service is called. The entry may be served if that fails and `fallback` is set.
    Fetch { reason: Miss, fallback: bool },
}

impl Decision {
    /// Replaces a random choice by the choice of an earlier lookup for the same request: `ahead` is refreshed ahead, unless a newer response was
    /// stored meanwhile.
    pub(crate) fn as_chosen(self, ahead: Option<&Entry>, found: Option<&Entry>) -> Self {
        match (self, ahead, found) {
            (Self::Fresh | Self::RefreshAhead | Self::Audit, Some(ahead), Some(found)) => {
                match found.times().are_those_of(ahead.times()) {
                    true => Self::RefreshAhead,
                    false => Self::Fresh,
                }
            }
            _ => self,
        }
    }
}

/// Decides about the result of a lookup. `directives` are those of the request, under a rule where HTTP decides.
#[inline]
pub(crate) fn decide(
    found: Option<&(Arc<Entry>, Validity)>,
    rule: &Policy,
    directives: Option<&RequestDirectives>,
    now: Nanos,
) -> Decision {
    match found {
        Some((entry, validity)) if matches!(entry.content(), Content::Response { .. }) => {
            decide_entry(entry, *validity, rule, directives, now)
        }
        _ if directives.is_some_and(|request| request.cache_control.only_if_cached) => Decision::OnlyIfCached,
        _ => Decision::Fetch { reason: Miss::Absent, fallback: false },
    }
}

/// Decides about a stored response.
#[inline]
pub(crate) fn decide_entry(
    entry: &Entry,
    validity: Validity,
    rule: &Policy,
    directives: Option<&RequestDirectives>,
    now: Nanos,
) -> Decision {
    match directives {
        None => decide_by_rule(entry, validity, rule, now),
        Some(directives) => decide_by_http(entry, validity, rule, directives, now),
    }
}

#[inline]
fn decide_by_rule(entry: &Entry, validity: Validity, rule: &Policy, now: Nanos) -> Decision {
    let times = entry.times();
    if validity == Validity::Valid && now < times.fresh_until {
        return match rule.chooses_hits() {
            false => Decision::Fresh,
            true => chosen(rule, times, now),
        };
    }
    if times.allows_stale_while_revalidate(now) {
        return Decision::Stale;
    }
    let reason = if validity == Validity::Stale { Miss::SoftlyInvalidated } else { Miss::Expired };
    Decision::Fetch { reason, fallback: times.allows_stale_if_error(now) }
}

/// Decides at random if a hit refreshes its entry ahead, or is audited.
#[inline(never)]
fn chosen(rule: &Policy, times: &Times, now: Nanos) -> Decision {
    if rule.refreshes_ahead(times.fresh_until.saturating_sub(now), times.cost) {
        Decision::RefreshAhead
    } else if rule.audits_this_hit() {
        Decision::Audit
    } else {
        Decision::Fresh
    }
}

/// Decides by RFC 9111, section 4.
fn decide_by_http(entry: &Entry, validity: Validity, rule: &Policy, request: &RequestDirectives, now: Nanos) -> Decision {
    let fetch = |reason| match request.cache_control.only_if_cached {
        true => Decision::OnlyIfCached,
        false => Decision::Fetch { reason, fallback: false },
    };
    // An entry without these data was stored under another rule.
    let Some(http) = entry.http() else { return fetch(Miss::Expired) };
    if request.has_unkeyed_credentials && !http.open {
        return fetch(Miss::Request);
    }
    let freshness = http.freshness(validity, now);
    match freshness.decide(&request.cache_control, now / MS) {
        semantics::Decision::Serve => match rule.chooses_hits() {
            false => Decision::Fresh,
            true => chosen(rule, entry.times(), now),
        },
        semantics::Decision::ServeAndRefresh => Decision::Stale,
        semantics::Decision::ServeStale => Decision::AcceptedStale,
        semantics::Decision::GatewayTimeout => Decision::OnlyIfCached,
        semantics::Decision::Revalidate => {
            let reason = match validity {
                Validity::Stale => Miss::SoftlyInvalidated,
                _ if freshness.is_fresh(now / MS) && !freshness.validate_always => Miss::Request,
                _ => Miss::Expired,
            };
            Decision::Fetch { reason, fallback: true }
        }
    }
}
