//! Request fields that matter to keys by their names: credentials, and fields in which a proxy reports the client's request.

use std::{array, mem, sync::LazyLock};

use http::{HeaderName, HeaderValue, header};

use super::{
    header_name::header_name,
    write::{Tag, numbered},
};

/// Header fields that identify the client.
///
/// A request with one of these fields bypasses the cache unless the key of its rule contains an [identity](crate::Identity), or the rule
/// [ignores credentials](crate::Rule::ignore_credentials) or [cookies](crate::Rule::ignore_cookies). Where [HTTP
/// decides](crate::Rule::http), such a request gets only responses that are explicitly for all clients (RFC 9111, section 3.5). The values
/// of these fields enter keys only as keyed hashes.
///
/// A field that is not in the list does not separate users, unless the key of the rule or a `Vary` names it. To store a response for each
/// value of a field, give the rule [`Identity::header`](crate::Identity::header).
///
/// The default list:
///
/// - HTTP: `authorization`, `cookie`, `proxy-authorization`, `client-cert`;
/// - API keys: `api-key`, `apikey`, `x-api-key`, `x-apikey`, `x-goog-api-key`;
/// - tokens: `x-auth-token`, `x-access-token`, `x-id-token`, `x-session-token`, `x-user-token`, `x-amz-security-token`, `x-vault-token`,
///   `x-shopify-access-token`, `private-token`, `job-token`, `deploy-token`;
/// - set by a proxy that authenticates: `cf-access-jwt-assertion`, `cf-access-client-id`, `cf-access-client-secret`, `cf-access-token`,
///   `x-goog-iap-jwt-assertion`, `x-amzn-oidc-data`, `x-amzn-oidc-accesstoken`, `x-amzn-oidc-identity`, `x-ms-client-principal`,
///   `x-forwarded-access-token`, `x-forwarded-user`, `x-forwarded-email`, `x-forwarded-client-cert`, `x-auth-request-user`,
///   `x-auth-request-email`, `x-auth-request-access-token`, `x-remote-user`, `remote-user`.
///
/// ```
/// use tower_response_cache::{Rules, key::CredentialFields};
///
/// let fields = CredentialFields::default().with(["x-tenant-token"]).without(["job-token"]);
/// let rules = Rules::new().credential_fields(fields);
/// # drop(rules);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialFields(Vec<HeaderName>);

impl CredentialFields {
    /// Adds fields by name.
    ///
    /// # Panics
    ///
    /// If one of them is not a field name.
    #[must_use]
    #[track_caller]
    pub fn with<I>(mut self, names: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        for name in names {
            let name = header_name(name.as_ref());
            if !self.0.contains(&name) {
                self.0.push(name);
            }
        }
        self
    }

    /// Removes fields by name. **Only for fields that no handler uses to distinguish users.**
    ///
    /// # Panics
    ///
    /// If one of them is not a field name.
    #[must_use]
    #[track_caller]
    pub fn without<I>(mut self, names: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        for name in names {
            let name = header_name(name.as_ref());
            self.0.retain(|listed| *listed != name);
        }
        self
    }

    /// Iterates over the listed names, in lower case.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(HeaderName::as_str)
    }
}

impl Default for CredentialFields {
    fn default() -> Self {
        const NAMES: [&str; 35] = [
            "client-cert",
            "api-key",
            "apikey",
            "x-api-key",
            "x-apikey",
            "x-goog-api-key",
            "x-auth-token",
            "x-access-token",
            "x-id-token",
            "x-session-token",
            "x-user-token",
            "x-amz-security-token",
            "x-vault-token",
            "x-shopify-access-token",
            "private-token",
            "job-token",
            "deploy-token",
            "cf-access-jwt-assertion",
            "cf-access-client-id",
            "cf-access-client-secret",
            "cf-access-token",
            "x-goog-iap-jwt-assertion",
            "x-amzn-oidc-data",
            "x-amzn-oidc-accesstoken",
            "x-amzn-oidc-identity",
            "x-ms-client-principal",
            "x-forwarded-access-token",
            "x-forwarded-user",
            "x-forwarded-email",
            "x-forwarded-client-cert",
            "x-auth-request-user",
            "x-auth-request-email",
            "x-auth-request-access-token",
            "x-remote-user",
            "remote-user",
        ];
        let standard = [header::AUTHORIZATION, header::COOKIE, header::PROXY_AUTHORIZATION];
        Self(standard.into_iter().chain(NAMES.map(HeaderName::from_static)).collect())
    }
}

/// The meaning of a field for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldClass {
    /// The field identifies the client.
    Credential,
    /// A proxy reports the client's request in the field. The number replaces the name in keys, so it is part of the stored form.
    Forwarding(u8),
    /// The field names a method that replaces the request's.
    MethodOverride,
}

/// Fields in which a proxy states the host, the scheme, the port or the path that the client sent.
const FORWARDING: [(HeaderName, u8); 14] = [
    (header::FORWARDED, FORWARDED),
    (HeaderName::from_static("x-forwarded-host"), 4),
    (HeaderName::from_static("x-forwarded-proto"), 5),
    (HeaderName::from_static("x-forwarded-port"), 6),
    (HeaderName::from_static("x-forwarded-prefix"), 7),
    (HeaderName::from_static("x-original-url"), 8),
    (HeaderName::from_static("x-rewrite-url"), 9),
    (HeaderName::from_static("x-host"), 10),
    (HeaderName::from_static("x-forwarded-scheme"), 11),
    (HeaderName::from_static("x-forwarded-ssl"), 12),
    (HeaderName::from_static("x-forwarded-server"), 13),
    (HeaderName::from_static("x-scheme"), 14),
    (HeaderName::from_static("x-original-host"), 15),
    (HeaderName::from_static("x-http-host-override"), 16),
];

/// The number of `Forwarded` (RFC 7239) in a key, for a whole line that is not simple. The parameters of simple lines have their own
/// numbers.
const FORWARDED: u8 = 1;
const FORWARDED_HOST: u8 = 2;
const FORWARDED_PROTO: u8 = 3;

static OVERRIDES: [HeaderName; 3] = [
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-method-override"),
];

/// A pattern of names that most requests carry. `http` represents them by numbers. `Host` is not among them, because keys contain it.
macro_rules! common_field {
    () => {
        ::http::header::ACCEPT
            | ::http::header::ACCEPT_CHARSET
            | ::http::header::ACCEPT_ENCODING
            | ::http::header::ACCEPT_LANGUAGE
            | ::http::header::CACHE_CONTROL
            | ::http::header::CONNECTION
            | ::http::header::CONTENT_LENGTH
            | ::http::header::CONTENT_TYPE
            | ::http::header::DNT
            | ::http::header::ORIGIN
            | ::http::header::PRAGMA
            | ::http::header::REFERER
            | ::http::header::TE
            | ::http::header::UPGRADE_INSECURE_REQUESTS
            | ::http::header::USER_AGENT
            | ::http::header::VIA
    };
}

pub(crate) use common_field;

/// Classifies fields by their names. One access to the table decides most names.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FieldTable {
    /// By a hash of the name: the beginning of its candidates in `fields`. They end where the next ones begin.
    heads: [u16; 257],
    /// Sorted by their hashes.
    fields: Box<[(HeaderName, FieldClass)]>,
    /// True if a [common field](common_field) is listed.
    lists_common: bool,
}

static DEFAULT: LazyLock<FieldTable> = LazyLock::new(|| FieldTable::new(&CredentialFields::default()));

impl FieldTable {
    pub(crate) fn new(credentials: &CredentialFields) -> Self {
        let mut fields: Vec<_> = FORWARDING.map(|(name, number)| (name, FieldClass::Forwarding(number))).into();
        fields.extend(OVERRIDES.iter().map(|name| (name.clone(), FieldClass::MethodOverride)));
        // A name that is listed as a credential counts only as a credential.
        fields.retain(|(name, _)| !credentials.0.contains(name));
        fields.extend(credentials.0.iter().map(|name| (name.clone(), FieldClass::Credential)));
        fields.sort_by_key(|(name, _)| hash(name.as_str()));
        let heads = array::from_fn(|of| fields.partition_point(|(name, _)| hash(name.as_str()) < of) as u16);
        let lists_common =
            fields.iter().any(|(name, class)| *class == FieldClass::Credential && matches!(*name, common_field!()));
        Self { heads, fields: fields.into(), lists_common }
    }

    /// Returns the class of a field.
    #[inline(never)]
    pub(crate) fn class(&self, name: &HeaderName) -> Option<FieldClass> {
        let hash = hash(name.as_str());
        let candidates = usize::from(self.heads[hash])..usize::from(self.heads[hash + 1]);
        self.fields[candidates].iter().find(|(listed, _)| listed == name).map(|(_, class)| *class)
    }

    /// Returns true if a [common field](common_field) has a class.
    #[inline]
    pub(crate) fn lists_common(&self) -> bool {
        self.lists_common
    }

    /// Returns true if the values of a field enter keys only as keyed hashes. This includes fields of the default list that the application
    /// has removed.
    pub(crate) fn is_secret(&self, name: &HeaderName) -> bool {
        match *name {
            // The default list has none of them.
            common_field!() if !self.lists_common => false,
            _ => [self, &DEFAULT].iter().any(|table| table.class(name) == Some(FieldClass::Credential)),
        }
    }
}

impl Default for FieldTable {
    fn default() -> Self {
        DEFAULT.clone()
    }
}

/// Returns the table of the default list.
pub(crate) fn default_fields() -> &'static FieldTable {
    &DEFAULT
}

/// Returns true if the field names a method that replaces the request's.
#[inline]
pub(crate) fn overrides_method(name: &HeaderName) -> bool {
    match *name {
        // Most fields of a request.
        common_field!() | header::HOST => false,
        _ => OVERRIDES.contains(name),
    }
}

/// Hashes a name by its length and two of its letters. The factors were found by a search. No name that browsers and proxies commonly send
/// has the hash of a listed name, except `x-csrf-token`.
#[inline]
fn hash(name: &str) -> usize {
    let name = name.as_bytes();
    let letter = |at: usize| usize::from(name.get(at).copied().unwrap_or_default());
    (name.len() * 49 + letter(name.len() / 2) * 29 + letter(name.len().wrapping_sub(1)) * 23) % 256
}

/// Returns the lines of forwarding fields that have these parts in a key. Returns `None` for parts that no field has.
pub(super) fn forwarding_lines(parts: &[&[u8]]) -> Option<Vec<(HeaderName, Vec<u8>)>> {
    let mut lines: Vec<(HeaderName, Vec<u8>)> = Vec::new();
    let mut follows_parameter = false;
    for part in parts {
        let (number, value) = part.split_first()?;
        let parameter: Option<&[u8]> = match *number {
            FORWARDED_HOST => Some(b"host="),
            FORWARDED_PROTO => Some(b"proto="),
            _ => None,
        };
        match (parameter, lines.last_mut()) {
            (Some(parameter), Some((_, line))) if follows_parameter => line.extend([b";", parameter, value].concat()),
            (Some(parameter), _) => lines.push((header::FORWARDED, [parameter, value].concat())),
            (None, _) => {
                let (name, _) = FORWARDING.into_iter().find(|(_, listed)| listed == number)?;
                lines.push((name, value.to_vec()));
            }
        }
        follows_parameter = parameter.is_some();
    }
    Some(lines)
}

/// The largest number of forwarding fields in a key.
const MOST_FORWARDING: usize = 8;

/// The forwarding fields of a request: those in [`FORWARDING`], and of `Forwarded` its parameters `host` and `proto`. Their parts are at
/// the end of a key, in the order of arrival.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Forwarding<'a> {
    values: [Option<&'a HeaderValue>; MOST_FORWARDING],
    numbers: [u8; MOST_FORWARDING],
    len: usize,
}

impl<'a> Forwarding<'a> {
    /// Adds a field. Returns `false` if there are too many.
    #[inline]
    pub(crate) fn push(&mut self, number: u8, value: &'a HeaderValue) -> bool {
        let Some(place) = self.values.get_mut(self.len) else { return false };
        *place = Some(value);
        self.numbers[self.len] = number;
        self.len += 1;
        true
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Calls `part` with the number and the value of each part.
    #[inline]
    fn for_each(&self, mut part: impl FnMut(u8, &'a [u8])) {
        for (number, value) in self.numbers.iter().zip(self.values.iter().map_while(|value| *value)) {
            match *number {
                FORWARDED => forwarded_parts(value.as_bytes(), &mut part),
                number => part(number, value.as_bytes()),
            }
        }
    }

    /// Appends the parts to a key.
    pub(crate) fn write(&self, canonical: &mut Vec<u8>) {
        self.for_each(|number, value| numbered(canonical, Tag::Forwarded, number, value));
    }

    /// Returns true if these are the parts at the end of a key. Returns `false` if a part has 254 bytes or more, because these are not
    /// compared.
    #[inline]
    pub(crate) fn is(&self, written: &[u8]) -> bool {
        let mut rest = Some(written);
        self.for_each(|number, value| {
            let expected = u8::try_from(value.len() + 1).ok().filter(|len| *len < u8::MAX);
            rest = rest.zip(expected).and_then(|(rest, len)| match rest {
                [tag, of, first, rest @ ..] if (*tag, *of, *first) == (Tag::Forwarded as u8, len, number) => {
                    rest.strip_prefix(value)
                }
                _ => None,
            });
        });
        rest.is_some_and(<[u8]>::is_empty)
    }
}

/// Calls `part` with the parameters `host` and `proto` of a line of `Forwarded` (RFC 7239, section 4), as they were sent. `for` and `by`
/// identify the client and the proxy, and are left out. A line that parsers may read differently counts as a whole.
#[cold]
fn forwarded_parts<'a>(line: &'a [u8], part: &mut impl FnMut(u8, &'a [u8])) {
    if !is_simple(line) {
        return part(FORWARDED, line);
    }
    for pair in line.split(|byte| matches!(byte, b',' | b';')) {
        let Some(at) = pair.iter().position(|byte| *byte == b'=') else { continue };
        let (name, value) = (pair[..at].trim_ascii(), &pair[at + 1..]);
        if name.eq_ignore_ascii_case(b"host") {
            part(FORWARDED_HOST, value.trim_ascii());
        } else if name.eq_ignore_ascii_case(b"proto") {
            part(FORWARDED_PROTO, value.trim_ascii());
        }
    }
}

/// Returns true if all quoted strings are closed and contain neither a delimiter nor an escape, each pair has one `=`, and no value
/// contains white space. In a line such as `for=1 host=a`, where a delimiter is missing, some parsers see a host.
fn is_simple(line: &[u8]) -> bool {
    let (mut quoted, mut ends_value, mut has_equals) = (false, false, false);
    let plain = line.iter().all(|byte| match byte {
        b'"' => {
            quoted = !quoted;
            !ends_value
        }
        b'\\' => false,
        b',' | b';' => {
            (ends_value, has_equals) = (false, false);
            !quoted
        }
        b'=' => !quoted && !mem::replace(&mut has_equals, true),
        b' ' | b'\t' => {
            ends_value = has_equals && !quoted;
            true
        }
        _ => !ends_value,
    });
    plain && !quoted
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn every_listed_field_has_its_class() {
        let table = FieldTable::default();
        for name in CredentialFields::default().names() {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            assert_eq!(table.class(&name), Some(FieldClass::Credential), "{name}");
        }
        for (name, number) in FORWARDING {
            assert_eq!(table.class(&name), Some(FieldClass::Forwarding(number)), "{name}");
        }
        for name in &OVERRIDES {
            assert_eq!(table.class(name), Some(FieldClass::MethodOverride), "{name}");
            assert!(overrides_method(name), "{name}");
        }
        for name in ["accept", "x-forwarded-for", "x-request-id", "x", "x-", "xx", "sec-ch-ua", "traceparent", "hos"] {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            assert_eq!(table.class(&name), None, "{name}");
            assert!(!overrides_method(&name), "{name}");
        }
    }
    #[test]
    fn listed_common_field_is_a_credential() {
        let table = FieldTable::new(&CredentialFields::default().with(["User-Agent"]).without(["cookie"]));
        assert_eq!(table.class(&header::USER_AGENT), Some(FieldClass::Credential));
        assert_eq!(table.class(&header::COOKIE), None);
        assert_eq!(table.class(&header::ACCEPT), None);
        assert!(table.lists_common() && !FieldTable::default().lists_common());
    }
    #[test]
    fn rfc7239_4_only_host_and_proto_of_forwarded_count() {
        for (line, want) in [
            ("for=192.0.2.60;proto=http;by=203.0.113.43", &[(FORWARDED_PROTO, "http")][..]),
            (
                "Host=a.test ; Proto=https, for=1;host=b.test",
                &[(FORWARDED_HOST, "a.test"), (FORWARDED_PROTO, "https"), (FORWARDED_HOST, "b.test")],
            ),
            ("for=\"[2001:db8::1]:4711\"", &[]),
            ("host=\"a.test:8080\"", &[(FORWARDED_HOST, "\"a.test:8080\"")]),
            ("", &[]),
            ("for=\"a;host=b.test\"", &[(FORWARDED, "for=\"a;host=b.test\"")]),
            ("for=\"a, host=b.test", &[(FORWARDED, "for=\"a, host=b.test")]),
            // A parser that looks for `host=` finds it.
            ("for=1 host=b", &[(FORWARDED, "for=1 host=b")]),
            ("for=1=host=b", &[(FORWARDED, "for=1=host=b")]),
            ("for=1\thost=b;proto=http", &[(FORWARDED, "for=1\thost=b;proto=http")]),
            ("for=\"1\" host=b", &[(FORWARDED, "for=\"1\" host=b")]),
            ("for=\"\\\"\";host=b", &[(FORWARDED, "for=\"\\\"\";host=b")]),
        ] {
            let mut got = Vec::new();
            forwarded_parts(line.as_bytes(), &mut |number, value| got.push((number, std::str::from_utf8(value).unwrap())));
            assert_eq!(got, want, "{line}");
        }
    }
    #[test]
    fn forwarding_fields_are_read_as_written() {
        let table = FieldTable::default();
        let map = |fields: &[(&'static str, &'static str)]| {
            fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect::<HeaderMap>()
        };
        let all = [
            map(&[]),
            map(&[("x-forwarded-for", "192.0.2.1")]),
            map(&[("x-forwarded-host", "a")]),
            map(&[("x-forwarded-host", "b")]),
            map(&[("x-host", "a")]),
            map(&[("x-forwarded-host", "a"), ("x-forwarded-proto", "http")]),
            map(&[("x-forwarded-host", "a"), ("x-forwarded-host", "http")]),
            map(&[("forwarded", "for=1;host=a")]),
            map(&[("forwarded", "for=2;host=a")]),
            map(&[("forwarded", "host=a;proto=http")]),
        ];
        fn forwarding<'a>(table: &FieldTable, headers: &'a HeaderMap) -> Forwarding<'a> {
            let mut forwarding = Forwarding::default();
            for (name, value) in headers {
                if let Some(FieldClass::Forwarding(number)) = table.class(name) {
                    assert!(forwarding.push(number, value));
                }
            }
            forwarding
        }
        let written = |headers: &HeaderMap| {
            let mut canonical = Vec::new();
            forwarding(&table, headers).write(&mut canonical);
            canonical
        };
        for one in &all {
            for other in &all {
                assert_eq!(forwarding(&table, one).is(&written(other)), written(one) == written(other), "{one:?} {other:?}");
            }
        }
        assert_eq!(written(&all[0]), written(&all[1]), "X-Forwarded-For identifies the client");
        assert_eq!(written(&all[7]), written(&all[8]), "`for` identifies the client");
        let distinct: std::collections::HashSet<_> = all.iter().map(written).collect();
        assert_eq!(distinct.len(), all.len() - 2);
    }
}
