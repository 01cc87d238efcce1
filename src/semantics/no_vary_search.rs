//! Which parts of a query do not matter (draft-ietf-httpbis-no-vary-search).

use std::borrow::Cow;

use http::header::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, InnerList, ListEntry};

use super::structured;

/// `No-Vary-Search`.
pub const NO_VARY_SEARCH: HeaderName = HeaderName::from_static("no-vary-search");

/// How queries are compared. The default tells apart whatever differs by a byte.
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

/// The names are sorted.
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
    /// These parameters do not matter. Names are the decoded ones.
    pub fn ignoring<N: Into<String>>(names: impl IntoIterator<Item = N>) -> NoVarySearch {
        NoVarySearch { params: Params::Ignoring(bytes(names)), any_order: false }
    }

    /// No other parameters matter than these. Names are the decoded ones.
    pub fn only<N: Into<String>>(names: impl IntoIterator<Item = N>) -> NoVarySearch {
        NoVarySearch { params: Params::Only(bytes(names)), any_order: false }
    }

    /// The order of parameters with different names does not matter, either.
    #[must_use]
    pub fn in_any_order(self) -> NoVarySearch {
        NoVarySearch { any_order: true, ..self }
    }

    /// Reads the field of a response. Absent or malformed, it is the default; entries that are not known count for nothing.
    pub fn of(response: &HeaderMap) -> NoVarySearch {
        structured::field(response, &NO_VARY_SEARCH).and_then(|field| parse(&field)).unwrap_or_default()
    }

    /// Reads the value of a field, such as `key-order, params=("utm_source")`; `None` if it is malformed.
    pub fn parse(value: &str) -> Option<NoVarySearch> {
        sfv::Parser::new(value).parse::<Dictionary>().ok().and_then(|field| parse(&field))
    }

    /// Whether two queries (without their `?`; `None` where there is none) ask for the same.
    pub fn equivalent(&self, one: Option<&str>, two: Option<&str>) -> bool {
        if *self == NoVarySearch::default() { one == two } else { self.reduce(one) == self.reduce(two) }
    }

    /// Appends what matters of a query to a cache key, tagged and with lengths (big-endian, 4 bytes), so that queries which are not
    /// [the same](NoVarySearch::equivalent) never write the same bytes.
    pub fn write(&self, query: Option<&str>, key: &mut Vec<u8>) {
        if *self == NoVarySearch::default() {
            return match query {
                None => key.push(b'-'),
                Some(query) => {
                    key.push(b'q');
                    part(query.as_bytes(), key);
                }
            };
        }
        key.push(b'p');
        let parameters = self.reduce(query);
        key.extend(length(parameters.len()));
        for (name, value) in parameters {
            part(&name, key);
            part(&value, key);
        }
    }

    /// The parameters that matter, decoded, sorted by name if their order does not.
    fn reduce<'a>(&self, query: Option<&'a str>) -> Vec<Parameter<'a>> {
        let matters = |name: &[u8]| match &self.params {
            Params::Ignoring(names) => !have(names, name),
            Params::Only(names) => have(names, name),
        };
        let pieces = query.unwrap_or_default().split('&').filter(|piece| !piece.is_empty());
        let mut parameters: Vec<_> = pieces
            .map(|piece| piece.split_once('=').unwrap_or((piece, "")))
            .map(|(name, value)| (decode(name), decode(value)))
            .filter(|(name, _)| matters(name))
            .collect();
        if self.any_order {
            parameters.sort_by(|(one, _), (two, _)| one.cmp(two));
        }
        parameters
    }
}

/// A decoded name and value.
type Parameter<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

fn bytes<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Vec<Vec<u8>> {
    sorted(names.into_iter().map(|name| name.into().into_bytes()).collect())
}

fn sorted(mut names: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    names.sort_unstable();
    names
}

/// Whether a sorted list has this name: a query may have as many parameters as the list has names.
fn have(names: &[Vec<u8>], name: &[u8]) -> bool {
    names.binary_search_by(|other| other.as_slice().cmp(name)).is_ok()
}

/// Strict, because what is not understood may only cost hits.
fn parse(field: &Dictionary) -> Option<NoVarySearch> {
    let boolean = |entry: &ListEntry| match entry {
        ListEntry::Item(item) => item.bare_item.as_boolean(),
        ListEntry::InnerList(_) => None,
    };
    let any_order = field.get("key-order").map_or(Some(false), boolean)?;
    let (mut params, mut all) = (Params::default(), false);
    match field.get("params") {
        None => {}
        Some(ListEntry::InnerList(names)) => params = Params::Ignoring(keys(names)?),
        Some(entry) => all = boolean(entry)?,
    }
    if all {
        params = Params::Only(Vec::new());
    }
    match field.get("except") {
        None => {}
        Some(ListEntry::InnerList(names)) if all => params = Params::Only(keys(names)?),
        Some(_) => return None,
    }
    Some(NoVarySearch { params, any_order })
}

fn keys(names: &InnerList) -> Option<Vec<Vec<u8>>> {
    let key = |item: &BareItem| item.as_string().map(|name| decode(name.as_str()).into_owned());
    names.items.iter().map(|item| key(&item.bare_item)).collect::<Option<_>>().map(sorted)
}

/// The decoding of application/x-www-form-urlencoded: `+` is a space, and `%` with two hex digits a byte. The bytes are compared as
/// they are: replacing those that are no UTF-8, as the draft does, would make different queries the same.
fn decode(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if !bytes.iter().any(|byte| matches!(byte, b'+' | b'%')) {
        return Cow::Borrowed(bytes);
    }
    let hex = |at: usize| bytes.get(at).and_then(|digit| char::from(*digit).to_digit(16));
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match (byte, hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.extend(u8::try_from(high * 16 + low));
                at += 2;
            }
            (b'+', ..) => decoded.push(b' '),
            _ => decoded.push(*byte),
        }
        at += 1;
    }
    Cow::Owned(decoded)
}

fn part(bytes: &[u8], key: &mut Vec<u8>) {
    key.extend(length(bytes.len()));
    key.extend(bytes);
}

fn length(number: usize) -> [u8; 4] {
    u32::try_from(number).expect("a query below 4 GiB").to_be_bytes()
}

#[cfg(test)]
#[path = "tests/no_vary_search.rs"]
mod tests;
