//! Responses: their data, their errors, and the objects in their data.

use std::collections::BTreeSet;

use http::{HeaderMap, header};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, value::RawValue};

/// The content of a response: an object with data, errors, or both.
#[derive(Debug)]
pub(crate) struct Response<'a> {
    data: Option<&'a RawValue>,
    has_errors: bool,
}

/// An object with a `__typename`, and its `id` if it has one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ObjectName {
    pub(crate) typename: String,
    pub(crate) id: Option<String>,
}

/// The objects in the data of a response.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    /// The objects that have a `__typename`, each once.
    pub(crate) named: BTreeSet<ObjectName>,
    /// An object inside of the data has no `__typename`.
    pub(crate) has_unnamed: bool,
}

impl Objects {
    /// Returns true if the data have objects, and each of them has a `__typename`.
    pub(crate) fn are_all_named(&self) -> bool {
        !self.has_unnamed && !self.named.is_empty()
    }
}

#[derive(Deserialize)]
struct Members<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    errors: Option<Vec<IgnoredAny>>,
}

/// Reads a member that may be `null`.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl<'a> Response<'a> {
    /// Reads the content of a response. Returns `None` for other content.
    pub(crate) fn read(content: &'a [u8]) -> Option<Self> {
        let start = content.iter().find(|byte| !byte.is_ascii_whitespace());
        if start != Some(&b'{') {
            return None;
        }
        let Members { data, errors } = serde_json::from_slice(content).ok()?;
        let has_errors = errors.is_some_and(|errors| !errors.is_empty());
        (data.is_some() || has_errors).then_some(Self { data, has_errors })
    }

    /// Returns true if the response has errors. With data, only a part of the operation has failed.
    pub(crate) fn has_errors(&self) -> bool {
        self.has_errors
    }

    /// Returns true if the operation was executed: `data` is present, and may be `null` (section 7.1 of the language).
    pub(crate) fn has_data(&self) -> bool {
        self.data.is_some()
    }

    /// Returns the objects in the data. An `id` is a text or a whole number. Returns `None` if the data are nested deeper than 128 levels.
    pub(crate) fn objects(&self) -> Option<Objects> {
        let mut objects = Objects::default();
        if let Some(data) = self.data {
            collect(&serde_json::from_str(data.get()).ok()?, true, &mut objects);
        }
        Some(objects)
    }
}

/// Adds the objects in a value. The root of the data is the operation itself, which needs no name.
fn collect(value: &Value, is_root: bool, objects: &mut Objects) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| collect(value, false, objects)),
        Value::Object(members) => {
            if let Some(Value::String(typename)) = members.get("__typename") {
                let id = match members.get("id") {
                    Some(Value::String(id)) => Some(id.clone()),
                    Some(Value::Number(id)) if id.is_i64() || id.is_u64() => Some(id.to_string()),
                    _ => None,
                };
                if !is_root {
                    objects.named.insert(ObjectName { typename: typename.clone(), id });
                }
            } else {
                objects.has_unnamed |= !is_root;
            }
            members.values().for_each(|value| collect(value, false, objects));
        }
        _ => {}
    }
}

/// Returns true for the content types of responses. An incremental response has another one.
pub(crate) fn has_response_type(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(kind), None) = (lines.next(), lines.next()) else { return false };
    let Ok(kind) = kind.to_str() else { return false };
    let kind = kind.split(';').next().unwrap_or_default().trim();
    ["application/json", "application/graphql-response+json"].iter().any(|known| kind.eq_ignore_ascii_case(known))
}

#[cfg(test)]
#[path = "tests/response.rs"]
mod tests;
