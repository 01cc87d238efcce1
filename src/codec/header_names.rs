//! Field names that are stored as numbers.

use std::{collections::HashMap, sync::LazyLock};

use http::header::{self, HeaderName};

/// The names, beginning with number 1. The numbers are part of the stored form: add names at the end, as described in the parent module,
/// and never move one.
#[rustfmt::skip]
static NAMES: [HeaderName; 66] = [
    header::AGE, header::CACHE_CONTROL, header::CONTENT_TYPE, header::CONTENT_LENGTH, header::DATE, header::ETAG,
    header::LAST_MODIFIED, header::EXPIRES, header::VARY, header::CONTENT_ENCODING, header::CONTENT_LANGUAGE,
    header::CONTENT_LOCATION, header::CONTENT_DISPOSITION, header::CONTENT_RANGE, header::CONTENT_SECURITY_POLICY,
    header::CONTENT_SECURITY_POLICY_REPORT_ONLY, header::ACCEPT_RANGES, header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS, header::ACCESS_CONTROL_ALLOW_METHODS, header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_EXPOSE_HEADERS, header::ACCESS_CONTROL_MAX_AGE, header::ALLOW, header::ALT_SVC,
    header::CACHE_STATUS, header::CDN_CACHE_CONTROL, header::LINK, header::LOCATION, header::PRAGMA,
    header::REFERRER_POLICY, header::REFRESH, header::RETRY_AFTER, header::SERVER, header::SET_COOKIE,
    header::STRICT_TRANSPORT_SECURITY, header::TRAILER, header::VIA, header::WARNING, header::WWW_AUTHENTICATE,
    header::X_CONTENT_TYPE_OPTIONS, header::X_DNS_PREFETCH_CONTROL, header::X_FRAME_OPTIONS, header::X_XSS_PROTECTION,
    header::ACCEPT, header::ACCEPT_CHARSET, header::ACCEPT_ENCODING, header::ACCEPT_LANGUAGE, header::AUTHORIZATION,
    header::COOKIE, header::HOST, header::IF_RANGE, header::ORIGIN, header::RANGE, header::USER_AGENT,
    HeaderName::from_static("cross-origin-embedder-policy"), HeaderName::from_static("cross-origin-opener-policy"),
    HeaderName::from_static("cross-origin-resource-policy"), HeaderName::from_static("permissions-policy"),
    HeaderName::from_static("server-timing"), HeaderName::from_static("timing-allow-origin"),
    HeaderName::from_static("x-powered-by"), HeaderName::from_static("x-request-id"),
    HeaderName::from_static("grpc-status"), HeaderName::from_static("grpc-message"),
    HeaderName::from_static("no-vary-search"),
];

/// Returns the name of a number.
pub(crate) fn of_number(number: u8) -> Option<&'static HeaderName> {
    NAMES.get(usize::from(number).checked_sub(1)?)
}

/// Returns the number of a name, or 0.
pub(crate) fn number(name: &HeaderName) -> u8 {
    static NUMBERS: LazyLock<HashMap<&HeaderName, u8>> = LazyLock::new(|| NAMES.iter().zip(1..).collect());
    NUMBERS.get(name).copied().unwrap_or(0)
}
