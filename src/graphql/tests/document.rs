use super::*;

fn kinds(text: &str) -> Result<Vec<(Option<String>, OperationKind)>, NotExecutable> {
    let named = |operation: &Operation| (operation.name.as_deref().map(str::to_owned), operation.kind);
    Ok(Document::parse(text)?.operations().iter().map(named).collect())
}

#[test]
fn operations_are_found_by_grammar() {
    use OperationKind::{Mutation, Query, Subscription};
    for (text, want) in [
        ("{ a }", vec![(None, Query)]),
        ("query { mutation }", vec![(None, Query)]),
        ("query mutation { a }", vec![(Some("mutation"), Query)]),
        ("mutation query { a }", vec![(Some("query"), Mutation)]),
        ("# query { a }\nmutation { a }", vec![(None, Mutation)]),
        ("query { a(text: \"mutation { b }\") }", vec![(None, Query)]),
        ("query { a(text: \"\"\"\nmutation { b }\n\"\"\") }", vec![(None, Query)]),
        ("\u{feff}subscription S { a }", vec![(Some("S"), Subscription)]),
        ("query A { ...F } fragment F on T { a } mutation B { b }", vec![(Some("A"), Query), (Some("B"), Mutation)]),
        ("query A($a: [Int!]! = [1, 2] @b) @c(d: {e: $a}) { f @skip(if: true) }", vec![(Some("A"), Query)]),
    ] {
        let want = want.into_iter().map(|(name, kind)| (name.map(str::to_owned), kind)).collect();
        assert_eq!(kinds(text), Ok(want), "{text}");
    }
}

#[test]
fn other_texts_are_not_executable() {
    for text in [
        "",
        "   # only a comment",
        "{",
        "{ }",
        "{ a } }",
        "mutations { a }",
        "query A { a } type T { a: Int }",
        "type Query { a: Int }",
        "fragment F on T { a }",
        "{ a(b: ) }",
        "{ \"a\" }",
        // A carriage return ends a comment.
        "query { a } # \rmutation { b",
        "query { a }; mutation { b }",
    ] {
        assert_eq!(kinds(text), Err(NotExecutable), "{text}");
    }
}

#[test]
fn request_selects_exactly_one_operation() {
    use OperationKind::{Mutation, Query};
    let one = "query A { a }";
    let two = "query A { a } mutation B { b }";
    let twice = "query A { a } mutation A { b }";
    let unnamed = "{ a } mutation B { b }";
    for (text, name, want) in [
        (one, None, Some(Query)),
        (one, Some("A"), Some(Query)),
        (one, Some("a"), None),
        (one, Some(""), None),
        ("{ a }", None, Some(Query)),
        ("{ a }", Some("A"), None),
        ("mutation { a }", None, Some(Mutation)),
        (two, None, None),
        (two, Some("A"), Some(Query)),
        (two, Some("B"), Some(Mutation)),
        (two, Some("C"), None),
        (twice, Some("A"), None),
        (unnamed, None, None),
        (unnamed, Some("B"), Some(Mutation)),
    ] {
        assert_eq!(Document::parse(text).map(|document| document.select(name)), Ok(want), "{text} {name:?}");
    }
}

#[test]
fn incremental_directives_are_found_anywhere() {
    for (text, want) in [
        ("{ a { ...F @defer } } fragment F on T { b }", true),
        ("{ a { ... @defer(if: false) { b } } }", true),
        ("{ a @stream(initialCount: 1) }", true),
        ("{ a } fragment F on T { b { c @stream } }", true),
        ("{ a @include(if: true) }", false),
        ("{ defer stream(text: \"@defer\") } # @defer", false),
    ] {
        assert_eq!(Document::parse(text).map(|document| document.is_incremental()), Ok(want), "{text}");
    }
}

#[test]
fn aliases_may_hide_the_name_of_an_object() {
    for (text, want) in [
        ("{ note { __typename id } }", false),
        ("{ id: note { name: id } }", true),
        ("mutation { rename { __typename: text } }", true),
        ("{ ...F } fragment F on T { id: text }", true),
        ("{ note(id: 1) { text } }", false),
        ("query($id: ID) { note(id: $id) { a: __typename } }", false),
    ] {
        assert_eq!(Document::parse(text).map(|document| document.has_reserved_alias()), Ok(want), "{text}");
    }
}

#[test]
fn hostile_documents_end_at_the_limits() {
    const MANY: usize = 1 << 20;
    for unit in [
        "{",
        "}",
        "{a",
        "[",
        "(",
        "\"",
        "\"\"\"",
        "{a(b:[",
        "{a(b:{c:",
        "query($a:[",
        "@",
        "...",
        "{...{",
        "a ",
        "#",
        "\\",
        "é",
        "\0",
        "$",
    ] {
        for start in ["", "{", "query A", "{ a(b: ", "query ($a: "] {
            let text = format!("{start}{}", unit.repeat(MANY / unit.len()));
            assert_eq!(Document::parse(&text), Err(NotExecutable), "{start} {unit}");
        }
    }
}

#[test]
fn depth_and_tokens_have_limits() {
    let deep = |depth: usize| format!("{}b{}", "{a".repeat(depth), "}".repeat(depth));
    let deep = |depth| Document::parse(&deep(depth)).is_ok();
    assert_eq!((deep(MAX_DEPTH), deep(MAX_DEPTH + 1)), (true, false));
    let lists = |depth: usize| Document::parse(&format!("{{a(b:{}{})}}", "[".repeat(depth), "]".repeat(depth))).is_ok();
    assert_eq!((lists(MAX_DEPTH / 2), lists(MAX_DEPTH + 1)), (true, false));
    let types = |depth: usize| Document::parse(&format!("query($a:{}T{}){{b}}", "[".repeat(depth), "]".repeat(depth))).is_ok();
    assert_eq!((types(MAX_DEPTH / 2), types(MAX_DEPTH + 1)), (true, false));
    let long = |fields: usize| Document::parse(&format!("{{{}}}", "a ".repeat(fields))).is_ok();
    assert_eq!((long(MAX_TOKENS / 2 - 2), long(MAX_TOKENS / 2 + 1)), (true, false));
}
