use proptest::prelude::*;

use super::super::testing::headers;
use super::*;

const TARGETS: [HeaderName; 2] = [HeaderName::from_static("my-cache-control"), HeaderName::from_static("cdn-cache-control")];

fn s(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

fn read(value: &str) -> CacheControl {
    response_directives(&headers(&[("cdn-cache-control", value), ("cache-control", "max-age=1")]), &TARGETS)
}

#[test]
fn rfc9213_2_2_first_valid_nonempty_field_applies() {
    for (case, response, max_age, targeted) in [
        ("none", &[("cache-control", "max-age=1")][..], s(1), false),
        ("one field", &[("cache-control", "max-age=1"), ("cdn-cache-control", "max-age=2")], s(2), true),
        ("the first field", &[("my-cache-control", "max-age=3"), ("cdn-cache-control", "max-age=2")], s(3), true),
        ("an empty field", &[("my-cache-control", ""), ("cdn-cache-control", "max-age=2")], s(2), true),
        ("a malformed field", &[("my-cache-control", "max-age=3,"), ("cdn-cache-control", "max-age=2")], s(2), true),
        ("all malformed", &[("cdn-cache-control", "max-age=10000, &&&&&"), ("cache-control", "max-age=1")], s(1), false),
        ("keys are lower case", &[("cdn-cache-control", "Max-Age=2"), ("cache-control", "max-age=1")], s(1), false),
        ("space before =", &[("cdn-cache-control", "max-age =2"), ("cache-control", "max-age=1")], s(1), false),
        ("space after =", &[("cdn-cache-control", "max-age= 2"), ("cache-control", "max-age=1")], s(1), false),
        ("no known directive", &[("cdn-cache-control", "none"), ("cache-control", "max-age=1")], None, true),
        ("not configured", &[("other-cache-control", "max-age=2"), ("cache-control", "max-age=1")], s(1), false),
        ("two lines", &[("cdn-cache-control", "foo"), ("cdn-cache-control", "max-age=2")], s(2), true),
        ("repeated directive: the last", &[("cdn-cache-control", "max-age=1, max-age=2")], s(2), true),
    ] {
        let cc = response_directives(&headers(response), &TARGETS);
        assert_eq!((cc.max_age, cc.targeted), (max_age, targeted), "{case}");
    }
    assert!(!response_directives(&headers(&[("cdn-cache-control", "no-store")]), &[]).no_store, "ignored unless configured");
}

#[test]
fn rfc9213_2_1_values_by_type() {
    for (value, want) in [
        ("max-age=60", s(60)),
        ("max-age=60;x=1", s(60)),
        ("max-age=0", s(0)),
        ("max-age=2147483648", s(1 << 31)),
        ("max-age=99999999999", s(1 << 31)),
        ("max-age=-5", s(0)),
        ("max-age=60.0", s(0)),
        ("max-age=\"60\"", s(0)),
        ("max-age", s(0)),
        ("max-age=(60)", s(0)),
        ("max-age=@60", s(0)),
    ] {
        assert_eq!(read(value).max_age, want, "{value}");
    }
    let field = |name: &str| Some(Scope::Fields(vec![name.parse().unwrap()]));
    for (value, want) in [
        ("private", Some(Scope::Whole)),
        ("private=?1", Some(Scope::Whole)),
        ("private=?0", None),
        ("private=\"x-a\"", field("x-a")),
        ("private=x-a", field("x-a")),
        ("private=1", Some(Scope::Whole)),
        ("private=(\"x-a\")", Some(Scope::Whole)),
        ("private=\"\"", Some(Scope::Whole)),
        ("foo", None),
    ] {
        assert_eq!(read(value).private, want, "{value}");
        assert_eq!(read(&value.replace("private", "no-cache")).no_cache, want, "{value}");
    }
    for (value, restricts, permits) in
        [("X", true, true), ("X=?1", true, true), ("X=?0", false, false), ("X=1", true, false), ("X=()", true, false)]
    {
        let of = |name: &str| read(&value.replace('X', name));
        assert_eq!(of("no-store").no_store, restricts, "{value}");
        assert_eq!(of("must-revalidate").must_revalidate, restricts, "{value}");
        assert_eq!(of("proxy-revalidate").proxy_revalidate, restricts, "{value}");
        assert_eq!(of("no-transform").no_transform, restricts, "{value}");
        assert_eq!(of("public").public, permits, "{value}");
        assert_eq!(of("must-understand").must_understand, permits, "{value}");
        assert_eq!(of("immutable").immutable, permits, "{value}");
    }
    let all = read("s-maxage=1, stale-while-revalidate=2, stale-if-error=3");
    assert_eq!((all.s_maxage, all.stale_while_revalidate, all.stale_if_error), (s(1), s(2), s(3)));
}

proptest! {
    #[test]
    fn parsing_never_panics(value in "[ -~]{0,40}") {
        let _ = read(&value);
    }

    #[test]
    fn printed_directives_mean_the_same_as_targeted(
        no_store: bool, public: bool, private: bool, max_age in prop::option::of(0_u64..=1 << 31),
    ) {
        let cc = CacheControl {
            no_store, public, private: private.then_some(Scope::Whole), max_age: max_age.map(Duration::from_secs), ..CacheControl::default()
        };
        prop_assume!(cc != CacheControl::default());
        prop_assert_eq!(read(&cc.to_string()), CacheControl { targeted: true, ..cc });
    }
}
