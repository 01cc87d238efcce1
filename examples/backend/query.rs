//! A query string, read into a question to the database: filters, order, page, or statistics by a column.
//!
//! `?carrier=UA&dep_delay.min=60&sort=-dep_delay&limit=20&offset=40`, or `?stats=carrier&origin=JFK`.
//!
//! The same reading says which writes can change the answer: [`Question::namespaces`] and [`touched`] are two halves of one rule.
//! A list that is narrowed by `carrier=UA` hangs on `db_query:flights:carrier=UA`; one that is not narrowed, on `db_query:flights:any`.
//! A new row clears the first for each of its columns, and the second. So a list that could show the row is always cleared, and
//! lists of other carriers, which could not, stay. All of them hang on `db_query:flights` besides, for updates and deletes.

use rusqlite::types::Value as Sql;

use super::{
    caching,
    error::{Error, bad_request},
    schema::{Column, Kind, Table},
};

/// The most rows that one answer holds.
pub(crate) const MOST_ROWS: u32 = 500;

/// What is asked of a table.
pub(crate) struct Question {
    pub(crate) table: &'static Table,
    pub(crate) filters: Vec<Filter>,
    /// `ORDER BY` these words, all of them ours.
    pub(crate) order: String,
    pub(crate) limit: u32,
    pub(crate) offset: u32,
    pub(crate) stats: Option<&'static str>,
}

pub(crate) struct Filter {
    pub(crate) column: &'static Column,
    pub(crate) operator: &'static str,
    pub(crate) value: Sql,
}

impl Question {
    pub(crate) fn parse(table: &'static Table, query: &str) -> Result<Self, Error> {
        let mut question = Self { table, filters: Vec::new(), order: "id".into(), limit: 50, offset: 0, stats: None };
        let mut seen = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if seen.contains(&name) {
                return Err(bad_request(format!("`{name}` is given twice")));
            }
            question.take(&name, &value)?;
            seen.push(name);
        }
        Ok(question)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), Error> {
        match name {
            "sort" => self.order = order(self.table, value)?,
            "limit" => self.limit = page_size(value)?,
            "offset" => self.offset = count(name, value)?,
            "stats" => self.stats = Some(group(self.table, value)?),
            _ => self.filters.push(filter(self.table, name, value)?),
        }
        Ok(())
    }

    /// ` WHERE …` with a mark for each value, in the order of [`values`](Self::values).
    pub(crate) fn clause(&self) -> String {
        let condition = |filter: &Filter| {
            let (table, column) = (self.table.name, filter.column.name);
            format!("{table}.{column} {} ?", filter.operator)
        };
        match self.filters.as_slice() {
            [] => String::new(),
            some => {
                let conditions: Vec<_> = some.iter().map(condition).collect();
                format!(" WHERE {}", conditions.join(" AND "))
            }
        }
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &Sql> {
        self.filters.iter().map(|filter| &filter.value)
    }

    /// The namespaces whose clearing makes the answer to this question old.
    pub(crate) fn namespaces(&self) -> Vec<String> {
        let name = self.table.name;
        let equal = |filter: &&Filter| filter.operator == "=";
        let narrowed = self.filters.iter().filter(equal).find_map(|filter| narrow(name, filter.column, &filter.value));
        let mut all = vec![narrowed.unwrap_or_else(|| open(name))];
        if self.stats.is_some() {
            all.push(joined());
        }
        all
    }
}

/// What a read of `/tables/{table}?{query}` hangs on; nothing if the request is one that will be refused.
pub(crate) fn namespaces(table: &str, query: &str) -> Vec<String> {
    let question = Table::named(table).and_then(|table| Question::parse(table, query));
    question.map(|question| question.namespaces()).unwrap_or_default()
}

/// What a new row touches: the lists that could show it.
pub(crate) fn touched(table: &Table, row: &[(&'static Column, Sql)]) -> Vec<String> {
    let narrowed = row.iter().filter_map(|(column, value)| narrow(table.name, column, value));
    narrowed.chain([open(table.name), joined()]).collect()
}

/// Everything that was read from a table, and every statistic that may have joined it.
pub(crate) fn whole(table: &str) -> Vec<String> {
    vec![caching::name(&["db_query", table]), joined()]
}

/// Lists that are not narrowed.
fn open(table: &str) -> String {
    caching::name(&["db_query", table, "any"])
}

/// Statistics, which join flights with weather, planes and airlines.
fn joined() -> String {
    caching::name(&["db_query", "joined"])
}

/// A namespace for one value of one column, if the value is fit to stand in a name. If it is not, the list counts as open.
fn narrow(table: &str, column: &Column, value: &Sql) -> Option<String> {
    let value = match value {
        Sql::Integer(number) => number.to_string(),
        Sql::Text(text) if text.len() <= 40 && text.bytes().all(|byte| byte.is_ascii_graphic()) => text.clone(),
        _ => return None,
    };
    Some(caching::name(&["db_query", table, &format!("{}={value}", column.name)]))
}

fn filter(table: &'static Table, name: &str, value: &str) -> Result<Filter, Error> {
    let (name, operator) = match name.split_once('.') {
        None => (name, "="),
        Some((name, "min")) => (name, ">="),
        Some((name, "max")) => (name, "<="),
        Some((name, other)) => {
            return Err(bad_request(format!("`{name}.{other}`: after the point, `min` or `max`")));
        }
    };
    let column = table.column(name)?;
    if column.kind == Kind::Real && operator == "=" {
        return Err(bad_request(format!("`{name}` is a measurement: ask for `{name}.min` and `{name}.max`")));
    }
    Ok(Filter { column, operator, value: column.parse(value)? })
}

fn order(table: &Table, value: &str) -> Result<String, Error> {
    let (name, direction) = value.strip_prefix('-').map_or((value, "ASC"), |name| (name, "DESC"));
    let name = if name == "id" { "id" } else { table.column(name)?.name };
    Ok(format!("{name} {direction} NULLS LAST, id {direction}"))
}

fn group(table: &Table, value: &str) -> Result<&'static str, Error> {
    if table.groups.is_empty() {
        return Err(bad_request(format!("there are no statistics of `{}`", table.name)));
    }
    let known = table.groups.iter().find(|group| **group == value).copied();
    known.ok_or_else(|| {
        let groups = table.groups.join(", ");
        bad_request(format!("statistics of `{}` are by {groups}, not by `{value}`", table.name))
    })
}

fn page_size(value: &str) -> Result<u32, Error> {
    let size = value.parse().ok().filter(|size| (1..=MOST_ROWS).contains(size));
    size.ok_or_else(|| bad_request(format!("`limit` takes a number from 1 to {MOST_ROWS}, not `{value}`")))
}

fn count(name: &str, value: &str) -> Result<u32, Error> {
    value.parse().map_err(|_| bad_request(format!("`{name}` takes a whole number, not `{value}`")))
}
