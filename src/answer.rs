//! What is answered from the store: the look, the decision, the response made of an entry.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};

use crate::{
    body::CacheBody,
    clock::Nanos,
    flight::{Arriving, Shareable},
    key::{self, Key, KeyRef},
    layer::Shared,
    namespace::Namespaces,
    rules::Compiled,
    semantics::{self, Normalise, Precondition, Role, Selected, Vary},
    status::{CacheStatus, Miss, Outcome},
    store::{Content, Entry, Life, Lookup, Secret, Stamp, Store, StoreError},
    tape::Reader,
};

/// What is still needed of a request once the inner service has it: how it was asked, and its fields.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
}

impl Asked {
    pub(crate) fn of<B>(request: &http::Request<B>) -> Self {
        Self { method: request.method().clone(), headers: request.headers().clone() }
    }

    /// A fresh response as the client's own conditions want it: they were not for the inner service to see.
    pub(crate) fn conditional<B>(&self, response: Response<CacheBody<B>>, now: Nanos) -> Response<CacheBody<B>> {
        match wants_not_modified(&self.method, &self.headers, response.status(), response.headers(), now, now) {
            true => not_modified(response.headers(), response.extensions().clone()),
            false => response,
        }
    }
}

/// What the store knows of a request.
pub(crate) struct Look {
    /// A response that may be served, fresh or not.
    pub(crate) found: Option<(Arc<Entry>, Life)>,
    /// Taken before anything else.
    pub(crate) stamp: Stamp,
    /// The fields by which the responses of this key are known to differ, and the key with their values.
    pub(crate) varying: Option<(Vary, Key)>,
}

impl Look {
    /// The look that answers without waiting, if the store can.
    #[inline]
    pub(crate) fn now<St: Store>(store: &St, primary: KeyRef<'_>, headers: &HeaderMap) -> Option<Self> {
        let first = store.get_now(primary)?;
        match Self::varying(store, &first, primary, headers) {
            None => Some(Self { found: first.found, stamp: first.stamp, varying: None }),
            Some(varying) => {
                let second = store.get_now(varying.1.as_ref())?;
                // The older stamp: what it covers is what was looked at first.
                Some(Self { found: second.found, stamp: first.stamp, varying: Some(varying) })
            }
        }
    }

    /// The same, waiting for a store that has to be asked.
    pub(crate) async fn later<St: Store>(
        store: &St,
        primary: KeyRef<'_>,
        headers: &HeaderMap,
        names: &Namespaces,
    ) -> Result<Self, StoreError> {
        let first = store.get(primary, names).await?;
        match Self::varying(store, &first, primary, headers) {
            None => Ok(Self { found: first.found, stamp: first.stamp, varying: None }),
            Some(varying) => {
                let second = store.get(varying.1.as_ref(), names).await?;
                Ok(Self { found: second.found, stamp: first.stamp, varying: Some(varying) })
            }
        }
    }

    /// Nothing known: the store did not answer. What is fetched now is under a stamp that no bump since the beginning has
    /// outlived, so it is not kept if there was one.
    pub(crate) fn nothing() -> Self {
        Self { found: None, stamp: Stamp::default(), varying: None }
    }

    fn varying<St: Store>(store: &St, first: &Lookup, primary: KeyRef<'_>, headers: &HeaderMap) -> Option<(Vary, Key)> {
        let (entry, _) = first.found.as_ref()?;
        let secret = &store.context().secret;
        match entry.content() {
            Content::Response { .. } => None,
            Content::Variants(vary) => Some((vary.clone(), variant_key(secret, primary, vary, headers))),
        }
    }
}

/// The key under which the variant for these request fields is stored (RFC 9111, section 4.1).
///
/// Values that are secrets are in it as a keyed hash of all of them.
pub(crate) fn variant_key(secret: &Secret, primary: KeyRef<'_>, vary: &Vary, headers: &HeaderMap) -> Key {
    let mut selecting = Vec::with_capacity(64);
    vary.write(headers, Normalise::rfc(), &mut selecting);
    let is_secret = |name| key::is_secret(name) || headers.get_all(name).iter().any(HeaderValue::is_sensitive);
    match vary.names().iter().any(is_secret) {
        true => key::secret_variant(primary, &selecting, secret),
        false => key::variant(primary, &selecting),
    }
}

/// What to do with what was found.
pub(crate) enum Decision {
    /// Serve it.
    Fresh(Arc<Entry>),
    /// Serve it, and refresh it in the background: its end is near.
    Early(Arc<Entry>),
    /// Serve it although it is stale, and refresh it in the background.
    Stale(Arc<Entry>),
    /// Ask the inner service; what was found may serve if that fails.
    Ask(Miss, Option<Arc<Entry>>),
}

#[inline]
pub(crate) fn decide(found: Option<(Arc<Entry>, Life)>, rule: &Compiled, now: Nanos) -> Decision {
    let Some((entry, life)) = found else {
        return Decision::Ask(Miss::Absent, None);
    };
    if matches!(entry.content(), Content::Variants(_)) {
        return Decision::Ask(Miss::Absent, None);
    }
    let times = entry.times();
    if life == Life::Alive && now < times.fresh_until {
        return match rule.refresh_early(times.fresh_until - now, times.cost) {
            false => Decision::Fresh(entry),
            true => Decision::Early(entry),
        };
    }
    if now < times.while_revalidate_until && times.while_revalidate_until > times.fresh_until {
        return Decision::Stale(entry);
    }
    let why = if life == Life::Soft { Miss::SoftlyCleared } else { Miss::Expired };
    let spare = now < times.if_error_until && times.if_error_until > times.fresh_until;
    Decision::Ask(why, spare.then_some(entry))
}

/// The response that an entry makes for a request.
#[inline]
pub(crate) fn from_entry<St: Store, B>(
    shared: &Shared<St>,
    entry: &Entry,
    method: &Method,
    fields: &HeaderMap,
    outcome: Outcome,
    now: Nanos,
) -> Response<CacheBody<B>> {
    let Content::Response { status, headers, body, trailers } = entry.content() else {
        unreachable!("a list of variants is never served")
    };
    let times = entry.times();
    let mut response = if wants_not_modified(method, fields, *status, headers, times.born, now) {
        not_modified(headers, http::Extensions::new())
    } else {
        let body = match *method == Method::HEAD {
            true => CacheBody::empty(),
            false => CacheBody::whole(body.clone(), trailers.clone()),
        };
        let mut response = Response::new(body);
        *response.status_mut() = *status;
        *response.headers_mut() = headers.clone();
        if *method == Method::HEAD && !headers.contains_key(header::CONTENT_LENGTH) {
            let length = match entry.content() {
                Content::Response { body, .. } => body.len(),
                Content::Variants(_) => 0,
            };
            response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        }
        response
    };
    set_age(response.headers_mut(), now.saturating_sub(times.born));
    let left = (times.fresh_until as i128 - now as i128).div_euclid(1_000_000_000);
    shared.marked(response, CacheStatus::new(outcome).ttl(left as i64))
}

/// The response that a follower gets of a body still on its way.
pub(crate) fn from_arriving<St: Store, B>(
    shared: &Shared<St>,
    arriving: &Arriving,
    asked: &Asked,
    now: Nanos,
) -> Response<CacheBody<B>> {
    let reader = Reader::new(arriving.tape.clone());
    let mut response = Response::new(CacheBody::following(reader, Some(arriving.length)));
    *response.status_mut() = arriving.status;
    *response.headers_mut() = arriving.headers.clone();
    set_age(response.headers_mut(), now.saturating_sub(arriving.born));
    shared.marked(asked.conditional(response, now), CacheStatus::new(Outcome::Collapsed))
}

/// Whether a follower may have what was fetched for another: the same variant, and nothing that was known only from the
/// response has been cleared meanwhile.
pub(crate) fn may_share<St: Store>(
    store: &St,
    stamp: &Stamp,
    (key, vary, added): (&Key, &Vary, &Namespaces),
    primary: KeyRef<'_>,
    headers: &HeaderMap,
) -> bool {
    let same = match vary.is_empty() {
        true => key.as_ref() == primary,
        false => *key == variant_key(&store.context().secret, primary, vary, headers),
    };
    same && (added.is_empty() || store.life(stamp, added) == Life::Alive)
}

impl Shareable {
    pub(crate) fn terms(&self) -> (&Key, &Vary, &Namespaces) {
        (self.entry.key(), &self.vary, &self.added)
    }
}

impl Arriving {
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
    const MS: Nanos = 1_000_000;
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
fn set_age(headers: &mut HeaderMap, age: Nanos) {
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
    static FIRST: std::sync::OnceLock<Box<[HeaderValue]>> = std::sync::OnceLock::new();
    let first = FIRST.get_or_init(|| (0..60 * MINUTE as u64).map(HeaderValue::from).collect());
    first.get(seconds as usize).cloned().unwrap_or_else(|| HeaderValue::from(seconds))
}

/// The age that a response states; `None` if it states none, or no number (RFC 9111, section 5.1).
pub(crate) fn stated_age(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::AGE)?.to_str().ok()?;
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    // RFC 9111, section 1.2.2: a number too large is 2^31.
    digits.then(|| Duration::from_secs(value.parse().unwrap_or(u64::MAX).min(1 << 31)))
}
