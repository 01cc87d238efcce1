//! Endings as words: what the cache did with a request, and why.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, header::AGE};

use crate::clock::Nanos;

/// One of a list of reasons.
#[cfg(feature = "metrics")]
pub(crate) trait Reason {
    /// As logs show it.
    fn token(&self) -> &'static str;
}

/// Makes a closed list of reasons with the token that headers and logs show.
macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $reason:ident = $token:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name { $($(#[$doc])* $reason,)* }

        impl $name {
            /// Every reason, in the order of their definition.
            pub const ALL: &'static [Self] = &[$(Self::$reason),*];

            /// The reason as logs and `Cache-Status` show it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$reason => $token,)* }
            }
        }

        #[cfg(feature = "metrics")]
        impl Reason for $name {
            fn token(&self) -> &'static str {
                self.as_str()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

reasons! {
    /// Why a request was left alone although a rule covers its route: nothing is looked up and nothing stored.
    Bypass {
        /// The method is neither GET nor HEAD.
        Method = "method",
        /// The rule caches nothing; it is there for what it invalidates.
        Uncached = "uncached",
        /// The request has content, which the key does not hold.
        RequestBody = "request-body",
        /// The request has [credentials](crate::CredentialFields), and the key holds no identity.
        Credentials = "credentials",
        /// The rule's key extractor wants the request left alone.
        Extractor = "extractor",
        /// The key would be longer than 8 KiB.
        KeyTooLong = "key-too-long",
        /// A part of the response is asked for (`Range`), and the whole is not stored.
        Range = "range",
        /// `If-Match` or `If-Unmodified-Since`: the inner service is to decide.
        Precondition = "precondition",
        /// A header asks for another method than the one in the request line.
        MethodOverride = "method-override",
        /// The connection is to become something else (`Upgrade`).
        Upgrade = "upgrade",
        /// A parameter of the route holds a dot segment, or a wildcard an encoded slash or a backslash: a handler may resolve them, and so
        /// answer for another route. [`Rule::path_as_text`](crate::Rule::path_as_text) says that it does not.
        AmbiguousPath = "ambiguous-path",
        /// The request has more than eight [forwarding fields](crate::Rule::ignore_forwarded).
        Forwarding = "forwarding",
        /// The rule requires an identity, and the request names none.
        IdentityMissing = "identity-missing",
        /// The request names its identity more than once, or in a spelling that not every handler takes.
        IdentityAmbiguous = "identity-ambiguous",
        /// Caching is [turned off](crate::CacheLayer::enabled).
        Disabled = "disabled",
    }
}

reasons! {
    /// Why the inner service was asked.
    Miss {
        /// There is no stored response for this key, or none that lives.
        Absent = "absent",
        /// There is one, but it is too old.
        Expired = "expired",
        /// There is one, but something it belongs to was cleared softly.
        SoftlyCleared = "softly-cleared",
        /// A response for this key was found unfit for storing a moment ago: nobody waits for the next one.
        HitForMiss = "hit-for-miss",
        /// Waited for another request's response, which may not be shared.
        NotShared = "not-shared",
        /// Waited for another request's response for as long as one may.
        WaitLimit = "wait-limit",
        /// As many fills or waiters as there may be.
        FlightLimit = "flight-limit",
        /// A HEAD request; only a stored response to GET would answer it.
        Head = "head",
        /// There is one, but the request does not allow its use (RFC 9111, section 5.2.1 and section 3.5).
        Request = "request",
        /// There are some, but none for these values of the fields by which they vary (RFC 9111, section 4.1).
        Variant = "variant",
    }
}

reasons! {
    /// Why a response was not stored.
    NoStore {
        /// Its status is not among those that the rule stores.
        Status = "status",
        /// `Cache-Control: no-store`, or the handler said so.
        NoStore = "no-store",
        /// `Cache-Control: private`.
        Private = "private",
        /// `Cache-Control: no-cache`: not without asking each time.
        NoCache = "no-cache",
        /// It sets a cookie.
        SetCookie = "set-cookie",
        /// `Vary: *`, or more or longer varying fields than are kept apart: 8, and what a key of 8 KiB has room for. Or the first
        /// `Vary` under a rule whose 64 responses before had none: the fields of their requests are not kept any more.
        Vary = "vary",
        /// A part of a whole: `Content-Range`.
        Partial = "partial",
        /// An event stream, which has no end to wait for.
        EventStream = "event-stream",
        /// Its lifetime is zero.
        Lifetime = "lifetime",
        /// Its body is larger than the rule, or the store, allows.
        TooLarge = "too-large",
        /// Its body ended before, or after, the length that was announced or that the body itself told as exact.
        Truncated = "truncated",
        /// Its body ended with an error.
        BodyError = "body-error",
        /// The inner service failed.
        Failed = "failed",
        /// Something it belongs to was cleared while it was computed.
        Cleared = "cleared",
        /// The handler has named a namespace that is new to a shared store: responses of fills that begin from now on are stored.
        NewNamespace = "new-namespace",
        /// It names more than [`MAX_NAMESPACES`](crate::MAX_NAMESPACES). It is not stored under a common ancestor in their place: to invalidate
        /// one of the names would not invalidate the ancestor.
        Namespaces = "namespaces",
        /// The store could not keep it.
        Store = "store",
        /// The request said `no-store`.
        RequestNoStore = "request-no-store",
        /// The request had credentials, and the response does not say that it is for others, too (RFC 9111, section 3.5).
        Authorization = "authorization",
        /// It says nothing that allows storing it, or that would ever allow using it (RFC 9111, section 3).
        NotAllowed = "not-allowed",
    }
}

/// Why a stale response was served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stale {
    /// It is being refreshed meanwhile (`stale_while_revalidate`).
    WhileRevalidate,
    /// The inner service failed (`stale_if_error`).
    IfError,
    /// The client takes it so (`max-stale`).
    MaxStale,
    /// The inner service was slow (`soft_timeout`).
    SoftTimeout,
}

/// What the cache did with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// Answered with a fresh stored response; the inner service was not touched.
    Hit,
    /// Answered with a stale stored response.
    Stale(Stale),
    /// Answered with a stored response that the inner service has just validated (304).
    Revalidated,
    /// Answered with 504: the client wants a stored response or none (`only-if-cached`), and there is none for it.
    OnlyIfCached,
    /// Answered with the response that another request was already fetching.
    Collapsed,
    /// Answered by the inner service after a look into the store.
    Miss(Miss),
    /// Answered by the inner service without one.
    Bypass(Bypass),
}

/// What became of a response that the inner service gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Storing {
    /// It is stored.
    Stored,
    /// It will be stored if its body, which is still on its way, turns out fit.
    Pending,
    /// It is not stored, and why.
    Not(NoStore),
}

/// What the cache did with a request and why: an extension of every response that a rule covers.
///
/// ```
/// use tower_response_cache::{CacheStatus, Outcome};
///
/// fn was_hit<B>(response: &http::Response<B>) -> bool {
///     response.extensions().get::<CacheStatus>().is_some_and(|status| status.outcome() == Outcome::Hit)
/// }
/// # assert!(!was_hit(&http::Response::new(())));
/// ```
///
/// Its [`Display`](fmt::Display) is the value of a `Cache-Status` field without the name of the cache (RFC 9211).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheStatus {
    outcome: Outcome,
    storing: Option<Storing>,
    /// Whole seconds of lifetime left; negative when stale.
    ttl: Option<i64>,
    /// What was stored was fresh, and it was the request that did not allow its use.
    by_request: bool,
}

impl CacheStatus {
    pub(crate) fn new(outcome: Outcome) -> Self {
        Self { outcome, storing: None, ttl: None, by_request: false }
    }

    fn with_ttl(self, seconds: i64) -> Self {
        Self { ttl: Some(seconds), ..self }
    }

    pub(crate) fn storing(self, storing: Storing) -> Self {
        Self { storing: Some(storing), ..self }
    }

    /// A stored response was validated, and why it was not served as it was.
    pub(crate) fn validated(why: Miss) -> Self {
        Self { by_request: why == Miss::Request, ..Self::new(Outcome::Revalidated) }
    }

    /// The same for a stored response that is fresh until then: whole seconds are left, and begun ones are over.
    #[inline]
    pub(crate) fn until(self, fresh_until: Nanos, now: Nanos) -> Self {
        const SECOND: Nanos = 1_000_000_000;
        let seconds = match fresh_until.checked_sub(now) {
            Some(left) => (left / SECOND) as i64,
            None => -((now - fresh_until).div_ceil(SECOND) as i64),
        };
        self.with_ttl(seconds)
    }

    /// What was done.
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// What became of the inner service's response; `None` if the store answered or was not asked.
    pub fn stored(&self) -> Option<Storing> {
        self.storing
    }

    /// The lifetime that the served entry had left; zero when it was stale, `None` if no stored response was served.
    pub fn time_left(&self) -> Option<Duration> {
        self.ttl.map(|seconds| Duration::from_secs(seconds.max(0) as u64))
    }

    /// The whole value of a `Cache-Status` field: the name, then what this says.
    pub(crate) fn header(&self, cache: &str) -> HeaderValue {
        HeaderValue::from_str(&format!("{cache}; {self}")).expect("the name was checked when the layer was built")
    }
}

/// Values that stay for as long as the process lives: what is told of hits on all cores is not to be counted on all of them.
pub(crate) fn values(texts: impl Iterator<Item = String>) -> Box<[HeaderValue]> {
    let (mut all, mut ends) = (String::new(), Vec::new());
    for text in texts {
        all.push_str(&text);
        ends.push(all.len());
    }
    let all: &'static str = all.leak();
    let starts = std::iter::once(0).chain(ends.iter().copied());
    starts.zip(&ends).map(|(start, end)| HeaderValue::from_static(&all[start..*end])).collect()
}

/// The `Cache-Status` field of one cache.
#[derive(Debug, Clone)]
pub(crate) struct StatusField {
    name: Arc<str>,
    /// What it says of a hit, by the seconds left: hits are many, and what they say is much the same.
    hits: Arc<[HeaderValue]>,
}

impl StatusField {
    /// As many hits as have their field ready: half an hour of seconds. They take about 120 KiB, once for each name.
    const READY: i64 = 1800;

    #[track_caller]
    pub(crate) fn named(name: &str) -> Self {
        static KNOWN: Mutex<BTreeMap<Arc<str>, Arc<[HeaderValue]>>> = Mutex::new(BTreeMap::new());
        let name = name_of_cache(name);
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let hits = known.entry(name.clone()).or_insert_with(|| {
            let hit = |left| CacheStatus::new(Outcome::Hit).with_ttl(left);
            values((0..=Self::READY).map(|left| format!("{name}; {}", hit(left)))).into()
        });
        Self { hits: hits.clone(), name }
    }

    #[inline]
    fn value(&self, status: CacheStatus) -> HeaderValue {
        match status {
            CacheStatus { outcome: Outcome::Hit, storing: None, ttl: Some(left @ 0..=Self::READY), .. } => {
                self.hits[left as usize].clone()
            }
            _ => status.header(&self.name),
        }
    }

    /// Puts it on a response: RFC 9211, section 2: behind what caches before this one have said.
    #[inline]
    pub(crate) fn put(&self, status: CacheStatus, headers: &mut HeaderMap) {
        match slot(headers) {
            Some(slot) => *slot = self.value(status),
            None => _ = headers.append(CACHE_STATUS, self.value(status)),
        }
    }
}

/// The place that a stored response keeps for what a hit says of itself: the second field, empty, behind `Age`.
#[inline]
pub(crate) fn slot(headers: &mut HeaderMap) -> Option<&mut HeaderValue> {
    let mut fields = headers.iter_mut();
    match (fields.next(), fields.next()) {
        (Some((first, _)), Some((name, value))) if value.is_empty() && *name == CACHE_STATUS && *first == AGE => Some(value),
        _ => None,
    }
}

/// The name of a cache in `Cache-Status` (RFC 9211, section 2).
///
/// # Panics
///
/// If it is not a token (RFC 9110, section 5.6.2) that begins with a letter.
#[track_caller]
pub(crate) fn name_of_cache(name: &str) -> Arc<str> {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    assert!(
        name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(token),
        "{name:?} cannot name a cache in Cache-Status: letters, digits and - . _, a letter first"
    );
    name.into()
}

pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// RFC 9211, section 2: `hit` and `fwd` exclude each other; `ttl`, `stored`, `collapsed` and `detail` say more.
impl fmt::Display for CacheStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.outcome {
            Outcome::Hit => f.write_str("hit")?,
            Outcome::Stale(Stale::WhileRevalidate) => f.write_str("hit; detail=stale-while-revalidate")?,
            Outcome::Stale(Stale::IfError) => f.write_str("hit; detail=stale-if-error")?,
            Outcome::Stale(Stale::MaxStale) => f.write_str("hit; detail=max-stale")?,
            Outcome::Stale(Stale::SoftTimeout) => f.write_str("hit; detail=soft-timeout")?,
            Outcome::Revalidated if self.by_request => f.write_str("fwd=request; fwd-status=304")?,
            Outcome::Revalidated => f.write_str("fwd=stale; fwd-status=304")?,
            Outcome::OnlyIfCached => f.write_str("detail=only-if-cached")?,
            Outcome::Collapsed => f.write_str("fwd=uri-miss; collapsed")?,
            Outcome::Miss(Miss::Expired | Miss::SoftlyCleared) => f.write_str("fwd=stale")?,
            Outcome::Miss(Miss::Request) => f.write_str("fwd=request")?,
            Outcome::Miss(Miss::Absent) => f.write_str("fwd=uri-miss")?,
            Outcome::Miss(Miss::Variant) => f.write_str("fwd=vary-miss")?,
            Outcome::Miss(why) => write!(f, "fwd=uri-miss; detail={why}")?,
            Outcome::Bypass(Bypass::Method) => f.write_str("fwd=method")?,
            Outcome::Bypass(why) => write!(f, "fwd=bypass; detail={why}")?,
        }
        match self.storing {
            Some(Storing::Stored) => f.write_str("; stored")?,
            // One `detail` a member: the reason of the miss has it where there is one.
            Some(Storing::Not(why))
                if matches!(
                    self.outcome,
                    Outcome::Miss(Miss::Absent | Miss::Expired | Miss::SoftlyCleared | Miss::Request) | Outcome::Revalidated
                ) =>
            {
                write!(f, "; detail={why}")?;
            }
            _ => {}
        }
        match self.ttl {
            Some(ttl) => write!(f, "; ttl={ttl}"),
            None => Ok(()),
        }
    }
}
