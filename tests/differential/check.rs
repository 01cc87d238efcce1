//! Holds what clients have seen against the oracle.

use http::{HeaderMap, header};

use super::{
    history::{Call, Demand, History, Seen, Sent},
    known,
    oracle::{Terms, cleared, guarded, names_tag, same_key, same_variant},
    origin::CALL,
    program::{Body, Setup, Wanted},
    routes::Kind,
    shows::part,
};

/// A law that was broken, and how.
#[derive(Clone, Debug)]
pub struct Violation {
    pub law: &'static str,
    pub how: String,
}

pub type Checked = Result<(), Violation>;

pub fn broken<T>(law: &'static str, how: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { law, how: how.into() })
}

/// The first law that a run has broken.
pub fn check(setup: &Setup, history: &History) -> Checked {
    for (number, sent) in history.sent.iter().enumerate() {
        let judge = Judge { setup, history, number, sent };
        let checked = match &sent.seen {
            Some(seen) => judge.seen(seen),
            None if sent.left => Ok(()),
            None => broken("every request is answered", ""),
        };
        checked.map_err(|Violation { law, how }| Violation { law, how: format!("request {number}: {how}") })?;
    }
    Ok(())
}

pub struct Judge<'a> {
    pub setup: &'a Setup,
    pub history: &'a History,
    pub number: usize,
    pub sent: &'a Sent,
}

impl Judge<'_> {
    fn seen(&self, seen: &Seen) -> Checked {
        let (status, headers) = match &seen.head {
            Ok((status, headers)) => (*status, headers),
            Err(error) => {
                return match self.failures(seen).any(|call| call.status == 0) {
                    true => Ok(()),
                    false => broken("the cache adds no error", error.clone()),
                };
            }
        };
        let mut lines = headers.get_all(CALL).iter();
        let (Some(line), None) = (lines.next(), lines.next()) else {
            return self.without_call(status, headers);
        };
        let number: usize = line.to_str().ok().and_then(|line| line.parse().ok()).unwrap_or(usize::MAX);
        let Some(call) = self.history.calls.get(number) else {
            return broken("a response comes from the origin", format!("{line:?}"));
        };
        self.useful(number)?;
        self.content(call, number, seen, status, headers)?;
        self.conditions(call, status)?;
        if call.ask != self.number {
            self.reused(call, number, seen, headers).map_err(|Violation { law, how }| {
                let made = &self.history.sent[call.ask].ask;
                Violation { law, how: format!("{how}; the response of call {number}, made for request {} {made:?}", call.ask) }
            })?;
        }
        let bypasses = self.sent.ask.if_match || self.sent.ask.twice;
        let refuses =
            self.sent.ask.directives.only_if_cached && self.is_http() && (known::ONLY_IF_CACHED_ON_BYPASS || !bypasses);
        if refuses && call.ask == self.number {
            return broken("only-if-cached does not reach the origin", "");
        }
        Ok(())
    }

    fn is_http(&self) -> bool {
        self.sent.ask.facts().kind == Kind::Http
    }

    /// Calls for this key that have failed while the request was under way.
    fn failures<'a>(&'a self, seen: &Seen) -> impl Iterator<Item = &'a Call> {
        let end = seen.end;
        self.history.calls.iter().filter(move |call| {
            let during = call.answered.is_some_and(|(tick, _)| tick > self.sent.begin && tick < end);
            let failed = matches!(call.status, 0 | 500 | 502 | 503 | 504);
            during
                && failed
                && (call.ask == self.number || same_key(self.setup, &self.history.sent[call.ask].ask, &self.sent.ask))
        })
    }

    fn without_call(&self, status: u16, headers: &HeaderMap) -> Checked {
        let ask = &self.sent.ask;
        let own = |call: &Call| call.ask == self.number && call.status != 0;
        match status {
            504 if ask.directives.only_if_cached && self.is_http() => match self.sent.demand {
                Some(Demand::Hit(_)) => broken("a request that must be a hit is one", "answered 504"),
                _ => Ok(()),
            },
            416 if ask.range == Some(Wanted::PastTheEnd) || ask.range.is_some_and(|wanted| part(wanted, 20).is_none()) => {
                Ok(())
            }
            503 if self.setup.nested && !self.history.calls.iter().any(own) => Ok(()),
            _ => broken("a response comes from the origin", format!("{status} {headers:?}")),
        }
    }

    /// What the oracle demanded before the request was sent.
    fn useful(&self, number: usize) -> Checked {
        let own = self.history.calls.iter().filter(|call| call.ask == self.number).count();
        match self.sent.demand {
            Some(Demand::Hit(wanted)) if own > 0 || number != wanted => broken(
                "a request that must be a hit is one",
                format!("{own} calls; the response of call {number} instead of {wanted}"),
            ),
            Some(Demand::Refresh) if number < self.history.calls.len() => {
                let call = &self.history.calls[number];
                let old = call.begin < self.sent.begin;
                let again = |call: &Call| {
                    call.begin > self.sent.begin && same_key(self.setup, &self.history.sent[call.ask].ask, &self.sent.ask)
                };
                let terms = Terms::of(self.history, call);
                let is_stale = call.answered.is_some_and(|(_, at)| self.sent.began as i64 >= at as i64 + terms.fresh.1);
                match known::STALE_ON_ARRIVAL_IS_REFRESHED && old && is_stale && !self.history.calls.iter().any(again) {
                    true => broken("what is served stale is refreshed", ""),
                    false => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// RFC 9110, section 13.
    fn conditions(&self, call: &Call, status: u16) -> Checked {
        let asks = self.sent.tags.is_some() || self.sent.ask.tags.is_some() || self.sent.since.is_some();
        let by_tags = self.sent.ask.tags.is_some();
        let same = match (by_tags, self.sent.since) {
            (true, _) => names_tag(self.sent, call.etag.as_deref()),
            (false, Some(since)) => call.modified.is_some_and(|modified| modified <= since),
            (false, None) => false,
        };
        let whole = call.part.is_none() && matches!(call.status, 200 | 304);
        match status {
            304 if !asks => broken("304 answers who asked with a condition", ""),
            304 if !same => broken(
                "304 means that the client has it",
                format!("{:?} {:?} for {:?}", self.sent.tags, self.sent.since, call.etag),
            ),
            200 | 206 if same && whole && call.ask != self.number => broken(
                "who has it is answered 304",
                format!("{:?} {:?} for {:?} {:?}", self.sent.tags, self.sent.since, call.etag, call.modified),
            ),
            _ => Ok(()),
        }
    }

    /// A response that a call for another request has brought.
    fn reused(&self, call: &Call, number: usize, seen: &Seen, headers: &HeaderMap) -> Checked {
        let (setup, history, ask) = (self.setup, self.history, &self.sent.ask);
        let made = &history.sent[call.ask].ask;
        let terms = Terms::of(history, call);
        if !ask.reads() || ask.if_match {
            return broken("what bypasses the cache gets its own response", "");
        }
        if !same_key(setup, ask, made) {
            return broken("a response answers its own key", "");
        }
        if let Err(why) = terms.shared {
            return broken("what must not be shared is not", why);
        }
        if headers.contains_key(header::SET_COOKIE) {
            return broken("what must not be shared is not", "a cookie");
        }
        if guarded(setup, ask, made, &terms) {
            return broken("credentials keep responses apart", "");
        }
        if !same_variant(ask, made) {
            return broken("a response answers its own variant", "");
        }
        if let Some(cleared) = cleared(setup, history, call, false, self.sent.begin) {
            return broken("no response older than an invalidation is served", format!("{:?}", cleared.scope));
        }
        let Some((answered, at)) = call.answered else {
            return broken("a response comes from the origin", "which has not answered");
        };
        let is_arriving = made.answer.body == Body::Held;
        let joined = answered > self.sent.begin || !known::LATE_FOLLOWERS && is_arriving;
        if !joined {
            self.in_time(call, at, &terms, seen, number)?;
        }
        let resident = |then: u64| then.saturating_sub(at);
        let bounds = ((terms.age.0 + resident(self.sent.began)) / 1000, (terms.age.1 + resident(seen.ended)) / 1000);
        let age = headers.get(header::AGE).and_then(|line| line.to_str().ok()?.parse::<u64>().ok());
        match age {
            Some(age) if (bounds.0..=bounds.1).contains(&age) => Ok(()),
            _ => broken("Age is right", format!("{age:?} of {bounds:?}")),
        }
    }

    /// RFC 9111, section 4.2, section 4.2.4 and section 5.2.1; RFC 5861; RFC 8246.
    fn in_time(&self, call: &Call, at: u64, terms: &Terms, seen: &Seen, number: usize) -> Checked {
        let says = if self.is_http() { self.sent.ask.directives } else { Default::default() };
        let now = self.sent.began as i64 - at as i64;
        let age = terms.age.0 as i64 + now;
        if says.no_cache {
            return broken("no-cache is not answered from the store", "");
        }
        let softened = cleared(self.setup, self.history, call, true, self.sent.begin).is_some();
        let fresh = now < terms.fresh.1 && !softened && !terms.validate_always;
        let past = now - terms.fresh.1;
        let seconds = |seconds: u64| seconds as i64 * 1000;
        let reload = says.max_age == Some(0) && terms.immutable && fresh;
        let young = says.max_age.is_none_or(|oldest| age <= seconds(oldest)) || reload;
        let lasting = says.min_fresh.is_none_or(|least| -past >= seconds(least) || least == 0 && says.max_stale.is_some());
        if fresh && young && lasting {
            return Ok(());
        }
        let takes_stale = says.max_age.is_none() || says.max_stale.is_some();
        let may = !terms.validate_always;
        if may && terms.while_revalidate > 0 && past < terms.while_revalidate && young && lasting && takes_stale {
            return Ok(());
        }
        if may
            && !terms.forbids_stale
            && young
            && lasting
            && says.max_stale.is_some_and(|by| by.is_none_or(|by| past <= seconds(by)))
        {
            return Ok(());
        }
        let asked = says.stale_if_error.filter(|_| !terms.forbids_stale).map_or(0, seconds);
        let stands_in = |failed: &Call| {
            let window = if failed.status == 0 { terms.if_unreachable } else { terms.if_error };
            let window = window.max(asked);
            window > 0 && past < window || fresh || softened && !known::SOFT_WITH_FAILURES
        };
        if may && self.failures(seen).any(stands_in) {
            return Ok(());
        }
        broken(
            "no response is served for too long",
            format!("call {number}: {now} ms after arrival, fresh for {:?}, softened: {softened}", terms.fresh),
        )
    }
}
