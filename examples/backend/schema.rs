//! The four tables: columns, lifetimes of responses, and the initial rows.
//!
//! Names in SQL are always `&'static str`s of this file, never parts of a request.

use std::time::Duration;

use serde_json::Value;

use super::{
    db::{Dialect, Sql},
    error::{Error, bad_request},
};

/// The type of a column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Text,
    Integer,
    Real,
}

pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) required: bool,
}

pub(crate) struct Table {
    pub(crate) name: &'static str,
    /// The lifetime of cached responses.
    pub(crate) lifetime: Duration,
    pub(crate) columns: &'static [Column],
    /// The columns of a unique constraint.
    pub(crate) unique: &'static [&'static str],
    /// The columns by which statistics can be grouped.
    pub(crate) groups: &'static [&'static str],
    /// The initial rows as gzipped CSV, see `data/SOURCE.md`.
    pub(crate) rows: &'static [u8],
}

pub(crate) static TABLES: [Table; 4] = [
    Table {
        name: "flights",
        lifetime: Duration::from_secs(60),
        columns: &[
            integer("day").required(),
            integer("dep_time"),
            integer("sched_dep_time"),
            integer("dep_delay"),
            integer("arr_delay"),
            text("carrier").required(),
            integer("flight").required(),
            text("tailnum"),
            text("origin").required(),
            text("dest").required(),
            integer("air_time"),
            integer("distance"),
            integer("hour"),
        ],
        unique: &[],
        groups: &["carrier", "origin", "dest", "day", "hour"],
        rows: include_bytes!("data/flights.csv.gz"),
    },
    Table {
        name: "weather",
        lifetime: Duration::from_secs(120),
        columns: &[
            text("origin").required(),
            integer("day").required(),
            integer("hour").required(),
            real("temp"),
            real("humid"),
            integer("wind_dir"),
            real("wind_speed"),
            real("precip"),
            real("pressure"),
            real("visib"),
        ],
        unique: &["origin", "day", "hour"],
        groups: &[],
        rows: include_bytes!("data/weather.csv.gz"),
    },
    Table {
        name: "planes",
        lifetime: Duration::from_secs(300),
        columns: &[
            text("tailnum").required(),
            integer("year"),
            text("type"),
            text("manufacturer"),
            text("model"),
            integer("engines"),
            integer("seats"),
            integer("speed"),
            text("engine"),
        ],
        unique: &["tailnum"],
        groups: &[],
        rows: include_bytes!("data/planes.csv.gz"),
    },
    Table {
        name: "airlines",
        lifetime: Duration::from_secs(300),
        columns: &[text("carrier").required(), text("name").required()],
        unique: &["carrier"],
        groups: &[],
        rows: include_bytes!("data/airlines.csv.gz"),
    },
];

const fn text(name: &'static str) -> Column {
    Column { name, kind: Kind::Text, required: false }
}

const fn integer(name: &'static str) -> Column {
    Column { name, kind: Kind::Integer, required: false }
}

const fn real(name: &'static str) -> Column {
    Column { name, kind: Kind::Real, required: false }
}

impl Table {
    pub(crate) fn named(name: &str) -> Result<&'static Self, Error> {
        let names = || TABLES.each_ref().map(|table| table.name).join(", ");
        TABLES
            .iter()
            .find(|table| table.name == name)
            .ok_or_else(|| Error::NotFound(format!("no table `{name}`: expected one of {}", names())))
    }

    pub(crate) fn column(&self, name: &str) -> Result<&'static Column, Error> {
        let names = || self.columns.iter().map(|column| column.name).collect::<Vec<_>>().join(", ");
        self.columns
            .iter()
            .find(|column| column.name == name)
            .ok_or_else(|| bad_request(format!("`{}` has no column `{name}`: expected one of {}", self.name, names())))
    }
}

impl Column {
    const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// Parses a value in a URL or a CSV file.
    pub(crate) fn parse(&self, text: &str) -> Result<Sql, Error> {
        let value = match self.kind {
            Kind::Text => Some(Sql::Text(text.to_owned())),
            Kind::Integer => text.parse().ok().map(Sql::Integer),
            Kind::Real => text.parse().ok().filter(|number: &f64| number.is_finite()).map(Sql::Real),
        };
        value.ok_or_else(|| bad_request(format!("invalid `{}`: expected {}, not `{text}`", self.name, self.kind.describe())))
    }

    /// Converts a value in a JSON body.
    pub(crate) fn accept(&self, value: &Value) -> Result<Sql, Error> {
        match (self.kind, value) {
            (_, Value::Null) if !self.required => Some(Sql::Null),
            (Kind::Text, Value::String(text)) => Some(Sql::Text(text.clone())),
            (Kind::Integer, number) => number.as_i64().map(Sql::Integer),
            (Kind::Real, number) => number.as_f64().map(Sql::Real),
            _ => None,
        }
        .ok_or_else(|| bad_request(format!("invalid `{}`: expected {}, not {value}", self.name, self.kind.describe())))
    }
}

impl Kind {
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Integer => "a whole number",
            Self::Real => "a number",
        }
    }

    /// Returns the type in SQL.
    pub(crate) fn sql(self, dialect: &Dialect) -> &'static str {
        match self {
            Self::Text => dialect.text,
            Self::Integer => "BIGINT",
            Self::Real => "DOUBLE PRECISION",
        }
    }
}
