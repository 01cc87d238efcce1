//! The encoder: the contents of an entry as bytes.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    decode::{HTTP, PACKED, REPEATED, STAR, TRAILERS, VARIANTS, flag},
    header_names,
};
use crate::{
    codec::frame::{Moment, Unstored},
    entry::{
        Content, Entry,
        stamp::Stamp,
        times::{Http, Times},
    },
    namespace::set::{Namespaces, Place},
};

/// Appends the contents of an entry. `body` is its body in the stored form.
pub(super) fn contents(
    entry: &Entry,
    moment: Option<Moment>,
    body: &[u8],
    packed: bool,
    out: &mut Vec<u8>,
) -> Result<(), Unstored> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    head(entry, moment, packed, out)?;
    let length = u32::try_from(out.len() - start - 4).map_err(|_| Unstored::TooLarge)?;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out.extend_from_slice(body);
    Ok(())
}

fn head(entry: &Entry, moment: Option<Moment>, packed: bool, out: &mut Vec<u8>) -> Result<(), Unstored> {
    let (stored, http) = match moment {
        Some(moment) => moment.stores(entry.times(), entry.http()),
        None => (*entry.times(), entry.http().copied()),
    };
    prefixed(entry.key().canonical(), out)?;
    times(&stored, out);
    out.push(parts(entry, packed));
    namespaces(entry.namespaces(), out)?;
    stamp(entry.stamp(), entry.namespaces().count(), out)?;
    if let Some(http) = &http {
        rules(http, out);
    }
    match entry.content() {
        Content::Variants(vary) => {
            number(vary.names().len(), out)?;
            vary.names().iter().try_for_each(|field| name(field, false, out))
        }
        Content::Response { status, headers, body, trailers } => {
            out.extend_from_slice(&status.as_u16().to_le_bytes());
            fields(&headers.map(), out)?;
            trailers.as_deref().map_or(Ok(()), |trailers| fields(trailers, out))?;
            if packed { number(body.len(), out) } else { Ok(()) }
        }
    }
}

fn parts(entry: &Entry, packed: bool) -> u8 {
    let content = match entry.content() {
        Content::Variants(vary) => VARIANTS | flag(vary.is_star(), STAR),
        Content::Response { trailers, .. } => flag(trailers.is_some(), TRAILERS),
    };
    content | flag(entry.http().is_some(), HTTP) | flag(packed, PACKED)
}

fn times(times: &Times, out: &mut Vec<u8>) {
    let Times { born, fresh_until, while_revalidate_until, if_error_until, kept_until, cost } = *times;
    for time in [born, fresh_until, while_revalidate_until, if_error_until, kept_until, cost] {
        out.extend_from_slice(&time.to_le_bytes());
    }
}

fn namespaces(names: &Namespaces, out: &mut Vec<u8>) -> Result<(), Unstored> {
    prefixed(names.text().as_bytes(), out)?;
    number(names.count(), out)?;
    for place in names.places() {
        match place {
            Place::Text { start, len } => {
                number(start as usize, out)?;
                number(len as usize, out)?;
            }
            Place::Key { of_http, hash } => {
                out.extend_from_slice(&[of_http.into(), 0]);
                out.extend_from_slice(&hash.to_le_bytes());
            }
        }
    }
    Ok(())
}

fn stamp(stamp: &Stamp, names: usize, out: &mut Vec<u8>) -> Result<(), Unstored> {
    let generations = stamp.generations().filter(|all| all.len() == names).ok_or(Unstored::Stamp)?;
    for generation in generations {
        let generation = generation.ok_or(Unstored::Stamp)?;
        out.extend_from_slice(&generation.hard.to_le_bytes());
        out.extend_from_slice(&generation.soft.to_le_bytes());
    }
    Ok(())
}

fn rules(http: &Http, out: &mut Vec<u8>) {
    let Http { freshness, open, asks, own_tag } = *http;
    let flags = [open, asks, own_tag, freshness.forbids_stale, freshness.validate_always, freshness.immutable];
    out.push(flags.iter().enumerate().fold(0, |all, (bit, on)| all | flag(*on, 1 << bit)));
    out.extend_from_slice(&freshness.received.to_le_bytes());
    duration(freshness.initial_age, out);
    duration(freshness.lifetime, out);
    duration(freshness.stale_while_revalidate, out);
    duration(freshness.stale_if_error, out);
    duration(freshness.stale_if_unreachable, out);
}

fn duration(span: Duration, out: &mut Vec<u8>) {
    out.extend_from_slice(&span.as_secs().to_le_bytes());
    out.extend_from_slice(&span.subsec_nanos().to_le_bytes());
}

fn fields(map: &HeaderMap, out: &mut Vec<u8>) -> Result<(), Unstored> {
    number(map.keys_len(), out)?;
    for field in map.keys() {
        let values = map.get_all(field);
        let count = values.iter().count();
        name(field, count > 1, out)?;
        if count > 1 {
            number(count, out)?;
        }
        values.iter().try_for_each(|one| value(one, out))?;
    }
    Ok(())
}

fn name(name: &HeaderName, repeated: bool, out: &mut Vec<u8>) -> Result<(), Unstored> {
    let number = header_names::number(name);
    out.push(number | flag(repeated, REPEATED));
    if number == 0 { prefixed(name.as_str().as_bytes(), out) } else { Ok(()) }
}

fn value(value: &HeaderValue, out: &mut Vec<u8>) -> Result<(), Unstored> {
    let len = value.len().checked_mul(2).ok_or(Unstored::TooLarge)?;
    number(len | usize::from(value.is_sensitive()), out)?;
    out.extend_from_slice(value.as_bytes());
    Ok(())
}

pub(super) fn prefixed(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Unstored> {
    number(bytes.len(), out)?;
    out.extend_from_slice(bytes);
    Ok(())
}

/// Writes a LEB128 number in its shortest form.
fn number(number: usize, out: &mut Vec<u8>) -> Result<(), Unstored> {
    let mut rest = u32::try_from(number).map_err(|_| Unstored::TooLarge)?;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    Ok(())
}
