//! Which request fields a response depends on, and whether two requests agree in them (RFC 9111 §4.1).

use std::cmp::Reverse;

use http::header::{ACCEPT_ENCODING, ACCEPT_LANGUAGE, HeaderMap, HeaderName, VARY};

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
pub struct Normalise {
    /// A field on several lines equals one with the lines joined by commas, and whitespace around commas does not count
    /// (RFC 9111 §4.1). Not applied to fields known not to be lists, nor inside quoted strings. Defaults to no.
    pub lists: bool,
    /// What may change in `Accept-Encoding`. Defaults to [`Weights::Verbatim`].
    pub accept_encoding: Weights,
    /// What may change in `Accept-Language`. Defaults to [`Weights::Verbatim`].
    pub accept_language: Weights,
}

/// How a list of weighted preferences (RFC 9110 §12.4.2) is reduced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
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
        Normalise { lists: false, accept_encoding: Weights::Verbatim, accept_language: Weights::Verbatim }
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

    /// The fields that this or the other nominates.
    pub fn union(&self, other: &Vary) -> Vary {
        let mut names = self.names.clone();
        names.extend(other.names.iter().cloned());
        names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        Vary { star: self.star || other.star, names }
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
    let lines = || request.get_all(name).iter().map(|line| line.as_bytes());
    if !request.contains_key(name) {
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
        count(preferences.len(), key);
        for preference in preferences {
            part(&preference.name, key);
            key.extend(preference.thousandths.to_be_bytes());
        }
    } else if normalise.lists && !SINGLE.contains(&name.as_str()) && lines().all(list::quotes_balance) {
        key.push(b'l');
        let members = || lines().flat_map(list::members);
        count(members().count(), key);
        members().for_each(|member| part(member, key));
    } else {
        key.push(b'v');
        count(lines().count(), key);
        lines().for_each(|line| part(line, key));
    }
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

/// Header sections are far below 4 GiB; one that is not must not become equal to another.
fn count(number: usize, key: &mut Vec<u8>) {
    key.extend(u32::try_from(number).expect("a header field below 4 GiB").to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    fn agree(name: &str, one: &[&str], two: &[&str], normalise: Normalise) -> bool {
        let vary = Vary::of(&headers(&[("vary", name)]));
        let request = |lines: &[&str]| headers(&lines.iter().map(|line| (name, *line)).collect::<Vec<_>>());
        let answer = vary.matches(&request(one), &request(two), normalise);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        vary.write(&request(one), normalise, &mut first);
        vary.write(&request(two), normalise, &mut second);
        assert_eq!(answer, first == second, "keys and matching say the same");
        answer
    }

    #[test]
    fn rfc9110_12_5_5_vary_parsed() {
        for (lines, star, names) in [
            (&[][..], false, &[][..]),
            (&["*"], true, &[]),
            (&["*, *"], true, &[]),
            (&["*", "*"], true, &[]),
            (&[", *"], true, &[]),
            (&["", "*"], true, &[]),
            (&["*, Foo"], true, &["foo"]),
            (&["Foo, *"], true, &["foo"]),
            (&["Foo", "*"], true, &["foo"]),
            (&["a b"], true, &[]),
            (&["Foo,, BAR ,foo"], false, &["bar", "foo"]),
            (&["Foo", "Bar"], false, &["bar", "foo"]),
        ] {
            let lines: Vec<_> = lines.iter().map(|line| ("vary", *line)).collect();
            let vary = Vary::of(&headers(&lines));
            assert_eq!(vary.is_star(), star, "{lines:?}");
            assert_eq!(vary.names(), names, "{lines:?}");
            assert_eq!(vary.is_empty(), !star && names.is_empty(), "{lines:?}");
        }
    }

    #[test]
    fn rfc9111_4_1_star_never_matches() {
        let same = headers(&[("foo", "1")]);
        assert!(!Vary::of(&headers(&[("vary", "foo, *")])).matches(&same, &same, Normalise::rfc()));
    }

    #[test]
    fn rfc9111_4_1_values_compared() {
        // one, two, agree byte for byte, agree under what the RFC allows for all
        for (one, two, none, rfc) in [
            (&["1"][..], &["1"][..], true, true),
            (&["1"], &["2"], false, false),
            (&["1"], &[], false, false),
            (&[], &["1"], false, false),
            (&[], &[], true, true),
            (&[""], &[], false, false),
            (&["1, 2"], &["1", "2"], false, true),
            (&["1"], &["1", "2"], false, false),
            (&["2", "1"], &["1", "2"], false, false),
            (&["1,2"], &["1 ,\t2"], false, true),
            (&["1 2"], &["1  2"], false, false),
            (&["1,,2"], &["1,2"], false, false),
            (&["a"], &["A"], false, false),
            (&["\"1, 2\""], &["\"1,2\""], false, false),
            (&["\"1", "2\""], &["\"1,2\""], false, false),
            (&["\"1, 2"], &["\"1,2"], false, false),
        ] {
            assert_eq!(agree("foo", one, two, Normalise::none()), none, "{one:?} {two:?}");
            assert_eq!(agree("foo", one, two, Normalise::rfc()), rfc, "{one:?} {two:?}");
        }
        assert!(!agree("user-agent", &["a (b, c)"], &["a (b,c)"], Normalise::rfc()), "a comment is no list");
    }

    #[test]
    fn rfc9111_4_1_all_nominated_fields_count() {
        let vary = Vary::of(&headers(&[("vary", "Foo, Bar"), ("vary", "Baz")]));
        let stored = headers(&[("foo", "1"), ("bar", "abc"), ("baz", "7"), ("other", "2")]);
        for (new, want) in [
            (&[("foo", "1"), ("bar", "abc"), ("baz", "7"), ("other", "3")][..], true),
            (&[("baz", "7"), ("bar", "abc"), ("foo", "1")], true),
            (&[("foo", "2"), ("bar", "abc"), ("baz", "7")], false),
            (&[("foo", "1"), ("bar", "abc4"), ("baz", "7")], false),
            (&[("foo", "1"), ("bar", "abc"), ("baz", "8")], false),
            (&[("foo", "1"), ("bar", "abc")], false),
            (&[("foo", "1"), ("baz", "abc"), ("bar", "7")], false),
        ] {
            assert_eq!(vary.matches(&stored, &headers(new), Normalise::rfc()), want, "{new:?}");
        }
    }

    #[test]
    fn rfc9110_12_5_3_and_12_5_4_weights() {
        use Weights::{Ordered, Unordered, Verbatim};
        for (one, two, verbatim, ordered, unordered) in [
            ("en, de", "en, de", true, true, true),
            ("en, de", "eN,  De", false, true, true),
            ("en, de", "de, en", false, false, true),
            ("en, de;q=0.5", "de;q=0.5, en", false, true, true),
            ("en, de;q=0.5", "en;q=1.000 , de ; Q=0.50", false, true, true),
            ("en, de;q=0.5", "en;q=1.000 , de; q=0.50", false, true, true),
            ("en;q=0", "en;q=0.000", false, true, true),
            ("en;q=0", "en", false, false, false),
            ("en, de", "en", false, false, false),
            ("en", "en, en", false, false, false),
            ("en;q=2", "en", false, false, false),
            ("en;q=1.001", "en", false, false, false),
            ("en;q=0.1234", "en;q=0.123", false, false, false),
            ("en;x=1", "en", false, false, false),
            ("", "*", false, false, false),
        ] {
            for (weights, want) in [(Verbatim, verbatim), (Ordered, ordered), (Unordered, unordered)] {
                let normalise = Normalise { accept_language: weights, ..Normalise::none() };
                assert_eq!(agree("accept-language", &[one], &[two], normalise), want, "{one} | {two} | {weights:?}");
                assert_eq!(agree("foo", &[one], &[two], normalise), one == two, "other fields are left alone");
            }
        }
        let normalise = Normalise { accept_encoding: Ordered, ..Normalise::none() };
        assert!(agree("accept-encoding", &["X-Gzip, br"], &["gzip", "br"], normalise));
        assert!(!agree("accept-encoding", &["gzip, br"], &["br, gzip"], normalise));
    }

    /// Lines of the bytes that matter here.
    fn lines() -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec("[ab,; =q01.\"*]{0,6}", 0..3)
            .prop_map(|lines| lines.into_iter().map(|line| line.trim().to_owned()).collect())
    }

    /// What RFC 9111 §4.1 says, done naively: lines joined, then whitespace around commas dropped.
    fn naive(lines: &[String]) -> Option<String> {
        (!lines.is_empty()).then(|| lines.join(",").split(',').map(str::trim).collect::<Vec<_>>().join(","))
    }

    fn request(lines: &[String]) -> HeaderMap {
        headers(&lines.iter().map(|line| ("foo", line.as_str())).collect::<Vec<_>>())
    }

    proptest! {
        #[test]
        fn without_normalisation_only_equal_lines_agree(one in lines(), two in lines()) {
            let vary = Vary::of(&headers(&[("vary", "foo")]));
            prop_assert_eq!(vary.matches(&request(&one), &request(&two), Normalise::none()), one == two);
        }

        #[test]
        fn lists_merge_nothing_that_the_rfc_keeps_apart(one in lines(), two in lines()) {
            let vary = Vary::of(&headers(&[("vary", "foo")]));
            let merged = vary.matches(&request(&one), &request(&two), Normalise::rfc());
            prop_assert!(!merged || naive(&one) == naive(&two));
            let quotes = one.iter().chain(&two).any(|line| line.contains('"'));
            prop_assert!(merged || quotes || naive(&one) != naive(&two));
        }

        #[test]
        fn two_fields_never_write_the_bytes_of_two_others(
            a in lines(), b in lines(), c in lines(), d in lines(), lists: bool,
        ) {
            let vary = Vary::of(&headers(&[("vary", "foo, bar")]));
            let normalise = Normalise { lists, ..Normalise::none() };
            let key = |foo: &[String], bar: &[String]| {
                let all = foo.iter().map(|line| ("foo", line.as_str())).chain(bar.iter().map(|line| ("bar", line.as_str())));
                let mut key = Vec::new();
                vary.write(&headers(&all.collect::<Vec<_>>()), normalise, &mut key);
                key
            };
            let differ = naive(&a) != naive(&c) || naive(&b) != naive(&d);
            prop_assert!(!differ || key(&a, &b) != key(&c, &d));
        }

        #[test]
        fn weights_merge_only_the_same_set_of_preferences(one in lines(), two in lines()) {
            let set = |lines: &[String]| -> Option<Vec<(Vec<u8>, u16)>> {
                let mut all = preferences(lines.iter().flat_map(|line| list::elements(line.as_bytes())), Weights::Ordered)?
                    .into_iter().map(|p| (p.name, p.thousandths)).collect::<Vec<_>>();
                all.sort();
                Some(all)
            };
            let vary = Vary::of(&headers(&[("vary", "accept-language")]));
            let request = |lines: &[String]| headers(&lines.iter().map(|line| ("accept-language", line.as_str())).collect::<Vec<_>>());
            let normalise = Normalise { accept_language: Weights::Unordered, ..Normalise::none() };
            if vary.matches(&request(&one), &request(&two), normalise) {
                prop_assert!(one == two || set(&one).is_some() && set(&one) == set(&two));
            }
        }
    }
}
