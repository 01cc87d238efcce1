//! Responses that may be stored, their audience, and their lifetime.

use crate::{
    cached, fetched, run_cases, run_cases_with_rules,
    wire::{Client, Origin, Proxy, Reaction, request, response},
};

const A: &str = "200\ncache-control: max-age=60\n\na";
const B: &str = "200\ncache-control: max-age=60\n\nb";
const PUBLIC: &str = "200\ncache-control: public, max-age=60\n\na";

#[tokio::test]
async fn private_response_is_not_stored() {
    run_cases(&[
        (
            "7.3: Set-Cookie is not stored",
            &[
                fetched("GET /x", "200\ncache-control: public, max-age=60\nset-cookie: s=1\n\na", "uri-miss 200 a")
                    .has(&[("set-cookie", "s=1")]),
                fetched("GET /x\ncache-control: max-stale", B, "uri-miss 200 b").has(&[("set-cookie", "-")]),
            ],
        ),
        (
            "5.2.2.7: private, in any case",
            &[
                fetched("GET /x", "200\ncache-control: Private, max-age=60\n\na", "uri-miss 200 a"),
                fetched("GET /x", A, "uri-miss 200 a"),
            ],
        ),
        (
            "5.2.2.5: no-store, on a second line",
            &[
                fetched("GET /x", "200\ncache-control: max-age=60\ncache-control: No-Store\n\na", "uri-miss 200 a"),
                fetched("GET /x", A, "uri-miss 200 a"),
            ],
        ),
        (
            "5.2: no-store behind a quoted comma",
            &[
                fetched("GET /x", "200\ncache-control: max-age=60, ext=\"a, b\", no-store\n\na", "uri-miss 200 a"),
                fetched("GET /x", A, "uri-miss 200 a"),
            ],
        ),
        (
            "5.2: no-store inside quotes is text",
            &[
                fetched("GET /x", "200\ncache-control: max-age=60, ext=\"no-store\"\n\na", "uri-miss 200 a"),
                cached("GET /x", "hit 200 a"),
            ],
        ),
        (
            "5.2.2.5: no-store keeps an earlier stored response",
            &[
                fetched("GET /x", "200\ncache-control: max-age=60\nage: 60\netag: \"1\"\n\na", "uri-miss 200 a"),
                fetched("GET /x", "200\ncache-control: no-store\n\nb", "stale 200 b"),
                fetched("GET /x", "200\ncache-control: max-age=60\n\nc", "stale 200 c"),
                cached("GET /x", "hit 200 c"),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn response_to_credentials_is_not_shared() {
    run_cases(&[
        (
            "3.5: a response to Authorization is not shared",
            &[
                fetched("GET /x\nauthorization: Bearer 1", A, "uri-miss 200 a"),
                fetched("GET /x", B, "uri-miss 200 b"),
                fetched("GET /x\nauthorization: Bearer 1", A, "request 200 a"),
                cached("GET /x", "hit 200 b"),
            ],
        ),
        (
            "3.5: a public response to Authorization is shared",
            &[
                fetched("GET /x\nauthorization: Bearer 1", PUBLIC, "uri-miss 200 a"),
                cached("GET /x\nauthorization: Bearer 2", "hit 200 a"),
                cached("GET /x", "hit 200 a"),
            ],
        ),
        (
            "3.5: an anonymous 401 is not served to a signed-in user",
            &[
                fetched("GET /x", "401\ncache-control: max-age=60\nwww-authenticate: Bearer\n\na", "uri-miss 401 a"),
                fetched("GET /x\nauthorization: Bearer 1", B, "request 200 b"),
            ],
        ),
        (
            "3.5: a response to a cookie is not shared",
            &[
                fetched("GET /x\ncookie: s=1", A, "uri-miss 200 a"),
                fetched("GET /x", B, "uri-miss 200 b"),
                fetched("GET /x\ncookie: s=1", A, "request 200 a"),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn only_allowed_parts_of_a_response_are_stored() {
    run_cases(&[
        ("RFC 6585: 429 is never stored", &[
            fetched("GET /x", "429\ncache-control: max-age=60\n\na", "uri-miss 429 a"),
            fetched("GET /x", B, "uri-miss 200 b"),
        ]),
        ("5.2.1.5: the response to a no-store request is not stored", &[
            fetched("GET /x\ncache-control: no-store", A, "uri-miss 200 a"),
            fetched("GET /x", B, "uri-miss 200 b"),
        ]),
        ("4.1: Vary: * is never stored", &[
            fetched("GET /x", "200\ncache-control: max-age=60\nvary: *\n\na", "uri-miss 200 a"),
            fetched("GET /x", "200\ncache-control: max-age=60\nvary: accept, *\n\na", "uri-miss 200 a"),
            fetched("GET /x", A, "uri-miss 200 a"),
        ]),
        ("4.1: variants are stored separately, and all lines of a field count", &[
            fetched("GET /x\naccept-language: de", "200\ncache-control: max-age=60\nvary: accept-language\n\nde", "uri-miss 200 de"),
            fetched("GET /x\naccept-language: en", "200\ncache-control: max-age=60\nvary: accept-language\n\nen", "vary-miss 200 en"),
            fetched("GET /x\naccept-language: de\naccept-language: fr", "200\ncache-control: max-age=60\nvary: accept-language\n\ndefr", "vary-miss 200 defr"),
            fetched("GET /x", "200\ncache-control: max-age=60\nvary: accept-language\n\nnone", "vary-miss 200 none"),
            cached("GET /x\naccept-language: de", "hit 200 de"),
            cached("GET /x\naccept-language: en", "hit 200 en"),
            cached("GET /x\naccept-language: de, fr", "hit 200 defr"),
            cached("GET /x", "hit 200 none"),
        ]),
        ("a part is never served as the complete response", &[
            fetched("GET /x\nrange: bytes=0-1", "206\ncache-control: max-age=60\ncontent-range: bytes 0-1/4\n\nab", "uri-miss 206 ab"),
            fetched("GET /x", "200\ncache-control: max-age=60\n\nabcd", "uri-miss 200 abcd"),
            cached("GET /x\nrange: bytes=1-2", "hit 206 bc").has(&[("content-range", "bytes 1-2/4"), ("content-length", "2")]),
        ]),
        ("5.2.2.3: must-understand overrides no-store for an understood status", &[
            fetched("GET /x", "200\ncache-control: max-age=60, must-understand, no-store\n\na", "uri-miss 200 a"),
            cached("GET /x", "hit 200 a"),
        ]),
        ("5.2.2.3: must-understand forbids storing other statuses", &[
            fetched("GET /x", "499\ncache-control: max-age=60, must-understand\n\na", "uri-miss 499 a"),
            fetched("GET /x", A, "uri-miss 200 a"),
        ]),
        ("5.2.2.7, 5.2.2.4: listed fields are not stored", &[
            fetched("GET /x", "200\ncache-control: max-age=60, private=\"x-mine, x-own\", no-cache=\"x-now\"\nx-mine: 1\nx-own: 2\nx-now: 3\nx-all: 4\n\na", "uri-miss 200 a")
                .has(&[("x-mine", "1"), ("x-now", "3"), ("x-all", "4")]),
            cached("GET /x", "hit 200 a").has(&[("x-mine", "-"), ("x-own", "-"), ("x-now", "-"), ("x-all", "4")]),
        ]),
        ("3.1: fields of the connection are not stored", &[
            fetched("GET /x", "200\ncache-control: max-age=60\nconnection: x-hop, keep-alive\nx-hop: 1\nkeep-alive: timeout=9\nproxy-authenticate: Basic\nproxy-authentication-info: a\nproxy-connection: close\nte: trailers\nupgrade: a/1\nx-end: 2\n\na", "uri-miss 200 a")
                .has(&[("x-hop", "-"), ("keep-alive", "-"), ("proxy-authenticate", "-"), ("upgrade", "-"), ("te", "-"), ("x-end", "2")]),
            cached("GET /x", "hit 200 a")
                .has(&[("x-hop", "-"), ("keep-alive", "-"), ("proxy-authenticate", "-"), ("proxy-authentication-info", "-"), ("proxy-connection", "-"), ("upgrade", "-"), ("te", "-"), ("x-end", "2")]),
        ]),
    ])
    .await;
}

#[tokio::test]
async fn lifetimes_ages_and_writes_follow_the_rfc() {
    run_cases(&[
        (
            "4.2.1: the first of two lifetimes",
            &[
                fetched("GET /x", "200\ncache-control: max-age=0\ncache-control: max-age=60\n\na", "uri-miss 200 a"),
                fetched("GET /x", B, "uri-miss 200 b"),
            ],
        ),
        (
            "1.2.2: an overflowing lifetime",
            &[
                fetched("GET /x", "200\ncache-control: max-age=99999999999999999999\n\na", "uri-miss 200 a"),
                cached("GET /x", "hit 200 a"),
            ],
        ),
        (
            "1.2.2: an invalid lifetime is ignored",
            &[
                fetched("GET /x", "200\ncache-control: max-age=-5\n\na", "uri-miss 200 a"),
                fetched("GET /x", "200\ncache-control: max-age=1.5\n\na", "uri-miss 200 a"),
                fetched("GET /x", B, "uri-miss 200 b"),
            ],
        ),
        (
            "5.1: an overflowing age is old",
            &[
                fetched("GET /x", "200\ncache-control: max-age=60\nage: 18446744073709551615\n\na", "uri-miss 200 a"),
                fetched("GET /x", B, "uri-miss 200 b"),
            ],
        ),
        (
            "5.1: the age of a hit continues from an earlier cache",
            &[
                fetched("GET /x", "200\ncache-control: max-age=600\nage: 300\n\na", "uri-miss 200 a").has(&[("age", "300")]),
                cached("GET /x\ncache-control: max-age=500", "hit 200 a"),
                fetched("GET /x\ncache-control: max-age=299", B, "request 200 b"),
            ],
        ),
        (
            "5.2.1.7: only-if-cached",
            &[
                cached("GET /x\ncache-control: only-if-cached", "detail=only-if-cached 504"),
                fetched("GET /x", A, "uri-miss 200 a"),
                cached("GET /x\ncache-control: only-if-cached", "hit 200 a"),
            ],
        ),
        (
            "4.4: a write invalidates its URI and the URIs that it names",
            &[
                fetched("GET /x", A, "uri-miss 200 a"),
                fetched("GET /x/other", A, "uri-miss 200 a"),
                fetched("GET /x/kept", A, "uri-miss 200 a"),
                fetched("POST /x", "201\nlocation: /x/other\n\n", "method 201"),
                fetched("GET /x", B, "uri-miss 200 b"),
                fetched("GET /x/other", B, "uri-miss 200 b"),
                cached("GET /x/kept", "hit 200 a"),
            ],
        ),
        (
            "4.4: an error changes nothing",
            &[
                fetched("GET /x", A, "uri-miss 200 a"),
                fetched("POST /x", "500\n\n", "method 500"),
                fetched("PUT /x", "403\n\n", "method 403"),
                cached("GET /x", "hit 200 a"),
            ],
        ),
        (
            "RFC 9875: groups",
            &[
                fetched("GET /x", "200\ncache-control: max-age=60\ncache-groups: \"of /x\"\n\na", "uri-miss 200 a"),
                fetched("POST /x/elsewhere", "204\ncache-group-invalidation: \"of /x\"", "method 204"),
                fetched("GET /x", B, "uri-miss 200 b"),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn truncated_response_is_not_stored_and_stays_truncated() {
    let origin = Origin::start().await;
    let proxy = Proxy::start(&origin.address, &[]).await;
    let cut = [
        ("a length that is not reached", "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 10\r\n\r\n12345"),
        (
            "chunks without a last one",
            "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n",
        ),
    ];
    for (at, (name, bytes)) in cut.iter().enumerate() {
        let request = format!("GET /{at}");
        origin.then(Reaction::Then(bytes.as_bytes().to_vec()));
        let answer = proxy.send(&request).await;
        assert_eq!((answer.text().as_str(), answer.complete), ("12345", false), "{name}");
        origin.then(Reaction::Whole(response("200\ncache-control: max-age=60\n\n1234567890")));
        assert_eq!(proxy.send(&request).await.text(), "1234567890", "{name}");
        origin.take_requests();
    }
}

#[tokio::test]
async fn ignored_cookies_do_not_separate_users() {
    const A: &str = "200\ncache-control: max-age=60\n\na";
    const B: &str = "200\ncache-control: max-age=60\n\nb";
    let rules = "[fallback]\nhttp = true\nignore_cookies = true\n";
    run_cases_with_rules(
        rules,
        &[
            (
                "whoever has which cookie shares",
                &[
                    fetched("GET /x\ncookie: s=1", A, "uri-miss 200 a"),
                    cached("GET /x\ncookie: s=2", "hit 200 a"),
                    cached("GET /x", "hit 200 a"),
                ],
            ),
            (
                "unless the response says that it is for one",
                &[
                    fetched("GET /x\ncookie: s=1", "200\ncache-control: private, max-age=60\n\na", "uri-miss 200 a"),
                    fetched("GET /x\ncookie: s=2", "200\ncache-control: max-age=60\nvary: cookie\n\nb", "uri-miss 200 b"),
                    fetched("GET /x\ncookie: s=1", A, "vary-miss 200 a"),
                    cached("GET /x\ncookie: s=2", "hit 200 b"),
                    cached("GET /x\ncookie: s=1", "hit 200 a"),
                ],
            ),
            (
                "or sets one",
                &[
                    fetched("GET /x\ncookie: s=1", "200\ncache-control: max-age=60\nset-cookie: s=1\n\na", "uri-miss 200 a"),
                    fetched("GET /x\ncookie: s=2", B, "uri-miss 200 b"),
                ],
            ),
            (
                "and 3.5: Authorization counts as ever",
                &[
                    fetched("GET /x\ncookie: s=1\nauthorization: Bearer 1", A, "uri-miss 200 a"),
                    fetched("GET /x\ncookie: s=1", B, "uri-miss 200 b"),
                    fetched("GET /x\ncookie: s=1\nauthorization: Bearer 2", A, "request 200 a"),
                ],
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn waiting_requests_do_not_share_a_cookie() {
    let origin = Origin::start().await;
    let proxy = Proxy::start(&origin.address, &[]).await;
    let mut heads = origin.heads();
    let (say, live) = tokio::sync::mpsc::unbounded_channel();
    origin.then(Reaction::Live(live));
    for _ in 0..7 {
        origin.then(Reaction::Whole(response("200\ncache-control: max-age=60\nset-cookie: s=other\n\nother")));
    }
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = Client::connect(&proxy.address).await;
        client.write(&request("GET /x")).await;
        clients.push(client);
        if clients.len() == 1 {
            heads.recv().await.expect("the first request the origin");
        }
    }
    // The origin announces that it closes this connection, so no other request may use it.
    let fields = "cache-control: max-age=60\nset-cookie: s=first\nconnection: close";
    say.send(response(&format!("200\n{fields}\n\nfirst"))).expect("it is waited for");
    drop(say);
    let mut first = 0;
    for client in &mut clients {
        let got = String::from_utf8(client.rest().await).expect("text");
        first += usize::from(got.contains("s=first"));
        assert!(got.contains("s=first") != got.contains("s=other"), "{got}");
    }
    assert_eq!(first, 1, "a cookie has gone to one that it was not for");
}

#[tokio::test]
async fn rfc9111_5_1_age_continues_from_an_earlier_cache() {
    let origin = Origin::start().await;
    let proxy = Proxy::start(&origin.address, &[]).await;
    for (path, said, least) in [("/old", "\nage: 300", 300), ("/new", "", 0)] {
        origin.then(Reaction::Whole(response(&format!("200\ncache-control: max-age=600{said}\n\na"))));
        proxy.send(&format!("GET {path}")).await;
        for _ in 0..2 {
            let hit = proxy.send(&format!("GET {path}")).await;
            let age: u64 = hit.field("age").parse().expect("a number");
            assert_eq!(hit.outcome(), "hit");
            assert!(age >= least, "{path}: {age}");
        }
    }
}
