use super::super::testing::headers;
use super::*;
use http::uri::PathAndQuery;

fn safe(status: u16, response: &[(&str, &str)]) -> Result<(), NoStore> {
    let response = headers(response);
    safe_to_store(StatusCode::from_u16(status).unwrap(), &response, &CacheControl::of(&response))
}

fn shared(
    method: &str,
    request: &[(&str, &str)],
    status: u16,
    response: &[(&str, &str)],
    rules: SharedRules,
) -> Result<(), NoStore> {
    let (request, response) = (headers(request), headers(response));
    let method = method.parse().unwrap();
    let status = StatusCode::from_u16(status).unwrap();
    let exchange = Exchange { method: &method, request: &request, status, response: &response };
    shared_storable(&exchange, &CacheControl::of(&response), rules)
}

const CC: &str = "cache-control";
const FRESH: (&str, &str) = (CC, "max-age=60");

#[test]
fn safe_to_store_for_every_rule() {
    for (case, status, response, want) in [
        ("a plain 200", 200, &[][..], Ok(())),
        ("any other final status", 503, &[], Ok(())),
        ("public does not permit a cookie", 200, &[(CC, "public"), ("set-cookie", "a=b")], Err(NoStore::SetCookie)),
        ("an excluded cookie", 200, &[(CC, "private=\"set-cookie\""), ("set-cookie", "a=b")], Ok(())),
        ("another excluded field", 200, &[(CC, "private=\"x\""), ("set-cookie", "a=b")], Err(NoStore::SetCookie)),
        ("no-store", 200, &[(CC, "No-Store")], Err(NoStore::NoStoreDirective)),
        ("no-store on a second line", 200, &[FRESH, (CC, "no-store")], Err(NoStore::NoStoreDirective)),
        ("private", 200, &[(CC, "max-age=60, PRIVATE")], Err(NoStore::Private)),
        ("no-cache", 200, &[(CC, "no-cache")], Err(NoStore::NoCache)),
        ("no-cache for a field", 200, &[(CC, "no-cache=\"x\"")], Ok(())),
        ("vary star", 200, &[("vary", "foo"), ("vary", ", *")], Err(NoStore::VaryStar)),
        ("vary", 200, &[("vary", "foo")], Ok(())),
        ("206", 206, &[], Err(NoStore::Partial)),
        ("content-range on a 200", 200, &[("content-range", "bytes 0-1/2")], Err(NoStore::Partial)),
        ("304", 304, &[], Err(NoStore::Status)),
        ("103", 103, &[], Err(NoStore::Status)),
    ] {
        assert_eq!(safe(status, response), want, "{case}");
    }
}

#[test]
fn rfc9111_3_methods_and_statuses() {
    let none = SharedRules::default();
    for (method, want) in [
        ("GET", Ok(())),
        ("QUERY", Ok(())),
        ("HEAD", Err(NoStore::Method)),
        ("POST", Err(NoStore::Method)),
        ("get", Err(NoStore::Method)),
    ] {
        assert_eq!(shared(method, &[], 200, &[FRESH], none), want, "{method}");
    }
    for status in [200, 203, 204, 299, 301, 302, 303, 307, 308, 400, 404, 410, 499, 500, 502, 503, 504, 599] {
        assert_eq!(shared("GET", &[], status, &[FRESH], none), Ok(()), "explicit freshness, {status}");
    }
    for (status, want) in [(103, NoStore::Status), (304, NoStore::Status), (206, NoStore::Partial)] {
        assert_eq!(shared("GET", &[], status, &[FRESH], none), Err(want), "{status}");
    }
    let parts = SharedRules { store_partial: true, ..none };
    assert_eq!(shared("GET", &[], 206, &[FRESH], parts), Ok(()));
}

#[test]
fn rfc9111_3_storing_needs_a_permission() {
    let none = SharedRules::default();
    let silent = SharedRules { has_default_lifetime: true, ..none };
    for (status, response, want, want_silent) in [
        (200, &[][..], Err(NoStore::NothingToReuse), Ok(())),
        (200, &[("etag", "\"a\"")], Ok(()), Ok(())),
        (200, &[("last-modified", "x")], Ok(()), Ok(())),
        (200, &[("expires", "0")], Ok(()), Ok(())),
        (200, &[(CC, "max-age=0")], Ok(()), Ok(())),
        (200, &[(CC, "s-maxage=0")], Ok(()), Ok(())),
        (200, &[(CC, "public")], Err(NoStore::NothingToReuse), Ok(())),
        (201, &[("etag", "\"a\"")], Err(NoStore::NotAllowed), Err(NoStore::NotAllowed)),
        (403, &[], Err(NoStore::NotAllowed), Err(NoStore::NotAllowed)),
        (502, &[("last-modified", "x")], Err(NoStore::NotAllowed), Err(NoStore::NotAllowed)),
        (599, &[("last-modified", "x")], Err(NoStore::NotAllowed), Err(NoStore::NotAllowed)),
        (599, &[("last-modified", "x"), (CC, "public")], Ok(()), Ok(())),
        (404, &[], Err(NoStore::NothingToReuse), Ok(())),
    ] {
        assert_eq!(shared("GET", &[], status, response, none), want, "{status} {response:?}");
        assert_eq!(shared("GET", &[], status, response, silent), want_silent, "{status} {response:?}");
    }
}

#[test]
fn rfc9111_5_2_directives() {
    let none = SharedRules::default();
    for (section, request, status, cc, want) in [
        ("5.2.1.5", &[(CC, "no-store")][..], 200, "max-age=60", Err(NoStore::RequestNoStore)),
        ("5.2.2.5", &[], 200, "max-age=60, no-store", Err(NoStore::NoStoreDirective)),
        ("5.2.2.7", &[], 200, "max-age=60, private", Err(NoStore::Private)),
        ("5.2.2.7", &[], 200, "max-age=60, private=\"x\"", Ok(())),
        ("5.2.2.4", &[], 200, "max-age=60, no-cache", Err(NoStore::NoCache)),
        ("5.2.2.4", &[], 200, "max-age=60, no-cache=\"x\"", Ok(())),
        ("5.2.2.3", &[], 200, "max-age=60, no-store, must-understand", Ok(())),
        ("5.2.2.3", &[], 299, "max-age=60, no-store, must-understand", Err(NoStore::Status)),
        ("5.2.2.3", &[], 599, "max-age=60, must-understand", Err(NoStore::Status)),
        ("5.2.2.3", &[], 200, "max-age=60, private, no-store, must-understand", Err(NoStore::Private)),
    ] {
        assert_eq!(shared("GET", request, status, &[(CC, cc)], none), want, "{section} {cc}");
    }
    assert_eq!(shared("GET", &[], 200, &[(CC, "no-cache"), ("etag", "\"a\"")], none), Ok(()), "stored for validation");
}

#[test]
fn rfc9111_3_5_authorization() {
    let none = SharedRules::default();
    for (cc, want) in [
        ("max-age=60", Err(NoStore::Authorization)),
        ("max-age=60, proxy-revalidate", Err(NoStore::Authorization)),
        ("max-age=60, public", Ok(())),
        ("max-age=60, must-revalidate", Ok(())),
        ("s-maxage=60", Ok(())),
        ("s-maxage=60, private", Err(NoStore::Private)),
    ] {
        let request = [("authorization", "Bearer x")];
        assert_eq!(shared("GET", &request, 200, &[(CC, cc)], none), want, "{cc}");
    }
    let rules = SharedRules { identity_in_key: true, ..none };
    assert_eq!(shared("GET", &[("authorization", "Bearer x")], 200, &[FRESH], rules), Ok(()));
}

#[test]
fn rfc9111_7_3_cookies() {
    let none = SharedRules::default();
    let response = [FRESH, ("set-cookie", "a=b")];
    assert_eq!(shared("GET", &[], 200, &response, none), Err(NoStore::SetCookie));
    assert_eq!(shared("GET", &[], 200, &response, SharedRules { store_set_cookie: true, ..none }), Ok(()));
}

#[test]
fn statuses_that_depend_on_the_request_are_not_stored() {
    for status in [100, 103, 304, 407, 412, 416, 428, 429, 431, 511] {
        let response = [(CC, "public, max-age=60")];
        assert_eq!(safe(status, &response), Err(NoStore::Status), "{status}");
        let rules = SharedRules { store_partial: true, has_default_lifetime: true, ..SharedRules::default() };
        assert_eq!(shared("GET", &[], status, &response, rules), Err(NoStore::Status), "{status}");
    }
}

#[test]
fn rfc9110_14_4_content_range_is_ignored_on_a_200() {
    let response = [FRESH, ("content-range", "bytes 0-1/2")];
    assert_eq!(shared("GET", &[], 200, &response, SharedRules::default()), Ok(()));
    assert_eq!(shared("GET", &[], 206, &response, SharedRules::default()), Err(NoStore::Partial));
}

#[test]
fn rfc9110_9_3_3_post_response_for_later_gets() {
    let (path, authority) = (PathAndQuery::from_static("/a?b"), "example.com".parse().unwrap());
    let target = Target { scheme: None, authority: Some(&authority), path_and_query: &path };
    for (response, want) in [
        (&[FRESH, ("content-location", "/a?b")][..], true),
        (&[FRESH, ("content-location", "http://example.com/a?b")], true),
        (&[("expires", "0"), ("content-location", "?b")], true),
        (&[FRESH, ("content-location", "/a")], false),
        (&[FRESH, ("content-location", "http://example.org/a?b")], false),
        (&[FRESH, ("content-location", "/a?b"), ("content-location", "/a?b")], false),
        (&[("content-location", "/a?b")], false),
        (&[FRESH], false),
    ] {
        let response = headers(response);
        assert_eq!(post_answers_get(target, &response, &CacheControl::of(&response)), want, "{response:?}");
    }
}

#[test]
fn rfc9111_3_1_fields_not_stored() {
    let mut response = headers(&[
        ("connection", "close, A"),
        ("connection", "b"),
        ("a", "1"),
        ("b", "2"),
        ("c", "3"),
        ("keep-alive", "x"),
        ("proxy-authenticate", "x"),
        ("proxy-authentication-info", "x"),
        ("proxy-authorization", "x"),
        ("proxy-connection", "x"),
        ("te", "x"),
        ("transfer-encoding", "x"),
        ("upgrade", "x"),
        ("d", "4"),
        ("e", "5"),
        (CC, "private=\"d\", no-cache=\"e, cache-control\", max-age=60"),
        ("etag", "\"x\""),
    ]);
    let cc = CacheControl::of(&response);
    strip_for_storing(&mut response, &cc);
    let mut left: Vec<_> = response.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["c", CC, "etag"]);
}
