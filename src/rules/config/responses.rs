//! Response rules of a file.

use std::{ops::RangeInclusive, time::Duration};

use http::HeaderName;
use serde::{
    Deserialize,
    de::{Error, MapAccess, SeqAccess, value::MapAccessDeserializer},
};

use super::{
    form::{As, Form},
    rule::list,
};
use crate::rules::responses::ResponseRule;

/// The options of a response rule.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileResponseRule {
    /// The statuses. One of them must be that of the response.
    status: Option<As<OneOrMore<Statuses>>>,
    /// The media types. `*` stands for any text. One of them must be that of the response.
    content_type: Option<As<OneOrMore<ContentType>>>,
    /// Patterns for header fields. `*` stands for any text. All of them must match.
    headers: Option<As<Vec<(FieldName, Pattern)>>>,
    /// The lifetime of these responses.
    ttl: Option<As<Duration>>,
    /// These responses are not stored.
    no_store: Option<bool>,
    /// Further namespaces of these responses.
    namespaces: Option<As<Vec<String>>>,
}

impl<'de> Form<'de> for ResponseRule {
    const EXPECTED: &'static str = "a table such as { status = \"500-599\", ttl = \"5s\" }";
    const COLLECTION: &'static str = "a list of response rules; in TOML each begins with `[[route.response_rules]]`";

    fn table<A: MapAccess<'de>>(table: A) -> Result<Self, A::Error> {
        let file = FileResponseRule::deserialize(MapAccessDeserializer::new(table))?;
        let mut rule = ResponseRule::new();
        if let Some(As(OneOrMore(statuses))) = file.status {
            rule = statuses.into_iter().fold(rule, |rule, Statuses(range)| rule.statuses(range));
        }
        if let Some(As(OneOrMore(types))) = file.content_type {
            rule = types.into_iter().fold(rule, |rule, ContentType(pattern)| rule.content_type(pattern));
        }
        rule =
            list(file.headers).into_iter().fold(rule, |rule, (FieldName(name), Pattern(pattern))| rule.header(name, pattern));
        if let Some(As(ttl)) = file.ttl {
            rule = rule.ttl(ttl);
        }
        if file.no_store == Some(true) {
            rule = rule.no_store();
        }
        Ok(list(file.namespaces).into_iter().fold(rule, ResponseRule::namespace))
    }
}

/// One value, or a list of values.
pub(super) struct OneOrMore<T>(pub(super) Vec<T>);

impl<'de, T: Form<'de>> Form<'de> for OneOrMore<T> {
    const EXPECTED: &'static str = T::COLLECTION;

    fn text(text: &str) -> Option<Self> {
        Some(Self(vec![T::text(text)?]))
    }

    fn integer(number: u64) -> Option<Self> {
        Some(Self(vec![T::integer(number)?]))
    }

    fn list<A: SeqAccess<'de>>(list: A) -> Result<Self, A::Error> {
        let all = Vec::list(list)?;
        match all.is_empty() {
            // No condition would match every response.
            true => Err(A::Error::custom(format_args!("an empty list: expected {}", Self::EXPECTED))),
            false => Ok(Self(all)),
        }
    }
}

/// A status, or a range of statuses.
pub(super) struct Statuses(RangeInclusive<u16>);

impl Form<'_> for Statuses {
    const EXPECTED: &'static str = "a status such as 404, or a range such as \"500-599\"";
    const COLLECTION: &'static str = "a status such as 404, a range such as \"500-599\", or a list of them";

    fn text(text: &str) -> Option<Self> {
        let status = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?;
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Some(Self(status(first)?..=status(last)?))
    }

    fn integer(number: u64) -> Option<Self> {
        let status = number.try_into().ok()?;
        Some(Self(status..=status))
    }
}

/// A media type, or a pattern for media types.
pub(super) struct ContentType(String);

impl Form<'_> for ContentType {
    const EXPECTED: &'static str = "a media type such as \"text/html\" or \"image/*\"";
    const COLLECTION: &'static str = "a media type such as \"text/html\" or \"image/*\", or a list of them";

    fn text(text: &str) -> Option<Self> {
        Some(Self(text.to_owned()))
    }
}

/// The name of a header field.
#[derive(Debug, PartialEq)]
pub(super) struct FieldName(HeaderName);

impl Form<'_> for FieldName {
    const EXPECTED: &'static str = <HeaderName as Form>::EXPECTED;
    const COLLECTION: &'static str = "a table of header fields and patterns such as { x-kind = \"preview*\", x-draft = \"*\" }";

    fn text(text: &str) -> Option<Self> {
        HeaderName::text(text).map(Self)
    }
}

/// A pattern for the value of a header field.
pub(super) struct Pattern(String);

impl Form<'_> for Pattern {
    const EXPECTED: &'static str = "a pattern such as \"preview*\"; \"*\" means that the field is present";

    fn text(text: &str) -> Option<Self> {
        Some(Self(text.to_owned()))
    }
}
