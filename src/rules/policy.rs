//! Policy: a checked rule, applied to a request and to a response.

use std::{sync::Arc, time::Duration};

use http::{Method, StatusCode, response};

use super::{
    check::check,
    content_options::ContentOptions,
    end_check::{EndCheck, Unread},
    error::{RulePart, RulesError, RulesErrorKind},
    failure::{OnDeliveryTimeout, OnFenceError},
    http::HttpOptions,
    learned::Learned,
    message_options::MessageOptions,
    responses::ResponseRule,
    rule::{Lifetime, Rule},
    template::{self, Template},
    write_options::{InvalidationRule, Methods},
};
use crate::{
    clock::{Nanos, nanos},
    key::{FieldTable, Identity, KeyExtractor, KeyRef, KeyWriter, RequestView, overrides_method},
    namespace::{MAX_NAMESPACES, Namespace, cache_groups::GroupOrigin, fields::NamingFields, set::Namespaces},
    route::params::Params,
    semantics::Normalise,
};

/// A rule that was checked against its route.
#[derive(Clone)]
pub(crate) struct Policy {
    pub(super) route: Option<Box<str>>,
    /// The place in the table.
    pub(super) place: usize,
    pub(super) rule: Rule,
    /// The request fields with a meaning for keys.
    pub(super) fields: Arc<FieldTable>,
    /// The key depends on the target and on the content alone.
    of_target: bool,
    /// The plan of a request depends on the target alone.
    plans_by_target: bool,
    /// The namespaces that are the same for every request: the root, and the templates before the first one with a parameter.
    base: Namespaces,
    /// The other templates.
    namespaces: Vec<Template>,
    /// The templates of each response rule, if one has some.
    by_response: Box<[Vec<Template>]>,
    /// Only templates name namespaces.
    is_plain: bool,
    /// Requests with an ambiguous path bypass the cache.
    guards_path: bool,
    /// The namespaces that all writes invalidate.
    pub(super) fixed_invalidations: Namespaces,
    /// The other templates of the namespaces that writes invalidate.
    pub(super) invalidations: Vec<(Methods, Template)>,
    /// The rule names no namespace.
    names_none: bool,
    /// Some hits refresh their entry ahead, or are audited.
    chooses_hits: bool,
    /// State learned at run time, which all copies of the rule share.
    learned: Arc<Learned>,
}

/// The data of a request that storing its response requires.
#[derive(Debug, Clone)]
pub(crate) struct ReadPlan {
    /// The namespaces known from the request, with the key as one of them.
    pub(crate) names: Namespaces,
    /// The lifetime, if the request decides it.
    pub(crate) ttl: Option<Duration>,
    /// The fields of its response that name further namespaces, if the rule reads any.
    pub(crate) named_by: Option<Box<NamingFields>>,
    /// The checks of the complete response, if there are any.
    pub(crate) end: Option<Box<EndCheck>>,
}

impl Policy {
    pub(super) fn new(route: Option<&str>, rule: Rule, fields: &Arc<FieldTable>) -> Result<Self, RulesError> {
        check(route, &rule)?;
        let params = route.map(template::params_of).unwrap_or_default();
        let identified = rule.key.identity().is_some();
        let parse = |source: &str| Template::parse(source, route, &params, identified);
        let namespaces = rule.namespaces.iter().map(|source| parse(source)).collect::<Result<Vec<_>, _>>()?;
        let by_response = templates_by_response(&rule, parse)?;
        check_count(route, &namespaces, RulePart::Option("namespace"))?;
        for (number, own) in by_response.iter().enumerate() {
            let part = RulePart::OfResponseRule { number, option: "namespaces", text: None };
            check_count(route, namespaces.iter().chain(own), part)?;
        }
        let invalidations = match &rule.writes.names {
            InvalidationRule::Own => {
                namespaces.iter().chain(by_response.iter().flatten()).map(|template| (None, template.clone())).collect()
            }
            InvalidationRule::Listed(list) => {
                list.iter().map(|(methods, source)| Ok((methods.clone(), parse(source)?))).collect::<Result<_, RulesError>>()?
            }
        };
        let (fixed_invalidations, invalidations) = without_fixed(invalidations);
        let of_target = rule.key.depends_only_on_target();
        let plans_by_target = of_target
            && !identified
            && rule.content.rpc.is_none()
            && rule.namespaces_by.is_empty()
            && rule.messages.reads_none_of_reads()
            && !rule.content.is_graphql()
            && !rule.reads_naming_fields()
            && !matches!(rule.lifetime, Lifetime::ByRequest(_));
        let mut base = Namespaces::root();
        let fixed = namespaces.iter().map_while(Template::fixed).map(|name| base.push(name)).count();
        let (base, namespaces): (_, Vec<_>) = (base.shared(), namespaces.into_iter().skip(fixed).collect());
        let is_plain = namespaces.is_empty()
            && rule.namespaces_by.is_empty()
            && rule.messages.reads_none_of_reads()
            && !rule.reads_naming_fields()
            && rule.content.rpc.is_none()
            && !rule.content.is_graphql();
        let names_none = rule.namespaces.is_empty()
            && rule.namespaces_by.is_empty()
            && rule.messages.namespaces.is_empty()
            && !rule.content.reads_entities()
            && !rule.groups
            && !rule.names_by_response()
            && !matches!(rule.lifetime, Lifetime::Http(_));
        Ok(Self {
            route: route.map(Into::into),
            place: 0,
            chooses_hits: rule.refresh_ahead != 0.0 || rule.audit.share.is_some(),
            guards_path: !params.is_empty() && !rule.path_as_text,
            rule,
            fields: fields.clone(),
            of_target,
            plans_by_target,
            base,
            namespaces,
            by_response,
            is_plain,
            fixed_invalidations,
            invalidations,
            names_none,
            learned: Arc::default(),
        })
    }

    /// Returns the request fields with a meaning for keys.
    #[inline]
    pub(crate) fn fields(&self) -> &FieldTable {
        &self.fields
    }

    pub(super) fn set_fields(&mut self, fields: &Arc<FieldTable>) {
        self.fields = fields.clone();
    }

    /// Returns true if the key depends on the target, the forwarding fields and the [content part](Self::write_content) alone.
    #[inline]
    pub(crate) fn depends_only_on_target(&self) -> bool {
        self.of_target
    }

    /// Returns the identity at the end of the key of a GET, if the other parts depend on the target and the forwarding fields alone.
    #[inline]
    pub(crate) fn identity_beside_target(&self) -> Option<&Identity> {
        self.rule.identity_beside_target.as_ref()
    }

    /// Returns true if [`plan`](Self::plan) depends on the target alone, too.
    #[inline]
    pub(crate) fn plans_by_target(&self) -> bool {
        self.plans_by_target
    }

    #[inline]
    pub(crate) fn is_uncached(&self) -> bool {
        matches!(self.rule.lifetime, Lifetime::Uncached)
    }

    /// Returns the HTTP options under a rule where HTTP decides.
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

    /// Returns the time for which a fill holds the distributed lock, if the rule uses one.
    pub(crate) fn lock(&self) -> Option<Duration> {
        self.rule.distributed_lock
    }

    /// Returns the route pattern, or `None` for the fallback.
    pub(crate) fn route(&self) -> Option<&str> {
        self.route.as_deref()
    }

    /// Returns true if entries of this rule belong to no namespace, so that no write invalidates them.
    #[inline]
    pub(crate) fn is_never_invalidated(&self) -> bool {
        self.names_none && !self.learned.names_namespaces()
    }

    /// Returns true if a write can invalidate entries of this rule.
    pub(super) fn may_be_invalidated(&self) -> bool {
        !self.names_none
    }

    /// Returns the place of the rule in its table.
    #[inline]
    pub(crate) fn place(&self) -> usize {
        self.place
    }

    /// Returns the state that the rule has learned from requests and responses.
    #[inline]
    pub(crate) fn learned(&self) -> &Learned {
        &self.learned
    }

    pub(crate) fn soft_timeout(&self) -> Option<Duration> {
        self.rule.soft_timeout
    }

    /// Returns true if the rule uses cache groups.
    pub(crate) fn has_groups(&self) -> bool {
        self.rule.groups
    }

    /// Returns the lifetime of responses with this status.
    #[inline]
    pub(crate) fn status_lifetime(&self, status: StatusCode) -> Option<Duration> {
        self.rule.statuses.iter().find(|(listed, _)| *listed == status).map(|(_, ttl)| *ttl)
    }

    /// Returns the times past the lifetime: stale-while-revalidate and stale-if-error.
    pub(crate) fn windows(&self) -> (Duration, Duration) {
        (self.rule.stale_while_revalidate, self.rule.stale_if_error)
    }

    /// Returns the options for the content of requests.
    pub(super) fn content(&self) -> &ContentOptions {
        &self.rule.content
    }

    /// Returns the closures over messages.
    pub(super) fn messages(&self) -> &MessageOptions {
        &self.rule.messages
    }

    pub(crate) fn delivery_timeout(&self) -> Option<(Duration, OnDeliveryTimeout)> {
        self.rule.writes.delivery_timeout
    }

    pub(crate) fn on_fence_error(&self) -> Option<OnFenceError> {
        self.rule.writes.on_fence_error
    }

    pub(crate) fn ignores_credentials(&self) -> bool {
        self.rule.ignore_credentials
    }

    #[inline]
    pub(crate) fn ignores_cookies(&self) -> bool {
        self.rule.ignore_cookies
    }

    /// Returns true if a handler may resolve the path to another route.
    #[inline]
    pub(crate) fn is_ambiguous(&self, params: &Params<'_>) -> bool {
        self.guards_path && params.are_ambiguous()
    }

    #[inline]
    pub(crate) fn ignores_forwarded(&self) -> bool {
        self.rule.ignore_forwarded
    }

    #[inline]
    pub(crate) fn max_body(&self) -> usize {
        self.rule.max_body
    }

    #[inline]
    pub(crate) fn while_revalidate(&self) -> Nanos {
        nanos(self.rule.stale_while_revalidate)
    }

    #[inline]
    pub(crate) fn if_error(&self) -> Nanos {
        nanos(self.rule.stale_if_error)
    }

    #[inline(always)]
    pub(crate) fn plan(&self, request: &RequestView<'_>, key: KeyRef<'_>) -> ReadPlan {
        match &self.rule.lifetime {
            Lifetime::Fixed(ttl) if self.is_plain && *request.method == Method::GET => {
                let mut names = self.base.clone();
                names.push_key(key);
                ReadPlan { names, ttl: Some(*ttl), named_by: None, end: None }
            }
            _ => self.plan_of(request, key),
        }
    }

    /// Returns the plan of a request whose parts may be in it.
    #[inline(never)]
    fn plan_of(&self, request: &RequestView<'_>, key: KeyRef<'_>) -> ReadPlan {
        let mut names = self.base.clone();
        for template in &self.namespaces {
            template.add(&mut names, request, self.rule.key.identity());
        }
        for by in &self.rule.namespaces_by {
            by(request).iter().for_each(|name| names.push(name.as_str()));
        }
        let end = self.end_check(request, &mut names);
        // The key of the request is a namespace as well, so that all its variants can be invalidated.
        names.push_key(key);
        if request.body.is_some() || self.is_rpc() {
            // RFC 9111, section 4.4: a write to a URI invalidates its stored responses.
            let mut target = Vec::new();
            let without_content = RequestView { body: None, ..*request };
            let _ = self.write_shared_target(&without_content, &mut KeyWriter::new(&mut target, request.secret));
            names.push_key(KeyRef::new(&target));
        }
        // A key that depends on the target alone is the key of the URI, except for ignored query parameters.
        if !self.of_target
            && let Some(uri) = self.key_of_uri(request)
        {
            names.push_key(uri.as_ref());
        }
        let ttl = match &self.rule.lifetime {
            Lifetime::Fixed(ttl) => Some(*ttl),
            Lifetime::ByRequest(ttl) => Some(ttl(request)),
            Lifetime::ByResponse(_) | Lifetime::Http(_) | Lifetime::Uncached => None,
        };
        let named_by = self.rule.reads_naming_fields().then(|| {
            let groups = self.rule.groups.then(|| GroupOrigin::of(request.uri(), request.headers()));
            let identity = self.rule.key.identity();
            let name = |template: &Template| template.namespace(request, identity);
            let by_rule = self.by_response.iter().map(|templates| templates.iter().map(name).collect()).collect();
            Box::new(NamingFields { groups, list: self.rule.namespaces_field.clone(), by_rule })
        });
        ReadPlan { names, ttl, named_by, end }
    }

    /// Returns the lifetime of a response, with jitter. Returns `None` if the status is not stored.
    #[inline]
    pub(crate) fn lifetime(&self, plan: &ReadPlan, response: &response::Parts) -> Option<Duration> {
        let status = response.status;
        let ttl = match self.own_lifetime(status, &response.headers) {
            _ if self.forbids_storing(status, &response.headers) => return None,
            Some(ttl) => ttl,
            None if !self.stores_by_default(status) => return None,
            None => match &self.rule.lifetime {
                Lifetime::ByResponse(ttl) => ttl(response).unwrap_or_default(),
                _ => plan.ttl.unwrap_or_default(),
            },
        };
        Some(self.jittered(ttl))
    }

    /// Returns true if responses with a status are stored without a lifetime of its own.
    pub(super) fn stores_by_default(&self, status: StatusCode) -> bool {
        STORED.contains(&status.as_u16()) && (status == StatusCode::OK || !self.is_rpc() && !self.is_graphql())
    }

    #[inline]
    pub(crate) fn jittered(&self, ttl: Duration) -> Duration {
        if self.rule.jitter == 0.0 {
            return ttl;
        }
        let share = 1.0 - self.rule.jitter * fastrand::f64();
        // A `Duration` times 1.0 can overflow, and rounded nanoseconds can be one too many.
        ttl.min(Duration::from_nanos((nanos(ttl) as f64 * share) as u64))
    }

    /// Returns true if some hits [refresh their entry ahead](Self::refreshes_ahead) or are [audited](Self::audits_this_hit).
    #[inline]
    pub(crate) fn chooses_hits(&self) -> bool {
        self.chooses_hits
    }

    /// Returns true if this request refreshes the entry ahead of its expiry, by the XFetch algorithm. `left` is the remaining lifetime, `cost` the
    /// time of the last call.
    #[inline]
    pub(crate) fn refreshes_ahead(&self, left: Nanos, cost: Nanos) -> bool {
        if self.rule.refresh_ahead == 0.0 {
            return false;
        }
        // The logarithm of the smallest random number is -37, so that most hits need no random number.
        let reach = cost as f64 * self.rule.refresh_ahead;
        left as f64 <= reach * 37.0 && -reach * (1.0 - fastrand::f64()).ln() >= left as f64
    }

    /// Adds the namespaces that a write invalidates, as far as the request names them.
    pub(crate) fn add_invalidations(&self, names: &mut Namespaces, request: &RequestView<'_>) {
        self.add_invalidations_for(names, request, |methods| concerns(methods, request));
    }

    /// Adds the namespaces that writes to the target of a request invalidate, with any method.
    pub(crate) fn add_invalidations_by_any_method(&self, names: &mut Namespaces, request: &RequestView<'_>) {
        self.add_invalidations_for(names, request, |_| true);
    }

    fn add_invalidations_for(&self, names: &mut Namespaces, request: &RequestView<'_>, concerns: impl Fn(&Methods) -> bool) {
        names.extend(&self.fixed_invalidations);
        for (_, template) in self.invalidations.iter().filter(|(methods, _)| concerns(methods)) {
            template.add_exactly(names, request, self.rule.key.identity());
        }
        if matches!(self.rule.writes.names, InvalidationRule::Own) {
            self.rule.namespaces_by.iter().for_each(|by| names.extend_exactly(&by(request)));
        }
    }

    /// Returns true if a write invalidates softly.
    pub(crate) fn invalidates_softly(&self) -> bool {
        self.rule.writes.softly
    }

    /// Returns true if the invalidated namespaces depend on the head of the request after the response.
    pub(crate) fn invalidates_by_response(&self) -> bool {
        !self.rule.writes.computed.is_empty() || self.rule.writes.field.is_some()
    }

    /// Returns the namespaces that a write invalidates, as far as only the response names them.
    pub(crate) fn invalidations_by_response(
        &self,
        request: &RequestView<'_>,
        response: &response::Parts,
    ) -> Result<Vec<Namespace>, Unread> {
        let mut names = self.listed_invalidations(&response.headers)?;
        let concerned = self.rule.writes.computed.iter().filter(|(methods, _)| concerns(methods, request));
        names.extend(concerned.flat_map(|(_, by)| by(request, response)));
        Ok(names)
    }

    /// Returns true if a write with a response of this status may have changed data.
    pub(crate) fn may_have_changed(&self, status: StatusCode) -> bool {
        !(self.rule.writes.skip_on_client_error && status.is_client_error()
            || self.rule.writes.skip_on_server_error && status.is_server_error())
    }
}

/// Returns the templates of each response rule, or nothing if none has a template.
fn templates_by_response(
    rule: &Rule,
    parse: impl Fn(&str) -> Result<Template, RulesError>,
) -> Result<Box<[Vec<Template>]>, RulesError> {
    if !rule.names_by_response() {
        return Ok(Box::default());
    }
    let of_rule = |(number, rule): (usize, &ResponseRule)| {
        let parse = |source: &String| {
            let text = Some(source.clone());
            parse(source).map_err(|error| error.in_part(RulePart::OfResponseRule { number, option: "namespaces", text }))
        };
        rule.namespaces.iter().map(parse).collect()
    };
    rule.responses.iter().enumerate().map(of_rule).collect()
}

/// Checks the number of namespaces of an entry.
fn check_count<'a>(
    route: Option<&str>,
    templates: impl IntoIterator<Item = &'a Template>,
    part: RulePart,
) -> Result<(), RulesError> {
    let mut all = Namespaces::root();
    for (i, template) in templates.into_iter().enumerate() {
        all.push(&template.sample(&format!("x{i}")));
    }
    if all.named() <= MAX_NAMESPACES {
        return Ok(());
    }
    let why = format!("too many namespaces: {}, expected at most {MAX_NAMESPACES}", all.named());
    Err(RulesError::new(RulesErrorKind::Namespace, route, why).in_part(part))
}

/// The statuses that are stored by default.
const STORED: [u16; 8] = [200, 203, 204, 300, 301, 308, 404, 410];

/// Returns the namespaces that all writes invalidate, and the other templates.
fn without_fixed(all: Vec<(Methods, Template)>) -> (Namespaces, Vec<(Methods, Template)>) {
    let is_fixed = |(methods, template): &(Methods, Template)| methods.is_none() && template.fixed().is_some();
    let (fixed, others): (Vec<_>, Vec<_>) = all.into_iter().partition(is_fixed);
    let mut names = Namespaces::default();
    for name in fixed.iter().filter_map(|(_, template)| template.fixed()) {
        names.push_exactly(|text| text.push_str(name));
    }
    (names.shared(), others)
}

/// Returns true for a listed method. A method-override header may stand for any of them.
fn concerns(methods: &Methods, request: &RequestView<'_>) -> bool {
    let overridden = || request.headers().keys().any(overrides_method);
    methods.as_ref().is_none_or(|methods| methods.contains(request.method()) || overridden())
}
