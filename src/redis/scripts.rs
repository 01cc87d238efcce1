//! Scripts as typed functions. The file of each script describes its arguments, effect and result.

use redis::Cmd;

use super::{command::Command, keys::slot};

const BUMP: &str = include_str!("bump.lua");
const FENCE: &str = include_str!("fence.lua");
const UNFENCE: &str = include_str!("unfence.lua");
const GATHER: &str = include_str!("gather.lua");
const PUSH: &str = include_str!("push.lua");
const SOFTEN: &str = include_str!("soften.lua");
const ADMIT: &str = include_str!("admit.lua");
const COUNT: &str = include_str!("count.lua");
const NUMBER: &str = include_str!("number.lua");
const RELEASE: &str = include_str!("release.lua");
const REPLACE: &str = include_str!("replace.lua");

/// The life of a set of keys that wait for a common push, and of the mark that it was pushed, in milliseconds. It is longer than an attempt.
const GATHERED: u64 = 10_000;

/// Invalidates a name, and touches a key that is pushed.
pub(crate) fn bump(generation: &str, touched: &str) -> Command {
    script(BUMP, &[generation, touched], |_| {})
}

/// Deletes generations, and adds the keys to touch to those of other processes. Returns the number of the set that they were added to, or
/// `number` if it is a new one.
pub(crate) fn gather(waiting: &str, generations: &[&str], touched: &[String], number: u64) -> Command {
    let keys: Vec<&str> = [waiting].into_iter().chain(generations.iter().copied()).collect();
    script(GATHER, &keys, |command| {
        command.arg(number).arg(GATHERED).arg(touched);
    })
}

/// Touches the keys of a set that [`gather`] has returned, unless another process has done so.
pub(crate) fn push(waiting: &str, mark: &str, touched: &[String], number: u64) -> Command {
    script(PUSH, &[waiting, mark], |command| {
        command.arg(number).arg(GATHERED).arg(touched);
    })
}

/// Sets a fence, or extends its deadline. The generation, if one is given, is deleted at the same moment.
pub(crate) fn fence(fences: &str, generation: Option<&str>, token: u128, stands: u64) -> Command {
    let keys: Vec<&str> = [fences].into_iter().chain(generation).collect();
    script(FENCE, &keys, |command| {
        command.arg(text(token)).arg(stands);
    })
}

/// Removes a fence and invalidates the name.
pub(crate) fn unfence(fences: &str, generation: &str, touched: &str, token: u128) -> Command {
    script(UNFENCE, &[fences, generation, touched], |command| {
        command.arg(text(token));
    })
}

/// Invalidates a name softly. `touched` is the key to touch, if generations are not tracked.
pub(crate) fn soften(generation: &str, touched: Option<&str>, soft: u64) -> Command {
    let keys: Vec<&str> = [generation].into_iter().chain(touched).collect();
    script(SOFTEN, &keys, |command| {
        command.arg(&soft.to_be_bytes()[..]);
    })
}

/// Takes the next number of the counter.
pub(crate) fn count(counter: &str, random: u64) -> Command {
    script(COUNT, &[counter], |command| {
        command.arg(format!("{random:016x}"));
    })
}

/// Reads or creates the generation of a name that only a response has named.
pub(crate) fn admit(generation: &str, fences: &str, fresh: &[u8; 24], lives: u64) -> Command {
    script(ADMIT, &[generation, fences], |command| {
        command.arg(&fresh[..]).arg(lives);
    })
}

/// Writes the number of its creation into a generation.
pub(crate) fn number(generation: &str, fences: &str, hard: &[u8], number: &str) -> Command {
    script(NUMBER, &[generation, fences], |command| {
        command.arg(hard).arg(number);
    })
}

/// Gives back the lock of a fill.
pub(crate) fn release(lock: &str, token: u128, pass: u64) -> Command {
    script(RELEASE, &[lock], |command| {
        command.arg(text(token)).arg(pass);
    })
}

/// Replaces the entry that ends with `tail`.
pub(crate) fn replace(place: &str, tail: &[u8], entry: &[u8], left: u64) -> Command {
    script(REPLACE, &[place], |command| {
        command.arg(tail).arg(entry).arg(left);
    })
}

/// The whole script is sent, so that it needs no earlier command on any node. Only writes run scripts, and they are few.
fn script(body: &str, keys: &[&str], arguments: impl FnOnce(&mut Cmd)) -> Command {
    let mut command = redis::cmd("EVAL");
    command.arg(code(body)).arg(keys.len()).arg(keys);
    arguments(&mut command);
    Command { slot: slot(keys[0].as_bytes()), command }
}

/// Returns a script without the comment at its beginning, which the server would hash with each call.
fn code(script: &str) -> &str {
    let mut rest = script;
    while rest.starts_with("--") {
        rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
    }
    rest
}

/// Returns a token in the form in which Redis stores it.
pub(crate) fn text(token: u128) -> String {
    format!("{token:032x}")
}
