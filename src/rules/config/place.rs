//! The place of a fault that shows when a rule is complete.

use std::{cell::Cell, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::rules::error::RulePart;

/// The place of the fault with which reading has ended, if it has a part.
pub(super) type PlaceCell = Cell<Option<PlaceInFile>>;

/// A part of a rule of a file.
#[derive(Debug)]
pub(super) struct PlaceInFile {
    /// The number of the route. `None` for the fallback.
    pub(super) route: Option<usize>,
    pub(super) part: RulePart,
}

/// The names of options in a file that are not the names of their methods.
const FILE_NAMES: [(&str, &[&str]); 10] = [
    ("delivery_timeout", &["hold"]),
    ("distributed_lock", &["fill_across_processes"]),
    ("graphql_document", &["graphql_documents"]),
    ("namespace", &["namespaces"]),
    ("refresh_ahead", &["early_refresh"]),
    ("response_rule", &["response_rules"]),
    ("rpc_status", &["rpc_statuses"]),
    ("skip_on_client_error", &["spare_client_errors"]),
    ("skip_on_error", &["spare_errors"]),
    ("status", &["statuses"]),
];

/// The options that are lists of texts, or tables of such lists.
const TEXTS: [&str; 4] = ["namespaces", "invalidates", "invalidates_on", "graphql_documents"];

type Place = Range<usize>;

impl PlaceInFile {
    /// Returns the place of the part in a text, in bytes. Returns `None` if the text does not have the part.
    pub(super) fn find(&self, text: &str) -> Option<Place> {
        let file = DeTable::parse(text).ok()?.into_inner();
        let rule = match self.route {
            Some(number) => file.get("route")?.get_ref().as_array()?.get(number)?,
            None => file.get("fallback")?,
        };
        let table = rule.get_ref().as_table()?;
        match &self.part {
            RulePart::Pattern => Some(value(table, "path")?.span()),
            RulePart::Option(name) => Some(value(table, name)?.span()),
            RulePart::Name(option, name) => {
                let names = value(table, option)?.get_ref().as_table()?;
                names.keys().find(|key| key.get_ref() == name).map(Spanned::span)
            }
            RulePart::Text(text) => TEXTS.iter().find_map(|list| text_in(value(table, list)?, text)),
            RulePart::OfResponseRule { number, option, text } => {
                let rule = value(table, "response_rule")?.get_ref().as_array()?.get(*number)?;
                let value = rule.get_ref().as_table()?.get(*option)?;
                text.as_ref().map_or_else(|| Some(value.span()), |text| text_in(value, text))
            }
            RulePart::Last(names) => {
                let mut places: Vec<_> = names.iter().filter_map(|name| value(table, name)).map(Spanned::span).collect();
                places.sort_by_key(|place| place.start);
                places.pop().filter(|_| !places.is_empty())
            }
        }
    }
}

/// Returns the value of an option, under the name that it has in the file.
fn value<'a>(table: &'a DeTable<'_>, name: &str) -> Option<&'a Spanned<DeValue<'a>>> {
    let others = FILE_NAMES.iter().find(|(method, _)| *method == name).map_or(&[][..], |(_, others)| others);
    [name].iter().chain(others).find_map(|name| table.get(*name))
}

/// Returns the place of a text in a list, or in a table of lists.
fn text_in(value: &Spanned<DeValue<'_>>, text: &str) -> Option<Place> {
    match value.get_ref() {
        DeValue::String(own) => (own == text).then(|| value.span()),
        DeValue::Array(items) => items.iter().find_map(|item| text_in(item, text)),
        DeValue::Table(lists) => lists.values().find_map(|list| text_in(list, text)),
        _ => None,
    }
}
