//! Which request fields a response depends on, and whether two requests agree in them (RFC 9111 §4.1).

use std::cmp::Reverse;

use http::header::{
    ACCEPT_ENCODING, ACCEPT_LANGUAGE, ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_ENCODING, CONTENT_LANGUAGE, HeaderMap, HeaderName,
    ORIGIN, VARY,
};

use super::list;

/// The request fields that the `Vary` lines of a response nominate.
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

/// How far the values of nominated fields are reduced before they are compared. Everything here keeps the field's meaning
/// under HTTP; [`Normalise::none`], the default, keeps every byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Normalise {
    /// A field on several lines equals one with the lines joined by commas, and whitespace around commas does not count
    /// (RFC 9111 §4.1). Not applied to fields known not to be lists, nor inside quoted strings. Defaults to no.
    pub lists: bool,
    /// What may change in `Accept-Encoding`. Defaults to [`Weights::Verbatim`].
    pub accept_encoding: Weights,
    /// What may change in `Accept-Language`. Defaults to [`Weights::Verbatim`].
    pub accept_language: Weights,
    /// A response whose one `Content-Language` is what a request prefers above all else fits it, whatever else either request
    /// accepts ([`Vary::fits`] alone, not [`Vary::matches`]: it takes a look at the response). For an inner service that picks the most
    /// preferred of the languages it has. A cache keeps such a response twice. Defaults to no.
    pub select_language: bool,
}

/// How a list of weighted preferences (RFC 9110 §12.4.2) is reduced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Weights {
    /// Not at all.
    #[default]
    Verbatim,
    /// Letters in lower case, `x-gzip` as `gzip`, weights in one notation, preferred first; the order of equals is kept, as some
    /// recipients follow it (RFC 9110 §12.5.4).
    Ordered,
    /// The same, and the order of equals does not count. For an inner service that does not follow it.
    Unordered,
}

impl Normalise {
    /// Nothing is reduced.
    pub const fn none() -> Normalise {
        Normalise {
            lists: false,
            accept_encoding: Weights::Verbatim,
            accept_language: Weights::Verbatim,
            select_language: false,
        }
    }

    /// What RFC 9111 §4.1 allows for every field: lists joined, whitespace around their commas dropped.
    pub const fn rfc() -> Normalise {
        Normalise { lists: true, ..Normalise::none() }
    }
}

impl Vary {
    /// Reads all `Vary` lines of a response. A member that is no field name counts as `*`.
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

    /// The request fields by which a response was evidently chosen, whatever its `Vary` says. A cache that serves it to a request which
    /// differs in them may give a client what it cannot read, or is not allowed to read.
    ///
    /// - `Accept-Encoding`, if the response has a `Content-Encoding` other than `identity`;
    /// - `Accept-Language`, if it has a `Content-Language`;
    /// - `Origin`, if `Access-Control-Allow-Origin` repeats that of the request. Without the `request`, any value but `*` counts.
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
        let coded = codings.any(|coding| !coding.eq_ignore_ascii_case(b"identity"));
        let allowed = response.get(ACCESS_CONTROL_ALLOW_ORIGIN);
        let echoed = allowed.is_some_and(|allowed| match request {
            Some(request) => request.get(ORIGIN) == Some(allowed),
            None => allowed != "*",
        });
        let fields = [(coded, ACCEPT_ENCODING), (response.contains_key(CONTENT_LANGUAGE), ACCEPT_LANGUAGE), (echoed, ORIGIN)];
        Vary { star: false, names: fields.into_iter().filter(|(by, _)| *by).map(|(_, name)| name).collect() }
    }

    /// What [`names`](Vary::names) and [`is_star`](Vary::is_star) told of one; `None` if the names are not sorted, each once.
    #[cfg(feature = "redis")]
    pub(crate) fn of_names(star: bool, names: Vec<HeaderName>) -> Option<Vary> {
        names.is_sorted_by(|a, b| a.as_str() < b.as_str()).then_some(Vary { star, names })
    }

    /// The same, and one more field. A 206 that is kept as such depends on `Range` and `If-Range`, too, which `Vary` does not say.
    #[must_use]
    pub fn and(mut self, name: HeaderName) -> Vary {
        self.names.push(name);
        self.names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        self.names.dedup();
        self
    }

    /// The fields that this or the other nominates.
    pub fn union(&self, other: &Vary) -> Vary {
        let mut names = self.names.clone();
        names.extend(other.names.iter().cloned());
        names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        Vary { star: self.star || other.star, names }
    }

    /// Whether a member is `*`: no other request ever matches.
    pub fn is_star(&self) -> bool {
        self.star
    }

    /// Whether the response depends on no request field.
    pub fn is_empty(&self) -> bool {
        !self.star && self.names.is_empty()
    }

    /// The nominated fields, sorted, each once.
    pub fn names(&self) -> &[HeaderName] {
        &self.names
    }

    /// Whether two requests agree in all nominated fields: a field absent from one must be absent from the other.
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

    /// Whether a stored response fits a new request: that and the request it answered agree in all nominated fields, except that a
    /// language may also be [selected](Normalise::select_language).
    pub fn fits(&self, asked: &HeaderMap, response: &HeaderMap, new: &HeaderMap, normalise: Normalise) -> bool {
        let preferred = || preferred_language(new).is_some_and(|language| content_language(response) == Some(language));
        if self.selects(normalise) && preferred() {
            let names = self.names.iter().filter(|name| **name != ACCEPT_LANGUAGE).cloned().collect();
            return Vary { star: self.star, names }.matches(asked, new, normalise);
        }
        self.matches(asked, new, normalise)
    }

    /// Whether a language may be selected.
    pub(crate) fn selects(&self, normalise: Normalise) -> bool {
        normalise.select_language && self.names.contains(&ACCEPT_LANGUAGE)
    }

    /// Appends the nominated fields of a request to a cache key: each with its name, tagged, every part with its length before it
    /// (big-endian, 4 bytes), so that requests which do not [match](Vary::matches) never write the same bytes.
    ///
    /// A star is not written; nothing that has one is stored.
    pub fn write(&self, request: &HeaderMap, normalise: Normalise, key: &mut Vec<u8>) {
        count(self.names.len(), key);
        for name in &self.names {
            write_field(name, request, normalise, key);
        }
    }

    /// The same with a language in place of what the request says of languages: for two requests of which one was answered in this
    /// language and the other prefers it to all others, the bytes are the same if the response [fits](Vary::fits). [`Vary::write`] never
    /// writes them.
    pub(crate) fn write_selected(&self, request: &HeaderMap, language: &[u8], normalise: Normalise, key: &mut Vec<u8>) {
        count(self.names.len(), key);
        for name in &self.names {
            if *name == ACCEPT_LANGUAGE {
                part(name.as_str().as_bytes(), key);
                key.push(b's');
                part(language, key);
            } else {
                write_field(name, request, normalise, key);
            }
        }
    }
}

/// Fields of one value, in which a comma is just a comma. Their lines are kept apart, byte for byte.
const SINGLE: [&str; 14] = [
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

fn write_field(name: &HeaderName, request: &HeaderMap, normalise: Normalise, key: &mut Vec<u8>) {
    part(name.as_str().as_bytes(), key);
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
        counted(key, preferences, |preference, key| {
            part(&preference.name, key);
            key.extend(preference.thousandths.to_be_bytes());
        });
    } else if normalise.lists && !SINGLE.contains(&name.as_str()) && lines().all(list::quotes_balance) {
        key.push(b'l');
        counted(key, lines().flat_map(list::members), part);
    } else {
        key.push(b'v');
        counted(key, lines(), part);
    }
}

/// The one language that a response is in, in small letters; none if it names none or several.
pub(crate) fn content_language(response: &HeaderMap) -> Option<Vec<u8>> {
    let mut languages = response.get_all(CONTENT_LANGUAGE).iter().flat_map(|line| list::elements(line.as_bytes()));
    let (Some(language), None) = (languages.next(), languages.next()) else { return None };
    Some(language.to_ascii_lowercase())
}

/// The language that a request prefers to all others, in small letters.
pub(crate) fn preferred_language(request: &HeaderMap) -> Option<Vec<u8>> {
    let members = request.get_all(ACCEPT_LANGUAGE).iter().flat_map(|line| list::elements(line.as_bytes()));
    let mut preferences = preferences(members, Weights::Ordered)?.into_iter();
    let first = preferences.next()?;
    let above_all = preferences.next().is_none_or(|second| second.thousandths < first.thousandths);
    (first.thousandths > 0 && above_all).then_some(first.name)
}

struct Preference {
    name: Vec<u8>,
    thousandths: u16,
}

/// The members, if each is a token (or `*`, or a language range) with at most a weight.
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
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_*.+".contains(byte);
    if name.is_empty() || !name.iter().all(plain) {
        return None;
    }
    // RFC 9110 §8.4.1.3: x-gzip is equivalent to gzip.
    let name = if name == b"x-gzip" { b"gzip".to_vec() } else { name };
    Some(Preference { name, thousandths })
}

/// `q=` and a weight of at most three decimals between 0 and 1 (RFC 9110 §12.4.2), in thousandths.
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

fn part(bytes: &[u8], key: &mut Vec<u8>) {
    count(bytes.len(), key);
    key.extend(bytes);
}

/// All items, with their number before them.
fn counted<T>(key: &mut Vec<u8>, items: impl IntoIterator<Item = T>, write: impl Fn(T, &mut Vec<u8>)) {
    let (at, mut number) = (key.len(), 0);
    count(0, key);
    for item in items {
        write(item, key);
        number += 1;
    }
    key[at..at + 4].copy_from_slice(&be(number));
}

fn count(number: usize, key: &mut Vec<u8>) {
    key.extend(be(number));
}

/// Header sections are far below 4 GiB; one that is not must not become equal to another.
fn be(number: usize) -> [u8; 4] {
    u32::try_from(number).expect("a header field below 4 GiB").to_be_bytes()
}

#[cfg(test)]
#[path = "tests/vary.rs"]
mod tests;
