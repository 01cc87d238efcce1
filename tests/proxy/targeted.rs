//! Directives for this cache alone (RFC 9213): the proxy obeys `CDN-Cache-Control`.

use crate::{cached, fetched, run_cases};

#[tokio::test]
async fn cdn_cache_control_replaces_cache_control() {
    const B: &str = "200\ncache-control: max-age=60\n\nb";
    run_cases(&[
        (
            "2.2: it allows what Cache-Control forbids",
            &[
                fetched("GET /x", "200\ncache-control: no-store\ncdn-cache-control: max-age=60\n\na", "uri-miss 200 a"),
                cached("GET /x", "hit 200 a").has(&[("cache-control", "no-store"), ("cdn-cache-control", "max-age=60")]),
            ],
        ),
        (
            "2.2: it forbids what Cache-Control allows",
            &[
                fetched("GET /x", "200\ncache-control: max-age=60\ncdn-cache-control: no-store\n\na", "uri-miss 200 a"),
                fetched("GET /x", B, "uri-miss 200 b"),
            ],
        ),
        (
            "2.2: its lifetime, whether longer or shorter",
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
            "2.2: Expires does not count beside it",
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
            "2.2: nor does any directive of Cache-Control",
            &[
                fetched(
                    "GET /x",
                    "200\ncache-control: private, no-cache, must-revalidate\ncdn-cache-control: max-age=60\n\na",
                    "uri-miss 200 a",
                ),
                cached("GET /x", "hit 200 a"),
            ],
        ),
        (
            "2.1: several lines are one dictionary, of repeated keys the last",
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
            "2.1: parameters and unknown directives count for nothing",
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
            "2.1: a malformed field is passed over as a whole",
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
            "2.2: an empty field is none",
            &[
                fetched("GET /x", "200\ncache-control: max-age=60\ncdn-cache-control:\n\na", "uri-miss 200 a"),
                cached("GET /x", "hit 200 a"),
            ],
        ),
        (
            "2.1: a value of another type is read in the careful direction",
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
            "2.1: a directive that is false is not said",
            &[
                fetched("GET /x", "200\ncdn-cache-control: max-age=60, no-store=?0, private=?0\n\na", "uri-miss 200 a"),
                cached("GET /x", "hit 200 a"),
            ],
        ),
        (
            "1.2.2 of RFC 9111: a lifetime beyond all numbers",
            &[
                fetched("GET /x", "200\ncdn-cache-control: max-age=999999999999999\n\na", "uri-miss 200 a"),
                cached("GET /x", "hit 200 a"),
                fetched("GET /x/less", "200\ncdn-cache-control: max-age=-1\n\na", "uri-miss 200 a"),
                fetched("GET /x/less", B, "uri-miss 200 b"),
            ],
        ),
        (
            "3.1: a field for others is passed over",
            &[
                fetched("GET /x", "200\ncache-control: max-age=60\nother-cache-control: no-store\n\na", "uri-miss 200 a"),
                cached("GET /x", "hit 200 a"),
            ],
        ),
        (
            "2.2: the field goes on to caches behind this one",
            &[fetched("GET /x", "200\ncdn-cache-control: max-age=60\n\na", "uri-miss 200 a")
                .has(&[("cdn-cache-control", "max-age=60")])],
        ),
        (
            "4.2.1 of RFC 9111: an age counts against its lifetime",
            &[
                fetched("GET /x", "200\ncdn-cache-control: max-age=60\nage: 60\n\na", "uri-miss 200 a"),
                fetched("GET /x", B, "uri-miss 200 b"),
            ],
        ),
    ])
    .await;
}
