//! Sequences in which faults have hidden: what single steps seldom come to by themselves.

use fastrand::Rng;

use super::{
    generate::{ask, calm_answer, one_in, read, wanted},
    known,
    program::{Answer, Ask, Body, Directives, Name, Setup, Step, Tags, Varies, Verb, Wanted},
    routes::{Kind, ROUTES},
};

/// Whether a HEAD is of use here.
pub fn may_head(ask: &Ask) -> bool {
    known::HEAD_OF_OTHERS || ask.facts().kind != Kind::Http
}

/// The same request again, and a little changed: for another part, or with another answer.
pub fn again(rng: &mut Rng, mut ask: Ask) -> Step {
    (ask.spelling, ask.process) = (rng.u64(..), rng.u8(..2));
    let facts = ask.facts();
    match rng.u8(..8) {
        0 => ask.range = Some(wanted(rng)),
        1 | 2 => (ask.answer.status, ask.answer.body) = ([0, 500, 503][rng.usize(..3)], Body::Whole),
        3 => ask.answer = calm_answer(rng, facts.kind, facts.rows),
        4 => ask.answer.held = true,
        5 => {
            let names = facts.family.map_or(Name::Member("row", rng.u8(..3)), |family| Name::Member(family, ask.id));
            return Step::Invalidate { names, soft: rng.bool(), process: rng.u8(..2) };
        }
        _ => {}
    }
    if one_in(rng, 4) {
        ask.leaves_in_body = false;
        return Step::Burst(ask, rng.u8(2..6));
    }
    Step::Ask(ask)
}

/// A few steps about one thing.
pub fn scene(rng: &mut Rng, setup: &Setup, routes: [usize; 2]) -> Vec<Step> {
    let mut first = read(rng, setup, routes);
    (first.tags, first.since, first.range, first.if_range, first.if_match) = (None, None, None, None, false);
    first.directives = Default::default();
    let facts = first.facts();
    first.verb = Verb::Get;
    first.answer = calm_answer(rng, facts.kind, facts.rows);
    (first.answer.held, first.leaves_in_body) = (false, false);
    match rng.u8(..6) {
        0 => softened(rng, first),
        1 => parts(rng, first),
        2 => stale(rng, first),
        3 => overtaken(rng, setup, routes, first),
        4 => variants(rng, first),
        _ => validated(rng, first),
    }
}

fn name(rng: &mut Rng, ask: &Ask) -> Name {
    match ask.facts().family {
        _ if ask.facts().identity => ask.user.map_or(Name::Family("u"), |(_, user)| Name::User(user)),
        Some(family) => Name::Member(family, ask.id),
        None => ask
            .answer
            .rows
            .first()
            .map_or(Name::Everything, |row| if one_in(rng, 4) { Name::Family("row") } else { Name::Member("row", *row) }),
    }
}

fn failing(rng: &mut Rng, ask: &Ask) -> Ask {
    Ask { answer: Answer { status: [0, 500, 503][rng.usize(..3)], ..Answer::plain() }, spelling: rng.u64(..), ..ask.clone() }
}

/// Stored, made stale by hand, and asked for while the origin fails.
fn softened(rng: &mut Rng, first: Ask) -> Vec<Step> {
    let soft = known::SOFT_WITH_FAILURES && !one_in(rng, 4);
    let soften = Step::Invalidate { names: name(rng, &first), soft, process: rng.u8(..2) };
    let next = failing(rng, &first);
    let last = if rng.bool() { Step::Burst(next, rng.u8(2..5)) } else { Step::Ask(next) };
    vec![Step::Ask(first), soften, last]
}

/// Two parts of one thing, what the first belongs to invalidated, and the whole.
fn parts(rng: &mut Rng, mut first: Ask) -> Vec<Step> {
    if first.facts().kind != Kind::Http {
        first.route = ROUTES.iter().position(|route| route.name == "http").expect("a route");
        first.answer = calm_answer(rng, Kind::Http, true);
    }
    first.answer = Answer { bare: false, changes: false, held: false, obeys_ranges: true, body: Body::Whole, ..first.answer };
    first.id %= 2;
    first.answer.rows = vec![rng.u8(..3)];
    let mut second = first.clone();
    if known::PARTS_WITH_ROWS {
        second.answer.rows = vec![rng.u8(..3)];
    }
    second.answer.changes = one_in(rng, 4);
    (first.range, second.range) = (Some(Wanted::First(10)), Some(Wanted::From(10)));
    if rng.bool() {
        std::mem::swap(&mut first.range, &mut second.range);
    }
    let whole = Ask { range: [None, Some(Wanted::Between(5, 14)), Some(Wanted::From(0))][rng.usize(..3)], ..second.clone() };
    let names = Step::Invalidate { names: name(rng, &first), soft: one_in(rng, 4), process: 0 };
    let mut steps = vec![Step::Ask(first), Step::Ask(second), Step::Ask(whole.clone())];
    if rng.bool() {
        steps.push(names);
        steps.push(Step::Ask(whole));
    }
    steps
}

/// Stored, too old, and asked for while the origin is well or fails.
fn stale(rng: &mut Rng, mut first: Ask) -> Vec<Step> {
    if first.facts().kind == Kind::Http && rng.bool() {
        first.answer.directives.stale_if_error = Some([0, 2, 60][rng.usize(..3)]);
        first.answer.directives.must_revalidate = one_in(rng, 5);
    }
    let by = [4_999, 5_000, 8_000, 9_999, 10_000, 12_500, 13_000, 30_000, 61_000, 65_000];
    let next = if one_in(rng, 3) { first.clone() } else { failing(rng, &first) };
    let last = if one_in(rng, 3) { Step::Burst(next, rng.u8(2..5)) } else { Step::Ask(next) };
    vec![Step::Ask(first.clone()), Step::Advance(by[rng.usize(..by.len())]), last, Step::Ask(first)]
}

/// A read that was begun before a write, and answered after it.
fn overtaken(rng: &mut Rng, setup: &Setup, routes: [usize; 2], first: Ask) -> Vec<Step> {
    let mut slow = first.clone();
    slow.answer.held = true;
    let mut write = ask(rng, setup, routes);
    for _ in 0..20 {
        if !write.reads() && write.route == first.route {
            break;
        }
        write = ask(rng, setup, routes);
    }
    if !write.reads() {
        (write.id, write.query, write.user) = (first.id, first.query, first.user);
    }
    let mut steps = vec![Step::Ask(slow), Step::Ask(write)];
    if rng.bool() {
        steps.push(Step::Ask(first.clone()));
    }
    steps.extend([Step::Release(rng.u8(..)), Step::Ask(first)]);
    steps
}

/// Variants, and one whose response varies by more.
fn variants(rng: &mut Rng, mut first: Ask) -> Vec<Step> {
    let more = [vec![Varies::Language], vec![Varies::Language, Varies::Mode], Vec::new(), vec![Varies::Mode]];
    let mut steps = Vec::new();
    for _ in 0..rng.usize(3..6) {
        (first.language, first.mode) = (first.language.filter(|_| rng.bool()), Some(rng.u8(..2)).filter(|_| rng.bool()));
        if rng.bool() {
            first.language = Some(rng.u8(..3));
        }
        first.answer.vary = more[rng.usize(..4)].clone();
        first.spelling = rng.u64(..);
        first.verb = if one_in(rng, 4) && may_head(&first) { Verb::Head } else { Verb::Get };
        steps.push(Step::Ask(first.clone()));
    }
    steps
}

/// Stored without a lifetime, or past it, and validated by several at once; each with or without a condition of its own.
fn validated(rng: &mut Rng, mut first: Ask) -> Vec<Step> {
    first.answer.bare = false;
    let directives = |rng: &mut Rng| Directives {
        max_age: Some([0, 5, 10][rng.usize(..3)]),
        no_cache: one_in(rng, 8),
        must_revalidate: one_in(rng, 8),
        ..Directives::default()
    };
    if first.facts().kind == Kind::Http {
        first.answer.directives = directives(rng);
    }
    let mut steps = vec![Step::Ask(first.clone()), Step::Advance([0, 6_000, 11_000][rng.usize(..3)])];
    for _ in 0..rng.usize(1..4) {
        let mut next = first.clone();
        next.tags = [None, Some(Tags::Seen), Some(Tags::Others)][rng.usize(..3)];
        next.answer.held = rng.bool();
        next.answer.changes = one_in(rng, 3);
        if first.facts().kind == Kind::Http {
            next.answer.directives = directives(rng);
        }
        steps.push(Step::Ask(next));
    }
    steps.extend([Step::Release(0), Step::Release(0), Step::Release(0), Step::Ask(first)]);
    steps
}
