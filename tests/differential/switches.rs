//! Switches of the generator and the check, one for each defect that took time to fix. With a switch off, the test omits that
//! behaviour. All are on.

/// A body that ends before its exact `size_hint`, without a `Content-Length`, is incomplete.
pub const SHORT_BY_SIZE_HINT: bool = true;

/// `Age: 3, 9` is 3 under `Rule::ttl` as well.
pub const AGE_AS_A_LIST: bool = true;

/// Under `Router::nest`, writes under `Rule::http()` and `Rules::key` find the entries of the nested cache.
pub const URIS_UNDER_NEST: bool = true;

/// A response that was stale on arrival is refreshed under `stale-while-revalidate`.
pub const STALE_ON_ARRIVAL_IS_REFRESHED: bool = true;

/// `only-if-cached` does not reach the origin where the request bypasses the cache.
pub const ONLY_IF_CACHED_ON_BYPASS: bool = true;

/// A request does not join an arriving body whose lifetime has passed.
pub const LATE_FOLLOWERS: bool = true;

/// A HEAD freshens a stored response only if their validators match.
pub const HEAD_OF_OTHERS: bool = true;

/// A burst over Redis makes one call.
pub const ONE_CALL_OVER_REDIS: bool = true;

/// A response's `stale-if-error` also limits the window for an unreachable origin.
pub const STATED_WINDOW_NARROWS: bool = true;

/// A response combined from parts belongs to the namespaces of all parts.
pub const PARTS_WITH_ROWS: bool = true;

/// A softly invalidated response is not served on an error where the rule allows no stale response.
pub const SOFT_WITH_FAILURES: bool = true;

/// A write reaches the entries under other spellings of its URI and of its user.
pub const ODD_SPELLINGS: bool = true;

/// A response with a `Content-Language` is a variant of `Accept-Language` even without a `Vary`.
pub const LANGUAGE_WITHOUT_VARY: bool = true;

/// A response may belong to many namespaces.
pub const MANY_ROWS: bool = true;
