//! The Inspector and its options.

use std::{error, fmt, sync::Arc, time::Duration};

use super::{access::Access, samples::Samples, shared::Shared, shown::Shown};
use crate::handle::ResponseCache;

/// A service that shows the statistics of a cache, explains requests, and invalidates. Needs the feature `dashboard`.
///
/// It answers on these paths below its mount:
///
/// | path | method | answer |
/// |---|---|---|
/// | `/` | GET | the page |
/// | `/api/stats` | GET | the statistics, the rules in force and the samples over time |
/// | `/api/explain` | GET, POST | the explanation of a request, given as a URL or as a line for `curl` |
/// | `/api/keys` | GET | a sample of the entries in memory, their namespaces, and the fills in progress |
/// | `/api/purge`, `/api/invalidate` | POST | invalidates namespaces, a URI, or everything |
/// | any | PURGE | the same as POST on `/api/purge` |
///
/// **Mount it behind authentication.** It shows which requests the application gets, and it can empty the cache. It is built only with an
/// explicit choice: a [token](InspectorBuilder::token), or the statement that [your own
/// authentication](InspectorBuilder::behind_own_authentication) stands in front of it.
///
/// ```
/// use axum::Router;
/// use tower_response_cache::{Memory, ResponseCache, inspector::Inspector};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let cache = ResponseCache::new(Memory::default());
/// assert!(Inspector::builder(cache.clone()).build().is_err(), "no choice");
///
/// let inspector = Inspector::builder(cache.clone()).token("a long random text").build()?;
/// let app: Router = Router::new().nest_service("/_cache", inspector);
/// # drop(app);
/// # Ok::<(), tower_response_cache::inspector::InspectorError>(()) }).unwrap();
/// ```
///
/// Clones share everything. Do not put the Inspector under the cache layer that it inspects.
#[derive(Clone)]
pub struct Inspector {
    pub(super) shared: Arc<Shared>,
}

impl Inspector {
    /// Returns a builder of an Inspector of this cache.
    pub fn builder(cache: ResponseCache) -> InspectorBuilder {
        InspectorBuilder::new(cache)
    }
}

impl fmt::Debug for Inspector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inspector").field("cache", &self.shared.cache).finish_non_exhaustive()
    }
}

/// Options of an [`Inspector`].
#[derive(Debug, Clone)]
#[must_use]
pub struct InspectorBuilder {
    cache: ResponseCache,
    access: Option<Access>,
    has_empty_token: bool,
    shown: Shown,
    sample_every: Duration,
}

impl InspectorBuilder {
    pub(super) fn new(cache: ResponseCache) -> Self {
        let shown = Shown { bodies: false, identities: false };
        Self { cache, access: None, has_empty_token: false, shown, sample_every: Duration::from_secs(10) }
    }

    /// Requires a token: as `Authorization: Bearer …`, or in a browser by a form that sets an `HttpOnly` cookie with `SameSite=Strict`. Use a long
    /// random text, because attempts are not counted. The token is compared in constant time.
    pub fn token(mut self, token: impl AsRef<[u8]>) -> Self {
        let token = token.as_ref();
        self.has_empty_token = token.is_empty();
        self.access = Some(Access::token(token));
        self
    }

    /// States that your own authentication stands in front of the Inspector: everyone who reaches it may see everything and invalidate.
    pub fn behind_own_authentication(mut self) -> Self {
        self.has_empty_token = false;
        self.access = Some(Access::Elsewhere);
        self
    }

    /// Shows the header fields and the first 4 KiB of the body of a stored response in its explanation. Defaults to `false`.
    pub fn show_bodies(mut self, on: bool) -> Self {
        self.shown.bodies = on;
        self
    }

    /// Shows the keyed hashes of identities and secrets in keys and namespaces. Defaults to `false`: each hash is replaced by `(hidden)`, also in
    /// names. 32 hexadecimal digits or more in a row count as a hash. The secrets themselves are never known to the cache.
    pub fn show_identities(mut self, on: bool) -> Self {
        self.shown.identities = on;
        self
    }

    /// Sets the interval of the samples over time. Defaults to 10 seconds, at least 100 milliseconds. The last 360 samples are kept.
    pub fn sample_every(mut self, interval: Duration) -> Self {
        self.sample_every = interval.max(Duration::from_millis(100));
        self
    }

    /// Builds the Inspector. A task takes samples from now on, or from the first request on if this is called outside of a Tokio runtime. It ends within
    /// one interval after the last clone of the Inspector.
    ///
    /// # Errors
    ///
    /// If neither a [token](Self::token) nor [your own authentication](Self::behind_own_authentication) was chosen, or if the token is empty.
    pub fn build(self) -> Result<Inspector, InspectorError> {
        let Self { cache, access, has_empty_token, shown, sample_every } = self;
        let access = access.filter(|_| !has_empty_token).ok_or(InspectorError { has_empty_token })?;
        let shared = Arc::new(Shared {
            cache,
            access,
            shown,
            samples: Samples::new(sample_every),
            #[cfg(feature = "redis")]
            key_sample: Default::default(),
        });
        Shared::start_samples(&shared);
        Ok(Inspector { shared })
    }
}

/// The error of an Inspector that was built without a choice of its authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectorError {
    has_empty_token: bool,
}

impl fmt::Display for InspectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.has_empty_token {
            true => "the token of the inspector is empty: expected a long random text",
            false => "the inspector has no authentication: expected `token` or `behind_own_authentication`",
        })
    }
}

impl error::Error for InspectorError {}
