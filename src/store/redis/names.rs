//! What keys are called in Redis, readable by an operator.
//!
//! ```text
//! PREFIX:1:g:{db_query:orders}            the generation of a namespace
//! PREFIX:1:f:{db_query:orders}            its fences
//! PREFIX:1:e:{db_query:orders}:3f9a…      an entry, under the first of its namespaces
//! PREFIX:1:l:{db_query:orders}:3f9a…      the lock of its fill
//! PREFIX:1:seq                            the counter of creations
//! ```
//!
//! The number is that of the format. Braces are the hash tags of a cluster: an entry and the generation of its first namespace
//! stand on one node. Keys are namespaces, too: `{*key:…}` is one that writes to its URI clear, `{*keys:…}` is one of 4,096 sets
//! of all others, so that keys which are hardly ever cleared one by one do not need a generation each.

use std::fmt::Write;

use xxhash_rust::xxh3::xxh3_64;

use crate::namespace::{Name, Namespaces};

/// The format of what is stored: another one is another set of keys.
const FORMAT: u32 = 1;

/// How many sets there are of keys that are hardly ever cleared one by one.
const SETS: u64 = 4096;

const ALONE: &str = "*key:";
const TOGETHER: &str = "*keys:";

/// The names of one application's keys.
#[derive(Debug, Clone)]
pub(super) struct Names {
    /// `PREFIX:1:`
    base: Box<str>,
}

/// What a push tells of.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// The names with this hash.
    Hash(u64),
    /// All keys whose hash has these low bits.
    Set(u64),
}

impl Pushed {
    /// Hashes that stand for all that it tells of, for a table of epochs with up to 2^16 slots.
    pub(super) fn hashes(&self) -> impl Iterator<Item = u64> {
        let (first, more) = match *self {
            Self::Hash(hash) => (hash, 1),
            Self::Set(low) => (low, 16),
        };
        (0..more).map(move |i| first | (i * SETS * u64::from(more > 1)))
    }
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        Self { base: format!("{prefix}:{FORMAT}:").into() }
    }

    /// What all keys begin with.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    pub(super) fn generation(&self, name: Name<'_>) -> String {
        self.tagged('g', name)
    }

    pub(super) fn fence(&self, name: Name<'_>) -> String {
        self.tagged('f', name)
    }

    /// The key of an entry, and that of the lock of its fill.
    pub(super) fn entry(&self, names: &Namespaces, hash: u128) -> String {
        let mut key = self.tagged('e', first(names));
        let _ = write!(key, ":{hash:032x}");
        key
    }

    /// The lock of an entry's fill.
    pub(super) fn lock(&self, entry: &str) -> String {
        format!("{}l{}", self.base, &entry[self.base.len() + 1..])
    }

    pub(super) fn counter(&self) -> String {
        format!("{}seq", self.base)
    }

    /// What the keys begin with whose changes are pushed.
    pub(super) fn pushed(&self) -> [String; 2] {
        [format!("{}g:", self.base), format!("{}f:", self.base)]
    }

    /// What the key in a push stands for, if it is one of ours.
    pub(super) fn parse(&self, key: &[u8]) -> Option<Pushed> {
        let rest = key.strip_prefix(self.base.as_bytes())?;
        let name = rest.strip_prefix(b"g:{").or_else(|| rest.strip_prefix(b"f:{"))?.strip_suffix(b"}")?;
        let number = |digits: &[u8]| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        if let Some(digits) = name.strip_prefix(ALONE.as_bytes()) {
            return number(digits).map(Pushed::Hash);
        }
        if let Some(digits) = name.strip_prefix(TOGETHER.as_bytes()) {
            return number(digits).map(Pushed::Set);
        }
        Some(Pushed::Hash(xxh3_64(name)))
    }

    fn tagged(&self, kind: char, name: Name<'_>) -> String {
        let mut key = String::with_capacity(self.base.len() + 64);
        key.push_str(&self.base);
        key.push(kind);
        key.push_str(":{");
        let _ = match name {
            Name::Text { text, .. } => key.write_str(text),
            Name::Key { hash, alone: true } => write!(key, "{ALONE}{hash:016x}"),
            Name::Key { hash, alone: false } => write!(key, "{TOGETHER}{:03x}", hash % SETS),
        };
        key.push('}');
        key
    }
}

/// By what the generation of a name is known in this process.
pub(super) fn id(name: Name<'_>) -> u64 {
    match name {
        Name::Key { hash, alone: false } => 0x6b65_7973_0000_0000 | (hash % SETS),
        other => other.hash(),
    }
}

/// The name under which an entry stands: the innermost of those that the rule names first, or the root.
fn first(names: &Namespaces) -> Name<'_> {
    let texts = names.names().filter_map(|name| match name {
        Name::Text { text, .. } => Some((text, name)),
        Name::Key { .. } => None,
    });
    let mut found = Name::Text { text: "*", hash: xxh3_64(b"*") };
    let mut level = "";
    // Ancestors stand before what they are ancestors of.
    for (text, name) in texts.skip(1) {
        let is_below = text.strip_prefix(level).is_some_and(|rest| level.is_empty() || rest.starts_with(':'));
        if !is_below {
            break;
        }
        (found, level) = (name, text);
    }
    found
}

/// The slot of a key in a cluster: CRC-16/XMODEM of its hash tag, modulo 16,384.
pub(super) fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|b| *b == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|b| *b == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    crc16::State::<crc16::XMODEM>::calculate(tag.unwrap_or(key)) % 16_384
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;

    fn names() -> Namespaces {
        let mut set = Namespaces::root();
        set.push("db_query:orders");
        set.push("auth");
        set.push_key(Key::new(*b"key").as_ref());
        set
    }

    #[test]
    fn an_entry_stands_beside_the_generation_of_its_first_namespace() {
        let keys = Names::new("app");
        let entry = keys.entry(&names(), 0x3f9a);
        assert_eq!(entry, format!("app:1:e:{{db_query:orders}}:{:032x}", 0x3f9a));
        assert_eq!(keys.lock(&entry), format!("app:1:l:{{db_query:orders}}:{:032x}", 0x3f9a));
        let set = names();
        let orders = set.names().nth(2).expect("three names");
        assert_eq!(keys.generation(orders), "app:1:g:{db_query:orders}");
        assert_eq!(slot(entry.as_bytes()), slot(keys.generation(orders).as_bytes()));
        assert!(keys.entry(&Namespaces::root(), 1).starts_with("app:1:e:{*}:"));
    }

    #[test]
    fn a_push_tells_the_hash_of_the_name_that_was_pushed() {
        let keys = Names::new("app");
        for name in names().names() {
            for key in [keys.generation(name), keys.fence(name)] {
                let pushed = keys.parse(key.as_bytes()).expect("one of ours");
                assert!(pushed.hashes().any(|hash| hash & 0xffff == name.hash() & 0xffff), "{key}");
            }
        }
        for foreign in ["app:1:e:{a}:00", "app:1:seq", "app:2:g:{a}", "other:1:g:{a}", "app:1:g:{*key:zz}", "app:1:g:a"] {
            assert_eq!(keys.parse(foreign.as_bytes()), None, "{foreign}");
        }
    }

    #[test]
    fn slots_are_those_of_the_cluster_specification() {
        for (key, want) in
            [("123456789", 12_739), ("{user1000}.following", slot(b"user1000")), ("foo{}{bar}", slot(b"foo{}{bar}"))]
        {
            assert_eq!(slot(key.as_bytes()), want, "{key}");
        }
        assert_ne!(slot(b"foo{}{bar}"), slot(b"bar"));
    }
}
