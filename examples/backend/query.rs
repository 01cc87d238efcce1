//! Query strings of `/tables/{table}`: filters, order and page, or statistics by a column.
//!
//! `?carrier=UA&dep_delay.min=60&sort=-dep_delay&limit=20&offset=40`, or `?stats=carrier&origin=JFK`.
//!
//! A query also has namespaces. A list with the filter `carrier=UA` has `db_query:flights:carrier=UA`, a list without a filter has
//! `db_query:flights:any`. A new row invalidates the namespace of each of its columns, and `any`. Thus every list that could contain
//! the row is invalidated, and lists of other carriers are not. An update or a delete invalidates `db_query:flights`, the parent of all.

use super::{
    caching,
    db::Sql,
    error::{Error, bad_request},
    schema::{Column, Kind, Table},
};

/// The highest `limit`.
pub(crate) const MAX_ROWS: u32 = 500;

/// A query for rows or statistics of a table.
pub(crate) struct TableQuery {
    pub(crate) table: &'static Table,
    pub(crate) filters: Vec<Filter>,
    /// The text after `ORDER BY`, without any part of the request.
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

impl TableQuery {
    pub(crate) fn parse(table: &'static Table, query: &str) -> Result<Self, Error> {
        let mut table_query = Self { table, filters: Vec::new(), order: "id".into(), limit: 50, offset: 0, stats: None };
        let mut seen = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if seen.contains(&name) {
                return Err(bad_request(format!("`{name}` occurs twice")));
            }
            table_query.take(&name, &value)?;
            seen.push(name);
        }
        Ok(table_query)
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

    /// Returns ` WHERE …` with the parameters `$1`, `$2` and so on for the [`values`](Self::values).
    pub(crate) fn clause(&self) -> String {
        let condition = |(number, filter): (usize, &Filter)| {
            let (table, column) = (self.table.name, filter.column.name);
            format!("{table}.{column} {} ${number}", filter.operator)
        };
        match self.filters.as_slice() {
            [] => String::new(),
            some => {
                let conditions: Vec<_> = (1..).zip(some).map(condition).collect();
                format!(" WHERE {}", conditions.join(" AND "))
            }
        }
    }

    pub(crate) fn values(&self) -> Vec<Sql> {
        self.filters.iter().map(|filter| filter.value.clone()).collect()
    }

    /// Returns the namespaces whose invalidation invalidates the response.
    pub(crate) fn namespaces(&self) -> Vec<String> {
        let name = self.table.name;
        let equal = |filter: &&Filter| filter.operator == "=";
        let filtered = self.filters.iter().filter(equal).find_map(|filter| filtered_by(name, filter.column, &filter.value));
        let mut all = vec![filtered.unwrap_or_else(|| unfiltered(name))];
        if self.stats.is_some() {
            all.push(joined());
        }
        all
    }
}

/// Returns the namespaces of `/tables/{table}?{query}`, none if the request is invalid.
pub(crate) fn namespaces(table: &str, query: &str) -> Vec<String> {
    let table_query = Table::named(table).and_then(|table| TableQuery::parse(table, query));
    table_query.map(|table_query| table_query.namespaces()).unwrap_or_default()
}

/// Returns the namespaces of all lists that could contain a new row.
pub(crate) fn affected_lists(table: &Table, row: &[(&'static Column, Sql)]) -> Vec<String> {
    let filtered = row.iter().filter_map(|(column, value)| filtered_by(table.name, column, value));
    filtered.chain([unfiltered(table.name), joined()]).collect()
}

/// Returns the namespaces of all responses that may depend on a table.
pub(crate) fn whole_table(table: &str) -> Vec<String> {
    vec![caching::namespace(&["db_query", table]), joined()]
}

/// Returns the namespace of lists without a filter.
fn unfiltered(table: &str) -> String {
    caching::namespace(&["db_query", table, "any"])
}

/// Returns the namespace of statistics, which join all tables.
fn joined() -> String {
    caching::namespace(&["db_query", "joined"])
}

/// Returns the namespace of lists with a filter, if the value can be part of a name.
fn filtered_by(table: &str, column: &Column, value: &Sql) -> Option<String> {
    let value = match value {
        Sql::Integer(number) => number.to_string(),
        Sql::Text(text) if text.len() <= 40 && text.bytes().all(|byte| byte.is_ascii_graphic()) => text.clone(),
        _ => return None,
    };
    Some(caching::namespace(&["db_query", table, &format!("{}={value}", column.name)]))
}

fn filter(table: &'static Table, name: &str, value: &str) -> Result<Filter, Error> {
    let (name, operator) = match name.split_once('.') {
        None => (name, "="),
        Some((name, "min")) => (name, ">="),
        Some((name, "max")) => (name, "<="),
        Some((name, other)) => {
            return Err(bad_request(format!("invalid filter `{name}.{other}`: expected `.min` or `.max`")));
        }
    };
    let column = table.column(name)?;
    if column.kind == Kind::Real && operator == "=" {
        return Err(bad_request(format!("`{name}` is a measurement: filter by `{name}.min` and `{name}.max`")));
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
        return Err(bad_request(format!("`{}` has no statistics", table.name)));
    }
    let known = table.groups.iter().find(|group| **group == value).copied();
    known.ok_or_else(|| {
        let groups = table.groups.join(", ");
        bad_request(format!("invalid `stats={value}`: expected one of {groups}"))
    })
}

fn page_size(value: &str) -> Result<u32, Error> {
    let size = value.parse().ok().filter(|size| (1..=MAX_ROWS).contains(size));
    size.ok_or_else(|| bad_request(format!("invalid `limit={value}`: expected a number from 1 to {MAX_ROWS}")))
}

fn count(name: &str, value: &str) -> Result<u32, Error> {
    value.parse().map_err(|_| bad_request(format!("invalid `{name}={value}`: expected a whole number")))
}
