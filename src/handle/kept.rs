//! The hottest requests, kept in Redis across restarts.

use std::{fmt, time::Duration};

use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use super::{ResponseCache, any_store::AnyStore};
use crate::{
    clock::MS,
    hottest::listed::HotRequest,
    redis::kept::KeptRequest,
    store::{backend::Backend, error::StoreError},
};

/// The hottest requests, kept in Redis across restarts. Needs the feature `redis`.
impl ResponseCache {
    /// Returns the requests that processes with this name have [kept](Self::keep_hottest) in Redis, the most frequent first. Their counts are
    /// halved for each hour since the list was saved. Requests that no rule covers any more are left out. Returns nothing with [`Memory`](crate::Memory), which keeps nothing.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use axum::{Router, routing::get};
    /// use tower_response_cache::{Redis, ResponseCache, Rule, stats::HotRequest, warm::Warmer};
    ///
    /// let store = Redis::connect("redis://127.0.0.1").await?.with_memory(64 << 20);
    /// let cache = ResponseCache::new(store)
    ///     .route("/tables/{table}", Rule::ttl(Duration::from_secs(60)).namespace("db_query:{table}"))
    ///     .track_hottest(100);
    /// let app: Router = Router::new().route("/tables/{table}", get(async || "rows")).layer(cache.layer());
    ///
    /// let kept = cache.kept_hottest("api").await.unwrap_or_default();
    /// let requests = kept.iter().filter_map(HotRequest::request).take(50);
    /// Warmer::new(&cache, app).requests(requests).start().detach();
    /// let keeping = cache.keep_hottest("api", Duration::from_secs(60));
    /// // At a shutdown:
    /// drop(keeping);
    /// cache.save_hottest("api").await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// If Redis cannot be reached. A damaged list is no error: it counts as empty, and a warning says so once.
    pub async fn kept_hottest(&self, name: &str) -> Result<Vec<HotRequest>, StoreError> {
        let AnyStore::Redis(redis) = self.store() else { return Ok(Vec::new()) };
        let listed = |kept: KeptRequest| {
            let KeptRequest { replay, count } = kept;
            let (key, route) = self.key_and_route(&replay)?;
            let count = count.round() as u64;
            Some(HotRequest { key: Some(key), replay: Some(replay), route: route.map(Into::into), count, error: 0 })
        };
        Ok(redis.kept(name, redis.context().clock.wall() / MS).await?.into_iter().filter_map(listed).collect())
    }

    /// Saves the hottest requests of this process in Redis under a name, merged with those that other processes have saved. Each request
    /// keeps the higher of its two counts. Stored counts halve every hour. The list has at most 256 requests of up to 4 KiB, without
    /// identities and secrets, and is removed 7 days after it was last saved. It is encrypted if the store encrypts. Does nothing with
    /// [`Memory`](crate::Memory).
    ///
    /// [`keep_hottest`](Self::keep_hottest) calls it regularly. Call it once more at a shutdown.
    ///
    /// # Errors
    ///
    /// If Redis cannot be reached, or if 8 attempts fail because other processes save at the same time.
    pub async fn save_hottest(&self, name: &str) -> Result<(), StoreError> {
        let AnyStore::Redis(redis) = self.store() else { return Ok(()) };
        let own = self.hottest_requests().into_iter();
        let own: Vec<_> = own.filter_map(|hot| Some(KeptRequest { replay: hot.replay?, count: hot.count as f64 })).collect();
        if own.is_empty() {
            return Ok(());
        }
        redis.keep(name, &own, redis.context().clock.wall() / MS).await
    }

    /// [Saves](Self::save_hottest) the hottest requests at this interval (at least 1 second), in a task of its own until the result is dropped. An
    /// error is logged at debug level, and the next interval tries again.
    ///
    /// # Panics
    ///
    /// If no Tokio runtime runs here.
    pub fn keep_hottest(&self, name: &str, every: Duration) -> KeepingHottest {
        let (cache, name) = (self.clone(), name.to_owned());
        let task = tokio::spawn(async move {
            let mut ticks = interval(every.max(Duration::from_secs(1)));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks.tick().await;
            loop {
                ticks.tick().await;
                if let Err(error) = cache.save_hottest(&name).await {
                    tracing::debug!(%error, "the hottest requests were not saved");
                }
            }
        });
        KeepingHottest { task }
    }
}

/// Saves the hottest requests in Redis until this is dropped: the result of [`ResponseCache::keep_hottest`].
#[must_use = "the hottest requests are saved until this is dropped"]
pub struct KeepingHottest {
    task: JoinHandle<()>,
}

impl Drop for KeepingHottest {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for KeepingHottest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeepingHottest")
    }
}
