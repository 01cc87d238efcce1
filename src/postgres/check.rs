//! Checks of a server, its tables and a publication.

use std::{collections::HashMap, fmt::Write};

use super::{
    connection::{Connection, Row, quoted_name, quoted_text},
    error::{PostgresError, PostgresErrorKind},
    mapping::Table,
};

/// The oldest version that has `pg_current_snapshot`.
const OLDEST: u32 = 130_000;

/// The first version whose publications have filters and lists of columns.
const FILTERS: u32 = 150_000;

/// Checks that the server offers logical replication. Returns its version.
///
/// A listener that is a synchronous standby would stop all commits: they wait for its confirmation, and it waits until they are visible.
pub(super) async fn server(control: &mut Connection, application: &str) -> Result<u32, PostgresError> {
    let sql = "SELECT current_setting('server_version_num'), current_setting('wal_level'), pg_is_in_recovery(), \
               current_setting('synchronous_standby_names')";
    let rows = control.query(sql).await?;
    let row = rows.first().ok_or_else(|| PostgresError::protocol("expected the settings of the server"))?;
    let refused = |why: String| Err(PostgresError::new(PostgresErrorKind::Server, why));
    let version = text(row, 0).parse().unwrap_or_default();
    if version < OLDEST {
        return refused(format!("the server has version {}: expected PostgreSQL 13 or newer", version / 10_000));
    }
    if text(row, 2) == "t" {
        return refused("the server is a standby: connect to the primary".into());
    }
    if is_synchronous(text(row, 3), application) {
        return refused(format!(
            "synchronous_standby_names is {:?}, so that commits would wait for the listener {application:?}, and it for them: name the \
             standbys in it, without the listener",
            text(row, 3)
        ));
    }
    match text(row, 1) {
        "logical" => Ok(version),
        level => refused(format!(
            "wal_level is {level}: logical replication needs ALTER SYSTEM SET wal_level = logical, and a restart of the server"
        )),
    }
}

/// Returns true if the names of synchronous standbys have that of an application.
fn is_synchronous(names: &str, application: &str) -> bool {
    let mut names = names.split([',', '(', ')']).map(|name| name.trim().trim_matches('"'));
    names.any(|name| name == "*" || name.eq_ignore_ascii_case(application))
}

/// Checks that the tables exist, have the columns of the templates, and that changes state these columns. Returns the numbers of the tables.
pub(super) async fn tables(control: &mut Connection, tables: &[Table]) -> Result<HashMap<u32, usize>, PostgresError> {
    let watched = watched(tables);
    let sql = format!(
        "SELECT w.i, c.oid, c.relkind FROM {watched} LEFT JOIN pg_namespace n ON n.nspname = w.s \
         LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.t"
    );
    let mut known = HashMap::new();
    for row in control.query(&sql).await? {
        let table = table_of(tables, &row)?;
        let refused = |why: &str| Err(PostgresError::new(PostgresErrorKind::Table, format!("{} {why}", shown(table))));
        match text(&row, 2) {
            "r" | "p" => _ = known.insert(number(&row, 1)?, number(&row, 0)? as usize),
            "" => return refused("does not exist"),
            _ => return refused("is not a table: only changes of tables are replicated"),
        }
    }
    columns(control, tables, &watched).await?;
    Ok(known)
}

/// Checks the columns, and the replica identities of the tables and of their partitions.
async fn columns(control: &mut Connection, tables: &[Table], watched: &str) -> Result<(), PostgresError> {
    // The columns of a primary key or an index that only INCLUDE adds do not belong to the identity.
    let sql = format!(
        "SELECT w.i, l.oid::regclass, l.relreplident, a.attname, a.attgenerated <> '', \
         CASE l.relreplident WHEN 'f' THEN true WHEN 'n' THEN false ELSE EXISTS (SELECT FROM pg_index x WHERE x.indrelid = l.oid \
         AND x.indisvalid AND x.indimmediate AND CASE l.relreplident WHEN 'd' THEN x.indisprimary ELSE x.indisreplident END \
         AND a.attnum = ANY ((x.indkey::int2[])[0:x.indnkeyatts - 1])) END \
         FROM {watched} JOIN pg_namespace n ON n.nspname = w.s JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.t \
         JOIN pg_class l ON l.oid = c.oid OR c.relkind = 'p' AND l.oid IN (SELECT p.relid FROM pg_partition_tree(c.oid) p WHERE p.isleaf) \
         JOIN pg_attribute a ON a.attrelid = l.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, 2, a.attnum"
    );
    let rows = control.query(&sql).await?;
    for of_relation in rows.chunk_by(|a, b| a[..2] == b[..2]) {
        let table = table_of(tables, &of_relation[0])?;
        let (relation, identity) = (text(&of_relation[0], 1), text(&of_relation[0], 2));
        let full = format!("ALTER TABLE {relation} REPLICA IDENTITY FULL");
        if !of_relation.iter().any(|row| text(row, 5) == "t") {
            let why = if identity == "n" { "REPLICA IDENTITY NOTHING" } else { "no primary key" };
            return Err(PostgresError::new(
                PostgresErrorKind::ReplicaIdentity,
                format!(
                    "table {relation} has {why}, so that PostgreSQL refuses its updates and deletes once they are published. Add a primary \
                     key, or run: {full}"
                ),
            ));
        }
        for column in &table.columns {
            let found = of_relation.iter().find(|row| text(row, 3) == column);
            let refused = |kind, why: &str| Err(PostgresError::new(kind, format!("table {relation}: column {column:?} {why}")));
            match found {
                None => {
                    let known: Vec<_> = of_relation.iter().map(|row| text(row, 3)).collect();
                    return refused(
                        PostgresErrorKind::Column,
                        &format!("does not exist: expected one of {}", known.join(", ")),
                    );
                }
                Some(row) if text(row, 4) == "t" => {
                    return refused(PostgresErrorKind::Column, "is generated, and generated columns are not replicated");
                }
                Some(row) if text(row, 5) != "t" => {
                    let why = format!(
                        "is not in the replica identity, so that a delete would not state its value. Run: {full}; or set REPLICA IDENTITY \
                         USING INDEX with an index that has it"
                    );
                    return refused(PostgresErrorKind::ReplicaIdentity, &why);
                }
                Some(_) => {}
            }
        }
    }
    Ok(())
}

/// Checks that a publication has all changes of the tables. Creates it if it does not exist and `creates` is true.
pub(super) async fn publication(
    control: &mut Connection,
    version: u32,
    name: &str,
    tables: &[Table],
    creates: bool,
) -> Result<(), PostgresError> {
    let refused = |why: String| Err(PostgresError::new(PostgresErrorKind::Publication, format!("publication {name:?} {why}")));
    let quoted = quoted_name(name);
    let options = "pubinsert AND pubupdate AND pubdelete AND pubtruncate, pubviaroot";
    let sql = format!("SELECT {options} FROM pg_publication WHERE pubname = {}", quoted_text(name));
    let Some(options) = control.query(&sql).await?.pop() else {
        let listed: Vec<_> = tables.iter().map(quoted_table).collect();
        let create =
            format!("CREATE PUBLICATION {quoted} FOR TABLE {} WITH (publish_via_partition_root = true)", listed.join(", "));
        if !creates {
            return refused(format!("does not exist. Run: {create}"));
        }
        let created = control.query(&create).await;
        return created.map(drop).map_err(|error| {
            error.during("the publication was not created").remedy(format_args!("As the owner of the tables, run: {create}"))
        });
    };
    if text(&options, 0) != "t" {
        return refused(format!(
            "lacks a kind of change. Run: ALTER PUBLICATION {quoted} SET (publish = 'insert, update, delete, truncate')"
        ));
    }
    let filters = match version {
        ..FILTERS => "NULL, NULL",
        _ => "p.rowfilter, array_to_string(p.attnames, ',')",
    };
    let sql = format!(
        "SELECT w.i, p.tablename, {filters}, c.relkind FROM {} JOIN pg_namespace n ON n.nspname = w.s \
         JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.t \
         LEFT JOIN pg_publication_tables p ON p.pubname = {} AND p.schemaname = w.s AND p.tablename = w.t ORDER BY 1",
        watched(tables),
        quoted_text(name)
    );
    for row in control.query(&sql).await? {
        let table = table_of(tables, &row)?;
        let shown = shown(table);
        if text(&row, 4) == "p" && text(&options, 1) != "t" {
            return refused(format!(
                "publishes the partitions of {shown} under their own names. Run: ALTER PUBLICATION {quoted} SET (publish_via_partition_root \
                 = true)"
            ));
        }
        if row[1].is_none() {
            return refused(format!("lacks {shown}. Run: ALTER PUBLICATION {quoted} ADD TABLE {}", quoted_table(table)));
        }
        if row[2].is_some() {
            return refused(format!("filters the rows of {shown}: expected a publication without WHERE"));
        }
        let published = |column: &&String| row[3].is_none() || text(&row, 3).split(',').any(|known| known == *column);
        if let Some(column) = table.columns.iter().find(|column| !published(column)) {
            return refused(format!("lacks the column {column:?} of {shown}: expected it in the list of columns"));
        }
    }
    Ok(())
}

/// Writes the tables as a relation `w` of their index, their schema and their name.
fn watched(tables: &[Table]) -> String {
    let mut sql = String::from("(VALUES ");
    for (index, table) in tables.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        let (schema, name) = (quoted_text(&table.schema), quoted_text(&table.name));
        _ = write!(sql, "{separator}({index}, {schema}, {name})");
    }
    sql + ") AS w(i, s, t)"
}

fn quoted_table(table: &Table) -> String {
    format!("{}.{}", quoted_name(&table.schema), quoted_name(&table.name))
}

fn shown(table: &Table) -> String {
    format!("table {}.{}", table.schema, table.name)
}

fn table_of<'t>(tables: &'t [Table], row: &Row) -> Result<&'t Table, PostgresError> {
    let index = number(row, 0)?;
    tables.get(index as usize).ok_or_else(|| PostgresError::protocol("expected the index of a table"))
}

fn number(row: &Row, at: usize) -> Result<u32, PostgresError> {
    text(row, at).parse().map_err(|_| PostgresError::protocol("expected a number"))
}

/// Returns a value. A null is empty.
pub(super) fn text(row: &Row, at: usize) -> &str {
    row.get(at).and_then(Option::as_deref).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_synchronous_standbys_are_compared() {
        for names in ["*", "FIRST 1 (*)", "ANY 2 (a, *)", "a,Cache", "2 (\"cache\", a)", "\"*\""] {
            assert!(is_synchronous(names, "cache"), "{names}");
        }
        for names in ["", "a", "FIRST 1 (cache2, a)"] {
            assert!(!is_synchronous(names, "cache"), "{names}");
        }
    }
}
