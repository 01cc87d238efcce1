//! The table of a file: routes, fallback and credential fields.

use std::fmt;

use http::HeaderName;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use super::{
    form::As,
    place::{PlaceCell, PlaceInFile},
    rule::{FileRule, list},
};
use crate::{
    key::CredentialFields,
    rules::{
        error::{RulePart, RulesError},
        rule::Rule,
        table::Rules,
    },
};

/// Reads the whole file.
pub(super) struct TableOfRules<'a>(pub(super) &'a PlaceCell);

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Key {
    Route,
    Fallback,
    CredentialFields,
}

/// Changes to [`CredentialFields::default`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { add = [\"x-tenant-token\"], remove = [\"job-token\"] }")]
pub(super) struct FileCredentials {
    /// Fields that identify the client, beside the default ones.
    add: Option<As<Vec<HeaderName>>>,
    /// Default fields that do not identify the client.
    remove: Option<As<Vec<HeaderName>>>,
}

impl<'de> DeserializeSeed<'de> for TableOfRules<'_> {
    type Value = Rules;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Rules, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TableOfRules<'_> {
    type Value = Rules;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of `route`, `fallback` and `credential_fields`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Rules, A::Error> {
        let (mut routes, mut fallback, mut fields) = (None, None, None);
        while let Some(key) = table.next_key()? {
            match key {
                Key::Route if routes.is_some() => return Err(A::Error::duplicate_field("route")),
                Key::Fallback if fallback.is_some() => return Err(A::Error::duplicate_field("fallback")),
                Key::CredentialFields if fields.is_some() => return Err(A::Error::duplicate_field("credential_fields")),
                Key::Route => routes = Some(table.next_value_seed(Routes(self.0))?),
                Key::Fallback => fallback = Some(table.next_value_seed(Fallback(self.0))?),
                Key::CredentialFields => fields = Some(table.next_value::<Option<FileCredentials>>()?),
            }
        }
        let mut rules = routes.unwrap_or_default();
        if let Some(FileCredentials { add, remove }) = fields.flatten() {
            rules = rules.credential_fields(CredentialFields::default().with(list(add)).without(list(remove)));
        }
        match fallback.flatten() {
            Some(rule) => rules.try_fallback(rule).map_err(A::Error::custom),
            None => Ok(rules),
        }
    }
}

/// Reads the list of routes.
struct Routes<'a>(&'a PlaceCell);

impl<'de> DeserializeSeed<'de> for Routes<'_> {
    type Value = Rules;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Rules, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Routes<'_> {
    type Value = Rules;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of routes; in TOML each begins with `[[route]]`")
    }

    fn visit_unit<E: Error>(self) -> Result<Rules, E> {
        Ok(Rules::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut routes: A) -> Result<Rules, A::Error> {
        let mut rules = Rules::new();
        for number in 0.. {
            match routes.next_element_seed(Route { rules: &rules, number, place: self.0 })? {
                Some(longer) => rules = longer,
                None => break,
            }
        }
        Ok(rules)
    }
}

/// Adds a route to the table of those before it, so that an error has the place of the route.
struct Route<'a> {
    rules: &'a Rules,
    number: usize,
    place: &'a PlaceCell,
}

impl Route<'_> {
    /// Notes the part of the route that has a fault.
    fn at(&self, part: Option<&RulePart>) {
        self.place.set(part.map(|part| PlaceInFile { route: Some(self.number), part: part.clone() }));
    }
}

impl<'de> DeserializeSeed<'de> for Route<'_> {
    type Value = Rules;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Rules, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Route<'_> {
    type Value = Rules;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table such as { path = \"/t/{table}\", ttl = \"60s\" }")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Rules, A::Error> {
        let mut file = FileRule::deserialize(MapAccessDeserializer::new(map))?;
        let Some(path) = file.path.take() else {
            return Err(A::Error::custom("a route has a `path`, such as \"/t/{table}\""));
        };
        let rule = file.rule().map_err(|fault| {
            self.at(Some(&fault.part));
            A::Error::custom(format_args!("route {path:?}: {fault}"))
        })?;
        self.rules.clone().try_route(&path, rule).map_err(|error: RulesError| {
            self.at(error.part());
            A::Error::custom(error)
        })
    }
}

/// Reads the fallback.
struct Fallback<'a>(&'a PlaceCell);

impl Fallback<'_> {
    fn at(&self, part: Option<&RulePart>) {
        self.0.set(part.map(|part| PlaceInFile { route: None, part: part.clone() }));
    }
}

impl<'de> DeserializeSeed<'de> for Fallback<'_> {
    type Value = Option<Rule>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Option<Rule>, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Fallback<'_> {
    type Value = Option<Rule>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table such as { ttl = \"60s\" }")
    }

    fn visit_unit<E: Error>(self) -> Result<Option<Rule>, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Option<Rule>, A::Error> {
        let file = FileRule::deserialize(MapAccessDeserializer::new(map))?;
        if file.path.is_some() {
            self.at(Some(&RulePart::Pattern));
            return Err(A::Error::custom("`fallback` has no `path`: it covers what no route matches"));
        }
        let rule = file.rule().map_err(|fault| {
            self.at(Some(&fault.part));
            A::Error::custom(format_args!("fallback: {fault}"))
        })?;
        Rules::new().try_fallback(rule.clone()).map_err(|error| {
            self.at(error.part());
            A::Error::custom(error)
        })?;
        Ok(Some(rule))
    }
}
