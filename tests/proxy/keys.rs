//! Requests that share a key, and requests that do not.

use crate::{cached, fetched, run_cases, run_cases_with_rules};

const A: &str = "200\ncache-control: max-age=60\n\na";
const B: &str = "200\ncache-control: max-age=60\n\nb";

#[tokio::test]
async fn different_targets_never_share_a_response() {
    run_cases(&[
        (
            "a query is part of the key",
            &[
                fetched("GET /x?id=1", A, "uri-miss 200 a"),
                fetched("GET /x?id=2", B, "uri-miss 200 b"),
                fetched("GET /x", B, "uri-miss 200 b"),
                fetched("GET /x?", A, "uri-miss 200 a"),
                cached("GET /x?id=1", "hit 200 a"),
            ],
        ),
        (
            "an ambiguous query is part of the key",
            &[
                fetched("GET /x?id=5&id=6", A, "uri-miss 200 a"),
                fetched("GET /x?id=6&id=5", B, "uri-miss 200 b"),
                fetched("GET /x?a[b]=1", A, "uri-miss 200 a"),
                fetched("GET /x?a[c]=1", B, "uri-miss 200 b"),
                fetched("GET /x?%61=1&=&&", A, "uri-miss 200 a"),
                cached("GET /x?id=5&id=6", "hit 200 a"),
                cached("GET /x?a[c]=1", "hit 200 b"),
            ],
        ),
        (
            "parameters of different names in another order share a key",
            &[fetched("GET /x?b=1&a=2", A, "uri-miss 200 a"), cached("GET /x?a=2&b=1", "hit 200 a")],
        ),
        (
            "two paths are two keys, with any ending",
            &[
                fetched("GET /x/users/1", A, "uri-miss 200 a"),
                fetched("GET /x/orders/1", B, "uri-miss 200 b"),
                fetched("GET /x/users/1/", B, "uri-miss 200 b"),
                fetched("GET /x/Users/1", B, "uri-miss 200 b"),
            ],
        ),
        (
            "two parts with the same concatenation are two keys",
            &[
                fetched("GET /x/ab/c", A, "uri-miss 200 a"),
                fetched("GET /x/a/bc", B, "uri-miss 200 b"),
                fetched("GET /x/ab?c", B, "uri-miss 200 b"),
            ],
        ),
        (
            "each host has its own key",
            &[
                fetched("GET /x\nHost: a.test", A, "uri-miss 200 a"),
                fetched("GET /x\nHost: b.test", B, "uri-miss 200 b"),
                fetched("GET /x\nHost: a.test:8080", B, "uri-miss 200 b"),
                cached("GET /x\nHost: A.Test", "hit 200 a"),
            ],
        ),
        (
            "a target in absolute form has its own host",
            &[
                fetched("GET http://b.test/x\nHost: a.test", A, "uri-miss 200 a").sends(&[("host", "b.test")]),
                fetched("GET /x\nHost: a.test", B, "uri-miss 200 b"),
                cached("GET /x\nHost: b.test", "hit 200 a"),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn different_methods_and_contents_never_share_a_response() {
    run_cases(&[
        (
            "HEAD is answered from GET, GET never from HEAD",
            &[
                fetched("HEAD /x", "200\ncache-control: max-age=60\ncontent-length: 1", "uri-miss 200")
                    .has(&[("content-length", "1")]),
                fetched("GET /x", A, "uri-miss 200 a"),
                cached("HEAD /x", "hit 200").has(&[("content-length", "1")]),
            ],
        ),
        (
            "POST and DELETE are never answered from the cache",
            &[
                fetched("GET /x", A, "uri-miss 200 a"),
                fetched("POST /x", "404\n\n", "method 404"),
                fetched("DELETE /x", "404\n\n", "method 404"),
                cached("GET /x", "hit 200 a"),
            ],
        ),
        (
            "the content of a QUERY and its type are part of the key",
            &[
                fetched("QUERY /x\ncontent-type: a/b\n\nq > 1", A, "uri-miss 200 a"),
                fetched("QUERY /x\ncontent-type: a/b\n\nq > 2", B, "uri-miss 200 b"),
                fetched("QUERY /x\ncontent-type: a/c\n\nq > 1", B, "uri-miss 200 b"),
                fetched("QUERY /x\ncontent-type: a/b", B, "uri-miss 200 b"),
                fetched("GET /x", B, "uri-miss 200 b"),
                cached("QUERY /x\ncontent-type: a/b\n\nq > 1", "hit 200 a"),
                cached("QUERY /x\ncontent-type: a/b\ntransfer-encoding: chunked\n\n5\r\nq > 1\r\n0\r\n\r\n", "hit 200 a"),
            ],
        ),
        (
            "4.4: a write invalidates responses to QUERY",
            &[
                fetched("QUERY /x\n\nq > 1", A, "uri-miss 200 a"),
                fetched("QUERY /x/other\n\nq > 1", A, "uri-miss 200 a"),
                fetched("POST /x", "204", "method 204"),
                fetched("QUERY /x\n\nq > 1", B, "uri-miss 200 b"),
                cached("QUERY /x/other\n\nq > 1", "hit 200 a"),
            ],
        ),
        (
            "a GET with content bypasses the cache",
            &[fetched("GET /x\n\n{\"q\":1}", A, "bypass 200 a"), fetched("GET /x\n\n{\"q\":2}", B, "bypass 200 b")],
        ),
        (
            "a method-override field bypasses the cache",
            &[fetched("GET /x\nx-http-method-override: DELETE", A, "bypass 200 a"), fetched("GET /x", B, "uri-miss 200 b")],
        ),
        (
            "X-Forwarded-Host is part of the key, with and without Vary",
            &[
                fetched("GET /x\nx-forwarded-host: evil.test", "200\ncache-control: max-age=60\n\nevil", "uri-miss 200 evil"),
                fetched(
                    "GET /x\nx-forwarded-host: other.test",
                    "200\ncache-control: max-age=60\nvary: x-forwarded-host\n\nother",
                    "uri-miss 200 other",
                ),
                fetched("GET /x", A, "uri-miss 200 a"),
                cached("GET /x", "hit 200 a"),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn rfc9111_4_1_rule_selects_a_language() {
    const DE: &str = "200\ncache-control: max-age=60\nvary: accept-language, x-v\ncontent-language: de\n\nde";
    const EN: &str = "200\ncache-control: max-age=60\nvary: accept-language, x-v\ncontent-language: en\n\nen";
    const OLD: &str =
        "200\ncache-control: max-age=60\nage: 60\netag: \"1\"\nvary: accept-language\ncontent-language: de\n\nold";
    let rules = "[fallback]\nhttp = true\nnormalise = { select_language = true }\n";
    run_cases_with_rules(
        rules,
        &[
            (
                "what is preferred to all else fits, whatever else is accepted",
                &[
                    fetched("GET /x\naccept-language: en, de", DE, "uri-miss 200 de"),
                    cached("GET /x\naccept-language: fr;q=0.5, de;q=1.0", "hit 200 de"),
                    cached("GET /x\naccept-language: DE", "hit 200 de"),
                    cached("GET /x\naccept-language: en, de", "hit 200 de"),
                ],
            ),
            (
                "what is not does not",
                &[
                    fetched("GET /x\naccept-language: en, de", DE, "uri-miss 200 de"),
                    fetched("GET /x\naccept-language: de, fr", EN, "vary-miss 200 en"),
                    fetched("GET /x\naccept-language: de;q=0.9, fr", EN, "vary-miss 200 en"),
                    fetched("GET /x\naccept-language: de\nx-v: 1", EN, "vary-miss 200 en"),
                    fetched("GET /x", EN, "vary-miss 200 en"),
                    cached("GET /x\naccept-language: de, fr;q=0.1", "hit 200 de"),
                    cached("GET /x\naccept-language: en, fr;q=0.1", "hit 200 en"),
                ],
            ),
            (
                "4.3: it is validated like any other",
                &[
                    fetched("GET /x\naccept-language: en, de", OLD, "uri-miss 200 old"),
                    fetched("GET /x\naccept-language: de", "304\netag: \"1\"\ncache-control: max-age=60", "stale 200 old")
                        .sends(&[("if-none-match", "\"1\"")]),
                    cached("GET /x\naccept-language: de, it;q=0.1", "hit 200 old"),
                ],
            ),
            (
                "4.4: it is invalidated with the others",
                &[
                    fetched("GET /x\naccept-language: en, de", DE, "uri-miss 200 de"),
                    cached("GET /x\naccept-language: de", "hit 200 de"),
                    fetched("POST /x", "204", "method 204"),
                    fetched("GET /x\naccept-language: de", EN, "uri-miss 200 en"),
                ],
            ),
        ],
    )
    .await;
}
