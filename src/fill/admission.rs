//! Admission: the decision to store a response, and its entry's key, namespaces and times.

use std::{borrow::Cow, time::Duration};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header, response};

use super::Fill;
use crate::{
    clock::{MS, nanos},
    entry::{
        header_template::{HeaderKind, is_event_stream, length_in},
        stored_headers::{StoredHeaders, stored_map},
        times::{Http, Times},
    },
    extensions::CachePolicy,
    key::{Key, MAX_KEY_LEN},
    lookup::{partial, request::CacheRequest, variant},
    namespace::set::{MAX_NAMES, Namespaces},
    rules::{end_check::Unread, http::HttpOptions},
    semantics::{self, CacheControl, ETag, Exchange, ExchangeTimes, Freshness, SharedRules, Vary},
    status::NoStore,
    store::Store,
};

/// The maximum number of request fields in `Vary`.
const MOST_VARYING: usize = 8;

/// The head of a response that may be stored.
pub(crate) struct Admission {
    pub(super) key: Key,
    /// A second key, for requests that prefer the language of the response.
    pub(super) language: Option<Key>,
    pub(super) status: StatusCode,
    /// `Content-Length`. A body of another length is not stored.
    pub(super) announced: Option<u64>,
    /// The header fields of hits.
    pub(super) headers: StoredHeaders,
    pub(super) vary: Vary,
    /// Present if the response named namespaces.
    pub(super) named: Option<Box<ResponseNamespaces>>,
    pub(super) times: Times,
    pub(super) http: Option<Box<Http>>,
}

/// The namespaces of a response that named some.
pub(crate) struct ResponseNamespaces {
    pub(super) all: Namespaces,
    /// The namespaces that only the response named.
    pub(super) added: Namespaces,
}

impl ResponseNamespaces {
    /// Splits the namespaces into those known from the request and those that only the response named.
    pub(super) fn new(known: &Namespaces, all: Namespaces) -> Box<Self> {
        Box::new(Self { added: all.since(known.count()), all })
    }
}

impl Admission {
    /// Returns the namespaces that only the response named, if there are any.
    pub(super) fn added(&self) -> Option<&Namespaces> {
        self.named.as_ref().map(|named| &named.added).filter(|added| !added.is_empty())
    }
}

type Lifetimes = (Times, Option<Box<Http>>);

impl<St: Store> Fill<St> {
    /// Decides to store a response, or returns the reason against it. The body has at least `least` bytes.
    pub(super) fn fit(&self, parts: &response::Parts, least: u64, hints: Option<&CachePolicy>) -> Result<Admission, NoStore> {
        let rule = &self.request.rule;
        if hints.is_some_and(CachePolicy::forbids) || rule.forbids_storing(parts.status, &parts.headers) {
            return Err(NoStore::NoStore);
        }
        if let Some(unread) = self.request.plan.end.as_ref().and_then(|end| end.unread.as_ref()) {
            self.warn_of_unread(unread);
            return Err(unread.reason);
        }
        if parts.status == StatusCode::PARTIAL_CONTENT && rule.checks_responses() {
            return Err(NoStore::Partial);
        }
        let tells = self.shared.options.cache_status.is_some();
        let seen = HeaderScan::of(&parts.headers);
        rule.learned().record_response(seen.varies || seen.negotiated);
        let options = rule.http();
        let control = match options {
            Some(options) => Some(semantics::response_directives(&parts.headers, &options.targets)),
            None if seen.lines > 1 => Some(CacheControl::of(&parts.headers)),
            None => seen
                .directives
                .map(HeaderValue::as_bytes)
                .filter(|line| semantics::may_restrict_storing(line))
                .map(CacheControl::of_line),
        };
        let (times, http) = match options {
            None => self.by_rule(parts, &seen, control.as_ref(), hints)?,
            Some(options) => {
                self.by_http(options, parts, &seen, control.as_ref().unwrap_or(&CacheControl::default()), hints)?
            }
        };
        let max = self.request.rule.max_body();
        let announced = seen.announced();
        if least.max(announced.unwrap_or(0)) > max as u64 {
            return Err(NoStore::TooLarge);
        }
        let (vary, key) = match parts.status {
            StatusCode::PARTIAL_CONTENT => (Vary::default(), self.part_key(&parts.headers)?),
            _ if seen.varies || seen.negotiated => self.variant(self.vary_of(&parts.headers))?,
            _ => self.variant(Vary::default())?,
        };
        if seen.negotiated {
            self.note_coding(&parts.headers);
        }
        let language = self.language_key(&vary, &parts.headers);
        let named =
            self.named(parts.status, &parts.headers, hints)?.map(|all| ResponseNamespaces::new(&self.request.plan.names, all));
        let strips = |control: &CacheControl| control.private.is_some() || control.no_cache.is_some();
        let is_plain = !control.as_ref().is_some_and(strips) && !self.shared.options.content_length;
        let compact = is_plain.then(|| rule.learned().template().compact(&parts.headers, tells)).flatten();
        let headers = compact.unwrap_or_else(|| self.stored_headers(&parts.headers, &seen, control).into());
        Ok(Admission { key, language, status: parts.status, announced, headers, vary, named, times, http })
    }

    /// Records a response with a content coding that does not state that it varies by it.
    #[cold]
    fn note_coding(&self, headers: &HeaderMap) {
        let stated = Vary::of(headers);
        let is_coded = Vary::negotiated(None, headers).names().contains(&header::ACCEPT_ENCODING);
        if is_coded && !stated.is_star() && !stated.names().contains(&header::ACCEPT_ENCODING) {
            self.request.rule.learned().record_coding_without_vary();
        }
    }

    /// Returns the header fields of hits for a response whose fields differ from those of most responses of its rule.
    #[inline(never)]
    fn stored_headers(&self, headers: &HeaderMap, seen: &HeaderScan<'_>, control: Option<CacheControl>) -> HeaderMap {
        let control = control.unwrap_or_default();
        let mut headers = Cow::Borrowed(headers);
        if seen.hops || control.private.is_some() || control.no_cache.is_some() {
            semantics::strip_for_storing(headers.to_mut(), &control);
        }
        let options = &self.shared.options;
        let tells = options.cache_status.is_some();
        let finished = stored_map(&headers, tells, usize::from(options.content_length));
        self.request.rule.learned().template().take(&finished, tells);
        finished
    }

    /// Returns the namespaces known from the request and those of the response, if the response names any.
    fn named(
        &self,
        status: StatusCode,
        response: &HeaderMap,
        hints: Option<&CachePolicy>,
    ) -> Result<Option<Namespaces>, NoStore> {
        let hinted = hints.map_or(&[][..], CachePolicy::namespaces);
        if hinted.is_empty() && self.request.plan.named_by.is_none() && !self.request.plan.names.are_too_many() {
            return Ok(None);
        }
        let fields = self.request.plan.named_by.as_deref();
        let matching = || self.request.rule.response_rule(status, response).map(|(number, _)| number);
        let named = match fields.map(|fields| fields.names_in(response, matching())).transpose() {
            Ok(named) => named.unwrap_or_default(),
            Err(error) => {
                self.warn_of_unread(&Unread { reason: NoStore::Namespaces, error: error.to_string() });
                return Err(NoStore::Namespaces);
            }
        };
        let known = &self.request.plan.names;
        let mut names = None;
        for name in hinted.iter().chain(&named) {
            let names = names.get_or_insert_with(|| known.clone());
            names.push(name.as_str());
            if names.len() > MAX_NAMES {
                break;
            }
        }
        let all = names.as_ref().unwrap_or(known);
        self.check_count(all)?;
        Ok(names)
    }

    /// Returns an error for more namespaces than an entry may have.
    pub(super) fn check_count(&self, names: &Namespaces) -> Result<(), NoStore> {
        if !names.are_too_many() {
            return Ok(());
        }
        let (route, context) = (self.request.rule.route(), self.shared.store.context());
        context.counters.too_many_namespaces(route, names.named(), context.clock.nanos());
        Err(NoStore::Namespaces)
    }

    /// Returns the lifetimes of a response under a rule that sets them.
    fn by_rule(
        &self,
        parts: &response::Parts,
        seen: &HeaderScan<'_>,
        control: Option<&CacheControl>,
        hints: Option<&CachePolicy>,
    ) -> Result<Lifetimes, NoStore> {
        match seen.cookies || seen.varies {
            true => semantics::safe_to_store(parts.status, &parts.headers, control.unwrap_or(&CacheControl::default())),
            false => semantics::safe_status_and_directives(parts.status, seen.range, control),
        }
        .map_err(no_store)?;
        if seen.is_event_stream() {
            return Err(NoStore::EventStream);
        }
        let ttl = self.request.rule.lifetime(&self.request.plan, parts).ok_or(NoStore::Status)?;
        let ttl = hints.and_then(CachePolicy::lifetime).map_or(ttl, |ttl| self.request.rule.jittered(ttl));
        if ttl.is_zero() {
            return Err(NoStore::Lifetime);
        }
        Ok((self.times(ttl, seen.age), None))
    }

    /// Returns the lifetimes of a response under a rule where HTTP decides (RFC 9111, section 3 and section 4.2).
    fn by_http(
        &self,
        options: &HttpOptions,
        parts: &response::Parts,
        seen: &HeaderScan<'_>,
        control: &CacheControl,
        hints: Option<&CachePolicy>,
    ) -> Result<Lifetimes, NoStore> {
        let (status, response) = (parts.status, &parts.headers);
        let stated = control.s_maxage.is_some()
            || control.max_age.is_some()
            || !control.targeted && response.contains_key(header::EXPIRES);
        let by_rule = || self.request.rule.own_lifetime(status, response).filter(|_| !stated);
        let own = hints.and_then(CachePolicy::lifetime).or_else(by_rule);
        if own.is_some_and(|own| own.is_zero()) {
            return Err(NoStore::Lifetime);
        }
        let rules = SharedRules {
            has_default_lifetime: options.fills_silence(),
            // Checked below, for cookies as well.
            identity_in_key: true,
            store_partial: partial::asks_for_one(&self.request.info.method, self.request.info.conditions()),
            ..SharedRules::default()
        };
        let request = self.request.info.headers().ok_or(NoStore::Vary)?;
        let exchange = Exchange { method: &Method::GET, request, status, response };
        match semantics::shared_storable(&exchange, control, rules) {
            Err(semantics::NoStore::NotAllowed | semantics::NoStore::NothingToReuse) if own.is_some() => {}
            other => other.map_err(no_store)?,
        }
        let open = control.public || control.must_revalidate || control.s_maxage.is_some();
        if !open && self.request.info.directives.as_ref().is_some_and(|asked| asked.has_unkeyed_credentials) {
            return Err(NoStore::Authorization);
        }
        if seen.is_event_stream() {
            return Err(NoStore::EventStream);
        }
        let now = self.answered;
        // Dates in the response count by the wall clock. The times of the entry count by the store's clock.
        let at = ExchangeTimes { requested: self.wall_at(self.began) / MS, received: self.wall_at(now) / MS };
        let (while_revalidate, if_error) = self.request.rule.windows();
        let rules = options.freshness(response, while_revalidate, if_error);
        let mut freshness = Freshness::shared(status, response, control, at, &rules);
        freshness.received = now / MS;
        if let Some(own) = own {
            freshness.lifetime = freshness.initial_age.saturating_add(own);
        }
        freshness.lifetime = self.request.rule.jittered(freshness.lifetime);
        // A part is not revalidated.
        let is_part = status == StatusCode::PARTIAL_CONTENT;
        let asks = ETag::of(response).is_some() || response.contains_key(header::LAST_MODIFIED);
        let times = self.times_by_http(options, &freshness, asks && !is_part);
        if !asks && times.if_error_until <= now || is_part && times.fresh_until <= now {
            return Err(NoStore::Lifetime);
        }
        Ok((times, Some(Box::new(Http { freshness, open, asks: asks && !is_part, own_tag: false }))))
    }

    /// Returns the times of an entry where HTTP decides. The inner service can revalidate the entry if it `asks`.
    pub(super) fn times_by_http(&self, options: &HttpOptions, freshness: &Freshness, asks: bool) -> Times {
        let now = self.answered;
        let fresh_until = match freshness.validate_always {
            true => now,
            false => freshness.fresh_until().saturating_mul(MS),
        };
        let useful_until = freshness.useful_until().saturating_mul(MS);
        Times {
            born: now.saturating_sub(nanos(freshness.initial_age)),
            fresh_until,
            while_revalidate_until: fresh_until.saturating_add(nanos(freshness.stale_while_revalidate)),
            if_error_until: useful_until,
            kept_until: if asks { fresh_until.saturating_add(nanos(options.keep)) } else { useful_until },
            cost: self.took(),
        }
    }

    /// Returns the request fields that a response depends on: those of its `Vary`, and those by which it was negotiated without naming them.
    pub(super) fn vary_of(&self, response: &HeaderMap) -> Vary {
        Vary::of(response).union(&Vary::negotiated(self.request.info.headers(), response))
    }

    /// Returns the key of a part. A part that varies by more fields than the complete response would not be found again.
    fn part_key(&self, response: &HeaderMap) -> Result<Key, NoStore> {
        let known = self.miss.varying.as_deref().map(|(vary, _)| vary.clone()).unwrap_or_default();
        let key = partial::as_asked(self.key().as_ref(), self.request.info.conditions());
        key.filter(|_| known.union(&self.vary_of(response)) == known).ok_or(NoStore::Partial)
    }

    /// Returns the key of a response: the key of the request, or of its variant.
    fn variant(&self, vary: Vary) -> Result<(Vary, Key), NoStore> {
        // A handler may leave `Vary` out of its default response (RFC 9111, section 4.1). That response must not replace the list of
        // variants.
        let vary = match self.miss.varying.as_deref() {
            Some((known, _)) => known.union(&vary),
            None => vary,
        };
        if vary.is_empty() {
            return Ok((vary, self.request.primary.clone()));
        }
        if vary.names().len() > MOST_VARYING {
            return Err(NoStore::Vary);
        }
        let secret = &self.shared.store.context().secret;
        let CacheRequest { rule, primary, info, .. } = &self.request;
        let key = variant::variant_key(rule, secret, primary.as_ref(), &vary, info.headers().ok_or(NoStore::Vary)?);
        match key.canonical().len() > MAX_KEY_LEN {
            true => Err(NoStore::Vary),
            false => Ok((vary, key)),
        }
    }

    /// Returns the key of a variant's language, if the rule selects variants by language.
    pub(super) fn language_key(&self, vary: &Vary, response: &HeaderMap) -> Option<Key> {
        let (secret, language) = (&self.shared.store.context().secret, || semantics::content_language(response));
        let CacheRequest { rule, primary, info, .. } = &self.request;
        let key = variant::language_key(rule, secret, primary.as_ref(), vary, info.headers()?, language);
        key.filter(|key| key.canonical().len() <= MAX_KEY_LEN)
    }

    #[inline]
    pub(super) fn times(&self, ttl: Duration, age: Option<&HeaderValue>) -> Times {
        let now = self.answered;
        // RFC 9111, section 4.2.3: the age stated by a cache closer to the origin counts.
        let age = age.and_then(semantics::parse_age).map_or(0, nanos);
        let fresh_until = now.saturating_add(nanos(ttl));
        Times {
            born: now.saturating_sub(age),
            fresh_until,
            while_revalidate_until: fresh_until.saturating_add(self.request.rule.while_revalidate()),
            if_error_until: fresh_until.saturating_add(self.request.rule.if_error()),
            kept_until: fresh_until,
            cost: self.took(),
        }
    }
}

/// The header fields of a response that matter, found in one pass. Most responses have few of them, and one pass costs less than a lookup of
/// each name.
#[derive(Default)]
struct HeaderScan<'a> {
    /// The first `Cache-Control`. `lines` is their number.
    directives: Option<&'a HeaderValue>,
    lines: usize,
    /// `Content-Range`.
    range: bool,
    /// `Set-Cookie`.
    cookies: bool,
    /// `Vary`.
    varies: bool,
    /// The response may have been chosen by request fields, also without `Vary`.
    negotiated: bool,
    /// The response has fields for one connection (RFC 9110, section 7.6.1).
    hops: bool,
    /// The first `Content-Type`.
    kind: Option<&'a HeaderValue>,
    /// The first `Age`.
    age: Option<&'a HeaderValue>,
    /// `Content-Length`, and the number of its lines.
    length: Option<&'a HeaderValue>,
    lengths: usize,
}

impl<'a> HeaderScan<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        let mut seen = Self::default();
        headers.iter().for_each(|(name, value)| seen.note(HeaderKind::of(name), value));
        seen
    }

    #[inline]
    fn note(&mut self, role: HeaderKind, value: &'a HeaderValue) {
        match role {
            HeaderKind::Plain => {}
            HeaderKind::Directives => {
                self.directives.get_or_insert(value);
                self.lines += 1;
            }
            HeaderKind::Kind => _ = self.kind.get_or_insert(value),
            HeaderKind::Length => (self.length, self.lengths) = (Some(value), self.lengths + 1),
            HeaderKind::Age => _ = self.age.get_or_insert(value),
            HeaderKind::Range => self.range = true,
            HeaderKind::Cookie => self.cookies = true,
            HeaderKind::Varies => self.varies = true,
            HeaderKind::Coding => self.negotiated |= value != "identity",
            HeaderKind::Language => self.negotiated = true,
            HeaderKind::AllowedOrigin => self.negotiated |= value != "*",
            HeaderKind::Hop => self.hops = true,
        }
    }

    fn is_event_stream(&self) -> bool {
        self.kind.is_some_and(is_event_stream)
    }

    /// Returns the announced length. Returns `None` if it is absent, repeated or not a number.
    fn announced(&self) -> Option<u64> {
        self.length.filter(|_| self.lengths == 1).and_then(length_in)
    }
}

fn no_store(why: semantics::NoStore) -> NoStore {
    match why {
        semantics::NoStore::Private => NoStore::Private,
        semantics::NoStore::NoCache => NoStore::NoCache,
        semantics::NoStore::SetCookie => NoStore::SetCookie,
        semantics::NoStore::VaryStar => NoStore::Vary,
        semantics::NoStore::Partial => NoStore::Partial,
        semantics::NoStore::Status => NoStore::Status,
        semantics::NoStore::RequestNoStore => NoStore::RequestNoStore,
        semantics::NoStore::Authorization => NoStore::Authorization,
        semantics::NoStore::NotAllowed | semantics::NoStore::NothingToReuse => NoStore::NotAllowed,
        _ => NoStore::NoStore,
    }
}
