//! Generates programs from seeds.

use fastrand::Rng;

use super::program::{
    Body, Credential, Directives, IfRange, Length, Method, Name, Program, RangeSpec, RequestDirectives, RequestSpec,
    ResponseSpec, Setup, Since, Step, StoreKind, Tags, Varies,
};
use super::routes::{FORWARDED, HOSTS, Kind, LANGUAGES, MODES, QUERIES, ROUTES};
use super::scenarios::{repeated, scenario};
use super::switches;

const CREDENTIALS: [Credential; 3] = [Credential::Bearer, Credential::Cookie, Credential::ApiKey];

/// Generates the program of a seed.
pub fn program(seed: u64, redis: bool) -> Program {
    let mut rng = Rng::with_seed(seed);
    let rng = &mut rng;
    let store = match redis {
        false => StoreKind::Memory,
        true => {
            let leased = rng.bool();
            StoreKind::Redis { leased, memory: leased || rng.bool(), two: !leased && rng.bool() }
        }
    };
    let setup = Setup {
        store,
        from_toml: rng.bool(),
        nested: one_in(rng, 3),
        invalidate_inside: one_in(rng, 3),
        identity: CREDENTIALS[rng.usize(..3)],
    };
    // Each program uses two routes, so that requests share keys.
    let routes = [rng.usize(..ROUTES.len()), rng.usize(..ROUTES.len())];
    let mut steps: Vec<Step> = Vec::new();
    for _ in 0..rng.usize(8..40) {
        let last = steps.iter().rev().find_map(|step| match step {
            Step::Request(spec) | Step::Burst(spec, _) if spec.reads() => Some(spec.clone()),
            _ => None,
        });
        let next = match last {
            // A cache receives the same request repeatedly.
            Some(spec) if one_in(rng, 3) => repeated(rng, spec),
            _ if one_in(rng, 6) => {
                steps.extend(scenario(rng, &setup, routes));
                continue;
            }
            _ => step(rng, &setup, routes),
        };
        steps.push(next);
    }
    Program { seed, setup, steps }
}

pub fn one_in(rng: &mut Rng, n: u8) -> bool {
    rng.u8(..n) == 0
}

fn maybe<T>(rng: &mut Rng, n: u8, draw: impl FnOnce(&mut Rng) -> T) -> Option<T> {
    one_in(rng, n).then(|| draw(rng))
}

fn step(rng: &mut Rng, setup: &Setup, routes: [usize; 2]) -> Step {
    match rng.u8(..32) {
        0..=18 => Step::Request(request(rng, setup, routes)),
        19 | 20 => {
            let mut burst = read(rng, setup, routes);
            burst.disconnects_in_body = false;
            Step::Burst(burst, rng.u8(2..9))
        }
        21..=23 => Step::Release(rng.u8(..)),
        24 => Step::Disconnect(rng.u8(..)),
        25..=28 => Step::Advance([1, 500, 999, 1000, 2000, 3500, 5000, 9000, 30_000][rng.usize(..9)]),
        29 | 30 => Step::Invalidate { names: name(rng, routes), soft: one_in(rng, 3), process: rng.u8(..2) },
        _ if setup.nested && !switches::URIS_UNDER_NEST => Step::Release(0),
        _ => Step::InvalidateKey(read(rng, setup, routes)),
    }
}

fn name(rng: &mut Rng, routes: [usize; 2]) -> Name {
    let family = ROUTES[routes[rng.usize(..2)]].family.unwrap_or("row");
    match rng.u8(..8) {
        0 => Name::Everything,
        1 | 2 => Name::Family(family),
        3 => Name::User(rng.u8(..2)),
        _ => Name::Member(family, rng.u8(..2)),
    }
}

pub fn request(rng: &mut Rng, setup: &Setup, routes: [usize; 2]) -> RequestSpec {
    let mut spec = read(rng, setup, routes);
    let named = switches::URIS_UNDER_NEST || !setup.nested || spec.rule().kind != Kind::Http;
    if one_in(rng, 6) && named {
        spec.method = [Method::Put, Method::Post, Method::Delete][rng.usize(..3)];
        (spec.tags, spec.since, spec.range, spec.if_range, spec.if_match) = (None, None, None, None, false);
        spec.directives = RequestDirectives::default();
        spec.response = write_response(rng, &spec);
        spec.respelled = if switches::ODD_SPELLINGS && rng.bool() { rng.u8(1..5) } else { 0 };
    }
    spec
}

pub fn read(rng: &mut Rng, setup: &Setup, routes: [usize; 2]) -> RequestSpec {
    let route = routes[rng.usize(..2)];
    let rule = &ROUTES[route];
    let simple = rng.u8(..5) < 3;
    let odd = !simple && one_in(rng, 2);
    let by = |rng: &mut Rng| if one_in(rng, 3) { CREDENTIALS[rng.usize(..3)] } else { setup.identity };
    let users = if rule.identity {
        2
    } else if simple {
        32
    } else {
        8
    };
    let user = maybe(rng, users, |rng| (by(rng), rng.u8(..2)));
    let range = if odd { maybe(rng, 3, range_spec) } else { None };
    RequestSpec {
        method: if one_in(rng, 8) && (switches::HEAD_OF_OTHERS || rule.kind != Kind::Http) {
            Method::Head
        } else {
            Method::Get
        },
        route,
        id: if one_in(rng, 12) { 3 } else { rng.u8(..3) % 2 + if one_in(rng, 4) { 1 } else { 0 } },
        query: if one_in(rng, 3) { rng.usize(..QUERIES.len()) } else { 0 },
        host: if one_in(rng, 4) { rng.usize(..HOSTS.len()) } else { 0 },
        user,
        second_user: user.is_some() && one_in(rng, 12),
        respelled: 0,
        forwarded: maybe(rng, if simple { 24 } else { 8 }, |rng| rng.usize(..FORWARDED.len())),
        language: maybe(rng, if simple { 8 } else { 3 }, |rng| rng.u8(..LANGUAGES.len() as u8)),
        mode: maybe(rng, if simple { 12 } else { 4 }, |rng| rng.u8(..MODES.len() as u8)),
        tags: if odd { maybe(rng, 3, |rng| [Tags::Others, Tags::Last, Tags::Last, Tags::Star][rng.usize(..4)]) } else { None },
        since: if odd { maybe(rng, 5, |rng| [Since::Before, Since::Equal, Since::After][rng.usize(..3)]) } else { None },
        if_match: odd && one_in(rng, 16),
        if_range: range.and_then(|_| maybe(rng, 3, |rng| [IfRange::LastTag, IfRange::OtherTag][rng.usize(..2)])),
        range,
        directives: if odd && one_in(rng, 3) { request_directives(rng) } else { RequestDirectives::default() },
        spelling: rng.u64(..),
        process: rng.u8(..2),
        disconnects_in_body: !simple && one_in(rng, 12),
        response: if simple {
            simple_response(rng, rule.kind, rule.rows)
        } else {
            any_response(rng, rule.kind, rule.rows, rule.targeted)
        },
    }
}

pub fn range_spec(rng: &mut Rng) -> RangeSpec {
    match rng.u8(..10) {
        0 | 1 => RangeSpec::First(10),
        2 | 3 => RangeSpec::From(10),
        4 => RangeSpec::Between(5, 14),
        5 => RangeSpec::Last(5),
        6 => RangeSpec::Two(1, 7),
        7 => RangeSpec::PastTheEnd,
        8 => RangeSpec::Malformed,
        _ => RangeSpec::OtherUnit,
    }
}

fn seconds(rng: &mut Rng) -> u64 {
    [0, 1, 2, 3, 5, 10, 60][rng.usize(..7)]
}

fn request_directives(rng: &mut Rng) -> RequestDirectives {
    RequestDirectives {
        no_cache: one_in(rng, 5),
        no_store: one_in(rng, 8),
        max_age: maybe(rng, 3, seconds),
        min_fresh: maybe(rng, 4, seconds),
        max_stale: maybe(rng, 4, |rng| maybe(rng, 2, seconds)),
        stale_if_error: maybe(rng, 6, seconds),
        only_if_cached: one_in(rng, 4),
    }
}

fn directives(rng: &mut Rng) -> Directives {
    Directives {
        max_age: maybe(rng, 2, seconds),
        s_maxage: maybe(rng, 6, seconds),
        no_store: one_in(rng, 20),
        private: one_in(rng, 16),
        no_cache: one_in(rng, 16),
        public: one_in(rng, 8),
        must_revalidate: one_in(rng, 10),
        proxy_revalidate: one_in(rng, 20),
        immutable: one_in(rng, 10),
        stale_while_revalidate: maybe(rng, 5, seconds),
        stale_if_error: maybe(rng, 6, seconds),
    }
}

/// Generates a typical response.
pub fn simple_response(rng: &mut Rng, kind: Kind, rows: bool) -> ResponseSpec {
    let http = kind == Kind::Http;
    ResponseSpec {
        directives: Directives {
            max_age: if http { Some([5, 10, 60][rng.usize(..3)]) } else { None },
            stale_while_revalidate: if http { maybe(rng, 3, seconds) } else { None },
            ..Directives::default()
        },
        vary: if one_in(rng, 5) { vary(rng) } else { Vec::new() },
        changes: one_in(rng, 4),
        without_validators: one_in(rng, 6),
        age: maybe(rng, 8, seconds),
        body: if one_in(rng, 8) { Body::Held } else { Body::Whole },
        length: [Length::Nothing, Length::Field, Length::SizeHint][rng.usize(..3)],
        held: one_in(rng, 8),
        obeys_ranges: one_in(rng, 2),
        spelling: rng.u64(..),
        rows: if rows { row_names(rng) } else { Vec::new() },
        ..ResponseSpec::plain()
    }
}

fn any_response(rng: &mut Rng, kind: Kind, rows: bool, targeted: bool) -> ResponseSpec {
    let http = kind == Kind::Http;
    let has_directives = if http { !one_in(rng, 6) } else { one_in(rng, 5) };
    ResponseSpec {
        status: if one_in(rng, 6) { [404, 500, 503, 0, 302, 0][rng.usize(..6)] } else { 200 },
        directives: if has_directives { directives(rng) } else { Directives::default() },
        targeted: if targeted {
            maybe(rng, 3, |rng| Directives {
                s_maxage: None,
                public: false,
                proxy_revalidate: false,
                immutable: false,
                ..directives(rng)
            })
        } else {
            None
        },
        expires: maybe(rng, 10, |rng| [-10, 0, 3, 10][rng.usize(..4)]),
        age: maybe(rng, 6, seconds),
        date_age: maybe(rng, 10, seconds),
        vary: vary(rng),
        language: switches::LANGUAGE_WITHOUT_VARY && one_in(rng, 16),
        cookie: one_in(rng, 30),
        changes: one_in(rng, 3),
        without_validators: one_in(rng, 3),
        body: [Body::Whole, Body::Whole, Body::Whole, Body::Whole, Body::Held, Body::Breaks, Body::Short, Body::Whole]
            [rng.usize(..8)],
        length: [Length::Nothing, Length::Field, Length::SizeHint][rng.usize(..3)],
        held: one_in(rng, 5),
        obeys_ranges: one_in(rng, 2),
        spelling: rng.u64(..),
        rows: if rows { row_names(rng) } else { Vec::new() },
        ttl: maybe(rng, 20, seconds),
        no_store: one_in(rng, 30),
        invalidates_only: None,
        location: None,
    }
    .possible()
}

fn vary(rng: &mut Rng) -> Vec<Varies> {
    match rng.u8(..16) {
        0..=2 => vec![Varies::Language],
        3 => vec![Varies::Language, Varies::Mode],
        4 => vec![Varies::Mode],
        5 if one_in(rng, 3) => vec![Varies::Star],
        _ => Vec::new(),
    }
}

fn write_response(rng: &mut Rng, spec: &RequestSpec) -> ResponseSpec {
    ResponseSpec {
        status: [200, 200, 204, 303, 201, 404, 500, 0][rng.usize(..8)],
        held: one_in(rng, 4),
        invalidates_only: if spec.rule().rows { maybe(rng, 1, |rng| rng.u8(..3)) } else { maybe(rng, 16, |rng| rng.u8(..3)) },
        location: maybe(rng, 4, |rng| rng.u8(..2)),
        length: Length::Field,
        ..ResponseSpec::plain()
    }
}

impl ResponseSpec {
    /// Announces the length of a truncated body, so that the truncation can be detected.
    pub fn possible(mut self) -> Self {
        let announced = self.length == Length::Field || self.length == Length::SizeHint && switches::SHORT_BY_SIZE_HINT;
        if self.body == Body::Short && !announced {
            self.length = Length::Field;
        }
        self
    }
}

/// Draws a few rows, and occasionally many.
fn row_names(rng: &mut Rng) -> Vec<u8> {
    if switches::MANY_ROWS && one_in(rng, 8) {
        return (0..rng.u8(5..60)).collect();
    }
    (0..rng.usize(..4)).map(|_| rng.u8(..3)).collect()
}
