//! A set of namespaces.

use std::{
    collections::HashSet,
    fmt,
    hash::{BuildHasher, RandomState},
    ops::{Deref, Range},
    sync::{Arc, LazyLock},
};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{MAX_LEVELS, MAX_NAMESPACES, Namespace, check};
use crate::key::{Key, KeyRef};

/// The largest number of names of an entry, ancestors included.
pub(crate) const MAX_NAMES: usize = 1 + MAX_LEVELS * MAX_NAMESPACES;

/// A small set of namespaces. It contains every ancestor, and each name is hashed once. Stores get it with a key, and entries keep it.
#[derive(Clone, Default)]
pub struct Namespaces {
    /// The names one after the other. An ancestor is a prefix of its descendant and takes no room.
    text: Text,
    spans: Spans,
}

/// The text of a set, owned or shared with all sets that were made from one.
#[derive(Clone)]
enum Text {
    Shared(Arc<str>),
    Own(String),
}

/// The place of a name in the text, and its hash. The internal name of a key has no text and an empty span. The span begins at 0, or at 1
/// if every write to the key's URI invalidates it.
#[derive(Clone, Copy, Default)]
struct Span {
    start: u32,
    end: u32,
    hash: u64,
}

impl Span {
    fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// The spans of a set. A small set, as most are, needs no allocation for them.
#[derive(Clone)]
enum Spans {
    Few(u8, [Span; FEW]),
    Many(Vec<Span>),
}

/// Room for the root, a name with its ancestor, and the key.
const FEW: usize = 4;

impl Text {
    fn as_str(&self) -> &str {
        match self {
            Self::Shared(text) => text,
            Self::Own(text) => text,
        }
    }

    /// Returns the text for changes.
    fn own(&mut self) -> &mut String {
        if let Self::Shared(text) = self {
            let mut own = String::with_capacity(ROOM.max(text.len()));
            own.push_str(text);
            *self = Self::Own(own);
        }
        match self {
            Self::Own(text) => text,
            Self::Shared(_) => unreachable!("it was made its own"),
        }
    }
}

impl Default for Text {
    fn default() -> Self {
        Self::Own(String::new())
    }
}

impl Spans {
    #[cfg(feature = "redis")]
    fn with_capacity(count: usize) -> Self {
        if count <= FEW { Self::default() } else { Self::Many(Vec::with_capacity(count)) }
    }

    #[inline]
    fn push(&mut self, span: Span) {
        match self {
            Self::Few(len, few) => match few.get_mut(usize::from(*len)) {
                Some(place) => {
                    *place = span;
                    *len += 1;
                }
                None => {
                    let mut many = Vec::with_capacity(2 * FEW);
                    many.extend_from_slice(few);
                    many.push(span);
                    *self = Self::Many(many);
                }
            },
            Self::Many(many) => many.push(span),
        }
    }
}

impl Default for Spans {
    fn default() -> Self {
        Self::Few(0, [Span::default(); FEW])
    }
}

impl Deref for Spans {
    type Target = [Span];

    #[inline]
    fn deref(&self) -> &[Span] {
        match self {
            Self::Few(len, few) => &few[..usize::from(*len).min(FEW)],
            Self::Many(many) => many,
        }
    }
}

/// A name in a set.
#[cfg(feature = "redis")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name<'a> {
    /// A namespace.
    Text { text: &'a str, hash: u64 },
    /// The internal name of a key, represented by a hash. `alone` is true if writes to the key's URI invalidate it.
    Key { hash: u64, alone: bool },
}

#[cfg(feature = "redis")]
impl Name<'_> {
    pub(crate) fn hash(&self) -> u64 {
        match self {
            Self::Text { hash, .. } | Self::Key { hash, .. } => *hash,
        }
    }
}

/// A name in the stored form.
#[cfg(feature = "redis")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A slice of the text.
    Text { start: u32, len: u32 },
    /// The internal name of a key. It may belong to the primary key of a variant, so only the hash is known.
    Key { of_http: bool, hash: u64 },
}

const ROOT: &str = "*";

/// The initial capacity of the text, in bytes.
const ROOM: usize = 48;

impl Namespaces {
    /// Returns the set of the root alone, to which every entry belongs.
    pub(crate) fn root() -> Self {
        let mut set = Self { text: Text::Own(String::with_capacity(ROOM)), spans: Spans::default() };
        set.text.own().push_str(ROOT);
        set.spans.push(Span { start: 0, end: 1, hash: hash_of(ROOT) });
        set
    }

    /// Returns the same set with a text that all clones share.
    pub(crate) fn shared(self) -> Self {
        Self { text: Text::Shared(self.text.as_str().into()), spans: self.spans }
    }

    /// Returns the hash of the root, which is equal in every process.
    #[inline]
    pub(crate) const fn root_hash() -> u64 {
        0
    }

    /// Returns the set of these names without their ancestors, for an invalidation. There may be many names, so duplicates are not searched
    /// for. A duplicate is invalidated twice.
    pub(crate) fn exactly<'a>(names: impl IntoIterator<Item = &'a Namespace>) -> Self {
        let mut set = Self::default();
        set.extend_exactly(names);
        set
    }

    /// Adds these names without their ancestors.
    pub(crate) fn extend_exactly<'a>(&mut self, names: impl IntoIterator<Item = &'a Namespace>) {
        names.into_iter().for_each(|name| self.push_text(name.as_str(), false));
    }

    /// Adds a name with its ancestors. The name must have passed [`check`].
    pub(crate) fn push(&mut self, name: &str) {
        self.push_text(name, true);
    }

    /// Adds the internal name of a key. [`Store::invalidate_key`](crate::Store::invalidate_key) and writes to its URI invalidate it. Keys
    /// share the table of epochs with names. A collision invalidates too much, never too little.
    #[inline]
    pub(crate) fn push_key(&mut self, key: KeyRef<'_>) {
        let end = u32::from(key.is_of_http());
        self.spans.push(Span { start: end, end, hash: key.name() });
    }

    /// Returns the set of one key.
    pub(crate) fn key(key: &Key) -> Self {
        let mut set = Self::default();
        set.push_key(key.as_ref());
        set
    }

    /// Adds the names of another set that this one does not contain.
    pub(crate) fn extend(&mut self, other: &Self) {
        if self.is_empty() {
            *self = other.clone();
            return;
        }
        for span in other.spans.iter() {
            if self.spans.iter().any(|known| known.hash == span.hash) {
                continue;
            }
            match other.slice(span) {
                "" => self.spans.push(*span),
                name => self.push_text(name, false),
            }
        }
    }

    /// Adds the name that `write` appends, with its ancestors. The name must be valid.
    pub(crate) fn push_written(&mut self, write: impl FnOnce(&mut String)) {
        self.add(true, write);
    }

    /// Adds the name that `write` appends, without its ancestors, for an invalidation.
    pub(crate) fn push_exactly(&mut self, write: impl FnOnce(&mut String)) {
        self.add(false, write);
    }

    fn push_text(&mut self, name: &str, ancestors: bool) {
        self.add(ancestors, |text| text.push_str(name));
    }

    fn add(&mut self, ancestors: bool, write: impl FnOnce(&mut String)) {
        let Self { text, spans } = self;
        let text = text.own();
        let start = text.len();
        write(text);
        debug_assert!(check(&text[start..]).is_ok(), "{:?}", &text[start..]);
        if !ancestors {
            let hash = hash_of(&text[start..]);
            return spans.push(Span { start: start as u32, end: text.len() as u32, hash });
        }
        let (mut kept, mut from) = (start, if &text[start..] == ROOT { text.len() } else { start });
        while from < text.len() {
            let end = text.bytes().skip(from).position(|byte| byte == b':').map_or(text.len(), |at| from + at);
            from = end + 1;
            let level = &text[start..end];
            let hash = hash_of(level);
            if !spans.iter().any(|span| span.hash == hash && text.get(span.range()) == Some(level)) {
                kept = end;
                spans.push(Span { start: start as u32, end: end as u32, hash });
            }
        }
        text.truncate(kept);
    }

    /// Iterates over the names, ancestors included. The internal names of keys are left out.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.spans.iter().filter(|s| s.end > s.start).map(|s| self.slice(s))
    }

    /// Returns the number of names, internal names of keys included.
    #[inline]
    pub(crate) fn count(&self) -> usize {
        self.spans.len()
    }

    /// Returns the names without the first `count`.
    pub(crate) fn since(&self, count: usize) -> Self {
        let Some(since) = self.spans.get(count..).filter(|since| !since.is_empty()) else { return Self::default() };
        let mut spans = Spans::default();
        since.iter().for_each(|span| spans.push(*span));
        Self { text: self.text.clone(), spans }
    }

    /// Returns the number of names, ancestors included. The internal names of keys do not count.
    pub fn len(&self) -> usize {
        self.spans.iter().filter(|s| s.end > s.start).count()
    }

    /// Returns the number of names that are not an ancestor of another, without the root.
    pub(crate) fn named(&self) -> usize {
        let parents: HashSet<u64> =
            self.iter().filter_map(|name| name.rsplit_once(':')).map(|(parent, _)| hash_of(parent)).collect();
        self.spans.iter().filter(|span| span.end > span.start && span.hash != Self::root_hash()).count() - parents.len()
    }

    /// Returns true if more than [`MAX_NAMESPACES`] were named.
    #[inline]
    pub(crate) fn are_too_many(&self) -> bool {
        self.count() > MAX_NAMESPACES && self.named() > MAX_NAMESPACES
    }

    /// Returns true if the set is empty.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Iterates over all names, internal names of keys included.
    #[cfg(feature = "redis")]
    pub(crate) fn names(&self) -> impl Iterator<Item = Name<'_>> + Clone {
        self.spans.iter().map(|span| match (span.start, span.end) {
            (0, 0) => Name::Key { hash: span.hash, alone: false },
            (1, 1) => Name::Key { hash: span.hash, alone: true },
            _ => Name::Text { text: self.slice(span), hash: span.hash },
        })
    }

    /// Iterates over the hashes of all names, internal names of keys included.
    #[inline]
    pub(crate) fn hashes(&self) -> impl Iterator<Item = u64> + Clone {
        self.spans.iter().map(|s| s.hash)
    }

    /// Returns the names one after the other. [`places`](Self::places) refers to this text.
    #[cfg(feature = "redis")]
    pub(crate) fn text(&self) -> &str {
        self.text.as_str()
    }

    /// Iterates over the places of all names, in order. With the text they describe the whole set.
    #[cfg(feature = "redis")]
    pub(crate) fn places(&self) -> impl Iterator<Item = Place> {
        self.spans.iter().map(|span| match span.end - span.start {
            0 => Place::Key { of_http: span.end == 1, hash: span.hash },
            len => Place::Text { start: span.start, len },
        })
    }

    /// Returns a set with this text and no names. [`push_place`](Self::push_place) adds `count` names.
    #[cfg(feature = "redis")]
    pub(crate) fn with_text(text: &str, count: usize) -> Self {
        Self { text: Text::Own(text.to_owned()), spans: Spans::with_capacity(count) }
    }

    /// Adds a name. Returns `false` if the text does not contain it.
    #[cfg(feature = "redis")]
    #[must_use]
    pub(crate) fn push_place(&mut self, place: Place) -> bool {
        let span = match place {
            Place::Key { of_http, hash } => Span { start: of_http.into(), end: of_http.into(), hash },
            Place::Text { start, len } => {
                let Some(end) = start.checked_add(len) else { return false };
                let Some(name) = self.text.as_str().get(start as usize..end as usize).filter(|name| !name.is_empty()) else {
                    return false;
                };
                Span { start, end, hash: hash_of(name) }
            }
        };
        self.spans.push(span);
        true
    }

    /// Frees the memory that growing reserved. The initial capacity stays: moving the text into a smaller allocation would cost more than
    /// it saves.
    #[inline]
    pub(crate) fn shrink(&mut self) {
        if let Text::Own(text) = &mut self.text
            && text.capacity() > ROOM
        {
            text.shrink_to_fit();
        }
        if let Spans::Many(many) = &mut self.spans {
            many.shrink_to_fit();
        }
    }

    /// Returns the allocated memory in bytes. A shared text counts in full.
    #[inline]
    pub(crate) fn heap(&self) -> usize {
        let text = match &self.text {
            Text::Shared(text) => text.len(),
            Text::Own(text) => text.capacity(),
        };
        let spans = match &self.spans {
            Spans::Few(..) => 0,
            Spans::Many(many) => many.capacity() * size_of::<Span>(),
        };
        text + spans
    }

    fn slice(&self, span: &Span) -> &str {
        self.text.as_str().get(span.range()).unwrap_or_default()
    }
}

impl fmt::Debug for Namespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Returns the hash of a name in this process. It differs in each process, so a collision cannot be prepared. Debug builds always use the
/// same seed, so that tests are repeatable.
#[inline]
pub(crate) fn hash_of(name: impl AsRef<[u8]>) -> u64 {
    static SEED: LazyLock<u64> = LazyLock::new(|| match cfg!(debug_assertions) {
        true => 0x7465_7374,
        false => RandomState::new().hash_one(0),
    });
    match name.as_ref() {
        name if name == ROOT.as_bytes() => Namespaces::root_hash(),
        name => xxh3_64_with_seed(name, *SEED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_name_is_refused_with_its_reason() {
        let long = "x".repeat(201);
        for (name, why) in [
            ("", "is empty"),
            (long.as_str(), "longer than 200"),
            ("a::b", "empty level"),
            (":a", "empty level"),
            ("a:", "empty level"),
            ("a b", "white space"),
            ("a:*", "`*`"),
            ("a\n", "white space"),
            ("a:b:c:d:e:f:g:h", "7 levels"),
        ] {
            let error = Namespace::new(name).expect_err(name).to_string();
            assert!(error.contains(why), "{name:?}: {error}");
        }
        for name in ["*", "a", "a:b", "käse:brot", "a:b:c:d:e:f:g"] {
            assert_eq!(Namespace::new(name).expect(name).as_str(), name);
        }
    }
    #[test]
    fn values_stay_separate_levels() {
        let values = ["a", "a:b", "a%3Ab", "*", "%2A", "", "%", " ", "~x", &"y".repeat(65), &"y".repeat(66)];
        let mut seen = std::collections::HashSet::new();
        for value in values {
            let name = Namespace::of(["t", value]);
            assert_eq!(Namespace::new(name.as_str()).expect("valid"), name);
            assert_eq!(name.as_str().matches(':').count(), 1, "{name}");
            assert!(seen.insert(name), "{value:?} met another value");
        }
    }
    #[test]
    fn different_values_make_different_valid_names() {
        let long = "z".repeat(60);
        let mut seen = std::collections::HashSet::new();
        for levels in [vec!["a"; 7], vec!["a"; 8], vec!["a"; 9], vec!["b"; 9], vec![&long; 3], vec![&long; 4], vec![&long; 40]]
        {
            let name = Namespace::of(&levels);
            assert_eq!(Namespace::new(name.as_str()).as_ref(), Ok(&name));
            assert!(name.as_str().starts_with(levels[0]), "{name}");
            assert!(seen.insert(name), "{levels:?} met others");
        }
    }
    #[test]
    fn ancestors_are_listed_once() {
        let mut set = Namespaces::root();
        set.push("db_query:orders");
        set.push("db_query:orders:42");
        set.push("auth");
        set.push("*");
        set.push("ä:ö");
        let names: Vec<_> = set.iter().collect();
        assert_eq!(names, ["*", "db_query", "db_query:orders", "db_query:orders:42", "auth", "ä", "ä:ö"]);
        assert_eq!(set.hashes().count(), 7);
    }
    #[test]
    fn derived_set_leaves_the_original_unchanged() {
        let base = {
            let mut base = Namespaces::root();
            base.push("a");
            base.shared()
        };
        let mut made = base.clone();
        for name in ["a:b", "a", "c:d", "e:f"] {
            made.push(name);
        }
        let all = ["*", "a", "a:b", "c", "c:d", "e", "e:f"];
        assert_eq!(made.iter().collect::<Vec<_>>(), all);
        assert_eq!((base.iter().collect::<Vec<_>>(), base.count()), (vec!["*", "a"], 2));
        for count in 0..=all.len() {
            assert_eq!(made.since(count).iter().collect::<Vec<_>>(), all[count..]);
        }
    }
    #[test]
    fn exact_set_has_no_ancestors() {
        let names = [Namespace::new("a:b").expect("valid"), Namespace::root()];
        let set = Namespaces::exactly(&names);
        assert_eq!(set.iter().collect::<Vec<_>>(), ["a:b", "*"]);
    }
}
