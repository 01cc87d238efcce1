use proptest::prelude::*;

use super::*;

fn json_of(text: &str) -> Option<String> {
    json(text.as_bytes()).map(|bytes| String::from_utf8(bytes).expect("text"))
}

#[test]
fn members_are_sorted_and_white_space_is_removed() {
    for (text, want) in [
        (" { \"b\" : 1 , \"a\" : [ true , null ] } ", "{\"a\":[true,null],\"b\":1}"),
        ("{\"a\":2,\"b\":0,\"a\":1}", "{\"a\":2,\"a\":1,\"b\":0}"),
        ("[{\"b\":{\"d\":1,\"c\":2}}, \" a \\\" b \"]", "[{\"b\":{\"c\":2,\"d\":1}},\" a \\\" b \"]"),
        ("-1.50e+03", "-1.50e+03"),
        ("[]", "[]"),
        ("\t{}\r\n", "{}"),
    ] {
        assert_eq!(json_of(text).as_deref(), Some(want), "{text}");
    }
}

#[test]
fn texts_that_are_not_json_have_no_canonical_form() {
    for text in [
        "",
        " ",
        "{",
        "[1,]",
        "{\"a\":1,}",
        "{a:1}",
        "{\"a\" 1}",
        "01",
        "1.",
        ".5",
        "+1",
        "1e",
        "1 2",
        "tru",
        "\"a",
        "\"\n\"",
        "{\"\\u0061\":1,\"a\":2}",
        "\u{feff}{}",
        "NaN",
    ] {
        assert_eq!(json_of(text), None, "{text:?}");
    }
    assert_eq!(json(b"\"\xff\""), None);
    let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert!(json_of(&deep(MAX_DEPTH)).is_some() && json_of(&deep(MAX_DEPTH + 1)).is_none());
}

#[test]
fn pairs_of_one_name_keep_their_order() {
    for (text, want) in [("b=1&a=2&a=1", Some("a=2&a=1&b=1")), ("", Some("")), ("a=%41&b", Some("a=%41&b"))] {
        assert_eq!(form(text.as_bytes()).as_deref(), want.map(str::as_bytes), "{text}");
    }
    for text in ["%61=1&a=2", "a+b=1", "a[]=1", "a=1;b=2"] {
        assert_eq!(form(text.as_bytes()), None, "{text}");
    }
}

/// A document, and the text of it with its members in another order and with white space.
fn documents() -> impl Strategy<Value = (serde_json::Value, String)> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i32>().prop_map(|n| n.to_string()),
        "[a-z\"\\\\ ]{0,6}".prop_map(|text| serde_json::to_string(&text).expect("JSON")),
    ];
    let text = leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[ {} ]", items.join(" ,"))),
            prop::collection::btree_map("[a-d]{1,2}", inner, 0..4).prop_map(|members| {
                let members: Vec<_> = members.iter().rev().map(|(name, value)| format!("\"{name}\" :{value}")).collect();
                format!("{{{}}}", members.join(",\n"))
            }),
        ]
    });
    text.prop_map(|text| (serde_json::from_str(&text).expect("JSON"), text))
}

proptest! {
    /// `serde_json` sorts members by name.
    #[test]
    fn canonical_form_is_that_of_serde_json((value, text) in documents()) {
        prop_assert_eq!(json_of(&text), Some(value.to_string()));
    }

    #[test]
    fn different_documents_have_different_forms((one, a) in documents(), (other, b) in documents()) {
        prop_assert_eq!(one == other, json(a.as_bytes()) == json(b.as_bytes()));
    }

    #[test]
    fn texts_are_accepted_as_by_serde_json(text in "[{}\\[\\],:0-9a\" .eE+\\-tn]{0,12}") {
        let is_json = serde_json::from_str::<serde_json::Value>(&text).is_ok();
        // Numbers out of range are an error of `serde_json` alone.
        prop_assert!(json_of(&text).is_some() == is_json || text.contains(['e', 'E']));
    }
}
