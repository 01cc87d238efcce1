//! Queries compared without their irrelevant parts (`No-Vary-Search`, draft-ietf-httpbis-no-vary-search).

use std::borrow::Cow;

use http::header::{HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;
use sfv::{BareItem, Dictionary, InnerList, ListEntry};

use super::structured;

/// The field name `No-Vary-Search`.
pub const NO_VARY_SEARCH: HeaderName = HeaderName::from_static("no-vary-search");

/// A comparison of queries: the URL search variance of the draft. The default compares queries byte for byte.
///
/// ```
/// use tower_response_cache::semantics::NoVarySearch;
///
/// let variance = NoVarySearch::ignoring(["utm_source"]).in_any_order();
/// assert!(variance.equivalent(Some("b=2&a=1&utm_source=x"), Some("a=1&b=2")));
/// assert!(!variance.equivalent(Some("a=1&a=2"), Some("a=2&a=1")));
/// assert!(!NoVarySearch::default().equivalent(Some("a=1&b=2"), Some("b=2&a=1")));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoVarySearch {
    params: Params,
    any_order: bool,
}

/// The relevant parameters. Both lists of names are sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Params {
    Ignoring(Vec<Vec<u8>>),
    Only(Vec<Vec<u8>>),
}

impl Default for Params {
    fn default() -> Params {
        Params::Ignoring(Vec::new())
    }
}

impl NoVarySearch {
    /// Ignores these parameters. The names are percent-decoded ones.
    pub fn ignoring<N: Into<String>>(names: impl IntoIterator<Item = N>) -> NoVarySearch {
        NoVarySearch { params: Params::Ignoring(name_bytes(names)), any_order: false }
    }

    /// Ignores all parameters other than these. The names are percent-decoded ones.
    pub fn only<N: Into<String>>(names: impl IntoIterator<Item = N>) -> NoVarySearch {
        NoVarySearch { params: Params::Only(name_bytes(names)), any_order: false }
    }

    /// Also ignores the order of parameters with different names.
    #[must_use]
    pub fn in_any_order(self) -> NoVarySearch {
        NoVarySearch { any_order: true, ..self }
    }

    /// Parses the field of a response. An absent or malformed field gives the default. Unknown members are ignored.
    pub fn of(response: &HeaderMap) -> NoVarySearch {
        structured::field(response, &NO_VARY_SEARCH).and_then(|field| parse(&field)).unwrap_or_default()
    }

    /// Parses a field value, such as `key-order, params=("utm_source")`. Returns `None` if it is malformed.
    pub fn parse(value: &str) -> Option<NoVarySearch> {
        sfv::Parser::new(value).parse::<Dictionary>().ok().and_then(|field| parse(&field))
    }

    /// Returns true if two queries are equivalent. Pass a query without its `?`, and `None` for a URI without a query.
    pub fn equivalent(&self, one: Option<&str>, two: Option<&str>) -> bool {
        if *self == NoVarySearch::default() {
            one == two
        } else {
            self.relevant_parameters(one) == self.relevant_parameters(two)
        }
    }

    /// Appends the relevant part of a query to a cache key, with a type tag and lengths (big-endian, 4 bytes).
    ///
    /// The bytes are equal if and only if the queries are [equivalent](NoVarySearch::equivalent).
    pub fn write(&self, query: Option<&str>, key: &mut Vec<u8>) {
        if *self == NoVarySearch::default() {
            return match query {
                None => key.push(b'-'),
                Some(query) => {
                    key.push(b'q');
                    write_part(query.as_bytes(), key);
                }
            };
        }
        key.push(b'p');
        let parameters = self.relevant_parameters(query);
        key.extend(length(parameters.len()));
        for (name, value) in parameters {
            write_part(&name, key);
            write_part(&value, key);
        }
    }

    /// Returns the relevant parameters, decoded, and sorted by name if their order is ignored.
    fn relevant_parameters<'a>(&self, query: Option<&'a str>) -> Vec<Parameter<'a>> {
        let is_relevant = |name: &[u8]| match &self.params {
            Params::Ignoring(names) => !contains_name(names, name),
            Params::Only(names) => contains_name(names, name),
        };
        let pieces = query.unwrap_or_default().split('&').filter(|piece| !piece.is_empty());
        let mut parameters: Vec<_> = pieces
            .map(|piece| piece.split_once('=').unwrap_or((piece, "")))
            .map(|(name, value)| (decode(name), decode(value)))
            .filter(|(name, _)| is_relevant(name))
            .collect();
        if self.any_order {
            parameters.sort_by(|(one, _), (two, _)| one.cmp(two));
        }
        parameters
    }
}

/// A decoded name and value.
type Parameter<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

fn name_bytes<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Vec<Vec<u8>> {
    sorted(names.into_iter().map(|name| name.into().into_bytes()).collect())
}

fn sorted(mut names: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    names.sort_unstable();
    names
}

/// Returns true if a sorted list contains a name. The search is binary, because both the query and the list may be long.
fn contains_name(names: &[Vec<u8>], name: &[u8]) -> bool {
    names.binary_search_by(|other| other.as_slice().cmp(name)).is_ok()
}

/// Parses the members of the field. Any unexpected value makes the field malformed, which costs only hits.
fn parse(field: &Dictionary) -> Option<NoVarySearch> {
    let boolean = |entry: &ListEntry| match entry {
        ListEntry::Item(item) => item.bare_item.as_boolean(),
        ListEntry::InnerList(_) => None,
    };
    let any_order = field.get("key-order").map_or(Some(false), boolean)?;
    let (mut params, mut all) = (Params::default(), false);
    match field.get("params") {
        None => {}
        Some(ListEntry::InnerList(names)) => params = Params::Ignoring(decoded_names(names)?),
        Some(entry) => all = boolean(entry)?,
    }
    if all {
        params = Params::Only(Vec::new());
    }
    match field.get("except") {
        None => {}
        Some(ListEntry::InnerList(names)) if all => params = Params::Only(decoded_names(names)?),
        Some(_) => return None,
    }
    Some(NoVarySearch { params, any_order })
}

fn decoded_names(names: &InnerList) -> Option<Vec<Vec<u8>>> {
    let key = |item: &BareItem| item.as_string().map(|name| decode(name.as_str()).into_owned());
    names.items.iter().map(|item| key(&item.bare_item)).collect::<Option<_>>().map(sorted)
}

/// Decodes application/x-www-form-urlencoded: `+` is a space, `%` and two hex digits are a byte.
///
/// The bytes are not converted to UTF-8. Unlike the draft's replacement of invalid sequences, this keeps different queries different.
fn decode(text: &str) -> Cow<'_, [u8]> {
    if text.contains('+') {
        return Cow::Owned(percent_decode_str(&text.replace('+', " ")).collect());
    }
    percent_decode_str(text).into()
}

fn write_part(bytes: &[u8], key: &mut Vec<u8>) {
    key.extend(length(bytes.len()));
    key.extend(bytes);
}

fn length(number: usize) -> [u8; 4] {
    u32::try_from(number).expect("a query below 4 GiB").to_be_bytes()
}

#[cfg(test)]
#[path = "tests/no_vary_search.rs"]
mod tests;
