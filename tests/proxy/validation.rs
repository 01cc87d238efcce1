//! Validation of stored responses, conditional requests of clients, and stale responses in place of failures.

use crate::{
    cached, fetched, run_cases,
    wire::{Origin, Proxy, Reaction, ReceivedRequest, response},
};

const OLD: &str =
    "200\ncache-control: max-age=60\nage: 60\netag: \"1\"\nlast-modified: Thu, 01 Jan 2015 00:00:00 GMT\nx-v: 1\n\na";
const TAGGED: &str = "200\ncache-control: max-age=60\netag: \"1\"\nlast-modified: Thu, 01 Jan 2015 00:00:00 GMT\n\na";

#[tokio::test]
async fn stored_response_is_validated_with_its_validators() {
    run_cases(&[
        (
            "4.3.1: the cache validates with its own validators",
            &[
                fetched("GET /x", OLD, "uri-miss 200 a"),
                fetched("GET /x\nif-none-match: \"0\"", "304\netag: \"1\"\ncache-control: max-age=60\nx-v: 2", "stale 200 a")
                    .sends(&[("if-none-match", "\"1\""), ("if-modified-since", "Thu, 01 Jan 2015 00:00:00 GMT")])
                    .has(&[("x-v", "2")]),
                cached("GET /x", "hit 200 a").has(&[("x-v", "2"), ("content-length", "1")]),
            ],
        ),
        (
            "4.3.2: a client with the validated response gets a 304",
            &[
                fetched("GET /x", OLD, "uri-miss 200 a"),
                fetched("GET /x\nif-none-match: \"0\", W/\"1\"", "304\netag: \"1\"", "stale 304")
                    .has(&[("etag", "\"1\""), ("content-length", "-")]),
            ],
        ),
        (
            "4.3.4: a 304 to the client's condition does not change the stored response",
            &[
                fetched("GET /x", "200\ncache-control: max-age=60\nage: 60\n\na", "uri-miss 200 a"),
                fetched("GET /x\nif-none-match: \"7\"", "304\netag: \"7\"\ncache-control: max-age=60", "uri-miss 304")
                    .sends(&[("if-none-match", "\"7\"")]),
                fetched("GET /x", "200\ncache-control: max-age=60\n\nb", "uri-miss 200 b"),
                cached("GET /x", "hit 200 b"),
            ],
        ),
        (
            "3.2: a 304 does not change Content-Length and replaces all lines of its fields",
            &[
                fetched(
                    "GET /x",
                    "200\ncache-control: max-age=60\nage: 60\netag: \"1\"\nx-v: 1\nx-v: 2\n\nabc",
                    "uri-miss 200 abc",
                ),
                fetched("GET /x", "304\netag: \"1\"\ncontent-length: 9\ncache-control: max-age=60\nx-v: 3", "stale 200 abc")
                    .has(&[("x-v", "3"), ("content-length", "3")]),
                cached("GET /x", "hit 200 abc").has(&[("x-v", "3"), ("content-length", "3")]),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn directives_conditions_and_ranges_use_the_stored_response() {
    run_cases(&[
        (
            "5.2.2.4: no-cache is validated each time",
            &[
                fetched("GET /x", "200\ncache-control: no-cache\netag: \"1\"\n\na", "uri-miss 200 a"),
                fetched("GET /x", "304\netag: \"1\"", "stale 200 a"),
                fetched("GET /x", "304\netag: \"1\"", "stale 200 a"),
            ],
        ),
        (
            "5.2.1.4: a reload validates a fresh response",
            &[
                fetched("GET /x", TAGGED, "uri-miss 200 a"),
                fetched("GET /x\ncache-control: no-cache", "304\netag: \"1\"", "request 200 a")
                    .sends(&[("if-none-match", "\"1\"")]),
                cached("GET /x", "hit 200 a"),
            ],
        ),
        (
            "RFC 8246: a reload does not validate an immutable response",
            &[
                fetched("GET /x", "200\ncache-control: max-age=60, immutable\netag: \"1\"\n\na", "uri-miss 200 a"),
                cached("GET /x\ncache-control: max-age=0", "hit 200 a"),
                fetched("GET /x\ncache-control: no-cache", "304\netag: \"1\"", "request 200 a"),
            ],
        ),
        (
            "4.3.2: order of conditions",
            &[
                fetched("GET /x", TAGGED, "uri-miss 200 a"),
                cached("GET /x\nif-none-match: \"0\", \"1\"", "hit 304"),
                cached("GET /x\nif-none-match: *", "hit 304"),
                cached("GET /x\nif-none-match: \"0\"\nif-modified-since: Thu, 01 Jan 2015 00:00:00 GMT", "hit 200 a"),
                cached("GET /x\nif-modified-since: Thu, 01 Jan 2015 00:00:00 GMT", "hit 304"),
                cached("GET /x\nif-modified-since: Wed, 31 Dec 2014 23:59:59 GMT", "hit 200 a"),
                cached("HEAD /x\nif-none-match: \"1\"", "hit 304"),
            ],
        ),
        (
            "RFC 9110, 13.1.1: the origin evaluates If-Match",
            &[
                fetched("GET /x", TAGGED, "uri-miss 200 a"),
                fetched("GET /x\nif-match: \"0\"", "412\n\nno", "bypass 412 no").sends(&[("if-match", "\"0\"")]),
                cached("GET /x", "hit 200 a"),
            ],
        ),
        (
            "RFC 9110, 14: ranges of a stored response",
            &[
                fetched("GET /x", "200\ncache-control: max-age=60\netag: \"1\"\n\n0123456789", "uri-miss 200 0123456789"),
                cached("GET /x\nrange: bytes=-3", "hit 206 789").has(&[("content-range", "bytes 7-9/10")]),
                cached("GET /x\nrange: bytes=8-", "hit 206 89"),
                cached("GET /x\nrange: bytes=10-", "hit 416").has(&[("content-range", "bytes */10")]),
                cached("GET /x\nrange: bytes=0-1\nif-range: \"1\"", "hit 206 01"),
                cached("GET /x\nrange: bytes=0-1\nif-range: \"2\"", "hit 200 0123456789"),
                cached("GET /x\nrange: lines=0-1", "hit 200 0123456789"),
                cached("GET /x\nrange: bytes=0-1\nif-none-match: \"1\"", "hit 304"),
            ],
        ),
        (
            "4.3.5: HEAD freshens",
            &[
                fetched("GET /x", OLD, "uri-miss 200 a"),
                fetched("HEAD /x", "200\netag: \"1\"\ncontent-length: 1\ncache-control: max-age=60\nx-v: 2", "uri-miss 200"),
                cached("GET /x", "hit 200 a").has(&[("x-v", "2")]),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn failed_validation_serves_stale_if_allowed() {
    run_cases(&[
        (
            "4.3.3: must-revalidate passes a 5xx on",
            &[
                fetched(
                    "GET /x",
                    "200\ncache-control: max-age=60, must-revalidate, stale-if-error=600\nage: 60\n\na",
                    "uri-miss 200 a",
                ),
                fetched("GET /x", "503\n\nno", "uri-miss 503 no"),
            ],
        ),
        (
            "RFC 5861, 4: stale if error",
            &[
                fetched("GET /x", "200\ncache-control: max-age=60, stale-if-error=600\nage: 60\n\na", "uri-miss 200 a"),
                fetched("GET /x", "503\n\nno", "hit 200 a"),
                fetched("GET /x\ncache-control: no-cache", "503\n\nno", "stale 503 no"),
            ],
        ),
        (
            "RFC 5861, 4: not beyond its window",
            &[
                fetched("GET /x", "200\ncache-control: max-age=60, stale-if-error=600\nage: 660\n\na", "uri-miss 200 a"),
                fetched("GET /x", "503\n\nno", "uri-miss 503 no"),
            ],
        ),
        (
            "5.2.1.2: a client may accept a stale response",
            &[
                fetched("GET /x", "200\ncache-control: max-age=60\nage: 70\n\na", "uri-miss 200 a"),
                cached("GET /x\ncache-control: max-stale=60", "hit 200 a"),
                fetched("GET /x\ncache-control: max-stale=5", "200\ncache-control: max-age=60\n\nb", "uri-miss 200 b"),
                cached("GET /x\ncache-control: max-stale=5", "hit 200 b"),
            ],
        ),
        (
            "4.2.4: a response may forbid its stale use",
            &[
                fetched(
                    "GET /x",
                    "200\ncache-control: max-age=60, proxy-revalidate\nage: 70\netag: \"1\"\n\na",
                    "uri-miss 200 a",
                ),
                fetched("GET /x\ncache-control: max-stale", "200\ncache-control: max-age=60\n\nb", "stale 200 b"),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn unreachable_origin_gives_502_or_an_allowed_stale_response() {
    let origin = Origin::start().await;
    let proxy = Proxy::start(&origin.address, &[]).await;
    for (path, says) in [
        ("/stale", "200\ncache-control: max-age=60\nage: 60\n\nstale"),
        ("/too-old", "200\ncache-control: max-age=60\nage: 9999\n\nold"),
        ("/strict", "200\ncache-control: max-age=60, must-revalidate\nage: 60\n\nstrict"),
        ("/shared", "200\ncache-control: s-maxage=60\nage: 60\n\nshared"),
        ("/no-cache", "200\ncache-control: no-cache\netag: \"1\"\n\nno-cache"),
        ("/fresh", "200\ncache-control: max-age=60\n\nfresh"),
    ] {
        origin.then(Reaction::Whole(response(says)));
        assert_eq!(proxy.send(&format!("GET {path}")).await.status, 200);
    }
    origin.stop().await;
    for (request, want) in [
        ("GET /stale", "200 stale"),
        ("GET /stale\ncache-control: no-cache", "502 the origin cannot be reached"),
        ("GET /too-old", "502 the origin cannot be reached"),
        ("GET /strict", "502 the origin cannot be reached"),
        ("GET /shared", "502 the origin cannot be reached"),
        ("GET /no-cache", "502 the origin cannot be reached"),
        ("GET /fresh", "200 fresh"),
        ("GET /never", "502 the origin cannot be reached"),
        ("POST /fresh", "502 the origin cannot be reached"),
    ] {
        let answer = proxy.send(request).await;
        assert_eq!(format!("{} {}", answer.status, answer.text()).trim_end(), want, "{request}");
        assert_ne!(answer.outcome(), "-", "{request}: Cache-Status stands on every response");
    }
    assert_eq!(proxy.send("GET /fresh").await.status, 502, "a write without an answer may have been carried out");
}

#[tokio::test]
async fn unmatched_304_fetches_the_complete_response() {
    const WHOLE: &str = "200\ncache-control: max-age=60\netag: \"2\"\nlast-modified: Fri, 01 Jan 2016 00:00:00 GMT\n\nb";
    let origin = Origin::start().await;
    let proxy = Proxy::start(&origin.address, &[]).await;
    for (path, stored, says) in [
        ("/tag", "etag: \"1\"", "304\netag: \"2\""),
        ("/weak", "etag: W/\"1\"", "304\netag: \"1\""),
        ("/date", "last-modified: Thu, 01 Jan 2015 00:00:00 GMT", "304\nlast-modified: Wed, 01 Jan 2014 00:00:00 GMT"),
    ] {
        let request = format!("GET {path}");
        origin.then(Reaction::Whole(response(&format!("200\ncache-control: max-age=60\nage: 60\n{stored}\n\na"))));
        assert_eq!(proxy.send(&request).await.text(), "a", "{path}");
        origin.take_requests();
        origin.then(Reaction::Whole(response(says)));
        origin.then(Reaction::Whole(response(WHOLE)));
        let answer = proxy.send(&request).await;
        assert_eq!(format!("{} {} {}", answer.outcome(), answer.status, answer.text()), "stale 200 b", "{path}");
        let calls = origin.take_requests();
        let conditional = |call: &ReceivedRequest| call.fields.iter().any(|(name, _)| name.starts_with("if-"));
        assert_eq!(calls.iter().map(conditional).collect::<Vec<_>>(), [true, false], "{path}");
        let answer = proxy.send(&request).await;
        assert_eq!(format!("{} {}", answer.outcome(), answer.text()), "hit b", "{path}");
    }
}
