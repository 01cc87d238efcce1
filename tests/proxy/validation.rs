//! Asking whether what is stored is still good, answering whether what the client has is, and what stands in where nobody answers.

use crate::{
    alone, asked, walk,
    wire::{Asked, Origin, Proxy, Says, response},
};

#[tokio::test]
async fn validation() {
    const OLD: &str =
        "200\ncache-control: max-age=60\nage: 60\netag: \"1\"\nlast-modified: Thu, 01 Jan 2015 00:00:00 GMT\nx-v: 1\n\na";
    const TAGGED: &str = "200\ncache-control: max-age=60\netag: \"1\"\nlast-modified: Thu, 01 Jan 2015 00:00:00 GMT\n\na";
    walk(&[
        (
            "4.3.1: we ask with our own validators",
            &[
                asked("GET /x", OLD, "uri-miss 200 a"),
                asked("GET /x\nif-none-match: \"0\"", "304\netag: \"1\"\ncache-control: max-age=60\nx-v: 2", "stale 200 a")
                    .sends(&[("if-none-match", "\"1\""), ("if-modified-since", "Thu, 01 Jan 2015 00:00:00 GMT")])
                    .has(&[("x-v", "2")]),
                alone("GET /x", "hit 200 a").has(&[("x-v", "2"), ("content-length", "1")]),
            ],
        ),
        (
            "4.3.2: a client that has what is validated gets its 304",
            &[
                asked("GET /x", OLD, "uri-miss 200 a"),
                asked("GET /x\nif-none-match: \"0\", W/\"1\"", "304\netag: \"1\"", "stale 304")
                    .has(&[("etag", "\"1\""), ("content-length", "-")]),
            ],
        ),
        (
            "4.3.4: a 304 to the client's own condition says nothing of what is stored",
            &[
                asked("GET /x", "200\ncache-control: max-age=60\nage: 60\n\na", "uri-miss 200 a"),
                asked("GET /x\nif-none-match: \"7\"", "304\netag: \"7\"\ncache-control: max-age=60", "uri-miss 304")
                    .sends(&[("if-none-match", "\"7\"")]),
                asked("GET /x", "200\ncache-control: max-age=60\n\nb", "uri-miss 200 b"),
                alone("GET /x", "hit 200 b"),
            ],
        ),
        (
            "3.2: Content-Length of a 304 does not count, and a field that it names replaces all lines",
            &[
                asked(
                    "GET /x",
                    "200\ncache-control: max-age=60\nage: 60\netag: \"1\"\nx-v: 1\nx-v: 2\n\nabc",
                    "uri-miss 200 abc",
                ),
                asked("GET /x", "304\netag: \"1\"\ncontent-length: 9\ncache-control: max-age=60\nx-v: 3", "stale 200 abc")
                    .has(&[("x-v", "3"), ("content-length", "3")]),
                alone("GET /x", "hit 200 abc").has(&[("x-v", "3"), ("content-length", "3")]),
            ],
        ),
        (
            "5.2.2.4: no-cache is asked about each time",
            &[
                asked("GET /x", "200\ncache-control: no-cache\netag: \"1\"\n\na", "uri-miss 200 a"),
                asked("GET /x", "304\netag: \"1\"", "stale 200 a"),
                asked("GET /x", "304\netag: \"1\"", "stale 200 a"),
            ],
        ),
        (
            "5.2.1.4: a reload asks, although it is fresh",
            &[
                asked("GET /x", TAGGED, "uri-miss 200 a"),
                asked("GET /x\ncache-control: no-cache", "304\netag: \"1\"", "request 200 a")
                    .sends(&[("if-none-match", "\"1\"")]),
                alone("GET /x", "hit 200 a"),
            ],
        ),
        (
            "RFC 8246: immutable is not asked about by a mere reload",
            &[
                asked("GET /x", "200\ncache-control: max-age=60, immutable\netag: \"1\"\n\na", "uri-miss 200 a"),
                alone("GET /x\ncache-control: max-age=0", "hit 200 a"),
                asked("GET /x\ncache-control: no-cache", "304\netag: \"1\"", "request 200 a"),
            ],
        ),
        (
            "4.3.2: conditions, in their order",
            &[
                asked("GET /x", TAGGED, "uri-miss 200 a"),
                alone("GET /x\nif-none-match: \"0\", \"1\"", "hit 304"),
                alone("GET /x\nif-none-match: *", "hit 304"),
                alone("GET /x\nif-none-match: \"0\"\nif-modified-since: Thu, 01 Jan 2015 00:00:00 GMT", "hit 200 a"),
                alone("GET /x\nif-modified-since: Thu, 01 Jan 2015 00:00:00 GMT", "hit 304"),
                alone("GET /x\nif-modified-since: Wed, 31 Dec 2014 23:59:59 GMT", "hit 200 a"),
                alone("HEAD /x\nif-none-match: \"1\"", "hit 304"),
            ],
        ),
        (
            "13.1.1 of RFC 9110: If-Match is for the origin to say",
            &[
                asked("GET /x", TAGGED, "uri-miss 200 a"),
                asked("GET /x\nif-match: \"0\"", "412\n\nno", "bypass 412 no").sends(&[("if-match", "\"0\"")]),
                alone("GET /x", "hit 200 a"),
            ],
        ),
        (
            "14 of RFC 9110: ranges of a stored whole",
            &[
                asked("GET /x", "200\ncache-control: max-age=60\netag: \"1\"\n\n0123456789", "uri-miss 200 0123456789"),
                alone("GET /x\nrange: bytes=-3", "hit 206 789").has(&[("content-range", "bytes 7-9/10")]),
                alone("GET /x\nrange: bytes=8-", "hit 206 89"),
                alone("GET /x\nrange: bytes=10-", "hit 416").has(&[("content-range", "bytes */10")]),
                alone("GET /x\nrange: bytes=0-1\nif-range: \"1\"", "hit 206 01"),
                alone("GET /x\nrange: bytes=0-1\nif-range: \"2\"", "hit 200 0123456789"),
                alone("GET /x\nrange: lines=0-1", "hit 200 0123456789"),
                alone("GET /x\nrange: bytes=0-1\nif-none-match: \"1\"", "hit 304"),
            ],
        ),
        (
            "4.3.5: HEAD freshens",
            &[
                asked("GET /x", OLD, "uri-miss 200 a"),
                asked("HEAD /x", "200\netag: \"1\"\ncontent-length: 1\ncache-control: max-age=60\nx-v: 2", "uri-miss 200"),
                alone("GET /x", "hit 200 a").has(&[("x-v", "2")]),
            ],
        ),
        (
            "4.3.3: a 5xx is passed on where must-revalidate forbids what is stale",
            &[
                asked(
                    "GET /x",
                    "200\ncache-control: max-age=60, must-revalidate, stale-if-error=600\nage: 60\n\na",
                    "uri-miss 200 a",
                ),
                asked("GET /x", "503\n\nno", "uri-miss 503 no"),
            ],
        ),
        (
            "RFC 5861, 4: stale if error",
            &[
                asked("GET /x", "200\ncache-control: max-age=60, stale-if-error=600\nage: 60\n\na", "uri-miss 200 a"),
                asked("GET /x", "503\n\nno", "hit 200 a"),
                asked("GET /x\ncache-control: no-cache", "503\n\nno", "stale 503 no"),
            ],
        ),
        (
            "RFC 5861, 4: not beyond its window",
            &[
                asked("GET /x", "200\ncache-control: max-age=60, stale-if-error=600\nage: 660\n\na", "uri-miss 200 a"),
                asked("GET /x", "503\n\nno", "uri-miss 503 no"),
            ],
        ),
        (
            "5.2.1.2: a client may take what is stale",
            &[
                asked("GET /x", "200\ncache-control: max-age=60\nage: 70\n\na", "uri-miss 200 a"),
                alone("GET /x\ncache-control: max-stale=60", "hit 200 a"),
                asked("GET /x\ncache-control: max-stale=5", "200\ncache-control: max-age=60\n\nb", "uri-miss 200 b"),
                alone("GET /x\ncache-control: max-stale=5", "hit 200 b"),
            ],
        ),
        (
            "4.2.4: unless the response forbids it",
            &[
                asked(
                    "GET /x",
                    "200\ncache-control: max-age=60, proxy-revalidate\nage: 70\netag: \"1\"\n\na",
                    "uri-miss 200 a",
                ),
                asked("GET /x\ncache-control: max-stale", "200\ncache-control: max-age=60\n\nb", "stale 200 b"),
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
        origin.says(Says::Whole(response(says)));
        assert_eq!(proxy.send(&format!("GET {path}")).await.status, 200);
    }
    origin.stop().await;
    for (asks, want) in [
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
        let answer = proxy.send(asks).await;
        assert_eq!(format!("{} {}", answer.status, answer.text()).trim_end(), want, "{asks}");
        assert_ne!(answer.outcome(), "-", "{asks}: Cache-Status stands on every response");
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
        let asks = format!("GET {path}");
        origin.says(Says::Whole(response(&format!("200\ncache-control: max-age=60\nage: 60\n{stored}\n\na"))));
        assert_eq!(proxy.send(&asks).await.text(), "a", "{path}");
        origin.forget();
        origin.says(Says::Whole(response(says)));
        origin.says(Says::Whole(response(WHOLE)));
        let answer = proxy.send(&asks).await;
        assert_eq!(format!("{} {} {}", answer.outcome(), answer.status, answer.text()), "stale 200 b", "{path}");
        let calls = origin.forget();
        let conditional = |call: &Asked| call.fields.iter().any(|(name, _)| name.starts_with("if-"));
        assert_eq!(calls.iter().map(conditional).collect::<Vec<_>>(), [true, false], "{path}");
        let answer = proxy.send(&asks).await;
        assert_eq!(format!("{} {}", answer.outcome(), answer.text()), "hit b", "{path}");
    }
}
