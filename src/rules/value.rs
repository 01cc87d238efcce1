//! The values of a file of rules: what each looks like, and the words for one that looks otherwise.

use std::{fmt, time::Duration};

use http::{HeaderName, Method, StatusCode};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Unexpected, Visitor, value::MapAccessDeserializer},
};

use super::failure::{OnDeliveryTimeout, OnFenceError};
use crate::{
    key::{Identity, is_query_name},
    semantics::{NoVarySearch, Normalise, Weights},
};

/// A length of time.
pub(crate) struct Span(pub(super) Duration);

/// A number of bytes.
pub(crate) struct Size(pub(super) usize);

/// A share or a factor.
pub(crate) struct Number(pub(super) f64);

/// Statuses that have a lifetime of their own.
#[derive(Default)]
pub(crate) struct Statuses(pub(super) Vec<(StatusCode, Duration)>);

/// Templates of namespaces.
#[derive(Default)]
pub(crate) struct List(pub(super) Vec<String>);

/// What a method clears.
#[derive(Default)]
pub(crate) struct ByMethod(pub(super) Vec<(Method, List)>);

pub(crate) struct Who(pub(super) Identity);

/// Which parameters of the query count.
pub(crate) enum Params {
    Sorted,
    AsSent,
    Only(Vec<String>),
    Without(Vec<String>),
    By(NoVarySearch),
}

pub(crate) struct HeaderNames(pub(super) Vec<String>);

#[derive(Default)]
pub(crate) struct CookieNames(pub(super) Vec<String>);

/// How far request fields are reduced.
pub(crate) struct Normal(pub(super) Normalise);

/// How long a write waits for a shared store, and what comes then.
pub(crate) struct Hold {
    pub(super) limit: Duration,
    pub(super) then: OnDeliveryTimeout,
}

/// What becomes of a write without a fence.
pub(crate) struct NoFence(pub(super) OnFenceError);

/// A type that is written as a string.
fn text<'de, D, T>(from: D, form: &'static str, read: impl FnOnce(&str) -> Result<T, String>) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
{
    struct Text<F>(&'static str, F);

    impl<T, F: FnOnce(&str) -> Result<T, String>> Visitor<'_> for Text<F> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            self.1(text).map_err(E::custom)
        }
    }

    from.deserialize_str(Text(form, read))
}

/// A list of strings, each of which must be fit.
fn list<'de, D>(from: D, form: &'static str, fit: impl Fn(&str) -> Result<(), String>) -> Result<Vec<String>, D::Error>
where
    D: Deserializer<'de>,
{
    struct Strings<F>(&'static str, F);
    struct One<'a, F>(&'static str, &'a F);

    impl<'de, F: Fn(&str) -> Result<(), String>> Visitor<'de> for Strings<F> {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<String>, A::Error> {
            let mut all = Vec::new();
            while let Some(one) = seq.next_element_seed(One(self.0, &self.1))? {
                all.push(one);
            }
            Ok(all)
        }
    }

    impl<'de, F: Fn(&str) -> Result<(), String>> serde::de::DeserializeSeed<'de> for One<'_, F> {
        type Value = String;

        fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<String, D::Error> {
            text(from, self.0, |text| self.1(text).map(|()| text.to_owned()))
        }
    }

    from.deserialize_seq(Strings(form, fit))
}

const SPAN: &str = "a length of time such as \"60s\"";

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        text(from, SPAN, |text| match span(text) {
            Some(span) => Ok(Self(span)),
            None => {
                Err(format!("`{text}` is not a length of time; one is written \"250ms\", \"60s\", \"5m\", \"1h30m\" or \"2d\""))
            }
        })
    }
}

/// Whole numbers, each with its unit, the larger unit first and none twice.
fn span(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
    let (mut rest, mut units, mut millis) = (text, &UNITS[..], 0u64);
    while !rest.is_empty() || millis == 0 && units.len() == UNITS.len() {
        let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let (unit, tail) = tail.split_at(tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len()));
        let at = units.iter().position(|(name, _)| *name == unit)?;
        millis = number.parse::<u64>().ok()?.checked_mul(units[at].1)?.checked_add(millis)?;
        (rest, units) = (tail, &units[at + 1..]);
    }
    Some(Duration::from_millis(millis))
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl Visitor<'_> for Bytes {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"1MiB\", or a whole number of bytes")
            }

            fn visit_u64<E: Error>(self, bytes: u64) -> Result<Size, E> {
                usize::try_from(bytes).map(Size).map_err(|_| E::invalid_value(Unexpected::Unsigned(bytes), &self))
            }

            fn visit_i64<E: Error>(self, bytes: i64) -> Result<Size, E> {
                usize::try_from(bytes).map(Size).map_err(|_| E::invalid_value(Unexpected::Signed(bytes), &self))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Size, E> {
                let units = "a whole number, alone or with KiB, MiB, GiB, KB, MB or GB";
                size(text).map(Size).ok_or_else(|| E::custom(format_args!("`{text}` is not a size; one is {units}")))
            }
        }

        from.deserialize_any(Bytes)
    }
}

fn size(text: &str) -> Option<usize> {
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

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Any;

        impl Visitor<'_> for Any {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number such as 0.5")
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Number, E> {
                Ok(Number(number))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Number, E> {
                Ok(Number(number as f64))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Number, E> {
                Ok(Number(number as f64))
            }
        }

        from.deserialize_any(Any)
    }
}

/// A table whose names mean something, read into pairs; a name that means what one before it meant is refused.
struct Pairs<K, V> {
    form: &'static str,
    key: fn(&str) -> Result<K, String>,
    value: std::marker::PhantomData<V>,
}

impl<'de, K: PartialEq + fmt::Display, V: Deserialize<'de>> Visitor<'de> for Pairs<K, V> {
    type Value = Vec<(K, V)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.form)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(key) = map.next_key_seed(Name(self.form, self.key))? {
            if all.iter().any(|(known, _)| *known == key) {
                return Err(A::Error::custom(format_args!("`{key}` stands here twice")));
            }
            all.push((key, map.next_value()?));
        }
        Ok(all)
    }
}

/// The name of a pair. YAML has numbers for names, too.
struct Name<K>(&'static str, fn(&str) -> Result<K, String>);

impl<'de, K> serde::de::DeserializeSeed<'de> for Name<K> {
    type Value = K;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<K, D::Error> {
        from.deserialize_any(self)
    }
}

impl<K> Visitor<'_> for Name<K> {
    type Value = K;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<K, E> {
        self.1(text).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<K, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<K, E> {
        self.visit_str(&number.to_string())
    }
}

impl<'de> Deserialize<'de> for Statuses {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let form = "a table of statuses such as { 404 = \"5s\" }";
        let key = |text: &str| match text.parse::<StatusCode>() {
            Ok(status) => Ok(status.as_u16()),
            Err(_) => Err(format!("`{text}` is not a status; one is a number from 100 to 999, such as 404")),
        };
        let pairs: Vec<(u16, Span)> = from.deserialize_map(Pairs { form, key, value: std::marker::PhantomData })?;
        let known = |(code, Span(ttl))| (StatusCode::from_u16(code).unwrap_or_default(), ttl);
        Ok(Self(pairs.into_iter().map(known).collect()))
    }
}

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        list(from, "a list of namespaces such as [\"t\", \"t:{table}\"]", |_| Ok(())).map(Self)
    }
}

impl<'de> Deserialize<'de> for ByMethod {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let form = "a table of methods such as { DELETE = [\"t\"] }";
        let key = |text: &str| match text.parse::<Method>() {
            // Methods have a case (RFC 9110, section 9.1), and nobody has ever meant one in small letters.
            Ok(method) if !text.contains(|c: char| c.is_ascii_lowercase()) => Ok(method),
            _ => Err(format!("`{text}` is not a method; one is written in capitals, such as DELETE")),
        };
        from.deserialize_map(Pairs { form, key, value: std::marker::PhantomData }).map(Self)
    }
}

impl<'de> Deserialize<'de> for Who {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            by: Who,
            #[serde(default)]
            required: bool,
        }

        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Who;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"bearer\", \"cookie:NAME\", \"header:NAME\", or { by = one of these, required = true }")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Who, E> {
                let found = match text.split_once(':') {
                    None if text == "bearer" => Some(Identity::bearer()),
                    Some(("cookie", name)) if is_token(name) => Some(Identity::cookie(name)),
                    Some(("header", name)) if is_token(name) => Some(Identity::header(name)),
                    _ => None,
                };
                found.map(Who).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Who, A::Error> {
                let Table { by, required } = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(if required { Who(by.0.required()) } else { by })
            }
        }

        from.deserialize_any(Either)
    }
}

impl<'de> Deserialize<'de> for Params {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Names(Vec<String>);

        impl<'de> Deserialize<'de> for Names {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let fit = |name: &str| match is_query_name(name) {
                    true => Ok(()),
                    false => Err(format!("`{name}` names no query parameter: decoded, with at most one `*`, at its end")),
                };
                list(from, "a list of query parameters such as [\"page\", \"utm_*\"]", fit).map(Self)
            }
        }

        struct Variance(NoVarySearch);

        impl<'de> Deserialize<'de> for Variance {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                text(from, "a value of No-Vary-Search such as \"key-order\"", |text| {
                    let form = "such as 'key-order, params=(\"utm_source\")'";
                    NoVarySearch::parse(text).map(Self).ok_or_else(|| format!("`{text}` is no value of No-Vary-Search, {form}"))
                })
            }
        }

        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            only: Option<Names>,
            without: Option<Names>,
            no_vary_search: Option<Variance>,
        }

        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Params;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"sorted\", \"as-sent\", { only = [\"page\"] }, { without = [\"utm_*\"] } or { no_vary_search = \"key-order\" }")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Params, E> {
                match text {
                    "sorted" => Ok(Params::Sorted),
                    "as-sent" => Ok(Params::AsSent),
                    _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Params, A::Error> {
                match Table::deserialize(MapAccessDeserializer::new(map))? {
                    Table { only: Some(Names(names)), without: None, no_vary_search: None } => Ok(Params::Only(names)),
                    Table { only: None, without: Some(Names(names)), no_vary_search: None } => Ok(Params::Without(names)),
                    Table { only: None, without: None, no_vary_search: Some(Variance(variance)) } => Ok(Params::By(variance)),
                    _ => Err(A::Error::invalid_value(Unexpected::Other("a table of several or none"), &self)),
                }
            }
        }

        from.deserialize_any(Either)
    }
}

/// Reads one of a few words.
fn word<'de, D: Deserializer<'de>, T: Copy>(from: D, form: &'static str, words: &[(&str, T)]) -> Result<T, D::Error> {
    text(from, form, |text| {
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, means)| *means);
        found.ok_or_else(|| format!("`{text}` is none of {form}"))
    })
}

impl<'de> Deserialize<'de> for Normal {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reduce(Weights);

        impl<'de> Deserialize<'de> for Reduce {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let words = [("verbatim", Weights::Verbatim), ("ordered", Weights::Ordered), ("unordered", Weights::Unordered)];
                word(from, "\"verbatim\", \"ordered\", \"unordered\"", &words).map(Self)
            }
        }

        #[derive(Deserialize)]
        #[serde(deny_unknown_fields, expecting = "a table such as { accept_encoding = \"ordered\" }")]
        struct Table {
            lists: Option<bool>,
            accept_encoding: Option<Reduce>,
            accept_language: Option<Reduce>,
            select_language: Option<bool>,
        }

        let Table { lists, accept_encoding, accept_language, select_language } = Table::deserialize(from)?;
        let mut normalise = Normalise::rfc();
        normalise.lists = lists.unwrap_or(normalise.lists);
        normalise.accept_encoding = accept_encoding.map_or(normalise.accept_encoding, |reduce| reduce.0);
        normalise.accept_language = accept_language.map_or(normalise.accept_language, |reduce| reduce.0);
        normalise.select_language = select_language.unwrap_or(normalise.select_language);
        Ok(Self(normalise))
    }
}

impl<'de> Deserialize<'de> for Hold {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Then(OnDeliveryTimeout);

        impl<'de> Deserialize<'de> for Then {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let words = [("acknowledge", OnDeliveryTimeout::Respond), ("reject", OnDeliveryTimeout::Reject)];
                word(from, "\"acknowledge\", \"reject\"", &words).map(Self)
            }
        }

        #[derive(Deserialize)]
        #[serde(deny_unknown_fields, expecting = "a table such as { limit = \"500ms\", then = \"reject\" }")]
        struct Table {
            limit: Span,
            then: Then,
        }

        let Table { limit, then } = Table::deserialize(from)?;
        Ok(Self { limit: limit.0, then: then.0 })
    }
}

impl<'de> Deserialize<'de> for NoFence {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let words = [("reject", OnFenceError::Reject), ("proceed", OnFenceError::Proceed)];
        word(from, "\"reject\", \"proceed\"", &words).map(Self)
    }
}

impl<'de> Deserialize<'de> for HeaderNames {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let fit = |name: &str| match HeaderName::from_bytes(name.as_bytes()) {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("`{name}` is not the name of a header field, such as accept-language")),
        };
        list(from, "a list of header fields such as [\"accept-language\"]", fit).map(Self)
    }
}

impl<'de> Deserialize<'de> for CookieNames {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let fit = |name: &str| match is_token(name) {
            true => Ok(()),
            false => Err(format!("`{name}` is not the name of a cookie, such as theme")),
        };
        list(from, "a list of cookies such as [\"theme\"]", fit).map(Self)
    }
}

/// What the names of fields and of cookies are made of (RFC 9110, section 5.6.2; RFC 6265, section 4.1.1).
fn is_token(name: &str) -> bool {
    HeaderName::from_bytes(name.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use crate::rules::value::{size, span};

    #[test]
    fn lengths_of_time_have_units_the_larger_first() {
        for (text, millis) in [
            ("0s", Some(0)),
            ("250ms", Some(250)),
            ("60s", Some(60_000)),
            ("5m", Some(300_000)),
            ("1h30m", Some(5_400_000)),
            ("2d", Some(172_800_000)),
            ("1m1ms", Some(60_001)),
            ("", None),
            ("60", None),
            ("s", None),
            ("1.5s", None),
            ("-1s", None),
            ("+1s", None),
            ("1 s", None),
            ("30m1h", None),
            ("1s1s", None),
            ("1S", None),
            ("99999999999999999d", None),
            ("18446744073709551616ms", None),
        ] {
            assert_eq!(span(text).map(|span| span.as_millis()), millis, "{text:?}");
        }
    }
    #[test]
    fn sizes_are_whole_numbers_with_or_without_a_unit() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("64KiB", Some(65_536)),
            ("1MB", Some(1_000_000)),
            ("12B", Some(12)),
            ("", None),
            ("MiB", None),
            ("1mib", None),
            ("1 MiB", None),
            ("+1", None),
            ("1.5MiB", None),
            ("18446744073709551615GiB", None),
        ] {
            assert_eq!(size(text), bytes, "{text:?}");
        }
    }
}
