//! Rules: which responses of a route are cached, for how long, and which namespaces a write invalidates.

#[cfg(feature = "config")]
pub(crate) mod config;
pub(crate) mod error;
pub(crate) mod failure;
pub(crate) mod http;
pub(crate) mod policy;
pub(crate) mod rule;
pub(crate) mod template;
pub(crate) mod views;

#[cfg(feature = "config")]
#[cfg_attr(docsrs, doc(cfg(feature = "config")))]
pub use self::config::RulesFileError;
pub use self::{
    error::{RulesError, RulesErrorKind},
    rule::Rule,
};

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ::http::{Extensions, Uri};

use crate::{
    key::{self, CredentialFields, FieldTable, Key, RequestView},
    route::{params::Params, router::Router},
    rules::{policy::Policy, views::Views},
    secret::Secret,
    stats::warnings::RuleUsage,
    store::Store,
};

/// A table of routes with the rule of each, for one layer or several.
///
/// Patterns are those of axum's router ([`matchit`]): `/tables/{table}` has a parameter, `/files/{*path}` takes all that
/// follows, and where several match, the most specific wins. Requests that no pattern matches pass untouched.
///
/// What is matched is the path as the layer sees it. A layer inside of a router that is nested under `/api` sees `/tables/x`
/// where the client has sent `/api/tables/x`; with the feature `axum` it takes the patterns of either, the shorter path first. A
/// [`CacheLayer`](crate::CacheLayer) outside of the nested router sees `/api/tables/x` alone: its patterns need the prefix.
///
/// A write finds what any reader of its target may have found, so that one table serves layers on both sides of a nested router: also the
/// patterns of the path without dot segments, without encodings of unreserved characters, and without empty segments, and where none
/// matches, those of the path without its first segments. All rules that are found so say what is invalidated; the first of them says
/// the rest.
///
/// `Rules` are cheap to clone: give the same to [`CacheLayer`](crate::CacheLayer) and [`InvalidateLayer`](crate::InvalidateLayer).
///
/// ```
/// use std::time::Duration;
/// use tower_response_cache::{Identity, Rule, Rules};
///
/// let minute = Duration::from_secs(60);
/// let rules = Rules::new()
///     .route("/auth/user", Rule::ttl(30 * minute).identity(Identity::bearer()).namespace("auth:user:{identity}"))
///     .route("/tables/{table}", Rule::ttl(minute).namespace("db_query:{table}"))
///     .route("/storage/{bucket}", Rule::ttl(5 * minute).namespace("storage:list:{bucket}"));
///
/// let error = rules.try_route("/tables/{name}", Rule::ttl(minute)).unwrap_err();
/// assert_eq!(error.to_string(), "route \"/tables/{name}\" overlaps with \"/tables/{table}\", which is there already");
/// ```
#[derive(Clone, Default)]
pub struct Rules {
    table: Arc<Table>,
}

#[derive(Clone, Default)]
struct Table {
    /// Whether a request has come.
    asked: Arc<AtomicBool>,
    /// Their places in the list of rules.
    router: Router,
    patterns: Vec<String>,
    fallback: Option<usize>,
    rules: Vec<Arc<Policy>>,
    /// Which fields of requests matter to keys by their names.
    fields: Arc<FieldTable>,
}

/// The rule that covers a request.
pub(crate) struct RouteMatch<'a> {
    /// Its place in the table.
    pub(crate) place: usize,
    pub(crate) rule: &'a Arc<Policy>,
    /// The parameters of its route.
    pub(crate) params: Params<'a>,
}

impl Rules {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a route.
    ///
    /// # Panics
    ///
    /// Where [`try_route`](Self::try_route) answers with an error; the message says which route and why.
    #[must_use]
    #[track_caller]
    pub fn route(self, pattern: &str, rule: Rule) -> Self {
        match self.try_route(pattern, rule) {
            Ok(rules) => rules,
            Err(error) => panic!("{error}"),
        }
    }

    /// Adds a route, or says why not.
    ///
    /// # Errors
    ///
    /// If the pattern is not one, if it overlaps with another, if a template names a parameter that the pattern does not
    /// have, if a namespace is empty or too long, or if a setting of the rule is out of range.
    pub fn try_route(mut self, pattern: &str, rule: Rule) -> Result<Self, RulesError> {
        let compiled = Arc::new(Policy::new(Some(pattern), rule, &self.table.fields)?);
        let table = Arc::make_mut(&mut self.table);
        table.router.insert(pattern, table.rules.len()).map_err(|why| RulesError::insert(pattern, &why))?;
        table.rules.push(compiled);
        table.patterns.push(pattern.to_owned());
        Ok(self)
    }

    /// The rule of all requests that no route matches.
    ///
    /// # Panics
    ///
    /// As [`route`](Self::route). A template of such a rule can name `{identity}` and no other parameter.
    #[must_use]
    #[track_caller]
    pub fn fallback(self, rule: Rule) -> Self {
        match self.try_fallback(rule) {
            Ok(rules) => rules,
            Err(error) => panic!("{error}"),
        }
    }

    /// As [`fallback`](Self::fallback), with an error in place of the panic.
    ///
    /// # Errors
    ///
    /// As [`try_route`](Self::try_route).
    pub fn try_fallback(mut self, rule: Rule) -> Result<Self, RulesError> {
        let compiled = Arc::new(Policy::new(None, rule, &self.table.fields)?);
        let table = Arc::make_mut(&mut self.table);
        table.fallback = Some(table.rules.len());
        table.rules.push(compiled);
        Ok(self)
    }

    /// Sets which header fields say who the client is, for all rules of the table, those that are added later too. Defaults to
    /// [`CredentialFields::default`]. Give all layers over one store the same list.
    ///
    /// ```
    /// use tower_response_cache::{Rules, key::CredentialFields};
    ///
    /// let rules = Rules::new().credential_fields(CredentialFields::default().with(["x-tenant-token"]));
    /// # drop(rules);
    /// ```
    #[must_use]
    pub fn credential_fields(mut self, fields: CredentialFields) -> Self {
        let fields = Arc::new(FieldTable::new(&fields));
        let table = Arc::make_mut(&mut self.table);
        table.rules.iter_mut().for_each(|rule| Arc::make_mut(rule).set_fields(&fields));
        table.fields = fields;
        self
    }

    /// The key that a request has, for [`Store::invalidate_key`]. It names all entries that differ from each other only in the
    /// [forwarding fields](Rule::ignore_forwarded) of their requests or in what responses vary by. `None` if no rule covers it, its extractor leaves it alone,
    /// or the key would be too long; a request that bypasses the cache for another reason has a key all the same.
    ///
    /// Its target is the one that the client sends. That names the entries of a nested router, too: `/api/tables/x` finds the pattern
    /// `/tables/{table}` if no other matches. All spellings of a target are invalidated by the key of one of them: see
    /// [equivalent targets](crate::invalidate#equivalent-targets).
    ///
    /// It needs the store because secrets are hashed under the store's key.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use std::time::Duration;
    /// use http::Request;
    /// use tower_response_cache::{Memory, Rule, Rules, Store};
    ///
    /// let store = Memory::new(1 << 20);
    /// let rules = Rules::new().route("/tables/{table}", Rule::ttl(Duration::from_secs(60)));
    /// let request = Request::get("/tables/orders?page=2").header("host", "api.example").body(()).unwrap();
    ///
    /// let key = rules.key(&store, &request).expect("a rule covers it");
    /// store.invalidate_key(&key).await.unwrap();
    /// # });
    /// ```
    pub fn key<St: Store, B>(&self, store: &St, request: &::http::Request<B>) -> Option<Key> {
        let secret = &store.context().secret;
        if let Some(RouteMatch { rule, params, .. }) = self.find(request.uri(), request.extensions()) {
            return rule.key(&RequestView::of(request, &params, secret));
        }
        let views = Views::of(request.uri(), request.extensions());
        let RouteMatch { rule, params, .. } = self.covering(&views).into_iter().next()?;
        rule.key(&RequestView::of(request, &params, secret))
    }

    /// The keys by which what is stored for a URI is cleared with a write to it: that which this request would have as a GET, and that of
    /// the URI itself, under each rule by which a reader may have found it.
    pub(crate) fn keys_of_uri<B>(&self, secret: &Secret, request: &::http::Request<B>, views: &Views<'_>) -> Vec<Key> {
        let keys = |RouteMatch { rule, params, .. }: RouteMatch<'_>| {
            let view = RequestView::of(request, &params, secret);
            [rule.key(&view), rule.key_of_uri(&view)]
        };
        self.covering(views).into_iter().flat_map(keys).flatten().collect()
    }

    /// The rules by which a reader may have found what is stored for a target, whichever layer it was and however the target was spelled.
    /// The first is that of the target as this layer sees it, if there is one. A rule that several paths of the target lead to is there
    /// with the parameters of each.
    pub(crate) fn covering<'a>(&'a self, views: &'a Views<'_>) -> Vec<RouteMatch<'a>> {
        let table = &*self.table;
        let found = |place: usize, params| table.found_for_write(place, params);
        let route = |path: &'a str| table.router.at(path).map(|(place, params)| found(place, params));
        let paths = || views.paths().map(route);
        let mut all: Vec<_> = paths().flatten().collect();
        let is_direct = !all.is_empty();
        if let Some(place) = table.fallback.filter(|_| paths().any(|found| found.is_none())) {
            all.push(found(place, Params::none()));
        }
        if !is_direct {
            all.extend(views.guesses().find_map(route));
        }
        all
    }

    /// Whether a rule may cover a request: cheap, and most that none does are known by it.
    #[inline]
    pub(crate) fn may_cover(&self, uri: &Uri, extensions: &Extensions) -> bool {
        let table = &*self.table;
        let may = table.router.may_have(uri.path()) || table.fallback.is_some() || {
            !key::is_as_sent(uri, extensions) && table.router.may_have(key::path_as_sent(uri, extensions))
        };
        if !may && !table.asked.load(Ordering::Relaxed) {
            table.asked.store(true, Ordering::Relaxed);
        }
        may
    }

    /// Returns the routes whose rules have matched no request so far, in this table or in a clone of it. A write counts for a rule that
    /// [caches nothing](Rule::uncached) alone: [`InvalidateLayer`](crate::InvalidateLayer) finds rules by more paths than a read does.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::{Rule, Rules};
    ///
    /// let rules = Rules::new().route("/tables/{table}", Rule::ttl(Duration::from_secs(60)));
    /// assert_eq!(rules.unmatched().collect::<Vec<_>>(), ["/tables/{table}"]);
    /// ```
    pub fn unmatched(&self) -> impl Iterator<Item = &str> {
        self.table.unmatched()
    }

    pub(crate) fn are_none(&self) -> bool {
        self.table.rules.is_empty()
    }

    /// Returns the table as the statistics watch it.
    pub(crate) fn usage(&self) -> Arc<dyn RuleUsage> {
        self.table.clone()
    }

    /// The rule that covers a request.
    #[inline]
    pub(crate) fn find<'a>(&'a self, uri: &'a Uri, extensions: &'a Extensions) -> Option<RouteMatch<'a>> {
        let table = &*self.table;
        let found = |place: usize, params| table.found(place, params);
        let route = |path: &'a str| table.router.at(path).map(|(place, params)| found(place, params));
        if let Some(found) = route(uri.path()) {
            return Some(found);
        }
        // A nested router has taken the head off the path; the table may be that of the whole application.
        if !key::is_as_sent(uri, extensions)
            && let Some(found) = route(key::path_as_sent(uri, extensions))
        {
            return Some(found);
        }
        table.fallback.map(|place| found(place, Params::none()))
    }

    /// Returns the rule that covers a path as the layer sees it. It does not count as a use of the rule.
    pub(crate) fn peek<'a>(&'a self, uri: &'a Uri) -> Option<RouteMatch<'a>> {
        let table = &*self.table;
        let fallback = || table.fallback.map(|place| (place, Params::none()));
        let (place, params) = table.router.at(uri.path()).or_else(fallback)?;
        Some(RouteMatch { place, rule: &table.rules[place], params })
    }

    /// The rule at a place in the table.
    #[inline]
    pub(crate) fn at(&self, place: usize) -> &Arc<Policy> {
        &self.table.rules[place]
    }
}

impl Table {
    fn unmatched(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().filter(|rule| !rule.has_matched()).map(|rule| rule.route().unwrap_or("(fallback)"))
    }

    #[inline]
    fn found<'a>(&'a self, place: usize, params: Params<'a>) -> RouteMatch<'a> {
        let rule = &self.rules[place];
        rule.matches();
        RouteMatch { place, rule, params }
    }

    /// A write finds a rule by more paths than a read does. It does not show that the pattern of a rule that caches matches any read.
    fn found_for_write<'a>(&'a self, place: usize, params: Params<'a>) -> RouteMatch<'a> {
        let rule = &self.rules[place];
        if rule.is_uncached() {
            rule.matches();
        }
        if !self.asked.load(Ordering::Relaxed) {
            self.asked.store(true, Ordering::Relaxed);
        }
        RouteMatch { place, rule, params }
    }
}

impl RuleUsage for Table {
    fn has_been_used(&self) -> bool {
        self.asked.load(Ordering::Relaxed) || self.rules.iter().any(|rule| rule.has_matched())
    }

    fn unmatched_routes(&self) -> Vec<String> {
        self.unmatched().map(str::to_owned).collect()
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules").field("routes", &self.table.patterns).field("fallback", &self.table.fallback.is_some()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::stats::{
        counters::Counters,
        warnings::{Misconfiguration, PAUSE, WarningLimits},
    };
    use ::http::{Extensions, Uri};

    use super::*;
    use crate::rules::rule::Rule;

    #[test]
    fn one_warning_per_kind_and_interval() {
        let quiet = WarningLimits::default();
        assert!(quiet.is_due(Misconfiguration::UncoveredWrite, 1));
        assert!(!quiet.is_due(Misconfiguration::UncoveredWrite, 2));
        assert!(quiet.is_due(Misconfiguration::WithoutRules, 2));
        assert!(quiet.is_due(Misconfiguration::UncoveredWrite, 1 + crate::clock::nanos(PAUSE)));
    }
    #[test]
    fn unmatched_rules_are_reported_after_some_requests() {
        let counters = Counters::default();
        let rules = Rules::new().route("/a", Rule::uncached()).route("/b/{id}", Rule::uncached());
        counters.watches(&rules.usage());
        counters.watches(&rules.clone().usage());
        assert_eq!((counters.unmatched_rules(), counters.warns_of_unmatched(Duration::ZERO)), (2, 0), "nothing was asked");
        let extensions = Extensions::new();
        assert!(rules.find(&Uri::from_static("/b/7"), &extensions).is_some());
        assert_eq!(rules.unmatched().collect::<Vec<_>>(), ["/a"]);
        assert_eq!(counters.warns_of_unmatched(Duration::from_secs(3600)), 0, "too early");
        assert_eq!((counters.unmatched_rules(), counters.warns_of_unmatched(Duration::ZERO)), (1, 1));
        assert_eq!(counters.warns_of_unmatched(Duration::ZERO), 0, "once");
        drop(rules);
        assert_eq!(counters.unmatched_rules(), 0);
    }
    #[test]
    fn uncovered_requests_count_as_requests() {
        let counters = Counters::default();
        let rules = Rules::new().route("/api/a", Rule::uncached());
        counters.watches(&rules.usage());
        assert!(!rules.may_cover(&Uri::from_static("/a"), &Extensions::new()));
        assert_eq!(counters.warns_of_unmatched(Duration::ZERO), 1);
    }
}
