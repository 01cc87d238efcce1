use proptest::prelude::*;

use super::super::testing::headers;
use super::*;

#[test]
fn rfc9875_2_lists_of_strings() {
    for (lines, want) in [
        (&[][..], Some(&[][..])),
        (&["\"a\""], Some(&["a"])),
        (&["\"a\", \"b\""], Some(&["a", "b"])),
        (&["\"a\"", "\"b\""], Some(&["a", "b"])),
        (&["\"a\";revalidate, \"a\""], Some(&["a"])),
        (&["\"a, b\", \"\\\"\""], Some(&["a, b", "\""])),
        (&["\"a\", \"A\""], Some(&["a", "A"])),
        (&[""], Some(&[])),
        (&["a"], None),
        (&["\"a\", b"], None),
        (&["\"a\", (\"b\")"], None),
        (&["\"a\", 1"], None),
        (&["\"a"], None),
        (&["\"a\","], None),
    ] {
        for name in [CACHE_GROUPS, CACHE_GROUP_INVALIDATION] {
            let lines: Vec<_> = lines.iter().map(|line| (name.as_str(), *line)).collect();
            let response = headers(&lines);
            let got = if name == CACHE_GROUPS { cache_groups(&response) } else { invalidated_groups(&Method::POST, &response) };
            assert_eq!(got.ok(), want.map(|want| want.iter().map(|group| (*group).to_owned()).collect()), "{lines:?}");
        }
    }
}

#[test]
fn rfc9875_3_ignored_for_safe_methods() {
    let response = headers(&[("cache-group-invalidation", "\"a\"")]);
    for (method, want) in [("GET", 0), ("HEAD", 0), ("QUERY", 0), ("POST", 1), ("DELETE", 1), ("X", 1)] {
        assert_eq!(invalidated_groups(&method.parse().unwrap(), &response).unwrap().len(), want, "{method}");
    }
}

#[test]
fn rfc9875_2_at_least_32_groups_of_32_letters() {
    let groups: Vec<_> = (0..100).map(|n| format!("{n:0>32}")).collect();
    let value = groups.iter().map(|group| format!("\"{group}\"")).collect::<Vec<_>>().join(", ");
    assert_eq!(cache_groups(&headers(&[("cache-groups", &value)])).unwrap(), groups);
}

proptest! {
    #[test]
    fn quoted_groups_are_parsed_again(groups in prop::collection::hash_set("[ -~]{0,10}", 0..5)) {
        let mut value = String::new();
        for group in &groups {
            value.push_str(if value.is_empty() { "" } else { ", " });
            structured::quote(group, &mut value);
        }
        let read = cache_groups(&headers(&[("cache-groups", &value)])).unwrap();
        prop_assert_eq!(read.into_iter().collect::<std::collections::HashSet<_>>(), groups);
    }

    #[test]
    fn parsing_never_panics(value in "[ -~]{0,40}") {
        let _ = cache_groups(&headers(&[("cache-groups", &value)]));
    }
}
