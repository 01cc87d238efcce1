//! The content of a request as a part of its key.

use std::mem;

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderName, Method, Request, header, uri::PathAndQuery};
use tokio::time::Instant;

use super::{Extracted, KeyExtractor, KeyWriter, RequestView, canonical, write::Tag};
use crate::{rpc::Call, status::Bypass};

/// The content of a request, as a [`RequestBodyLayer`](crate::RequestBodyLayer) has left it in the extensions.
#[derive(Debug, Clone)]
pub(crate) struct RequestContent {
    /// The whole content, or the reason for which it was not read to its end.
    pub(crate) content: Result<Bytes, Bypass>,
    /// The call that the content is a part of, under a rule for RPC.
    pub(crate) call: Option<Call>,
    /// The deadline of the call is not awaited yet.
    pub(crate) is_new: bool,
    /// The operation of the request, under a rule for GraphQL.
    pub(crate) operation: Option<OperationRequest>,
}

/// A request under a rule for GraphQL.
#[derive(Debug, Clone)]
pub(crate) struct OperationRequest {
    /// The hash of the query with all its parameters, or the reason to bypass the cache.
    pub(crate) operation: Result<[u8; 32], Bypass>,
    /// The request is known to change nothing.
    pub(crate) is_read: bool,
    /// The objects in the response may have the names of others, or the document is not known.
    #[cfg(feature = "graphql")]
    pub(crate) names_mislead: bool,
    /// The target whose parameters were read.
    pub(crate) target: Option<PathAndQuery>,
}

/// The content of a request that belongs to its key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyedContent<'a> {
    pub(crate) content: &'a [u8],
    /// The request is a call by RPC whose deadline is not awaited yet.
    pub(crate) is_new_call: bool,
}

impl RequestContent {
    /// Returns the result of a layer outside. Returns `None` without such a layer.
    pub(crate) fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }
}

/// Returns the call that a request makes, with its deadline, the first time that it is asked. Returns `None` for all requests that are not unary
/// calls under a rule for RPC.
pub(crate) fn new_call<B>(request: &mut Request<B>) -> Option<(Call, Option<Instant>)> {
    let content: &mut RequestContent = request.extensions_mut().get_mut()?;
    let call = content.call.filter(|_| mem::take(&mut content.is_new))?;
    Some((call, call.deadline(request.headers())))
}

/// Returns true for QUERY (RFC 10008), a safe method with content.
pub(crate) fn is_query(method: &Method) -> bool {
    method.as_str() == "QUERY"
}

/// The request fields that describe content. They are in the key of each request with content.
pub(crate) static FIELDS: [HeaderName; 3] = [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LANGUAGE];

/// Writes content to the key.
pub(crate) fn write(content: &[u8], key: &mut KeyWriter<'_>) {
    // A hash, because the content may be long. Nobody can construct two contents with one hash.
    key.tagged(Tag::Content, blake3::hash(content).as_bytes());
}

/// Returns true for content in JSON (RFC 8259; RFC 6839, section 3.1) without a content coding.
fn is_json(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|kind| kind == "application/json" || kind.ends_with("+json"))
}

/// Returns true for content from a form, without a content coding.
fn is_form(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|kind| kind == "application/x-www-form-urlencoded")
}

/// Returns the media type of content in lower case, without parameters. Returns `None` for content with a content coding.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let mut lines = headers.get_all(header::CONTENT_TYPE).iter();
    let kind = lines.next().filter(|_| lines.next().is_none() && !headers.contains_key(header::CONTENT_ENCODING))?;
    Some(kind.to_str().ok()?.split(';').next()?.trim().to_ascii_lowercase())
}

/// Writes all lines of the fields that a request has among these: the values of a field, and then its name.
pub(crate) fn write_fields<const N: usize>(names: &[HeaderName; N], headers: &HeaderMap, key: &mut KeyWriter<'_>) {
    // One walk, because most of the fields are absent.
    let mut first = [None; N];
    let mut more = [false; N];
    for (name, value) in headers {
        if let Some(place) = place(names, name) {
            match first[place] {
                None => first[place] = Some(value),
                Some(_) => more[place] = true,
            }
        }
    }
    for ((name, first), more) in names.iter().zip(first).zip(more) {
        let Some(first) = first else { continue };
        key.tagged(Tag::HeaderValue, first.as_bytes());
        if more {
            headers.get_all(name).iter().skip(1).for_each(|line| key.tagged(Tag::HeaderValue, line.as_bytes()));
        }
        key.tagged(Tag::Header, name.as_str().as_bytes());
    }
}

/// Returns the place of a field among these.
#[inline]
fn place(names: &[HeaderName], name: &HeaderName) -> Option<usize> {
    match *name {
        // Most fields of a request, which no list of fields has.
        header::CONTENT_LENGTH | header::HOST | header::ORIGIN | header::REFERER | header::TE | header::USER_AGENT => None,
        _ => names.iter().position(|listed| listed == name),
    }
}

/// The content of a request in the key, in a form that may be equal for several spellings.
///
/// Without this extractor, the content is in the key byte for byte, of each request whose content the cache reads: a QUERY, and a POST under
/// a rule that [reads by POST](crate::Rule::reads_by_post). `Content-Type`, `Content-Encoding` and `Content-Language` are in the key as
/// well, with and without this extractor.
///
/// ```
/// use std::time::Duration;
/// use tower_response_cache::{KeyExtractor, RouteAndQuery, Rule, key::RequestBody};
///
/// let rule = Rule::ttl(Duration::from_secs(60)).reads_by_post().key(RouteAndQuery.and(RequestBody::json()));
/// # drop(rule);
/// ```
#[derive(Debug, Clone)]
pub struct RequestBody {
    form: Form,
}

#[derive(Debug, Clone, Copy)]
enum Form {
    Bytes,
    Json,
    Pairs,
}

impl RequestBody {
    /// Returns an extractor of the content byte for byte.
    pub fn bytes() -> Self {
        Self { form: Form::Bytes }
    }

    /// Returns an extractor of JSON (RFC 8259). Documents that differ in nothing but the order of members and in white space share a key.
    ///
    /// Numbers and strings count as they are written: `1.0` and `1` differ, as do `"a"` and `"\u0061"`. Members of one name keep their
    /// order. Content is in the key byte for byte if its `Content-Type` is neither `application/json` nor `…+json`, if it has a
    /// `Content-Encoding`, is not JSON, is nested deeper than 64 levels, or has an escape in the name of a member.
    ///
    /// Not for a handler to which the order of members matters.
    pub fn json() -> Self {
        Self { form: Form::Json }
    }

    /// Returns an extractor of a form (`application/x-www-form-urlencoded`). Forms that differ in nothing but the order of their names share
    /// a key.
    ///
    /// Pairs of one name keep their order. Content is in the key byte for byte if it has another `Content-Type` or a `Content-Encoding`, if
    /// a name holds `%`, `+` or a bracket, since two spellings may mean one name, or if the content holds a `;`.
    pub fn form() -> Self {
        Self { form: Form::Pairs }
    }
}

impl KeyExtractor for RequestBody {
    fn extract(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted {
        let Some(content) = request.body() else { return Extracted::Key };
        let normal = match self.form {
            Form::Bytes => None,
            Form::Json => Some(content).filter(|_| is_json(request.headers)).and_then(canonical::json),
            Form::Pairs => Some(content).filter(|_| is_form(request.headers)).and_then(canonical::form),
        };
        if normal.is_some() {
            key.tagged(Tag::ContentForm, &[self.form as u8]);
        }
        write(normal.as_deref().unwrap_or(content), key);
        Extracted::Key
    }

    fn writes_body(&self) -> bool {
        true
    }
}
