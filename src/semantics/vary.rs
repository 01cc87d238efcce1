//! `Vary`: the request fields that select a stored response (RFC 9111 §4.1).

use std::{cell::RefCell, cmp::Reverse};

use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_ENCODING, CONTENT_LANGUAGE, HeaderMap,
    HeaderName, ORIGIN, VARY,
};

use super::list;

/// The request fields nominated by the `Vary` lines of a response. The default nominates none.
///
/// ```
/// use http::HeaderMap;
/// use tower_response_cache::semantics::{Normalise, Vary};
///
/// let mut response = HeaderMap::new();
/// response.append("vary", "X-Tenant, accept-language".parse().unwrap());
/// response.append("vary", "accept-language".parse().unwrap());
/// let vary = Vary::of(&response);
/// assert_eq!(vary.names(), ["accept-language", "x-tenant"]);
///
/// let (mut one, mut two) = (HeaderMap::new(), HeaderMap::new());
/// one.insert("accept-language", "en, de".parse().unwrap());
/// two.append("accept-language", "en".parse().unwrap());
/// two.append("accept-language", "de".parse().unwrap());
/// assert!(vary.matches(&one, &two, Normalise::rfc()));
/// two.insert("x-tenant", "".parse().unwrap());
/// assert!(!vary.matches(&one, &two, Normalise::rfc()));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vary {
    star: bool,
    names: Vec<HeaderName>,
}

/// The normalisation of nominated fields before their comparison. It preserves the meaning of the fields under HTTP.
///
/// The default is [`Normalise::none`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Normalise {
    /// True if the lines of a field are joined by commas, and whitespace around commas is ignored (RFC 9111 §4.1).
    ///
    /// This does not apply inside quoted strings and to fields that are not lists. Defaults to false.
    pub lists: bool,
    /// The normalisation of `Accept-Encoding`. Defaults to [`Weights::Verbatim`].
    pub accept_encoding: Weights,
    /// The normalisation of `Accept-Language`. Defaults to [`Weights::Verbatim`].
    pub accept_language: Weights,
    /// True if a response also matches a request that prefers the response's only `Content-Language` to every other language.
    ///
    /// Use it for an inner service that selects the most preferred of its languages. It affects [`Vary::fits`] only. A cache with keys stores
    /// such a response twice. Defaults to false.
    pub select_language: bool,
}

/// The normalisation of a list with quality values (RFC 9110 §12.4.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Weights {
    /// No normalisation.
    #[default]
    Verbatim,
    /// Names are in lower case, `x-gzip` becomes `gzip`, weights have one notation, and members are sorted by weight.
    ///
    /// Members of equal weight keep their order, because some recipients follow it (RFC 9110 §12.5.4).
    Ordered,
    /// [`Ordered`](Self::Ordered), but members of equal weight are sorted by name. Use it if the inner service ignores their order.
    Unordered,
}

impl Normalise {
    /// Compares all fields byte for byte.
    pub const fn none() -> Normalise {
        Normalise {
            lists: false,
            accept_encoding: Weights::Verbatim,
            accept_language: Weights::Verbatim,
            select_language: false,
        }
    }

    /// Enables the normalisation that RFC 9111 §4.1 allows for every field: [`lists`](Self::lists).
    pub const fn rfc() -> Normalise {
        Normalise { lists: true, ..Normalise::none() }
    }
}

impl Vary {
    /// Parses all `Vary` lines of a response. A member that is not a field name counts as `*`.
    pub fn of(response: &HeaderMap) -> Vary {
        let mut vary = Vary::default();
        for member in response.get_all(VARY).iter().flat_map(|line| list::elements(line.as_bytes())) {
            match HeaderName::from_bytes(member) {
                Ok(name) if name != "*" => vary.names.push(name),
                _ => vary.star = true,
            }
        }
        vary.names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        vary.names.dedup();
        vary
    }

    /// Returns the request fields that evidently selected a response, even if its `Vary` omits them.
    ///
    /// Serving the response to a request with other values may send content that the client cannot decode or must not read.
    ///
    /// - `Accept-Encoding`, if the response has a `Content-Encoding` other than `identity`;
    /// - `Accept-Language`, if it has a `Content-Language`;
    /// - `Origin`, if `Access-Control-Allow-Origin` equals the `Origin` of the request. Without a `request`, any value but `*` counts.
    ///
    /// ```
    /// use http::HeaderMap;
    /// use tower_response_cache::semantics::Vary;
    ///
    /// let (mut request, mut response) = (HeaderMap::new(), HeaderMap::new());
    /// request.insert("origin", "https://a.example".parse().unwrap());
    /// response.insert("access-control-allow-origin", "https://a.example".parse().unwrap());
    /// response.insert("content-encoding", "gzip".parse().unwrap());
    /// assert_eq!(Vary::negotiated(Some(&request), &response).names(), ["accept-encoding", "origin"]);
    /// ```
    pub fn negotiated(request: Option<&HeaderMap>, response: &HeaderMap) -> Vary {
        let mut codings = response.get_all(CONTENT_ENCODING).iter().flat_map(|line| list::elements(line.as_bytes()));
        let is_encoded = codings.any(|coding| !coding.eq_ignore_ascii_case(b"identity"));
        let allowed = response.get(ACCESS_CONTROL_ALLOW_ORIGIN);
        let is_echoed = allowed.is_some_and(|allowed| match request {
            Some(request) => request.get(ORIGIN) == Some(allowed),
            None => allowed != "*",
        });
        let fields =
            [(is_encoded, ACCEPT_ENCODING), (response.contains_key(CONTENT_LANGUAGE), ACCEPT_LANGUAGE), (is_echoed, ORIGIN)];
        Vary { star: false, names: fields.into_iter().filter(|(selects, _)| *selects).map(|(_, name)| name).collect() }
    }

    /// Builds a `Vary` from the results of [`is_star`](Vary::is_star) and [`names`](Vary::names). Returns `None` unless the names are sorted
    /// and unique.
    #[cfg(feature = "redis")]
    pub(crate) fn of_names(star: bool, names: Vec<HeaderName>) -> Option<Vary> {
        names.is_sorted_by(|a, b| a.as_str() < b.as_str()).then_some(Vary { star, names })
    }

    /// Adds a field. A 206 stored as such depends on `Range` and `If-Range`, which its `Vary` does not nominate.
    #[must_use]
    pub fn and(mut self, name: HeaderName) -> Vary {
        self.names.push(name);
        self.names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        self.names.dedup();
        self
    }

    /// Returns the union of the nominated fields.
    pub fn union(&self, other: &Vary) -> Vary {
        let mut names = self.names.clone();
        names.extend(other.names.iter().cloned());
        names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        Vary { star: self.star || other.star, names }
    }

    /// Returns true if a member is `*`, so that no request matches.
    pub fn is_star(&self) -> bool {
        self.star
    }

    /// Returns true if the response depends on no request field.
    pub fn is_empty(&self) -> bool {
        !self.star && self.names.is_empty()
    }

    /// Returns the nominated fields, sorted and without duplicates.
    pub fn names(&self) -> &[HeaderName] {
        &self.names
    }

    /// Returns true if two requests have equal nominated fields. An absent field equals only an absent field.
    pub fn matches(&self, stored: &HeaderMap, new: &HeaderMap, normalise: Normalise) -> bool {
        let (mut one, mut two) = (Vec::new(), Vec::new());
        let same = |name: &HeaderName| {
            one.clear();
            two.clear();
            write_field(name, stored, normalise, &mut one);
            write_field(name, new, normalise, &mut two);
            one == two
        };
        !self.star && self.names.iter().all(same)
    }

    /// Returns true if a stored response may be used for the request `new` (RFC 9111 §4.1).
    ///
    /// `stored` is the request that the response answered. Both requests must [match](Vary::matches), or match apart from a
    /// [selected language](Normalise::select_language).
    pub fn fits(&self, stored: &HeaderMap, response: &HeaderMap, new: &HeaderMap, normalise: Normalise) -> bool {
        let preferred = || preferred_language(new).is_some_and(|language| content_language(response) == Some(language));
        if self.selects(normalise) && preferred() {
            let names = self.names.iter().filter(|name| **name != ACCEPT_LANGUAGE).cloned().collect();
            return Vary { star: self.star, names }.matches(stored, new, normalise);
        }
        self.matches(stored, new, normalise)
    }

    /// Returns true if a language may be selected.
    pub(crate) fn selects(&self, normalise: Normalise) -> bool {
        normalise.select_language && self.names.contains(&ACCEPT_LANGUAGE)
    }

    /// Appends the nominated fields of a request to a cache key, each with its name, a type tag and lengths (big-endian, 4 bytes).
    ///
    /// Requests that do not [match](Vary::matches) have different bytes. `*` is not written, because a response with it is not stored.
    pub fn write(&self, request: &HeaderMap, normalise: Normalise, key: &mut Vec<u8>) {
        write_count(self.names.len(), key);
        for name in &self.names {
            write_field(name, request, normalise, key);
        }
    }

    /// Appends the nominated fields with this language in place of `Accept-Language`.
    ///
    /// The bytes are equal for two requests if the response to one is in this language, the other prefers it to all others, and the response
    /// [fits](Vary::fits). They differ from all bytes written by [`Vary::write`].
    pub(crate) fn write_selected(&self, request: &HeaderMap, language: &[u8], normalise: Normalise, key: &mut Vec<u8>) {
        write_count(self.names.len(), key);
        for name in &self.names {
            if *name == ACCEPT_LANGUAGE {
                write_part(name.as_str().as_bytes(), key);
                key.push(b's');
                write_part(language, key);
            } else {
                write_field(name, request, normalise, key);
            }
        }
    }
}

/// Fields that are not lists. A comma in them is an ordinary byte, and their lines are compared one by one.
const NOT_LISTS: [&str; 14] = [
    "authorization",
    "content-type",
    "cookie",
    "date",
    "from",
    "host",
    "if-modified-since",
    "if-range",
    "if-unmodified-since",
    "origin",
    "proxy-authorization",
    "range",
    "referer",
    "user-agent",
];

thread_local! {
    /// The last negotiation fields that this thread wrote. Clients send few different values of them.
    static WRITTEN: RefCell<[Option<Written>; PLACES]> = const { RefCell::new([const { None }; PLACES]) };
}

/// The number of fields that a thread remembers.
const PLACES: usize = 16;

/// The largest length of a value that a thread remembers, in bytes.
const LONGEST: usize = 256;

/// A field with one line, and its bytes in a key.
struct Written {
    name: HeaderName,
    line: Box<[u8]>,
    normalise: Normalise,
    bytes: Box<[u8]>,
}

/// Writes a nominated field. A field of content negotiation, which is no secret, is written once for each value.
fn write_field(name: &HeaderName, request: &HeaderMap, normalise: Normalise, key: &mut Vec<u8>) {
    let mut lines = request.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) if is_negotiation(name) && line.len() <= LONGEST && !line.is_sensitive() => {
            write_remembered(name, line.as_bytes(), request, normalise, key);
        }
        _ => write_lines(name, request, normalise, key),
    }
}

fn is_negotiation(name: &HeaderName) -> bool {
    matches!(*name, ACCEPT | ACCEPT_ENCODING | ACCEPT_LANGUAGE)
}

fn write_remembered(name: &HeaderName, line: &[u8], request: &HeaderMap, normalise: Normalise, key: &mut Vec<u8>) {
    let start = key.len();
    let is_known = WRITTEN.try_with(|all| {
        let Ok(all) = all.try_borrow() else { return false };
        let Some(known) = &all[place(name, line)] else { return false };
        let is_known = known.name == *name && *known.line == *line && known.normalise == normalise;
        if is_known {
            key.extend_from_slice(&known.bytes);
        }
        is_known
    });
    if is_known.is_ok_and(|is_known| is_known) {
        return;
    }
    write_lines(name, request, normalise, key);
    let _ = WRITTEN.try_with(|all| {
        let Ok(mut all) = all.try_borrow_mut() else { return };
        let bytes = key[start..].into();
        all[place(name, line)] = Some(Written { name: name.clone(), line: line.into(), normalise, bytes });
    });
}

/// Returns the place in which a field is remembered.
fn place(name: &HeaderName, line: &[u8]) -> usize {
    (name.as_str().len() * 5 + line.len()) % PLACES
}

fn write_lines(name: &HeaderName, request: &HeaderMap, normalise: Normalise, key: &mut Vec<u8>) {
    write_part(name.as_str().as_bytes(), key);
    let all = request.get_all(name);
    let lines = || all.iter().map(|line| line.as_bytes());
    if lines().next().is_none() {
        key.push(b'-');
        return;
    }
    let weights = match *name {
        ACCEPT_ENCODING => normalise.accept_encoding,
        ACCEPT_LANGUAGE => normalise.accept_language,
        _ => Weights::Verbatim,
    };
    if weights != Weights::Verbatim
        && let Some(preferences) = preferences(lines().flat_map(list::elements), weights)
    {
        key.push(b'w');
        write_counted(key, preferences, |preference, key| {
            write_part(&preference.name, key);
            key.extend(preference.thousandths.to_be_bytes());
        });
    } else if normalise.lists && !NOT_LISTS.contains(&name.as_str()) && lines().all(list::quotes_balance) {
        key.push(b'l');
        write_counted(key, lines().flat_map(list::members), write_part);
    } else {
        key.push(b'v');
        write_counted(key, lines(), write_part);
    }
}

/// Returns the only `Content-Language` of a response in lower case, or `None` if it has none or several.
pub(crate) fn content_language(response: &HeaderMap) -> Option<Vec<u8>> {
    let mut languages = response.get_all(CONTENT_LANGUAGE).iter().flat_map(|line| list::elements(line.as_bytes()));
    let (Some(language), None) = (languages.next(), languages.next()) else { return None };
    Some(language.to_ascii_lowercase())
}

/// Returns the language that a request prefers to all others, in lower case.
pub(crate) fn preferred_language(request: &HeaderMap) -> Option<Vec<u8>> {
    let members = request.get_all(ACCEPT_LANGUAGE).iter().flat_map(|line| list::elements(line.as_bytes()));
    let mut preferences = preferences(members, Weights::Ordered)?.into_iter();
    let first = preferences.next()?;
    let is_preferred = preferences.next().is_none_or(|second| second.thousandths < first.thousandths);
    (first.thousandths > 0 && is_preferred).then_some(first.name)
}

struct Preference {
    name: Vec<u8>,
    thousandths: u16,
}

/// Parses members that each consist of a token, `*` or a language range, and at most a weight. Returns `None` for other members.
fn preferences<'a>(members: impl Iterator<Item = &'a [u8]>, weights: Weights) -> Option<Vec<Preference>> {
    let mut preferences: Vec<Preference> = members.map(preference).collect::<Option<_>>()?;
    match weights {
        Weights::Unordered => preferences.sort_by(|a, b| (b.thousandths, &a.name).cmp(&(a.thousandths, &b.name))),
        _ => preferences.sort_by_key(|preference| Reverse(preference.thousandths)),
    }
    Some(preferences)
}

fn preference(member: &[u8]) -> Option<Preference> {
    let mut parts = member.splitn(2, |byte| *byte == b';');
    let name = parts.next()?.trim_ascii().to_ascii_lowercase();
    let thousandths = match parts.next() {
        None => 1000,
        Some(weight) => quality(weight.trim_ascii())?,
    };
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_*.+".contains(byte);
    if name.is_empty() || !name.iter().all(is_allowed) {
        return None;
    }
    // RFC 9110 §8.4.1.3: x-gzip equals gzip.
    let name = if name == b"x-gzip" { b"gzip".to_vec() } else { name };
    Some(Preference { name, thousandths })
}

/// Parses `q=` and a weight between 0 and 1 with at most three decimals, in thousandths (RFC 9110 §12.4.2).
fn quality(weight: &[u8]) -> Option<u16> {
    let [b'q' | b'Q', b'=', whole @ (b'0' | b'1'), fraction @ ..] = weight else {
        return None;
    };
    let digits = match fraction {
        [] => fraction,
        [b'.', digits @ ..] if digits.len() <= 3 && digits.iter().all(u8::is_ascii_digit) => digits,
        _ => return None,
    };
    let mut thousandths = u16::from(whole - b'0');
    for place in 0..3 {
        thousandths = thousandths * 10 + digits.get(place).map_or(0, |digit| u16::from(digit - b'0'));
    }
    (thousandths <= 1000).then_some(thousandths)
}

fn write_part(bytes: &[u8], key: &mut Vec<u8>) {
    write_count(bytes.len(), key);
    key.extend(bytes);
}

/// Appends the number of items, then the items.
fn write_counted<T>(key: &mut Vec<u8>, items: impl IntoIterator<Item = T>, write: impl Fn(T, &mut Vec<u8>)) {
    let (at, mut number) = (key.len(), 0);
    write_count(0, key);
    for item in items {
        write(item, key);
        number += 1;
    }
    key[at..at + 4].copy_from_slice(&encode_length(number));
}

fn write_count(number: usize, key: &mut Vec<u8>) {
    key.extend(encode_length(number));
}

/// Encodes a length. Header fields are far below 4 GiB. A longer one must not become equal to another.
fn encode_length(number: usize) -> [u8; 4] {
    u32::try_from(number).expect("a header field below 4 GiB").to_be_bytes()
}

/// Reads the fields that [`Vary::write`] has written, as lines that a request may have. An absent field has no line. Returns `None` for other
/// bytes.
pub(crate) fn read_written(bytes: &[u8]) -> Option<Vec<(HeaderName, Vec<u8>)>> {
    let (mut rest, mut lines) = (bytes, Vec::new());
    for _ in 0..read_count(&mut rest)? {
        let name = HeaderName::from_bytes(read_part(&mut rest)?).ok()?;
        let (form, behind) = rest.split_first()?;
        rest = behind;
        match form {
            b'-' => {}
            b's' => lines.push((name, read_part(&mut rest)?.to_vec())),
            b'v' | b'l' | b'w' => {
                let mut members = Vec::new();
                for _ in 0..read_count(&mut rest)? {
                    let mut member = read_part(&mut rest)?.to_vec();
                    if *form == b'w' {
                        let (thousandths, behind) = rest.split_first_chunk()?;
                        rest = behind;
                        match u16::from_be_bytes(*thousandths) {
                            1000 => {}
                            less => member.extend(format!(";q={}.{:03}", less / 1000, less % 1000).bytes()),
                        }
                    }
                    members.push(member);
                }
                match form {
                    b'v' => lines.extend(members.into_iter().map(|line| (name.clone(), line))),
                    _ => lines.push((name, members.join(&b", "[..]))),
                }
            }
            _ => return None,
        }
    }
    rest.is_empty().then_some(lines)
}

fn read_count(rest: &mut &[u8]) -> Option<usize> {
    let (count, behind) = rest.split_first_chunk()?;
    *rest = behind;
    usize::try_from(u32::from_be_bytes(*count)).ok()
}

fn read_part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = read_count(rest)?;
    let (part, behind) = rest.split_at_checked(len)?;
    *rest = behind;
    Some(part)
}

#[cfg(test)]
#[path = "tests/vary.rs"]
mod tests;
