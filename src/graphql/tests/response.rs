use super::*;

#[test]
fn responses_have_data_or_errors() {
    for (content, want) in [
        (r#"{"data":{"a":1}}"#, Some((true, false))),
        (r#" {"data":null} "#, Some((true, false))),
        (r#"{"data":{},"errors":null}"#, Some((true, false))),
        (r#"{"errors":[ ],"data":{}}"#, Some((true, false))),
        (r#"{"data":null,"errors":[{"message":"a"}]}"#, Some((true, true))),
        (r#"{"errors":[{}],"extensions":{}}"#, Some((false, true))),
        (r#"{"d\u0061ta":1}"#, Some((true, false))),
        (r#"{"data":{"errors":[1]}}"#, Some((true, false))),
        (r#"{"errors":[]}"#, None),
        ("{}", None),
        ("", None),
        ("null", None),
        (r#"[{"data":1}]"#, None),
        (r#"[1, [2]]"#, None),
        (r#"{"data":1,"data":2}"#, None),
        (r#"{"data":1,"errors":[1],"errors":[]}"#, None),
        (r#"{"data":1,"errors":"a"}"#, None),
        (r#"{"data":1"#, None),
        (r#"{"data":1} trailing"#, None),
        ("--boundary\r\n\r\n{\"data\":1}", None),
    ] {
        let read = Response::read(content.as_bytes());
        assert_eq!(read.map(|response| (response.has_data(), response.has_errors())), want, "{content}");
    }
    assert!(Response::read(b"{\"data\":\"\xff\"}").is_none());
}

#[test]
fn objects_are_found_at_every_depth() {
    let content =
        br#"{"data":{"__typename":"Query","notes":[{"__typename":"Note","id":"7","author":{"id":8,"__typename":"User"}},
        {"__typename":"Note","id":"7"},{"__typename":"Note","id":1.5},{"id":"9"},{"__typename":7,"id":"9"}]}}"#;
    let names = Response::read(content).and_then(|response| response.objects()).expect("objects").named;
    let pairs: Vec<_> = names.iter().map(|name| (name.typename.as_str(), name.id.as_deref())).collect();
    assert_eq!(pairs, [("Note", None), ("Note", Some("7")), ("User", Some("8"))]);
}

#[test]
fn deep_data_have_no_readable_objects() {
    let deep = format!(r#"{{"data":{}1{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    assert!(Response::read(deep.as_bytes()).is_none_or(|response| response.objects().is_none()));
}

#[test]
fn content_types_of_responses() {
    for (kind, want) in [
        ("application/json", true),
        ("application/graphql-response+json; charset=utf-8", true),
        ("Application/Json", true),
        ("multipart/mixed; boundary=\"-\"", false),
        ("text/event-stream", false),
        ("application/problem+json", false),
    ] {
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, http::HeaderValue::from_static(kind))]);
        assert_eq!(has_response_type(&headers), want, "{kind}");
    }
    assert!(!has_response_type(&HeaderMap::new()));
}
