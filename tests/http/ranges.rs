//! Ranges of stored responses (RFC 9110, section 14).

use crate::{
    common::{MINUTE, counting, get, ok, one_rule, outcome, send, text},
    script::{Fields, step, walk},
};
use http::HeaderValue;
use tower::Layer;
use tower_response_cache::{
    CacheLayer, Memory, Outcome, Rule,
    status::{Bypass, Miss},
};

#[tokio::test]
async fn ranges_of_a_whole_entry_are_served() {
    const WHOLE: Fields = &[("cache-control", "max-age=60"), ("etag", "\"1\""), ("content-type", "text/plain")];
    // RFC 9110, section 14: the inner service is called for a part while the whole is not stored.
    let part = |want| {
        let answer: (u16, Fields, _) = (206, &[("content-range", "bytes 0-1/10"), ("cache-control", "max-age=60")], "01");
        step(0, &[("range", "bytes=0-1")], Some(answer), want).sends(&[("range", "bytes=0-1")])
    };
    let steps = [
        step(0, &[], Some((200, WHOLE, "0123456789")), "miss 200 0123456789"),
        // Section 14.1.2: first and last, open, suffix.
        step(1, &[("range", "bytes=2-4")], None, "hit 206 234").returns(&[
            ("content-range", "bytes 2-4/10"),
            ("content-length", "3"),
            ("age", "1"),
            ("etag", "\"1\""),
        ]),
        step(0, &[("range", "bytes=8-")], None, "hit 206 89"),
        step(0, &[("range", "bytes=-3")], None, "hit 206 789"),
        // Section 15.5.17.
        step(0, &[("range", "bytes=10-")], None, "hit 416").returns(&[("content-range", "bytes */10")]),
        // Section 13.1.5.
        step(0, &[("range", "bytes=0-0"), ("if-range", "\"1\"")], None, "hit 206 0"),
        step(0, &[("range", "bytes=0-0"), ("if-range", "\"2\"")], None, "hit 200 0123456789"),
        // Section 13.2.2: conditions come first.
        step(0, &[("range", "bytes=0-0"), ("if-none-match", "\"1\"")], None, "hit 304"),
        // Section 14.2: an unknown unit, and HEAD.
        step(0, &[("range", "lines=0-0")], None, "hit 200 0123456789"),
        step(0, &[("range", "bytes=0-0")], None, "hit 200").by("HEAD"),
    ];
    for (name, rule, what) in [("ttl", Rule::ttl(MINUTE), "bypass 206 01"), ("http", Rule::http(), "miss 206 01")] {
        walk(name, rule, &[&[part(what)][..], &steps].concat()).await;
    }
}

#[tokio::test]
async fn several_ranges_are_one_multipart_message() {
    let (inner, _) = counting(|_, _| ok("0123456789"));
    let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    send(&service, get("/t/a")).await;
    let mut request = get("/t/a");
    request.headers_mut().insert("range", HeaderValue::from_static("bytes=0-1, -2"));
    let response = send(&service, request).await;
    assert_eq!((outcome(&response), response.status().as_u16()), (Outcome::Hit, 206));
    let kind = response.headers()["content-type"].to_str().expect("text").to_owned();
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").expect("of many parts");
    let length: usize = response.headers()["content-length"].to_str().expect("text").parse().expect("a number");
    let boundary = boundary.to_owned();
    let body = text(response).await;
    assert_eq!(body.len(), length);
    let part = |range: &str, data: &str| format!("\r\n--{boundary}\r\nContent-Range: bytes {range}/10\r\n\r\n{data}");
    assert_eq!(body, format!("{}{}\r\n--{boundary}--\r\n", part("0-1", "01"), part("8-9", "89")));
}

#[tokio::test]
async fn range_of_an_unstored_response_bypasses() {
    let (inner, _) = counting(|_, _| ok("x"));
    let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    let mut request = get("/t/a");
    request.headers_mut().insert("range", HeaderValue::from_static("bytes=0-0"));
    assert_eq!(outcome(&send(&service, request).await), Outcome::Bypass(Bypass::Range));
    assert_eq!(outcome(&send(&service, get("/t/a")).await), Outcome::Miss(Miss::Absent), "no response was stored");
}
