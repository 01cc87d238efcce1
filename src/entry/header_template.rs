//! The template that the header fields of one route's responses share.

use std::sync::{Arc, OnceLock};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::stored_headers::{CommonHeaders, StoredHeaders, copied};
use crate::semantics::{self, CACHE_STATUS};

/// The meaning of a response field for storing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderKind {
    /// The field has no meaning for storing.
    Plain,
    /// `Cache-Control`.
    Directives,
    /// `Content-Type`.
    Kind,
    /// `Content-Length`.
    Length,
    /// `Age`.
    Age,
    /// `Content-Range`.
    Range,
    /// `Set-Cookie`.
    Cookie,
    /// `Vary`.
    Varies,
    /// `Content-Encoding`.
    Coding,
    /// `Content-Language`.
    Language,
    /// `Access-Control-Allow-Origin`.
    AllowedOrigin,
    /// The field is meant for one connection (RFC 9110, section 7.6.1).
    Hop,
}

impl HeaderKind {
    #[inline]
    pub(crate) fn of(name: &HeaderName) -> Self {
        match *name {
            header::CACHE_CONTROL => Self::Directives,
            header::CONTENT_TYPE => Self::Kind,
            header::CONTENT_LENGTH => Self::Length,
            header::AGE => Self::Age,
            header::CONTENT_RANGE => Self::Range,
            header::SET_COOKIE => Self::Cookie,
            header::VARY => Self::Varies,
            header::CONTENT_ENCODING => Self::Coding,
            header::CONTENT_LANGUAGE => Self::Language,
            header::ACCESS_CONTROL_ALLOW_ORIGIN => Self::AllowedOrigin,
            header::CONNECTION
            | header::PROXY_AUTHENTICATE
            | header::PROXY_AUTHORIZATION
            | header::TE
            | header::TRANSFER_ENCODING
            | header::UPGRADE => Self::Hop,
            // `http` represents these names by a number, so they are recognised without comparing letters.
            header::DATE
            | header::ETAG
            | header::EXPIRES
            | header::LAST_MODIFIED
            | header::LINK
            | header::LOCATION
            | header::SERVER
            | header::X_CONTENT_TYPE_OPTIONS => Self::Plain,
            _ if matches!(name.as_str(), "keep-alive" | "proxy-authentication-info" | "proxy-connection") => Self::Hop,
            _ => Self::Plain,
        }
    }

    /// Returns true if this value does not change how its response is stored under a rule with its own lifetimes.
    #[inline]
    fn is_plain(self, value: &HeaderValue) -> bool {
        match self {
            Self::Directives => !semantics::may_restrict_storing(value.as_bytes()),
            Self::Kind => !is_event_stream(value),
            Self::AllowedOrigin => value == "*",
            _ => true,
        }
    }

    /// Returns true if such a field only has to be read.
    fn is_simple(self) -> bool {
        matches!(self, Self::Plain | Self::Directives | Self::Kind | Self::Length | Self::AllowedOrigin)
    }
}

/// The names of a stored header map. Most responses of one route have the same names. One comparison recognises them, and filling in a
/// copied map costs less than inserting each field.
#[derive(Debug, Default)]
pub(crate) struct HeaderTemplate(OnceLock<TemplateParts>);

/// A template that was taken.
#[derive(Debug)]
struct TemplateParts {
    common: Arc<CommonHeaders>,
    /// True if there is a slot for `Cache-Status`.
    has_status_slot: bool,
    /// The kinds of the first fields, up to the last one that is not [plain](HeaderKind::Plain), with the values that need no further
    /// reading.
    read: Box<[(HeaderKind, HeaderValue)]>,
}

impl HeaderTemplate {
    /// Takes the template of a stored map, if none was taken yet, no name occurs twice, and each field only has to be read.
    pub(crate) fn take(&self, finished: &HeaderMap, has_status_slot: bool) {
        if self.0.get().is_none() {
            self.take_first(finished, has_status_slot);
        }
    }

    #[cold]
    fn take_first(&self, finished: &HeaderMap, has_status_slot: bool) {
        let has_status_slot =
            has_status_slot && finished.iter().nth(1).is_some_and(|(name, slot)| *name == CACHE_STATUS && slot.is_empty());
        let slots = 1 + usize::from(has_status_slot);
        let kinds = || finished.keys().skip(slots).map(HeaderKind::of);
        if !kinds().all(HeaderKind::is_simple) {
            return;
        }
        let Some(common) = CommonHeaders::of(finished, slots) else { return };
        // A value that is not kept equals no other, so that it is read each time.
        let known = |kind: HeaderKind, value: &HeaderValue| match kind {
            HeaderKind::Directives | HeaderKind::Kind | HeaderKind::AllowedOrigin if kind.is_plain(value) => copied(value),
            _ => HeaderValue::from_static(""),
        };
        let mut read: Vec<_> =
            kinds().zip(finished.values().skip(slots)).map(|(kind, value)| (kind, known(kind, value))).collect();
        read.truncate(read.iter().rposition(|(kind, _)| *kind != HeaderKind::Plain).map_or(0, |last| last + 1));
        let _ = self.0.set(TemplateParts { common: Arc::new(common), has_status_slot, read: read.into() });
    }

    /// Returns the template, if the stored fields of this response can have it.
    #[inline]
    fn of(&self, headers: &HeaderMap, has_status_slot: bool) -> Option<&TemplateParts> {
        self.0.get().filter(|template| template.has_status_slot == has_status_slot && template.common.fits(headers))
    }

    /// Returns the announced length, if the stored fields of this response can have this template and none of its values needs further reading.
    #[inline]
    pub(crate) fn announced_length(&self, headers: &HeaderMap, has_status_slot: bool) -> Option<Option<u64>> {
        let template = self.of(headers, has_status_slot)?;
        let mut announced = None;
        for (value, (kind, known)) in headers.values().zip(&template.read) {
            if *kind == HeaderKind::Length {
                announced = length_in(value);
            } else if value != known && !kind.is_plain(value) {
                return None;
            }
        }
        Some(announced)
    }

    /// Returns the stored fields of a response, if they can have this template.
    #[inline]
    pub(crate) fn compact(&self, headers: &HeaderMap, has_status_slot: bool) -> Option<StoredHeaders> {
        Some(self.of(headers, has_status_slot)?.common.compact(headers))
    }

    /// Returns the stored fields of a response whose [length](Self::announced_length) was found with this template.
    #[inline]
    pub(crate) fn compact_unchecked(&self, headers: &HeaderMap) -> StoredHeaders {
        self.0.get().expect("the template was taken").common.compact(headers)
    }
}

/// Returns true for the `Content-Type` of an event stream, which does not end in a useful time.
#[inline]
pub(crate) fn is_event_stream(kind: &HeaderValue) -> bool {
    const EVENTS: &[u8] = b"text/event-stream";
    let kind = kind.as_bytes();
    kind.get(..EVENTS.len()).is_some_and(|start| start.eq_ignore_ascii_case(EVENTS))
}

/// Returns the number in a `Content-Length`.
pub(crate) fn length_in(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::entry::stored_headers::{own_fields, stored_map};

    fn lines(map: &HeaderMap) -> Vec<(&str, &[u8], bool)> {
        map.iter().map(|(name, value)| (name.as_str(), value.as_bytes(), value.is_sensitive())).collect()
    }

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }
    #[test]
    fn compact_fields_equal_a_new_map() {
        let one = [("content-type", "a"), ("etag", "b"), ("x-c", "c")];
        let samples = [
            map(&one),
            map(&[("content-type", "x"), ("etag", "y"), ("x-c", "z")]),
            map(&[("etag", "y"), ("content-type", "x"), ("x-c", "z")]),
            map(&[("content-type", "x"), ("etag", "y"), ("etag", "y2"), ("x-c", "z")]),
            map(&[("age", "7"), ("content-type", "x"), ("etag", "y"), ("x-c", "z")]),
            map(&[("cache-status", "before"), ("content-type", "x"), ("etag", "y"), ("x-c", "z")]),
            map(&[("cache-status", "before")]),
            map(&[("content-type", "x"), ("etag", "y"), ("x-d", "z")]),
            map(&[("content-type", "x")]),
            map(&[]),
        ];
        let mut filled = 0;
        for (taken, told) in samples.iter().flat_map(|taken| [(taken, false), (taken, true)]) {
            let template = HeaderTemplate::default();
            template.take(&stored_map(taken, told, 0), told);
            for (headers, has_status_slot) in samples.iter().flat_map(|headers| [(headers, false), (headers, true)]) {
                let Some(made) = template.compact(headers, has_status_slot) else { continue };
                let anew = stored_map(headers, has_status_slot, 0);
                assert_eq!(lines(&made.map()), lines(&anew), "{headers:?}, {taken:?}");
                assert_eq!(made, StoredHeaders::Map(anew), "{headers:?}, {taken:?}");
                filled += 1;
            }
        }
        assert!(filled > samples.len(), "{filled}");
    }
    #[test]
    fn kept_values_are_no_slices_of_read_buffers() {
        let buffer = Bytes::from(b"max-age=60;application/xml;\"tag\";secret;".repeat(100));
        let value = |from: usize, to: usize| HeaderValue::from_maybe_shared(buffer.slice(from..to)).expect("a value");
        let mut secret = value(33, 39);
        secret.set_sensitive(true);
        let fields =
            [("cache-control", value(0, 10)), ("content-type", value(11, 26)), ("etag", value(27, 32)), ("x-a", secret)];
        let headers: HeaderMap = fields.into_iter().map(|(name, value)| (HeaderName::from_static(name), value)).collect();
        let template = HeaderTemplate::default();
        let made = stored_map(&headers, false, 0);
        template.take(&made, false);
        let taken = template.0.get().expect("a template");
        assert!(template.compact(&headers, false).is_none(), "a value is sensitive");
        for kept in [&made, &own_fields(headers.clone())] {
            for (name, value) in &headers {
                assert_eq!(kept[name], value);
                assert_eq!(kept[name].is_sensitive(), value.is_sensitive());
            }
            let inside = |value: &HeaderValue| buffer.as_ptr_range().contains(&value.as_bytes().as_ptr());
            assert!(!kept.values().chain(taken.read.iter().map(|(_, value)| value)).any(inside));
        }
        let mut open = headers;
        open.get_mut("x-a").expect("a field").set_sensitive(false);
        let compact = template.compact(&open, false).expect("the fields fit");
        let inside = |value: &HeaderValue| buffer.as_ptr_range().contains(&value.as_bytes().as_ptr());
        assert!(!compact.map().values().any(inside));
    }
    #[test]
    fn unusual_headers_have_no_template() {
        for name in ["vary", "set-cookie", "content-range", "connection", "keep-alive"] {
            let headers = map(&[("content-type", "a"), (name, "b")]);
            let template = HeaderTemplate::default();
            template.take(&stored_map(&headers, false, 0), false);
            assert!(template.compact(&headers, false).is_none(), "{name}");
        }
    }
    #[test]
    fn changed_value_is_read_again() {
        let with = |control: &'static str, kind: &'static str| {
            map(&[("cache-control", control), ("content-type", kind), ("x-c", "c")])
        };
        let forbidden =
            [("no-store", "a"), ("private", "a"), ("max-age=60, no-cache", "a"), ("max-age=60", "text/event-stream")];
        for first in [with("max-age=60", "a"), with("private=\"x-c\"", "text/event-stream")] {
            let template = HeaderTemplate::default();
            template.take(&stored_map(&first, false, 0), false);
            for (control, kind) in forbidden {
                assert_eq!(template.announced_length(&with(control, kind), false), None, "{control}, {kind}");
            }
            assert_eq!(template.announced_length(&with("max-age=60", "a"), false), Some(None));
            assert_eq!(template.announced_length(&with("max-age=5", "b"), false), Some(None));
        }
        let long = map(&[("content-length", "7"), ("x-c", "c")]);
        let template = HeaderTemplate::default();
        template.take(&stored_map(&long, false, 0), false);
        assert_eq!(template.announced_length(&long, false), Some(Some(7)));
    }

    /// Returns some fields with any values, in a fixed order.
    fn fields() -> impl Strategy<Value = HeaderMap> {
        let names = ["content-type", "etag", "date", "server", "x-a", "x-b", "cache-control"];
        let value =
            prop_oneof![Just(Vec::new()), "[ab]{1,2}".prop_map(String::into_bytes), "\\PC{0,80}".prop_map(String::into_bytes)];
        prop::collection::vec(value, names.len()).prop_map(move |values| {
            let fields = names.iter().zip(values);
            fields
                .filter_map(|(name, value)| Some((HeaderName::from_static(name), HeaderValue::from_bytes(&value).ok()?)))
                .collect()
        })
    }

    proptest! {
        #[test]
        fn any_values_survive_the_compact_form(taken in fields(), headers in fields(), has_status_slot: bool) {
            let template = HeaderTemplate::default();
            template.take(&stored_map(&taken, has_status_slot, 0), has_status_slot);
            if let Some(made) = template.compact(&headers, has_status_slot) {
                let anew = stored_map(&headers, has_status_slot, 0);
                let (copied, taken) = (made.to_map(), made.clone().into_map());
                prop_assert_eq!(lines(&copied), lines(&anew));
                prop_assert_eq!(lines(&taken), lines(&anew));
            } else {
                prop_assert!(!taken.keys().eq(headers.keys()));
            }
        }
    }
}
