//! Makes a failing program small: fewer steps, and plainer ones, that break the same law.

use super::program::{Answer, Ask, AskDirectives, Body, Directives, Length, Program, Step};

/// The smallest program found that still `fails`.
pub fn minimise(program: Program, fails: &mut dyn FnMut(&Program) -> bool) -> Program {
    let mut smallest = program;
    loop {
        let before = weight(&smallest);
        smallest = fewer(smallest, fails);
        smallest = plainer(smallest, fails);
        if weight(&smallest) == before {
            return smallest;
        }
    }
}

fn weight(program: &Program) -> usize {
    format!("{:?}", program.steps).len() + program.steps.len()
}

/// Leaves out pieces of the program, the larger first.
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

type Change = fn(&mut Ask);

/// What may be left out of a request.
const PLAINER: &[Change] = &[
    |ask| ask.answer = Answer { held: ask.answer.held, ..Answer::plain() },
    |ask| ask.answer.held = false,
    |ask| ask.answer.directives = Directives::default(),
    |ask| ask.answer.directives.stale_if_error = None,
    |ask| ask.answer.directives.stale_while_revalidate = None,
    |ask| ask.answer.directives.s_maxage = None,
    |ask| ask.answer.directives.immutable = false,
    |ask| ask.answer.directives.public = false,
    |ask| ask.answer.targeted = None,
    |ask| (ask.answer.expires, ask.answer.age, ask.answer.dated) = (None, None, None),
    |ask| ask.answer.expires = None,
    |ask| ask.answer.age = None,
    |ask| ask.answer.dated = None,
    |ask| ask.answer.vary.clear(),
    |ask| (ask.answer.body, ask.answer.length) = (Body::Whole, Length::Nothing),
    |ask| ask.answer.length = Length::Nothing,
    |ask| (ask.answer.bare, ask.answer.changes) = (false, false),
    |ask| ask.answer.bare = false,
    |ask| ask.answer.changes = false,
    |ask| ask.answer.obeys_ranges = false,
    |ask| ask.answer.rows.clear(),
    |ask| ask.answer.ttl = None,
    |ask| ask.answer.location = None,
    |ask| ask.answer.spelling = 0,
    |ask| ask.directives = AskDirectives::default(),
    |ask| (ask.tags, ask.since) = (None, None),
    |ask| ask.tags = None,
    |ask| ask.since = None,
    |ask| (ask.range, ask.if_range) = (None, None),
    |ask| ask.if_range = None,
    |ask| ask.forwarded = None,
    |ask| ask.oddly = 0,
    |ask| ask.answer.language = false,
    |ask| ask.language = None,
    |ask| ask.mode = None,
    |ask| (ask.user, ask.twice) = (None, false),
    |ask| ask.twice = false,
    |ask| (ask.query, ask.host) = (0, 0),
    |ask| ask.spelling = 0,
    |ask| ask.process = 0,
    |ask| ask.leaves_in_body = false,
];

fn plainer(mut program: Program, fails: &mut dyn FnMut(&Program) -> bool) -> Program {
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
        for change in PLAINER {
            let mut changed = program.clone();
            match &mut changed.steps[place] {
                Step::Ask(ask) | Step::Burst(ask, _) | Step::InvalidateKey(ask) => {
                    change(ask);
                    ask.answer = ask.answer.clone().possible();
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
