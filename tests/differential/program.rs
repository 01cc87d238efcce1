//! A program: the configuration of one run and its steps, as data.

use super::routes::{ROUTES, Route};

/// A complete description of one run.
#[derive(Clone, Debug)]
pub struct Program {
    pub seed: u64,
    pub setup: Setup,
    pub steps: Vec<Step>,
}

/// The configuration of the cache.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub store: StoreKind,
    /// The rules are read from TOML instead of built in code.
    pub from_toml: bool,
    /// The cache is in a router that is nested under `/api`.
    pub nested: bool,
    /// `InvalidateLayer` is inside the cache.
    pub invalidate_inside: bool,
    /// The credential that identifies the user on routes with an identity in their key.
    pub identity: Credential,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StoreKind {
    Memory,
    /// Redis, with one process or `two`, each with or without memory in front of it.
    Redis {
        leased: bool,
        memory: bool,
        two: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Credential {
    Bearer,
    Cookie,
    ApiKey,
}

#[derive(Clone, Debug)]
pub enum Step {
    Request(RequestSpec),
    /// Several equal requests at once.
    Burst(RequestSpec, u8),
    /// Releases one of the held calls.
    Release(u8),
    /// Disconnects one of the waiting clients.
    Disconnect(u8),
    /// Advances the clock by milliseconds.
    Advance(u64),
    Invalidate {
        names: Name,
        soft: bool,
        process: u8,
    },
    /// `Store::invalidate_key` with the key of this request.
    InvalidateKey(RequestSpec),
}

/// A namespace to invalidate.
#[derive(Clone, Copy, Debug)]
pub enum Name {
    Everything,
    Family(&'static str),
    Member(&'static str, u8),
    User(u8),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    Get,
    Head,
    Put,
    Post,
    Delete,
}

/// A request, and the origin's response if it is called.
#[derive(Clone, Debug)]
pub struct RequestSpec {
    pub method: Method,
    /// Index in [`ROUTES`].
    pub route: usize,
    pub id: u8,
    /// Index in [`QUERIES`].
    pub query: usize,
    /// Index in [`HOSTS`].
    pub host: usize,
    pub user: Option<(Credential, u8)>,
    /// A second credential names another user.
    pub second_user: bool,
    /// The unusual spelling of a write's URI and user, 1 to 4, or 0 for the usual one.
    pub respelled: u8,
    /// Index in [`FORWARDED`](super::routes::FORWARDED).
    pub forwarded: Option<usize>,
    pub language: Option<u8>,
    pub mode: Option<u8>,
    pub tags: Option<Tags>,
    pub since: Option<Since>,
    pub if_match: bool,
    pub range: Option<RangeSpec>,
    pub if_range: Option<IfRange>,
    pub directives: RequestDirectives,
    /// The seed of the fields' spelling.
    pub spelling: u64,
    pub process: u8,
    /// The client disconnects after the first piece of the body.
    pub disconnects_in_body: bool,
    pub response: ResponseSpec,
}

/// `If-None-Match`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tags {
    /// Tags that no response has.
    Others,
    /// The last tag that was received for this resource, among others.
    Last,
    Star,
}

/// `If-Modified-Since`, compared with the last `Last-Modified` that was received for this resource.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Since {
    Before,
    Equal,
    After,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum IfRange {
    LastTag,
    OtherTag,
}

/// `Range`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RangeSpec {
    First(u64),
    From(u64),
    Between(u64, u64),
    Last(u64),
    Two(u64, u64),
    PastTheEnd,
    Malformed,
    OtherUnit,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RequestDirectives {
    pub no_cache: bool,
    pub no_store: bool,
    pub max_age: Option<u64>,
    pub min_fresh: Option<u64>,
    /// `Some(None)`: without a limit.
    pub max_stale: Option<Option<u64>>,
    pub stale_if_error: Option<u64>,
    pub only_if_cached: bool,
}

/// The origin's response.
#[derive(Clone, Debug)]
pub struct ResponseSpec {
    /// The status, or 0 for a call that fails.
    pub status: u16,
    pub directives: Directives,
    /// `CDN-Cache-Control`.
    pub targeted: Option<Directives>,
    /// Seconds from `Date`.
    pub expires: Option<i64>,
    pub age: Option<u64>,
    /// The age of `Date`, in seconds.
    pub date_age: Option<u64>,
    pub vary: Vec<Varies>,
    /// It has a `Content-Language`, with or without a `Vary`.
    pub language: bool,
    pub cookie: bool,
    /// The item has changed since the last call.
    pub changes: bool,
    /// It has no `ETag`, no `Last-Modified`, and a body that is unique to its call.
    pub without_validators: bool,
    pub body: Body,
    pub length: Length,
    pub held: bool,
    pub obeys_ranges: bool,
    pub spelling: u64,
    /// Rows that the handler adds with `CachePolicy::namespace`.
    pub rows: Vec<u8>,
    /// `CachePolicy::ttl`, in seconds.
    pub ttl: Option<u64>,
    /// `CachePolicy::no_store`.
    pub no_store: bool,
    /// The row that a write names with `Invalidations::only`.
    pub invalidates_only: Option<u8>,
    /// The id in the `Location` of a write, on the same route.
    pub location: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Varies {
    Language,
    Mode,
    Star,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Body {
    Whole,
    /// The second half waits to be released.
    Held,
    /// Ends with an error.
    Breaks,
    /// Ends before its announced length.
    Short,
}

/// The announcement of a body's length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    Nothing,
    Field,
    SizeHint,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Directives {
    pub max_age: Option<u64>,
    pub s_maxage: Option<u64>,
    pub no_store: bool,
    pub private: bool,
    pub no_cache: bool,
    pub public: bool,
    pub must_revalidate: bool,
    pub proxy_revalidate: bool,
    pub immutable: bool,
    pub stale_while_revalidate: Option<u64>,
    pub stale_if_error: Option<u64>,
}

impl Setup {
    /// Returns the prefix of every path.
    pub fn prefix(&self) -> &'static str {
        if self.nested { "/api" } else { "" }
    }
}

impl RequestSpec {
    pub fn rule(&self) -> &'static Route {
        &ROUTES[self.route]
    }

    pub fn reads(&self) -> bool {
        matches!(self.method, Method::Get | Method::Head)
    }
}

impl ResponseSpec {
    /// Returns the fields that the response depends on. A response with a language depends on `Accept-Language` even without a
    /// `Vary`.
    pub fn varies(&self) -> Vec<Varies> {
        let unsaid = self.language && self.status == 200 && !self.vary.contains(&Varies::Language);
        self.vary.iter().copied().chain(unsaid.then_some(Varies::Language)).collect()
    }

    /// Returns a plain 200.
    pub fn plain() -> Self {
        Self {
            status: 200,
            directives: Directives::default(),
            targeted: None,
            expires: None,
            age: None,
            date_age: None,
            vary: Vec::new(),
            language: false,
            cookie: false,
            changes: false,
            without_validators: false,
            body: Body::Whole,
            length: Length::Nothing,
            held: false,
            obeys_ranges: false,
            spelling: 0,
            rows: Vec::new(),
            ttl: None,
            no_store: false,
            invalidates_only: None,
            location: None,
        }
    }
}
