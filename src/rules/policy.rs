//! A rule that has been checked, and what it says of a request and of a response.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use http::{Method, StatusCode, response};

use super::{
    error::{RulesError, RulesErrorKind},
    failure::{OnDeliveryTimeout, OnFenceError},
    http::HttpOptions,
    rule::{InvalidationRule, Lifetime, Methods, Rule},
    template::{self, Template},
};
use crate::{
    clock::{Nanos, nanos},
    entry::header_template::HeaderTemplate,
    key::{self, Extracted, FieldTable, Key, KeyExtractor, KeyRef, KeyWriter, RequestView, RouteAndQuery, overrides_method},
    namespace::{MAX_NAMESPACES, Namespace, cache_groups::GroupOrigin, set::Namespaces},
    query,
    route::params::Params,
    semantics::Normalise,
    status::Bypass,
};

/// A rule that has been checked against its route.
#[derive(Clone)]
pub(crate) struct Policy {
    route: Option<Box<str>>,
    rule: Rule,
    /// Which fields of its requests matter to keys by their names.
    fields: Arc<FieldTable>,
    /// Its key depends on the target alone.
    of_target: bool,
    /// What is planned for its requests does so as well.
    plans_by_target: bool,
    /// The names that are the same for every request, up to the first that is not: the root, and the templates without parameters.
    base: Namespaces,
    /// The templates that follow.
    namespaces: Vec<Template>,
    /// There is nothing else that names any.
    is_plain: bool,
    /// A parameter of its route may be more than text to a handler.
    guards_path: bool,
    clears: Vec<(Methods, Template)>,
    /// Whether a handler was seen to name namespaces in its response.
    adds: Arc<AtomicBool>,
    /// Whether a request was seen that it covers.
    matched: Arc<AtomicBool>,
    /// Nothing that it names invalidates its entries.
    endless: bool,
    /// How many responses in a row had no `Vary`, as far as that is counted; or that one had.
    plain: Arc<AtomicU32>,
    /// That of the first response that was stored.
    shape: Arc<HeaderTemplate>,
}

/// What has to be known of a request before it is handed to the inner service, for its response to be stored.
#[derive(Debug, Clone)]
pub(crate) struct ReadPlan {
    /// All that are known from the request; the key is one of them.
    pub(crate) names: Namespaces,
    /// The lifetime, where the request decides it.
    pub(crate) ttl: Option<Duration>,
    /// The origin of its cache groups, if the rule obeys them.
    pub(crate) groups_of: Option<Box<GroupOrigin>>,
}

impl Policy {
    pub(super) fn new(route: Option<&str>, rule: Rule, fields: &Arc<FieldTable>) -> Result<Self, RulesError> {
        let fault = |kind, why: String| Err(RulesError::new(kind, route, why));
        if route.is_some_and(|route| !route.starts_with('/')) {
            return fault(RulesErrorKind::Pattern, "a pattern begins with `/`, as in `/tables/{table}`".into());
        }
        let old = |segment: &&str| segment.starts_with([':', '*']);
        if let Some(segment) = route.and_then(|route| route.split('/').find(old)) {
            let name = segment.trim_start_matches(':');
            let why = format!("{segment:?} is no parameter but text that stands for itself; write `{{{name}}}`");
            return fault(RulesErrorKind::Pattern, why);
        }
        for (status, _) in &rule.statuses {
            if status.is_informational() || [StatusCode::PARTIAL_CONTENT, StatusCode::NOT_MODIFIED].contains(status) {
                return fault(RulesErrorKind::Setting, format!("a {} response cannot be stored", status.as_u16()));
            }
        }
        if !(0.0..=1.0).contains(&rule.jitter) {
            return fault(
                RulesErrorKind::Setting,
                format!("invalid jitter {}: expected a fraction between 0 and 1", rule.jitter),
            );
        }
        if !(rule.early >= 0.0 && rule.early.is_finite()) {
            let why = format!("invalid refresh_ahead {}: expected 0 (off) or a positive number", rule.early);
            return fault(RulesErrorKind::Setting, why);
        }
        if rule.lock.is_some_and(|lease| lease < Duration::from_millis(100) || lease > Duration::from_secs(300)) {
            let lease = rule.lock.unwrap_or_default();
            let why = format!("invalid distributed_lock {lease:?}: expected a duration between 100 milliseconds and 5 minutes");
            return fault(RulesErrorKind::Setting, why);
        }
        if let Some(name) = rule.misplaced {
            return fault(
                RulesErrorKind::Setting,
                format!("{name} is an option of HTTP rules alone: of Rule::http(), or with `http = true`"),
            );
        }
        let params = route.map(template::params_of).unwrap_or_default();
        let identified = rule.key.identity().is_some();
        let parse = |source: &str| Template::parse(source, route, &params, identified);
        let namespaces = rule.namespaces.iter().map(|source| parse(source)).collect::<Result<Vec<_>, _>>()?;
        let mut all = Namespaces::root();
        for (i, template) in namespaces.iter().enumerate() {
            all.push(&template.sample(&format!("x{i}")));
        }
        if all.named() > MAX_NAMESPACES {
            let why = format!("it names {} namespaces; at most {MAX_NAMESPACES}", all.named());
            return fault(RulesErrorKind::Namespace, why);
        }
        let clears = match &rule.clears {
            InvalidationRule::Own => namespaces.iter().map(|template| (None, template.clone())).collect(),
            InvalidationRule::Listed(list) => {
                list.iter().map(|(methods, source)| Ok((methods.clone(), parse(source)?))).collect::<Result<_, RulesError>>()?
            }
        };
        let of_target = rule.key.depends_only_on_target();
        let plans_by_target = of_target
            && !identified
            && rule.namespaces_by.is_empty()
            && !rule.groups
            && !matches!(rule.lifetime, Lifetime::ByRequest(_));
        let mut base = Namespaces::root();
        let fixed = namespaces.iter().map_while(Template::fixed).map(|name| base.push(name)).count();
        let (base, namespaces): (_, Vec<_>) = (base.shared(), namespaces.into_iter().skip(fixed).collect());
        let is_plain = namespaces.is_empty() && rule.namespaces_by.is_empty() && !rule.groups;
        let endless = rule.namespaces.is_empty()
            && rule.namespaces_by.is_empty()
            && !rule.groups
            && !matches!(rule.lifetime, Lifetime::Http(_));
        Ok(Self {
            route: route.map(Into::into),
            guards_path: !params.is_empty() && !rule.path_as_text,
            rule,
            fields: fields.clone(),
            of_target,
            plans_by_target,
            base,
            namespaces,
            is_plain,
            clears,
            adds: Arc::default(),
            matched: Arc::default(),
            endless,
            plain: Arc::default(),
            shape: Arc::default(),
        })
    }

    /// Writes the whole key of a request: its route, then what the extractor says.
    #[inline]
    pub(crate) fn write_key(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted {
        let extracted = self.write_target(request, key);
        if *request.method != Method::GET && query::is_query(request.method) {
            query::write(request, key);
        }
        extracted
    }

    /// Why a request bypasses the cache whose extractor has said so.
    #[cold]
    pub(crate) fn why_bypassed(&self, request: &RequestView<'_>) -> Bypass {
        self.rule.key.identity().and_then(|identity| identity.bypass(request)).unwrap_or(Bypass::Extractor)
    }

    /// The same without the content of a QUERY: the key of a GET.
    #[inline]
    fn write_target(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted {
        key::begin(key, self.http().is_some(), self.route.as_deref(), request);
        self.rule.key.extract(&request.with_fields(&self.fields), key)
    }

    /// The key of a request, if it has one that is not too long.
    pub(super) fn key(&self, request: &RequestView<'_>) -> Option<Key> {
        let mut canonical = Vec::with_capacity(128);
        let mut writer = KeyWriter::new(&mut canonical, request.secret);
        match self.write_key(request, &mut writer) {
            Extracted::Key if !writer.too_long() => Some(Key::new(canonical)),
            _ => None,
        }
    }

    /// The key of a request's URI, where HTTP decides: whoever it was stored for, and however it was asked for, what is stored for a URI
    /// goes with a write to it (RFC 9111, section 4.4).
    pub(super) fn key_of_uri(&self, request: &RequestView<'_>) -> Option<Key> {
        self.http()?;
        let mut canonical = Vec::with_capacity(128);
        let mut key = KeyWriter::new(&mut canonical, request.secret);
        key::begin(&mut key, true, self.route.as_deref(), request);
        let _ = RouteAndQuery.extract(request, &mut key);
        Some(Key::new(canonical))
    }

    /// Which fields of its requests matter to keys by their names.
    #[inline]
    pub(crate) fn fields(&self) -> &FieldTable {
        &self.fields
    }

    pub(super) fn set_fields(&mut self, fields: &Arc<FieldTable>) {
        self.fields = fields.clone();
    }

    /// Whether the target of a GET says all that its key depends on, and forwarding fields beside it.
    #[inline]
    pub(crate) fn depends_only_on_target(&self) -> bool {
        self.of_target
    }

    /// Whether the target says all that [`plan`](Self::plan) depends on, too.
    #[inline]
    pub(crate) fn plans_by_target(&self) -> bool {
        self.plans_by_target
    }

    #[inline]
    pub(crate) fn is_uncached(&self) -> bool {
        matches!(self.rule.lifetime, Lifetime::Uncached)
    }

    /// What is particular to an HTTP rule, if this is one.
    #[inline]
    pub(crate) fn http(&self) -> Option<&HttpOptions> {
        match &self.rule.lifetime {
            Lifetime::Http(options) => Some(options),
            _ => None,
        }
    }

    pub(crate) fn normalise(&self) -> Normalise {
        self.rule.normalise
    }

    #[inline]
    pub(crate) fn tags(&self) -> bool {
        self.rule.etag
    }

    /// For how long a fill locks other processes out.
    pub(crate) fn lock(&self) -> Option<Duration> {
        self.rule.lock
    }

    /// Whether responses under this rule name namespaces of their own, as far as was seen.
    pub(crate) fn adds_namespaces(&self) -> bool {
        self.adds.load(Ordering::Relaxed)
    }

    /// It covers a request.
    #[inline]
    pub(super) fn matches(&self) {
        if !self.matched.load(Ordering::Relaxed) {
            self.matched.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn has_matched(&self) -> bool {
        self.matched.load(Ordering::Relaxed)
    }

    /// The pattern that it covers, if it is not the fallback.
    pub(crate) fn route(&self) -> Option<&str> {
        self.route.as_deref()
    }

    /// Whether its entries belong to no namespace, as far as was seen: no write invalidates them.
    #[inline]
    pub(crate) fn is_never_invalidated(&self) -> bool {
        self.endless && !self.adds_namespaces()
    }

    /// A response has.
    pub(crate) fn has_added_namespaces(&self) {
        if !self.adds_namespaces() {
            self.adds.store(true, Ordering::Relaxed);
        }
    }

    /// Whether responses under this rule vary by fields of their requests, or are not known not to.
    #[inline]
    pub(crate) fn may_vary(&self) -> bool {
        self.plain.load(Ordering::Relaxed) != PLAIN
    }

    /// A response has, or has not.
    #[inline]
    pub(crate) fn has_answered(&self, varies: bool) {
        let plain = self.plain.load(Ordering::Relaxed);
        match varies {
            true if plain != VARIES => self.plain.store(VARIES, Ordering::Relaxed),
            // One that is not counted does no harm; one that varies is not overwritten.
            false if plain < PLAIN => {
                let _ = self.plain.compare_exchange(plain, plain + 1, Ordering::Relaxed, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    /// What most responses are shaped like.
    #[inline]
    pub(crate) fn shape(&self) -> &HeaderTemplate {
        &self.shape
    }

    pub(crate) fn soft_timeout(&self) -> Option<Duration> {
        self.rule.soft_timeout
    }

    /// Whether it obeys cache groups.
    pub(crate) fn has_groups(&self) -> bool {
        self.rule.groups
    }

    /// The lifetime that responses of a status have by this rule.
    #[inline]
    pub(crate) fn status_lifetime(&self, status: StatusCode) -> Option<Duration> {
        self.rule.statuses.iter().find(|(listed, _)| *listed == status).map(|(_, ttl)| *ttl)
    }

    /// The windows past a lifetime: while it is revalidated, and if errors.
    pub(crate) fn windows(&self) -> (Duration, Duration) {
        (self.rule.while_revalidate, self.rule.if_error)
    }

    pub(crate) fn delivery_timeout(&self) -> Option<(Duration, OnDeliveryTimeout)> {
        self.rule.delivery_timeout
    }

    pub(crate) fn on_fence_error(&self) -> Option<OnFenceError> {
        self.rule.on_fence_error
    }

    pub(crate) fn ignores_credentials(&self) -> bool {
        self.rule.shared
    }

    #[inline]
    pub(crate) fn ignores_cookies(&self) -> bool {
        self.rule.cookies_ignored
    }

    /// Whether a handler may take the path of a request for that of another route.
    #[inline]
    pub(crate) fn is_ambiguous(&self, params: &Params<'_>) -> bool {
        self.guards_path && params.are_ambiguous()
    }

    #[inline]
    pub(crate) fn ignores_forwarded(&self) -> bool {
        self.rule.forwarded_ignored
    }

    #[inline]
    pub(crate) fn max_body(&self) -> usize {
        self.rule.max_body
    }

    #[inline]
    pub(crate) fn while_revalidate(&self) -> Nanos {
        nanos(self.rule.while_revalidate)
    }

    #[inline]
    pub(crate) fn if_error(&self) -> Nanos {
        nanos(self.rule.if_error)
    }

    #[inline(always)]
    pub(crate) fn plan(&self, request: &RequestView<'_>, key: KeyRef<'_>) -> ReadPlan {
        match &self.rule.lifetime {
            Lifetime::Fixed(ttl) if self.is_plain && *request.method == Method::GET => {
                let mut names = self.base.clone();
                names.push_key(key);
                ReadPlan { names, ttl: Some(*ttl), groups_of: None }
            }
            _ => self.plan_of(request, key),
        }
    }

    /// The same where something of the request may be in it.
    #[inline(never)]
    fn plan_of(&self, request: &RequestView<'_>, key: KeyRef<'_>) -> ReadPlan {
        let mut names = self.base.clone();
        for template in &self.namespaces {
            names.push(&template.write(request, self.rule.key.identity()));
        }
        for by in &self.rule.namespaces_by {
            by(request).iter().for_each(|name| names.push(name.as_str()));
        }
        // The key itself is a name under which it can be cleared: that of the request, so that all variants go with it.
        names.push_key(key);
        if query::is_query(request.method) {
            // RFC 9111, section 4.4: whatever is stored for a URI goes with a write to it.
            let mut target = Vec::new();
            let _ = self.write_target(request, &mut KeyWriter::new(&mut target, request.secret));
            names.push_key(KeyRef::new(&target));
        }
        // Where the key depends on the target alone, it is that of the URI, but for parameters of the query that do not count.
        if let Some(uri) = self.key_of_uri(request).filter(|_| !self.of_target) {
            names.push_key(uri.as_ref());
        }
        let ttl = match &self.rule.lifetime {
            Lifetime::Fixed(ttl) => Some(*ttl),
            Lifetime::ByRequest(ttl) => Some(ttl(request)),
            Lifetime::ByResponse(_) | Lifetime::Http(_) | Lifetime::Uncached => None,
        };
        let groups_of = self.rule.groups.then(|| Box::new(GroupOrigin::of(request.uri(), request.headers())));
        ReadPlan { names, ttl, groups_of }
    }

    /// The lifetime of a response, jitter taken off; `None` if its status is not stored.
    #[inline]
    pub(crate) fn lifetime(&self, plan: &ReadPlan, response: &response::Parts) -> Option<Duration> {
        let status = response.status;
        let ttl = match self.status_lifetime(status) {
            Some(ttl) => ttl,
            None if !STORED.contains(&status.as_u16()) => return None,
            None => match &self.rule.lifetime {
                Lifetime::ByResponse(ttl) => ttl(response).unwrap_or_default(),
                _ => plan.ttl.unwrap_or_default(),
            },
        };
        Some(self.jittered(ttl))
    }

    #[inline]
    pub(crate) fn jittered(&self, ttl: Duration) -> Duration {
        if self.rule.jitter == 0.0 {
            return ttl;
        }
        let share = 1.0 - self.rule.jitter * fastrand::f64();
        // A `Duration` times 1.0 may be more than a `Duration` holds; a rounded number of nanoseconds may be one too long.
        ttl.min(Duration::from_nanos((nanos(ttl) as f64 * share) as u64))
    }

    /// XFetch: whether this request should refresh an entry that has so much time left and cost so much to compute.
    #[inline]
    pub(crate) fn refreshes_ahead(&self, left: Nanos, cost: Nanos) -> bool {
        if self.rule.early == 0.0 {
            return false;
        }
        // The logarithm of the smallest random number is -37: most hits are decided without drawing one.
        let reach = cost as f64 * self.rule.early;
        left as f64 <= reach * 37.0 && -reach * (1.0 - fastrand::f64()).ln() >= left as f64
    }

    /// What a write clears that is known from its request.
    pub(crate) fn clears(&self, request: &RequestView<'_>) -> Vec<Namespace> {
        let identity = self.rule.key.identity();
        let mut names: Vec<_> = self
            .clears
            .iter()
            .filter(|(methods, _)| concerns(methods, request))
            .flat_map(|(_, template)| template.render(request, identity))
            .collect();
        if matches!(self.rule.clears, InvalidationRule::Own) {
            names.extend(self.rule.namespaces_by.iter().flat_map(|by| by(request)));
        }
        names
    }

    /// Whether what a write clears becomes stale rather than dead.
    pub(crate) fn clears_softly(&self) -> bool {
        self.rule.soft
    }

    /// Whether what a write clears needs the head of the request once its response is there.
    pub(crate) fn clears_by_response(&self) -> bool {
        !self.rule.clears_by.is_empty()
    }

    /// What a write clears that is known only from its response.
    pub(crate) fn cleared_by(&self, request: &RequestView<'_>, response: &response::Parts) -> Vec<Namespace> {
        let concerned = self.rule.clears_by.iter().filter(|(methods, _)| concerns(methods, request));
        concerned.flat_map(|(_, by)| by(request, response)).collect()
    }

    /// Whether a response of this status may have changed something.
    pub(crate) fn may_have_changed(&self, status: StatusCode) -> bool {
        !(self.rule.skip_on_client_error && status.is_client_error()
            || self.rule.spare_server_errors && status.is_server_error())
    }
}

/// So many responses without `Vary` have it that none is expected under their rule.
const PLAIN: u32 = 64;

/// There was a `Vary`: there may be one again.
const VARIES: u32 = u32::MAX;

/// The statuses that are stored unless a rule says otherwise.
const STORED: [u16; 8] = [200, 203, 204, 300, 301, 308, 404, 410];

/// What a header overrides the method with is not looked into: it may be any of those that are listed.
fn concerns(methods: &Methods, request: &RequestView<'_>) -> bool {
    let overridden = || request.headers().keys().any(overrides_method);
    methods.as_ref().is_none_or(|methods| methods.contains(request.method()) || overridden())
}
