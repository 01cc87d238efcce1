//! Routes and their rules, and the values that requests are generated from.

/// A route and its rule. Times are in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    pub name: &'static str,
    pub kind: Kind,
    pub ttl: u64,
    pub while_revalidate: u64,
    pub if_error: u64,
    pub not_found: Option<u64>,
    /// The first level of its namespace. The second level is the id, or the user on a route with an identity.
    pub family: Option<&'static str>,
    pub identity: bool,
    pub soft_writes: bool,
    pub targeted: bool,
    /// The handler adds namespaces of rows.
    pub rows: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Ttl,
    Http,
    Uncovered,
}

const TTL: Route = Route {
    name: "plain",
    kind: Kind::Ttl,
    ttl: 10,
    while_revalidate: 0,
    if_error: 0,
    not_found: None,
    family: Some("t"),
    identity: false,
    soft_writes: false,
    targeted: false,
    rows: false,
};

pub const ROUTES: [Route; 9] = [
    TTL,
    Route { name: "stale", ttl: 8, while_revalidate: 5, if_error: 20, not_found: Some(3), ..TTL },
    Route { name: "error", ttl: 6, if_error: 9, family: Some("e"), ..TTL },
    Route { name: "own", family: Some("u"), identity: true, ..TTL },
    Route { name: "rows", family: None, rows: true, ..TTL },
    Route { name: "soft", family: Some("s"), soft_writes: true, ..TTL },
    Route { name: "http", kind: Kind::Http, ttl: 0, family: None, rows: true, ..TTL },
    Route {
        name: "more",
        kind: Kind::Http,
        ttl: 5,
        while_revalidate: 4,
        if_error: 10,
        family: Some("h"),
        targeted: true,
        ..TTL
    },
    Route { name: "none", kind: Kind::Uncovered, family: None, ..TTL },
];

/// The largest body that is stored.
pub const MAX_BODY: u64 = 4096;

/// Queries. Those with equal numbers mean the same to a handler that reads parameters by name.
pub const QUERIES: [(&str, u8); 9] = [
    ("", 0),
    ("?a=1&b=2", 1),
    ("?b=2&a=1", 1),
    ("?a=1", 2),
    ("?a=1&a=2", 3),
    ("?a=2&a=1", 4),
    ("?a=1;b=2", 5),
    ("?a[]=1", 6),
    ("?A=1", 7),
];

/// Hosts. Those with equal numbers are the same host.
pub const HOSTS: [(&str, u8); 4] = [("h.test", 0), ("H.Test", 0), ("other.test", 1), ("h.test:8080", 2)];

/// Fields in which a proxy forwards the client's original request, and on which a handler's response may depend.
pub const FORWARDED: [(&str, &str); 5] = [
    ("x-forwarded-host", "a.test"),
    ("x-forwarded-host", "b.test"),
    ("x-forwarded-proto", "https"),
    ("forwarded", "host=a.test;proto=https"),
    ("x-original-url", "/admin"),
];

pub const LANGUAGES: [&str; 3] = ["en", "de, en;q=0.5", "fr"];
pub const MODES: [&str; 2] = ["1", "two words"];
