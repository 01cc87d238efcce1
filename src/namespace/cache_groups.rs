//! Cache groups (RFC 9875) as namespaces. A group of an origin invalidates the namespace of its name.

use http::{HeaderMap, Method, Uri, header, uri::Authority};

use super::Namespace;
use crate::{
    key,
    semantics::{self, MalformedGroups},
};

/// The first level of the namespaces of all groups.
const GROUPS: &str = "cache-groups";

/// The last level for responses with more groups than an entry can have namespaces. `%` without two digits occurs in no other name.
const MANY: &str = "%many";

/// The largest number of groups that are distinguished (RFC 9875, section 2, requires support for 32).
const MOST: usize = 32;

/// The origin of a request. Groups have a meaning only within one origin (RFC 9875, section 2.1).
#[derive(Debug, Clone)]
pub(crate) struct GroupOrigin(Box<str>);

impl GroupOrigin {
    /// Returns the origin by the authority of a request, normalised like the names of keys. Requests without an authority share one origin.
    pub(crate) fn of(uri: &Uri, headers: &HeaderMap) -> Self {
        let host = || headers.get(header::HOST).and_then(|host| host.to_str().ok());
        Self::named(uri.authority().map(Authority::as_str).or_else(host).unwrap_or_default())
    }

    fn named(authority: &str) -> Self {
        Self(String::from_utf8_lossy(&key::normal_host(authority.as_bytes())).into())
    }

    /// Returns the namespaces to which a response belongs by its `Cache-Groups`.
    pub(crate) fn joined(&self, response: &HeaderMap) -> Result<Vec<Namespace>, MalformedGroups> {
        let groups = semantics::cache_groups(response)?;
        Ok(match groups.len() > MOST {
            true => vec![self.many()],
            false => groups.iter().map(|group| self.group(group)).collect(),
        })
    }

    /// Returns the namespaces that a response invalidates by its `Cache-Group-Invalidation`.
    pub(crate) fn invalidated(&self, method: &Method, response: &HeaderMap) -> Result<Vec<Namespace>, MalformedGroups> {
        let groups = semantics::invalidated_groups(method, response)?;
        let mut names: Vec<_> = groups.iter().map(|group| self.group(group)).collect();
        if !names.is_empty() {
            names.push(self.many());
        }
        Ok(names)
    }

    fn group(&self, group: &str) -> Namespace {
        Namespace::of([GROUPS, &*self.0, group])
    }

    fn many(&self) -> Namespace {
        let host = Namespace::of([GROUPS, &*self.0]);
        Namespace::rendered(format!("{host}:{MANY}"))
    }
}

impl Namespace {
    /// Returns the namespaces of a cache group (RFC 9875) of an origin, to be invalidated. `authority` is the authority in requests to that
    /// origin. [`Rule::cache_groups`](crate::Rule::cache_groups) invalidates the same namespaces when a response to an unsafe request names
    /// the group.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use tower_response_cache::{Memory, Namespace, Store};
    ///
    /// let store = Memory::new(1 << 20);
    /// store.invalidate(Namespace::of_cache_group("shop.example", "orders")).await.unwrap();
    /// # });
    /// ```
    pub fn of_cache_group(authority: &str, group: &str) -> [Self; 2] {
        let origin = GroupOrigin::named(authority);
        [origin.group(group), origin.many()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())])
    }

    fn names(of: Vec<Namespace>) -> Vec<String> {
        of.iter().map(ToString::to_string).collect()
    }

    /// RFC 9875, section 2.1: "the same group within one origin".
    #[test]
    fn rfc9875_2_1_group_belongs_to_its_origin() {
        let response = headers("cache-groups", r#""a", "a b", "a:b""#);
        let of = |uri: &str, host: &str| {
            names(GroupOrigin::of(&uri.parse().unwrap(), &headers("host", host)).joined(&response).unwrap())
        };
        assert_eq!(
            of("/", "Shop.example"),
            ["cache-groups:shop.example:a", "cache-groups:shop.example:a%20b", "cache-groups:shop.example:a%3Ab"]
        );
        assert_eq!(of("/", "shop.example"), of("http://SHOP.example/", "other.example"));
        assert_ne!(of("/", "shop.example"), of("/", "shop.example:8080"));
    }

    /// RFC 9875, section 2: support for at least 32 groups of 32 characters.
    #[test]
    fn rfc9875_2_each_of_many_groups_invalidates() {
        let origin = GroupOrigin::named("a");
        let list = |count: usize| (0..count).map(|n| format!("\"{n:032}\"")).collect::<Vec<_>>().join(", ");
        for count in [1, 4, MOST, MOST + 1] {
            let joined = origin.joined(&headers("cache-groups", &list(count))).unwrap();
            assert!(joined.len() <= MOST);
            for n in 0..count {
                let one = headers("cache-group-invalidation", &format!("\"{n:032}\""));
                let invalidated = origin.invalidated(&Method::POST, &one).unwrap();
                assert!(invalidated.iter().any(|name| joined.contains(name)), "{n} of {count}");
            }
        }
    }
    #[test]
    fn no_group_shares_the_namespace_of_many() {
        let origin = GroupOrigin::named("a");
        assert_ne!(origin.group(MANY), origin.many());
        assert_eq!(origin.many().to_string(), "cache-groups:a:%many");
    }
    #[test]
    fn rfc9875_3_safe_request_invalidates_no_group() {
        let response = headers("cache-group-invalidation", "\"a\"");
        assert_eq!(GroupOrigin::named("a").invalidated(&Method::GET, &response), Ok(Vec::new()));
        assert_eq!(
            Namespace::of_cache_group("A", "a").to_vec(),
            GroupOrigin::named("a").invalidated(&Method::PUT, &response).unwrap()
        );
    }
}
