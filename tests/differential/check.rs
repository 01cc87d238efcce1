//! Holds what clients have seen against the oracle.

use bytes::Bytes;
use http::{HeaderMap, header};

use super::{
    history::{Call, Demand, History, Seen, Sent},
    known,
    oracle::{Terms, cleared, covered, guarded, names_tag, same_key, same_variant},
    origin::{CALL, is_big, part},
    program::{Body, Kind, Setup, Verb, Wanted},
};

/// A law that was broken, and how.
#[derive(Clone, Debug)]
pub struct Violation {
    pub law: &'static str,
    pub how: String,
}

type Checked = Result<(), Violation>;

fn broken<T>(law: &'static str, how: impl Into<String>) -> Result<T, Violation> {
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

struct Judge<'a> {
    setup: &'a Setup,
    history: &'a History,
    number: usize,
    sent: &'a Sent,
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
                match known::STALE_ON_ARRIVAL_IS_REFRESHED && old && !self.history.calls.iter().any(again) {
                    true => broken("what is served stale is refreshed", ""),
                    false => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// The bytes are those of what the head says.
    fn content(&self, call: &Call, number: usize, seen: &Seen, status: u16, headers: &HeaderMap) -> Checked {
        let made = &self.history.sent[call.ask].ask;
        let whole = call.rep.bytes(is_big(made));
        let length = headers.get(header::CONTENT_LENGTH).and_then(|line| line.to_str().ok()?.parse::<u64>().ok());
        if self.sent.ask.verb == Verb::Head || status == 304 {
            let stated = length.is_none_or(|length| status != 200 || length == whole.len() as u64);
            return if seen.body.is_empty() && stated {
                Ok(())
            } else {
                broken("HEAD and 304 have no content, and tell its length", format!("{length:?} {:?}", seen.body))
            };
        }
        let expected = match status {
            206 => return self.part(call, number, seen, headers, &whole),
            204 => Bytes::new(),
            _ => whole.clone(),
        };
        if status != 200 && status != call.status {
            return broken("a status is that of the response", format!("{status} for {}", call.status));
        }
        if !expected.starts_with(&seen.body) {
            return broken("a body belongs to its head", format!("{:?} instead of {expected:?}", seen.body));
        }
        let short = seen.body.len() < expected.len();
        let own_short = call.ask == self.number && made.answer.body == Body::Short;
        if seen.read && !seen.broken && short && !own_short {
            return broken(
                "no truncated body is passed off as whole",
                format!("{} of {} bytes", seen.body.len(), expected.len()),
            );
        }
        let may_break = matches!(made.answer.body, Body::Breaks | Body::Short) || call.part.is_some();
        if seen.broken && !may_break {
            return broken("the cache adds no error", "to a body");
        }
        match length {
            Some(length) if length != expected.len() as u64 => broken("Content-Length is the length", format!("{length}")),
            _ if call.part.is_some() && call.ask != self.number => self.parts_live(call, number, (0, whole.len() as u64)),
            _ => Ok(()),
        }
    }

    /// RFC 9110, section 14 and section 15.3.7.
    fn part(&self, call: &Call, number: usize, seen: &Seen, headers: &HeaderMap, whole: &Bytes) -> Checked {
        const LAW: &str = "the bytes of a part are those of the whole";
        let ask = &self.sent.ask;
        let Some(wanted) = ask.range else { return broken("a part answers who asked for one", "") };
        if let Some(tag) = &self.sent.if_range
            && (tag.starts_with("W/") || call.etag.as_ref() != Some(tag))
        {
            return broken("If-Range keeps a part of another thing away", format!("{tag} {:?}", call.etag));
        }
        if seen.broken || !seen.read {
            return Ok(());
        }
        let total = whole.len() as u64;
        let text = |name| headers.get(name).and_then(|line: &http::HeaderValue| line.to_str().ok());
        let slices: Vec<(u64, u64, u64, Bytes)> = match text(header::CONTENT_RANGE) {
            Some(line) => stated(line).map(|(first, end, total)| (first, end, total, seen.body.clone())).into_iter().collect(),
            None => multipart(text(header::CONTENT_TYPE).unwrap_or_default(), &seen.body),
        };
        let wants: Vec<(u64, u64)> = match wanted {
            Wanted::Two(one, two) => vec![(one, one + 1), (two, two + 1)],
            one => part(one, total).into_iter().collect(),
        };
        if slices.is_empty() {
            return broken(LAW, format!("{headers:?}"));
        }
        for (first, end, stated, bytes) in slices {
            let right = stated == total && first < end && end <= total && bytes == whole.slice(first as usize..end as usize);
            let own_short = call.ask == self.number && self.sent.ask.answer.body == Body::Short;
            if !right && !own_short {
                return broken(LAW, format!("{first}-{end}/{stated} of {total}: {bytes:?}"));
            }
            if !wants.iter().any(|want| *want == (first, end))
                && matches!(wanted, Wanted::Two(..)) == text(header::CONTENT_RANGE).is_none()
            {
                return broken("a part is the one that was asked for", format!("{first}-{end} for {wants:?}"));
            }
            if call.part.is_some() && call.ask != self.number {
                self.parts_live(call, number, (first, end))?;
            }
        }
        Ok(())
    }

    fn parts_live(&self, call: &Call, number: usize, wanted: (u64, u64)) -> Checked {
        match covered(self.setup, self.history, (number, call), self.sent.begin, wanted) {
            true => Ok(()),
            false if !known::PARTS_WITH_ROWS => Ok(()),
            false => broken("no response older than an invalidation is served", "parts of it are"),
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
        let lasting = says.min_fresh.is_none_or(|least| -past >= seconds(least));
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

/// `bytes 0-9/100` as its first byte, the byte after its last, and the length of the whole.
fn stated(line: &str) -> Option<(u64, u64, u64)> {
    let (range, total) = line.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse::<u64>().ok()? + 1, total.parse().ok()?))
}

/// The parts of a `multipart/byteranges`; none if it is not one.
fn multipart(kind: &str, body: &Bytes) -> Vec<(u64, u64, u64, Bytes)> {
    let Some((_, boundary)) = kind.split_once("boundary=") else { return Vec::new() };
    let text = String::from_utf8_lossy(body);
    let boundary = format!("--{boundary}");
    let between = text.split(&boundary);
    let read = |part: &str| {
        let (head, content) = part.split_once("\r\n\r\n")?;
        let line = head.lines().find_map(|line| line.strip_prefix("Content-Range: "))?;
        let (first, end, total) = stated(line)?;
        Some((first, end, total, content.strip_suffix("\r\n")?.to_owned().into()))
    };
    between.filter_map(read).collect()
}
