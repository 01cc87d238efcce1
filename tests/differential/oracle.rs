//! The oracle: what may be served, and what must be, from RFC 9110, 9111, 5861, 8246 and 9213 and from what the crate documents.
//! It knows what each field was meant to say; it parses nothing, and calls nothing of the crate.

use super::{
    history::{Call, Cleared, Demand, History, Levels, Rep, Scope, Seen, Sent, Tick},
    known,
    program::{Ask, Body, Directives, Setup, Tags, Varies, Verb},
    routes::{Kind, MAX_BODY},
    shows::is_big,
};

/// What a stored response may be used for. Times are in milliseconds.
pub struct Terms {
    /// Why nobody else may have it.
    pub shared: Result<(), &'static str>,
    /// Its age on arrival, at least and at most.
    pub age: (u64, u64),
    /// How long after its arrival it stays fresh, at least and at most.
    pub fresh: (i64, i64),
    pub while_revalidate: i64,
    pub if_error: i64,
    pub if_unreachable: i64,
    pub forbids_stale: bool,
    pub validate_always: bool,
    pub immutable: bool,
    /// Others may have it though its request had credentials.
    pub open: bool,
}

const SECOND: i64 = 1000;

/// Statuses that may be stored without being told so (RFC 9110, section 15.1), of those that the origin sends.
const BY_DEFAULT: [u16; 8] = [200, 203, 204, 300, 301, 308, 404, 410];

impl Terms {
    pub fn of(history: &History, call: &Call) -> Self {
        let question = &history.sent[call.ask].ask;
        match question.facts().kind {
            Kind::Http => Self::by_http(question, call),
            _ => Self::by_rule(question, call),
        }
    }

    /// `Rule::ttl`: lifetimes count from arrival, and the response can only forbid.
    fn by_rule(question: &Ask, call: &Call) -> Self {
        let (facts, answer) = (question.facts(), &question.answer);
        let ttl = match (answer.ttl, facts.not_found) {
            (Some(ttl), _) => ttl,
            (None, Some(ttl)) if call.status == 404 => ttl,
            _ => facts.ttl,
        };
        let says = &answer.directives;
        let shared = match () {
            () if facts.kind == Kind::Uncovered => Err("no rule covers it"),
            () if says.no_store || says.private || says.no_cache => Err("its Cache-Control forbids it"),
            () if !BY_DEFAULT.contains(&call.status) => Err("its status is not stored"),
            () if ttl == 0 => Err("its lifetime is zero"),
            () => general(question, call),
        };
        let age = call.age * 1000;
        Self {
            shared,
            age: (age, age),
            fresh: (ttl as i64 * SECOND, ttl as i64 * SECOND),
            while_revalidate: facts.while_revalidate as i64 * SECOND,
            if_error: facts.if_error as i64 * SECOND,
            if_unreachable: facts.if_error as i64 * SECOND,
            forbids_stale: false,
            validate_always: false,
            immutable: false,
            open: false,
        }
    }

    /// RFC 9111.
    fn by_http(question: &Ask, call: &Call) -> Self {
        let (facts, answer) = (question.facts(), &question.answer);
        // RFC 9213, section 2.2: an empty one does not count.
        let targeted = answer.targeted.as_ref().filter(|targeted| facts.targeted && **targeted != Directives::default());
        let says: &Directives = targeted.unwrap_or(&answer.directives);
        let expires = answer.expires.filter(|_| targeted.is_none() && answer.bare);
        // RFC 9111, section 4.2.3.
        let took = call.answered.map_or(0, |(_, at)| at - call.began);
        let apparent = answer.dated.unwrap_or_default() * 1000;
        let age = (apparent.max(call.age * 1000), apparent.max(call.age * 1000 + took) + 999);
        let by_default = BY_DEFAULT.contains(&call.status) || call.status == 206 || call.status == 304;
        // Section 4.2.1 and section 4.2.2.
        let stated = says.s_maxage.or(says.max_age).or(expires.map(|after| after.max(0) as u64));
        let life = stated.or_else(|| (by_default || says.public).then_some(facts.ttl)).unwrap_or_default();
        let fresh = match answer.ttl {
            Some(ttl) => (ttl as i64 * SECOND, ttl as i64 * SECOND),
            None => (life as i64 * SECOND - age.1 as i64, life as i64 * SECOND - age.0 as i64),
        };
        let shared = match () {
            () if says.no_store || says.private => Err("its Cache-Control forbids it"),
            () if question.directives.no_store => Err("its request forbids it"),
            () if stated.is_none() && !says.public && !by_default && answer.ttl.is_none() => Err("nothing allows it"),
            () if answer.ttl == Some(0) => Err("its lifetime is zero"),
            () => general(question, call),
        };
        // Section 5.2.2.8 and section 5.2.2.10.
        let forbids_stale = says.must_revalidate || says.proxy_revalidate || says.s_maxage.is_some();
        let window = |stated: Option<u64>, rule: u64| match forbids_stale {
            true => 0,
            false => stated.unwrap_or(rule) as i64 * SECOND,
        };
        Self {
            shared,
            age,
            fresh,
            while_revalidate: window(says.stale_while_revalidate, facts.while_revalidate),
            if_error: window(says.stale_if_error, facts.if_error),
            if_unreachable: match known::STATED_WINDOW_NARROWS {
                true => window(says.stale_if_error, facts.if_error.max(3600)),
                false => window(None, says.stale_if_error.unwrap_or_default().max(3600)),
            },
            forbids_stale,
            validate_always: says.no_cache,
            immutable: says.immutable,
            open: says.public || says.must_revalidate || says.s_maxage.is_some(),
        }
    }
}

/// What holds under every rule.
fn general(question: &Ask, call: &Call) -> Result<(), &'static str> {
    let answer = &question.answer;
    match () {
        () if !question.reads() => Err("it answers a write"),
        // That of a 304 is for who asked alone.
        () if answer.cookie && call.status != 304 => Err("it sets a cookie"),
        () if answer.vary.contains(&Varies::Star) => Err("it varies by what nobody sees"),
        () if answer.forbids => Err("its handler forbids it"),
        () if call.part.is_some() && question.facts().kind != Kind::Http => Err("it is a part"),
        () => Ok(()),
    }
}

/// Whether the two name one resource, for one user where the key says so.
pub fn same_key(setup: &Setup, one: &Ask, other: &Ask) -> bool {
    one.forwarded == other.forwarded && same_target(setup, one, other)
}

/// The same, whatever a proxy says that the client sent: what is invalidated by a key.
fn same_target(setup: &Setup, one: &Ask, other: &Ask) -> bool {
    let same_user = || matches!((one.identity(setup), other.identity(setup)), (Ok(one), Ok(other)) if one == other);
    one.resource() == other.resource() && (!one.facts().identity || same_user())
}

/// Whether credentials keep this response from this request (RFC 9111, section 3.5, and README: what is cached).
pub fn guarded(setup: &Setup, asked: &Ask, made: &Ask, terms: &Terms) -> bool {
    if asked.facts().identity {
        return asked.identity(setup).is_err() || made.identity(setup).is_err();
    }
    let any = asked.user.is_some() || made.user.is_some();
    any && !(asked.facts().kind == Kind::Http && terms.open)
}

/// RFC 9111, section 4.1.
pub fn same_variant(asked: &Ask, made: &Ask) -> bool {
    made.answer.varies().iter().all(|field| match field {
        Varies::Language => asked.language == made.language,
        Varies::Mode => asked.mode == made.mode,
        Varies::Star => false,
    })
}

/// The namespaces of what answers a request.
fn names(setup: &Setup, ask: &Ask) -> Vec<Levels> {
    let facts = ask.facts();
    // What a HEAD freshens keeps the rows of its content, which a HEAD has none of.
    let rows = if ask.verb == Verb::Head { &[] } else { &ask.answer.rows[..] };
    let mut names: Vec<Levels> = rows.iter().map(|row| vec!["row".into(), row.to_string()]).collect();
    if let Some(family) = facts.family {
        let second = match ask.identity(setup) {
            _ if !facts.identity => ask.id.to_string(),
            Ok(Some(user)) => format!("user{user}"),
            _ => "anonymous".into(),
        };
        names.push(vec![family.into(), second]);
    }
    names
}

/// Whether an invalidation concerns what was answered to a request.
pub fn concerns(setup: &Setup, cleared: &Cleared, ask: &Ask) -> bool {
    match &cleared.scope {
        Scope::Uri(resource) => ask.facts().kind == Kind::Http && *resource == ask.resource(),
        Scope::Key(key) => same_target(setup, key, ask),
        Scope::Name(name) => name[0] == "*" || names(setup, ask).iter().any(|own| own.starts_with(name)),
    }
}

/// Whether it may reach that, too: an invalidation may be coarser than it has to be.
fn may_concern(setup: &Setup, cleared: &Cleared, ask: &Ask) -> bool {
    match &cleared.scope {
        Scope::Uri(resource) => (resource.route, resource.id) == ask.thing(),
        Scope::Key(key) => key.thing() == ask.thing(),
        // A user in an odd spelling may be nobody to a handler.
        Scope::Name(name) => concerns(setup, cleared, ask) || ask.facts().identity && name[0] == "u",
    }
}

/// Invalidations of such a kind that a response from a call must not outlive before a request that began then.
pub fn cleared<'a>(setup: &'a Setup, history: &'a History, call: &'a Call, soft: bool, begin: Tick) -> Option<&'a Cleared> {
    let ask = &history.sent[call.ask].ask;
    history.cleared.iter().find(|cleared| {
        let between = call.begin < cleared.commit && cleared.ack.is_some_and(|ack| ack < begin);
        cleared.soft == soft && between && concerns(setup, cleared, ask)
    })
}

/// Whether a tag of `If-None-Match` is that of the response (RFC 9110, section 13.1.2).
pub fn names_tag(sent: &Sent, etag: Option<&str>) -> bool {
    let opaque = |tag: &str| tag.trim_start_matches("W/").to_owned();
    let listed = |tags: &Vec<String>| etag.is_some_and(|etag| tags.iter().any(|tag| opaque(tag) == opaque(etag)));
    sent.ask.tags == Some(Tags::Star) || sent.tags.as_ref().is_some_and(listed)
}

/// What a cache must be good for here: asked while nothing is under way, before the request is sent.
pub fn demand(setup: &Setup, history: &History, ask: &Ask) -> Option<Demand> {
    if ask.verb != Verb::Get
        || !is_plain(ask)
        || ask.user.is_some() && !ask.facts().identity
        || ask.identity(setup).is_err() && ask.facts().identity
    {
        return None;
    }
    let same = |call: &&Call| {
        let made = &history.sent[call.ask].ask;
        same_key(setup, made, ask) && made.language == ask.language && made.mode == ask.mode
    };
    let number = history.calls.iter().rposition(|call| same(&call))?;
    let (call, made) = (&history.calls[number], &history.sent[history.calls[number].ask].ask);
    let terms = Terms::of(history, call);
    let now = history.now as i64;
    let (_, at) = call.answered?;
    let touched = |call: &Call| {
        let concerned =
            |cleared: &&Cleared| may_concern(setup, cleared, made) && cleared.ack.is_none_or(|ack| ack > call.begin);
        history.cleared.iter().any(|cleared| concerned(&cleared))
    };
    let fit = is_kept(history, number, &terms) && !touched(call);
    let fresh_until = at as i64 + terms.fresh.0;
    if fit && now < fresh_until && !terms.validate_always {
        return Some(Demand::Hit(number));
    }
    let until = at as i64 + terms.fresh.1;
    (terms.shared.is_ok() && now >= until && terms.while_revalidate > 0).then_some(Demand::Refresh)
}

/// Whether a request asks for the whole, as everybody does.
pub fn is_plain(ask: &Ask) -> bool {
    let nothing_odd = ask.range.is_none() && ask.if_range.is_none() && !ask.if_match && ask.since.is_none();
    nothing_odd && ask.tags.is_none() && ask.directives == super::program::AskDirectives::default()
}

/// Whether every cache of this kind would have stored what this call answered.
fn is_kept(history: &History, number: usize, terms: &Terms) -> bool {
    let call = &history.calls[number];
    let sent = &history.sent[call.ask];
    let answer = &sent.ask.answer;
    let plain = sent.ask.verb == Verb::Get && is_plain(&sent.ask) && (sent.ask.user.is_none() || sent.ask.facts().identity);
    let whole = matches!(answer.body, Body::Whole | Body::Held) && call.rep.bytes(is_big(&sent.ask)).len() as u64 <= MAX_BODY;
    let read = sent.seen.as_ref().is_some_and(|seen| seen.read && !seen.broken);
    // Another answer of the key may have left another `Vary`, or still be on its way.
    let alone = history.calls.iter().enumerate().all(|(place, other)| {
        let them = &history.sent[other.ask];
        let ended = other.answered.is_some_and(|(answered, _)| {
            let read = |seen: &Seen| seen.read && (answered..call.begin).contains(&seen.end);
            answered < call.begin && (them.ask.answer.body != Body::Held || them.seen.as_ref().is_some_and(read))
        });
        let other_variant = || them.ask.answer.varies() == answer.varies() && !same_variant(&them.ask, &sent.ask);
        let apart = match place < number {
            true => ended && !them.ask.answer.vary.contains(&Varies::Star),
            false => place == number || other_variant(),
        };
        them.ask.resource() != sent.ask.resource() || apart
    });
    plain && whole && read && alone && call.status == 200 && terms.shared.is_ok()
}

/// Whether a whole put together from parts, or one of them, can have these bytes: what is alive of the same thing covers them.
pub fn covered(setup: &Setup, history: &History, (number, call): (usize, &Call), begin: Tick, wanted: (u64, u64)) -> bool {
    let same = |rep: &Rep| *rep == call.rep;
    let mut parts: Vec<(u64, u64)> = history
        .calls
        .iter()
        .enumerate()
        .filter(|(other, part)| {
            *other == number
                || part.etag == call.etag && same(&part.rep) && cleared(setup, history, part, false, begin).is_none()
        })
        .map(|(_, part)| part.part.unwrap_or((0, u64::MAX)))
        .collect();
    parts.sort_unstable();
    let mut reached = wanted.0;
    for (start, end) in parts {
        if start <= reached {
            reached = reached.max(end);
        }
    }
    reached >= wanted.1
}
