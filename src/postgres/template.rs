//! Templates of namespaces, with places for the columns of a row.

use super::error::{PostgresError, PostgresErrorKind};
use crate::namespace::{self, MAX_NAMESPACE_LEN, Namespace, push_value};

/// A template of a namespace: `order:{id}`. The places `{schema}` and `{table}` are filled when it is parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    pieces: Vec<Piece>,
    /// A name that covers all names of the template.
    whole: Namespace,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// The column with this index in the list of columns of its table.
    Column(usize),
}

/// The largest number of bytes of a value in a name. A longer value becomes a hash.
const VALUE: usize = 64;

impl Template {
    /// Parses a template of a table. Its columns are added to `columns`.
    pub(super) fn parse(source: &str, schema: &str, table: &str, columns: &mut Vec<String>) -> Result<Self, PostgresError> {
        let fault = |why: String| {
            let text = format!("table \"{schema}.{table}\": template {source:?}: {why}");
            Err(PostgresError::new(PostgresErrorKind::Mapping, text))
        };
        let (mut pieces, mut text, mut sample, mut size) = (Vec::new(), String::new(), String::new(), 0);
        let mut rest = source;
        while let Some(open) = rest.find(['{', '}']) {
            let Some((name, tail)) = rest[open..].strip_prefix('{').and_then(|after| after.split_once('}')) else {
                return fault("unmatched brace: columns are written `{name}`".into());
            };
            text += &rest[..open];
            sample += &rest[..open];
            rest = tail;
            match name {
                "" => return fault("a place without a name: expected `{table}`, `{schema}` or a column".into()),
                "schema" | "table" => {
                    let value = if name == "table" { table } else { schema };
                    push_value(&mut text, value);
                    push_value(&mut sample, value);
                }
                column => {
                    size += text.len() + VALUE;
                    sample.push('x');
                    pieces.push(Piece::Text(std::mem::take(&mut text)));
                    pieces.push(Piece::Column(index_of(columns, column)));
                }
            }
        }
        text += rest;
        sample += rest;
        size += text.len();
        pieces.push(Piece::Text(text));
        pieces.retain(|piece| *piece != Piece::Text(String::new()));
        if let Err(why) = namespace::check(&sample) {
            return fault(why.to_string());
        }
        if size > MAX_NAMESPACE_LEN {
            return fault(format!(
                "the name may have {size} bytes, counting {VALUE} for each column: expected at most {MAX_NAMESPACE_LEN}"
            ));
        }
        let whole = whole(&pieces);
        Ok(Self { pieces, whole })
    }

    /// Returns a name that covers all names of the template: the name itself, or the nearest ancestor without a column.
    pub(super) fn whole(&self) -> &Namespace {
        &self.whole
    }

    /// Returns the name for a row. `value` returns the value of a column.
    pub(super) fn name<'a>(&self, value: impl Fn(usize) -> Known<'a>) -> Named {
        let mut name = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => name.push_str(text),
                Piece::Column(column) => match value(*column) {
                    Known::Text(value) => push_value(&mut name, value),
                    Known::Null => return Named::None,
                    Known::No => return Named::Unknown,
                },
            }
        }
        Named::Name(Namespace::rendered(name))
    }
}

/// The value of a column, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known<'a> {
    Text(&'a str),
    Null,
    /// The value was not sent.
    No,
}

/// The name of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    Name(Namespace),
    /// A column is null.
    None,
    /// A column is not known.
    Unknown,
}

fn index_of(columns: &mut Vec<String>, column: &str) -> usize {
    columns.iter().position(|known| known == column).unwrap_or_else(|| {
        columns.push(column.to_owned());
        columns.len() - 1
    })
}

fn whole(pieces: &[Piece]) -> Namespace {
    match pieces {
        [] => Namespace::root(),
        [Piece::Text(text)] => Namespace::rendered(text.clone()),
        [Piece::Text(text), ..] => {
            text.rsplit_once(':').map_or_else(Namespace::root, |(levels, _)| Namespace::rendered(levels.to_owned()))
        }
        [Piece::Column(_), ..] => Namespace::root(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(source: &str) -> Result<(Template, Vec<String>), String> {
        let mut columns = Vec::new();
        let template = Template::parse(source, "public", "orders", &mut columns).map_err(|error| error.to_string())?;
        Ok((template, columns))
    }

    #[test]
    fn whole_name_is_the_nearest_ancestor_without_a_column() {
        for (source, whole) in [
            ("db_query:{table}", "db_query:orders"),
            ("order:{id}", "order"),
            ("order:{id}:items", "order"),
            ("{schema}:{table}:{id}", "public:orders"),
            ("a:b-{id}", "a"),
            ("order-{id}", "*"),
            ("{id}", "*"),
            ("*", "*"),
        ] {
            assert_eq!(parse(source).expect("a template").0.whole().as_str(), whole, "{source}");
        }
    }

    #[test]
    fn values_are_encoded_as_those_of_rules() {
        let (template, columns) = parse("order:{id}:{state}").expect("a template");
        assert_eq!(columns, ["id", "state"]);
        let name = |value: Known<'static>| template.name(|column| if column == 0 { Known::Text("a:b") } else { value });
        assert_eq!(name(Known::Text("")), Named::Name(Namespace::of(["order", "a:b", ""])));
        assert_eq!((name(Known::Null), name(Known::No)), (Named::None, Named::Unknown));
    }

    #[test]
    fn invalid_templates_are_refused() {
        for (source, why) in [
            ("order:{id", "unmatched brace"),
            ("order:}", "unmatched brace"),
            ("order:{}", "a place without a name"),
            ("order: {id}", "white space"),
            ("", "is empty"),
            ("{a}:{b}:{c}:{d}", "the name may have 259 bytes"),
        ] {
            let error = parse(source).expect_err(source);
            assert!(error.starts_with("table \"public.orders\": template") && error.contains(why), "{error}");
        }
    }
}
