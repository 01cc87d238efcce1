//! Fields that maximise the work of parsers: patterns repeated up to a length.

use std::hint::black_box;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use tower_response_cache::semantics::{
    CacheControl, NoVarySearch, Normalise, Part, Role, Selected, Target, Vary, Weights, cache_groups, compare_head, evaluate,
    invalidated, response_directives, select_ranges, strip_for_storing,
};

use crate::calls::{Call, whole};

/// Unclosed, closed and escaped quotes; empty, numerous and long members; the beginnings of each syntax.
const PATTERNS: &[&str] = &[
    "\"\\\"",
    "\\\"",
    "\"",
    "\",",
    "\"\",",
    ",",
    " ,",
    "a,",
    "\"a\",",
    "W/\"a\",",
    "W/\"",
    "\\",
    "a=\"",
    "a=\"b\",",
    "private=\"a\",",
    "(",
    "a;b,",
    "a;q=0.1,",
    "0-1,",
    "-1,",
    "bytes=0-",
    "%22&",
    "a=b&",
    "../",
    ":",
    "a",
];

const FIELDS: &[&str] = &[
    "cache-control",
    "cdn-cache-control",
    "pragma",
    "if-none-match",
    "if-match",
    "if-range",
    "if-modified-since",
    "range",
    "content-range",
    "vary",
    "accept-encoding",
    "accept-language",
    "content-encoding",
    "content-language",
    "cache-groups",
    "no-vary-search",
    "connection",
    "etag",
    "age",
    "location",
];

/// Parses every field for each combination of a head and a pattern.
pub fn hostile(length: usize) -> Call {
    let heads = ["", "bytes=", "\"", "private=", "max-age="];
    let inputs: Vec<(HeaderMap, Uri)> =
        heads.iter().flat_map(|head| PATTERNS.iter().map(move |pattern| of(head, pattern, length))).collect();
    whole(move || inputs.iter().for_each(|(fields, uri)| parse_all(black_box(fields), black_box(uri))))
}

fn of(head: &str, pattern: &str, length: usize) -> (HeaderMap, Uri) {
    let line: Vec<u8> = head.bytes().chain(pattern.bytes().cycle()).take(length).collect();
    let value = HeaderValue::from_bytes(&line).expect("a value");
    let fields = FIELDS.iter().map(|name| (HeaderName::from_static(name), value.clone())).collect();
    let query: String = pattern.chars().filter(|letter| letter.is_ascii_alphanumeric() || "%&=./".contains(*letter)).collect();
    // A URI is limited to 64 KiB.
    let query: String = if query.is_empty() { "a&".to_owned() } else { query }.chars().cycle().take(length / 2).collect();
    (fields, format!("/x?{query}").parse().expect("a target"))
}

fn parse_all(fields: &HeaderMap, uri: &Uri) {
    let selected = Selected { status: StatusCode::OK, headers: fields, received: 0 };
    let mut normalise = Normalise::rfc();
    (normalise.accept_encoding, normalise.accept_language) = (Weights::Unordered, Weights::Ordered);
    let control = CacheControl::of_request(fields);
    black_box(response_directives(fields, &[HeaderName::from_static("cdn-cache-control")]));
    black_box(evaluate(&Method::GET, fields, &selected, Role::Origin, 0));
    black_box(select_ranges(&Method::GET, fields, &selected, 1 << 20, 0));
    black_box(Part::of(fields));
    let vary = Vary::of(fields).union(&Vary::negotiated(Some(fields), fields));
    let mut key = Vec::new();
    vary.write(fields, normalise, &mut key);
    black_box(vary.fits(fields, fields, fields, normalise));
    let _ = black_box(cache_groups(fields));
    let variance = NoVarySearch::of(fields);
    variance.write(uri.query(), &mut key);
    NoVarySearch::ignoring(["a", "b"]).in_any_order().write(uri.query(), &mut key);
    black_box(compare_head(fields, 1, StatusCode::OK, fields));
    let target = uri.path_and_query().expect("a target");
    black_box(invalidated(
        &Method::PUT,
        Target { scheme: None, authority: None, path_and_query: target },
        StatusCode::OK,
        fields,
    ));
    strip_for_storing(&mut fields.clone(), &control);
    black_box(key);
}
