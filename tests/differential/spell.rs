//! Writes fields in the many spellings that mean one thing. Nothing here is ever read back: who judges knows what was meant.

use fastrand::Rng;

use super::{
    known,
    program::{AskDirectives, Directives, Varies, Wanted},
};

/// The lines of a `Cache-Control` of a response.
pub fn directives(of: &Directives, rng: &mut Rng) -> Vec<String> {
    let mut words = Vec::new();
    let numbers = [
        ("max-age", of.max_age),
        ("s-maxage", of.s_maxage),
        ("stale-while-revalidate", of.stale_while_revalidate),
        ("stale-if-error", of.stale_if_error),
    ];
    words.extend(numbers.iter().filter_map(|(name, value)| value.map(|value| number(name, value, rng))));
    let flags = [
        ("no-store", of.no_store),
        ("private", of.private),
        ("no-cache", of.no_cache),
        ("public", of.public),
        ("must-revalidate", of.must_revalidate),
        ("proxy-revalidate", of.proxy_revalidate),
        ("immutable", of.immutable),
    ];
    words.extend(flags.iter().filter(|(_, on)| *on).map(|(name, _)| cased(name, rng)));
    lines(words, &["ext=\"no-store, max-age=9999\"", "x=\"a\\\", private\"", "not-a-directive", "y=1"], rng)
}

/// The lines of a `Cache-Control` of a request.
pub fn asked(of: &AskDirectives, rng: &mut Rng) -> Vec<String> {
    let mut words = Vec::new();
    let numbers = [("max-age", of.max_age), ("min-fresh", of.min_fresh), ("stale-if-error", of.stale_if_error)];
    words.extend(numbers.iter().filter_map(|(name, value)| value.map(|value| number(name, value, rng))));
    match of.max_stale {
        None => {}
        Some(None) => words.push(cased("max-stale", rng)),
        Some(Some(by)) => words.push(number("max-stale", by, rng)),
    }
    let flags = [("no-cache", of.no_cache), ("no-store", of.no_store), ("only-if-cached", of.only_if_cached)];
    words.extend(flags.iter().filter(|(_, on)| *on).map(|(name, _)| cased(name, rng)));
    lines(words, &["ext=\"no-cache, max-age=0\"", "z"], rng)
}

/// The lines of a list of such members.
pub fn list(mut members: Vec<String>, rng: &mut Rng) -> Vec<String> {
    rng.shuffle(&mut members);
    fold(members, rng)
}

/// The lines of a `Vary`.
pub fn vary(of: &[Varies], rng: &mut Rng) -> Vec<String> {
    let name = |field: &Varies| match field {
        Varies::Language => "Accept-Language",
        Varies::Mode => "x-mode",
        Varies::Star => "*",
    };
    let members = of.iter().map(|field| cased(name(field), rng)).collect();
    list(members, rng)
}

/// `Accept-Language`, of which whitespace around commas means nothing, and several lines mean their list.
pub fn language(value: &str, rng: &mut Rng) -> Vec<String> {
    match (value.split_once(", "), rng.u8(..3)) {
        (Some((one, two)), 0) => vec![one.into(), two.into()],
        (Some((one, two)), 1) => vec![format!("{one} ,  {two}")],
        _ => vec![value.into()],
    }
}

/// The line of a `Range`.
pub fn range(of: Wanted, rng: &mut Rng) -> String {
    let unit = if rng.u8(..4) == 0 { "Bytes" } else { "bytes" };
    match of {
        Wanted::First(length) => format!("{unit}=0-{}", length - 1),
        Wanted::From(start) => format!("{unit}={start}-"),
        Wanted::Between(first, last) => format!("{unit}={first}-{last}"),
        Wanted::Last(length) => format!("{unit}=-{length}"),
        Wanted::Two(one, two) => format!("{unit}={one}-{one}{}{two}-{two}", if rng.bool() { "," } else { ", " }),
        Wanted::PastTheEnd => format!("{unit}=999999-"),
        Wanted::Malformed => {
            (*rng.choice(["bytes=", "bytes=5-2", "bytes", "bytes=a-b", "bytes=1-2x"].iter()).expect("some")).into()
        }
        Wanted::OtherUnit => "rows=0-3".into(),
    }
}

/// `Age`, of which the first member counts.
pub fn age(seconds: u64, rng: &mut Rng) -> String {
    match rng.u8(..6) {
        0 if known::AGE_AS_A_LIST => format!("{seconds}, 99"),
        1 => format!("00{seconds}"),
        _ => seconds.to_string(),
    }
}

fn number(name: &str, value: u64, rng: &mut Rng) -> String {
    let name = cased(name, rng);
    match rng.u8(..5) {
        0 => format!("{name}=\"{value}\""),
        1 => format!("{name}=0{value}"),
        _ => format!("{name}={value}"),
    }
}

fn cased(name: &str, rng: &mut Rng) -> String {
    match rng.u8(..4) {
        0 => name.to_ascii_uppercase(),
        1 => name.chars().enumerate().map(|(n, c)| if n % 2 == 0 { c.to_ascii_uppercase() } else { c }).collect(),
        _ => name.into(),
    }
}

fn lines(mut words: Vec<String>, noise: &[&str], rng: &mut Rng) -> Vec<String> {
    if rng.u8(..4) == 0 {
        words.push(noise[rng.usize(..noise.len())].into());
    }
    list(words, rng)
}

/// Members on one line or several.
fn fold(members: Vec<String>, rng: &mut Rng) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for member in members {
        match lines.last_mut() {
            Some(line) if rng.u8(..4) != 0 => {
                line.push_str([",", ", ", " ,\t", ", , "][rng.usize(..4)]);
                line.push_str(&member);
            }
            _ => lines.push(member),
        }
    }
    lines
}
