//! Namespaces: the names under which entries are invalidated.

pub(crate) mod cache_groups;
pub(crate) mod fields;
pub(crate) mod set;

use std::{error, fmt};

use percent_encoding::percent_encode_byte;
use xxhash_rust::xxh3::xxh3_128;

/// The largest number of namespaces that a rule and a handler may name for one entry: 128. Their ancestors and the root `*` are added
/// automatically and do not count.
pub const MAX_NAMESPACES: usize = 128;

/// The largest number of levels of a name.
pub(crate) const MAX_LEVELS: usize = 7;

/// The longest name, in bytes: 200.
pub const MAX_NAMESPACE_LEN: usize = 200;

/// The longest value that enters a name as it is, in bytes. A longer one enters as its hash, so that no request can make a name too long.
const MAX_VALUE_LEN: usize = 64;

/// The name of a set of entries that are invalidated together, such as `db_query:orders`.
///
/// Levels are separated by `:`. An entry of `db_query:orders` also belongs to `db_query` and to the root `*`, so an invalidation of an
/// ancestor invalidates all names below it.
///
/// A name has 1 to [`MAX_NAMESPACE_LEN`] bytes of UTF-8 and at most seven levels. No level is empty or contains a control character, white
/// space or `*`. The root alone is written `*`.
///
/// ```
/// use tower_response_cache::Namespace;
///
/// let orders = Namespace::new("db_query:orders")?;
/// assert_eq!(orders.as_str(), "db_query:orders");
/// assert!(Namespace::new("db_query:").is_err());
///
/// // `of` encodes values from outside, as the templates of a rule do:
/// assert_eq!(Namespace::of(["db_query", "a:b"]).as_str(), "db_query:a%3Ab");
/// # Ok::<(), tower_response_cache::InvalidNamespace>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(Box<str>);

impl Namespace {
    /// Checks a name that is already written.
    ///
    /// # Errors
    ///
    /// If the name is empty or longer than 200 bytes, has more than seven levels, or has a level that is empty or contains a character that
    /// is not allowed.
    pub fn new(name: impl AsRef<str>) -> Result<Self, InvalidNamespace> {
        let name = name.as_ref();
        check(name)?;
        Ok(Self(name.into()))
    }

    /// Returns the name whose levels are these values, encoded.
    ///
    /// `:`, `*`, `%`, white space and control characters are percent-encoded. An empty value becomes `%`. A value longer than 64 bytes
    /// becomes `~` and its hash. The templates of a rule encode path parameters in the same way, so a job that invalidates a namespace
    /// filled from a request gets the same name. If the name would be too long or have more than seven levels, the levels become the first
    /// level and a hash of all.
    pub fn of<I>(levels: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut name = String::new();
        for level in levels {
            if !name.is_empty() {
                name.push(':');
            }
            push_value(&mut name, level.as_ref());
        }
        if name.is_empty() {
            name.push('*');
        }
        if name.len() > MAX_NAMESPACE_LEN || name.split(':').count() > MAX_LEVELS {
            let root = name.split(':').next().unwrap_or_default().to_owned();
            name = format!("{root}:~{:032x}", xxh3_128(name.as_bytes()));
        }
        Self(name.into())
    }

    /// Wraps the name that a template rendered. The template's text was checked when it was built, and its values were encoded.
    pub(crate) fn rendered(name: String) -> Self {
        debug_assert!(check(&name).is_ok(), "{name:?}");
        Self(name.into())
    }

    /// Returns the root `*`, to which every entry belongs.
    pub fn root() -> Self {
        Self("*".into())
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl TryFrom<&str> for Namespace {
    type Error = InvalidNamespace;

    fn try_from(name: &str) -> Result<Self, Self::Error> {
        Self::new(name)
    }
}

impl TryFrom<String> for Namespace {
    type Error = InvalidNamespace;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::new(name)
    }
}

impl From<&Namespace> for Namespace {
    fn from(name: &Namespace) -> Self {
        name.clone()
    }
}

/// The error of an invalid name. Its text contains the name and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidNamespace {
    name: String,
    why: &'static str,
}

impl InvalidNamespace {
    /// Returns the error of a name that is not UTF-8.
    pub(crate) fn not_text() -> Self {
        Self { name: String::new(), why: "is not UTF-8" }
    }
}

impl fmt::Display for InvalidNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "namespace {:?} {}", self.name, self.why)
    }
}

impl error::Error for InvalidNamespace {}

/// Allows [`Namespace`] itself where `TryInto<Namespace>` is required.
impl From<std::convert::Infallible> for InvalidNamespace {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

pub(crate) fn check(name: &str) -> Result<(), InvalidNamespace> {
    let bad = |why| {
        let name = name.chars().take(80).collect();
        Err(InvalidNamespace { name, why })
    };
    if name == "*" {
        return Ok(());
    }
    if name.is_empty() {
        return bad("is empty; give it a name such as `db_query:orders`, or `*` for everything");
    }
    if name.len() > MAX_NAMESPACE_LEN {
        return bad("is longer than 200 bytes; Namespace::of shortens long values by hashing them");
    }
    if name.split(':').any(str::is_empty) {
        return bad("has an empty level; levels are separated by single colons, as in `db_query:orders`");
    }
    if name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '*') {
        return bad("holds white space, a control character or `*`; Namespace::of encodes such values");
    }
    if name.split(':').count() > MAX_LEVELS {
        return bad("has more than 7 levels");
    }
    Ok(())
}

/// Appends a value to a name as one level. Different values stay different.
pub(crate) fn push_value(name: &mut String, value: &str) {
    if value.is_empty() {
        name.push('%');
        return;
    }
    let start = name.len();
    for c in value.chars() {
        if c == ':' || c == '*' || c == '%' || c == '~' && name.len() == start || c.is_whitespace() || c.is_control() {
            let mut utf8 = [0; 4];
            name.extend(c.encode_utf8(&mut utf8).bytes().map(percent_encode_byte));
        } else {
            name.push(c);
        }
        if name.len() - start > MAX_VALUE_LEN {
            name.truncate(start);
            name.push_str(&format!("~{:032x}", xxh3_128(value.as_bytes())));
            return;
        }
    }
}
