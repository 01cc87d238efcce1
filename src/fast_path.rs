//! The first lookup of a request, without waiting: the fast path for targets that the thread remembers, and the full path for all others.

use std::sync::Arc;

use http::{Method, Request};
use http_body::Body;

use crate::{
    action::{self, Action, Finish, Wanted},
    fill::ongoing::OngoingFill,
    key::{self, Extracted, Identity, KeyRef, KeyWriter, MAX_KEY_LEN, RequestView},
    lookup::{
        self, Lookup,
        classify::{RequestTraits, classify, directives},
        decision::{Decision, decide, decide_entry},
        info::RequestDirectives,
        request::{CacheRequest, LookupMiss, LookupTime, Served},
    },
    rules::{
        RouteMatch,
        policy::{Policy, ReadPlan},
    },
    secret::Secret,
    semantics::{self, CacheControl},
    state::LayerState,
    status::{Bypass, Outcome},
    store::Store,
    target_cache::{self, CachedTarget, HotSlots, Resolution, TargetId},
};

/// Returns the action for a request, as far as it can be known without waiting.
#[inline]
pub(crate) fn first_action<St: Store, R: Body>(shared: &LayerState<St>, request: &Request<R>) -> Action<St> {
    if !shared.options.enabled.is_on() {
        return Action::Finish(disabled(shared, request));
    }
    if shared.options.shadow.is_on() {
        return Action::Shadow;
    }
    if OngoingFill::is_any()
        && let Some(place) = nested_in(shared, request)
    {
        return Action::Finish(nested(shared, request, place));
    }
    match remembered(shared, request) {
        Ok(action) => action,
        Err(chosen) => full_path(shared, request, chosen),
    }
}

/// Returns the action that a cache in shadow mode would take. Each fresh hit is chosen for a comparison.
pub(crate) fn shadowed_action<St: Store, R: Body>(shared: &LayerState<St>, request: &Request<R>) -> Action<St> {
    if OngoingFill::is_any()
        && let Some(place) = nested_in(shared, request)
    {
        return Action::Finish(nested(shared, request, place));
    }
    match shared.rules.find(request.uri(), request.extensions()) {
        None => Action::Finish(Finish::Pass),
        Some(found) => full_path_of(shared, request, &found, Some(Decision::Audit)),
    }
}

/// Returns the last step for a request while caching is turned off.
#[cold]
fn disabled<St: Store, R>(shared: &LayerState<St>, request: &Request<R>) -> Finish<St> {
    match shared.rules.find(request.uri(), request.extensions()) {
        None => Finish::Pass,
        Some(found) => Finish::Forward(Outcome::Bypass(Bypass::Disabled), found.place),
    }
}

/// Returns the place of the rule if the request belongs to the call of a fill of its own key.
#[cold]
#[inline(never)]
fn nested_in<St: Store, R: Body>(shared: &LayerState<St>, request: &Request<R>) -> Option<usize> {
    let place = ongoing(shared, request);
    if place.is_some() || key::is_as_sent(request.uri(), request.extensions()) {
        return place;
    }
    // A layer outside of a nested router sees the whole path, and has another key.
    let mut sent = Request::new(String::new());
    *sent.method_mut() = request.method().clone();
    *sent.uri_mut() = key::uri_as_sent(request.uri(), request.extensions()).clone();
    *sent.headers_mut() = request.headers().clone();
    *sent.extensions_mut() = request.extensions().clone();
    ongoing(shared, &sent)
}

/// Returns the place of the rule if the call of a fill with the key of this request runs on this thread.
fn ongoing<St: Store, R: Body>(shared: &LayerState<St>, request: &Request<R>) -> Option<usize> {
    let found = shared.rules.find(request.uri(), request.extensions())?;
    let context = shared.store.context();
    let mut key = Vec::new();
    write_key(request, &found, &context.secret, &mut key).ok()?;
    (OngoingFill::current() == Some(OngoingFill::of(context, KeyRef::new(&key)))).then_some(found.place)
}

/// Returns the last step for a request of a layer over the same store that is further inside.
#[cold]
fn nested<St: Store, R>(shared: &LayerState<St>, request: &Request<R>, place: usize) -> Finish<St> {
    let context = shared.store.context();
    context.counters.nested(request.uri().path(), context.clock.nanos());
    Finish::Forward(Outcome::Bypass(Bypass::Nested), place)
}

/// Returns the action for a remembered target: a hit, or the query of a store that has to be asked. A request for a range and any other
/// request take the full path. An error has the decision if this hit was chosen to refresh its entry ahead or to be audited; the choice is random, and made once.
#[inline]
fn remembered<St: Store, R: Body>(shared: &LayerState<St>, request: &Request<R>) -> Result<Action<St>, Option<Decision>> {
    let mut chosen = None;
    let action = target_cache::with_known(shared.id, request.uri(), |known, hot| {
        let rule = shared.rules.at(known.rule());
        let traits = &classify(request, rule).ok()?;
        if traits.has_range || !known.is_of(target_id(traits, request)?) {
            return None;
        }
        let is_whole = *request.method() != Method::HEAD && !traits.is_conditional_or_range;
        let target = KnownTarget { rule, known, hot, is_whole, has_credentials: traits.has_credentials };
        match rule.identity_beside_target() {
            _ if rule.has_content_part(traits.content) => target.with_content(shared, request, traits, &mut chosen),
            // The key has the content of another request.
            _ if known.has_content_part() => None,
            Some(identity) => target.identified(shared, request, identity, &mut chosen),
            None => target.action(shared, request, None, &mut chosen),
        }
    });
    action.ok_or(chosen)
}

/// A request for a remembered target.
#[derive(Clone, Copy)]
struct KnownTarget<'a> {
    rule: &'a Arc<Policy>,
    known: &'a CachedTarget,
    hot: &'a HotSlots<'a>,
    /// The request is for the complete response.
    is_whole: bool,
    /// The request has credentials that are not in the key.
    has_credentials: bool,
}

impl KnownTarget<'_> {
    /// Returns the action under a rule whose key ends in the identity of the request.
    #[inline(never)]
    fn identified<St: Store, R>(
        self,
        shared: &LayerState<St>,
        request: &Request<R>,
        identity: &Identity,
        chosen: &mut Option<Decision>,
    ) -> Option<Action<St>> {
        let identity = shared.store.context().secret.identity(identity.stated(request.headers())?);
        let target = Self { has_credentials: false, ..self };
        key::in_scratch(|key| {
            let other = (!self.known.is_of_identity(identity)).then(|| {
                self.known.write_key_of(identity, key);
                KeyRef::new(key)
            });
            target.action(shared, request, other, chosen)
        })
    }

    /// Returns the action under a rule whose key has a part for the content of the request.
    #[inline(never)]
    fn with_content<St: Store, R>(
        self,
        shared: &LayerState<St>,
        request: &Request<R>,
        traits: &RequestTraits<'_>,
        chosen: &mut Option<Decision>,
    ) -> Option<Action<St>> {
        let Self { rule, known, .. } = self;
        let target_part = known.target_part()?;
        let action = key::in_scratch(|key| {
            key.extend_from_slice(target_part);
            let (method, headers, extensions) = (request.method(), request.headers(), request.extensions());
            let mut writer = KeyWriter::new(key, &shared.store.context().secret);
            rule.write_content(method, headers, extensions, traits.content, &mut writer);
            traits.forwarding.write(key);
            let other = (key != known.key().canonical()).then(|| KeyRef::new(key));
            self.action(shared, request, other, chosen)
        })?;
        Some(match traits.is_new_call {
            false => action,
            true => action_of_call(rule, action),
        })
    }

    /// Returns the action for the key of the target, or for `other`, the key of another identity or content.
    #[inline(always)]
    fn action<St: Store, R>(
        self,
        shared: &LayerState<St>,
        request: &Request<R>,
        other: Option<KeyRef<'_>>,
        chosen: &mut Option<Decision>,
    ) -> Option<Action<St>> {
        let Self { rule, known, hot, is_whole, has_credentials } = self;
        let directives = directives(request, rule, has_credentials).ok()?;
        if other.is_none()
            && let Some(response) = known.response()
        {
            match shared.store.still_has(response.entry()) {
                None => known.let_go(),
                Some(validity) => {
                    let now = shared.store.context().clock.nanos();
                    let served = Served { at: now, place: known.rule(), has_queried: false };
                    match decide_entry(response.entry(), validity, rule, directives.as_ref(), now) {
                        Decision::Fresh if is_whole => return Some(Action::Finish(Finish::Hot(response, served))),
                        Decision::Fresh => return Some(Action::Finish(Finish::HotReduced(response, served))),
                        decision @ (Decision::RefreshAhead | Decision::Audit) => {
                            *chosen = Some(decision);
                            return None;
                        }
                        _ => known.let_go(),
                    }
                }
            }
        }
        let key = other.unwrap_or(known.key().as_ref());
        let Some(found) = lookup::found_now(&shared.store, rule, key, request.headers()) else {
            let plan = known.plan().filter(|_| is_whole && other.is_none())?.clone();
            let request = CacheRequest::new(rule, known.key().clone(), plan, request, false, directives.map(Box::new));
            return Some(Action::Wait(Box::new(request)));
        };
        let (entry, validity) = found?;
        let now = shared.store.context().clock.nanos();
        match decide_entry(&entry, validity, rule, directives.as_ref(), now) {
            Decision::Fresh => {
                if other.is_none() {
                    hot.heard(known, &entry);
                }
                let served = Served { at: now, place: known.rule(), has_queried: false };
                Some(Action::Finish(match is_whole {
                    true => Finish::Complete(entry, served),
                    false => Finish::Respond(entry, Outcome::Hit, served),
                }))
            }
            decision => {
                *chosen = Some(decision).filter(|decision| matches!(decision, Decision::RefreshAhead | Decision::Audit));
                None
            }
        }
    }
}

/// Returns the parts of a target that its key depends on, unless the key depends on more.
#[inline]
fn target_id<'a, R>(traits: &'a RequestTraits<'a>, request: &'a Request<R>) -> Option<TargetId<'a>> {
    TargetId::of(request.uri(), request.extensions(), traits.host, &traits.forwarding)
}

/// Finds the rule, writes the key and looks the request up.
#[inline(never)]
fn full_path<St: Store, R: Body>(shared: &LayerState<St>, request: &Request<R>, chosen: Option<Decision>) -> Action<St> {
    let Some(found) = shared.rules.find(request.uri(), request.extensions()) else {
        return Action::Finish(Finish::Pass);
    };
    match found.rule.is_shadow() {
        true => Action::Shadow,
        false => full_path_of(shared, request, &found, chosen),
    }
}

/// Writes the key under a rule, and looks the request up.
#[inline(always)]
fn full_path_of<St: Store, R: Body>(
    shared: &LayerState<St>,
    request: &Request<R>,
    found: &RouteMatch<'_>,
    chosen: Option<Decision>,
) -> Action<St> {
    key::in_scratch(|scratch| look_up(shared, request, found, chosen, scratch))
        .unwrap_or_else(|reason| bypassed(shared, request, found.rule, reason))
}

/// Returns the action for a call by RPC whose deadline is not awaited yet. A complete hit needs no deadline.
fn action_of_call<St: Store>(rule: &Policy, action: Action<St>) -> Action<St> {
    match action {
        hit @ Action::Finish(Finish::Complete(..) | Finish::Hot(..)) if rule.shows_age() => hit,
        Action::Finish(Finish::Complete(entry, served)) => Action::Finish(Finish::Replay(entry, served)),
        Action::Finish(Finish::Hot(response, served)) => Action::Finish(Finish::HotReplay(response, served)),
        action => Action::Call(Box::new(action)),
    }
}

/// Returns the action for a request that the cache cannot answer. The response is 504 if the request accepts a stored response only (RFC
/// 9111, section 5.2.1.7). A request that is not known to be safe goes to the inner service all the same (section 4).
#[cold]
fn bypassed<St: Store, R: Body>(shared: &LayerState<St>, request: &Request<R>, rule: &Policy, reason: Bypass) -> Action<St> {
    if reason == Bypass::RequestBodyUnread {
        let context = shared.store.context();
        context.counters.request_body_unread(rule.route(), context.clock.nanos());
    }
    Action::Finish(match accepts_stored_only(request, rule) {
        true => Finish::OnlyIfCached(rule.place()),
        false => Finish::Forward(Outcome::Bypass(reason), rule.place()),
    })
}

/// Returns true if a request that bypasses the cache gets a 504, because it accepts a stored response only and is known to be safe.
pub(crate) fn accepts_stored_only<R>(request: &Request<R>, rule: &Policy) -> bool {
    let overridden = || request.headers().keys().any(key::overrides_method);
    let is_safe = semantics::is_safe(request.method()) && !overridden();
    rule.http().is_some() && is_safe && CacheControl::of_request(request.headers()).only_if_cached
}

/// A request whose key is written.
struct KeyedRequest<'a> {
    rule: &'a Arc<Policy>,
    traits: RequestTraits<'a>,
    key: KeyRef<'a>,
    /// The key without the forwarding fields: the name by which all entries of the target are invalidated.
    base: KeyRef<'a>,
    /// The key holds an identity.
    is_identified: bool,
    /// The decision, if this hit was chosen to refresh its entry ahead or to be audited.
    chosen: Option<Decision>,
}

/// The parts of a request from which its key was written.
pub(crate) struct WrittenKey<'a> {
    pub(crate) view: RequestView<'a>,
    pub(crate) traits: RequestTraits<'a>,
    /// The length of the key without the forwarding fields.
    pub(crate) base_len: usize,
    /// The key holds an identity.
    pub(crate) is_identified: bool,
    /// The number of hashed parts of the key.
    hashed: usize,
    /// The position of the content part in the key, if it has one.
    content_at: Option<usize>,
}

/// Writes the key of a request, or returns the reason for which the request bypasses the cache.
#[inline(always)]
pub(crate) fn write_key<'a, R: Body>(
    request: &'a Request<R>,
    found: &'a RouteMatch<'_>,
    secret: &'a Secret,
    key: &mut Vec<u8>,
) -> Result<WrittenKey<'a>, Bypass> {
    let RouteMatch { rule, params, .. } = found;
    let traits = classify(request, rule)?;
    if rule.is_ambiguous(params) {
        return Err(Bypass::AmbiguousPath);
    }
    let view = RequestView { body: traits.content, ..RequestView::of(request, params, secret).with_host(traits.host) };
    let mut writer = KeyWriter::new(key, secret);
    if rule.write_key(&view, &mut writer) == Extracted::Bypass {
        return Err(rule.why_bypassed(&view));
    }
    let (is_identified, hashed, content_at) = (writer.identified(), writer.hashed(), writer.target_len());
    let base_len = key.len();
    traits.forwarding.write(key);
    if key.len() > MAX_KEY_LEN {
        return Err(Bypass::KeyTooLong);
    }
    Ok(WrittenKey { view, traits, base_len, is_identified, hashed, content_at })
}

/// Writes the key, looks it up, and remembers the target.
#[inline]
fn look_up<St: Store, R: Body>(
    shared: &LayerState<St>,
    request: &Request<R>,
    found: &RouteMatch<'_>,
    chosen: Option<Decision>,
    scratch: &mut Vec<u8>,
) -> Result<Action<St>, Bypass> {
    let RouteMatch { rule, place, .. } = found;
    let written = write_key(request, found, &shared.store.context().secret, scratch)?;
    let WrittenKey { view, traits, base_len, is_identified, hashed, content_at } = written;
    let key = KeyRef::new(scratch);
    let base = if scratch.len() > base_len { KeyRef::new(&scratch[..base_len]) } else { key };
    let action = decided(shared, request, &KeyedRequest { rule, traits, key, base, is_identified, chosen }, &view)?;
    let can_be_remembered = match rule.identity_beside_target() {
        // A hashed part of the key stands in the target as it was sent.
        None => rule.depends_only_on_target() && hashed == 0,
        // The identity is the last part, and the only hashed one.
        Some(identity) => content_at.is_none() && hashed == 1 && identity.stated(request.headers()).is_some(),
    };
    if can_be_remembered
        && !rule.is_shadow()
        && let Some(target) = target_id(&traits, request)
    {
        remember(shared.id, target, &action, key, KeyParts { rule: *place, base: base_len, content_at });
    }
    Ok(match traits.is_new_call {
        false => action,
        true => action_of_call(rule, action),
    })
}

/// The rule of a key, and the positions of its parts.
#[derive(Clone, Copy)]
struct KeyParts {
    rule: usize,
    /// The position of the forwarding fields.
    base: usize,
    /// The position of the content part, if there is one.
    content_at: Option<usize>,
}

/// Remembers the key of a target, if its action may be the same the next time.
#[inline]
fn remember<St: Store>(layer: u64, target: TargetId<'_>, action: &Action<St>, key: KeyRef<'_>, parts: KeyParts) {
    let KeyParts { rule, base, content_at } = parts;
    match action {
        // The key of the entry is compared faster, unless it is the key of a variant.
        Action::Finish(Finish::Complete(entry, _) | Finish::Respond(entry, Outcome::Hit, _)) => {
            target_cache::remember(layer, target, || {
                let of_entry = entry.key();
                let key = if of_entry.as_ref() == key { of_entry.clone() } else { key.to_owned() };
                Resolution { rule, key, base, content_at, plan: None }
            })
        }
        Action::Wait(request) if request.rule.plans_by_target() => target_cache::remember(layer, target, || {
            let plan = request.plan.clone();
            let plan = ReadPlan { names: plan.names.shared(), ..plan };
            Resolution { rule, key: request.primary.clone(), base, content_at, plan: Some(plan) }
        }),
        _ => {}
    }
}

/// Looks a key up in memory and returns the action that follows.
#[inline]
fn decided<St: Store, R>(
    shared: &LayerState<St>,
    request: &Request<R>,
    keyed: &KeyedRequest<'_>,
    view: &RequestView<'_>,
) -> Result<Action<St>, Bypass> {
    let KeyedRequest { rule, traits, key, base, .. } = *keyed;
    let mut directives = directives(request, rule, traits.has_credentials && !keyed.is_identified)?;
    let (method, headers) = (request.method(), request.headers());
    let cache_request = |directives: &mut Option<RequestDirectives>| {
        // Taken only if there is a value, since it is large.
        let directives = if directives.is_some() { directives.take().map(Box::new) } else { None };
        CacheRequest::new(rule, key.to_owned(), rule.plan(view, base), request, traits.is_conditional_or_range, directives)
    };
    let completions = shared.flights.landings_at(key.hash());
    let Some(lookup) = Lookup::now(&shared.store, rule, key, headers) else {
        return Ok(Action::Wait(Box::new(cache_request(&mut directives))));
    };
    let context = shared.store.context();
    let time = LookupTime { at: context.clock.nanos(), completions, has_queried: false };
    let decision = match decide(lookup.found.as_ref(), rule, directives.as_ref(), time.at) {
        decision @ (Decision::Fresh | Decision::RefreshAhead | Decision::Audit) => keyed.chosen.unwrap_or(decision),
        decision => decision,
    };
    let wanted = Wanted {
        method,
        headers,
        has_range: traits.has_range,
        is_conditional_or_range: traits.is_conditional_or_range,
        by_http: directives.is_some(),
    };
    // The fields of the request are kept if the response can depend on them.
    let missed = |miss: LookupMiss<St>| {
        let keeps =
            traits.is_conditional_or_range || directives.is_some() || miss.varying.is_some() || rule.learned().may_vary();
        let mut missed = cache_request(&mut directives).missed(miss);
        if keeps {
            missed.request.info.keep(headers);
        }
        missed
    };
    Ok(action::after(decision, lookup, time, &wanted, rule.place(), missed))
}
