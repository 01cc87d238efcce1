//! Minimises a failing program: fewer and simpler steps that violate the same law.

use super::program::{Body, Directives, Length, Program, RequestDirectives, RequestSpec, ResponseSpec, Step};

/// Returns the smallest program found that still `fails`.
pub fn minimise(program: Program, fails: &mut dyn FnMut(&Program) -> bool) -> Program {
    let mut smallest = program;
    loop {
        let before = weight(&smallest);
        smallest = fewer(smallest, fails);
        smallest = simpler(smallest, fails);
        if weight(&smallest) == before {
            return smallest;
        }
    }
}

fn weight(program: &Program) -> usize {
    format!("{:?}", program.steps).len() + program.steps.len()
}

/// Removes runs of steps, the longest first.
fn fewer(mut program: Program, fails: &mut dyn FnMut(&Program) -> bool) -> Program {
    let mut size = program.steps.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < program.steps.len() {
            let mut less = program.clone();
            less.steps.drain(at..(at + size).min(less.steps.len()));
            if fails(&less) {
                program = less;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    program
}

type Change = fn(&mut RequestSpec);

/// Simplifications of a request.
const SIMPLIFICATIONS: &[Change] = &[
    |spec| spec.response = ResponseSpec { held: spec.response.held, ..ResponseSpec::plain() },
    |spec| spec.response.held = false,
    |spec| spec.response.directives = Directives::default(),
    |spec| spec.response.directives.stale_if_error = None,
    |spec| spec.response.directives.stale_while_revalidate = None,
    |spec| spec.response.directives.s_maxage = None,
    |spec| spec.response.directives.immutable = false,
    |spec| spec.response.directives.public = false,
    |spec| spec.response.targeted = None,
    |spec| (spec.response.expires, spec.response.age, spec.response.date_age) = (None, None, None),
    |spec| spec.response.expires = None,
    |spec| spec.response.age = None,
    |spec| spec.response.date_age = None,
    |spec| spec.response.vary.clear(),
    |spec| (spec.response.body, spec.response.length) = (Body::Whole, Length::Nothing),
    |spec| spec.response.length = Length::Nothing,
    |spec| (spec.response.without_validators, spec.response.changes) = (false, false),
    |spec| spec.response.without_validators = false,
    |spec| spec.response.changes = false,
    |spec| spec.response.obeys_ranges = false,
    |spec| spec.response.rows.clear(),
    |spec| spec.response.ttl = None,
    |spec| spec.response.location = None,
    |spec| spec.response.spelling = 0,
    |spec| spec.directives = RequestDirectives::default(),
    |spec| (spec.tags, spec.since) = (None, None),
    |spec| spec.tags = None,
    |spec| spec.since = None,
    |spec| (spec.range, spec.if_range) = (None, None),
    |spec| spec.if_range = None,
    |spec| spec.forwarded = None,
    |spec| spec.respelled = 0,
    |spec| spec.response.language = false,
    |spec| spec.language = None,
    |spec| spec.mode = None,
    |spec| (spec.user, spec.second_user) = (None, false),
    |spec| spec.second_user = false,
    |spec| (spec.query, spec.host) = (0, 0),
    |spec| spec.spelling = 0,
    |spec| spec.process = 0,
    |spec| spec.disconnects_in_body = false,
];

fn simpler(mut program: Program, fails: &mut dyn FnMut(&Program) -> bool) -> Program {
    for setup in 0..3 {
        let mut changed = program.clone();
        match setup {
            0 => changed.setup.from_toml = false,
            1 => changed.setup.nested = false,
            _ => changed.setup.invalidate_inside = false,
        }
        if format!("{:?}", changed.setup) != format!("{:?}", program.setup) && fails(&changed) {
            program = changed;
        }
    }
    for place in 0..program.steps.len() {
        for change in SIMPLIFICATIONS {
            let mut changed = program.clone();
            match &mut changed.steps[place] {
                Step::Request(spec) | Step::Burst(spec, _) | Step::InvalidateKey(spec) => {
                    change(spec);
                    spec.response = spec.response.clone().possible();
                }
                _ => break,
            }
            let same = format!("{:?}", changed.steps[place]) == format!("{:?}", program.steps[place]);
            if !same && fails(&changed) {
                program = changed;
            }
        }
    }
    program
}
