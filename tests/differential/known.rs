//! Switches of the generator and the check, one for each fault that was found and took a while to fix: off, the test leaves that behaviour out.
//! All are on.

/// A body that ends before its exact `size_hint`, without a `Content-Length`, is no whole.
pub const SHORT_BY_SIZE_HINT: bool = true;

/// `Age: 3, 9` is 3 under `Rule::ttl` as well.
pub const AGE_AS_A_LIST: bool = true;

/// Under `Router::nest`, writes under `Rule::http()` and `Rules::key` name what the nested cache has stored.
pub const URIS_UNDER_NEST: bool = true;

/// What was stale on arrival and may be served while it is revalidated is revalidated.
pub const STALE_ON_ARRIVAL_IS_REFRESHED: bool = true;

/// `only-if-cached` gets no answer of the origin where the request bypasses the cache.
pub const ONLY_IF_CACHED_ON_BYPASS: bool = true;

/// Nobody joins a body on its way whose lifetime has passed.
pub const LATE_FOLLOWERS: bool = true;

/// A HEAD freshens a stored response only by a validator that it has.
pub const HEAD_OF_OTHERS: bool = true;

/// A burst makes one call over Redis, too.
pub const ONE_CALL_OVER_REDIS: bool = true;

/// A `stale-if-error` that a response states narrows the window for an origin out of reach as well.
pub const STATED_WINDOW_NARROWS: bool = true;

/// A whole put together from parts belongs to the namespaces of all of them.
pub const PARTS_WITH_ROWS: bool = true;

/// What was invalidated softly does not stand in where the rule allows no stale response.
pub const SOFT_WITH_FAILURES: bool = true;

/// A write reaches what is stored under another spelling of its URI or of its user.
pub const ODD_SPELLINGS: bool = true;

/// A response in some language is kept for who asked for that, also if it has no `Vary`.
pub const LANGUAGE_WITHOUT_VARY: bool = true;

/// A response may belong to many namespaces.
pub const MANY_ROWS: bool = true;
