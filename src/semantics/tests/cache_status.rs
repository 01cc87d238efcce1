use proptest::prelude::*;

use super::*;

#[test]
fn rfc9211_2_values() {
    let hit = CacheStatus::hit("c");
    let miss = CacheStatus::forwarded("c", Forwarded::Miss);
    for (status, want) in [
        (hit, "c; hit"),
        (CacheStatus { ttl: Some(376), ..hit }, "c; hit; ttl=376"),
        (CacheStatus { ttl: Some(-412), detail: Some("stale"), ..hit }, "c; hit; ttl=-412; detail=\"stale\""),
        (CacheStatus { ttl: Some(i64::MAX), ..hit }, "c; hit; ttl=999999999999999"),
        (CacheStatus { stored: true, collapsed: true, forwarded_status: Some(StatusCode::OK), ..hit }, "c; hit"),
        (miss, "c; fwd=miss"),
        (CacheStatus { stored: true, ..miss }, "c; fwd=miss; stored"),
        (CacheStatus { collapsed: true, ..miss }, "c; fwd=miss; collapsed"),
        (
            CacheStatus { forwarded: Some(Forwarded::Stale), forwarded_status: Some(StatusCode::NOT_MODIFIED), ..miss },
            "c; fwd=stale; fwd-status=304",
        ),
        (CacheStatus { key: Some("GET /a?\"b\\c\""), ..hit }, "c; hit; key=\"GET /a?\\\"b\\\\c\\\"\""),
        (CacheStatus { detail: Some("ü\n"), ..hit }, "c; hit; detail=\"??\""),
        (CacheStatus { name: "my cache", ..hit }, "\"my cache\"; hit"),
        (CacheStatus { name: "", ..hit }, "\"\"; hit"),
        (CacheStatus { name: "1", ..hit }, "\"1\"; hit"),
        (CacheStatus { name: "a.example:80/x", ..hit }, "a.example:80/x; hit"),
    ] {
        assert_eq!(status.value(), want);
    }
    for (why, want) in [
        (Forwarded::Bypass, "bypass"),
        (Forwarded::Method, "method"),
        (Forwarded::UriMiss, "uri-miss"),
        (Forwarded::VaryMiss, "vary-miss"),
        (Forwarded::Miss, "miss"),
        (Forwarded::Request, "request"),
        (Forwarded::Stale, "stale"),
        (Forwarded::Partial, "partial"),
    ] {
        assert_eq!(why.as_str(), want);
    }
}

proptest! {
    #[test]
    fn every_value_is_a_list_with_one_member(name: String, key: Option<String>, detail: Option<String>, ttl: Option<i64>, stored: bool, hit: bool) {
        let status = CacheStatus {
            key: key.as_deref(), detail: detail.as_deref(), ttl, stored, forwarded: (!hit).then_some(Forwarded::Request), ..CacheStatus::hit(&name)
        };
        let list: sfv::List = sfv::Parser::new(status.value().as_bytes()).parse().unwrap();
        let [sfv::ListEntry::Item(item)] = &list[..] else { panic!("one item") };
        prop_assert_eq!(item.params.get("hit").and_then(|hit| hit.as_boolean()), hit.then_some(true));
        prop_assert_eq!(item.params.get("key").is_some(), key.is_some());
        if let Some(detail) = detail.filter(|detail| detail.bytes().all(|byte| matches!(byte, b' '..=b'~'))) {
            prop_assert_eq!(item.params.get("detail").and_then(|detail| detail.as_string()).unwrap().as_str(), detail);
        }
    }
}
