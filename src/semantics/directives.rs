//! `Cache-Control`: parsing and printing (RFC 9111 §5.2).

use std::fmt::{self, Display, Write as _};
use std::time::Duration;

use http::header::{CACHE_CONTROL, HeaderMap, HeaderName, PRAGMA};

use super::list;

/// The `Cache-Control` directives of one message, for requests and responses alike.
///
/// All lines of the field are read. Names are case-insensitive, and arguments are tokens or quoted strings. Unknown directives are
/// ignored. The first of several occurrences counts (RFC 9111 §4.2.1), except that a bare `private` or `no-cache` overrides one with field
/// names.
///
/// A number of seconds saturates at 2^31. An invalid number is read as the most restrictive value: 0, or 2^31 for `min-fresh`.
///
/// The default value has no directives. Parsing allocates only for field names after `private` or `no-cache`.
///
/// ```
/// # use std::time::Duration;
/// use tower_response_cache::semantics::{CacheControl, Scope};
///
/// let mut headers = http::HeaderMap::new();
/// headers.append("cache-control", "Max-Age=60, ext=\"a, no-store\"".parse().unwrap());
/// headers.append("cache-control", "private=\"x-user\", max-age=5".parse().unwrap());
///
/// let cc = CacheControl::of(&headers);
/// assert_eq!(cc.max_age, Some(Duration::from_secs(60)));
/// assert_eq!(cc.private, Some(Scope::Fields(vec!["x-user".parse().unwrap()])));
/// assert!(!cc.no_store);
/// assert_eq!(cc.to_string(), "private=\"x-user\", max-age=60");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheControl {
    /// `no-store` (§5.2.1.5, §5.2.2.5).
    pub no_store: bool,
    /// `private`, for the whole response or for some of its fields (§5.2.2.7).
    pub private: Option<Scope>,
    /// `no-cache`, for the whole response or for some of its fields (§5.2.1.4, §5.2.2.4).
    pub no_cache: Option<Scope>,
    /// `public` (§5.2.2.9).
    pub public: bool,
    /// `must-revalidate` (§5.2.2.2).
    pub must_revalidate: bool,
    /// `proxy-revalidate` (§5.2.2.8).
    pub proxy_revalidate: bool,
    /// `must-understand` (§5.2.2.3).
    pub must_understand: bool,
    /// `no-transform` (§5.2.1.6, §5.2.2.6).
    pub no_transform: bool,
    /// `immutable` (RFC 8246 §2).
    pub immutable: bool,
    /// `only-if-cached`, in requests (§5.2.1.7).
    pub only_if_cached: bool,
    /// `max-age` (§5.2.1.1, §5.2.2.1).
    pub max_age: Option<Duration>,
    /// `s-maxage` (§5.2.2.10).
    pub s_maxage: Option<Duration>,
    /// `stale-while-revalidate` (RFC 5861 §3).
    pub stale_while_revalidate: Option<Duration>,
    /// `stale-if-error` (RFC 5861 §4).
    pub stale_if_error: Option<Duration>,
    /// `min-fresh`, in requests (§5.2.1.3).
    pub min_fresh: Option<Duration>,
    /// `max-stale`, in requests (§5.2.1.2).
    pub max_stale: Option<MaxStale>,
    /// True if the directives come from a targeted field. `Expires` is then ignored (RFC 9213 §2.2). This is not a directive and is not
    /// printed.
    pub targeted: bool,
}

/// Returns false only if a line contains none of `no-store`, `no-cache` and `private`. It may return true for other lines.
#[inline]
pub(crate) fn may_restrict_storing(line: &[u8]) -> bool {
    // Each of the three contains a `v`, or a hyphen before `c` or `s`.
    let mut before = 0;
    line.iter().any(|byte| {
        let byte = byte | 0x20;
        let found = byte == b'v' || before == b'-' && matches!(byte, b'c' | b's');
        before = byte;
        found
    })
}

/// The part of a response covered by `private` or `no-cache`. The enum is complete: the grammar has no other form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The bare directive, which covers the whole response.
    Whole,
    /// The form `="field, field"`, which covers these fields. The list is never empty.
    Fields(Vec<HeaderName>),
}

impl Scope {
    /// Returns the listed fields. [`Scope::Whole`] lists none.
    pub fn fields(&self) -> &[HeaderName] {
        match self {
            Scope::Whole => &[],
            Scope::Fields(names) => names,
        }
    }

    /// Parses an argument. An empty list and a list with an invalid field name are read as the bare, stricter form.
    fn parse(argument: Option<&[u8]>) -> Scope {
        argument.and_then(list::unquote).map_or(Scope::Whole, Scope::of_names)
    }

    /// Parses a list of field names without quotes, as [`parse`](Self::parse) does.
    pub(super) fn of_names(names: &[u8]) -> Scope {
        let names: Option<Vec<_>> = list::elements(names).map(|name| HeaderName::from_bytes(name).ok()).collect();
        match names {
            Some(names) if !names.is_empty() => Scope::Fields(names),
            _ => Scope::Whole,
        }
    }

    /// Returns the scope covered by two occurrences of a directive together.
    fn widen(old: Option<Scope>, new: Scope) -> Option<Scope> {
        match (old, new) {
            (Some(Scope::Fields(mut names)), Scope::Fields(more)) => {
                names.extend(more);
                Some(Scope::Fields(names))
            }
            (None, new) => Some(new),
            _ => Some(Scope::Whole),
        }
    }
}

/// The argument of `max-stale`. The enum is complete: the grammar has no other form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxStale {
    /// The bare `max-stale`: staleness of any length is accepted.
    Any,
    /// `max-stale=…`: staleness up to this length is accepted.
    Within(Duration),
}

impl CacheControl {
    /// Parses all `Cache-Control` lines of a message.
    pub fn of(headers: &HeaderMap) -> CacheControl {
        CacheControl::of_lines(headers.get_all(CACHE_CONTROL).iter().map(|line| line.as_bytes()))
    }

    /// Parses the directives of a request. Without `Cache-Control`, `Pragma: no-cache` is read as `no-cache` (RFC 9111 §5.4).
    pub fn of_request(headers: &HeaderMap) -> CacheControl {
        if headers.contains_key(CACHE_CONTROL) || !headers.contains_key(PRAGMA) {
            return CacheControl::of(headers);
        }
        let mut lines = headers.get_all(PRAGMA).iter().flat_map(|line| list::elements(line.as_bytes()));
        let no_cache = lines.any(|element| element.eq_ignore_ascii_case(b"no-cache"));
        CacheControl { no_cache: no_cache.then_some(Scope::Whole), ..CacheControl::default() }
    }

    /// Parses the lines of a field with the syntax of `Cache-Control`.
    pub fn of_lines<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> CacheControl {
        let mut cc = CacheControl::default();
        for directive in lines.into_iter().flat_map(list::elements) {
            cc.add(directive);
        }
        cc
    }

    /// Parses one line.
    pub(crate) fn of_line(line: &[u8]) -> CacheControl {
        CacheControl::of_lines([line])
    }

    /// Returns true if a directive forbids a shared cache to serve the response stale without validation (RFC 9111 §4.2.4).
    ///
    /// The directives are `must-revalidate`, `proxy-revalidate`, `no-cache` and `s-maxage`, which implies `proxy-revalidate` (§5.2.2.10).
    pub fn forbids_stale(&self) -> bool {
        self.s_maxage.is_some() || self.forbids_stale_without_s_maxage()
    }

    /// Returns true if a directive other than `s-maxage` forbids serving the response stale.
    pub(super) fn forbids_stale_without_s_maxage(&self) -> bool {
        self.must_revalidate || self.proxy_revalidate || self.no_cache == Some(Scope::Whole)
    }

    fn add(&mut self, directive: &[u8]) {
        let (name, argument) = match directive.iter().position(|byte| *byte == b'=') {
            Some(at) => (&directive[..at], Some(&directive[at + 1..])),
            None => (directive, None),
        };
        let trimmed = name.trim_ascii_end();
        let mut lower = [0; LONGEST_NAME];
        let Some(lower) = lower.get_mut(..trimmed.len()) else {
            return;
        };
        lower.copy_from_slice(trimmed);
        lower.make_ascii_lowercase();

        // Whitespace around `=` is not allowed. Such an argument is an invalid number.
        let seconds = match argument {
            Some(argument) if name.len() == trimmed.len() => list::unquote(argument).and_then(list::delta_seconds),
            _ => None,
        };
        let seconds_or = |restrictive| Duration::from_secs(u64::from(seconds.unwrap_or(restrictive)));
        match &*lower {
            b"no-store" => self.no_store = true,
            b"private" => self.private = Scope::widen(self.private.take(), Scope::parse(argument)),
            b"no-cache" => self.no_cache = Scope::widen(self.no_cache.take(), Scope::parse(argument)),
            b"public" => self.public = true,
            b"must-revalidate" => self.must_revalidate = true,
            b"proxy-revalidate" => self.proxy_revalidate = true,
            b"must-understand" => self.must_understand = true,
            b"no-transform" => self.no_transform = true,
            b"immutable" => self.immutable = true,
            b"only-if-cached" => self.only_if_cached = true,
            b"max-age" => set_first(&mut self.max_age, seconds_or(0)),
            b"s-maxage" => set_first(&mut self.s_maxage, seconds_or(0)),
            b"stale-while-revalidate" => set_first(&mut self.stale_while_revalidate, seconds_or(0)),
            b"stale-if-error" => set_first(&mut self.stale_if_error, seconds_or(0)),
            b"min-fresh" => set_first(&mut self.min_fresh, seconds_or(list::MAX_DELTA)),
            b"max-stale" => {
                let bare = argument.is_none();
                set_first(&mut self.max_stale, if bare { MaxStale::Any } else { MaxStale::Within(seconds_or(0)) });
            }
            _ => {}
        }
    }
}

/// The length of `stale-while-revalidate`, the longest known directive.
const LONGEST_NAME: usize = 22;

/// Sets a value unless an earlier occurrence has set it (RFC 9111 §4.2.1).
fn set_first<T>(slot: &mut Option<T>, value: T) {
    slot.get_or_insert(value);
}

/// Writes the directives in a fixed order, separated by `, `. Without directives the text is empty.
///
/// Parsing the text gives an equal value if all durations are whole seconds of at most 2^31. Fractions of a second are cut off.
impl Display for CacheControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = CommaSeparated { f, started: false };
        let flags = [
            (self.no_store, "no-store"),
            (self.public, "public"),
            (self.must_revalidate, "must-revalidate"),
            (self.proxy_revalidate, "proxy-revalidate"),
            (self.must_understand, "must-understand"),
            (self.no_transform, "no-transform"),
            (self.immutable, "immutable"),
            (self.only_if_cached, "only-if-cached"),
        ];
        for (_, name) in flags.iter().filter(|(set, _)| *set) {
            out.next()?.write_str(name)?;
        }
        for (scope, name) in [(&self.private, "private"), (&self.no_cache, "no-cache")] {
            let Some(scope) = scope else { continue };
            out.next()?.write_str(name)?;
            if let [head, tail @ ..] = scope.fields() {
                write!(out.f, "=\"{head}")?;
                tail.iter().try_for_each(|field| write!(out.f, ", {field}"))?;
                out.f.write_char('"')?;
            }
        }
        let seconds = [
            (self.max_age, "max-age"),
            (self.s_maxage, "s-maxage"),
            (self.stale_while_revalidate, "stale-while-revalidate"),
            (self.stale_if_error, "stale-if-error"),
            (self.min_fresh, "min-fresh"),
        ];
        for (duration, name) in seconds {
            let Some(duration) = duration else { continue };
            write!(out.next()?, "{name}={}", duration.as_secs())?;
        }
        match self.max_stale {
            None => Ok(()),
            Some(MaxStale::Any) => out.next()?.write_str("max-stale"),
            Some(MaxStale::Within(limit)) => write!(out.next()?, "max-stale={}", limit.as_secs()),
        }
    }
}

/// Writes `, ` between elements.
struct CommaSeparated<'a, 'f> {
    f: &'a mut fmt::Formatter<'f>,
    started: bool,
}

impl<'f> CommaSeparated<'_, 'f> {
    fn next(&mut self) -> Result<&mut fmt::Formatter<'f>, fmt::Error> {
        if std::mem::replace(&mut self.started, true) {
            self.f.write_str(", ")?;
        }
        Ok(self.f)
    }
}

#[cfg(test)]
#[path = "tests/directives.rs"]
mod tests;
