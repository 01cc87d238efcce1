//! Sequences that have revealed defects and that random single steps seldom form.

use fastrand::Rng;

use super::{
    generate::{one_in, range_spec, read, request, simple_response},
    program::{Body, Directives, Method, Name, RangeSpec, RequestSpec, ResponseSpec, Setup, Step, Tags, Varies},
    routes::{Kind, ROUTES},
    switches,
};

/// Returns true if the generator may use HEAD for this request.
pub fn may_head(spec: &RequestSpec) -> bool {
    switches::HEAD_OF_OTHERS || spec.rule().kind != Kind::Http
}

/// Repeats a request, usually with another range, response or header spelling.
pub fn repeated(rng: &mut Rng, mut spec: RequestSpec) -> Step {
    (spec.spelling, spec.process) = (rng.u64(..), rng.u8(..2));
    let rule = spec.rule();
    match rng.u8(..8) {
        0 => spec.range = Some(range_spec(rng)),
        1 | 2 => (spec.response.status, spec.response.body) = ([0, 500, 503][rng.usize(..3)], Body::Whole),
        3 => spec.response = simple_response(rng, rule.kind, rule.rows),
        4 => spec.response.held = true,
        5 => {
            let names = rule.family.map_or(Name::Member("row", rng.u8(..3)), |family| Name::Member(family, spec.id));
            return Step::Invalidate { names, soft: rng.bool(), process: rng.u8(..2) };
        }
        _ => {}
    }
    if one_in(rng, 4) {
        spec.disconnects_in_body = false;
        return Step::Burst(spec, rng.u8(2..6));
    }
    Step::Request(spec)
}

/// Generates a few steps about one item.
pub fn scenario(rng: &mut Rng, setup: &Setup, routes: [usize; 2]) -> Vec<Step> {
    let mut first = read(rng, setup, routes);
    (first.tags, first.since, first.range, first.if_range, first.if_match) = (None, None, None, None, false);
    first.directives = Default::default();
    let rule = first.rule();
    first.method = Method::Get;
    first.response = simple_response(rng, rule.kind, rule.rows);
    (first.response.held, first.disconnects_in_body) = (false, false);
    match rng.u8(..6) {
        0 => softened(rng, first),
        1 => parts(rng, first),
        2 => stale(rng, first),
        3 => overtaken(rng, setup, routes, first),
        4 => variants(rng, first),
        _ => validated(rng, first),
    }
}

fn name(rng: &mut Rng, spec: &RequestSpec) -> Name {
    match spec.rule().family {
        _ if spec.rule().identity => spec.user.map_or(Name::Family("u"), |(_, user)| Name::User(user)),
        Some(family) => Name::Member(family, spec.id),
        None => spec
            .response
            .rows
            .first()
            .map_or(Name::Everything, |row| if one_in(rng, 4) { Name::Family("row") } else { Name::Member("row", *row) }),
    }
}

fn failing(rng: &mut Rng, spec: &RequestSpec) -> RequestSpec {
    RequestSpec {
        response: ResponseSpec { status: [0, 500, 503][rng.usize(..3)], ..ResponseSpec::plain() },
        spelling: rng.u64(..),
        ..spec.clone()
    }
}

/// A stored response is invalidated softly, and requested while the origin fails.
fn softened(rng: &mut Rng, first: RequestSpec) -> Vec<Step> {
    let soft = switches::SOFT_WITH_FAILURES && !one_in(rng, 4);
    let soften = Step::Invalidate { names: name(rng, &first), soft, process: rng.u8(..2) };
    let next = failing(rng, &first);
    let last = if rng.bool() { Step::Burst(next, rng.u8(2..5)) } else { Step::Request(next) };
    vec![Step::Request(first), soften, last]
}

/// Two ranges of one item are requested, the first one's namespace is invalidated, and the whole is requested.
fn parts(rng: &mut Rng, mut first: RequestSpec) -> Vec<Step> {
    if first.rule().kind != Kind::Http {
        first.route = ROUTES.iter().position(|route| route.name == "http").expect("a route");
        first.response = simple_response(rng, Kind::Http, true);
    }
    first.response = ResponseSpec {
        without_validators: false,
        changes: false,
        held: false,
        obeys_ranges: true,
        body: Body::Whole,
        ..first.response
    };
    first.id %= 2;
    first.response.rows = vec![rng.u8(..3)];
    let mut second = first.clone();
    if switches::PARTS_WITH_ROWS {
        second.response.rows = vec![rng.u8(..3)];
    }
    second.response.changes = one_in(rng, 4);
    (first.range, second.range) = (Some(RangeSpec::First(10)), Some(RangeSpec::From(10)));
    if rng.bool() {
        std::mem::swap(&mut first.range, &mut second.range);
    }
    let whole = RequestSpec {
        range: [None, Some(RangeSpec::Between(5, 14)), Some(RangeSpec::From(0))][rng.usize(..3)],
        ..second.clone()
    };
    let names = Step::Invalidate { names: name(rng, &first), soft: one_in(rng, 4), process: 0 };
    let mut steps = vec![Step::Request(first), Step::Request(second), Step::Request(whole.clone())];
    if rng.bool() {
        steps.push(names);
        steps.push(Step::Request(whole));
    }
    steps
}

/// A stored response becomes stale, and is requested while the origin works or fails.
fn stale(rng: &mut Rng, mut first: RequestSpec) -> Vec<Step> {
    if first.rule().kind == Kind::Http && rng.bool() {
        first.response.directives.stale_if_error = Some([0, 2, 60][rng.usize(..3)]);
        first.response.directives.must_revalidate = one_in(rng, 5);
    }
    let by = [4_999, 5_000, 8_000, 9_999, 10_000, 12_500, 13_000, 30_000, 61_000, 65_000];
    let next = if one_in(rng, 3) { first.clone() } else { failing(rng, &first) };
    let last = if one_in(rng, 3) { Step::Burst(next, rng.u8(2..5)) } else { Step::Request(next) };
    vec![Step::Request(first.clone()), Step::Advance(by[rng.usize(..by.len())]), last, Step::Request(first)]
}

/// A read begins before a write and is answered after it.
fn overtaken(rng: &mut Rng, setup: &Setup, routes: [usize; 2], first: RequestSpec) -> Vec<Step> {
    let mut slow = first.clone();
    slow.response.held = true;
    let mut write = request(rng, setup, routes);
    for _ in 0..20 {
        if !write.reads() && write.route == first.route {
            break;
        }
        write = request(rng, setup, routes);
    }
    if !write.reads() {
        (write.id, write.query, write.user) = (first.id, first.query, first.user);
    }
    let mut steps = vec![Step::Request(slow), Step::Request(write)];
    if rng.bool() {
        steps.push(Step::Request(first.clone()));
    }
    steps.extend([Step::Release(rng.u8(..)), Step::Request(first)]);
    steps
}

/// Variants are requested, and one of the responses has a longer `Vary`.
fn variants(rng: &mut Rng, mut first: RequestSpec) -> Vec<Step> {
    let more = [vec![Varies::Language], vec![Varies::Language, Varies::Mode], Vec::new(), vec![Varies::Mode]];
    let mut steps = Vec::new();
    for _ in 0..rng.usize(3..6) {
        (first.language, first.mode) = (first.language.filter(|_| rng.bool()), Some(rng.u8(..2)).filter(|_| rng.bool()));
        if rng.bool() {
            first.language = Some(rng.u8(..3));
        }
        first.response.vary = more[rng.usize(..4)].clone();
        first.spelling = rng.u64(..);
        first.method = if one_in(rng, 4) && may_head(&first) { Method::Head } else { Method::Get };
        steps.push(Step::Request(first.clone()));
    }
    steps
}

/// Several requests at once validate a stale response, with or without their own conditions.
fn validated(rng: &mut Rng, mut first: RequestSpec) -> Vec<Step> {
    first.response.without_validators = false;
    let directives = |rng: &mut Rng| Directives {
        max_age: Some([0, 5, 10][rng.usize(..3)]),
        no_cache: one_in(rng, 8),
        must_revalidate: one_in(rng, 8),
        ..Directives::default()
    };
    if first.rule().kind == Kind::Http {
        first.response.directives = directives(rng);
    }
    let mut steps = vec![Step::Request(first.clone()), Step::Advance([0, 6_000, 11_000][rng.usize(..3)])];
    for _ in 0..rng.usize(1..4) {
        let mut next = first.clone();
        next.tags = [None, Some(Tags::Last), Some(Tags::Others)][rng.usize(..3)];
        next.response.held = rng.bool();
        next.response.changes = one_in(rng, 3);
        if first.rule().kind == Kind::Http {
            next.response.directives = directives(rng);
        }
        steps.push(Step::Request(next));
    }
    steps.extend([Step::Release(0), Step::Release(0), Step::Release(0), Step::Request(first)]);
    steps
}
