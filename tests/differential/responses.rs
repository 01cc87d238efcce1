//! The origin's responses, their validators and their fields.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fastrand::Rng;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use tower_response_cache::{CachePolicy, Invalidations, Namespace};

use super::{
    history::{Call, Representation},
    origin::CALL,
    program::{Directives, Length, RangeSpec, RequestSpec, Varies},
    spelling,
};

/// Returns the representation for a request. It depends on the item's version, the resource, the user and the fields in `Vary`.
pub fn representation(spec: &RequestSpec, version: u64, number: usize, status: u16) -> Representation {
    let resource = spec.resource();
    let mut text =
        format!("{}/{} host {} query {} version {version}", spec.rule().name, spec.id, resource.host, resource.query);
    text.extend(spec.user.map(|(_, user)| format!(" user {user}")));
    text.extend(spec.forwarded.map(|place| format!(" forwarded {place}")));
    for field in &spec.response.varies() {
        match field {
            Varies::Language => text.push_str(&format!(" language {:?}", spec.language)),
            Varies::Mode => text.push_str(&format!(" mode {:?}", spec.mode)),
            Varies::Star => {}
        }
    }
    if spec.response.without_validators || status != 200 || !spec.reads() {
        text.push_str(&format!(" call {number}"));
    }
    Representation(text)
}

pub fn is_big(spec: &RequestSpec) -> bool {
    spec.id == 3
}

/// Returns the validators of a representation. The id determines their kind.
pub fn validators(representation: &Representation, id: u8, version: u64) -> (Option<String>, Option<i64>) {
    let hash = representation.0.bytes().fold(7_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    let tag = format!("\"{hash:x},{version}\"");
    let modified = 1_600_000_000 + version as i64 * 70;
    match id % 4 {
        0 => (Some(tag), None),
        1 => (Some(tag), Some(modified)),
        2 => (Some(format!("W/{tag}")), None),
        _ => (None, Some(modified)),
    }
}

/// Returns true if the request's conditions match at the origin.
pub fn is_unchanged(request: &HeaderMap, etag: Option<&str>, modified: Option<i64>) -> bool {
    let mut tags = request.get_all(header::IF_NONE_MATCH).iter().peekable();
    if tags.peek().is_some() {
        let opaque = etag.map(|tag| tag.trim_start_matches("W/"));
        return tags.any(|line| line == "*" || opaque.is_some_and(|tag| line.to_str().is_ok_and(|line| line.contains(tag))));
    }
    let since = request.get(header::IF_MODIFIED_SINCE).and_then(|line| httpdate::parse_http_date(line.to_str().ok()?).ok());
    since.is_some_and(|since| modified.is_some_and(|modified| at(modified) <= since))
}

/// Returns the bytes that a range selects, or `None` if it is not a single satisfiable range.
pub fn part(wanted: RangeSpec, length: u64) -> Option<(u64, u64)> {
    let (first, end) = match wanted {
        RangeSpec::First(count) => (0, count.min(length)),
        RangeSpec::From(start) => (start, length),
        RangeSpec::Between(first, last) => (first, (last + 1).min(length)),
        RangeSpec::Last(count) => (length.saturating_sub(count), length),
        _ => return None,
    };
    (first < end).then_some((first, end))
}

pub fn build_response(spec: &RequestSpec, call: &Call, number: usize, whole: Bytes, prefix: &str) -> Response<Bytes> {
    let planned = &spec.response;
    let mut rng = Rng::with_seed(planned.spelling);
    let mut response = Response::builder().status(call.status);
    let mut put = |name: HeaderName, value: String| {
        response.headers_mut().expect("no error yet").append(name, HeaderValue::from_str(&value).expect("a value"));
    };
    put(CALL, number.to_string());
    put(header::DATE, date(call.date));
    // A 304 replaces stored fields one by one, so it sends every field.
    let renews = call.status == 304;
    let lines = spelling::response_directives(&planned.directives, &mut rng);
    let nothing = (renews && lines.is_empty()).then(|| "x-nothing".into());
    lines.into_iter().chain(nothing).for_each(|line| put(header::CACHE_CONTROL, line));
    // RFC 9213: a structured field has lower-case names and unquoted numbers.
    let targeted = planned.targeted.as_ref().map(structured).or_else(|| renews.then(String::new));
    targeted.into_iter().for_each(|line| put(HeaderName::from_static("cdn-cache-control"), line));
    planned
        .expires
        .filter(|_| planned.without_validators)
        .into_iter()
        .for_each(|after| put(header::EXPIRES, date(call.date + after)));
    planned.age.into_iter().for_each(|age| put(header::AGE, spelling::age(age, &mut rng)));
    spelling::vary(&planned.vary, &mut rng).into_iter().for_each(|line| put(header::VARY, line));
    if planned.language && call.status != 206 {
        put(header::CONTENT_LANGUAGE, "en".into());
    }
    if planned.cookie {
        put(header::SET_COOKIE, "visit=1".into());
    }
    call.etag.iter().for_each(|tag| put(header::ETAG, tag.clone()));
    call.modified.into_iter().for_each(|modified| put(header::LAST_MODIFIED, date(modified)));
    planned.location.iter().for_each(|id| put(header::LOCATION, format!("{prefix}/{}/{id}", spec.rule().name)));
    let length = whole.len() as u64;
    let body = match call.part {
        Some((first, end)) => {
            put(header::CONTENT_RANGE, format!("bytes {first}-{}/{length}", end - 1));
            whole.slice(first as usize..end as usize)
        }
        None => whole,
    };
    if planned.length == Length::Field && call.status != 304 && call.status != 204 {
        put(header::CONTENT_LENGTH, body.len().to_string());
    }
    let mut response = response.body(body).expect("a response");
    let mut caching = if planned.no_store { CachePolicy::no_store() } else { CachePolicy::new() };
    for row in &planned.rows {
        caching = caching.namespace(Namespace::of(["row", &row.to_string()]));
    }
    if let Some(ttl) = planned.ttl {
        caching = caching.ttl(Duration::from_secs(ttl));
    }
    response.extensions_mut().insert(caching);
    if let Some(row) = planned.invalidates_only.filter(|_| !spec.reads()) {
        response.extensions_mut().insert(Invalidations::only([Namespace::of(["row", &row.to_string()])]));
    }
    response
}

fn structured(of: &Directives) -> String {
    let numbers =
        [("max-age", of.max_age), ("stale-while-revalidate", of.stale_while_revalidate), ("stale-if-error", of.stale_if_error)];
    let flags = [
        ("no-store", of.no_store),
        ("private", of.private),
        ("no-cache", of.no_cache),
        ("must-revalidate", of.must_revalidate),
    ];
    let numbers = numbers.iter().filter_map(|(name, value)| value.map(|value| format!("{name}={value}")));
    numbers.chain(flags.iter().filter(|(_, on)| *on).map(|(name, _)| (*name).into())).collect::<Vec<_>>().join(", ")
}

pub fn at(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.max(0) as u64)
}

pub fn date(seconds: i64) -> String {
    httpdate::fmt_http_date(at(seconds))
}
