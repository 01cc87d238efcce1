//! Forms of the values in a file of rules.

use std::{fmt, marker::PhantomData, time::Duration};

use http::{HeaderName, Method, StatusCode};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Unexpected, Visitor, value::MapAccessDeserializer},
};

use crate::{
    key::{Cookie, Identity, RequestBody, RouteAndQuery, is_query_name},
    semantics::NoVarySearch,
};

/// A value in its [`Form`].
#[derive(Debug)]
pub(super) struct As<T>(pub(super) T);

/// The form of a value in a file. A kind of value that is not implemented is refused.
pub(super) trait Form<'de>: Sized {
    /// The allowed values, for errors.
    const EXPECTED: &'static str;
    /// The form of a list of these values, or of a table that has them as names.
    const COLLECTION: &'static str = "";

    fn text(_: &str) -> Option<Self> {
        None
    }

    fn integer(number: u64) -> Option<Self> {
        Self::number(number as f64)
    }

    fn number(_: f64) -> Option<Self> {
        None
    }

    fn list<A: SeqAccess<'de>>(_: A) -> Result<Self, A::Error> {
        Err(A::Error::invalid_type(Unexpected::Seq, &Self::EXPECTED))
    }

    fn table<A: MapAccess<'de>>(_: A) -> Result<Self, A::Error> {
        Err(A::Error::invalid_type(Unexpected::Map, &Self::EXPECTED))
    }
}

impl<'de, T: Form<'de>> Deserialize<'de> for As<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(FormVisitor(PhantomData))
    }
}

struct FormVisitor<T>(PhantomData<T>);

impl<'de, T: Form<'de>> Visitor<'de> for FormVisitor<T> {
    type Value = As<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<As<T>, E> {
        T::text(text).map(As).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<As<T>, E> {
        T::integer(number).map(As).ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<As<T>, E> {
        let value = u64::try_from(number).map_or_else(|_| T::number(number as f64), T::integer);
        value.map(As).ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<As<T>, E> {
        T::number(number).map(As).ok_or_else(|| E::invalid_value(Unexpected::Float(number), &self))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<As<T>, A::Error> {
        T::list(list).map(As)
    }

    fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<As<T>, A::Error> {
        T::table(table).map(As)
    }
}

impl Form<'_> for Duration {
    const EXPECTED: &'static str = "a duration: \"250ms\", \"60s\", \"5m\", \"1h30m\" or \"2d\"";

    fn text(text: &str) -> Option<Self> {
        // humantime accepts more: other units and spellings, in any order. Its `M` is a month.
        let mut allowed = ["d", "h", "m", "s", "ms"].iter();
        let mut units = text.split(|c: char| c.is_ascii_digit()).filter(|unit| !unit.is_empty()).peekable();
        let strict = units.peek().is_some() && units.all(|unit| allowed.any(|allowed| *allowed == unit));
        strict.then(|| humantime::parse_duration(text).ok())?
    }
}

/// A number of bytes.
impl Form<'_> for usize {
    const EXPECTED: &'static str = "a size: a whole number of bytes, or one with KiB, MiB, GiB, KB, MB or GB such as \"1MiB\"";

    fn integer(bytes: u64) -> Option<Self> {
        bytes.try_into().ok()
    }

    fn text(text: &str) -> Option<Self> {
        let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match &text[number.len()..] {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            _ => return None,
        };
        number.bytes().all(|b| b.is_ascii_digit()).then(|| number.parse::<usize>().ok()?.checked_mul(unit))?
    }
}

impl Form<'_> for f64 {
    const EXPECTED: &'static str = "a number such as 0.5";

    fn number(number: f64) -> Option<Self> {
        Some(number)
    }
}

impl Form<'_> for RequestBody {
    const EXPECTED: &'static str = "\"bytes\", \"json\" or \"form\"";

    fn text(text: &str) -> Option<Self> {
        match text {
            "bytes" => Some(Self::bytes()),
            "json" => Some(Self::json()),
            "form" => Some(Self::form()),
            _ => None,
        }
    }
}

/// A template of a namespace.
impl Form<'_> for String {
    const EXPECTED: &'static str = "a namespace such as \"t:{table}\"";
    const COLLECTION: &'static str = "a list of namespaces such as [\"t\", \"t:{table}\"]";

    fn text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

/// The text of a GraphQL document.
#[cfg_attr(not(feature = "graphql"), expect(dead_code, reason = "an error says that the feature is missing"))]
pub(super) struct Document(pub(super) String);

impl Form<'_> for Document {
    const EXPECTED: &'static str = "a GraphQL document such as \"query Notes { notes { text } }\"";
    const COLLECTION: &'static str = "a list of GraphQL documents such as [\"query Notes { notes { text } }\"]";

    fn text(text: &str) -> Option<Self> {
        Some(Self(text.to_owned()))
    }
}

impl Form<'_> for HeaderName {
    const EXPECTED: &'static str = "the name of a header field, such as \"accept-language\"";
    const COLLECTION: &'static str = "a list of header fields such as [\"accept-language\"]";

    fn text(text: &str) -> Option<Self> {
        HeaderName::from_bytes(text.as_bytes()).ok()
    }
}

impl Form<'_> for Cookie {
    const EXPECTED: &'static str = "the name of a cookie, such as \"theme\"";
    const COLLECTION: &'static str = "a list of cookies such as [\"theme\"]";

    fn text(text: &str) -> Option<Self> {
        is_token(text).then(|| Cookie::new(text))
    }
}

impl Form<'_> for StatusCode {
    const EXPECTED: &'static str = "a status from 100 to 999, such as 404";
    const COLLECTION: &'static str = "a table of statuses such as { 404 = \"5s\" }";

    fn text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    // A name in YAML can be a number.
    fn integer(number: u64) -> Option<Self> {
        StatusCode::from_u16(number.try_into().ok()?).ok()
    }
}

/// A status of gRPC.
impl Form<'_> for i32 {
    const EXPECTED: &'static str = "the number of a gRPC status, such as 5 for NOT_FOUND";
    const COLLECTION: &'static str = "a table of gRPC statuses such as { 5 = \"5s\" }";

    fn text(text: &str) -> Option<Self> {
        text.parse().ok().filter(|code| *code > 0)
    }

    fn integer(number: u64) -> Option<Self> {
        number.try_into().ok().filter(|code| *code > 0)
    }
}

impl Form<'_> for Method {
    const EXPECTED: &'static str = "a method in capital letters, such as DELETE";
    const COLLECTION: &'static str = "a table of methods such as { DELETE = [\"t\"] }";

    fn text(text: &str) -> Option<Self> {
        // Methods have a case (RFC 9110, section 9.1). One in small letters is a mistake.
        if text.contains(|c: char| c.is_ascii_lowercase()) { None } else { text.parse().ok() }
    }
}

impl<'de, T: Form<'de>> Form<'de> for Vec<T> {
    const EXPECTED: &'static str = T::COLLECTION;

    fn list<A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error> {
        let mut all = Vec::new();
        while let Some(As(one)) = list.next_element()? {
            all.push(one);
        }
        Ok(all)
    }
}

/// A table. Formats other than TOML leave it to this crate to refuse a name that stands there twice.
impl<'de, K: Form<'de> + PartialEq + fmt::Debug, V: Form<'de>> Form<'de> for Vec<(K, V)> {
    const EXPECTED: &'static str = K::COLLECTION;

    fn table<A: MapAccess<'de>>(mut table: A) -> Result<Self, A::Error> {
        let mut all: Self = Vec::new();
        while let Some(As(name)) = table.next_key()? {
            if all.iter().any(|(known, _)| *known == name) {
                return Err(A::Error::custom(format_args!("duplicate key `{name:?}`")));
            }
            let As(value) = table.next_value()?;
            all.push((name, value));
        }
        Ok(all)
    }
}

impl<'de> Form<'de> for Identity {
    const EXPECTED: &'static str = "\"bearer\", \"cookie:NAME\", \"header:NAME\", or { by = one of these, required = true }";

    fn text(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None if text == "bearer" => Some(Identity::bearer()),
            Some(("cookie", name)) if is_token(name) => Some(Identity::cookie(name)),
            Some(("header", name)) if is_token(name) => Some(Identity::header(name)),
            _ => None,
        }
    }

    fn table<A: MapAccess<'de>>(table: A) -> Result<Self, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            by: As<Identity>,
            #[serde(default)]
            required: bool,
        }

        let Table { by: As(identity), required } = Table::deserialize(MapAccessDeserializer::new(table))?;
        Ok(if required { identity.required() } else { identity })
    }
}

impl<'de> Form<'de> for RouteAndQuery {
    const EXPECTED: &'static str =
        "\"sorted\", \"as-sent\", { only = [\"page\"] }, { without = [\"utm_*\"] } or { no_vary_search = \"key-order\" }";

    fn text(text: &str) -> Option<Self> {
        match text {
            "sorted" => Some(RouteAndQuery),
            "as-sent" => Some(RouteAndQuery.query_as_sent()),
            _ => None,
        }
    }

    fn table<A: MapAccess<'de>>(table: A) -> Result<Self, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            only: Option<As<Vec<QueryName>>>,
            without: Option<As<Vec<QueryName>>>,
            no_vary_search: Option<As<NoVarySearch>>,
        }

        let names = |names: Vec<QueryName>| names.into_iter().map(|QueryName(name)| name);
        match Table::deserialize(MapAccessDeserializer::new(table))? {
            Table { only: Some(As(only)), without: None, no_vary_search: None } => Ok(RouteAndQuery.only_query(names(only))),
            Table { only: None, without: Some(As(not)), no_vary_search: None } => Ok(RouteAndQuery.without_query(names(not))),
            Table { only: None, without: None, no_vary_search: Some(As(by)) } => Ok(RouteAndQuery.no_vary_search(by)),
            _ => Err(A::Error::invalid_value(Unexpected::Other("a table of several or none"), &Self::EXPECTED)),
        }
    }
}

/// The name of a query parameter, or a prefix such as `utm_*`.
struct QueryName(String);

impl Form<'_> for QueryName {
    const EXPECTED: &'static str = "the decoded name of a query parameter, with at most one `*`, at its end";
    const COLLECTION: &'static str = "a list of query parameters such as [\"page\", \"utm_*\"]";

    fn text(text: &str) -> Option<Self> {
        is_query_name(text).then(|| Self(text.to_owned()))
    }
}

impl Form<'_> for NoVarySearch {
    const EXPECTED: &'static str = "a value of No-Vary-Search such as 'key-order, params=(\"utm_source\")'";

    fn text(text: &str) -> Option<Self> {
        NoVarySearch::parse(text)
    }
}

/// Names of fields and of cookies are tokens (RFC 9110, section 5.6.2; RFC 6265, section 4.1.1).
fn is_token(name: &str) -> bool {
    HeaderName::from_bytes(name.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Form;

    #[test]
    fn durations_have_units_the_larger_first() {
        let millis = |text: &str| Duration::text(text).map(|duration| duration.as_millis());
        assert_eq!(["0s", "250ms", "60s", "1m1ms"].map(millis), [0, 250, 60_000, 60_001].map(Some));
        assert_eq!(["5m", "1h30m", "2d"].map(millis), [300_000, 5_400_000, 172_800_000].map(Some));
        for text in ["", "0", "60", "1m30", "s", "1.5s", "-1s", "+1s", "1 s", " 1s", "30m1h", "1s1s", "1S", "1M", "1min"] {
            assert_eq!(millis(text), None, "{text:?}");
        }
        assert_eq!(["99999999999999999d", "18446744073709551616ms"].map(millis), [None; 2]);
    }

    #[test]
    fn sizes_are_whole_numbers_with_or_without_a_unit() {
        assert_eq!(["0", "64KiB", "1MB", "12B"].map(usize::text), [0, 65_536, 1_000_000, 12].map(Some));
        for text in ["", "MiB", "1mib", "1 MiB", "+1", "1.5MiB", "18446744073709551615GiB"] {
            assert_eq!(usize::text(text), None, "{text:?}");
        }
    }
}
