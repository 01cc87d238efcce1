//! Messages of the output plugin `pgoutput`, version 1 of its protocol: chapter "Logical Replication Message Formats" of PostgreSQL's manual.

use super::lsn::Lsn;

/// A message. Its texts borrow from the bytes that were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// A transaction begins. It is sent when the transaction has committed.
    Begin {
        /// The lower half of its number.
        id: u32,
    },
    /// The transaction ends.
    Commit {
        /// The position behind the transaction.
        end: Lsn,
    },
    /// A description of a table, before its first change and after changes of the table.
    Relation(Relation<'a>),
    /// A row was inserted.
    Insert { table: u32, new: Row<'a> },
    /// A row was changed. The old row is there under `REPLICA IDENTITY FULL`, or if its key has changed.
    Update { table: u32, old: Option<OldRow<'a>>, new: Row<'a> },
    /// A row was deleted.
    Delete { table: u32, old: OldRow<'a> },
    /// Tables were emptied.
    Truncate { tables: Vec<u32> },
    /// A message that describes no change: an origin, a type, or a message of an application.
    Other,
}

/// The description of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Relation<'a> {
    pub(super) id: u32,
    /// Empty for `pg_catalog`.
    pub(super) schema: &'a str,
    pub(super) name: &'a str,
    /// True under `REPLICA IDENTITY FULL`.
    pub(super) is_full: bool,
    pub(super) columns: Vec<Column<'a>>,
}

/// The description of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Column<'a> {
    /// True if the column belongs to the replica identity.
    pub(super) is_key: bool,
    pub(super) name: &'a str,
}

/// The values of a row, in the order of the columns.
pub(super) type Row<'a> = Vec<Value<'a>>;

/// A row before its change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OldRow<'a> {
    /// True if only the columns of the replica identity have values.
    pub(super) is_key: bool,
    pub(super) row: Row<'a>,
}

/// A value in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Null,
    /// A value that is stored apart from its row (TOAST), was not changed, and is not sent.
    Unchanged,
    /// The text form of the value.
    Text(&'a str),
}

/// A message ended too early, or has an unknown part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

type Read<T> = Result<T, Malformed>;

/// Reads a message. Bytes behind it are ignored.
pub(super) fn read(bytes: &[u8]) -> Read<Message<'_>> {
    let mut reader = Reader(bytes);
    let message = match reader.u8()? {
        b'B' => {
            // The position and the time of the commit.
            reader.take(16)?;
            Message::Begin { id: reader.u32()? }
        }
        b'C' => {
            // Flags, and the position of the commit.
            reader.take(9)?;
            Message::Commit { end: Lsn(reader.u64()?) }
        }
        b'R' => Message::Relation(reader.relation()?),
        b'I' => {
            let table = reader.u32()?;
            Message::Insert { table, new: reader.new_row()? }
        }
        b'U' => {
            let table = reader.u32()?;
            let old = if reader.0.first() == Some(&b'N') { None } else { Some(reader.old_row()?) };
            Message::Update { table, old, new: reader.new_row()? }
        }
        b'D' => {
            let table = reader.u32()?;
            Message::Delete { table, old: reader.old_row()? }
        }
        b'T' => {
            let tables = reader.u32()?;
            reader.take(1)?;
            Message::Truncate { tables: (0..tables).map(|_| reader.u32()).collect::<Read<_>>()? }
        }
        b'O' | b'Y' | b'M' => Message::Other,
        _ => return Err(Malformed("a known kind of message")),
    };
    Ok(message)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Read<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Malformed("more bytes"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed("more bytes"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Read<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Read<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Read<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Read<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// Reads a text that ends with a zero byte.
    fn text(&mut self) -> Read<&'a str> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(Malformed("the end of a text"))?;
        let text = self.take(end)?;
        self.take(1)?;
        str::from_utf8(text).map_err(|_| Malformed("UTF-8"))
    }

    fn relation(&mut self) -> Read<Relation<'a>> {
        let (id, schema, name) = (self.u32()?, self.text()?, self.text()?);
        let is_full = self.u8()? == b'f';
        let columns = self.u16()?;
        let columns = (0..columns).map(|_| self.column()).collect::<Read<_>>()?;
        Ok(Relation { id, schema, name, is_full, columns })
    }

    fn column(&mut self) -> Read<Column<'a>> {
        let column = Column { is_key: self.u8()? & 1 == 1, name: self.text()? };
        // The type and its modifier.
        self.take(8)?;
        Ok(column)
    }

    fn new_row(&mut self) -> Read<Row<'a>> {
        match self.u8()? {
            b'N' => self.row(),
            _ => Err(Malformed("a new row")),
        }
    }

    fn old_row(&mut self) -> Read<OldRow<'a>> {
        let is_key = match self.u8()? {
            b'K' => true,
            b'O' => false,
            _ => return Err(Malformed("an old row")),
        };
        Ok(OldRow { is_key, row: self.row()? })
    }

    fn row(&mut self) -> Read<Row<'a>> {
        let values = self.u16()?;
        (0..values).map(|_| self.value()).collect()
    }

    fn value(&mut self) -> Read<Value<'a>> {
        match self.u8()? {
            b'n' => Ok(Value::Null),
            b'u' => Ok(Value::Unchanged),
            b't' => {
                let len = self.u32()?;
                let text = self.take(usize::try_from(len).map_err(|_| Malformed("a shorter value"))?)?;
                str::from_utf8(text).map(Value::Text).map_err(|_| Malformed("UTF-8"))
            }
            _ => Err(Malformed("a value as text")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn put_text(out: &mut Vec<u8>, text: &str) {
        out.extend(text.as_bytes());
        out.push(0);
    }

    fn put_row(out: &mut Vec<u8>, kind: u8, row: &[Value<'_>]) {
        out.push(kind);
        out.extend((row.len() as u16).to_be_bytes());
        for value in row {
            match value {
                Value::Null => out.push(b'n'),
                Value::Unchanged => out.push(b'u'),
                Value::Text(text) => {
                    out.push(b't');
                    out.extend((text.len() as u32).to_be_bytes());
                    out.extend(text.as_bytes());
                }
            }
        }
    }

    fn put_old(out: &mut Vec<u8>, old: &OldRow<'_>) {
        put_row(out, if old.is_key { b'K' } else { b'O' }, &old.row);
    }

    /// Writes a message as the manual specifies it.
    fn written(message: &Message<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        match message {
            Message::Begin { id } => {
                out.push(b'B');
                out.extend([7; 16]);
                out.extend(id.to_be_bytes());
            }
            Message::Commit { end } => {
                out.push(b'C');
                out.extend([0; 9]);
                out.extend(end.0.to_be_bytes());
                out.extend([7; 8]);
            }
            Message::Relation(relation) => {
                out.push(b'R');
                out.extend(relation.id.to_be_bytes());
                put_text(&mut out, relation.schema);
                put_text(&mut out, relation.name);
                out.push(if relation.is_full { b'f' } else { b'd' });
                out.extend((relation.columns.len() as u16).to_be_bytes());
                for column in &relation.columns {
                    out.push(column.is_key.into());
                    put_text(&mut out, column.name);
                    out.extend([7; 8]);
                }
            }
            Message::Insert { table, new } => {
                out.push(b'I');
                out.extend(table.to_be_bytes());
                put_row(&mut out, b'N', new);
            }
            Message::Update { table, old, new } => {
                out.push(b'U');
                out.extend(table.to_be_bytes());
                old.iter().for_each(|old| put_old(&mut out, old));
                put_row(&mut out, b'N', new);
            }
            Message::Delete { table, old } => {
                out.push(b'D');
                out.extend(table.to_be_bytes());
                put_old(&mut out, old);
            }
            Message::Truncate { tables } => {
                out.push(b'T');
                out.extend((tables.len() as u32).to_be_bytes());
                out.push(0);
                tables.iter().for_each(|table| out.extend(table.to_be_bytes()));
            }
            Message::Other => out.push(b'O'),
        }
        out
    }

    /// Texts, as owned values, which messages borrow from.
    fn texts() -> impl Strategy<Value = Vec<Option<Option<String>>>> {
        vec(proptest::option::of(proptest::option::of("[^\0]{0,12}")), 0..6)
    }

    fn row(texts: &[Option<Option<String>>]) -> Row<'_> {
        let value = |text: &'_ Option<Option<String>>| match text {
            None => Value::Null,
            Some(None) => Value::Unchanged,
            Some(Some(_)) => Value::Text(""),
        };
        texts.iter().map(|text| text.as_ref().and_then(Option::as_deref).map_or_else(|| value(text), Value::Text)).collect()
    }

    proptest! {
        #[test]
        fn messages_survive_their_bytes(
            kind in 0..8_u8, table: u32, lsn: u64, flag: bool, old in texts(), new in texts(), tables in vec(any::<u32>(), 0..5),
            names in vec(("[^\0]{0,12}", any::<bool>()), 1..5),
        ) {
            let (new, old) = (row(&new), OldRow { is_key: flag, row: row(&old) });
            let columns = names.iter().map(|(name, is_key)| Column { is_key: *is_key, name }).collect();
            let message = match kind {
                0 => Message::Begin { id: table },
                1 => Message::Commit { end: Lsn(lsn) },
                2 => Message::Relation(Relation { id: table, schema: "public", name: &names[0].0, is_full: flag, columns }),
                3 => Message::Insert { table, new },
                4 => Message::Update { table, old: flag.then_some(old), new },
                5 => Message::Delete { table, old },
                6 => Message::Truncate { tables },
                _ => Message::Other,
            };
            let bytes = written(&message);
            prop_assert_eq!(read(&bytes), Ok(message.clone()));
            // No shorter message is taken for a whole one, except that of a time that is not read.
            let needed = if kind == 1 { bytes.len() - 8 } else { bytes.len() };
            for len in 0..needed {
                prop_assert!(read(&bytes[..len]).is_err());
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(kind in proptest::sample::select(b"BCRIUDTOYMx".to_vec()), mut bytes in vec(any::<u8>(), 0..200)) {
            bytes.insert(0, kind);
            _ = read(&bytes);
        }
    }

    #[test]
    fn huge_counts_allocate_nothing() {
        assert_eq!(read(b"T\xff\xff\xff\xff\0"), Err(Malformed("more bytes")));
        assert_eq!(read(b"I\0\0\0\x01N\xff\xfft\xff\xff\xff\xff"), Err(Malformed("more bytes")));
    }
}
