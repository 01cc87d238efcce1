use proptest::prelude::*;

use super::super::testing::headers;
use super::*;

fn at<'a>(scheme: Option<&'a Scheme>, authority: Option<&'a Authority>, path: &'a PathAndQuery) -> Target<'a> {
    Target { scheme, authority, path_and_query: path }
}

#[test]
fn rfc9111_4_4_methods_and_statuses() {
    let path = PathAndQuery::from_static("/a?b");
    for (method, status, want) in [
        ("POST", 200, true),
        ("PUT", 204, true),
        ("DELETE", 200, true),
        ("PATCH", 302, true),
        ("M-SEARCH", 200, true),
        ("post", 201, true),
        ("WHATEVER", 200, true),
        ("POST", 304, true),
        ("POST", 400, false),
        ("PUT", 404, false),
        ("DELETE", 500, false),
        ("M-SEARCH", 503, false),
        ("GET", 200, false),
        ("HEAD", 200, false),
        ("OPTIONS", 200, false),
        ("TRACE", 200, false),
        ("QUERY", 200, false),
        ("PROPFIND", 207, false),
    ] {
        let got = invalidated(
            &method.parse().unwrap(),
            at(None, None, &path),
            StatusCode::from_u16(status).unwrap(),
            &HeaderMap::new(),
        );
        assert_eq!(got.len(), usize::from(want), "{method} {status}");
        assert!(got.iter().all(|got| *got == path));
    }
}

#[test]
fn rfc9111_4_4_locations_of_the_same_origin() {
    let (path, authority) = (PathAndQuery::from_static("/a/b?c"), "Example.com".parse().unwrap());
    for (scheme, reference, want) in [
        (Some(Scheme::HTTP), "http://example.com/x", Some("/x")),
        (Some(Scheme::HTTP), "http://EXAMPLE.com:80/x?y#z", Some("/x?y")),
        (Some(Scheme::HTTP), "HTTP://example.com/x", Some("/x")),
        (Some(Scheme::HTTP), "http://example.com", Some("/")),
        (Some(Scheme::HTTP), "https://example.com/x", None),
        (Some(Scheme::HTTP), "http://example.com:8080/x", None),
        (Some(Scheme::HTTP), "http://example.org/x", None),
        (Some(Scheme::HTTP), "http://example.com.evil/x", None),
        (Some(Scheme::HTTP), "http://sub.example.com/x", None),
        (Some(Scheme::HTTPS), "https://example.com:443/x", Some("/x")),
        (Some(Scheme::HTTPS), "https://example.com:80/x", None),
        (None, "http://example.com/x", Some("/x")),
        (None, "https://example.com/x", Some("/x")),
        (None, "https://example.com:444/x", None),
        (None, "//example.com/x", Some("/x")),
        (None, "//example.com?q", Some("/?q")),
        (None, "//example.org/x", None),
        (None, "/x", Some("/x")),
        (None, "/x/../y/./z", Some("/y/z")),
        (None, "x", Some("/a/x")),
        (None, "./x/.", Some("/a/x/")),
        (None, "../x", Some("/x")),
        (None, "../../../x", Some("/x")),
        (None, "..", Some("/")),
        (None, "?q", Some("/a/b?q")),
        (None, "x?q#f", Some("/a/x?q")),
        (None, "./1:2", Some("/a/1:2")),
        (None, "1:2", Some("/a/1:2")),
        (None, "x_y:z", Some("/a/x_y:z")),
        (None, "mailto:x", None),
        (None, "data:,x", None),
        (None, "http:", None),
        (None, "a b", None),
    ] {
        for name in ["location", "content-location"] {
            let got = invalidated(
                &Method::POST,
                at(scheme.as_ref(), Some(&authority), &path),
                StatusCode::OK,
                &headers(&[(name, reference)]),
            );
            let got: Vec<_> = got.iter().skip(1).map(PathAndQuery::as_str).collect();
            assert_eq!(got, want.into_iter().collect::<Vec<_>>(), "{scheme:?} {reference}");
        }
    }
    let response = headers(&[("location", "http://example.com/x"), ("content-location", "/y")]);
    let got = invalidated(&Method::POST, at(None, None, &path), StatusCode::OK, &response);
    assert_eq!(got, ["/a/b?c", "/y"], "without an authority no absolute URI has the same origin");
    let got = invalidated(
        &Method::POST,
        at(None, None, &path),
        StatusCode::OK,
        &headers(&[("location", ""), ("content-location", "/a/b?c")]),
    );
    assert_eq!(got, ["/a/b?c"], "no duplicates");
}

proptest! {
    #[test]
    fn reference_never_panics_or_leaves_the_origin(reference in "[ -~]{0,30}") {
        let (path, authority) = (PathAndQuery::from_static("/a/b"), "example.com".parse().unwrap());
        let got = resolve_same_origin(at(None, Some(&authority), &path), &reference);
        prop_assert!(got.is_none_or(|got| got.path().starts_with('/') && !got.path().split('/').any(|segment| segment == "..")));
    }

    #[test]
    fn other_host_is_never_the_same_origin(host in "[a-z]{1,8}\\.[a-z]{2,4}", path in "[a-z/?.]{0,10}") {
        prop_assume!(host != "example.com");
        let (base, authority) = (PathAndQuery::from_static("/a/b"), "example.com".parse().unwrap());
        for reference in [format!("https://{host}/{path}"), format!("//{host}/{path}"), format!("http://{host}")] {
            prop_assert_eq!(resolve_same_origin(at(None, Some(&authority), &base), &reference), None);
        }
    }
}
