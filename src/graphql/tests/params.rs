use super::*;

const HASH: &str = "ecf4edb46db40b5132295c0291d62fb65d6759a9eedfa4d5d612dd5ec54a6b38";

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn json_has_four_members() {
    let read = |text: &str| Params::of_json(text.as_bytes());
    let all = r#" {"query": "{ a }", "operationName": "A", "variables": {"b": 1}, "extensions": {"d": [2], "c": 1}} "#;
    let want = Params {
        query: some("{ a }"),
        operation_name: some("A"),
        variables: some(r#"{"b": 1}"#),
        extensions: vec![("c".into(), "1".into()), ("d".into(), "[2]".into())],
        persisted: None,
    };
    assert_eq!(read(all), Ok(want));
    assert_eq!(read(r#"{"query":"{\u0061}","variables":null}"#).map(|params| params.query), Ok(some("{a}")));
    let null = r#"{"query":null,"operationName":null,"variables":null,"extensions":null}"#;
    assert_eq!((read(null), read("{}")), (Ok(Params::default()), Ok(Params::default())));
}

#[test]
fn other_json_is_no_request() {
    for text in [
        "",
        "null",
        r#""{ a }""#,
        r#"[{"query":"{ a }"}]"#,
        r#"["{ a }", null, null, null]"#,
        r#"{"query":"{ a }","query":"{ b }"}"#,
        r#"{"query":"{ a }","qu\u0065ry":"{ b }"}"#,
        r#"{"query":"{ a }","id":"7"}"#,
        r#"{"query":7}"#,
        r#"{"query":"{ a }","variables":[]}"#,
        r#"{"query":"{ a }","variables":"{}"}"#,
        r#"{"query":"{ a }","extensions":1}"#,
        r#"{"query":"{ a }","extensions":{"a":1,"a":2}}"#,
        r#"{"query":"{ a }","variables":{"a":1,"a":2}}"#,
        r#"{"query":"{ a }","operationName":{}}"#,
        r#"{"query":"{ a }"} {}"#,
        r#"{"query":"{ a }""#,
    ] {
        assert_eq!(Params::of_json(text.as_bytes()), Err(NotARequest), "{text}");
    }
    assert_eq!(Params::of_json(b"{\"query\":\"\xff\"}"), Err(NotARequest));
    let deep = format!("{{\"variables\":{}", "{\"a\":".repeat(100_000));
    assert_eq!(Params::of_json(deep.as_bytes()), Err(NotARequest));
}

#[test]
fn query_and_json_state_the_same_request() {
    let query = "query=%7B+a%20%7D&operationName=A&other=1&variables=%7B%22b%22:1%7D&extensions={%22c%22:2}";
    let json = r#"{"query":"{ a }","operationName":"A","variables":{"b":1},"extensions":{"c":2}}"#;
    assert_eq!(Params::of_query(query), Params::of_json(json.as_bytes()));
    assert_eq!(without_params(query), "other=1");
    let of_query = Params::json_of_query(query).expect("a request");
    assert_eq!(Params::of_json(&of_query), Params::of_json(json.as_bytes()));
    assert_eq!(Params::of_query("variables=null&query={a}"), Params::of_json(br#"{"query":"{a}"}"#));
}

#[test]
fn ambiguous_queries_are_no_requests() {
    for query in [
        "query={a}&query={b}",
        "query={a}&%71uery={b}",
        "query={a}&query[]={b}",
        "query={a}&variables[]={}",
        "query={a}&variables%5B%5D={}",
        "query={a}&operationName[a]=b",
        "query={a};variables={}",
        "query=%ff",
        "query={a}&variables=",
        "query={a}&variables=[]",
        "query={a}&extensions=1",
    ] {
        assert_eq!(Params::of_query(query), Err(NotARequest), "{query}");
        assert!(has_params(query), "{query}");
    }
    for query in ["", "a=1", "Query=1", "querys=1", "a=query"] {
        assert_eq!(Params::of_query(query), Ok(Params::default()), "{query}");
        assert!(!has_params(query), "{query}");
        assert_eq!(without_params(query), query);
    }
}

#[test]
fn persisted_hash_is_taken_out_of_the_extensions() {
    let read = |extensions: &str| Params::of_json(format!(r#"{{"extensions":{extensions}}}"#).as_bytes());
    let of = |version: &str, hash: &str| {
        read(&format!(r#"{{"a":1,"persistedQuery":{{"version":{version},"sha256Hash":"{hash}"}}}}"#))
    };
    let params = of("1", HASH).expect("a request");
    assert_eq!(params.persisted.map(|hash| (hash[0], hash[31])), Some((0xec, 0x38)));
    assert_eq!(params.extensions, [("a".to_owned(), "1".to_owned())]);
    assert_eq!(read(r#"{"persistedQuery":null}"#), Ok(Params::default()));
    for (version, hash) in [("2", HASH), ("1", &HASH[1..]), ("1", &HASH.to_uppercase()), ("\"1\"", HASH), ("1", "")] {
        assert_eq!(of(version, hash), Err(NotARequest), "{version} {hash}");
    }
    for extension in [r#""a""#, "{}", r#"{"version":1}"#] {
        assert_eq!(read(&format!(r#"{{"persistedQuery":{extension}}}"#)), Err(NotARequest), "{extension}");
    }
    let other = format!(r#"{{"persistedQuery":{{"version":1,"sha256Hash":"{HASH}","other":1}}}}"#);
    assert_eq!(read(&other), Err(NotARequest));
}

#[test]
fn content_is_json_in_utf8() {
    for (kind, want) in [
        ("application/json", true),
        ("Application/JSON; charset=UTF-8", true),
        ("application/json; charset=\"utf-8\"", true),
        ("application/json;", true),
        ("application/json; charset=utf-16", false),
        ("application/json; profile=a", false),
        ("application/graphql", false),
        ("application/graphql-response+json", false),
        ("text/plain", false),
    ] {
        let mut headers = HeaderMap::from_iter([(header::CONTENT_TYPE, http::HeaderValue::from_static(kind))]);
        assert_eq!(is_json(&headers), want, "{kind}");
        headers.insert(header::CONTENT_ENCODING, http::HeaderValue::from_static("gzip"));
        assert!(!is_json(&headers));
    }
    assert!(!is_json(&HeaderMap::new()));
}
