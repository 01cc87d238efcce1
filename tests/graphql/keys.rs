//! Keys against an independent oracle: requests share a response if and only if they mean the same.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

use super::*;

/// Documents and the operations by which they can be selected.
const DOCUMENTS: [(&str, &[Option<&str>]); 6] = [
    ("query A { a }", &[None, Some("A")]),
    ("query A {a}", &[None, Some("A")]),
    ("query B { a }", &[None, Some("B")]),
    ("query A { a } # b", &[None, Some("A")]),
    ("query A { a } query B { a }", &[Some("A"), Some("B")]),
    ("{ a }", &[None]),
];
const NAMES: [Option<&str>; 3] = [None, Some("A"), Some("B")];
const OBJECTS: [Option<&str>; 8] = [
    None,
    Some("{}"),
    Some(r#"{"a":1}"#),
    Some(r#"{"a":1.0}"#),
    Some(r#"{"a":"1"}"#),
    Some(r#"{"a":1,"b":{"c":null,"d":[1,2]}}"#),
    Some(r#"{"a":1,"b":{"c":null,"d":[2,1]}}"#),
    Some(r#"{"b":1}"#),
];
const ACCEPTED: [Option<&str>; 3] = [None, Some("application/json"), Some("application/graphql-response+json")];
const REST: [&str; 3] = ["", "tenant=a", "tenant=b"];

/// The parts of a request that a response may depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Meaning {
    document: usize,
    name: usize,
    variables: usize,
    extensions: usize,
    accept: usize,
    rest: usize,
}

impl Meaning {
    /// Returns the meaning without differences that the rules exclude: absent extensions are no extensions.
    fn normal(self) -> Self {
        Self { extensions: if self.extensions == 0 { 1 } else { self.extensions }, ..self }
    }

    fn selects_one(self) -> bool {
        DOCUMENTS[self.document].1.contains(&NAMES[self.name])
    }
}

/// The spelling of a request.
#[derive(Debug, Clone, Copy)]
struct Spelling {
    is_get: bool,
    is_loose: bool,
    has_hash: bool,
    has_document: bool,
}

fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes JSON compactly, or with white space and the members of each object in the opposite order.
fn written(value: &Value, is_loose: bool) -> String {
    let gap = if is_loose { " \n" } else { "" };
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> =
                members.iter().map(|(name, value)| format!("{name:?}{gap}:{gap}{}", written(value, is_loose))).collect();
            if is_loose {
                members.reverse();
            }
            format!("{{{gap}{}{gap}}}", members.join(&format!("{gap},")))
        }
        Value::Array(values) => {
            let values: Vec<_> = values.iter().map(|value| written(value, is_loose)).collect();
            format!("[{gap}{}{gap}]", values.join(&format!("{gap},")))
        }
        scalar => scalar.to_string(),
    }
}

fn spelled(meaning: Meaning, spelling: Spelling) -> Request<Plain> {
    let Spelling { is_get, is_loose, has_hash, has_document } = spelling;
    let document = DOCUMENTS[meaning.document].0;
    let parsed = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
    let mut extensions = OBJECTS[meaning.extensions].map(parsed);
    if has_hash {
        let persisted = json!({ "version": 1, "sha256Hash": hash(document) });
        extensions.get_or_insert_with(|| json!({}))["persistedQuery"] = persisted;
    }
    let mut members = Vec::new();
    if has_document {
        members.push(("query", Value::from(document)));
    }
    members.extend(NAMES[meaning.name].map(|name| ("operationName", Value::from(name))));
    members.extend(OBJECTS[meaning.variables].map(|text| ("variables", parsed(text))));
    members.extend(extensions.map(|extensions| ("extensions", extensions)));
    let mut request = if is_get {
        let text = |value: &Value| value.as_str().map_or_else(|| written(value, is_loose), str::to_owned);
        let mut pairs: Vec<_> = members.iter().map(|(name, value)| (*name, text(value))).collect();
        if is_loose {
            pairs.reverse();
        }
        by_get(&pairs.iter().map(|(name, value)| (*name, value.as_str())).collect::<Vec<_>>())
    } else {
        by_post(written(&members.into_iter().collect(), is_loose))
    };
    if !REST[meaning.rest].is_empty() {
        let query = request.uri().query().map_or_else(String::new, |query| format!("{query}&"));
        *request.uri_mut() = format!("/graphql?{query}{}", REST[meaning.rest]).parse().expect("a target");
    }
    if let Some(accept) = ACCEPTED[meaning.accept] {
        request.headers_mut().insert(header::ACCEPT, accept.parse().expect("a value"));
    }
    request
}

fn meanings() -> impl Strategy<Value = Meaning> {
    // The first value of each part is frequent, so that many requests are equal or differ in one part.
    let part = |len: usize| prop_oneof![2 => Just(0), 1 => 0..len];
    (part(6), part(3), part(8), part(8), part(3), part(3)).prop_map(|(document, name, variables, extensions, accept, rest)| {
        Meaning { document, name, variables, extensions, accept, rest }
    })
}

fn spellings() -> impl Strategy<Value = Spelling> {
    (any::<bool>(), any::<bool>(), any::<bool>(), prop::bool::weighted(0.7))
        .prop_map(|(is_get, is_loose, has_hash, has)| Spelling { is_get, is_loose, has_hash, has_document: has || !has_hash })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn requests_share_a_response_if_they_mean_the_same(requests in prop::collection::vec((meanings(), spellings()), 2..60)) {
        Runtime::new().expect("a runtime").block_on(async {
            // Without namespaces, nothing is invalidated.
            let app = App::new(Rule::graphql(MINUTE));
            let (mut responses, mut verified) = (HashMap::new(), HashSet::new());
            for (meaning, spelling) in requests {
                let (outcome, text) = app.read(spelled(meaning, spelling)).await;
                let is_known = spelling.has_document || verified.contains(&meaning.document);
                if spelling.has_document && spelling.has_hash {
                    verified.insert(meaning.document);
                }
                let normal = meaning.normal();
                let want = match (is_known, meaning.selects_one()) {
                    (false, _) => Outcome::Bypass(Bypass::GraphqlPersisted),
                    (true, false) => Outcome::Bypass(Bypass::GraphqlOperation),
                    (true, true) if responses.contains_key(&normal) => Outcome::Hit,
                    (true, true) => Outcome::Miss(tower_response_cache::status::Miss::Absent),
                };
                assert_eq!(outcome, want, "{meaning:?} {spelling:?}");
                if is_known && meaning.selects_one() {
                    assert_eq!(responses.entry(normal).or_insert_with(|| text.clone()), &text, "{meaning:?} {spelling:?}");
                }
            }
            let distinct: HashSet<_> = responses.values().collect();
            assert_eq!(distinct.len(), responses.len(), "two meanings share a response");
        });
    }
}

/// A server that ignores `variables[]` answers without variables. That answer must not be the one for these variables.
#[tokio::test]
async fn parameter_that_servers_may_ignore_is_no_parameter() {
    let app = App::new(rule());
    let (document, variables) = ("query A($a: Int = 1) { a(a: $a) }", r#"{"a":2}"#);
    let encoded = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let ignored = get(&format!("/graphql?query={}&variables[]={}", encoded(document), encoded(variables)));
    assert_eq!(app.bypass(ignored).await, Some(Bypass::GraphqlRequest));
    assert!(!app.is_hit(by_get(&[("query", document), ("variables", variables)])).await);
}
