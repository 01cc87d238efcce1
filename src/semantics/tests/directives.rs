use proptest::prelude::*;

use super::*;

fn cc(lines: &[&str]) -> CacheControl {
    CacheControl::of_lines(lines.iter().map(|line| line.as_bytes()))
}

fn s(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

#[test]
fn rfc9111_4_2_1_max_age() {
    for (lines, want) in [
        (&["max-age=3600"][..], s(3600)),
        (&["MaX-aGe=3600"], s(3600)),
        (&["max-age=\"3600\""], s(3600)),
        (&["max-age=003600"], s(3600)),
        (&["foobar, max-age=3600"], s(3600)),
        (&["foo=\"a, b\", max-age=3600"], s(3600)),
        (&["extension=\"max-age=3600\", max-age=1"], s(1)),
        (&["max-age=1, extension=\"max-age=3600\""], s(1)),
        (&["extension=\"max-age=3600\", max-age=\"1\""], s(1)),
        (&["max-age=1800, max-age=1"], s(1800)),
        (&["max-age=1, max-age=1800"], s(1)),
        (&["max-age=1", "max-age=1800"], s(1)),
        (&["max-age=1800", "max-age=1"], s(1800)),
        (&["max-age=2147483647"], s(2_147_483_647)),
        (&["max-age=2147483648"], s(1 << 31)),
        (&["max-age=2147483649"], s(1 << 31)),
        (&["max-age=99999999999"], s(1 << 31)),
        (&["max-age=99999999999999999999999999"], s(1 << 31)),
        (&["max-age=-3600"], s(0)),
        (&["max-age='3600'"], s(0)),
        (&["max-age=3600.0"], s(0)),
        (&["max-age=3600.5"], s(0)),
        (&["max-age=a3600"], s(0)),
        (&["max-age=3600a"], s(0)),
        (&["max-age =3600"], s(0)),
        (&["max-age= 3600"], s(0)),
        (&["max-age=3600 foo"], s(0)),
        (&["max-age"], s(0)),
        (&["max-age="], s(0)),
        (&["max-age=\"36\\00\""], s(0)),
        (&["max-age=-1, max-age=60"], s(0)),
        (&["xmax-age=60", "max-agex=60", "s-max-age=60"], None),
        (&["a-directive-with-a-very-long-name-indeed=60"], None),
    ] {
        assert_eq!(cc(lines).max_age, want, "{lines:?}");
    }
}

#[test]
fn rfc9111_5_2_any_case_any_line_any_quoting() {
    for lines in [
        &["no-store"][..],
        &["No-StOrE"],
        &["max-age=60", "NO-STORE"],
        &["max-age=60,,, no-store ,"],
        &["\tno-store\t"],
        &["ext=\"a, b\", no-store"],
        &["ext=\"a\\\", b\", no-store"],
        &["ext=\"never closed, no-store"],
        &["no-store=1"],
        &["no-store "],
    ] {
        assert!(cc(lines).no_store, "{lines:?}");
    }
    for lines in [&["ext=\"no-store\""][..], &["ext=\"a, no-store\""], &["no-stor"], &["x no-store"], &[]] {
        assert!(!cc(lines).no_store, "{lines:?}");
    }
}

#[test]
fn rfc9111_5_2_2_private_and_no_cache_with_fields() {
    let fields = |names: &[&str]| Some(Scope::Fields(names.iter().map(|name| name.parse().unwrap()).collect()));
    for (line, want) in [
        ("X", Some(Scope::Whole)),
        ("X=\"\"", Some(Scope::Whole)),
        ("X=\" , \"", Some(Scope::Whole)),
        ("X=\"a b\"", Some(Scope::Whole)),
        ("X=\"a", Some(Scope::Whole)),
        ("X =\"a\"", fields(&["a"])),
        ("X=a", fields(&["a"])),
        ("X=\"Set-Cookie\"", fields(&["set-cookie"])),
        ("X=\"a, B\"", fields(&["a", "b"])),
        ("X=\"a\", X=\"b\"", fields(&["a", "b"])),
        ("X=\"a\", X", Some(Scope::Whole)),
        ("X, X=\"a\"", Some(Scope::Whole)),
        ("y=\"X\"", None),
    ] {
        assert_eq!(cc(&[&line.replace('X', "Private")]).private, want, "private: {line}");
        assert_eq!(cc(&[&line.replace('X', "no-CACHE")]).no_cache, want, "no-cache: {line}");
    }
}

#[test]
fn rfc9111_5_2_1_request_directives() {
    let read = cc(&["max-stale, min-fresh=10, only-if-cached, no-transform"]);
    assert_eq!(read.max_stale, Some(MaxStale::Any));
    assert_eq!(read.min_fresh, s(10));
    assert!(read.only_if_cached && read.no_transform);
    for (line, want) in [("max-stale=5", 5), ("max-stale=", 0), ("max-stale=x", 0), ("max-stale=5, max-stale", 5)] {
        assert_eq!(cc(&[line]).max_stale, Some(MaxStale::Within(Duration::from_secs(want))), "{line}");
    }
    assert_eq!(cc(&["min-fresh=-1"]).min_fresh, s(1 << 31), "an invalid number is read as the largest");
}

#[test]
fn rfc9111_5_4_pragma_applies_without_cache_control() {
    let mut headers = HeaderMap::new();
    assert_eq!(CacheControl::of_request(&headers).no_cache, None);
    headers.insert(PRAGMA, "x, No-Cache".parse().unwrap());
    assert_eq!(CacheControl::of_request(&headers).no_cache, Some(Scope::Whole));
    assert_eq!(CacheControl::of(&headers).no_cache, None);
    headers.insert(CACHE_CONTROL, "max-age=5".parse().unwrap());
    assert_eq!(CacheControl::of_request(&headers).no_cache, None);
}

fn scope() -> impl Strategy<Value = Option<Scope>> {
    let name = "[a-z][a-z0-9-]{0,9}".prop_map(|name| name.parse().unwrap());
    let fields = prop::collection::vec(name, 1..4).prop_map(Scope::Fields);
    prop::option::of(prop_oneof![Just(Scope::Whole), fields])
}

fn seconds() -> impl Strategy<Value = Option<Duration>> {
    prop::option::of((0_u64..=1 << 31).prop_map(Duration::from_secs))
}

prop_compose! {
    fn any_cc()(
        flags: [bool; 8], private in scope(), no_cache in scope(), max_age in seconds(), s_maxage in seconds(),
        stale_while_revalidate in seconds(), stale_if_error in seconds(), min_fresh in seconds(),
        max_stale in prop::option::of(prop::option::of(0_u64..=1 << 31)),
    ) -> CacheControl {
        let max_stale = max_stale.map(|by| by.map_or(MaxStale::Any, |by| MaxStale::Within(Duration::from_secs(by))));
        let [no_store, public, must_revalidate, proxy_revalidate, must_understand, no_transform, immutable, only_if_cached] = flags;
        CacheControl {
            no_store, private, no_cache, public, must_revalidate, proxy_revalidate, must_understand, no_transform,
            immutable, targeted: false, only_if_cached, max_age, s_maxage, stale_while_revalidate, stale_if_error, min_fresh, max_stale,
        }
    }
}

proptest! {
    #[test]
    fn printed_directives_parse_to_the_same_value(before in any_cc()) {
        prop_assert_eq!(cc(&[&before.to_string()]), before);
    }

    #[test]
    fn parsing_never_panics(lines: Vec<Vec<u8>>) {
        let _ = CacheControl::of_lines(lines.iter().map(|line| &line[..]));
    }

    #[test]
    fn parsing_almost_directives_never_panics(line in "([a-z\\-]{0,12}[=\"\\\\, ]{0,3}){0,12}") {
        let printed = cc(&[&line]).to_string();
        prop_assert_eq!(cc(&[&printed]).to_string(), printed);
    }

    #[test]
    fn other_lines_never_cancel_no_store(lines in prop::collection::vec("[a-z=\", ]{0,20}", 0..4), at in 0_usize..4) {
        let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        lines.insert(at.min(lines.len()), "no-store");
        prop_assert!(cc(&lines).no_store);
    }
}

#[test]
fn unrestrictive_line_has_no_restrictive_directive() {
    let lines = [
        "max-age=60",
        "public, max-age=31536000, immutable",
        "s-maxage=5",
        "no-transform",
        "must-revalidate",
        "No-Store",
        "NO-CACHE",
        "x, PriVate=\"a\"",
        "no-cache=\"set-cookie\"",
        "",
    ];
    let forbids = |line: &str| {
        let cc = CacheControl::of_line(line.as_bytes());
        cc.no_store || cc.no_cache.is_some() || cc.private.is_some()
    };
    for line in lines {
        assert!(may_restrict_storing(line.as_bytes()) || !forbids(line), "{line}");
    }
    assert!(
        ["max-age=60", "public, max-age=31536000, immutable", "s-maxage=5"]
            .iter()
            .all(|line| !may_restrict_storing(line.as_bytes()))
    );
}
