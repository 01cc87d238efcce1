//! The hook that is called after invalidations, and its options.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use super::tags::CacheTags;
use crate::{error::BoxError, namespace::Namespace};

/// The namespaces of one or more invalidations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purge {
    pub(super) names: Vec<Namespace>,
}

impl Purge {
    /// Returns the namespaces, each once. The root `*` stands alone, and for everything.
    pub fn namespaces(&self) -> &[Namespace] {
        &self.names
    }

    /// Returns true if everything has to be purged: the root was invalidated, or more namespaces waited than the queue holds.
    pub fn is_everything(&self) -> bool {
        self.names.first().is_some_and(|name| name.as_str() == "*")
    }

    /// Returns the tags of the namespaces, as the responses carry them. Everything is the tag of the root, which every tagged response has.
    ///
    /// ```
    /// use tower_response_cache::{CacheTags, Memory, ResponseCache, cdn::PurgeHook};
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let hook = PurgeHook::new(|purge| async move {
    ///     assert_eq!(purge.tags(&CacheTags::cloudflare()), ["db_query:orders"]);
    ///     Ok::<_, std::io::Error>(())
    /// });
    /// let cache = ResponseCache::new(Memory::new(1 << 20)).after_invalidation(hook);
    /// cache.invalidate(["db_query:orders"]).await.unwrap();
    /// cache.wait_for_purges().await;
    /// assert_eq!(cache.stats().purges, 1);
    /// # });
    /// ```
    pub fn tags(&self, tags: &CacheTags) -> Vec<String> {
        self.names.iter().map(|name| tags.tag(name)).collect()
    }
}

type Call = dyn Fn(Purge) -> Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>> + Send + Sync;

/// A hook that is called with the namespaces after an invalidation, for purging an external cache.
///
/// Invalidations only put their namespaces into a queue: no write and no call of `invalidate` waits for the hook. One call of a hook runs at a time.
/// Namespaces that are invalidated meanwhile are merged for the next call. A call that fails, panics or takes too long is repeated with
/// exponential backoff, and given up after the last attempt. Nothing is kept on disk: the end of the process loses the queue.
///
/// The hook gets the namespaces of writes through [`InvalidateLayer`](crate::InvalidateLayer), of
/// [`Invalidations`](crate::Invalidations), of `invalidate`, `invalidate_softly` and `invalidate_uri`. The invalidation of a key alone has no
/// namespace, and does not call it. With Redis, only the process that invalidates calls its hook. If Redis does not know of the invalidation yet, the
/// hook is called again afterwards, because other processes may have filled the external cache with older responses. It is also called again when the
/// fence of a write whose outcome is not known has ended.
#[derive(Clone)]
#[must_use]
pub struct PurgeHook {
    pub(super) call: Arc<Call>,
    pub(super) max_namespaces: usize,
    pub(super) attempts: u32,
    pub(super) backoff: (Duration, Duration),
    pub(super) attempt_timeout: Duration,
}

impl PurgeHook {
    /// Returns a hook with the default options.
    pub fn new<F, Fut, E>(call: F) -> Self
    where
        F: Fn(Purge) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let call = Arc::new(move |purge| {
            let purged = call(purge);
            let boxed: Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>> =
                Box::pin(async move { purged.await.map_err(Into::into) });
            boxed
        });
        Self {
            call,
            max_namespaces: 1024,
            attempts: 8,
            backoff: (Duration::from_secs(1), Duration::from_secs(60)),
            attempt_timeout: Duration::from_secs(30),
        }
    }

    /// Limits the namespaces that wait. If more wait, the next call [purges everything](Purge::is_everything). Defaults to 1,024.
    pub fn max_namespaces(mut self, namespaces: usize) -> Self {
        self.max_namespaces = namespaces;
        self
    }

    /// Limits the attempts for one call. Defaults to 8, which is about two minutes with the default backoff.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Sets the pause after the first failed attempt, which doubles after each further one, and the longest pause. Defaults to 1 second and 60
    /// seconds.
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.backoff = (first, longest);
        self
    }

    /// Limits the time of one attempt. Defaults to 30 seconds.
    pub fn attempt_timeout(mut self, limit: Duration) -> Self {
        self.attempt_timeout = limit;
        self
    }

    /// Returns the pause after an attempt, counted from 1.
    pub(super) fn pause(&self, attempt: u32) -> Duration {
        let (first, longest) = self.backoff;
        first.saturating_mul(1 << (attempt - 1).min(30)).min(longest)
    }
}

impl fmt::Debug for PurgeHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { max_namespaces, attempts, backoff, attempt_timeout, .. } = self;
        f.debug_struct("PurgeHook")
            .field("max_namespaces", max_namespaces)
            .field("attempts", attempts)
            .field("backoff", backoff)
            .field("attempt_timeout", attempt_timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_doubles_up_to_the_longest() {
        let hook = PurgeHook::new(|_| async { Ok::<_, BoxError>(()) });
        let pauses: Vec<_> = (1..=8).map(|attempt| hook.pause(attempt).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(hook.pause(u32::MAX).as_secs(), 60);
    }
}
