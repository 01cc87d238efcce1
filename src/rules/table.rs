//! The table of routes and their rules.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use http::{Extensions, Method, Uri};

use super::{error::RulesError, policy::Policy, rule::Rule, summary::RuleSummary, views::Views};
use crate::{
    key::{self, CredentialFields, FieldTable, Key, RequestView},
    route::{params::Params, router::Router},
    secret::Secret,
    semantics,
    stats::warnings::RuleUsage,
    store::Store,
};

/// A table of routes and their rules, for one or several layers.
///
/// Patterns are those of axum's router ([`matchit`]): `/tables/{table}` has a parameter, `/files/{*path}` matches the rest of the path. If
/// several patterns match, the most specific one wins. Requests that no pattern matches pass through unchanged.
///
/// The path is matched as the layer sees it. A layer inside a router that is nested under `/api` sees `/tables/x` if the client sent
/// `/api/tables/x`. With the feature `axum`, that layer accepts patterns of both paths and tries the shorter path first. A
/// [`CacheLayer`](crate::CacheLayer) outside the nested router sees only `/api/tables/x`, so its patterns need the prefix.
///
/// A write finds every rule by which a reader may have found its target, so one table serves layers on both sides of a nested router. The
/// patterns of the path without dot segments, without encodings of unreserved characters, and without empty segments match as well. If none
/// matches, the path is tried without its first segments. All rules found in this way contribute namespaces to invalidate. The first of
/// them decides the other options.
///
/// `Rules` are cheap to clone. Give the same rules to [`CacheLayer`](crate::CacheLayer) and [`InvalidateLayer`](crate::InvalidateLayer).
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
/// assert_eq!(error.to_string(), "route \"/tables/{name}\" overlaps with \"/tables/{table}\", which was added before");
/// ```
#[derive(Clone, Default)]
pub struct Rules {
    table: Arc<Table>,
}

#[derive(Clone, Default)]
struct Table {
    /// True after the first request.
    asked: Arc<AtomicBool>,
    /// The number of requests that no rule covers, up to [`MOST_UNCOVERED`].
    uncovered: Arc<AtomicU32>,
    /// The patterns. Their values are places in `rules`.
    router: Router,
    patterns: Vec<String>,
    fallback: Option<usize>,
    rules: Vec<Arc<Policy>>,
    any_reads_by_post: bool,
    /// A rule is for GraphQL.
    #[cfg(feature = "graphql")]
    any_graphql: bool,
    any_reads_written_content: bool,
    /// The classes of request fields that matter to keys.
    fields: Arc<FieldTable>,
}

/// The limit of the count of requests that no rule covers.
pub(crate) const MOST_UNCOVERED: u32 = 1_000;

/// The rule that covers a request.
pub(crate) struct RouteMatch<'a> {
    /// The place of the rule in the table.
    pub(crate) place: usize,
    pub(crate) rule: &'a Arc<Policy>,
    /// The parameters of its route.
    pub(crate) params: Params<'a>,
}

impl Rules {
    /// Returns an empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a route.
    ///
    /// # Panics
    ///
    /// If [`try_route`](Self::try_route) returns an error. The message contains the route and the reason.
    #[must_use]
    #[track_caller]
    pub fn route(self, pattern: &str, rule: Rule) -> Self {
        match self.try_route(pattern, rule) {
            Ok(rules) => rules,
            Err(error) => panic!("{error}"),
        }
    }

    /// Adds a route, or returns an error.
    ///
    /// # Errors
    ///
    /// If the pattern is invalid, if it overlaps with another, if a template names a parameter that the pattern does not have, if a
    /// namespace is empty or too long, or if a setting of the rule is out of range.
    pub fn try_route(mut self, pattern: &str, rule: Rule) -> Result<Self, RulesError> {
        let compiled = Policy::new(Some(pattern), rule, &self.table.fields)?;
        let table = Arc::make_mut(&mut self.table);
        table.router.insert(pattern, table.rules.len()).map_err(|why| RulesError::insert(pattern, &why))?;
        table.add(compiled);
        table.patterns.push(pattern.to_owned());
        Ok(self)
    }

    /// Sets the rule of all requests that no route matches. A template of this rule can name `{identity}` and no other parameter.
    ///
    /// # Panics
    ///
    /// If [`try_fallback`](Self::try_fallback) returns an error.
    #[must_use]
    #[track_caller]
    pub fn fallback(self, rule: Rule) -> Self {
        match self.try_fallback(rule) {
            Ok(rules) => rules,
            Err(error) => panic!("{error}"),
        }
    }

    /// Sets the rule of all requests that no route matches, as [`fallback`](Self::fallback) does, or returns an error.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`try_route`](Self::try_route).
    pub fn try_fallback(mut self, rule: Rule) -> Result<Self, RulesError> {
        let compiled = Policy::new(None, rule, &self.table.fields)?;
        let table = Arc::make_mut(&mut self.table);
        table.fallback = Some(table.rules.len());
        table.add(compiled);
        Ok(self)
    }

    /// Sets the header fields that identify the client, for all rules of the table, also those added later. Defaults to
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

    /// Returns the key of a request, for [`Store::invalidate_key`]. The key names all entries that differ only in the [forwarding
    /// fields](Rule::ignore_forwarded) of their requests, or in the fields by which responses vary. Returns `None` if no rule covers the
    /// request, if its extractor bypasses the cache, or if the key would be too long. A request that bypasses the cache for another reason
    /// still has a key.
    ///
    /// The request target is the one that the client sends. It also names the entries of a nested router: `/api/tables/x` finds the pattern
    /// `/tables/{table}` if no other matches. The key of one spelling of a target invalidates all spellings: see [equivalent
    /// targets](crate::invalidate#equivalent-targets).
    ///
    /// The store is needed because secrets are hashed with its key.
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
    pub fn key<St: Store, B>(&self, store: &St, request: &http::Request<B>) -> Option<Key> {
        let secret = &store.context().secret;
        if let Some(RouteMatch { rule, params, .. }) = self.find(request.uri(), request.extensions()) {
            let view = RequestView::of(request, &params, secret);
            return match rule.content_of(request.method(), request.uri(), request.extensions()).map(|keyed| keyed.content) {
                Ok(content) => rule.key(&view.with_body(content)),
                Err(_) => rule.key(&view),
            };
        }
        let views = Views::of(request.uri(), request.extensions());
        let RouteMatch { rule, params, .. } = self.covering(&views).into_iter().next()?;
        rule.key(&RequestView::of(request, &params, secret))
    }

    /// Returns the keys that a write to a URI invalidates: the key that this request would have as a GET, and the key of the URI itself,
    /// under each rule by which a reader may have found it.
    pub(crate) fn keys_of_uri<B>(&self, secret: &Secret, request: &http::Request<B>, views: &Views<'_>) -> Vec<Key> {
        let keys = |RouteMatch { rule, params, .. }: RouteMatch<'_>| {
            let view = RequestView::of(request, &params, secret);
            [rule.key(&view), rule.key_of_uri(&view)]
        };
        self.covering(views).into_iter().flat_map(keys).flatten().collect()
    }

    /// Returns the rules of [`each_covering`](Self::each_covering).
    pub(crate) fn covering<'a>(&'a self, views: &'a Views<'_>) -> Vec<RouteMatch<'a>> {
        let mut all = Vec::new();
        self.each_covering(views, |found| all.push(found));
        all
    }

    /// Calls `then` with the rules by which a reader may have found the entries of a target, in any layer and with any spelling of the
    /// target. The first is the rule of the target as this layer sees it, if there is one. If several paths of the target lead to one rule,
    /// it comes once for the parameters of each.
    pub(crate) fn each_covering<'a>(&'a self, views: &'a Views<'_>, mut then: impl FnMut(RouteMatch<'a>)) {
        let table = &*self.table;
        table.each_place(views, |place, params| then(table.found_for_write(place, params)));
    }

    /// Returns false only if no rule covers a request. This is cheap, and most uncovered requests end here.
    #[inline]
    pub(crate) fn may_cover(&self, uri: &Uri, extensions: &Extensions) -> bool {
        let table = &*self.table;
        let may = table.router.may_have(uri.path()) || table.fallback.is_some() || {
            !key::is_as_sent(uri, extensions) && table.router.may_have(key::path_as_sent(uri, extensions))
        };
        if !may && table.uncovered.load(Ordering::Relaxed) < MOST_UNCOVERED {
            table.asked.store(true, Ordering::Relaxed);
            table.uncovered.fetch_add(1, Ordering::Relaxed);
        }
        may
    }

    /// Returns the number of requests that no rule covers, up to about [`MOST_UNCOVERED`].
    pub(crate) fn uncovered(&self) -> u32 {
        self.table.uncovered.load(Ordering::Relaxed)
    }

    /// Returns the reason for which a rule can match no request, if there is one.
    pub(crate) fn why_unreachable(&self, rule: &Policy) -> Option<&'static str> {
        let table = &*self.table;
        let is_replaced = table.fallback != Some(rule.place());
        let has_root = table.patterns.iter().any(|pattern| pattern == "/");
        let has_rest = table.patterns.iter().any(|pattern| pattern.starts_with("/{*"));
        match rule.route() {
            Some(_) => None,
            None if is_replaced => Some("a later fallback has replaced this one"),
            None => (has_root && has_rest).then_some("the routes match every path, so that none is left for the fallback"),
        }
    }

    /// Returns the routes whose rules have matched no request so far, in this table or in a clone of it. A write counts only for an
    /// [uncached](Rule::uncached) rule, because [`InvalidateLayer`](crate::InvalidateLayer) finds rules by more paths than a read does.
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

    /// Returns the patterns of the rules that cache, in the order in which they were added.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::{Rule, Rules};
    ///
    /// let rules = Rules::new().route("/tables/{table}", Rule::ttl(Duration::from_secs(60))).route("/health", Rule::uncached());
    /// assert_eq!(rules.cached_routes().collect::<Vec<_>>(), ["/tables/{table}"]);
    /// ```
    pub fn cached_routes(&self) -> impl Iterator<Item = &str> {
        self.table.rules.iter().filter(|rule| !rule.is_uncached()).filter_map(|rule| rule.route())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.table.rules.is_empty()
    }

    /// Returns the table as the statistics see it.
    pub(crate) fn usage(&self) -> Arc<dyn RuleUsage> {
        self.table.clone()
    }

    /// Returns the rule that covers a request.
    #[inline]
    pub(crate) fn find<'a>(&'a self, uri: &'a Uri, extensions: &'a Extensions) -> Option<RouteMatch<'a>> {
        let (place, params) = self.place_of(uri, extensions)?;
        Some(self.table.found(place, params))
    }

    /// Returns the rule that covers a request, without counting as a use of the rule.
    pub(crate) fn peek<'a>(&'a self, uri: &'a Uri, extensions: &'a Extensions) -> Option<RouteMatch<'a>> {
        let (place, params) = self.place_of(uri, extensions)?;
        Some(RouteMatch { place, rule: self.at(place), params })
    }

    /// Returns the place of the rule that covers a request, and the parameters of its route.
    #[inline(always)]
    fn place_of<'a>(&'a self, uri: &'a Uri, extensions: &'a Extensions) -> Option<(usize, Params<'a>)> {
        let table = &*self.table;
        let route = |path: &'a str| table.router.at(path);
        if let Some(found) = route(uri.path()) {
            return Some(found);
        }
        // A nested router has removed the start of the path. The table may be for the whole application.
        if !key::is_as_sent(uri, extensions)
            && let Some(found) = route(key::path_as_sent(uri, extensions))
        {
            return Some(found);
        }
        table.fallback.map(|place| (place, Params::none()))
    }

    /// Returns the summaries of all rules, in the order in which they were added.
    pub(crate) fn summaries(&self) -> Vec<RuleSummary> {
        self.table.rules.iter().map(|rule| rule.summary()).collect()
    }

    /// Returns true if a POST with this target is a read, without counting as a use of its rule. It is a read only if every rule reads by POST by
    /// which a handler may understand the target. Otherwise it could be a write.
    pub(crate) fn read_by_post(&self, uri: &Uri, extensions: &Extensions) -> bool {
        let table = &*self.table;
        if !table.any_reads_by_post {
            return false;
        }
        let (mut is_covered, mut reads) = (false, true);
        table.each_place(&Views::of(uri, extensions), |place, params| {
            let rule = &table.rules[place];
            is_covered = true;
            reads &= rule.reads(extensions) && !rule.is_ambiguous(&params);
        });
        is_covered && reads
    }

    /// Returns the rule for GraphQL that covers a request, without counting as a use of the rule.
    #[cfg(feature = "graphql")]
    pub(crate) fn graphql<'a>(&'a self, uri: &'a Uri, extensions: &'a Extensions) -> Option<&'a Arc<Policy>> {
        if !self.table.any_graphql {
            return None;
        }
        let found = self.peek(uri, extensions)?;
        Some(self.at(found.place)).filter(|rule| rule.is_graphql())
    }

    /// Returns the limit of the content of a write if a rule reads it, without counting as a use of the rule.
    pub(crate) fn content_of_write(&self, method: &Method, uri: &Uri, extensions: &Extensions) -> Option<usize> {
        let table = &*self.table;
        if !table.any_reads_written_content || semantics::is_safe(method) {
            return None;
        }
        let mut limit = None;
        table.each_place(&Views::of(uri, extensions), |place, _| {
            let rule = &table.rules[place];
            limit = limit.max(rule.reads_written_requests().then(|| rule.max_request_body()));
        });
        limit
    }

    /// Returns all rules, in the order of their places.
    pub(crate) fn all(&self) -> &[Arc<Policy>] {
        &self.table.rules
    }

    /// Returns the rules that requests can find: without the fallbacks that a later one has replaced.
    pub(super) fn in_use(&self) -> impl Iterator<Item = &Arc<Policy>> {
        let table = &*self.table;
        table.rules.iter().filter(|rule| rule.route().is_some() || table.fallback == Some(rule.place()))
    }

    /// Returns the classes of request fields.
    pub(super) fn fields(&self) -> &FieldTable {
        &self.table.fields
    }

    /// Returns the rule at a place in the table.
    #[inline]
    pub(crate) fn at(&self, place: usize) -> &Arc<Policy> {
        &self.table.rules[place]
    }
}

impl Table {
    /// Calls `then` with the places of the rules of [`Rules::each_covering`].
    fn each_place<'a>(&'a self, views: &'a Views<'_>, mut then: impl FnMut(usize, Params<'a>)) {
        let route = |path: &'a str| self.router.at(path);
        let (mut is_direct, mut leaves_one) = (false, false);
        for path in views.paths() {
            match route(path) {
                Some((place, params)) => {
                    is_direct = true;
                    then(place, params);
                }
                None => leaves_one = true,
            }
        }
        if let Some(place) = self.fallback.filter(|_| leaves_one) {
            then(place, Params::none());
        }
        if !is_direct && let Some((place, params)) = views.guesses().find_map(route) {
            then(place, params);
        }
    }

    fn add(&mut self, mut rule: Policy) {
        rule.place = self.rules.len();
        self.any_reads_by_post |= rule.reads_by_post();
        #[cfg(feature = "graphql")]
        {
            self.any_graphql |= rule.is_graphql();
        }
        self.any_reads_written_content |= rule.reads_written_requests();
        self.rules.push(Arc::new(rule));
    }

    fn unmatched(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().filter(|rule| !rule.learned().has_matched()).map(|rule| rule.route().unwrap_or("(fallback)"))
    }

    #[inline]
    fn found<'a>(&'a self, place: usize, params: Params<'a>) -> RouteMatch<'a> {
        let rule = &self.rules[place];
        rule.learned().record_match();
        RouteMatch { place, rule, params }
    }

    /// Returns a rule that a write has found. A write finds rules by more paths than a read does, so it does not show that the pattern of a
    /// caching rule matches any read.
    fn found_for_write<'a>(&'a self, place: usize, params: Params<'a>) -> RouteMatch<'a> {
        let rule = &self.rules[place];
        if rule.is_uncached() {
            rule.learned().record_match();
        }
        if !self.asked.load(Ordering::Relaxed) {
            self.asked.store(true, Ordering::Relaxed);
        }
        RouteMatch { place, rule, params }
    }
}

impl RuleUsage for Table {
    fn has_been_used(&self) -> bool {
        self.asked.load(Ordering::Relaxed) || self.rules.iter().any(|rule| rule.learned().has_matched())
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

    use crate::stats::counters::Counters;
    use http::{Extensions, Uri};

    use super::*;

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
