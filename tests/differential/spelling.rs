//! Writes fields in spellings with equal meaning. Nothing parses them: the oracle knows the intended meaning.

use fastrand::Rng;

use super::{
    program::{Directives, RangeSpec, RequestDirectives, Varies},
    switches,
};

/// Returns the lines of a response's `Cache-Control`.
pub fn response_directives(of: &Directives, rng: &mut Rng) -> Vec<String> {
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

/// Returns the lines of a request's `Cache-Control`.
pub fn request_directives(of: &RequestDirectives, rng: &mut Rng) -> Vec<String> {
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

/// Returns the lines of a list in random order.
pub fn list(mut members: Vec<String>, rng: &mut Rng) -> Vec<String> {
    rng.shuffle(&mut members);
    fold(members, rng)
}

/// Returns the lines of a `Vary`.
pub fn vary(of: &[Varies], rng: &mut Rng) -> Vec<String> {
    let name = |field: &Varies| match field {
        Varies::Language => "Accept-Language",
        Varies::Mode => "x-mode",
        Varies::Star => "*",
    };
    let members = of.iter().map(|field| cased(name(field), rng)).collect();
    list(members, rng)
}

/// Returns the lines of an `Accept-Language`, with random whitespace and line breaks between members.
pub fn language(value: &str, rng: &mut Rng) -> Vec<String> {
    match (value.split_once(", "), rng.u8(..3)) {
        (Some((one, two)), 0) => vec![one.into(), two.into()],
        (Some((one, two)), 1) => vec![format!("{one} ,  {two}")],
        _ => vec![value.into()],
    }
}

/// Returns the line of a `Range`.
pub fn range(of: RangeSpec, rng: &mut Rng) -> String {
    let unit = if rng.u8(..4) == 0 { "Bytes" } else { "bytes" };
    match of {
        RangeSpec::First(length) => format!("{unit}=0-{}", length - 1),
        RangeSpec::From(start) => format!("{unit}={start}-"),
        RangeSpec::Between(first, last) => format!("{unit}={first}-{last}"),
        RangeSpec::Last(length) => format!("{unit}=-{length}"),
        RangeSpec::Two(one, two) => format!("{unit}={one}-{one}{}{two}-{two}", if rng.bool() { "," } else { ", " }),
        RangeSpec::PastTheEnd => format!("{unit}=999999-"),
        RangeSpec::Malformed => {
            (*rng.choice(["bytes=", "bytes=5-2", "bytes", "bytes=a-b", "bytes=1-2x"].iter()).expect("some")).into()
        }
        RangeSpec::OtherUnit => "rows=0-3".into(),
    }
}

/// Returns an `Age`. Only the first member of a list counts.
pub fn age(seconds: u64, rng: &mut Rng) -> String {
    match rng.u8(..6) {
        0 if switches::AGE_AS_A_LIST => format!("{seconds}, 99"),
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

/// Distributes members over one line or several.
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
