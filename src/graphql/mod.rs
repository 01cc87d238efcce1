//! GraphQL as pure functions: documents, the parameters of requests, and responses.
//!
//! The language is defined at <https://spec.graphql.org/September2025/>, requests and responses at <https://graphql.github.io/graphql-over-http/draft/>.

pub(crate) mod document;
pub(crate) mod params;
pub(crate) mod response;

/// Documents, requests and responses of any bytes. Used by the fuzz target `graphql`. Returns the number of parts that were understood.
#[cfg(any(test, fuzzing))]
pub fn fuzz_graphql(input: &[u8]) -> usize {
    let text = String::from_utf8_lossy(input);
    let document = document::Document::parse(&text);
    let name = text.split_whitespace().nth(1);
    let mut understood = 0;
    if let Ok(document) = &document {
        let is_only = document.operations().len() == 1;
        assert_eq!(document.select(None).is_some(), is_only, "a request without a name selects the only operation");
        assert!(name.is_none_or(|name| document.select(Some(name)).is_none() || text.contains(name)));
        understood += 1;
    }
    for params in [params::Params::of_json(input), params::Params::of_query(&text)].into_iter().flatten() {
        assert!(params.extensions.windows(2).all(|pair| pair[0].0 < pair[1].0), "extensions are sorted, each name once");
        understood += 1;
    }
    if let Ok(of_query) = params::Params::of_query(&text) {
        let json = params::Params::json_of_query(&text).expect("a request");
        assert_eq!(params::Params::of_json(&json), Ok(of_query), "a GET and the POST in its place are one request");
    }
    if let Some(response) = response::Response::read(input) {
        assert!(response.has_data() || response.has_errors());
        understood += 1;
    }
    understood
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_text_makes_a_panic(parts in prop::collection::vec("query|mutation|[{}()\\[\\]:$@!|&=#,\"\\\\. \n]|\"\"\"|\\.\\.\\.|on|fragment|[a-c1-3é]", 0..60)) {
            fuzz_graphql(parts.concat().as_bytes());
        }

        #[test]
        fn get_is_the_request_of_a_post(parts in prop::collection::vec("query|variables|extensions|operationName|=|&|\\{\\}|\\{\"[ab]\":(1|null|\"%22\")\\}|%7B|%22|[+ a-c;]", 0..20)) {
            fuzz_graphql(parts.concat().as_bytes());
        }
    }
}
