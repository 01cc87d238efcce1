//! The namespaces of changed rows.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    error::{PostgresError, PostgresErrorKind},
    pgoutput::{Message, OldRow, Relation, Row, Value},
    template::{Known, Named, Template},
};
use crate::namespace::Namespace;

/// A table with the templates of its namespaces.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) schema: String,
    pub(super) name: String,
    /// The columns that the templates name.
    pub(super) columns: Vec<String>,
    templates: Vec<Template>,
}

impl Table {
    /// Creates a table from `orders` or `schema.orders`.
    pub(super) fn new(table: &str, templates: &[String]) -> Result<Self, PostgresError> {
        let (schema, name) = table.split_once('.').unwrap_or(("public", table));
        let invalid = |why: &str| Err(PostgresError::new(PostgresErrorKind::Mapping, format!("table {table:?}: {why}")));
        if schema.is_empty() || name.is_empty() {
            return invalid("expected `table` or `schema.table`");
        }
        if templates.is_empty() {
            return invalid("it has no namespace: expected a template such as `db_query:{table}`");
        }
        let mut columns = Vec::new();
        let templates =
            templates.iter().map(|template| Template::parse(template, schema, name, &mut columns)).collect::<Result<_, _>>()?;
        Ok(Self { schema: schema.into(), name: name.into(), columns, templates })
    }

    /// Returns the names that cover all rows.
    pub(super) fn whole(&self) -> impl Iterator<Item = Namespace> {
        self.templates.iter().map(|template| template.whole().clone())
    }
}

/// The namespaces to invalidate.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) names: HashSet<Namespace>,
    /// Changed rows and emptied tables.
    pub(super) changes: u64,
    /// Changes whose names are not all known, so that more was invalidated.
    pub(super) fallbacks: u64,
}

/// The tables of one connection, as the server describes them.
#[derive(Debug)]
pub(super) struct Mapping {
    tables: Arc<[Table]>,
    /// The tables by their numbers in the server, also after they are renamed.
    known: HashMap<u32, usize>,
    /// The described tables. `None` if no namespace belongs to a table.
    described: HashMap<u32, Option<Described>>,
    /// The tables of which a change without all its values was logged.
    logged: HashSet<u32>,
}

#[derive(Debug, Clone)]
struct Described {
    table: usize,
    is_full: bool,
    /// For each column that the templates name: its place in a row, and whether the replica identity has it. `None` if the table lacks it.
    columns: Vec<Option<(usize, bool)>>,
}

impl Mapping {
    pub(super) fn new(tables: Arc<[Table]>, known: HashMap<u32, usize>) -> Self {
        Self { tables, known, described: HashMap::new(), logged: HashSet::new() }
    }

    /// Adds the namespaces of a message.
    pub(super) fn add(&mut self, message: &Message<'_>, names: &mut Names) {
        match message {
            Message::Relation(relation) => self.describe(relation),
            Message::Insert { table, new } => self.change(*table, None, Some(new), names),
            Message::Update { table, old, new } => {
                // Without an old row, the replica identity has not changed.
                let old = old.as_ref().map_or(Old::Unchanged(new), Old::Row);
                self.change(*table, Some(old), Some(new), names);
            }
            Message::Delete { table, old } => self.change(*table, Some(Old::Row(old)), None, names),
            Message::Truncate { tables } => tables.iter().for_each(|table| self.truncate(*table, names)),
            Message::Begin { .. } | Message::Commit { .. } | Message::Other => {}
        }
    }

    fn describe(&mut self, relation: &Relation<'_>) {
        let schema = if relation.schema.is_empty() { "pg_catalog" } else { relation.schema };
        let named = self.tables.iter().position(|table| table.schema == schema && table.name == relation.name);
        let described = named.or_else(|| self.known.get(&relation.id).copied()).map(|table| {
            let place = |column: &String| relation.columns.iter().position(|known| known.name == column);
            let place = |column| place(column).map(|at| (at, relation.columns[at].is_key));
            let columns: Vec<_> = self.tables[table].columns.iter().map(place).collect();
            if let Some(missing) = columns.iter().position(Option::is_none) {
                tracing::warn!(
                    table = %format_args!("{schema}.{}", relation.name),
                    column = self.tables[table].columns[missing],
                    "a column of a namespace template is gone: each change of the table invalidates all names of the template. Change the \
                     templates of the listener"
                );
            }
            Described { table, is_full: relation.is_full, columns }
        });
        self.described.insert(relation.id, described);
    }

    /// Adds the names of a changed row: those before the change and those after it.
    fn change(&mut self, table: u32, old: Option<Old<'_>>, new: Option<&Row<'_>>, names: &mut Names) {
        let Some(described) = self.described.get(&table) else { return self.add_everything(names) };
        let Some(described) = described else { return };
        names.changes += 1;
        for template in &self.tables[described.table].templates {
            let before = old.map(|old| template.name(|column| described.before(column, old)));
            let after = new.map(|new| template.name(|column| described.after(column, old, new)));
            for named in [before, after].into_iter().flatten() {
                match named {
                    Named::Name(name) => _ = names.names.insert(name),
                    Named::None => {}
                    Named::Unknown => {
                        names.fallbacks += 1;
                        names.names.insert(template.whole().clone());
                        // A column that is gone was logged before.
                        if described.columns.iter().all(Option::is_some) && self.logged.insert(table) {
                            let Table { schema, name, .. } = &self.tables[described.table];
                            tracing::warn!(
                                table = %format_args!("{schema}.{name}"),
                                namespace = template.whole().as_str(),
                                "the server has not sent all values that name the namespaces of a change, such as a large value that was not \
                                 changed: all names of the template are invalidated. REPLICA IDENTITY FULL sends them. Further changes of this \
                                 kind are only counted"
                            );
                        }
                    }
                }
            }
        }
    }

    fn truncate(&self, table: u32, names: &mut Names) {
        let Some(described) = self.described.get(&table) else { return self.add_everything(names) };
        if let Some(described) = described {
            names.changes += 1;
            names.names.extend(self.tables[described.table].whole());
        }
    }

    /// Adds the names that cover all rows of all tables.
    pub(super) fn add_everything(&self, names: &mut Names) {
        names.fallbacks += 1;
        names.names.extend(everything(&self.tables));
    }
}

/// Returns the names that cover all rows of tables.
pub(super) fn everything(tables: &[Table]) -> HashSet<Namespace> {
    tables.iter().flat_map(Table::whole).collect()
}

/// What is known of a row before its change.
#[derive(Debug, Clone, Copy)]
enum Old<'a> {
    Row(&'a OldRow<'a>),
    /// The replica identity is that of the new row.
    Unchanged(&'a Row<'a>),
}

impl Described {
    /// Returns the value of a column before a change.
    fn before<'a>(&self, column: usize, old: Old<'a>) -> Known<'a> {
        let Some((at, is_key)) = self.columns[column] else { return Known::No };
        match old {
            Old::Row(old) if is_key || !old.is_key => known(old.row.get(at)),
            Old::Unchanged(new) if is_key && !self.is_full => known(new.get(at)),
            Old::Row(_) | Old::Unchanged(_) => Known::No,
        }
    }

    /// Returns the value of a column after a change.
    fn after<'a>(&self, column: usize, old: Option<Old<'a>>, new: &'a Row<'a>) -> Known<'a> {
        match (self.columns[column].and_then(|(at, _)| new.get(at)), old) {
            (Some(Value::Unchanged), Some(old @ Old::Row(_))) => self.before(column, old),
            (value, _) => known(value),
        }
    }
}

fn known<'a>(value: Option<&Value<'a>>) -> Known<'a> {
    match value {
        Some(Value::Text(text)) => Known::Text(text),
        Some(Value::Null) => Known::Null,
        Some(Value::Unchanged) | None => Known::No,
    }
}

#[cfg(test)]
mod tests {
    use super::super::pgoutput::Column;
    use super::*;

    /// Returns the names of changes of a table `orders(id, customer, note)`, with templates of `id` and `customer`.
    fn names(keys: [bool; 3], is_full: bool, message: &Message<'_>) -> (Vec<String>, u64) {
        let templates = ["orders", "order:{id}", "customer:{customer}:orders"].map(str::to_owned);
        let table = Table::new("orders", &templates).expect("a table");
        let mut mapping = Mapping::new(Arc::new([table]), HashMap::new());
        let columns = ["id", "customer", "note"].into_iter().zip(keys).map(|(name, is_key)| Column { is_key, name }).collect();
        let mut names = Names::default();
        mapping.add(&Message::Relation(Relation { id: 7, schema: "public", name: "orders", is_full, columns }), &mut names);
        mapping.add(
            &Message::Relation(Relation { id: 8, schema: "public", name: "other", is_full, columns: Vec::new() }),
            &mut names,
        );
        mapping.add(message, &mut names);
        let mut sorted: Vec<_> = names.names.iter().map(ToString::to_string).collect();
        sorted.sort();
        (sorted, names.fallbacks)
    }

    const KEYS: [bool; 3] = [true, true, false];

    fn row<'a>(values: [&'a str; 3]) -> Row<'a> {
        let value = |text| match text {
            "null" => Value::Null,
            "unchanged" => Value::Unchanged,
            text => Value::Text(text),
        };
        values.map(value).into()
    }

    fn sorted<const N: usize>(names: [&str; N], fallbacks: u64) -> (Vec<String>, u64) {
        let mut names: Vec<_> = names.map(str::to_owned).into();
        names.sort();
        (names, fallbacks)
    }

    #[test]
    fn inserts_and_deletes_name_their_row() {
        let insert = Message::Insert { table: 7, new: row(["1", "2", "null"]) };
        assert_eq!(names(KEYS, false, &insert), sorted(["orders", "order:1", "customer:2:orders"], 0));
        let delete = Message::Delete { table: 7, old: OldRow { is_key: true, row: row(["1", "2", "null"]) } };
        assert_eq!(names(KEYS, false, &delete), sorted(["orders", "order:1", "customer:2:orders"], 0));
        let insert = Message::Insert { table: 7, new: row(["1", "null", ""]) };
        assert_eq!(names(KEYS, false, &insert), sorted(["orders", "order:1"], 0));
    }

    #[test]
    fn updates_name_the_row_before_and_after() {
        let new = || row(["1", "3", "unchanged"]);
        let old = |is_key| Some(OldRow { is_key, row: row(["1", "2", "null"]) });
        let moved = sorted(["orders", "order:1", "customer:2:orders", "customer:3:orders"], 0);
        assert_eq!(names(KEYS, false, &Message::Update { table: 7, old: old(true), new: new() }), moved);
        assert_eq!(names([true; 3], true, &Message::Update { table: 7, old: old(false), new: new() }), moved);
        let in_place = Message::Update { table: 7, old: None, new: new() };
        assert_eq!(names(KEYS, false, &in_place), sorted(["orders", "order:1", "customer:3:orders"], 0));
    }

    #[test]
    fn unknown_values_invalidate_all_names_of_the_template() {
        let new = row(["1", "3", ""]);
        // The customer is not in the identity: the one before the change is not known.
        let update = Message::Update { table: 7, old: None, new: new.clone() };
        assert_eq!(
            names([true, false, false], false, &update),
            sorted(["orders", "order:1", "customer:3:orders", "customer"], 1)
        );
        let delete = Message::Delete { table: 7, old: OldRow { is_key: true, row: row(["1", "null", "null"]) } };
        assert_eq!(names([true, false, false], false, &delete), sorted(["orders", "order:1", "customer"], 1));
        // Under FULL an old row is always sent, except by a partition with another identity.
        assert_eq!(names([true; 3], true, &update).1, 2);
        // A large value that was not changed is not sent.
        let unchanged = Message::Insert { table: 7, new: row(["1", "unchanged", ""]) };
        assert_eq!(names(KEYS, false, &unchanged), sorted(["orders", "order:1", "customer"], 1));
        let old = Some(OldRow { is_key: false, row: row(["1", "2", ""]) });
        let update = Message::Update { table: 7, old, new: row(["1", "unchanged", ""]) };
        assert_eq!(names([true; 3], true, &update), sorted(["orders", "order:1", "customer:2:orders"], 0));
        // The row is shorter than its description.
        let short = Message::Insert { table: 7, new: vec![Value::Text("1")] };
        assert_eq!(names(KEYS, false, &short), sorted(["orders", "order:1", "customer"], 1));
    }

    #[test]
    fn truncate_names_all_rows_of_its_tables() {
        let whole = sorted(["orders", "order", "customer"], 0);
        assert_eq!(names(KEYS, false, &Message::Truncate { tables: vec![8, 7] }), whole);
        assert_eq!(names(KEYS, false, &Message::Truncate { tables: vec![8] }), sorted([], 0));
    }

    #[test]
    fn tables_that_were_not_described_invalidate_everything() {
        let everything = sorted(["orders", "order", "customer"], 1);
        assert_eq!(names(KEYS, false, &Message::Truncate { tables: vec![9] }), everything);
        assert_eq!(names(KEYS, false, &Message::Insert { table: 9, new: Vec::new() }), everything);
    }

    #[test]
    fn renamed_tables_and_columns_are_still_watched() {
        let table = Table::new("orders", &["order:{id}".to_owned()]).expect("a table");
        let mut mapping = Mapping::new(Arc::new([table]), HashMap::from([(7, 0)]));
        let columns = vec![Column { is_key: true, name: "number" }];
        let (mut names, renamed) =
            (Names::default(), Relation { id: 7, schema: "public", name: "renamed", is_full: false, columns });
        mapping.add(&Message::Relation(renamed), &mut names);
        mapping.add(&Message::Insert { table: 7, new: vec![Value::Text("1")] }, &mut names);
        assert_eq!(names.names, HashSet::from([Namespace::new("order").expect("a name")]));
    }

    #[test]
    fn names_of_tables_are_read() {
        let table = |name| Table::new(name, &["a".to_owned()]).map(|table| (table.schema, table.name));
        assert_eq!(table("orders").expect("a table"), ("public".into(), "orders".into()));
        assert_eq!(table("shop.My Table").expect("a table"), ("shop".into(), "My Table".into()));
        assert!(table("").is_err() && table(".a").is_err() && Table::new("orders", &[]).is_err());
    }
}
