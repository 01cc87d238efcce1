//! The validity of an entry.

/// The validity of an entry or a fill since its stamp was taken.
///
/// ```
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// use std::time::Duration;
/// use http::Request;
/// use tower_response_cache::{Validity, Memory, Rule, Rules, Store};
///
/// let store = Memory::default();
/// let rules = Rules::new().route("/", Rule::ttl(Duration::from_secs(60)));
/// let key = rules.key(&store, &Request::get("/").body(()).unwrap()).unwrap();
/// let stamp = store.get_now(key.as_ref()).unwrap().stamp;
/// assert!(store.key_lives(&stamp, &key));
/// store.invalidate_key(&key).await.unwrap();
/// assert!(!store.key_lives(&stamp, &key));
/// # });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// None of its namespaces was invalidated.
    Valid,
    /// A namespace was invalidated softly. The entry counts as expired.
    Stale,
    /// A namespace was invalidated. The entry is never served again.
    Invalidated,
}
