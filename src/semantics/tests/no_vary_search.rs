use proptest::prelude::*;

use super::super::testing::headers;
use super::*;

fn of(value: &str) -> NoVarySearch {
    NoVarySearch::of(&headers(&[("no-vary-search", value)]))
}

#[test]
fn draft_parsing() {
    for (value, want) in [
        ("params", NoVarySearch::only([""; 0])),
        ("params=?1", NoVarySearch::only([""; 0])),
        ("params=(\"a\")", NoVarySearch::ignoring(["a"])),
        ("params, except=(\"x\")", NoVarySearch::only(["x"])),
        ("params, key-order, except=(\"x\")", NoVarySearch::only(["x"]).in_any_order()),
        ("key-order", NoVarySearch::default().in_any_order()),
        ("key-order=?1, other=7", NoVarySearch::default().in_any_order()),
        ("params=(\"%C3%A9+%E6%B0%97\")", NoVarySearch::ignoring(["é 気"])),
    ] {
        assert_eq!(of(value), want, "{value}");
    }
    for value in [
        "unknown-key",
        "key-order=\"not a boolean\"",
        "params=\"not a boolean or inner list\"",
        "params=(not-a-string)",
        "params=(\"a\"), except=(\"x\")",
        "params=(), except=()",
        "params=?0, except=(\"x\")",
        "params, except=(not-a-string)",
        "params, except=\"not an inner list\"",
        "params, except=?1",
        "except=(\"x\")",
        "except=()",
        "params=?0",
        "params=()",
        "key-order=?0",
        "",
        "&&&",
        "params=(\"a\"",
        "params=(\"a\"),",
    ] {
        assert_eq!(of(value), NoVarySearch::default(), "{value}");
    }
    assert_eq!(NoVarySearch::of(&HeaderMap::new()), NoVarySearch::default());
}

#[test]
fn draft_comparing() {
    for (value, one, two, want) in [
        ("", Some("a=1"), Some("a=1"), true),
        ("", Some("a=1&&"), Some("a=1"), false),
        ("", Some(""), None, false),
        ("", Some("%61=1"), Some("a=1"), false),
        ("params", Some("a=1&b=2"), None, true),
        ("params=(\"a\")", Some("a=1&b=2"), Some("b=2&a=9&a"), true),
        ("params=(\"a\")", Some("b=2"), Some("b=3"), false),
        ("params=(\"a\")", Some("A=2"), None, false),
        ("params=(\"a\")", Some("%61=2"), Some(""), true),
        ("params=(\"a\")", Some("b=1&c=2"), Some("c=2&b=1"), false),
        ("params=(\"a\")", Some("b=x+y"), Some("b=x%20y"), true),
        ("params=(\"a\")", Some("b=%2B"), Some("b=+"), false),
        ("params=(\"a\")", Some("b"), Some("b="), true),
        ("params=(\"a\")", Some("&&b"), Some("b"), true),
        ("params=(\"a\")", Some("b=%ff"), Some("b=%fe"), false),
        ("params=(\"a\")", Some("b=%f"), Some("b=%25f"), true),
        ("params=(\"%C3%A9+%E6%B0%97\")", Some("%C3%A9%20%E6%B0%97=3"), Some("é+気=2"), true),
        ("params, except=(\"id\")", Some("x=1&id=7"), Some("id=7&y"), true),
        ("params, except=(\"id\")", Some("id=7"), Some("id=8"), false),
        ("params, except=(\"id\")", Some("id=7"), None, false),
        ("key-order", Some("a=1&b=2"), Some("b=2&a=1"), true),
        ("key-order", Some("a=1&b=2&a=3"), Some("b=2&a=3&a=1"), false),
        ("key-order", Some("a=1"), Some("a=1&b"), false),
    ] {
        assert_eq!(of(value).equivalent(one, two), want, "{value} {one:?} {two:?}");
        let key = |query| {
            let mut key = Vec::new();
            of(value).write(query, &mut key);
            key
        };
        assert_eq!(key(one) == key(two), want, "keys: {value} {one:?} {two:?}");
    }
}

proptest! {
    #[test]
    fn keys_are_equal_for_equivalent_queries_only(
        one in prop::option::of("[ab=&%26+]{0,8}"), two in prop::option::of("[ab=&%26+]{0,8}"), value in "(params(=\\(\"a\"\\))?|key-order)?",
    ) {
        let key = |query: &Option<String>| {
            let mut key = Vec::new();
            of(&value).write(query.as_deref(), &mut key);
            key
        };
        prop_assert_eq!(key(&one) == key(&two), of(&value).equivalent(one.as_deref(), two.as_deref()));
    }

    #[test]
    fn relevant_parameter_is_never_lost(name in "[b-z]{1,4}", value in "[a-z]{0,4}", other in "[a-z]{0,4}") {
        let (one, two) = (format!("a=1&{name}={value}"), format!("a=1&{name}={other}"));
        prop_assert_eq!(NoVarySearch::ignoring(["a"]).equivalent(Some(&one), Some(&two)), value == other);
        prop_assert_eq!(NoVarySearch::only([name]).equivalent(Some(&one), Some(&two)), value == other);
    }

    #[test]
    fn parsing_never_panics(value in "[ -~]{0,40}", query in "[ -~é]{0,20}") {
        of(&value).write(Some(&query), &mut Vec::new());
    }
}
