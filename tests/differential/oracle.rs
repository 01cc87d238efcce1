//! The oracle: the responses that may be served and that must be served, by RFC 9110, 9111, 5861, 8246 and 9213 and by the crate's
//! documentation. It knows the intended meaning of each field. It parses nothing, and calls nothing of the crate.

use super::{
    history::{Call, Expectation, History, Invalidation, Levels, Received, Representation, Scope, SentRequest, Tick},
    program::{Body, Directives, Method, RequestSpec, Setup, Tags, Varies},
    responses::is_big,
    routes::{Kind, MAX_BODY},
    switches,
};

/// The terms under which a stored response may be reused. Times are in milliseconds.
pub struct Terms {
    /// `Err`: the reason why other requests may not receive it.
    pub shared: Result<(), &'static str>,
    /// The least and the greatest age on arrival.
    pub age: (u64, u64),
    /// The least and the greatest time that it stays fresh after its arrival.
    pub fresh: (i64, i64),
    pub while_revalidate: i64,
    pub if_error: i64,
    pub if_unreachable: i64,
    pub forbids_stale: bool,
    pub validate_always: bool,
    pub immutable: bool,
    /// It may be shared although its request had credentials.
    pub shared_with_credentials: bool,
}

const SECOND: i64 = 1000;

/// The heuristically cacheable statuses (RFC 9110, section 15.1) that the origin sends.
const BY_DEFAULT: [u16; 8] = [200, 203, 204, 300, 301, 308, 404, 410];

impl Terms {
    pub fn of(history: &History, call: &Call) -> Self {
        let spec = &history.requests[call.request].spec;
        match spec.rule().kind {
            Kind::Http => Self::by_http(spec, call),
            _ => Self::by_rule(spec, call),
        }
    }

    /// Returns the terms under `Rule::ttl`: a lifetime starts at arrival, and a response can only prevent storage.
    fn by_rule(spec: &RequestSpec, call: &Call) -> Self {
        let (rule, response) = (spec.rule(), &spec.response);
        let ttl = match (response.ttl, rule.not_found) {
            (Some(ttl), _) => ttl,
            (None, Some(ttl)) if call.status == 404 => ttl,
            _ => rule.ttl,
        };
        let directives = &response.directives;
        let shared = match () {
            () if rule.kind == Kind::Uncovered => Err("no rule covers it"),
            () if directives.no_store || directives.private || directives.no_cache => Err("its Cache-Control forbids it"),
            () if !BY_DEFAULT.contains(&call.status) => Err("its status is not stored"),
            () if ttl == 0 => Err("its lifetime is zero"),
            () => general(spec, call),
        };
        let age = call.age * 1000;
        Self {
            shared,
            age: (age, age),
            fresh: (ttl as i64 * SECOND, ttl as i64 * SECOND),
            while_revalidate: rule.while_revalidate as i64 * SECOND,
            if_error: rule.if_error as i64 * SECOND,
            if_unreachable: rule.if_error as i64 * SECOND,
            forbids_stale: false,
            validate_always: false,
            immutable: false,
            shared_with_credentials: false,
        }
    }

    /// Returns the terms under `Rule::http` (RFC 9111).
    fn by_http(spec: &RequestSpec, call: &Call) -> Self {
        let (rule, response) = (spec.rule(), &spec.response);
        // RFC 9213, section 2.2: an empty field is ignored.
        let targeted = response.targeted.as_ref().filter(|targeted| rule.targeted && **targeted != Directives::default());
        let directives: &Directives = targeted.unwrap_or(&response.directives);
        let expires = response.expires.filter(|_| targeted.is_none() && response.without_validators);
        // RFC 9111, section 4.2.3.
        let took = call.answered.map_or(0, |(_, at)| at - call.began);
        let apparent = response.date_age.unwrap_or_default() * 1000;
        let age = (apparent.max(call.age * 1000), apparent.max(call.age * 1000 + took) + 999);
        let by_default = BY_DEFAULT.contains(&call.status) || call.status == 206 || call.status == 304;
        // Section 4.2.1 and section 4.2.2.
        let stated = directives.s_maxage.or(directives.max_age).or(expires.map(|after| after.max(0) as u64));
        let life = stated.or_else(|| (by_default || directives.public).then_some(rule.ttl)).unwrap_or_default();
        let fresh = match response.ttl {
            Some(ttl) => (ttl as i64 * SECOND, ttl as i64 * SECOND),
            None => (life as i64 * SECOND - age.1 as i64, life as i64 * SECOND - age.0 as i64),
        };
        let shared = match () {
            () if directives.no_store || directives.private => Err("its Cache-Control forbids it"),
            () if spec.directives.no_store => Err("its request forbids it"),
            () if stated.is_none() && !directives.public && !by_default && response.ttl.is_none() => {
                Err("no directive and no status allows it")
            }
            () if response.ttl == Some(0) => Err("its lifetime is zero"),
            () => general(spec, call),
        };
        // Section 5.2.2.8 and section 5.2.2.10.
        let forbids_stale = directives.must_revalidate || directives.proxy_revalidate || directives.s_maxage.is_some();
        let window = |stated: Option<u64>, rule: u64| match forbids_stale {
            true => 0,
            false => stated.unwrap_or(rule) as i64 * SECOND,
        };
        Self {
            shared,
            age,
            fresh,
            while_revalidate: window(directives.stale_while_revalidate, rule.while_revalidate),
            if_error: window(directives.stale_if_error, rule.if_error),
            if_unreachable: match switches::STATED_WINDOW_NARROWS {
                true => window(directives.stale_if_error, rule.if_error.max(3600)),
                false => window(None, directives.stale_if_error.unwrap_or_default().max(3600)),
            },
            forbids_stale,
            validate_always: directives.no_cache,
            immutable: directives.immutable,
            shared_with_credentials: directives.public || directives.must_revalidate || directives.s_maxage.is_some(),
        }
    }
}

/// Checks the conditions that hold under every rule.
fn general(spec: &RequestSpec, call: &Call) -> Result<(), &'static str> {
    let response = &spec.response;
    match () {
        () if !spec.reads() => Err("it answers a write"),
        // The cookie of a 304 concerns only its own request.
        () if response.cookie && call.status != 304 => Err("it sets a cookie"),
        () if response.vary.contains(&Varies::Star) => Err("its Vary is *"),
        () if response.no_store => Err("its handler forbids it"),
        () if call.part.is_some() && spec.rule().kind != Kind::Http => Err("it is a part"),
        () => Ok(()),
    }
}

/// Returns true if the two requests have the same key.
pub fn same_key(setup: &Setup, one: &RequestSpec, other: &RequestSpec) -> bool {
    one.forwarded == other.forwarded && same_target(setup, one, other)
}

/// Returns true if the two requests have the same key apart from forwarded fields. An invalidation by key reaches all of these.
fn same_target(setup: &Setup, one: &RequestSpec, other: &RequestSpec) -> bool {
    let same_user = || matches!((one.identity(setup), other.identity(setup)), (Ok(one), Ok(other)) if one == other);
    one.resource() == other.resource() && (!one.rule().identity || same_user())
}

/// Returns true if credentials prevent sharing between the two requests (RFC 9111, section 3.5, and the crate's documentation).
pub fn has_unkeyed_credentials(setup: &Setup, asked: &RequestSpec, made: &RequestSpec, terms: &Terms) -> bool {
    if asked.rule().identity {
        return asked.identity(setup).is_err() || made.identity(setup).is_err();
    }
    let any = asked.user.is_some() || made.user.is_some();
    any && !(asked.rule().kind == Kind::Http && terms.shared_with_credentials)
}

/// Returns true if the requests select the same variant (RFC 9111, section 4.1).
pub fn same_variant(asked: &RequestSpec, made: &RequestSpec) -> bool {
    made.response.varies().iter().all(|field| match field {
        Varies::Language => asked.language == made.language,
        Varies::Mode => asked.mode == made.mode,
        Varies::Star => false,
    })
}

/// Returns the namespaces of the response to a request.
fn names(setup: &Setup, spec: &RequestSpec) -> Vec<Levels> {
    let rule = spec.rule();
    // A response that a HEAD freshens keeps the rows of its content. A HEAD has no content and no rows.
    let rows = if spec.method == Method::Head { &[] } else { &spec.response.rows[..] };
    let mut names: Vec<Levels> = rows.iter().map(|row| vec!["row".into(), row.to_string()]).collect();
    if let Some(family) = rule.family {
        let second = match spec.identity(setup) {
            _ if !rule.identity => spec.id.to_string(),
            Ok(Some(user)) => format!("user{user}"),
            _ => "anonymous".into(),
        };
        names.push(vec![family.into(), second]);
    }
    names
}

/// Returns true if an invalidation must reach the response to a request.
pub fn concerns(setup: &Setup, invalidation: &Invalidation, spec: &RequestSpec) -> bool {
    match &invalidation.scope {
        Scope::Uri(resource) => spec.rule().kind == Kind::Http && *resource == spec.resource(),
        Scope::Key(key) => same_target(setup, key, spec),
        Scope::Name(name) => name[0] == "*" || names(setup, spec).iter().any(|own| own.starts_with(name)),
    }
}

/// Returns true if an invalidation may reach the response to a request: it may be coarser than required.
fn may_concern(setup: &Setup, invalidation: &Invalidation, spec: &RequestSpec) -> bool {
    match &invalidation.scope {
        Scope::Uri(resource) => (resource.route, resource.id) == spec.item(),
        Scope::Key(key) => key.item() == spec.item(),
        // A handler may not recognise a user in an unusual spelling.
        Scope::Name(name) => concerns(setup, invalidation, spec) || spec.rule().identity && name[0] == "u",
    }
}

/// Returns a hard or soft invalidation that was acknowledged before `begin` and reaches the response of an older call.
pub fn invalidated_by<'a>(
    setup: &'a Setup,
    history: &'a History,
    call: &'a Call,
    soft: bool,
    begin: Tick,
) -> Option<&'a Invalidation> {
    let spec = &history.requests[call.request].spec;
    history.invalidations.iter().find(|invalidation| {
        let between = call.begin < invalidation.commit && invalidation.ack.is_some_and(|ack| ack < begin);
        invalidation.soft == soft && between && concerns(setup, invalidation, spec)
    })
}

/// Returns true if `If-None-Match` matches the response's tag (RFC 9110, section 13.1.2).
pub fn names_tag(sent: &SentRequest, etag: Option<&str>) -> bool {
    let opaque = |tag: &str| tag.trim_start_matches("W/").to_owned();
    let listed = |tags: &Vec<String>| etag.is_some_and(|etag| tags.iter().any(|tag| opaque(tag) == opaque(etag)));
    sent.spec.tags == Some(Tags::Star) || sent.tags.as_ref().is_some_and(listed)
}

/// Returns the required result of a request that is about to be sent while nothing is in progress.
pub fn expectation(setup: &Setup, history: &History, spec: &RequestSpec) -> Option<Expectation> {
    if spec.method != Method::Get
        || !is_plain(spec)
        || spec.user.is_some() && !spec.rule().identity
        || spec.identity(setup).is_err() && spec.rule().identity
    {
        return None;
    }
    let same = |call: &&Call| {
        let made = &history.requests[call.request].spec;
        same_key(setup, made, spec) && made.language == spec.language && made.mode == spec.mode
    };
    let number = history.calls.iter().rposition(|call| same(&call))?;
    let (call, made) = (&history.calls[number], &history.requests[history.calls[number].request].spec);
    let terms = Terms::of(history, call);
    let now = history.now as i64;
    let (_, at) = call.answered?;
    let touched = |call: &Call| {
        let concerned = |invalidation: &&Invalidation| {
            may_concern(setup, invalidation, made) && invalidation.ack.is_none_or(|ack| ack > call.begin)
        };
        history.invalidations.iter().any(|invalidation| concerned(&invalidation))
    };
    let fit = is_stored(history, number, &terms) && !touched(call);
    let fresh_until = at as i64 + terms.fresh.0;
    if fit && now < fresh_until && !terms.validate_always {
        return Some(Expectation::Hit(number));
    }
    let until = at as i64 + terms.fresh.1;
    (terms.shared.is_ok() && now >= until && terms.while_revalidate > 0).then_some(Expectation::Refresh)
}

/// Returns true if a request has no range, condition or directive.
pub fn is_plain(spec: &RequestSpec) -> bool {
    let nothing_odd = spec.range.is_none() && spec.if_range.is_none() && !spec.if_match && spec.since.is_none();
    nothing_odd && spec.tags.is_none() && spec.directives == super::program::RequestDirectives::default()
}

/// Returns true if the response of this call must have been stored.
fn is_stored(history: &History, number: usize, terms: &Terms) -> bool {
    let call = &history.calls[number];
    let sent = &history.requests[call.request];
    let response = &sent.spec.response;
    let plain =
        sent.spec.method == Method::Get && is_plain(&sent.spec) && (sent.spec.user.is_none() || sent.spec.rule().identity);
    let whole = matches!(response.body, Body::Whole | Body::Held)
        && call.representation.bytes(is_big(&sent.spec)).len() as u64 <= MAX_BODY;
    let read = sent.received.as_ref().is_some_and(|received| received.read && !received.broken);
    // Another response of the key may have left another `Vary`, or may still be arriving.
    let alone = history.calls.iter().enumerate().all(|(place, other)| {
        let them = &history.requests[other.request];
        let ended = other.answered.is_some_and(|(answered, _)| {
            let read = |received: &Received| received.read && (answered..call.begin).contains(&received.end);
            answered < call.begin && (them.spec.response.body != Body::Held || them.received.as_ref().is_some_and(read))
        });
        let other_variant = || them.spec.response.varies() == response.varies() && !same_variant(&them.spec, &sent.spec);
        let apart = match place < number {
            true => ended && !them.spec.response.vary.contains(&Varies::Star),
            false => place == number || other_variant(),
        };
        them.spec.resource() != sent.spec.resource() || apart
    });
    plain && whole && read && alone && call.status == 200 && terms.shared.is_ok()
}

/// Returns true if the valid parts of one representation cover these bytes.
pub fn covered(setup: &Setup, history: &History, (number, call): (usize, &Call), begin: Tick, wanted: (u64, u64)) -> bool {
    let same = |representation: &Representation| *representation == call.representation;
    let mut parts: Vec<(u64, u64)> = history
        .calls
        .iter()
        .enumerate()
        .filter(|(other, part)| {
            *other == number
                || part.etag == call.etag
                    && same(&part.representation)
                    && invalidated_by(setup, history, part, false, begin).is_none()
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
