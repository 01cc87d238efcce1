//! Directives for this cache alone (RFC 9213): the proxy obeys `CDN-Cache-Control`.

use crate::{cached, fetched, run_cases};

const B: &str = "200\ncache-control: max-age=60\n\nb";

#[tokio::test]
async fn cdn_cache_control_replaces_cache_control() {
    run_cases(&[
        (
            "2.2: the field allows storing against Cache-Control",
            &[
                fetched("GET /x", "200\ncache-control: no-store\ncdn-cache-control: max-age=60\n\na", "uri-miss 200 a"),
                cached("GET /x", "hit 200 a").has(&[("cache-control", "no-store"), ("cdn-cache-control", "max-age=60")]),
            ],
        ),
        (
            "2.2: the field forbids storing against Cache-Control",
            &[
                fetched("GET /x", "200\ncache-control: max-age=60\ncdn-cache-control: no-store\n\na", "uri-miss 200 a"),
                fetched("GET /x", B, "uri-miss 200 b"),
            ],
        ),
        (
            "2.2: the field's lifetime counts, longer or shorter",
            &[
                fetched(
                    "GET /x",
                    "200\ncache-control: max-age=10\nage: 20\ncdn-cache-control: max-age=60\n\na",
                    "uri-miss 200 a",
                ),
                cached("GET /x", "hit 200 a"),
                fetched(
                    "GET /x/short",
                    "200\ncache-control: max-age=60\nage: 20\ncdn-cache-control: max-age=10\n\na",
                    "uri-miss 200 a",
                ),
                fetched("GET /x/short", B, "uri-miss 200 b"),
            ],
        ),
        (
            "2.2: Expires does not count beside the field",
            &[
                fetched(
                    "GET /x",
                    "200\nexpires: Thu, 01 Jan 2099 00:00:00 GMT\ncdn-cache-control: max-age=0\n\na",
                    "uri-miss 200 a",
                ),
                fetched("GET /x", B, "uri-miss 200 b"),
            ],
        ),
        (
            "2.2: no directive of Cache-Control counts beside the field",
            &[
                fetched(
                    "GET /x",
                    "200\ncache-control: private, no-cache, must-revalidate\ncdn-cache-control: max-age=60\n\na",
                    "uri-miss 200 a",
                ),
                cached("GET /x", "hit 200 a"),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn cdn_cache_control_is_a_structured_field() {
    run_cases(&[
        (
            "2.1: several lines are one dictionary; the last of repeated keys counts",
            &[
                fetched("GET /x", "200\ncdn-cache-control: max-age=60\ncdn-cache-control: max-age=0\n\na", "uri-miss 200 a"),
                fetched(
                    "GET /x",
                    "200\ncdn-cache-control: max-age=0\ncdn-cache-control: public, max-age=60\n\na",
                    "uri-miss 200 a",
                ),
                cached("GET /x", "hit 200 a"),
            ],
        ),
        (
            "2.1: parameters and unknown directives are ignored",
            &[
                fetched(
                    "GET /x",
                    "200\ncache-control: no-store\ncdn-cache-control: max-age=60;no-store;x=\"y\", ext=(1 2);z, other\n\na",
                    "uri-miss 200 a",
                ),
                cached("GET /x", "hit 200 a"),
            ],
        ),
        (
            "2.1: a malformed field is ignored as a whole",
            &[
                fetched(
                    "GET /x",
                    "200\ncache-control: max-age=60\ncdn-cache-control: no-store, max-age = 1\n\na",
                    "uri-miss 200 a",
                ),
                cached("GET /x", "hit 200 a"),
                fetched("GET /x/case", "200\ncache-control: max-age=60\ncdn-cache-control: No-Store\n\na", "uri-miss 200 a"),
                cached("GET /x/case", "hit 200 a"),
                fetched("GET /x/comma", "200\ncache-control: max-age=60\ncdn-cache-control: no-store,\n\na", "uri-miss 200 a"),
                cached("GET /x/comma", "hit 200 a"),
            ],
        ),
        (
            "2.2: an empty field is ignored",
            &[
                fetched("GET /x", "200\ncache-control: max-age=60\ncdn-cache-control:\n\na", "uri-miss 200 a"),
                cached("GET /x", "hit 200 a"),
            ],
        ),
        (
            "2.1: a value of another type counts as the safer one",
            &[
                fetched("GET /x", "200\ncache-control: max-age=60\ncdn-cache-control: max-age=\"60\"\n\na", "uri-miss 200 a"),
                fetched("GET /x", "200\ncache-control: max-age=60\ncdn-cache-control: max-age=60.5\n\na", "uri-miss 200 a"),
                fetched(
                    "GET /x",
                    "200\ncache-control: max-age=60\ncdn-cache-control: max-age=60, no-store=1\n\na",
                    "uri-miss 200 a",
                ),
                fetched("GET /x", B, "uri-miss 200 b"),
            ],
        ),
        (
            "2.1: a false directive is ignored",
            &[
                fetched("GET /x", "200\ncdn-cache-control: max-age=60, no-store=?0, private=?0\n\na", "uri-miss 200 a"),
                cached("GET /x", "hit 200 a"),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn cdn_cache_control_lifetime_counts_like_max_age() {
    run_cases(&[
        (
            "RFC 9111, 1.2.2: an overflowing lifetime",
            &[
                fetched("GET /x", "200\ncdn-cache-control: max-age=999999999999999\n\na", "uri-miss 200 a"),
                cached("GET /x", "hit 200 a"),
                fetched("GET /x/less", "200\ncdn-cache-control: max-age=-1\n\na", "uri-miss 200 a"),
                fetched("GET /x/less", B, "uri-miss 200 b"),
            ],
        ),
        (
            "3.1: a field for other caches is ignored",
            &[
                fetched("GET /x", "200\ncache-control: max-age=60\nother-cache-control: no-store\n\na", "uri-miss 200 a"),
                cached("GET /x", "hit 200 a"),
            ],
        ),
        (
            "2.2: the field is forwarded",
            &[fetched("GET /x", "200\ncdn-cache-control: max-age=60\n\na", "uri-miss 200 a")
                .has(&[("cdn-cache-control", "max-age=60")])],
        ),
        (
            "RFC 9111, 4.2.1: the age counts against the lifetime",
            &[
                fetched("GET /x", "200\ncdn-cache-control: max-age=60\nage: 60\n\na", "uri-miss 200 a"),
                fetched("GET /x", B, "uri-miss 200 b"),
            ],
        ),
    ])
    .await;
}
