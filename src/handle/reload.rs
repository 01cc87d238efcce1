//! Rules that are replaced at run time.

use super::ResponseCache;
use crate::{
    namespace::set::Namespaces,
    rules::{
        Rules,
        difference::Difference,
        live::{LiveRules, PendingReload},
    },
    stats::counters::Count,
    store::{backend::Backend, bump_in_time, epochs::InvalidationKind, error::StoreError},
};

/// Rules at run time.
impl ResponseCache {
    /// Replaces the rules of all layers that were made from this handle and its clones. A handle on which an option was set later has rules of its own.
    ///
    /// Each service takes the new rules before its next request. A request keeps the rules that it began with until it ends, and so do its fill, its
    /// followers and its background refresh. Counters of a route go on if the new rules have its pattern. What a rule has learned from its traffic
    /// starts anew.
    ///
    /// # Entries
    ///
    /// Entries stay if the new rule of their route has the same key and the same namespaces, and if its [response rules](crate::Rule::response_rule)
    /// differ at most in lifetimes. A changed lifetime counts for responses that are stored from now on. All other entries are invalidated, once, by the longest namespace that all of them share: those of a rule with
    /// `db_query:{table}` by `db_query`. A rule without a namespace, or whose first namespace begins with a parameter, can be invalidated only with
    /// all other entries. A response that a request under the old rules computes later is not stored.
    ///
    /// Closures, [extractors](crate::KeyExtractor) and [`Rule::key`](crate::Rule::key) are equal only to their own clones. Keep such a rule, and give
    /// clones of it to each table. Two values of [`Identity`](crate::Identity) are compared by their source.
    ///
    /// An added pattern invalidates the entries of the old rules whose patterns may match the same paths.
    ///
    /// # Writes in progress
    ///
    /// A write that begins before and ends after the call invalidates the namespaces that it has by the old rules, and in addition all namespaces that
    /// the reload has changed. No response that a reader computes under the new rules before the end of the write is therefore served after it.
    ///
    /// Limits:
    ///
    /// - With a strict store, the fence of such a write has the names of the old rules. Until the write ends, readers under the new rules may be served
    ///   entries of namespaces that only the new rules name.
    /// - A POST that is a read by the rules at its beginning, and a write by the new ones, invalidates nothing.
    /// - Processes that share a store reload one after the other. Meanwhile a write invalidates the names of the rules of its own process. The last
    ///   reload invalidates what differs, so that nothing stale is left after it.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use std::time::Duration;
    /// use http::Method;
    /// use tower_response_cache::{Memory, ResponseCache, Rule, Rules};
    ///
    /// let rules = |seconds| Rules::new().route("/tables/{table}", Rule::ttl(Duration::from_secs(seconds)).namespace("db_query:{table}"));
    /// let cache = ResponseCache::new(Memory::default()).rules(rules(60));
    /// let layer = cache.layer();
    ///
    /// cache.reload(rules(5).route("/health", Rule::uncached())).await?;
    /// assert_eq!(cache.rule_summaries().len(), 2);
    /// # drop(layer);
    /// # Ok::<(), tower_response_cache::StoreError>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// If entries have to be invalidated and the store cannot be reached. The new rules are in force all the same. The invalidation is delivered later
    /// if it [is queued](StoreError::is_queued).
    pub async fn reload(&self, rules: Rules) -> Result<(), StoreError> {
        let mut reload = Reload::begin(self, &rules);
        if reload.names.is_empty() {
            return Ok(());
        }
        let done = bump_in_time(self.store(), &reload.names, InvalidationKind::Hard).await;
        reload.names = Namespaces::default();
        done
    }

    /// Reads a file of rules at once and then at this interval, in a task of its own, and [reloads](Self::reload) the rules when the content has
    /// changed. A file that another one replaces, and a changed symbolic link, are noticed as well. One second is a good interval; an
    /// interval below 10 ms counts as 10 ms.
    ///
    /// The file replaces all rules of this handle. Rules that only [`route`](Self::route) has added are gone after the first read: add them by
    /// [`RulesFile::with`](crate::rules::RulesFile::with). Set all options before this call, because a handle on which an option is set later has rules
    /// of its own.
    ///
    /// Replace the file by a rename. The beginning of a file that is written in place may be valid: a rule without the rest of its options, such as its
    /// key, is then in force until the next look.
    ///
    /// A file that cannot be read, is empty, or has a fault changes nothing. The fault is logged once as an error, with its line and column, and
    /// [`RulesWatch::last_error`](crate::rules::RulesWatch::last_error) returns it until the file is correct. If the store cannot be reached, the new
    /// rules are in force, a warning is logged, and `last_error` returns nothing.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use tower_response_cache::{Memory, ResponseCache, rules::RulesFile};
    ///
    /// let file = RulesFile::new("cache.toml");
    /// let cache = ResponseCache::new(Memory::default()).rules(file.load()?);
    /// let watch = cache.watch_rules(file, Duration::from_secs(1));
    /// if let Some(error) = watch.last_error() {
    ///     eprintln!("{error}"); // cache.toml:3:7: invalid value: string "60", expected a duration: …
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    #[cfg(feature = "config")]
    #[cfg_attr(docsrs, doc(cfg(feature = "config")))]
    pub fn watch_rules(&self, file: crate::rules::RulesFile, interval: std::time::Duration) -> crate::rules::RulesWatch {
        let (cache, refusing) = (self.clone(), self.clone());
        let apply = move |rules| {
            let cache = cache.clone();
            async move { cache.reload(rules).await }
        };
        file.watch(interval, apply, move |error| refusing.record_refused(error))
    }

    #[cfg(feature = "config")]
    fn record_refused(&self, error: &crate::rules::LoadError) {
        let context = self.store().context();
        context.counters.add(Count::RulesRefused, 1);
        #[cfg(feature = "dashboard")]
        self.cache.rules.record_refused(context.clock.now(), error.to_string());
        #[cfg(not(feature = "dashboard"))]
        let _ = error;
    }

    /// Returns the reloads of the rules of this handle.
    #[cfg(feature = "dashboard")]
    pub(crate) fn reload_history(&self) -> crate::rules::reload_history::ReloadHistory {
        self.cache.rules.history()
    }
}

/// A reload whose invalidation has not ended.
struct Reload<'a> {
    cache: &'a ResponseCache,
    /// The namespaces that are not invalidated yet.
    names: Namespaces,
    _pending: [Option<PendingReload>; 2],
}

impl<'a> Reload<'a> {
    /// Puts the rules into force.
    fn begin(cache: &'a ResponseCache, rules: &Rules) -> Self {
        let (reads, writes): (&LiveRules, &LiveRules) = (&cache.cache.rules, &cache.invalidate.rules);
        let mut of_reads = None;
        let of_writes = match reads.is(writes) {
            true => writes.replace(rules, &Namespaces::default(), || ()),
            false => {
                let Difference { old: mut also, new, .. } = Difference::between(&reads.current(), rules);
                also.extend(&new);
                writes.replace(rules, &also, || of_reads = Some(reads.replace(rules, &Namespaces::default(), || ())))
            }
        };
        let context = cache.store().context();
        context.counters.add(Count::RulesReplaced, 1);
        #[cfg(feature = "dashboard")]
        reads.record_replaced(context.clock.now());
        let mut names = Namespaces::default();
        for pending in [Some(&of_writes), of_reads.as_ref()].into_iter().flatten() {
            names.extend(&pending.old);
            if cache.store().is_shared() {
                // A process that had the old rules until now may have missed writes to these.
                names.extend(&pending.new);
            }
        }
        Self { cache, names, _pending: [Some(of_writes), of_reads] }
    }
}

/// Invalidates as far as possible without waiting if the future was dropped.
impl Drop for Reload<'_> {
    fn drop(&mut self) {
        if !self.names.is_empty() {
            let store = self.cache.store();
            store.bump_now(&self.names);
            store.context().hooks.invalidated(&self.names, !store.is_shared());
        }
    }
}
