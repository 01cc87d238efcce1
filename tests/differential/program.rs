//! A program: the set-up of one run and its steps, as data. A run of it needs nothing else.

use super::routes::{ROUTES, Route};

/// Everything that one run is made of.
#[derive(Clone, Debug)]
pub struct Program {
    pub seed: u64,
    pub setup: Setup,
    pub steps: Vec<Step>,
}

/// How the cache is put together.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub store: StoreKind,
    /// The rules are read from TOML, not built in code.
    pub from_toml: bool,
    /// The cache stands in a router that is nested under `/api`.
    pub nested: bool,
    /// `InvalidateLayer` stands inside of the cache.
    pub invalidate_inside: bool,
    /// Names the user on routes whose key holds an identity.
    pub identity: Credential,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StoreKind {
    Memory,
    /// Redis; `two` processes share it, each with memory in front or not.
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
    Ask(Ask),
    /// As many equal requests at once.
    Burst(Ask, u8),
    /// One of the held calls goes on.
    Release(u8),
    /// One of the waiting clients leaves.
    Leave(u8),
    /// Milliseconds.
    Advance(u64),
    Invalidate {
        names: Name,
        soft: bool,
        process: u8,
    },
    /// `Store::invalidate_key` with the key of this request.
    InvalidateKey(Ask),
}

/// A namespace that is invalidated by hand.
#[derive(Clone, Copy, Debug)]
pub enum Name {
    Everything,
    Family(&'static str),
    Member(&'static str, u8),
    User(u8),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verb {
    Get,
    Head,
    Put,
    Post,
    Delete,
}

/// One request, and what the origin says if it gets to hear of it.
#[derive(Clone, Debug)]
pub struct Ask {
    pub verb: Verb,
    /// Place in [`ROUTES`].
    pub route: usize,
    pub id: u8,
    /// Place in [`QUERIES`].
    pub query: usize,
    /// Place in [`HOSTS`].
    pub host: usize,
    pub user: Option<(Credential, u8)>,
    /// The user is named a second time, and that is another one.
    pub twice: bool,
    /// A write spells its URI and its user in another way: 1 to 4.
    pub oddly: u8,
    /// Place in [`FORWARDED`](super::routes::FORWARDED).
    pub forwarded: Option<usize>,
    pub language: Option<u8>,
    pub mode: Option<u8>,
    pub tags: Option<Tags>,
    pub since: Option<Since>,
    pub if_match: bool,
    pub range: Option<Wanted>,
    pub if_range: Option<IfRange>,
    pub directives: AskDirectives,
    /// Draws how the fields are written.
    pub spelling: u64,
    pub process: u8,
    /// The client goes away after the first piece of the body.
    pub leaves_in_body: bool,
    pub answer: Answer,
}

/// `If-None-Match`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tags {
    /// Some that nothing has.
    Others,
    /// The last that was seen of this resource, among others.
    Seen,
    Star,
}

/// `If-Modified-Since`, compared with the last `Last-Modified` that was seen of this resource.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Since {
    Before,
    Seen,
    After,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum IfRange {
    SeenTag,
    OtherTag,
}

/// `Range`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
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
pub struct AskDirectives {
    pub no_cache: bool,
    pub no_store: bool,
    pub max_age: Option<u64>,
    pub min_fresh: Option<u64>,
    /// `Some(None)`: however stale.
    pub max_stale: Option<Option<u64>>,
    pub stale_if_error: Option<u64>,
    pub only_if_cached: bool,
}

/// What the origin says.
#[derive(Clone, Debug)]
pub struct Answer {
    /// 0: it fails without an answer.
    pub status: u16,
    pub directives: Directives,
    /// `CDN-Cache-Control`.
    pub targeted: Option<Directives>,
    /// Seconds from `Date`.
    pub expires: Option<i64>,
    pub age: Option<u64>,
    /// Seconds by which `Date` lies in the past.
    pub dated: Option<u64>,
    pub vary: Vec<Varies>,
    /// It has a `Content-Language`, with or without a `Vary`.
    pub language: bool,
    pub cookie: bool,
    /// The thing has changed meanwhile.
    pub changes: bool,
    /// No `ETag` and no `Last-Modified`, and a body that no other call gives.
    pub bare: bool,
    pub body: Body,
    pub length: Length,
    pub held: bool,
    pub obeys_ranges: bool,
    pub spelling: u64,
    /// What the handler says with `CachePolicy`: rows, a lifetime in seconds, or that it is not to be stored.
    pub rows: Vec<u8>,
    pub ttl: Option<u64>,
    pub forbids: bool,
    /// What a write says with `Invalidations::only`.
    pub invalidates_only: Option<u8>,
    /// `Location` of a write: the id it names on the same route.
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

/// What announces the length of a body.
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
    /// What stands before every path.
    pub fn prefix(&self) -> &'static str {
        if self.nested { "/api" } else { "" }
    }
}

impl Ask {
    pub fn facts(&self) -> &'static Route {
        &ROUTES[self.route]
    }

    pub fn reads(&self) -> bool {
        matches!(self.verb, Verb::Get | Verb::Head)
    }
}

impl Answer {
    /// What it varies by: a response in some language depends on what was asked for, also if it does not say so.
    pub fn varies(&self) -> Vec<Varies> {
        let unsaid = self.language && self.status == 200 && !self.vary.contains(&Varies::Language);
        self.vary.iter().copied().chain(unsaid.then_some(Varies::Language)).collect()
    }

    /// A plain 200.
    pub fn plain() -> Self {
        Self {
            status: 200,
            directives: Directives::default(),
            targeted: None,
            expires: None,
            age: None,
            dated: None,
            vary: Vec::new(),
            language: false,
            cookie: false,
            changes: false,
            bare: false,
            body: Body::Whole,
            length: Length::Nothing,
            held: false,
            obeys_ranges: false,
            spelling: 0,
            rows: Vec::new(),
            ttl: None,
            forbids: false,
            invalidates_only: None,
            location: None,
        }
    }
}
