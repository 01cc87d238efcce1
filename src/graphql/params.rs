//! The parameters of a request: from the JSON of a POST, or from the query of a GET.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use http::{HeaderMap, header};
use percent_encoding::percent_decode_str;
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// The parameters of a request. A parameter that is `null` is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Params {
    /// The document.
    pub(crate) query: Option<String>,
    pub(crate) operation_name: Option<String>,
    /// An object, as JSON.
    pub(crate) variables: Option<String>,
    /// The extensions as JSON, sorted by name, without that of persisted documents.
    pub(crate) extensions: Vec<(String, String)>,
    /// The SHA-256 hash of the document.
    pub(crate) persisted: Option<[u8; 32]>,
}

/// The request has another form, or states a parameter twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotARequest;

/// The names of the parameters.
const NAMES: [&str; 4] = ["query", "operationName", "variables", "extensions"];

impl Params {
    /// Reads the content of a POST. A list of requests, an unknown member and a member that occurs twice are errors.
    pub(crate) fn of_json(content: &[u8]) -> Result<Self, NotARequest> {
        // Serde reads structures from lists as well.
        let start = content.iter().find(|byte| !byte.is_ascii_whitespace());
        if start != Some(&b'{') {
            return Err(NotARequest);
        }
        let members: Members<'_> = serde_json::from_slice(content).map_err(|_| NotARequest)?;
        Self {
            query: members.query.map(Cow::into_owned),
            operation_name: members.operation_name.map(Cow::into_owned),
            ..Self::default()
        }
        .with_json(members.variables.map(RawValue::get), members.extensions.map(RawValue::get))
    }

    /// Reads the query of a GET. Other parameters do not count. A name with a bracket is an error: some servers take `query[]` for `query`, and
    /// others ignore it.
    pub(crate) fn of_query(query: &str) -> Result<Self, NotARequest> {
        // Some servers split at `;`.
        if query.contains(';') {
            return Err(NotARequest);
        }
        let mut found: [Option<String>; 4] = [const { None }; 4];
        for (name, place, value) in pairs(query).filter_map(|(name, value)| Some((name, place(name)?, value))) {
            if has_bracket(name) {
                return Err(NotARequest);
            }
            let value = decoded(value).ok_or(NotARequest)?;
            if found[place].replace(value).is_some() {
                return Err(NotARequest);
            }
        }
        let [query, operation_name, variables, extensions] = found;
        Self { query, operation_name, ..Self::default() }.with_json(variables.as_deref(), extensions.as_deref())
    }

    /// Returns the parameters in a query as the content of a POST with the same operation.
    pub(crate) fn json_of_query(query: &str) -> Option<Vec<u8>> {
        Self::of_query(query).ok()?;
        let mut members = BTreeMap::new();
        for (place, value) in pairs(query).filter_map(|(name, value)| Some((place(name)?, value))) {
            let value = decoded(value)?;
            // The variables and the extensions are JSON already.
            let value = if place < 2 { serde_json::value::to_raw_value(&value) } else { RawValue::from_string(value) };
            members.insert(NAMES[place], value.ok()?);
        }
        serde_json::to_vec(&members).ok()
    }

    fn with_json(mut self, variables: Option<&str>, extensions: Option<&str>) -> Result<Self, NotARequest> {
        if let Some(Object(_)) = object(variables)? {
            self.variables = variables.map(str::to_owned);
        }
        let mut extensions = object(extensions)?.unwrap_or_default().0;
        if let Some(persisted) = extensions.remove("persistedQuery") {
            self.persisted = persisted_hash(persisted.get())?;
        }
        self.extensions = extensions.into_iter().map(|(name, value)| (name, value.get().to_owned())).collect();
        Ok(self)
    }
}

/// Returns true if a query has one of the parameters of a request.
pub(crate) fn has_params(query: &str) -> bool {
    query.contains(';') || pairs(query).any(|(name, _)| place(name).is_some())
}

/// Returns a query without the parameters of a request.
pub(crate) fn without_params(query: &str) -> String {
    let kept = query.split('&').filter(|pair| place(split(pair).0).is_none());
    kept.collect::<Vec<_>>().join("&")
}

/// Returns true for content in JSON, in UTF-8, without a content coding.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(kind), None) = (lines.next(), lines.next()) else { return false };
    let Ok(kind) = kind.to_str() else { return false };
    let (kind, parameter) = kind.split_once(';').unwrap_or((kind, ""));
    let is_utf8 = match parameter.trim().split_once('=') {
        None => parameter.trim().is_empty(),
        Some((name, value)) => name.eq_ignore_ascii_case("charset") && value.trim_matches('"').eq_ignore_ascii_case("utf-8"),
    };
    kind.trim().eq_ignore_ascii_case("application/json") && is_utf8 && !headers.contains_key(header::CONTENT_ENCODING)
}

fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').map(split)
}

fn split(pair: &str) -> (&str, &str) {
    pair.split_once('=').unwrap_or((pair, ""))
}

/// Returns the place of a parameter in [`NAMES`]. Some servers take `query[]` for `query`.
fn place(name: &str) -> Option<usize> {
    let name = percent_decode_str(name).decode_utf8_lossy();
    let name = name.split('[').next()?;
    NAMES.iter().position(|known| *known == name)
}

/// Returns true for a name with a bracket.
fn has_bracket(name: &str) -> bool {
    percent_decode_str(name).any(|byte| byte == b'[')
}

/// Decodes a value (`application/x-www-form-urlencoded`).
fn decoded(value: &str) -> Option<String> {
    let spaced = value.replace('+', " ");
    Some(percent_decode_str(&spaced).decode_utf8().ok()?.into_owned())
}

/// The members of a request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Members<'a> {
    #[serde(borrow)]
    query: Option<Cow<'a, str>>,
    #[serde(borrow)]
    operation_name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    variables: Option<&'a RawValue>,
    #[serde(borrow)]
    extensions: Option<&'a RawValue>,
}

/// The members of an object. No name occurs twice.
#[derive(Default)]
struct Object<'a>(BTreeMap<String, &'a RawValue>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    if members.insert(name, value).is_some() {
                        return Err(A::Error::custom("a member occurs twice"));
                    }
                }
                Ok(Object(members))
            }
        }

        deserializer.deserialize_map(Names)
    }
}

fn object(text: Option<&str>) -> Result<Option<Object<'_>>, NotARequest> {
    text.map_or(Ok(None), |text| serde_json::from_str(text).map_err(|_| NotARequest))
}

/// Reads `{"version": 1, "sha256Hash": "…"}`.
fn persisted_hash(text: &str) -> Result<Option<[u8; 32]>, NotARequest> {
    let Some(Object(mut members)) = object(Some(text))? else { return Ok(None) };
    let version = members.remove("version").map(RawValue::get);
    let hash = members.remove("sha256Hash").ok_or(NotARequest)?.get();
    let hex = hash.strip_prefix('"').and_then(|hash| hash.strip_suffix('"')).ok_or(NotARequest)?;
    match version == Some("1") && members.is_empty() {
        true => hash_of_hex(hex).map(Some).ok_or(NotARequest),
        false => Err(NotARequest),
    }
}

/// Reads a hash in lower case.
pub(crate) fn hash_of_hex(hex: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut hash = [0; 32];
    let (pairs, []) = hex.as_bytes().as_chunks::<2>() else { return None };
    if pairs.len() != hash.len() {
        return None;
    }
    for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(hash)
}

#[cfg(test)]
#[path = "tests/params.rs"]
mod tests;
