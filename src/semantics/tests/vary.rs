use proptest::prelude::*;

use super::super::testing::headers;
use super::*;

fn equal(name: &str, one: &[&str], two: &[&str], normalise: Normalise) -> bool {
    let vary = Vary::of(&headers(&[("vary", name)]));
    let request = |lines: &[&str]| headers(&lines.iter().map(|line| (name, *line)).collect::<Vec<_>>());
    let answer = vary.matches(&request(one), &request(two), normalise);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    vary.write(&request(one), normalise, &mut first);
    vary.write(&request(two), normalise, &mut second);
    assert_eq!(answer, first == second, "keys and matching agree");
    answer
}

#[test]
fn rfc9110_12_5_5_parsed_vary() {
    for (lines, star, names) in [
        (&[][..], false, &[][..]),
        (&["*"], true, &[]),
        (&["*, *"], true, &[]),
        (&["*", "*"], true, &[]),
        (&[", *"], true, &[]),
        (&["", "*"], true, &[]),
        (&["*, Foo"], true, &["foo"]),
        (&["Foo, *"], true, &["foo"]),
        (&["Foo", "*"], true, &["foo"]),
        (&["a b"], true, &[]),
        (&["Foo,, BAR ,foo"], false, &["bar", "foo"]),
        (&["Foo", "Bar"], false, &["bar", "foo"]),
    ] {
        let lines: Vec<_> = lines.iter().map(|line| ("vary", *line)).collect();
        let vary = Vary::of(&headers(&lines));
        assert_eq!(vary.is_star(), star, "{lines:?}");
        assert_eq!(vary.names(), names, "{lines:?}");
        assert_eq!(vary.is_empty(), !star && names.is_empty(), "{lines:?}");
    }
}

#[test]
fn rfc9111_3_3_part_depends_on_its_range() {
    let vary = Vary::of(&headers(&[("vary", "foo")])).and(http::header::RANGE).and(http::header::RANGE);
    assert_eq!(vary.names(), ["foo", "range"]);
    let asked = headers(&[("range", "bytes=-5")]);
    assert!(vary.matches(&asked, &asked, Normalise::rfc()));
    assert!(!vary.matches(&asked, &headers(&[]), Normalise::rfc()));
    assert!(!vary.matches(&asked, &headers(&[("range", "bytes=-4")]), Normalise::rfc()));
}

#[test]
fn rfc9111_4_1_union_nominates_all_fields() {
    let of = |value| Vary::of(&headers(&[("vary", value)]));
    assert_eq!(of("foo, bar").union(&of("baz, foo")), of("bar, baz, foo"));
    assert!(of("foo").union(&of("*")).is_star() && of("*").union(&of("foo")).is_star());
    assert!(of("").union(&of("")).is_empty());
}

#[test]
fn rfc9111_4_1_star_never_matches() {
    let same = headers(&[("foo", "1")]);
    assert!(!Vary::of(&headers(&[("vary", "foo, *")])).matches(&same, &same, Normalise::rfc()));
}

#[test]
fn rfc9111_4_1_compared_values() {
    // one, two, equal byte for byte, equal with Normalise::rfc
    for (one, two, none, rfc) in [
        (&["1"][..], &["1"][..], true, true),
        (&["1"], &["2"], false, false),
        (&["1"], &[], false, false),
        (&[], &["1"], false, false),
        (&[], &[], true, true),
        (&[""], &[], false, false),
        (&["1, 2"], &["1", "2"], false, true),
        (&["1"], &["1", "2"], false, false),
        (&["2", "1"], &["1", "2"], false, false),
        (&["1,2"], &["1 ,\t2"], false, true),
        (&["1 2"], &["1  2"], false, false),
        (&["1,,2"], &["1,2"], false, false),
        (&["a"], &["A"], false, false),
        (&["\"1, 2\""], &["\"1,2\""], false, false),
        (&["\"1", "2\""], &["\"1,2\""], false, false),
        (&["\"1, 2"], &["\"1,2"], false, false),
    ] {
        assert_eq!(equal("foo", one, two, Normalise::none()), none, "{one:?} {two:?}");
        assert_eq!(equal("foo", one, two, Normalise::rfc()), rfc, "{one:?} {two:?}");
    }
    assert!(!equal("user-agent", &["a (b, c)"], &["a (b,c)"], Normalise::rfc()), "a comment is not a list");
}

#[test]
fn rfc9111_4_1_all_nominated_fields_must_match() {
    let vary = Vary::of(&headers(&[("vary", "Foo, Bar"), ("vary", "Baz")]));
    let stored = headers(&[("foo", "1"), ("bar", "abc"), ("baz", "7"), ("other", "2")]);
    for (new, want) in [
        (&[("foo", "1"), ("bar", "abc"), ("baz", "7"), ("other", "3")][..], true),
        (&[("baz", "7"), ("bar", "abc"), ("foo", "1")], true),
        (&[("foo", "2"), ("bar", "abc"), ("baz", "7")], false),
        (&[("foo", "1"), ("bar", "abc4"), ("baz", "7")], false),
        (&[("foo", "1"), ("bar", "abc"), ("baz", "8")], false),
        (&[("foo", "1"), ("bar", "abc")], false),
        (&[("foo", "1"), ("baz", "abc"), ("bar", "7")], false),
    ] {
        assert_eq!(vary.matches(&stored, &headers(new), Normalise::rfc()), want, "{new:?}");
    }
}

#[test]
fn rfc9110_12_5_3_and_12_5_4_weights() {
    use Weights::{Ordered, Unordered, Verbatim};
    for (one, two, verbatim, ordered, unordered) in [
        ("en, de", "en, de", true, true, true),
        ("en, de", "eN,  De", false, true, true),
        ("en, de", "de, en", false, false, true),
        ("en, de;q=0.5", "de;q=0.5, en", false, true, true),
        ("en, de;q=0.5", "en;q=1.000 , de ; Q=0.50", false, true, true),
        ("en, de;q=0.5", "en;q=1.000 , de; q=0.50", false, true, true),
        ("en;q=0", "en;q=0.000", false, true, true),
        ("en;q=0", "en", false, false, false),
        ("en, de", "en", false, false, false),
        ("en", "en, en", false, false, false),
        ("en;q=2", "en", false, false, false),
        ("en;q=1.001", "en", false, false, false),
        ("en;q=0.1234", "en;q=0.123", false, false, false),
        (";q=1", " ;q=1.0", false, false, false),
        ("en;x=1", "en", false, false, false),
        ("", "*", false, false, false),
    ] {
        for (weights, want) in [(Verbatim, verbatim), (Ordered, ordered), (Unordered, unordered)] {
            let normalise = Normalise { accept_language: weights, ..Normalise::none() };
            assert_eq!(equal("accept-language", &[one], &[two], normalise), want, "{one} | {two} | {weights:?}");
            assert_eq!(equal("foo", &[one], &[two], normalise), one == two, "other fields are not normalised");
        }
    }
    let normalise = Normalise { accept_encoding: Ordered, ..Normalise::none() };
    assert!(equal("accept-encoding", &["X-Gzip, br"], &["gzip", "br"], normalise));
    assert!(!equal("accept-encoding", &["gzip, br"], &["br, gzip"], normalise));
}

#[test]
fn rfc9110_12_5_4_selected_language() {
    let vary = Vary::of(&headers(&[("vary", "accept-language, foo")]));
    let asked = headers(&[("accept-language", "en, de"), ("foo", "1")]);
    for (language, new, want) in [
        ("de", "fr;q=0.5, de;q=1.0", true),
        ("DE", "de", true),
        ("de", "en, de", true), // equal to the stored request
        ("de", "de, en", false),
        ("de", "de;q=0.5, en;q=0.5", false),
        ("de", "de;q=0.4, en;q=0.5", false),
        ("de", "de;q=0", false),
        ("de", "de-CH", false),
        ("de", "*", false),
        ("de", "", false),
        ("de, en", "de", false),
        ("", "de", false),
    ] {
        let response = headers(&[("content-language", language)]);
        let request = |foo| headers(&[("accept-language", new), ("foo", foo)]);
        let select = Normalise { select_language: true, ..Normalise::rfc() };
        assert_eq!(vary.fits(&asked, &response, &request("1"), select), want, "{language} {new}");
        // Keys give the same result: the key of the request, or the key of the language.
        let mut keys = [const { Vec::new() }; 4];
        let [own, selected, sought, preferred] = &mut keys;
        vary.write(&asked, select, own);
        vary.write(&request("1"), select, sought);
        content_language(&response).inspect(|language| vary.write_selected(&asked, language, select, selected));
        preferred_language(&request("1")).inspect(|language| vary.write_selected(&request("1"), language, select, preferred));
        assert_eq!(own == sought || !preferred.is_empty() && selected == preferred, want, "{language} {new}");
        assert!(!vary.fits(&asked, &response, &request("2"), select), "the other fields must match");
        assert_eq!(vary.fits(&asked, &response, &request("1"), Normalise::rfc()), new == "en, de", "disabled by default");
    }
}

/// Generates lines of the syntactically relevant bytes.
fn lines() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[ab,; =q01.\"*]{0,6}", 0..3)
        .prop_map(|lines| lines.into_iter().map(|line| line.trim().to_owned()).collect())
}

/// Applies RFC 9111 §4.1 naively: joins the lines and removes whitespace around commas.
fn naive(lines: &[String]) -> Option<String> {
    (!lines.is_empty()).then(|| lines.join(",").split(',').map(str::trim).collect::<Vec<_>>().join(","))
}

fn request(lines: &[String]) -> HeaderMap {
    headers(&lines.iter().map(|line| ("foo", line.as_str())).collect::<Vec<_>>())
}

proptest! {
    #[test]
    fn only_equal_lines_match_without_normalisation(one in lines(), two in lines()) {
        let vary = Vary::of(&headers(&[("vary", "foo")]));
        prop_assert_eq!(vary.matches(&request(&one), &request(&two), Normalise::none()), one == two);
    }

    #[test]
    fn lists_merge_only_equal_lists(one in lines(), two in lines()) {
        let vary = Vary::of(&headers(&[("vary", "foo")]));
        let merged = vary.matches(&request(&one), &request(&two), Normalise::rfc());
        prop_assert!(!merged || naive(&one) == naive(&two));
        let quotes = one.iter().chain(&two).any(|line| line.contains('"'));
        prop_assert!(merged || quotes || naive(&one) != naive(&two));
    }

    #[test]
    fn different_fields_write_different_keys(
        a in lines(), b in lines(), c in lines(), d in lines(), lists: bool,
    ) {
        let vary = Vary::of(&headers(&[("vary", "foo, bar")]));
        let normalise = Normalise { lists, ..Normalise::none() };
        let key = |foo: &[String], bar: &[String]| {
            let all = foo.iter().map(|line| ("foo", line.as_str())).chain(bar.iter().map(|line| ("bar", line.as_str())));
            let mut key = Vec::new();
            vary.write(&headers(&all.collect::<Vec<_>>()), normalise, &mut key);
            key
        };
        let differ = naive(&a) != naive(&c) || naive(&b) != naive(&d);
        prop_assert!(!differ || key(&a, &b) != key(&c, &d));
    }

    #[test]
    fn weights_merge_only_equal_preferences(one in lines(), two in lines()) {
        let set = |lines: &[String]| -> Option<Vec<(Vec<u8>, u16)>> {
            let mut all = preferences(lines.iter().flat_map(|line| list::elements(line.as_bytes())), Weights::Ordered)?
                .into_iter().map(|p| (p.name, p.thousandths)).collect::<Vec<_>>();
            all.sort();
            Some(all)
        };
        let vary = Vary::of(&headers(&[("vary", "accept-language")]));
        let request = |lines: &[String]| headers(&lines.iter().map(|line| ("accept-language", line.as_str())).collect::<Vec<_>>());
        let normalise = Normalise { accept_language: Weights::Unordered, ..Normalise::none() };
        if vary.matches(&request(&one), &request(&two), normalise) {
            prop_assert!(one == two || set(&one).is_some() && set(&one) == set(&two));
        }
    }

    #[test]
    fn field_is_written_the_same_after_any_others(
        all in prop::collection::vec((0..3_usize, lines(), any::<bool>(), any::<bool>()), 1..40),
    ) {
        let names = [ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE];
        for (name, lines, lists, is_weighted) in all {
            let name = &names[name];
            let weights = if is_weighted { Weights::Ordered } else { Weights::Verbatim };
            let normalise = Normalise { lists, accept_encoding: weights, accept_language: weights, ..Normalise::none() };
            let request = headers(&lines.iter().map(|line| (name.as_str(), line.as_str())).collect::<Vec<_>>());
            let (mut first, mut second, mut anew) = (Vec::new(), b"before".to_vec(), Vec::new());
            write_field(name, &request, normalise, &mut first);
            write_field(name, &request, normalise, &mut second);
            write_lines(name, &request, normalise, &mut anew);
            prop_assert_eq!(&first, &anew);
            prop_assert_eq!(&second[6..], &anew);
        }
    }
}
