//! Parts (206): stored, and combined (RFC 9111, section 3.3 and section 3.4).

use crate::{cached, fetched, run_cases};

const FIRST: &str = "206\ncache-control: max-age=60\netag: \"1\"\ncontent-range: bytes 0-3/10\n\n0123";
const REST: &str = "206\ncache-control: max-age=60\netag: \"1\"\ncontent-range: bytes 4-9/10\nx-v: 2\n\n456789";
const MIDDLE: &str = "206\ncache-control: max-age=60\netag: \"1\"\ncontent-range: bytes 4-5/10\n\n45";
const WEAK: &str = "206\ncache-control: max-age=60\netag: W/\"1\"\ncontent-range: bytes 4-9/10\n\n456789";
const OTHER: &str = "206\ncache-control: max-age=60\netag: \"2\"\ncontent-range: bytes 4-9/10\n\nefghij";
const WHOLE: &str = "200\ncache-control: max-age=60\n\nabcdefghij";

#[tokio::test]
async fn part_answers_its_range_again() {
    run_cases(&[
        (
            "3.3: a part answers the same range again",
            &[
                fetched(
                    "GET /x\nrange: bytes=-6",
                    "206\ncache-control: max-age=60\ncontent-range: bytes 4-9/10\n\n456789",
                    "uri-miss 206 456789",
                ),
                cached("GET /x\nrange: bytes=-6", "hit 206 456789").has(&[("content-range", "bytes 4-9/10")]),
                fetched("GET /x", WHOLE, "uri-miss 200 abcdefghij"),
            ],
        ),
        (
            "3.3: without a validator, another range goes to the origin",
            &[
                fetched(
                    "GET /x\nrange: bytes=0-3",
                    "206\ncache-control: max-age=60\ncontent-range: bytes 0-3/10\n\n0123",
                    "uri-miss 206 0123",
                ),
                fetched(
                    "GET /x\nrange: bytes=0-1",
                    "206\ncache-control: max-age=60\ncontent-range: bytes 0-1/10\n\n01",
                    "uri-miss 206 01",
                ),
            ],
        ),
        (
            "3.3: a part of a stored part",
            &[
                fetched("GET /x\nrange: bytes=0-3", FIRST, "uri-miss 206 0123"),
                cached("GET /x\nrange: bytes=1-2", "hit 206 12")
                    .has(&[("content-range", "bytes 1-2/10"), ("content-length", "2")]),
                cached("GET /x\nrange: bytes=1-2\nif-range: \"1\"", "hit 206 12"),
                fetched("GET /x\nrange: bytes=1-4", "206\ncontent-range: bytes 1-4/10\n\n1234", "uri-miss 206 1234"),
                fetched("GET /x\nrange: bytes=1-2\nif-range: \"2\"", WHOLE, "uri-miss 200 abcdefghij"),
            ],
        ),
        (
            "3.4: complete parts are the whole response",
            &[
                fetched("GET /x\nrange: bytes=0-3", FIRST, "uri-miss 206 0123"),
                fetched("GET /x\nrange: bytes=4-", REST, "uri-miss 206 456789"),
                cached("GET /x", "hit 200 0123456789").has(&[("content-length", "10"), ("content-range", "-"), ("x-v", "2")]),
                cached("HEAD /x", "hit 200"),
                cached("GET /x\nrange: bytes=2-5", "hit 206 2345"),
                cached("GET /x\nif-none-match: \"1\"", "hit 304"),
            ],
        ),
        (
            "3.4: more than two parts are combined in any order",
            &[
                fetched("GET /x\nrange: bytes=4-5", MIDDLE, "uri-miss 206 45"),
                fetched("GET /x\nrange: bytes=0-3", FIRST, "uri-miss 206 0123"),
                cached("GET /x\nrange: bytes=2-5", "hit 206 2345"),
                fetched(
                    "GET /x\nrange: bytes=6-9",
                    "206\ncache-control: max-age=60\netag: \"1\"\ncontent-range: bytes 6-9/10\n\n6789",
                    "uri-miss 206 6789",
                ),
                cached("GET /x", "hit 200 0123456789"),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn parts_are_combined_only_if_certain() {
    run_cases(&[
        (
            "3.4: only parts with one strong validator are combined",
            &[
                fetched("GET /x\nrange: bytes=0-3", FIRST, "uri-miss 206 0123"),
                fetched("GET /x\nrange: bytes=4-", OTHER, "uri-miss 206 efghij"),
                fetched("GET /x", WHOLE, "uri-miss 200 abcdefghij"),
            ],
        ),
        (
            "3.4: a weak validator does not combine parts",
            &[
                fetched(
                    "GET /x\nrange: bytes=0-3",
                    "206\ncache-control: max-age=60\netag: W/\"1\"\ncontent-range: bytes 0-3/10\n\n0123",
                    "uri-miss 206 0123",
                ),
                fetched("GET /x\nrange: bytes=4-9", WEAK, "uri-miss 206 456789"),
                fetched("GET /x", WHOLE, "uri-miss 200 abcdefghij"),
            ],
        ),
        (
            "3.4: a gap is not bridged",
            &[
                fetched("GET /x\nrange: bytes=0-3", FIRST, "uri-miss 206 0123"),
                fetched(
                    "GET /x\nrange: bytes=6-9",
                    "206\ncache-control: max-age=60\netag: \"1\"\ncontent-range: bytes 6-9/10\n\n6789",
                    "uri-miss 206 6789",
                ),
                fetched("GET /x", WHOLE, "uri-miss 200 abcdefghij"),
            ],
        ),
        (
            "RFC 9110, 14.4: a wrong Content-Range is not used",
            &[
                fetched("GET /x\nrange: bytes=0-3", FIRST, "uri-miss 206 0123"),
                fetched(
                    "GET /x\nrange: bytes=4-",
                    "206\ncache-control: max-age=60\netag: \"1\"\ncontent-range: bytes 4-9/10\n\n45678",
                    "uri-miss 206 45678",
                ),
                fetched("GET /x", WHOLE, "uri-miss 200 abcdefghij"),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn part_is_stored_like_a_complete_response() {
    run_cases(&[
        (
            "5.2.2.5, 5.2.2.7: a part that may not be stored is not stored",
            &[
                fetched(
                    "GET /x\nrange: bytes=0-3",
                    "206\ncache-control: private, max-age=60\netag: \"1\"\ncontent-range: bytes 0-3/10\n\n0123",
                    "uri-miss 206 0123",
                ),
                fetched(
                    "GET /x\nrange: bytes=0-3",
                    "206\ncache-control: no-store\netag: \"1\"\ncontent-range: bytes 0-3/10\n\n0123",
                    "uri-miss 206 0123",
                ),
                fetched(
                    "GET /x\nrange: bytes=0-3",
                    "206\nset-cookie: s=1\ncache-control: max-age=60\ncontent-range: bytes 0-3/10\n\n0123",
                    "uri-miss 206 0123",
                ),
                fetched("GET /x\nrange: bytes=0-3", FIRST, "uri-miss 206 0123"),
            ],
        ),
        (
            "3.5: a part for one user is not stored for others",
            &[
                fetched("GET /x\nrange: bytes=0-3\nauthorization: Bearer 1", FIRST, "uri-miss 206 0123"),
                fetched("GET /x\nrange: bytes=0-3", FIRST, "uri-miss 206 0123"),
                fetched("GET /x\nrange: bytes=0-3\nauthorization: Bearer 1", FIRST, "uri-miss 206 0123"),
            ],
        ),
        (
            "4.2: a part becomes stale",
            &[
                fetched(
                    "GET /x\nrange: bytes=0-3",
                    "206\ncache-control: max-age=60\nage: 60\netag: \"1\"\ncontent-range: bytes 0-3/10\n\n0123",
                    "uri-miss 206 0123",
                ),
                fetched("GET /x\nrange: bytes=0-3", FIRST, "uri-miss 206 0123"),
            ],
        ),
        (
            "4.1: a part of an unknown variant is not used",
            &[
                fetched(
                    "GET /x\nrange: bytes=0-3\naccept: a",
                    "206\nvary: accept\ncache-control: max-age=60\netag: \"1\"\ncontent-range: bytes 0-3/10\n\n0123",
                    "uri-miss 206 0123",
                ),
                fetched("GET /x\nrange: bytes=0-3\naccept: b", FIRST, "uri-miss 206 0123"),
            ],
        ),
        (
            "4.1: parts of known variants are stored separately",
            &[
                fetched("GET /x\naccept: a", "200\nvary: accept\ncache-control: max-age=60\n\nA", "uri-miss 200 A"),
                fetched("GET /x\nrange: bytes=0-3\naccept: b", FIRST, "vary-miss 206 0123"),
                fetched("GET /x\nrange: bytes=0-3\naccept: c", OTHER, "vary-miss 206 efghij"),
                cached("GET /x\nrange: bytes=0-3\naccept: b", "hit 206 0123"),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn complete_responses_and_errors_beside_parts() {
    run_cases(&[
        (
            "4.4: a write invalidates parts",
            &[
                fetched("GET /x\nrange: bytes=0-3", FIRST, "uri-miss 206 0123"),
                fetched("PUT /x", "204", "method 204"),
                fetched("GET /x\nrange: bytes=4-", REST, "uri-miss 206 456789"),
                fetched("GET /x", WHOLE, "uri-miss 200 abcdefghij"),
            ],
        ),
        (
            "RFC 9110, 14.2: a complete response to a range is stored as such",
            &[
                fetched("GET /x\nrange: bytes=0-3", WHOLE, "uri-miss 200 abcdefghij"),
                cached("GET /x", "hit 200 abcdefghij"),
                cached("GET /x\nrange: bytes=0-3", "hit 206 abcd"),
            ],
        ),
        (
            "RFC 9110, 15.5.17: a 416 does not change the stored response",
            &[
                fetched(
                    "GET /x\nrange: bytes=20-",
                    "416\ncache-control: max-age=60\ncontent-range: bytes */10\n\n",
                    "uri-miss 416",
                ),
                fetched(
                    "GET /x\nrange: bytes=20-",
                    "416\ncache-control: max-age=60\ncontent-range: bytes */10\n\n",
                    "uri-miss 416",
                ),
            ],
        ),
        (
            "RFC 5861, 4: a stale complete response serves the requested part",
            &[
                fetched(
                    "GET /x",
                    "200\ncache-control: max-age=60, stale-if-error=600\nage: 60\n\nabcdefghij",
                    "uri-miss 200 abcdefghij",
                ),
                fetched("GET /x\nrange: bytes=0-3", "503\n\n", "hit 206 abcd"),
            ],
        ),
    ])
    .await;
}
