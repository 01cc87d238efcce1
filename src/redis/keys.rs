//! The names of keys in Redis, which an operator can read.
//!
//! ```text
//! PREFIX:1:g:{db_query:orders}            the generation of a namespace
//! PREFIX:1:f:{db_query:orders}            its fences
//! PREFIX:1:t:{db_query:orders}            a key that an invalidation writes and deletes at once, so that it is pushed
//! PREFIX:1:w                              such keys of several processes, which wait for a common push
//! PREFIX:1:w:123456                       a mark that they were pushed
//! PREFIX:1:e:{db_query:orders}:3f9a…      an entry, under the first of its namespaces
//! PREFIX:1:l:{db_query:orders}:3f9a…      the lock of its fill
//! PREFIX:1:h:api                          the hottest requests that are kept under the name `api`
//! PREFIX:1:seq                            the counter of creations
//! PREFIX:1:b:{4711}                       a key that never exists, for heartbeats
//! PREFIX:1:pushes                         a channel without messages
//! ```
//!
//! The number is the version of the format. Braces are the hash tags of a cluster: an entry and the generation of its first namespace are
//! stored on one node. Cache keys are namespaces as well. `{*key:…}` is a key that writes to its URI invalidate. `{*keys:…}` is one of
//! 4,096 sets of all other keys, so that keys which are rarely invalidated one by one do not need a generation each.

use crate::namespace::set::{Name, Namespaces, hash_of};

/// The version of the format. Another version uses other keys.
const FORMAT: u32 = 1;

/// The number of sets for keys that are rarely invalidated one by one.
const SETS: u64 = 4096;
const ALONE: &str = "*key:";
const TOGETHER: &str = "*keys:";

/// The names of the keys of one application.
#[derive(Debug, Clone)]
pub(crate) struct RedisKeys {
    /// `PREFIX:1:`
    base: Box<str>,
}

/// The subject of a push.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// Names with this hash.
    Hash(u64),
    /// Cache keys whose hash has these low bits.
    Set(u64),
}

/// The kind of a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind<'a> {
    /// An entry, with the first of its namespaces if it has any.
    Entry(Option<&'a str>),
    Generation,
    /// Another key of this cache.
    Other,
    /// A key of another application.
    Foreign,
}

impl Pushed {
    /// Returns hashes that stand for the whole subject in a table of epochs with up to 2^16 slots.
    pub(super) fn hashes(&self) -> impl Iterator<Item = u64> + Clone + use<> {
        let (first, more) = match *self {
            Self::Hash(hash) => (hash, 1),
            Self::Set(low) => (low, 16),
        };
        (0..more).map(move |i| first | (i * SETS * u64::from(more > 1)))
    }
}

impl RedisKeys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { base: format!("{prefix}:{FORMAT}:").into() }
    }

    /// Returns the common prefix of all keys.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    pub(super) fn generation(&self, name: Name<'_>) -> String {
        self.tagged(b'g', name)
    }

    pub(super) fn fence(&self, name: Name<'_>) -> String {
        self.tagged(b'f', name)
    }

    /// Returns the key that an invalidation touches, from the key of the generation.
    pub(super) fn touched(&self, generation: &str) -> String {
        format!("{}t{}", self.base, &generation[self.base.len() + 1..])
    }

    /// Returns the key of an entry. The lock of its fill has the same ending.
    pub(super) fn entry(&self, names: &Namespaces, hash: u128) -> String {
        let first = first(names);
        let mut key = Vec::with_capacity(self.length(first) + ENTRY);
        self.write_entry(first, hash, &mut key);
        text(key)
    }

    /// Returns the cluster slot of an entry.
    pub(super) fn slot_of_entry(&self, names: &Namespaces, hash: u128) -> u16 {
        slot(self.entry(names, hash).as_bytes())
    }

    /// Returns the key of the lock for an entry's fill.
    pub(super) fn lock(&self, entry: &str) -> String {
        format!("{}l{}", self.base, &entry[self.base.len() + 1..])
    }

    /// Returns the key of the hottest requests of a name.
    pub(super) fn hottest(&self, name: &str) -> String {
        format!("{}h:{name}", self.base)
    }

    /// Returns the key of the set of touched keys that wait for a common push.
    pub(super) fn waiting(&self) -> String {
        format!("{}w", self.base)
    }

    /// Returns the mark that a set with this number was pushed.
    pub(super) fn pushed_mark(&self, number: u64) -> String {
        format!("{}w:{number}", self.base)
    }

    pub(super) fn counter(&self) -> String {
        format!("{}seq", self.base)
    }

    /// Returns the key for heartbeats, in a given slot. It never exists.
    pub(super) fn check(&self, in_slot: Option<u16>) -> String {
        match in_slot {
            None => format!("{}b", self.base),
            Some(wanted) => {
                let tag = (0_u64..).map(|tag| tag.to_string()).find(|tag| slot(tag.as_bytes()) == wanted);
                format!("{}b:{{{}}}", self.base, tag.unwrap_or_default())
            }
        }
    }

    /// Returns the channel to which a connection that receives pushes subscribes.
    pub(super) fn channel(&self) -> String {
        format!("{}pushes", self.base)
    }

    /// Returns the prefixes of the keys whose changes are pushed, with one master or in a cluster.
    pub(super) fn pushed(&self, alone: bool) -> [String; 2] {
        let names = if alone { 't' } else { 'g' };
        [format!("{}{names}:", self.base), format!("{}f:", self.base)]
    }

    /// Returns the subject of a push, if its key is one of this application.
    pub(super) fn parse(&self, key: &[u8]) -> Option<Pushed> {
        let rest = key.strip_prefix(self.base.as_bytes())?;
        let (_, rest) = rest.split_first().filter(|(kind, _)| b"gft".contains(kind))?;
        let name = rest.strip_prefix(b":{")?.strip_suffix(b"}")?;
        let number = |digits: &[u8]| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        if let Some(digits) = name.strip_prefix(ALONE.as_bytes()) {
            return number(digits).map(Pushed::Hash);
        }
        if let Some(digits) = name.strip_prefix(TOGETHER.as_bytes()) {
            return number(digits).map(Pushed::Set);
        }
        Some(Pushed::Hash(hash_of(name)))
    }

    /// Returns the kind of a key.
    pub(super) fn kind<'a>(&self, key: &'a [u8]) -> Kind<'a> {
        let Some(rest) = key.strip_prefix(self.base.as_bytes()) else { return Kind::Foreign };
        match rest {
            [b'g', b':', ..] => Kind::Generation,
            [b'e', b':', b'{', tagged @ ..] => {
                // A name may contain a brace. The hash behind it does not.
                let end = tagged.iter().rposition(|byte| *byte == b'}').unwrap_or(0);
                let name = std::str::from_utf8(&tagged[..end]).ok();
                Kind::Entry(name.filter(|name| *name != "*"))
            }
            _ => Kind::Other,
        }
    }

    fn tagged(&self, kind: u8, name: Name<'_>) -> String {
        let mut key = Vec::with_capacity(self.length(name) + ENTRY);
        self.write(kind, name, &mut key);
        text(key)
    }

    fn write(&self, kind: u8, name: Name<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(self.base.as_bytes());
        out.extend_from_slice(&[kind, b':', b'{']);
        match name {
            Name::Text { text, .. } => out.extend_from_slice(text.as_bytes()),
            Name::Key { hash, alone: true } => {
                out.extend_from_slice(ALONE.as_bytes());
                push_hex::<16>(u128::from(hash), out);
            }
            Name::Key { hash, alone: false } => {
                out.extend_from_slice(TOGETHER.as_bytes());
                push_hex::<3>(u128::from(hash % SETS), out);
            }
        }
        out.push(b'}');
    }

    fn write_entry(&self, first: Name<'_>, hash: u128, out: &mut Vec<u8>) {
        self.write(b'e', first, out);
        out.push(b':');
        push_hex::<32>(hash, out);
    }

    /// Returns the length of a generation's key.
    fn length(&self, name: Name<'_>) -> usize {
        let name = match name {
            Name::Text { text, .. } => text.len(),
            Name::Key { alone: true, .. } => ALONE.len() + 16,
            Name::Key { alone: false, .. } => TOGETHER.len() + 3,
        };
        self.base.len() + "g:{}".len() + name
    }

    /// Writes `GET` of an entry.
    pub(super) fn get(&self, names: &Namespaces, hash: u128) -> Packed {
        let first = first(names);
        let mut packed = Packed::of(b"$3\r\nGET\r\n", 1, self.length(first) + ENTRY);
        self.pack_entry(first, hash, &mut packed);
        packed
    }

    /// Writes `MGET` of generations, and of an entry if one is wanted.
    pub(super) fn mget<'a>(&self, entry: Option<(&Namespaces, u128)>, names: impl Iterator<Item = Name<'a>> + Clone) -> Packed {
        let (count, room) =
            names.clone().fold((0, 0), |(count, room), name| (count + 1, room + self.length(name) + Packed::AROUND));
        let entry = entry.map(|(names, hash)| (first(names), hash));
        let of_entry = entry.map_or(0, |(first, _)| self.length(first) + ENTRY + Packed::AROUND);
        let mut packed = Packed::of(b"$4\r\nMGET\r\n", count + usize::from(entry.is_some()), room + of_entry);
        if let Some((first, hash)) = entry {
            self.pack_entry(first, hash, &mut packed);
        }
        for name in names {
            packed.begins(self.length(name));
            self.write(b'g', name, &mut packed.bytes);
            packed.ends();
        }
        packed
    }

    fn pack_entry(&self, first: Name<'_>, hash: u128, packed: &mut Packed) {
        packed.begins(self.length(first) + ENTRY);
        self.write_entry(first, hash, &mut packed.bytes);
        packed.ends();
    }
}

/// The number of bytes by which the key of an entry is longer than that of a generation.
const ENTRY: usize = 1 + 32;

/// Converts a key to text. It is made of texts only.
fn text(key: Vec<u8>) -> String {
    String::from_utf8(key).expect("it is written of texts")
}

/// Appends the last `N` hexadecimal digits of a number.
fn push_hex<const N: usize>(number: u128, out: &mut Vec<u8>) {
    let bytes = number.to_be_bytes();
    let mut digits = [0; N];
    for (at, digit) in digits.iter_mut().enumerate() {
        let at = 2 * bytes.len() - N + at;
        let nibble = if at.is_multiple_of(2) { bytes[at / 2] >> 4 } else { bytes[at / 2] & 0xf };
        *digit = b"0123456789abcdef"[usize::from(nibble)];
    }
    out.extend_from_slice(&digits);
}

/// A command in the form in which it is sent, written key by key into one buffer.
#[derive(Debug)]
pub(crate) struct Packed {
    bytes: Vec<u8>,
}

impl Packed {
    /// The largest number of bytes around a key.
    const AROUND: usize = "$1234567890\r\n\r\n".len();

    /// Begins a command with this number of keys, which take `room` bytes.
    fn of(command: &[u8], keys: usize, room: usize) -> Self {
        let mut packed = Self { bytes: Vec::with_capacity(room + 3 * Self::AROUND) };
        packed.counted(b'*', keys + 1);
        packed.bytes.extend_from_slice(command);
        packed
    }

    fn begins(&mut self, length: usize) {
        self.counted(b'$', length);
    }

    fn ends(&mut self) {
        self.bytes.extend_from_slice(b"\r\n");
    }

    fn counted(&mut self, kind: u8, count: usize) {
        self.bytes.push(kind);
        self.number(count);
        self.ends();
    }

    fn number(&mut self, number: usize) {
        if number > 9 {
            self.number(number / 10);
        }
        self.bytes.push(b'0' + (number % 10) as u8);
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Reads the command back, for callers that encode it themselves.
    pub(super) fn unpacked(&self) -> redis::Cmd {
        let mut command = redis::Cmd::new();
        let mut rest = &self.bytes[..];
        let line = |bytes: &mut &[u8]| {
            let end = bytes.windows(2).position(|two| two == b"\r\n")?;
            let line = str::from_utf8(bytes.get(1..end)?).ok()?.parse::<usize>().ok();
            *bytes = &bytes[end + 2..];
            line
        };
        let _ = line(&mut rest);
        while let Some((part, after)) = line(&mut rest).and_then(|length| rest.split_at_checked(length)) {
            command.arg(part);
            rest = after.get(2..).unwrap_or_default();
        }
        command
    }
}

/// Returns the identifier of a name's generation in this process.
pub(crate) fn id(name: Name<'_>) -> u64 {
    match name {
        Name::Key { hash, alone: false } => 0x6b65_7973_0000_0000 | (hash % SETS),
        other => other.hash(),
    }
}

/// Returns the name under which an entry is stored: the innermost of those that the rule names first, or the root.
///
/// It is the same for a request and for the entry that answers it: names that the response has added follow the key and do not count.
fn first(names: &Namespaces) -> Name<'_> {
    let texts = names.names().map_while(|name| match name {
        Name::Text { text, .. } => Some((text, name)),
        Name::Key { .. } => None,
    });
    let mut found = Name::Text { text: "*", hash: Namespaces::root_hash() };
    let mut level = "";
    // Ancestors come before their descendants.
    for (text, name) in texts.skip(1) {
        let is_below = text.strip_prefix(level).is_some_and(|rest| level.is_empty() || rest.starts_with(':'));
        if !is_below {
            break;
        }
        (found, level) = (name, text);
    }
    found
}

/// Returns the cluster slot of a key: CRC-16/XMODEM of its hash tag, modulo 16,384.
pub(crate) fn slot(key: &[u8]) -> u16 {
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
    fn entry_shares_the_slot_of_its_first_generation() {
        let keys = RedisKeys::new("app");
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
    fn kind_of_a_key_is_known_by_its_name() {
        let keys = RedisKeys::new("app");
        let set = names();
        let entry = keys.entry(&set, 0x3f9a);
        let of_root = keys.entry(&Namespaces::root(), 1);
        for (key, kind) in [
            (entry.clone(), Kind::Entry(Some("db_query:orders"))),
            (of_root, Kind::Entry(None)),
            ("app:1:e:{a}b}:0f".to_owned(), Kind::Entry(Some("a}b"))),
            (keys.generation(set.names().nth(2).expect("three names")), Kind::Generation),
            (keys.fence(set.names().nth(2).expect("three names")), Kind::Other),
            (keys.lock(&entry), Kind::Other),
            (keys.counter(), Kind::Other),
            ("app:2:e:{a}:0f".to_owned(), Kind::Foreign),
            ("session:1".to_owned(), Kind::Foreign),
        ] {
            assert_eq!(keys.kind(key.as_bytes()), kind, "{key}");
        }
    }
    #[test]
    fn added_namespaces_do_not_move_an_entry() {
        let keys = RedisKeys::new("app");
        for of_rule in [&[] as &[&str], &["t"], &["t:x"], &["a", "t:x"]] {
            let mut of_request = Namespaces::root();
            of_rule.iter().for_each(|name| of_request.push(name));
            of_request.push_key(Key::new(*b"key").as_ref());
            for added in ["u", "t", "t:x", "t:x:17", "a:b"] {
                let mut of_entry = of_request.clone();
                of_entry.push(added);
                assert_eq!(keys.entry(&of_entry, 1), keys.entry(&of_request, 1), "{of_rule:?} {added}");
            }
        }
    }
    #[test]
    fn push_yields_the_hash_of_its_name() {
        let keys = RedisKeys::new("app");
        for name in names().names() {
            let generation = keys.generation(name);
            assert_eq!(slot(keys.touched(&generation).as_bytes()), slot(generation.as_bytes()));
            for key in [keys.touched(&generation), generation, keys.fence(name)] {
                let pushed = keys.parse(key.as_bytes()).expect("one of ours");
                assert!(pushed.hashes().any(|hash| hash & 0xffff == name.hash() & 0xffff), "{key}");
            }
        }
        for foreign in ["app:1:e:{a}:00", "app:1:seq", "app:2:g:{a}", "other:1:g:{a}", "app:1:g:{*key:zz}", "app:1:g:a"] {
            assert_eq!(keys.parse(foreign.as_bytes()), None, "{foreign}");
        }
    }
    #[test]
    fn command_is_encoded_like_the_client() {
        // A prefix may contain any text.
        for prefix in ["app", "", "a\r\nb", "ä"] {
            let keys = RedisKeys::new(prefix);
            let mut set = names();
            set.push_key(Key::new(*b"\x10of http").as_ref());
            for set in [set, Namespaces::root()] {
                let hash = 0x3f9a << 100;
                let entry = keys.entry(&set, hash);
                let generations: Vec<_> = set.names().map(|name| keys.generation(name)).collect();
                let mut get = redis::cmd("GET");
                get.arg(&entry);
                let mut all = redis::cmd("MGET");
                all.arg(&entry).arg(&generations);
                let mut some = redis::cmd("MGET");
                some.arg(&generations);
                for (packed, want) in [
                    (keys.get(&set, hash), get),
                    (keys.mget(Some((&set, hash)), set.names()), all),
                    (keys.mget(None, set.names()), some),
                ] {
                    assert_eq!(packed.unpacked().get_packed_command(), want.get_packed_command(), "{packed:?}");
                    assert_eq!(packed.into_bytes(), want.get_packed_command(), "{prefix:?}");
                }
            }
        }
    }
    #[test]
    fn command_buffer_is_allocated_once() {
        let keys = RedisKeys::new("app");
        let packed = keys.mget(Some((&names(), 1)), names().names());
        let room = names().names().map(|name| keys.generation(name).len() + Packed::AROUND).sum::<usize>();
        let of_entry = keys.entry(&names(), 1).len() + Packed::AROUND;
        assert_eq!(packed.bytes.capacity(), room + of_entry + 3 * Packed::AROUND, "it did not grow");
    }
    #[test]
    fn slots_follow_the_cluster_specification() {
        for (key, want) in
            [("123456789", 12_739), ("{user1000}.following", slot(b"user1000")), ("foo{}{bar}", slot(b"foo{}{bar}"))]
        {
            assert_eq!(slot(key.as_bytes()), want, "{key}");
        }
        assert_ne!(slot(b"foo{}{bar}"), slot(b"bar"));
    }
}
