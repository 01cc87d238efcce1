//! Response rules: conditions over the head of a response, and their effects.

use std::{fmt, ops::RangeInclusive, time::Duration};

use http::{HeaderMap, HeaderName, StatusCode, header};

use super::error::{RulePart, RulesError, RulesErrorKind};
use crate::key::header_name::header_name;

/// Conditions over the head of a response, and the effect on a response that meets all of them. [`Rule::response_rule`](crate::Rule::response_rule) adds it to a rule.
///
/// Without a condition it matches every response.
///
/// | condition | is met by |
/// |---|---|
/// | [`status`](Self::status), [`statuses`](Self::statuses) | one of these statuses |
/// | [`content_type`](Self::content_type) | one of these media types |
/// | [`header`](Self::header) | a header field for each of these patterns |
///
/// Without an effect, a response that it matches is treated as the rule says otherwise, and later response rules do not count for it.
///
/// ```
/// use std::time::Duration;
/// use http::StatusCode;
/// use tower_response_cache::{Rule, rules::ResponseRule};
///
/// let rule = Rule::ttl(Duration::from_secs(300))
///     .response_rule(ResponseRule::new().header("x-preview", "*").no_store())
///     .response_rule(ResponseRule::new().status(StatusCode::NOT_FOUND).statuses(500..=599).ttl(Duration::from_secs(5)))
///     .response_rule(ResponseRule::new().content_type("image/*").namespace("images").ttl(Duration::from_secs(3600)));
/// # drop(rule);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct ResponseRule {
    statuses: Vec<RangeInclusive<u16>>,
    content_types: Vec<String>,
    headers: Vec<(HeaderName, String)>,
    ttl: Option<Duration>,
    no_store: bool,
    pub(super) namespaces: Vec<String>,
}

/// Conditions. All that are set must be met.
impl ResponseRule {
    /// Returns a response rule without a condition and without an effect.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a status. One of all that were added must be that of the response.
    pub fn status(self, status: StatusCode) -> Self {
        self.statuses(status.as_u16()..=status.as_u16())
    }

    /// Adds a range of statuses, such as `500..=599`. One of all that were added must be that of the response.
    pub fn statuses(mut self, range: RangeInclusive<u16>) -> Self {
        self.statuses.push(range);
        self
    }

    /// Adds a media type, such as `text/html`. `*` stands for any text: `image/*`, `application/*+json`. One of all that were added must be that of the
    /// response. Parameters such as `charset` and the case do not count (RFC 9110, section 8.3.1). A response without `Content-Type` has none of them.
    pub fn content_type(mut self, pattern: impl Into<String>) -> Self {
        self.content_types.push(pattern.into());
        self
    }

    /// Adds a header field and a pattern for its value. `*` stands for any text, so that `*` alone means that the field is present. The case of values
    /// counts. If the field has several lines, one of them must match as a whole.
    ///
    /// # Panics
    ///
    /// If the name is not a header name.
    #[track_caller]
    pub fn header(mut self, name: impl AsRef<str>, pattern: impl Into<String>) -> Self {
        self.headers.push((header_name(name.as_ref()), pattern.into()));
        self
    }
}

/// Effects.
impl ResponseRule {
    /// Sets the lifetime, as [`Rule::status`](crate::Rule::status) does. With zero the response is not stored.
    ///
    /// A response whose status the rule does not store otherwise, such as a 500, is stored only if this response rule has a condition for the status.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Forbids storing the response ([`NoStore::NoStore`](crate::status::NoStore::NoStore)).
    pub fn no_store(mut self) -> Self {
        self.no_store = true;
        self
    }

    /// Adds a namespace to the entry: a template, as in [`Rule::namespace`](crate::Rule::namespace). The namespaces of the rule stay.
    ///
    /// Writes on the route invalidate it as they invalidate the namespaces of the rule.
    pub fn namespace(mut self, template: impl Into<String>) -> Self {
        self.namespaces.push(template.into());
        self
    }
}

impl ResponseRule {
    pub(super) fn matches(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        (self.statuses.is_empty() || self.statuses.iter().any(|range| range.contains(&status.as_u16())))
            && (self.content_types.is_empty() || self.has_type(headers))
            && self.headers.iter().all(|(name, pattern)| {
                headers.get_all(name).iter().any(|value| is_match(pattern.as_bytes(), value.as_bytes(), u8::eq))
            })
    }

    fn has_type(&self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(header::CONTENT_TYPE) else { return false };
        let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        self.content_types.iter().any(|pattern| is_match(pattern.as_bytes(), essence, u8::eq_ignore_ascii_case))
    }

    /// Returns true if entries of both are the same, apart from their lifetimes.
    pub(super) fn selects_as(&self, other: &Self) -> bool {
        let without_ttl = |rule: &Self| Self { ttl: None, ..rule.clone() };
        without_ttl(self) == without_ttl(other)
    }

    pub(super) fn sets_lifetimes_alone(&self) -> bool {
        !self.no_store && self.namespaces.is_empty()
    }

    /// Returns true if a condition names statuses.
    pub(super) fn names_statuses(&self) -> bool {
        !self.statuses.is_empty()
    }

    pub(super) fn forbids(&self) -> bool {
        self.no_store
    }

    pub(super) fn lifetime(&self) -> Option<Duration> {
        self.ttl
    }

    pub(super) fn check(&self, route: Option<&str>, number: usize) -> Result<(), RulesError> {
        let fault = |option, why: String| {
            let error = RulesError::new(RulesErrorKind::Setting, route, format!("response rule {}: {why}", number + 1));
            Err(error.in_part(RulePart::OfResponseRule { number, option, text: None }))
        };
        for range in &self.statuses {
            let (first, last) = (*range.start(), *range.end());
            if first < 100 || last > 999 || first > last {
                return fault("status", format!("invalid statuses {first}-{last}: expected a range within 100-999"));
            }
            if range.clone().all(|status| status < 200 || [206, 304].contains(&status)) {
                return fault("status", format!("a {first} response cannot be stored"));
            }
        }
        for pattern in &self.content_types {
            let is_type = pattern.split_once('/').is_some_and(|(kind, subtype)| !kind.is_empty() && !subtype.is_empty());
            if !is_type || pattern.contains([';', ' ']) {
                let why =
                    format!("invalid content type {pattern:?}: expected a media type such as \"text/html\" or \"image/*\"");
                return fault("content_type", why);
            }
        }
        if self.no_store && (self.ttl.is_some() || !self.namespaces.is_empty()) {
            return fault("no_store", "`no_store` stands beside a lifetime or a namespace; only one can hold".into());
        }
        Ok(())
    }
}

/// Returns true if a text matches a pattern in which `*` stands for any text.
fn is_match(pattern: &[u8], text: &[u8], eq: impl Fn(&u8, &u8) -> bool) -> bool {
    let (mut at, mut from) = (0, 0);
    // The place behind the last `*`, and the place in the text to which it reaches.
    let mut star: Option<(usize, usize)> = None;
    while from < text.len() {
        match (pattern.get(at), star) {
            (Some(b'*'), _) => {
                at += 1;
                star = Some((at, from));
            }
            (Some(byte), _) if eq(byte, &text[from]) => (at, from) = (at + 1, from + 1),
            (_, Some((behind, reach))) => {
                (at, from) = (behind, reach + 1);
                star = Some((behind, reach + 1));
            }
            _ => return false,
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

impl fmt::Display for ResponseRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let statuses = self.statuses.iter().map(|range| match (range.start(), range.end()) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        });
        let mut conditions = Vec::new();
        if !self.statuses.is_empty() {
            conditions.push(format!("status {}", statuses.collect::<Vec<_>>().join(" or ")));
        }
        if !self.content_types.is_empty() {
            conditions.push(self.content_types.join(" or "));
        }
        conditions.extend(self.headers.iter().map(|(name, pattern)| format!("{name} = {pattern:?}")));
        let conditions = if conditions.is_empty() { "any response".into() } else { conditions.join(" and ") };
        let mut effects = Vec::new();
        effects.extend(self.ttl.map(|ttl| format!("for {ttl:?}")));
        effects.extend(self.no_store.then(|| "not stored".to_owned()));
        if !self.namespaces.is_empty() {
            effects.push(format!("in {}", self.namespaces.join(", ")));
        }
        let effects = if effects.is_empty() { "no change".into() } else { effects.join(", ") };
        write!(f, "{conditions}: {effects}")
    }
}

#[cfg(test)]
mod tests {
    use super::is_match;

    #[test]
    fn star_stands_for_any_text() {
        for (pattern, texts, others) in [
            ("", &[""][..], &["a"][..]),
            ("*", &["", "a", "a*b"], &[]),
            ("a", &["a"], &["", "A", "aa"]),
            ("a*", &["a", "ab"], &["", "ba"]),
            ("*a", &["a", "aba", "aa"], &["ab"]),
            ("a*b*c", &["abc", "axbxc", "abbcc", "abcbc"], &["ab", "acb", "abcx"]),
            ("**", &["", "x"], &[]),
        ] {
            let is = |text: &&str| is_match(pattern.as_bytes(), text.as_bytes(), u8::eq);
            assert!(texts.iter().all(is), "{pattern:?}");
            assert!(!others.iter().any(is), "{pattern:?}");
        }
        assert!(is_match(b"IMAGE/*", b"image/png", u8::eq_ignore_ascii_case));
    }
}
