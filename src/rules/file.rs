//! Rules from a file, through serde.
//!
//! What is checked where: the form of a value as it is read, so that the error names its line; what a rule means for its
//! route when the route is complete, so that the error names the line where the route begins.

use std::{error, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use super::{Rules, rule::Rule, value};
use crate::key::{Cookie, CredentialFields, Headers, KeyExtractor, RouteAndQuery};

/// A table of routes as a file has it. Needs the feature `config`.
///
/// Each option of [`Rule`] that is data stands under its own name; closures have none. Lengths of time are `"250ms"`,
/// `"60s"`, `"5m"`, `"1h30m"` or `"2d"`, sizes are whole numbers of bytes or `"64KiB"`, `"1MiB"`, `"1GiB"`, `"1MB"`. A file may
/// have a `[fallback]`, the rule of all requests that no route matches.
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
///     max_body = "1MiB"
///     soft_timeout = "2s"
///     distributed_lock = "30s"
///     etag = false
///     normalise = { accept_encoding = "ordered", select_language = true } # also accept_language: "verbatim", "unordered"; lists
///     cache_groups = false
///     identity = "bearer"                             # "cookie:NAME", "header:NAME"; { by = "bearer", required = true }
///     ignore_credentials = false
///     ignore_cookies = false
///     path_as_text = false
///     ignore_forwarded = false
///     namespaces = ["t", "t:{table}"]                 # `Rule::namespace`
///     invalidates = ["t:{table}"]                     # without it: the rule's namespaces
///     invalidates_on = { DELETE = ["t"] }
///     invalidates_nothing = false
///     invalidates_softly = false
///     skip_on_client_error = false
///     skip_on_error = false
///     hold = { limit = "500ms", then = "acknowledge" } # "reject"
///     on_fence_error = "reject"                       # "proceed"
///
///     [route.key]
///     query = { without = ["utm_*"] }                 # "sorted" (the default), "as-sent", { only = [...] }
///     headers = ["accept-language"]
///     cookies = ["theme"]
///     host = true
///
///     [fallback]
///     http = true                                     # with it, besides:
///     default_ttl = "0s"
///     heuristics = false
///     targeted = ["cdn-cache-control"]
///     stale_if_unreachable = "1h"
///     keep_for_validation = "1d"
/// "#);
/// assert!(rules.is_ok());
///
/// let error = Rules::from_toml("[[route]]\npath = '/t'\nttl = '60'\n").unwrap_err();
/// assert_eq!(error.line(), Some(3));
/// ```
#[cfg_attr(docsrs, doc(cfg(feature = "config")))]
impl<'de> Deserialize<'de> for Rules {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let File { route: Routes(rules), fallback, credential_fields } = File::deserialize(from)?;
        let rules = match credential_fields {
            Some(fields) => rules.credential_fields(fields.list()),
            None => rules,
        };
        match fallback {
            Some(Fallback(rule)) => rules.try_fallback(rule).map_err(D::Error::custom),
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
    /// Where [`try_route`](Self::try_route) has one, and if the text is not TOML, has a name that is not known, or a value
    /// that is not of its kind. The error names the line and what is allowed there.
    pub fn from_toml(text: &str) -> Result<Self, RulesFileError> {
        toml::from_str(text).map_err(|error| RulesFileError::new(text, error))
    }
}

/// Why a file is not a table of routes: one line of text that names the line of the file, and what is allowed there.
#[derive(Debug, Clone)]
#[cfg_attr(docsrs, doc(cfg(feature = "config")))]
pub struct RulesFileError {
    line: Option<usize>,
    toml: toml::de::Error,
}

impl RulesFileError {
    fn new(text: &str, toml: toml::de::Error) -> Self {
        let line = toml.span().map(|span| 1 + text.as_bytes().iter().take(span.start).filter(|b| **b == b'\n').count());
        Self { line, toml }
    }

    /// The line, counted from 1, if the error has a place.
    pub fn line(&self) -> Option<usize> {
        self.line
    }
}

impl fmt::Display for RulesFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        f.write_str(self.toml.message())
    }
}

impl error::Error for RulesFileError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        Some(&self.toml)
    }
}

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table of `route`, `fallback` and `credential_fields`")]
struct File {
    #[serde(default)]
    route: Routes,
    #[serde(default)]
    fallback: Option<Fallback>,
    credential_fields: Option<FileCredentials>,
}

/// Changes to [`CredentialFields::default`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { add = [\"x-tenant-token\"], remove = [\"job-token\"] }")]
struct FileCredentials {
    add: Option<value::HeaderNames>,
    remove: Option<value::HeaderNames>,
}

impl FileCredentials {
    fn list(self) -> CredentialFields {
        let names = |names: Option<value::HeaderNames>| names.map(|names| names.0).unwrap_or_default();
        CredentialFields::default().with(names(self.add)).without(names(self.remove))
    }
}

/// What `[[route]]` and `[fallback]` can say: each option of [`Rule`] that is data, under its own name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { path = \"/t/{table}\", ttl = \"60s\" }")]
struct Entry {
    path: Option<String>,
    ttl: Option<value::Span>,
    http: Option<bool>,
    uncached: Option<bool>,
    default_ttl: Option<value::Span>,
    heuristics: Option<bool>,
    targeted: Option<value::HeaderNames>,
    stale_if_unreachable: Option<value::Span>,
    keep_for_validation: Option<value::Span>,
    statuses: Option<value::Statuses>,
    stale_while_revalidate: Option<value::Span>,
    stale_if_error: Option<value::Span>,
    refresh_ahead: Option<value::Number>,
    jitter: Option<value::Number>,
    soft_timeout: Option<value::Span>,
    distributed_lock: Option<value::Span>,
    max_body: Option<value::Size>,
    etag: Option<bool>,
    normalise: Option<value::Normal>,
    cache_groups: Option<bool>,
    key: Option<FileKey>,
    identity: Option<value::Who>,
    ignore_credentials: Option<bool>,
    ignore_cookies: Option<bool>,
    path_as_text: Option<bool>,
    ignore_forwarded: Option<bool>,
    namespaces: Option<value::List>,
    invalidates: Option<value::List>,
    invalidates_on: Option<value::ByMethod>,
    invalidates_nothing: Option<bool>,
    invalidates_softly: Option<bool>,
    skip_on_client_error: Option<bool>,
    skip_on_error: Option<bool>,
    hold: Option<value::Hold>,
    on_fence_error: Option<value::NoFence>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { query = \"sorted\", headers = [\"accept-language\"] }")]
struct FileKey {
    query: Option<value::Params>,
    headers: Option<value::HeaderNames>,
    cookies: Option<value::CookieNames>,
    host: Option<bool>,
}

impl Entry {
    /// The rule as it begins: where the lifetime of its responses comes from.
    fn lifetime(&self) -> Result<Rule, String> {
        let named = [
            self.ttl.as_ref().map(|ttl| Rule::ttl(ttl.0)),
            self.http.and_then(|on| on.then(Rule::http)),
            self.uncached.and_then(|on| on.then(Rule::uncached)),
            // One line for each further kind of lifetime, and its name in LIFETIMES.
        ];
        let mut named = named.into_iter().flatten();
        match (named.next(), named.next()) {
            (Some(rule), None) => Ok(rule),
            _ => Err(format!("a rule has exactly one of {LIFETIMES}")),
        }
    }

    fn rule(self) -> Result<Rule, String> {
        let mut rule = self.lifetime()?;
        for (status, ttl) in self.statuses.unwrap_or_default().0 {
            rule = rule.status(status, ttl);
        }
        rule = with(rule, self.stale_while_revalidate, |rule, window| rule.stale_while_revalidate(window.0));
        rule = with(rule, self.stale_if_error, |rule, window| rule.stale_if_error(window.0));
        rule = with(rule, self.refresh_ahead, |rule, beta| rule.refresh_ahead(beta.0));
        rule = with(rule, self.jitter, |rule, share| rule.jitter(share.0));
        rule = with(rule, self.max_body, |rule, bytes| rule.max_body(bytes.0));
        rule = with(rule, self.default_ttl, |rule, ttl| rule.default_ttl(ttl.0));
        rule = with(rule, self.heuristics, Rule::heuristics);
        rule = with(rule, self.targeted, |rule, fields| rule.targeted(fields.0));
        rule = with(rule, self.stale_if_unreachable, |rule, window| rule.stale_if_unreachable(window.0));
        rule = with(rule, self.keep_for_validation, |rule, window| rule.keep_for_validation(window.0));
        rule = with(rule, self.soft_timeout, |rule, limit| rule.soft_timeout(limit.0));
        rule = with(rule, self.distributed_lock, |rule, lease| rule.distributed_lock(lease.0));
        rule = on(rule, self.etag, Rule::etag);
        rule = with(rule, self.normalise, |rule, normal| rule.normalise(normal.0));
        rule = on(rule, self.cache_groups, Rule::cache_groups);
        // The key first: an identity is added to it.
        rule = with(rule, self.key, |rule, key| rule.key(key.extractor()));
        rule = with(rule, self.identity, |rule, who| rule.identity(who.0));
        rule = on(rule, self.ignore_credentials, Rule::ignore_credentials);
        rule = on(rule, self.ignore_cookies, Rule::ignore_cookies);
        rule = on(rule, self.path_as_text, Rule::path_as_text);
        rule = on(rule, self.ignore_forwarded, Rule::ignore_forwarded);
        rule = self.namespaces.unwrap_or_default().0.iter().fold(rule, |rule, template| rule.namespace(template));

        let nothing = self.invalidates_nothing == Some(true);
        if nothing && (self.invalidates.is_some() || self.invalidates_on.is_some()) {
            return Err("`invalidates_nothing` stands beside `invalidates` or `invalidates_on`; only one can hold".into());
        }
        // An empty list says as much: without any list at all, the rule's own namespaces are cleared.
        if nothing || self.invalidates.is_some() || self.invalidates_on.is_some() {
            rule = rule.invalidates_nothing();
        }
        rule = self.invalidates.unwrap_or_default().0.iter().fold(rule, |rule, template| rule.invalidates(template));
        for (method, templates) in self.invalidates_on.unwrap_or_default().0 {
            rule = templates.0.iter().fold(rule, |rule, template| rule.invalidates_on([method.clone()], template));
        }
        rule = on(rule, self.invalidates_softly, Rule::invalidates_softly);
        rule = on(rule, self.skip_on_client_error, Rule::skip_on_client_error);
        rule = on(rule, self.skip_on_error, Rule::skip_on_error);
        rule = with(rule, self.hold, |rule, hold| rule.delivery_timeout(hold.limit, hold.then));
        Ok(with(rule, self.on_fence_error, |rule, then| rule.on_fence_error(then.0)))
    }
}

/// The names of what [`Entry::lifetime`] knows.
const LIFETIMES: &str = "`ttl = \"60s\"`, `http = true` and `uncached = true`";

fn with<T>(rule: Rule, option: Option<T>, set: impl FnOnce(Rule, T) -> Rule) -> Rule {
    match option {
        Some(value) => set(rule, value),
        None => rule,
    }
}

fn on(rule: Rule, option: Option<bool>, set: impl FnOnce(Rule) -> Rule) -> Rule {
    if option == Some(true) { set(rule) } else { rule }
}

impl FileKey {
    fn extractor(self) -> Arc<dyn KeyExtractor> {
        let mut target = match self.query {
            None | Some(value::Params::Sorted) => RouteAndQuery,
            Some(value::Params::AsSent) => RouteAndQuery.query_as_sent(),
            Some(value::Params::Only(names)) => RouteAndQuery.only_query(names),
            Some(value::Params::Without(names)) => RouteAndQuery.without_query(names),
            Some(value::Params::By(variance)) => RouteAndQuery.no_vary_search(variance),
        };
        if self.host == Some(false) {
            target = target.without_host();
        }
        let mut key: Arc<dyn KeyExtractor> = Arc::new(target);
        if let Some(value::HeaderNames(names)) = self.headers {
            key = Arc::new(key.and(Headers::new(names)));
        }
        for name in self.cookies.unwrap_or_default().0 {
            key = Arc::new(key.and(Cookie::new(&name)));
        }
        key
    }
}

/// The routes of a file, checked one by one as they are read: an error then has the place of its route.
#[derive(Default)]
struct Routes(Rules);

impl<'de> Deserialize<'de> for Routes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct List;

        impl<'de> Visitor<'de> for List {
            type Value = Routes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of routes; in TOML each begins with `[[route]]`")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Routes, A::Error> {
                let mut rules = Rules::new();
                while let Some(longer) = list.next_element_seed(Route(&rules))? {
                    rules = longer;
                }
                Ok(Routes(rules))
            }
        }

        from.deserialize_seq(List)
    }
}

/// Reads one route into the table of those before it.
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
        let mut entry = Entry::deserialize(MapAccessDeserializer::new(map))?;
        let Some(path) = entry.path.take() else {
            return Err(A::Error::custom("a route has a `path`, such as \"/t/{table}\""));
        };
        let rule = entry.rule().map_err(|why| A::Error::custom(format_args!("route {path:?}: {why}")))?;
        self.0.clone().try_route(&path, rule).map_err(A::Error::custom)
    }
}

/// The rule of what no route matches.
struct Fallback(Rule);

impl<'de> Deserialize<'de> for Fallback {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Table;

        impl<'de> Visitor<'de> for Table {
            type Value = Fallback;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table such as { ttl = \"60s\" }")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Fallback, A::Error> {
                let entry = Entry::deserialize(MapAccessDeserializer::new(map))?;
                if entry.path.is_some() {
                    return Err(A::Error::custom("`fallback` has no `path`: it covers what no route matches"));
                }
                let rule = entry.rule().map_err(|why| A::Error::custom(format_args!("fallback: {why}")))?;
                Rules::new().try_fallback(rule.clone()).map_err(A::Error::custom)?;
                Ok(Fallback(rule))
            }
        }

        from.deserialize_map(Table)
    }
}
