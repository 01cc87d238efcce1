//! Rules from a file, through serde.
//!
//! A value is checked as it is read: its error names its own line. A rule is checked once its table is complete: its error names
//! the line where the table begins.

pub(crate) mod error;
pub(crate) mod file;
mod form;

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderName, Method, StatusCode};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use self::{
    error::RulesFileError,
    form::{As, Document, Form},
};
use super::{
    failure::{OnDeliveryTimeout, OnFenceError},
    rule::Rule,
    table::Rules,
};
use crate::{
    key::{Cookie, CredentialFields, Headers, Identity, KeyExtractor, RequestBody, RouteAndQuery},
    semantics::{Normalise, Weights},
};

/// Reads a table of routes from any format of serde. Needs the feature `config`.
///
/// Each option of [`Rule`] that is data has the name of its method. Options that take closures cannot be set in a file. A duration is
/// written `"250ms"`, `"60s"`, `"5m"`, `"1h30m"` or `"2d"`. A size is a whole number of bytes, or `"64KiB"`, `"1MiB"`, `"1GiB"` or
/// `"1MB"`. `[fallback]` is the rule of all requests that no route matches.
///
/// ```
/// use tower_response_cache::Rules;
///
/// let rules = Rules::from_toml(r#"
///     credential_fields = { add = ["x-tenant-token"], remove = [] }  # `Rules::credential_fields`
///
///     [[route]]
///     path = "/t/{table}"
///     ttl = "60s"                                     # or: http = true, or: uncached = true
///     statuses = { 404 = "5s" }                       # `Rule::status`
///     stale_while_revalidate = "5s"
///     stale_if_error = "1h"
///     refresh_ahead = 1.0
///     jitter = 0.1
///     audit = 0.01
///     shadow = false
///     audit_ignoring = ["x-served-by"]
///     max_body = "1MiB"
///     reads_by_post = false
///     max_request_body = "64KiB"
///     rpc = true                                      # with `ttl`: `Rule::rpc`
///     rpc_statuses = { 5 = "5s" }                     # `Rule::rpc_status`
///     rpc_age = false
///     soft_timeout = "2s"
///     distributed_lock = "30s"
///     etag = false
///     normalise = { accept_encoding = "ordered", select_language = true } # also accept_language: "verbatim", "unordered"; lists
///     cache_groups = false
///     namespaces_from_header = "cache-namespaces"
///     identity = "bearer"                             # "cookie:NAME", "header:NAME"; { by = "bearer", required = true }
///     ignore_credentials = false
///     ignore_cookies = false
///     path_as_text = false
///     ignore_forwarded = false
///     namespaces = ["t", "t:{table}"]                 # `Rule::namespace`
///     invalidates = ["t:{table}"]                     # without it: the rule's namespaces
///     invalidates_on = { DELETE = ["t"] }
///     invalidates_nothing = false
///     invalidates_from_header = "cache-invalidates"
///     invalidates_softly = false
///     skip_on_client_error = false
///     skip_on_error = false
///     delivery_timeout = { limit = "500ms", then = "respond" } # "reject"
///     on_fence_error = "reject"                       # "proceed"
///
///     [route.key]
///     query = { without = ["utm_*"] }                 # "sorted" (the default), "as-sent", { only = [...] }
///     headers = ["accept-language"]
///     cookies = ["theme"]
///     body = "bytes"                                  # "json", "form": `RequestBody`
///     host = true
///
///     [[route]]
///     path = "/graphql"
///     ttl = "60s"
///     graphql = true                                  # with `ttl`: `Rule::graphql`; needs the feature `graphql`
///     graphql_entities = true
///     graphql_documents = ["query Notes { notes { text } }"] # `Rule::graphql_document`
///
///     [fallback]
///     http = true                                     # allows these options:
///     default_ttl = "0s"
///     heuristics = false
///     targeted = ["cdn-cache-control"]
///     stale_if_unreachable = "1h"
///     keep_for_validation = "1d"
/// "#);
/// # #[cfg(feature = "graphql")]
/// assert!(rules.is_ok());
///
/// let error = Rules::from_toml("[[route]]\npath = '/t'\nttl = '60'\n").unwrap_err();
/// assert_eq!(error.line(), Some(3));
/// ```
///
/// # Old names
///
/// Version 0.1 also accepts the former names of some options. A table must not use both names of one option.
///
/// | name | former name |
/// |---|---|
/// | `refresh_ahead` | `early_refresh` |
/// | `distributed_lock` | `fill_across_processes` |
/// | `skip_on_client_error` | `spare_client_errors` |
/// | `skip_on_error` | `spare_errors` |
/// | `delivery_timeout` | `hold` |
/// | `delivery_timeout.then = "respond"` | `then = "acknowledge"` |
#[cfg_attr(docsrs, doc(cfg(feature = "config")))]
impl<'de> Deserialize<'de> for Rules {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let FileTable { route, fallback, credential_fields } = FileTable::deserialize(from)?;
        let mut rules = route.map_or_else(Rules::new, |As(Routes(rules))| rules);
        if let Some(fields) = credential_fields {
            rules = rules.credential_fields(CredentialFields::default().with(list(fields.add)).without(list(fields.remove)));
        }
        match fallback {
            Some(As(Fallback(rule))) => rules.try_fallback(rule).map_err(D::Error::custom),
            None => Ok(rules),
        }
    }
}

#[cfg_attr(docsrs, doc(cfg(feature = "config")))]
impl Rules {
    /// Reads a table of routes from TOML; see [its form](#impl-Deserialize%3C'de%3E-for-Rules). Needs the feature `config`.
    ///
    /// # Errors
    ///
    /// If the text is not TOML, if it has an unknown name or a value in a wrong form, and where [`try_route`](Self::try_route) returns an
    /// error. The error names the line and the allowed values.
    pub fn from_toml(text: &str) -> Result<Self, RulesFileError> {
        toml::from_str(text).map_err(|error| RulesFileError::new(text, error))
    }
}

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table of `route`, `fallback` and `credential_fields`")]
struct FileTable {
    route: Option<As<Routes>>,
    fallback: Option<As<Fallback>>,
    credential_fields: Option<FileCredentials>,
}

/// Changes to [`CredentialFields::default`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { add = [\"x-tenant-token\"], remove = [\"job-token\"] }")]
struct FileCredentials {
    add: Option<As<Vec<HeaderName>>>,
    remove: Option<As<Vec<HeaderName>>>,
}

/// The options of `[[route]]` and `[fallback]`: each option of [`Rule`] that is data.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { path = \"/t/{table}\", ttl = \"60s\" }")]
struct FileRule {
    path: Option<String>,
    ttl: Option<As<Duration>>,
    http: Option<bool>,
    uncached: Option<bool>,
    default_ttl: Option<As<Duration>>,
    heuristics: Option<bool>,
    targeted: Option<As<Vec<HeaderName>>>,
    stale_if_unreachable: Option<As<Duration>>,
    keep_for_validation: Option<As<Duration>>,
    statuses: Option<As<Vec<(StatusCode, Duration)>>>,
    stale_while_revalidate: Option<As<Duration>>,
    stale_if_error: Option<As<Duration>>,
    #[serde(alias = "early_refresh")]
    refresh_ahead: Option<As<f64>>,
    jitter: Option<As<f64>>,
    audit: Option<As<f64>>,
    audit_ignoring: Option<As<Vec<HeaderName>>>,
    shadow: Option<bool>,
    soft_timeout: Option<As<Duration>>,
    #[serde(alias = "fill_across_processes")]
    distributed_lock: Option<As<Duration>>,
    max_body: Option<As<usize>>,
    reads_by_post: Option<bool>,
    rpc: Option<bool>,
    rpc_statuses: Option<As<Vec<(i32, Duration)>>>,
    rpc_age: Option<bool>,
    graphql: Option<bool>,
    graphql_entities: Option<bool>,
    graphql_documents: Option<As<Vec<Document>>>,
    max_request_body: Option<As<usize>>,
    etag: Option<bool>,
    normalise: Option<FileNormalise>,
    cache_groups: Option<bool>,
    namespaces_from_header: Option<As<HeaderName>>,
    key: Option<FileKey>,
    identity: Option<As<Identity>>,
    ignore_credentials: Option<bool>,
    ignore_cookies: Option<bool>,
    path_as_text: Option<bool>,
    ignore_forwarded: Option<bool>,
    namespaces: Option<As<Vec<String>>>,
    invalidates: Option<As<Vec<String>>>,
    invalidates_on: Option<As<TemplatesByMethod>>,
    invalidates_nothing: Option<bool>,
    invalidates_from_header: Option<As<HeaderName>>,
    invalidates_softly: Option<bool>,
    #[serde(alias = "spare_client_errors")]
    skip_on_client_error: Option<bool>,
    #[serde(alias = "spare_errors")]
    skip_on_error: Option<bool>,
    #[serde(alias = "hold")]
    delivery_timeout: Option<FileDeliveryTimeout>,
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
    fn rule(mut self) -> Result<Rule, String> {
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
        rule = self.graphql_options(rule)?;
        self.writes(rule)
    }

    /// The rule without options: it says where the lifetime of its responses comes from.
    fn lifetime(&self) -> Result<Rule, String> {
        let kinds = [("rpc", self.rpc), ("graphql", self.graphql)];
        let mut kinds = kinds.into_iter().filter(|(_, on)| *on == Some(true)).map(|(name, _)| name);
        let kind = kinds.next();
        if kinds.next().is_some() {
            return Err("a rule has at most one of `rpc = true` and `graphql = true`".into());
        }
        if let Some(kind) = kind.filter(|_| self.ttl.is_none()) {
            return Err(format!("`{kind} = true` stands without `ttl`; write `ttl = \"60s\"` beside it"));
        }
        match (&self.ttl, self.http == Some(true), self.uncached == Some(true)) {
            (Some(As(ttl)), false, false) if kind == Some("rpc") => Ok(Rule::rpc(*ttl)),
            (Some(As(ttl)), false, false) if kind == Some("graphql") => graphql_rule(*ttl),
            (Some(As(ttl)), false, false) => Ok(Rule::ttl(*ttl)),
            (None, true, false) => Ok(Rule::http()),
            (None, false, true) => Ok(Rule::uncached()),
            _ => Err("a rule has exactly one of `ttl = \"60s\"`, `http = true` and `uncached = true`".into()),
        }
    }

    #[cfg(feature = "graphql")]
    fn graphql_options(&mut self, mut rule: Rule) -> Result<Rule, String> {
        turn_on!(rule, self: graphql_entities);
        let documents = list(self.graphql_documents.take());
        Ok(documents.iter().fold(rule, |rule, Document(text)| rule.graphql_document(text)))
    }

    #[cfg(not(feature = "graphql"))]
    fn graphql_options(&mut self, rule: Rule) -> Result<Rule, String> {
        match self.graphql_entities == Some(true) || self.graphql_documents.take().is_some() {
            true => Err(NO_GRAPHQL.into()),
            false => Ok(rule),
        }
    }

    /// Adds the options of writes.
    fn writes(self, mut rule: Rule) -> Result<Rule, String> {
        let lists = self.invalidates.is_some() || self.invalidates_on.is_some();
        if lists && self.invalidates_nothing == Some(true) {
            return Err("`invalidates_nothing` stands beside `invalidates` or `invalidates_on`; only one can hold".into());
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
fn graphql_rule(ttl: Duration) -> Result<Rule, String> {
    Ok(Rule::graphql(ttl))
}

#[cfg(not(feature = "graphql"))]
fn graphql_rule(_: Duration) -> Result<Rule, String> {
    Err(NO_GRAPHQL.into())
}

#[cfg(not(feature = "graphql"))]
const NO_GRAPHQL: &str = "options for GraphQL need the feature `graphql` of this crate";

fn list<T>(option: Option<As<Vec<T>>>) -> Vec<T> {
    option.map(|As(list)| list).unwrap_or_default()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { query = \"sorted\", headers = [\"accept-language\"] }")]
struct FileKey {
    query: Option<As<RouteAndQuery>>,
    headers: Option<As<Vec<HeaderName>>>,
    cookies: Option<As<Vec<Cookie>>>,
    body: Option<As<RequestBody>>,
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
struct FileNormalise(#[serde(with = "NormaliseTable")] Normalise);

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
struct FileDeliveryTimeout {
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
struct FileOnFenceError(#[serde(with = "OnFenceErrorName")] OnFenceError);

#[derive(Deserialize)]
#[serde(remote = "OnFenceError", rename_all = "lowercase")]
enum OnFenceErrorName {
    Reject,
    Proceed,
}

/// Adds a route to the table of those before it, so that an error has the place of the route.
struct Route<'a>(&'a Rules);

impl<'de> DeserializeSeed<'de> for Route<'_> {
    type Value = Rules;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Rules, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Route<'_> {
    type Value = Rules;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table such as { path = \"/t/{table}\", ttl = \"60s\" }")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Rules, A::Error> {
        let mut file = FileRule::deserialize(MapAccessDeserializer::new(map))?;
        let Some(path) = file.path.take() else {
            return Err(A::Error::custom("a route has a `path`, such as \"/t/{table}\""));
        };
        let rule = file.rule().map_err(|why| A::Error::custom(format_args!("route {path:?}: {why}")))?;
        self.0.clone().try_route(&path, rule).map_err(A::Error::custom)
    }
}

struct Routes(Rules);

impl<'de> Form<'de> for Routes {
    const EXPECTED: &'static str = "a list of routes; in TOML each begins with `[[route]]`";

    fn list<A: SeqAccess<'de>>(mut routes: A) -> Result<Self, A::Error> {
        let mut rules = Rules::new();
        while let Some(longer) = routes.next_element_seed(Route(&rules))? {
            rules = longer;
        }
        Ok(Self(rules))
    }
}

struct Fallback(Rule);

impl<'de> Form<'de> for Fallback {
    const EXPECTED: &'static str = "a table such as { ttl = \"60s\" }";

    fn table<A: MapAccess<'de>>(table: A) -> Result<Self, A::Error> {
        let file = FileRule::deserialize(MapAccessDeserializer::new(table))?;
        if file.path.is_some() {
            return Err(A::Error::custom("`fallback` has no `path`: it covers what no route matches"));
        }
        let rule = file.rule().map_err(|why| A::Error::custom(format_args!("fallback: {why}")))?;
        Rules::new().try_fallback(rule.clone()).map_err(A::Error::custom)?;
        Ok(Self(rule))
    }
}
