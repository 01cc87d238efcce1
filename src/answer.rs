//! What is answered from the store: the look, the decision, the response made of an entry.

use std::{
    ops::Range,
    sync::{Arc, LazyLock, OnceLock},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};

use crate::{
    body::CacheBody,
    clock::{MS, Nanos},
    flight::{ArrivingResponse, SharedResponse},
    key::{self, Key, KeyRef, KeyWriter},
    layer::LayerState,
    namespace::Namespaces,
    rules::Policy,
    semantics::{self, CacheControl, Failure, Multipart, Precondition, Ranges, Role, Selected, Vary},
    status::{self, CacheStatus, Miss, Outcome},
    store::{Content, Entry, Http, Secret, Stamp, Store, StoreError, StoreLookup, Times, Validity},
};

/// What is still needed of a request once the inner service has it: how it was asked, and its fields.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestInfo {
    pub(crate) method: Method,
    /// Its fields, if they were kept.
    fields: Option<Box<HeaderMap>>,
    /// Whether it may want less than the whole: a part of it, or nothing if it is still the same.
    pub(crate) less: bool,
    /// Present under a rule where HTTP decides.
    pub(crate) http: Option<Box<RequestDirectives>>,
}

/// What a request says to a cache that asks it.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestDirectives {
    pub(crate) directives: CacheControl,
    /// It has credentials that are not in the key.
    pub(crate) guarded: bool,
}

impl RequestDirectives {
    /// Whether it may be answered with this, which another has asked for.
    fn may_have(&self, http: &Http, now: Nanos) -> bool {
        (http.open || !self.guarded) && http.freshness.decide(&self.directives, now / MS) <= semantics::Decision::ServeStale
    }

    /// Whether it is to be asked without regard to others.
    pub(crate) fn goes_alone(&self) -> bool {
        self.directives.no_cache.is_some() || self.directives.no_store
    }
}

impl RequestInfo {
    /// Its fields are still to be [kept](Self::keep).
    #[inline]
    pub(crate) fn of<B>(request: &http::Request<B>, less: bool, http: Option<Box<RequestDirectives>>) -> Self {
        Self { method: request.method().clone(), fields: None, less, http }
    }

    /// Keeps the fields of the request, which goes its way now, unless it has them.
    pub(crate) fn keep<B>(&mut self, request: &http::Request<B>) {
        self.fields.get_or_insert_with(|| Box::new(request.headers().clone()));
    }

    /// All fields of the request, if they were kept: nothing may be stored by what they are where they were not.
    pub(crate) fn headers(&self) -> Option<&HeaderMap> {
        self.fields.as_deref()
    }

    /// Its fields as far as its conditions and its range go: one that has any is always kept.
    pub(crate) fn conditions(&self) -> &HeaderMap {
        static NONE: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);
        self.fields.as_deref().unwrap_or_else(|| {
            debug_assert!(!self.less);
            &NONE
        })
    }

    /// Whether a stale response may stand in for a failure (RFC 9111, section 4.2.4; RFC 5861, section 4).
    pub(crate) fn may_have_instead(&self, entry: &Entry, life: Validity, failure: Failure, now: Nanos) -> bool {
        match (entry.http(), &self.http) {
            (Some(http), Some(asked)) => {
                (http.open || !asked.guarded) && http.freshness(life, now).stands_in(failure, &asked.directives, now / MS)
            }
            (None, None) => entry.times().may_stand_in(now),
            // It was stored under another rule.
            _ => false,
        }
    }

    /// Whether it may be answered with what another has fetched just now.
    pub(crate) fn may_have(&self, http: Option<&Http>, now: Nanos) -> bool {
        match (&self.http, http) {
            (Some(asked), Some(http)) => asked.may_have(http, now),
            (None, None) => true,
            _ => false,
        }
    }

    /// A fresh response as the client's own conditions want it: they were not for the inner service to see.
    pub(crate) fn conditional<B>(&self, response: Response<CacheBody<B>>, now: Nanos) -> Response<CacheBody<B>> {
        if !self.less {
            return response;
        }
        match wants_not_modified(&self.method, self.conditions(), response.status(), response.headers(), now, now) {
            true => not_modified(response.headers(), response.extensions().clone()),
            false => response,
        }
    }
}

/// What the store knows of a request.
pub(crate) struct Lookup {
    /// A response that may be served, fresh or not.
    pub(crate) found: Option<(Arc<Entry>, Validity)>,
    /// Taken before anything else.
    pub(crate) stamp: Stamp,
    /// The fields by which the responses of this key are known to differ, and the key with their values.
    pub(crate) varying: Option<(Vary, Key)>,
}

/// The response that the store finds at once for a request. Without a stamp, so that it can be answered with, or nothing. `None` if the
/// store has to be asked.
#[inline]
pub(crate) fn found_now<St: Store>(
    store: &St,
    rule: &Policy,
    primary: KeyRef<'_>,
    headers: &HeaderMap,
) -> Option<Option<(Arc<Entry>, Validity)>> {
    let Some((entry, life)) = store.get_now(primary)?.found else { return Some(None) };
    match entry.content() {
        Content::Response { .. } => Some(Some((entry, life))),
        Content::Variants(vary) => {
            with_variant(rule, &store.context().secret, primary, vary, headers, |key| Some(response(store.get_now(key)?.found)))
        }
    }
}

/// What was found under a variant's key, if it is a response. Stored bytes may say that it is a list of variants once more.
#[inline]
fn response(found: Option<(Arc<Entry>, Validity)>) -> Option<(Arc<Entry>, Validity)> {
    found.filter(|(entry, _)| matches!(entry.content(), Content::Response { .. }))
}

impl Lookup {
    /// The look that answers without waiting, if the store can.
    #[inline]
    pub(crate) fn now<St: Store>(store: &St, rule: &Policy, primary: KeyRef<'_>, headers: &HeaderMap) -> Option<Self> {
        let first = store.get_now(primary)?;
        match Self::varying(store, rule, &first, primary, headers) {
            None => Some(Self { found: first.found, stamp: first.stamp, varying: None }),
            Some(varying) => {
                let mut second = store.get_now(varying.1.as_ref())?;
                if second.found.is_none()
                    && let Some(key) = preferred_key(rule, &store.context().secret, primary, &varying.0, headers)
                {
                    second = store.get_now(key.as_ref())?;
                }
                // The older stamp: what it covers is what was looked at first.
                Some(Self { found: response(second.found), stamp: first.stamp, varying: Some(varying) })
            }
        }
    }

    /// The same, waiting for a store that has to be asked.
    pub(crate) async fn later<St: Store>(
        store: &St,
        rule: &Policy,
        primary: KeyRef<'_>,
        headers: &HeaderMap,
        names: &Namespaces,
    ) -> Result<Self, StoreError> {
        let first = store.get_up_to(primary, names, rule.max_body()).await?;
        match Self::varying(store, rule, &first, primary, headers) {
            None => Ok(Self { found: first.found, stamp: first.stamp, varying: None }),
            // In a box, so that not every look is as large.
            Some(varying) => Box::pin(Self::variant(store, rule, first.stamp, varying, primary, headers, names)).await,
        }
    }

    /// The look at the variant for these fields, after that at what says by which of them there are variants.
    async fn variant<St: Store>(
        store: &St,
        rule: &Policy,
        stamp: Stamp,
        varying: (Vary, Key),
        primary: KeyRef<'_>,
        headers: &HeaderMap,
        names: &Namespaces,
    ) -> Result<Self, StoreError> {
        let mut second = store.get_up_to(varying.1.as_ref(), names, rule.max_body()).await?;
        if second.found.is_none()
            && let Some(key) = preferred_key(rule, &store.context().secret, primary, &varying.0, headers)
        {
            second = store.get_up_to(key.as_ref(), names, rule.max_body()).await?;
        }
        Ok(Self { found: response(second.found), stamp, varying: Some(varying) })
    }

    /// Nothing known: the store did not answer. What is fetched now is under a stamp that no bump since the beginning has
    /// outlived, so it is not kept if there was one.
    pub(crate) fn nothing() -> Self {
        Self { found: None, stamp: Stamp::default(), varying: None }
    }

    fn varying<St: Store>(
        store: &St,
        rule: &Policy,
        first: &StoreLookup,
        primary: KeyRef<'_>,
        headers: &HeaderMap,
    ) -> Option<(Vary, Key)> {
        let (entry, _) = first.found.as_ref()?;
        let secret = &store.context().secret;
        match entry.content() {
            Content::Response { .. } => None,
            Content::Variants(vary) => Some((vary.clone(), variant_key(rule, secret, primary, vary, headers))),
        }
    }
}

/// The key under which the variant for these request fields is stored (RFC 9111, section 4.1).
pub(crate) fn variant_key(rule: &Policy, secret: &Secret, primary: KeyRef<'_>, vary: &Vary, headers: &HeaderMap) -> Key {
    with_variant(rule, secret, primary, vary, headers, |key| key.to_owned())
}

/// Does something with that key.
#[inline]
fn with_variant<T>(
    rule: &Policy,
    secret: &Secret,
    primary: KeyRef<'_>,
    vary: &Vary,
    headers: &HeaderMap,
    then: impl FnOnce(KeyRef<'_>) -> T,
) -> T {
    key::in_scratch(|canonical| {
        key::begin_variant(primary, canonical);
        write_selecting(rule, secret, vary, headers, canonical, |selecting| vary.write(headers, rule.normalise(), selecting));
        then(KeyRef::new(canonical))
    })
}

/// The key under which a variant in this language is stored besides, if the rule has languages selected.
pub(crate) fn language_key(
    rule: &Policy,
    secret: &Secret,
    primary: KeyRef<'_>,
    vary: &Vary,
    headers: &HeaderMap,
    language: impl FnOnce() -> Option<Vec<u8>>,
) -> Option<Key> {
    if !vary.selects(rule.normalise()) {
        return None;
    }
    let language = language()?;
    let mut canonical = Vec::with_capacity(primary.canonical().len() + 64);
    key::begin_variant(primary, &mut canonical);
    write_selecting(rule, secret, vary, headers, &mut canonical, |selecting| {
        vary.write_selected(headers, &language, rule.normalise(), selecting);
    });
    Some(Key::new(canonical))
}

/// That of the language which a request prefers to all others.
fn preferred_key(rule: &Policy, secret: &Secret, primary: KeyRef<'_>, vary: &Vary, headers: &HeaderMap) -> Option<Key> {
    language_key(rule, secret, primary, vary, headers, || semantics::preferred_language(headers))
}

/// Writes the fields that select a variant; if some of them are secrets, as a keyed hash of them all.
#[inline]
fn write_selecting(
    rule: &Policy,
    secret: &Secret,
    vary: &Vary,
    headers: &HeaderMap,
    canonical: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>),
) {
    let is_secret = |name| rule.fields().is_secret(name) || headers.get_all(name).iter().any(HeaderValue::is_sensitive);
    if !vary.names().iter().any(is_secret) {
        return write(canonical);
    }
    let mut selecting = Vec::with_capacity(64);
    write(&mut selecting);
    KeyWriter::new(canonical, secret).secret(selecting);
}

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

/// Nothing but a stored response was wanted (RFC 9111, section 5.2.1.7).
pub(crate) fn only_if_cached<St: Store, B>(shared: &LayerState<St>) -> Response<CacheBody<B>> {
    let mut response = Response::new(CacheBody::empty());
    *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
    shared.marked(response, CacheStatus::new(Outcome::OnlyIfCached))
}

/// The response that an entry makes for a request.
#[inline]
pub(crate) fn from_entry<St: Store, B>(
    shared: &LayerState<St>,
    entry: &Entry,
    method: &Method,
    fields: &HeaderMap,
    outcome: Outcome,
    now: Nanos,
) -> Response<CacheBody<B>> {
    from_entry_as(shared, entry, method, fields, CacheStatus::new(outcome), now)
}

/// The same, with more to say of it.
#[inline]
pub(crate) fn from_entry_as<St: Store, B>(
    shared: &LayerState<St>,
    entry: &Entry,
    method: &Method,
    fields: &HeaderMap,
    status_of: CacheStatus,
    now: Nanos,
) -> Response<CacheBody<B>> {
    let Content::Response { status, headers, body, trailers } = entry.content() else {
        unreachable!("a list of variants is never served")
    };
    let times = entry.times();
    let mut response = if wants_not_modified(method, fields, *status, headers, times.born, now) {
        not_modified(headers, http::Extensions::new())
    } else if let Some(part) = part(method, fields, entry, now) {
        part
    } else {
        let body = match *method == Method::HEAD {
            true => CacheBody::empty(),
            false => CacheBody::whole(body.clone(), trailers.clone()),
        };
        let mut response = Response::new(body);
        *response.status_mut() = *status;
        *response.headers_mut() = headers.clone();
        // RFC 9110, section 8.6: the length that a GET would be answered with, and a 204 has none to state.
        let stated = *status != StatusCode::NO_CONTENT && trailers.is_none() && !headers.contains_key(header::CONTENT_LENGTH);
        if *method == Method::HEAD && stated {
            let length = match entry.content() {
                Content::Response { body, .. } => body.len(),
                Content::Variants(_) => 0,
            };
            response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        }
        response
    };
    finish(shared, &mut response, times, status_of, now);
    response
}

/// The whole response, for a GET that asks for nothing less.
#[inline]
pub(crate) fn from_whole<St: Store, B>(
    shared: &LayerState<St>,
    entry: &Entry,
    status_of: CacheStatus,
    now: Nanos,
) -> Response<CacheBody<B>> {
    let Content::Response { status, headers, body, trailers } = entry.content() else {
        unreachable!("a list of variants is never served")
    };
    whole_of(shared, (*status, headers, body), trailers.clone(), entry.times(), status_of, now)
}

/// The same, of its parts.
#[inline]
pub(crate) fn whole_of<St: Store, B>(
    shared: &LayerState<St>,
    (status, headers, body): (StatusCode, &HeaderMap, &Bytes),
    trailers: Option<Box<HeaderMap>>,
    times: &Times,
    status_of: CacheStatus,
    now: Nanos,
) -> Response<CacheBody<B>> {
    let mut response = Response::new(CacheBody::whole(body.clone(), trailers));
    *response.status_mut() = status;
    *response.headers_mut() = headers.clone();
    finish(shared, &mut response, times, status_of, now);
    response
}

/// The same of an entry that is let go: where nobody else has it, nothing of it is copied.
pub(crate) fn from_last<St: Store, B>(
    shared: &LayerState<St>,
    mut entry: Arc<Entry>,
    status_of: CacheStatus,
    now: Nanos,
) -> Response<CacheBody<B>> {
    let Some((status, headers, body, trailers)) = Arc::get_mut(&mut entry).and_then(Entry::take_response) else {
        return from_whole(shared, &entry, status_of, now);
    };
    let mut response = Response::new(CacheBody::whole(body, trailers));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    finish(shared, &mut response, entry.times(), status_of, now);
    response
}

/// What every response from the store is given: its age, and what its owner wants to see on it.
#[inline]
fn finish<St: Store, B>(
    shared: &LayerState<St>,
    response: &mut Response<CacheBody<B>>,
    times: &Times,
    status_of: CacheStatus,
    now: Nanos,
) {
    set_age(response.headers_mut(), now.saturating_sub(times.born));
    shared.mark(response, || status_of.until(times.fresh_until, now));
}

/// The part that a request asks for, cut out of a stored whole (RFC 9110, section 14); `None` if the whole answers.
#[inline]
fn part<B>(method: &Method, fields: &HeaderMap, entry: &Entry, now: Nanos) -> Option<Response<CacheBody<B>>> {
    if !fields.contains_key(header::RANGE) {
        return None;
    }
    let Content::Response { status, headers, body, .. } = entry.content() else { return None };
    let length = body.len() as u64;
    let slice = |part: &Range<u64>| body.slice(part.start as usize..part.end as usize);
    let selected = Selected { status: *status, headers, received: entry.times().born / MS };
    let (status, headers, body) = match semantics::select_ranges(method, fields, &selected, length, now / MS) {
        Ranges::Whole => return None,
        Ranges::Single(part) => (StatusCode::PARTIAL_CONTENT, semantics::partial_headers(headers, &part, length), slice(&part)),
        Ranges::Multiple(parts) => {
            // RFC 2046, section 5.1.1: it must not occur in the content, and nobody can foresee this one.
            let boundary = format!("{:032x}", fastrand::u128(..));
            let multipart = Multipart::new(headers, &parts, length, &boundary);
            let mut content = Vec::new();
            for part in &parts {
                content.extend_from_slice(&multipart.head(part));
                content.extend_from_slice(&slice(part));
            }
            content.extend_from_slice(&multipart.end());
            (StatusCode::PARTIAL_CONTENT, multipart.headers(headers), content.into())
        }
        Ranges::NotSatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, semantics::unsatisfiable_headers(length), Bytes::new()),
    };
    let mut response = Response::new(CacheBody::whole(body, None));
    (*response.status_mut(), *response.headers_mut()) = (status, headers);
    Some(response)
}

/// The response that a follower gets of a body still on its way; `None` if its beginning is gone, since it has grown too large.
pub(crate) fn from_arriving<St: Store, B>(
    shared: &LayerState<St>,
    arriving: &ArrivingResponse,
    asked: &RequestInfo,
    now: Nanos,
) -> Option<Response<CacheBody<B>>> {
    let mut response = Response::new(CacheBody::coming(arriving.tape.reader()?, arriving.length));
    *response.status_mut() = arriving.status;
    *response.headers_mut() = arriving.headers.clone();
    set_age(response.headers_mut(), now.saturating_sub(arriving.born));
    Some(shared.marked(asked.conditional(response, now), CacheStatus::new(Outcome::Collapsed)))
}

/// Whether a follower may have what was fetched for another: the same variant, and nothing that was known only from the
/// response has been cleared meanwhile.
pub(crate) fn may_share<St: Store>(
    store: &St,
    stamp: &Stamp,
    rule: &Policy,
    (key, vary, added): (&Key, &Vary, &Namespaces),
    primary: KeyRef<'_>,
    asked: &RequestInfo,
) -> bool {
    let variant = |headers| variant_key(rule, &store.context().secret, primary, vary, headers);
    let same = match vary.is_empty() {
        true => key.as_ref() == primary,
        false => asked.headers().is_some_and(|headers| *key == variant(headers)),
    };
    same && (added.is_empty() || store.life(stamp, added) == Validity::Valid)
}

impl SharedResponse {
    /// The only response of its key, of which everything was known from the request.
    pub(crate) fn alone(entry: Arc<Entry>) -> Self {
        Self { entry, vary: Vary::default(), added: Namespaces::default() }
    }

    pub(crate) fn terms(&self) -> (&Key, &Vary, &Namespaces) {
        (self.entry.key(), &self.vary, &self.added)
    }
}

impl ArrivingResponse {
    pub(crate) fn terms(&self) -> (&Key, &Vary, &Namespaces) {
        (&self.key, &self.vary, &self.added)
    }
}

#[inline]
fn wants_not_modified(
    method: &Method,
    request: &HeaderMap,
    status: StatusCode,
    stored: &HeaderMap,
    received: Nanos,
    now: Nanos,
) -> bool {
    if !request.contains_key(header::IF_NONE_MATCH) && !request.contains_key(header::IF_MODIFIED_SINCE) {
        return false;
    }
    let selected = Selected { status, headers: stored, received: received / MS };
    semantics::evaluate(method, request, &selected, Role::Cache, now / MS) == Precondition::NotModified
}

fn not_modified<B>(headers: &HeaderMap, extensions: http::Extensions) -> Response<CacheBody<B>> {
    let mut response = Response::new(CacheBody::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    *response.headers_mut() = semantics::not_modified_headers(headers);
    *response.extensions_mut() = extensions;
    response
}

/// RFC 9111, section 5.1. A finished header map has its slot in front; elsewhere it is looked for.
#[inline]
pub(crate) fn set_age(headers: &mut HeaderMap, age: Nanos) {
    let age = age_value(age / 1_000_000_000);
    match headers.iter_mut().next() {
        Some((name, slot)) if *name == header::AGE => *slot = age,
        _ => {
            headers.insert(header::AGE, age);
        }
    }
}

fn age_value(seconds: u64) -> HeaderValue {
    const MINUTE: usize = 60;
    static FIRST: OnceLock<Box<[HeaderValue]>> = OnceLock::new();
    let first = FIRST.get_or_init(|| status::values((0..60 * MINUTE).map(|seconds| seconds.to_string())));
    first.get(seconds as usize).cloned().unwrap_or_else(|| HeaderValue::from(seconds))
}
