//! The decision about a stored response.

use std::sync::Arc;

use crate::{
    clock::{MS, Nanos},
    entry::{Content, Entry, validity::Validity},
    lookup::info::RequestDirectives,
    rules::policy::Policy,
    semantics,
    status::Miss,
};

/// What to do with what was found.
pub(crate) enum Decision {
    /// Serve it.
    Fresh(Arc<Entry>),
    /// Serve it, and refresh it in the background: its end is near.
    Early(Arc<Entry>),
    /// Serve it although it is stale, and refresh it in the background.
    Stale(Arc<Entry>),
    /// Serve it although it is stale: the client takes that.
    Accepted(Arc<Entry>),
    /// Answer 504: the client wants a stored response or none.
    Refused,
    /// Ask the inner service; what was found may serve if that fails.
    Ask(Miss, Option<Arc<Entry>>),
}

/// What to do with what was found, for a request that has `asked` so where HTTP decides.
#[inline]
pub(crate) fn decide(
    found: Option<(Arc<Entry>, Validity)>,
    rule: &Policy,
    asked: Option<&RequestDirectives>,
    now: Nanos,
) -> Decision {
    let only_if_cached = || asked.is_some_and(|asked| asked.directives.only_if_cached);
    let Some((entry, life)) = found.filter(|(entry, _)| matches!(entry.content(), Content::Response { .. })) else {
        return if only_if_cached() { Decision::Refused } else { Decision::Ask(Miss::Absent, None) };
    };
    match judge(&entry, life, rule, asked, now) {
        Verdict::Fresh => Decision::Fresh(entry),
        Verdict::Early => Decision::Early(entry),
        Verdict::Stale => Decision::Stale(entry),
        Verdict::Accepted => Decision::Accepted(entry),
        Verdict::Refused => Decision::Refused,
        Verdict::Ask(why, spare) => Decision::Ask(why, spare.then_some(entry)),
    }
}

/// What a stored response may be used for.
#[derive(Clone, Copy)]
pub(crate) enum Verdict {
    /// It answers.
    Fresh,
    /// It answers, and is refreshed in the background: its end is near.
    Early,
    /// It answers although it is stale, and is refreshed in the background.
    Stale,
    /// It answers although it is stale: the client takes that.
    Accepted,
    /// Neither it nor the inner service may answer.
    Refused,
    /// The inner service is to be asked; whether this may serve if that fails.
    Ask(Miss, bool),
}

/// What this response may be used for by a request that has `asked` so where HTTP decides.
#[inline]
pub(crate) fn judge(entry: &Entry, life: Validity, rule: &Policy, asked: Option<&RequestDirectives>, now: Nanos) -> Verdict {
    match asked {
        None => judge_by_rule(entry, life, rule, now),
        Some(asked) => judge_by_http(entry, life, rule, asked, now),
    }
}

#[inline]
fn judge_by_rule(entry: &Entry, life: Validity, rule: &Policy, now: Nanos) -> Verdict {
    let times = entry.times();
    if life == Validity::Valid && now < times.fresh_until {
        return match rule.refresh_early(times.fresh_until - now, times.cost) {
            false => Verdict::Fresh,
            true => Verdict::Early,
        };
    }
    if times.may_be_refreshed_behind(now) {
        return Verdict::Stale;
    }
    let why = if life == Validity::Stale { Miss::SoftlyCleared } else { Miss::Expired };
    Verdict::Ask(why, times.may_stand_in(now))
}

/// RFC 9111, section 4.
fn judge_by_http(entry: &Entry, life: Validity, rule: &Policy, asked: &RequestDirectives, now: Nanos) -> Verdict {
    let ask = |why| if asked.directives.only_if_cached { Verdict::Refused } else { Verdict::Ask(why, false) };
    let Some(http) = entry.http() else {
        // Stored under another rule.
        return ask(Miss::Expired);
    };
    if asked.guarded && !http.open {
        return ask(Miss::Request);
    }
    let freshness = http.freshness(life, now);
    match freshness.decide(&asked.directives, now / MS) {
        semantics::Decision::Serve => {
            let times = entry.times();
            match rule.refresh_early(times.fresh_until.saturating_sub(now), times.cost) {
                false => Verdict::Fresh,
                true => Verdict::Early,
            }
        }
        semantics::Decision::ServeAndRefresh => Verdict::Stale,
        semantics::Decision::ServeStale => Verdict::Accepted,
        semantics::Decision::GatewayTimeout => Verdict::Refused,
        semantics::Decision::Revalidate => {
            let why = match life {
                Validity::Stale => Miss::SoftlyCleared,
                _ if freshness.is_fresh(now / MS) && !freshness.validate_always => Miss::Request,
                _ => Miss::Expired,
            };
            Verdict::Ask(why, true)
        }
    }
}
