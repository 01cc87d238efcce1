//! One rule of a file.

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderName, Method, StatusCode};
use serde::Deserialize;

use super::form::{As, Document};
use crate::{
    key::{Cookie, Headers, Identity, KeyExtractor, RequestBody, RouteAndQuery},
    rules::{
        error::RulePart,
        failure::{OnDeliveryTimeout, OnFenceError},
        responses::ResponseRule,
        rule::Rule,
    },
    semantics::{Normalise, Weights},
};

/// A fault in a rule, which shows when its table is complete.
pub(super) struct RuleFault {
    pub(super) why: String,
    pub(super) part: RulePart,
}

impl RuleFault {
    fn new(why: impl Into<String>, part: RulePart) -> Self {
        Self { why: why.into(), part }
    }
}

impl fmt::Display for RuleFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// The options of `[[route]]` and `[fallback]`: each option of [`Rule`] that is data.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { path = \"/t/{table}\", ttl = \"60s\" }")]
pub(super) struct FileRule {
    /// The pattern of the paths, such as `/tables/{table}`.
    pub(super) path: Option<String>,
    /// The lifetime of responses.
    ttl: Option<As<Duration>>,
    /// The rules of HTTP caching decide what is stored, and for how long (RFC 9111).
    http: Option<bool>,
    /// The rule caches nothing. It only invalidates.
    uncached: Option<bool>,
    /// With `http`: the lifetime of a response that states none.
    default_ttl: Option<As<Duration>>,
    /// With `http`: a tenth of the time since `Last-Modified` as the lifetime of a response that states none.
    heuristics: Option<bool>,
    /// With `http`: the fields that replace `Cache-Control`, in order of precedence (RFC 9213).
    targeted: Option<As<Vec<HeaderName>>>,
    /// With `http`: the time for which a stale response is served if the inner service fails without a response.
    stale_if_unreachable: Option<As<Duration>>,
    /// With `http`: the time for which a stale response is kept for validation.
    keep_for_validation: Option<As<Duration>>,
    /// The lifetimes of responses by status.
    statuses: Option<As<Vec<(StatusCode, Duration)>>>,
    /// The time after the lifetime in which a stale response is served while it is refreshed.
    stale_while_revalidate: Option<As<Duration>>,
    /// The time after the lifetime in which a stale response is served if the inner service fails.
    stale_if_error: Option<As<Duration>>,
    /// The factor of refreshes before the end of the lifetime. 1 is a good value, 0 is off.
    #[serde(alias = "early_refresh")]
    refresh_ahead: Option<As<f64>>,
    /// The largest fraction by which a lifetime is shortened at random.
    jitter: Option<As<f64>>,
    /// The share of hits that are compared with fresh responses.
    audit: Option<As<f64>>,
    /// The header fields that audits do not compare.
    audit_ignoring: Option<As<Vec<HeaderName>>>,
    /// The inner service answers, and the cache works beside it.
    shadow: Option<bool>,
    /// The time after which a stale response is served while the call continues.
    soft_timeout: Option<As<Duration>>,
    /// The time for which one process of all that share a store fills a key.
    #[serde(alias = "fill_across_processes")]
    distributed_lock: Option<As<Duration>>,
    /// The largest size of stored bodies.
    max_body: Option<As<usize>>,
    /// A POST is a read, and its content is a part of the key.
    reads_by_post: Option<bool>,
    /// With `ttl`: unary calls of gRPC and Connect are cached.
    rpc: Option<bool>,
    /// The lifetimes of calls by their gRPC status.
    rpc_statuses: Option<As<Vec<(i32, Duration)>>>,
    /// Responses to calls have an `Age`.
    rpc_age: Option<bool>,
    /// With `ttl`: queries of GraphQL are cached.
    graphql: Option<bool>,
    /// The objects in responses name namespaces.
    graphql_entities: Option<bool>,
    /// Documents that clients may name by their hash.
    graphql_documents: Option<As<Vec<Document>>>,
    /// The largest size of the content of requests that belongs to keys.
    max_request_body: Option<As<usize>>,
    /// Stored responses without an `ETag` get one.
    etag: Option<bool>,
    /// The normalisation of request fields that `Vary` names.
    normalise: Option<FileNormalise>,
    /// Cache groups (RFC 9875).
    cache_groups: Option<bool>,
    /// The field in which responses list namespaces.
    namespaces_from_header: Option<As<HeaderName>>,
    /// The parts of the key.
    key: Option<FileKey>,
    /// The identity of users in the key, and as `{identity}` in templates.
    identity: Option<As<Identity>>,
    /// All users get the same response. Only for a route that ignores credentials.
    ignore_credentials: Option<bool>,
    /// Cookies are no credentials. Only for a route whose responses depend on no cookie.
    ignore_cookies: Option<bool>,
    /// Handlers read the parameters of the route as text. Not for handlers that open files by the path.
    path_as_text: Option<bool>,
    /// Forwarding fields such as `X-Forwarded-Host` are no part of the key.
    ignore_forwarded: Option<bool>,
    /// The namespaces of responses, with the parameters of the path and `{identity}`.
    namespaces: Option<As<Vec<String>>>,
    /// Conditions over responses, and their effects. The first that matches decides.
    response_rules: Option<As<Vec<ResponseRule>>>,
    /// The namespaces that writes invalidate. Without it, those of the rule.
    invalidates: Option<As<Vec<String>>>,
    /// The namespaces that writes invalidate, by method.
    invalidates_on: Option<As<TemplatesByMethod>>,
    /// Writes invalidate only the namespaces that the handler names.
    invalidates_nothing: Option<bool>,
    /// The field in which responses to writes list namespaces to invalidate.
    invalidates_from_header: Option<As<HeaderName>>,
    /// Writes make entries stale in place of ending them.
    invalidates_softly: Option<bool>,
    /// Writes with a 4xx invalidate nothing.
    #[serde(alias = "spare_client_errors")]
    skip_on_client_error: Option<bool>,
    /// Writes with a 4xx or 5xx invalidate nothing.
    #[serde(alias = "spare_errors")]
    skip_on_error: Option<bool>,
    /// The time that a write waits for the delivery of its invalidation, and the response after it.
    #[serde(alias = "hold")]
    delivery_timeout: Option<FileDeliveryTimeout>,
    /// The response to a write for which a strict store cannot set a fence.
    on_fence_error: Option<FileOnFenceError>,
}

type TemplatesByMethod = Vec<(Method, Vec<String>)>;

/// Calls the method of a rule for each option that the file has.
macro_rules! set {
    ($rule:ident, $file:ident: $($option:ident),*) => {
        $(if let Some(As(value)) = $file.$option.take() { $rule = $rule.$option(value); })*
    };
}

/// Calls the method of a rule for each option that is `true` in the file.
macro_rules! turn_on {
    ($rule:ident, $file:ident: $($option:ident),*) => {
        $(if $file.$option == Some(true) { $rule = $rule.$option(); })*
    };
}

impl FileRule {
    pub(super) fn rule(mut self) -> Result<Rule, RuleFault> {
        let mut rule = self.lifetime()?;
        set!(rule, self: stale_while_revalidate, stale_if_error, refresh_ahead, jitter, max_body, soft_timeout, distributed_lock);
        set!(rule, self: audit, audit_ignoring, max_request_body, namespaces_from_header, invalidates_from_header);
        set!(rule, self: default_ttl, targeted, stale_if_unreachable, keep_for_validation);
        if let Some(on) = self.heuristics {
            rule = rule.heuristics(on);
        }
        if let Some(FileNormalise(normalise)) = self.normalise {
            rule = rule.normalise(normalise);
        }
        // The key first: an identity is added to it.
        if let Some(key) = self.key.take() {
            let words = format!("{key:?}");
            rule = rule.key(key.extractor());
            rule.key_words = Some(words);
        }
        set!(rule, self: identity);
        turn_on!(rule, self: shadow, reads_by_post, rpc_age, etag, cache_groups, ignore_credentials, ignore_cookies, path_as_text, ignore_forwarded);
        rule = list(self.statuses.take()).into_iter().fold(rule, |rule, (status, ttl)| rule.status(status, ttl));
        rule = list(self.rpc_statuses.take()).into_iter().fold(rule, |rule, (code, ttl)| rule.rpc_status(code, ttl));
        rule = list(self.namespaces.take()).iter().fold(rule, |rule, template| rule.namespace(template));
        rule = list(self.response_rules.take()).into_iter().fold(rule, Rule::response_rule);
        rule = self.graphql_options(rule)?;
        self.writes(rule)
    }

    /// The rule without options: it says where the lifetime of its responses comes from.
    fn lifetime(&self) -> Result<Rule, RuleFault> {
        let kinds = [("rpc", self.rpc), ("graphql", self.graphql)];
        let mut kinds = kinds.into_iter().filter(|(_, on)| *on == Some(true)).map(|(name, _)| name);
        let kind = kinds.next();
        if kinds.next().is_some() {
            let why = "a rule has at most one of `rpc = true` and `graphql = true`";
            return Err(RuleFault::new(why, RulePart::Last(&["rpc", "graphql"])));
        }
        if let Some(kind) = kind.filter(|_| self.ttl.is_none()) {
            let why = format!("`{kind} = true` stands without `ttl`; write `ttl = \"60s\"` beside it");
            return Err(RuleFault::new(why, RulePart::Option(kind)));
        }
        match (&self.ttl, self.http == Some(true), self.uncached == Some(true)) {
            (Some(As(ttl)), false, false) if kind == Some("rpc") => Ok(Rule::rpc(*ttl)),
            (Some(As(ttl)), false, false) if kind == Some("graphql") => graphql_rule(*ttl),
            (Some(As(ttl)), false, false) => Ok(Rule::ttl(*ttl)),
            (None, true, false) => Ok(Rule::http()),
            (None, false, true) => Ok(Rule::uncached()),
            _ => {
                let why = "a rule has exactly one of `ttl = \"60s\"`, `http = true` and `uncached = true`";
                Err(RuleFault::new(why, RulePart::Last(&["ttl", "http", "uncached"])))
            }
        }
    }

    #[cfg(feature = "graphql")]
    fn graphql_options(&mut self, mut rule: Rule) -> Result<Rule, RuleFault> {
        turn_on!(rule, self: graphql_entities);
        let documents = list(self.graphql_documents.take());
        Ok(documents.iter().fold(rule, |rule, Document(text)| rule.graphql_document(text)))
    }

    #[cfg(not(feature = "graphql"))]
    fn graphql_options(&mut self, rule: Rule) -> Result<Rule, RuleFault> {
        match (self.graphql_entities, self.graphql_documents.take()) {
            (Some(true), _) => Err(RuleFault::new(NO_GRAPHQL, RulePart::Option("graphql_entities"))),
            (_, Some(_)) => Err(RuleFault::new(NO_GRAPHQL, RulePart::Option("graphql_documents"))),
            _ => Ok(rule),
        }
    }

    /// Adds the options of writes.
    fn writes(self, mut rule: Rule) -> Result<Rule, RuleFault> {
        let lists = self.invalidates.is_some() || self.invalidates_on.is_some();
        if lists && self.invalidates_nothing == Some(true) {
            let why = "`invalidates_nothing` stands beside `invalidates` or `invalidates_on`; only one can hold";
            return Err(RuleFault::new(why, RulePart::Option("invalidates_nothing")));
        }
        // An empty list invalidates nothing. Without a list, a write invalidates the rule's own namespaces.
        if lists {
            rule = rule.invalidates_nothing();
        }
        turn_on!(rule, self: invalidates_nothing, invalidates_softly, skip_on_client_error, skip_on_error);
        rule = list(self.invalidates).iter().fold(rule, |rule, template| rule.invalidates(template));
        for (method, templates) in list(self.invalidates_on) {
            rule = templates.iter().fold(rule, |rule, template| rule.invalidates_on([method.clone()], template));
        }
        if let Some(FileDeliveryTimeout { limit: As(limit), then }) = self.delivery_timeout {
            rule = rule.delivery_timeout(limit, then);
        }
        if let Some(FileOnFenceError(then)) = self.on_fence_error {
            rule = rule.on_fence_error(then);
        }
        Ok(rule)
    }
}

#[cfg(feature = "graphql")]
fn graphql_rule(ttl: Duration) -> Result<Rule, RuleFault> {
    Ok(Rule::graphql(ttl))
}

#[cfg(not(feature = "graphql"))]
fn graphql_rule(_: Duration) -> Result<Rule, RuleFault> {
    Err(RuleFault::new(NO_GRAPHQL, RulePart::Option("graphql")))
}

#[cfg(not(feature = "graphql"))]
const NO_GRAPHQL: &str = "options for GraphQL need the feature `graphql` of this crate";

pub(super) fn list<T>(option: Option<As<Vec<T>>>) -> Vec<T> {
    option.map(|As(list)| list).unwrap_or_default()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { query = \"sorted\", headers = [\"accept-language\"] }")]
pub(super) struct FileKey {
    /// The query in the key.
    query: Option<As<RouteAndQuery>>,
    /// The request fields in the key.
    headers: Option<As<Vec<HeaderName>>>,
    /// The cookies in the key.
    cookies: Option<As<Vec<Cookie>>>,
    /// The content of the request in the key.
    body: Option<As<RequestBody>>,
    /// The host is a part of the key.
    host: Option<bool>,
}

impl FileKey {
    fn extractor(self) -> Arc<dyn KeyExtractor> {
        let mut target = self.query.map_or(RouteAndQuery, |As(target)| target);
        if self.host == Some(false) {
            target = target.without_host();
        }
        let mut key: Arc<dyn KeyExtractor> = Arc::new(target);
        if let Some(As(names)) = self.headers {
            key = Arc::new(key.and(Headers::new(names)));
        }
        if let Some(As(body)) = self.body {
            key = Arc::new(key.and(body));
        }
        list(self.cookies).into_iter().fold(key, |key, cookie| Arc::new(key.and(cookie)))
    }
}

#[derive(Deserialize)]
pub(super) struct FileNormalise(#[serde(with = "NormaliseTable")] Normalise);

#[derive(Deserialize)]
#[serde(remote = "Normalise", default = "Normalise::rfc", deny_unknown_fields)]
#[serde(expecting = "a table such as { accept_encoding = \"ordered\" }")]
struct NormaliseTable {
    lists: bool,
    #[serde(with = "WeightsName")]
    accept_encoding: Weights,
    #[serde(with = "WeightsName")]
    accept_language: Weights,
    select_language: bool,
}

#[derive(Deserialize)]
#[serde(remote = "Weights", rename_all = "lowercase")]
enum WeightsName {
    Verbatim,
    Ordered,
    Unordered,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { limit = \"500ms\", then = \"reject\" }")]
pub(super) struct FileDeliveryTimeout {
    limit: As<Duration>,
    #[serde(with = "OnDeliveryTimeoutName")]
    then: OnDeliveryTimeout,
}

#[derive(Deserialize)]
#[serde(remote = "OnDeliveryTimeout", rename_all = "lowercase")]
enum OnDeliveryTimeoutName {
    #[serde(alias = "acknowledge")]
    Respond,
    Reject,
}

#[derive(Deserialize)]
pub(super) struct FileOnFenceError(#[serde(with = "OnFenceErrorName")] OnFenceError);

#[derive(Deserialize)]
#[serde(remote = "OnFenceError", rename_all = "lowercase")]
enum OnFenceErrorName {
    Reject,
    Proceed,
}
