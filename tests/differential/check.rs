//! Compares the responses that clients received with the oracle.

use http::{HeaderMap, header};

use super::{
    history::{Call, Expectation, History, Received, SentRequest},
    oracle::{Terms, has_unkeyed_credentials, invalidated_by, names_tag, same_key, same_variant},
    origin::CALL,
    program::{Body, RangeSpec, Setup},
    responses::part,
    routes::Kind,
    switches,
};

/// A law that was violated, with the details.
#[derive(Clone, Debug)]
pub struct Violation {
    pub law: &'static str,
    pub detail: String,
}

pub type CheckResult = Result<(), Violation>;

pub fn violated<T>(law: &'static str, detail: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { law, detail: detail.into() })
}

/// Returns the first violation in a run.
pub fn check(setup: &Setup, history: &History) -> CheckResult {
    for (number, sent) in history.requests.iter().enumerate() {
        let checker = Checker { setup, history, number, request: sent };
        let checked = match &sent.received {
            Some(received) => checker.response(received),
            None if sent.disconnected => Ok(()),
            None => violated("every request is answered", ""),
        };
        checked.map_err(|Violation { law, detail }| Violation { law, detail: format!("request {number}: {detail}") })?;
    }
    Ok(())
}

pub struct Checker<'a> {
    pub setup: &'a Setup,
    pub history: &'a History,
    pub number: usize,
    pub request: &'a SentRequest,
}

impl Checker<'_> {
    fn response(&self, received: &Received) -> CheckResult {
        let (status, headers) = match &received.head {
            Ok((status, headers)) => (*status, headers),
            Err(error) => {
                return match self.failures(received).any(|call| call.status == 0) {
                    true => Ok(()),
                    false => violated("the cache adds no error", error.clone()),
                };
            }
        };
        let mut lines = headers.get_all(CALL).iter();
        let (Some(line), None) = (lines.next(), lines.next()) else {
            return self.without_call(status, headers);
        };
        let number: usize = line.to_str().ok().and_then(|line| line.parse().ok()).unwrap_or(usize::MAX);
        let Some(call) = self.history.calls.get(number) else {
            return violated("a response comes from the origin", format!("{line:?}"));
        };
        self.expectation(number)?;
        self.content(call, number, received, status, headers)?;
        self.conditions(call, status)?;
        if call.request != self.number {
            self.reused(call, number, received, headers).map_err(|Violation { law, detail }| {
                let made = &self.history.requests[call.request].spec;
                Violation {
                    law,
                    detail: format!("{detail}; the response of call {number}, made for request {} {made:?}", call.request),
                }
            })?;
        }
        let bypasses = self.request.spec.if_match || self.request.spec.second_user;
        let refuses =
            self.request.spec.directives.only_if_cached && self.is_http() && (switches::ONLY_IF_CACHED_ON_BYPASS || !bypasses);
        if refuses && call.request == self.number {
            return violated("only-if-cached does not reach the origin", "");
        }
        Ok(())
    }

    fn is_http(&self) -> bool {
        self.request.spec.rule().kind == Kind::Http
    }

    /// Returns the calls for this key that failed while the request was in progress.
    fn failures<'a>(&'a self, received: &Received) -> impl Iterator<Item = &'a Call> {
        let end = received.end;
        self.history.calls.iter().filter(move |call| {
            let during = call.answered.is_some_and(|(tick, _)| tick > self.request.begin && tick < end);
            let failed = matches!(call.status, 0 | 500 | 502 | 503 | 504);
            during
                && failed
                && (call.request == self.number
                    || same_key(self.setup, &self.history.requests[call.request].spec, &self.request.spec))
        })
    }

    fn without_call(&self, status: u16, headers: &HeaderMap) -> CheckResult {
        let spec = &self.request.spec;
        let own = |call: &Call| call.request == self.number && call.status != 0;
        match status {
            504 if spec.directives.only_if_cached && self.is_http() => match self.request.expectation {
                Some(Expectation::Hit(_)) => violated("a request that must be a hit is a hit", "answered 504"),
                _ => Ok(()),
            },
            416 if spec.range == Some(RangeSpec::PastTheEnd) || spec.range.is_some_and(|wanted| part(wanted, 20).is_none()) => {
                Ok(())
            }
            503 if self.setup.nested && !self.history.calls.iter().any(own) => Ok(()),
            _ => violated("a response comes from the origin", format!("{status} {headers:?}")),
        }
    }

    /// Checks the oracle's expectation from before the request was sent.
    fn expectation(&self, number: usize) -> CheckResult {
        let own = self.history.calls.iter().filter(|call| call.request == self.number).count();
        match self.request.expectation {
            Some(Expectation::Hit(wanted)) if own > 0 || number != wanted => violated(
                "a request that must be a hit is a hit",
                format!("{own} calls; the response of call {number} instead of {wanted}"),
            ),
            Some(Expectation::Refresh) if number < self.history.calls.len() => {
                let call = &self.history.calls[number];
                let old = call.begin < self.request.begin;
                let again = |call: &Call| {
                    call.begin > self.request.begin
                        && same_key(self.setup, &self.history.requests[call.request].spec, &self.request.spec)
                };
                let terms = Terms::of(self.history, call);
                let is_stale = call.answered.is_some_and(|(_, at)| self.request.began as i64 >= at as i64 + terms.fresh.1);
                match switches::STALE_ON_ARRIVAL_IS_REFRESHED && old && is_stale && !self.history.calls.iter().any(again) {
                    true => violated("a stale response that is served is refreshed", ""),
                    false => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// RFC 9110, section 13.
    fn conditions(&self, call: &Call, status: u16) -> CheckResult {
        let is_conditional = self.request.tags.is_some() || self.request.spec.tags.is_some() || self.request.since.is_some();
        let by_tags = self.request.spec.tags.is_some();
        let same = match (by_tags, self.request.since) {
            (true, _) => names_tag(self.request, call.etag.as_deref()),
            (false, Some(since)) => call.modified.is_some_and(|modified| modified <= since),
            (false, None) => false,
        };
        let whole = call.part.is_none() && matches!(call.status, 200 | 304);
        match status {
            304 if !is_conditional => violated("304 answers only a conditional request", ""),
            304 if !same => violated(
                "304 answers only a condition that matches",
                format!("{:?} {:?} for {:?}", self.request.tags, self.request.since, call.etag),
            ),
            200 | 206 if same && whole && call.request != self.number => violated(
                "a condition that matches is answered 304",
                format!("{:?} {:?} for {:?} {:?}", self.request.tags, self.request.since, call.etag, call.modified),
            ),
            _ => Ok(()),
        }
    }

    /// Checks a response that came from another request's call.
    fn reused(&self, call: &Call, number: usize, received: &Received, headers: &HeaderMap) -> CheckResult {
        let (setup, history, spec) = (self.setup, self.history, &self.request.spec);
        let made = &history.requests[call.request].spec;
        let terms = Terms::of(history, call);
        if !spec.reads() || spec.if_match {
            return violated("a request that bypasses the cache gets its own response", "");
        }
        if !same_key(setup, spec, made) {
            return violated("a response is served only for its key", "");
        }
        if let Err(reason) = terms.shared {
            return violated("an unshareable response is not shared", reason);
        }
        if headers.contains_key(header::SET_COOKIE) {
            return violated("an unshareable response is not shared", "a cookie");
        }
        if has_unkeyed_credentials(setup, spec, made, &terms) {
            return violated("a response is not shared across credentials", "");
        }
        if !same_variant(spec, made) {
            return violated("a response is served only to its variant", "");
        }
        if let Some(invalidation) = invalidated_by(setup, history, call, false, self.request.begin) {
            return violated("no response older than an invalidation is served", format!("{:?}", invalidation.scope));
        }
        let Some((answered, at)) = call.answered else {
            return violated("a response comes from the origin", "a call without a response");
        };
        let is_arriving = made.response.body == Body::Held;
        let joined = answered > self.request.begin || !switches::LATE_FOLLOWERS && is_arriving;
        if !joined {
            self.freshness(call, at, &terms, received, number)?;
        }
        let resident = |then: u64| then.saturating_sub(at);
        let bounds = ((terms.age.0 + resident(self.request.began)) / 1000, (terms.age.1 + resident(received.ended)) / 1000);
        let age = headers.get(header::AGE).and_then(|line| line.to_str().ok()?.parse::<u64>().ok());
        match age {
            Some(age) if (bounds.0..=bounds.1).contains(&age) => Ok(()),
            _ => violated("Age is correct", format!("{age:?} of {bounds:?}")),
        }
    }

    /// RFC 9111, section 4.2, section 4.2.4 and section 5.2.1; RFC 5861; RFC 8246.
    fn freshness(&self, call: &Call, at: u64, terms: &Terms, received: &Received, number: usize) -> CheckResult {
        let directives = if self.is_http() { self.request.spec.directives } else { Default::default() };
        let now = self.request.began as i64 - at as i64;
        let age = terms.age.0 as i64 + now;
        if directives.no_cache {
            return violated("no-cache is not answered from the store", "");
        }
        let softened = invalidated_by(self.setup, self.history, call, true, self.request.begin).is_some();
        let fresh = now < terms.fresh.1 && !softened && !terms.validate_always;
        let past = now - terms.fresh.1;
        let seconds = |seconds: u64| seconds as i64 * 1000;
        let reload = directives.max_age == Some(0) && terms.immutable && fresh;
        let within_max_age = directives.max_age.is_none_or(|oldest| age <= seconds(oldest)) || reload;
        let meets_min_fresh =
            directives.min_fresh.is_none_or(|least| -past >= seconds(least) || least == 0 && directives.max_stale.is_some());
        if fresh && within_max_age && meets_min_fresh {
            return Ok(());
        }
        let takes_stale = directives.max_age.is_none() || directives.max_stale.is_some();
        let may = !terms.validate_always;
        if may
            && terms.while_revalidate > 0
            && past < terms.while_revalidate
            && within_max_age
            && meets_min_fresh
            && takes_stale
        {
            return Ok(());
        }
        if may
            && !terms.forbids_stale
            && within_max_age
            && meets_min_fresh
            && directives.max_stale.is_some_and(|by| by.is_none_or(|by| past <= seconds(by)))
        {
            return Ok(());
        }
        let asked = directives.stale_if_error.filter(|_| !terms.forbids_stale).map_or(0, seconds);
        let allows_stale = |failed: &Call| {
            let window = if failed.status == 0 { terms.if_unreachable } else { terms.if_error };
            let window = window.max(asked);
            window > 0 && past < window || fresh || softened && !switches::SOFT_WITH_FAILURES
        };
        if may && self.failures(received).any(allows_stale) {
            return Ok(());
        }
        violated(
            "no response is served beyond its lifetime",
            format!("call {number}: {now} ms after arrival, fresh for {:?}, softened: {softened}", terms.fresh),
        )
    }
}
