//! Rules from a file, through serde.
//!
//! A value is checked as it is read: its error names its own place. A rule is checked once its table is complete. The place of such a fault is found
//! by a second look at the text.

pub(crate) mod error;
pub(crate) mod file;
mod form;
mod place;
mod responses;
mod rule;
mod table;

use serde::{Deserialize, Deserializer, de::DeserializeSeed};

use self::{error::RulesFileError, place::PlaceCell, table::TableOfRules};
use super::table::Rules;

/// Reads a table of routes from any format of serde. Needs the feature `config`.
///
/// Each option of [`Rule`](crate::Rule) that is data has the name of its method. Options that take closures cannot be set in a file. A duration is
/// written `"250ms"`, `"60s"`, `"5m"`, `"1h30m"` or `"2d"`. A size is a whole number of bytes, or `"64KiB"`, `"1MiB"`, `"1GiB"` or
/// `"1MB"`. `[fallback]` is the rule of all requests that no route matches.
///
/// ```
/// use tower_response_cache::Rules;
///
/// let rules = Rules::from_toml(r#"
///     credential_fields = { add = ["x-tenant-token"], remove = [] }  # `Rules::credential_fields`
///
///     [[route]]
///     path = "/t/{table}"
///     ttl = "60s"                                     # or: http = true, or: uncached = true
///     statuses = { 404 = "5s" }                       # `Rule::status`
///     stale_while_revalidate = "5s"
///     stale_if_error = "1h"
///     refresh_ahead = 1.0
///     jitter = 0.1
///     audit = 0.01
///     shadow = false
///     audit_ignoring = ["x-served-by"]
///     max_body = "1MiB"
///     reads_by_post = false
///     max_request_body = "64KiB"
///     rpc = true                                      # with `ttl`: `Rule::rpc`
///     rpc_statuses = { 5 = "5s" }                     # `Rule::rpc_status`
///     rpc_age = false
///     soft_timeout = "2s"
///     distributed_lock = "30s"
///     etag = false
///     normalise = { accept_encoding = "ordered", select_language = true } # also accept_language: "verbatim", "unordered"; lists
///     cache_groups = false
///     namespaces_from_header = "cache-namespaces"
///     identity = "bearer"                             # "cookie:NAME", "header:NAME"; { by = "bearer", required = true }
///     ignore_credentials = false
///     ignore_cookies = false
///     path_as_text = false
///     ignore_forwarded = false
///     namespaces = ["t", "t:{table}"]                 # `Rule::namespace`
///     invalidates = ["t:{table}"]                     # without it: the rule's namespaces
///     invalidates_on = { DELETE = ["t"] }
///     invalidates_nothing = false
///     invalidates_from_header = "cache-invalidates"
///     invalidates_softly = false
///     skip_on_client_error = false
///     skip_on_error = false
///     delivery_timeout = { limit = "500ms", then = "respond" } # "reject"
///     on_fence_error = "reject"                       # "proceed"
///
///     [[route.response_rules]]                        # `Rule::response_rule`; the first that matches a response decides
///     status = [404, "500-599"]                       # or one of them
///     content_type = ["text/html", "image/*"]         # or one of them
///     headers = { x-kind = "preview*", x-draft = "*" } # patterns: "*" means that the field is present
///     ttl = "5s"
///     no_store = false
///     namespaces = ["errors:{table}"]
///
///     [route.key]
///     query = { without = ["utm_*"] }                 # "sorted" (the default), "as-sent", { only = [...] }
///     headers = ["accept-language"]
///     cookies = ["theme"]
///     body = "bytes"                                  # "json", "form": `RequestBody`
///     host = true
///
///     [[route]]
///     path = "/graphql"
///     ttl = "60s"
///     graphql = true                                  # with `ttl`: `Rule::graphql`; needs the feature `graphql`
///     graphql_entities = true
///     graphql_documents = ["query Notes { notes { text } }"] # `Rule::graphql_document`
///
///     [fallback]
///     http = true                                     # allows these options:
///     default_ttl = "0s"
///     heuristics = false
///     targeted = ["cdn-cache-control"]
///     stale_if_unreachable = "1h"
///     keep_for_validation = "1d"
/// "#);
/// # #[cfg(feature = "graphql")]
/// assert!(rules.is_ok());
///
/// let error = Rules::from_toml("[[route]]\npath = '/t'\nttl = '60'\n").unwrap_err();
/// assert_eq!(error.line(), Some(3));
/// ```
///
/// # Old names
///
/// Version 0.1 also accepts the former names of some options. A table must not use both names of one option.
///
/// | name | former name |
/// |---|---|
/// | `refresh_ahead` | `early_refresh` |
/// | `distributed_lock` | `fill_across_processes` |
/// | `skip_on_client_error` | `spare_client_errors` |
/// | `skip_on_error` | `spare_errors` |
/// | `delivery_timeout` | `hold` |
/// | `delivery_timeout.then = "respond"` | `then = "acknowledge"` |
#[cfg_attr(docsrs, doc(cfg(feature = "config")))]
impl<'de> Deserialize<'de> for Rules {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        TableOfRules(&PlaceCell::default()).deserialize(from)
    }
}

#[cfg_attr(docsrs, doc(cfg(feature = "config")))]
impl Rules {
    /// Reads a table of routes from TOML; see [its form](#impl-Deserialize%3C'de%3E-for-Rules). Needs the feature `config`.
    ///
    /// # Errors
    ///
    /// If the text is not TOML, if it has an unknown name or a value in a wrong form, and where [`try_route`](Self::try_route) returns an
    /// error. The error names the line, the column and the allowed values.
    pub fn from_toml(text: &str) -> Result<Self, RulesFileError> {
        let place = PlaceCell::default();
        let read = toml::Deserializer::parse(text).and_then(|from| TableOfRules(&place).deserialize(from));
        read.map_err(|error| RulesFileError::new(text, error, place.into_inner()))
    }
}
