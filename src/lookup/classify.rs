//! Classification of a request: one walk over its fields.

use http::{Method, Request, header};
use http_body::Body;

use super::info::RequestDirectives;
use crate::{
    key::{FieldClass, Forwarding, HostLine, common_field},
    rules::policy::Policy,
    semantics::CacheControl,
    status::Bypass,
};

/// The traits of a request that decide about its key and its answer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RequestTraits<'a> {
    pub(crate) host: HostLine<'a>,
    /// A field identifies the client, other than a `Cookie` that the rule ignores.
    pub(crate) has_credentials: bool,
    /// The forwarding fields that the rule does not ignore.
    pub(crate) forwarding: Forwarding<'a>,
    /// The request has a `Range`.
    pub(crate) has_range: bool,
    /// The response may be a part of the representation, or a 304.
    pub(crate) is_conditional_or_range: bool,
    /// The content, if it is part of the key.
    pub(crate) content: Option<&'a [u8]>,
    /// The request is a call by RPC whose deadline is not awaited yet.
    pub(crate) is_new_call: bool,
}

/// Returns the traits of a request, or the reason to bypass the cache.
#[inline]
pub(crate) fn classify<'a, R: Body>(request: &'a Request<R>, rule: &Policy) -> Result<RequestTraits<'a>, Bypass> {
    if rule.is_uncached() {
        return Err(Bypass::Uncached);
    }
    let content = match *request.method() {
        Method::GET | Method::HEAD if !rule.is_graphql() => None,
        _ => Some(rule.content_of(request.method(), request.uri(), request.extensions())?),
    };
    if content.is_none() && !request.body().is_end_stream() && request.body().size_hint().exact() != Some(0) {
        return Err(Bypass::RequestBody);
    }
    let fields = rule.fields();
    let lists_common = fields.lists_common();
    let mut traits = RequestTraits {
        content: content.map(|keyed| keyed.content),
        is_new_call: content.is_some_and(|keyed| keyed.is_new_call),
        ..RequestTraits::default()
    };
    for (name, value) in request.headers() {
        match *name {
            header::HOST => traits.host = traits.host.and(value),
            header::RANGE => (traits.has_range, traits.is_conditional_or_range) = (true, true),
            // RFC 9110, section 13.1.2: the origin may answer a POST with 412.
            header::IF_NONE_MATCH if *request.method() == Method::POST => return Err(Bypass::Precondition),
            header::IF_NONE_MATCH | header::IF_MODIFIED_SINCE | header::IF_RANGE => traits.is_conditional_or_range = true,
            header::IF_MATCH | header::IF_UNMODIFIED_SINCE => return Err(Bypass::Precondition),
            header::UPGRADE => return Err(Bypass::Upgrade),
            header::COOKIE if rule.ignores_cookies() => {}
            common_field!() if !lists_common => {}
            _ => match fields.class(name) {
                None => {}
                Some(FieldClass::Credential) => traits.has_credentials = true,
                Some(FieldClass::Forwarding(_)) if rule.ignores_forwarded() => {}
                Some(FieldClass::Forwarding(number)) if !traits.forwarding.push(number, value) => {
                    return Err(Bypass::Forwarding);
                }
                Some(FieldClass::Forwarding(_)) => {}
                Some(FieldClass::MethodOverride) => return Err(Bypass::MethodOverride),
            },
        }
    }
    Ok(traits)
}

/// Returns the directives of a request under a rule where HTTP decides. Under other rules, credentials that are not in the key bypass the
/// cache.
#[inline]
pub(crate) fn directives<R>(
    request: &Request<R>,
    rule: &Policy,
    unkeyed_credentials: bool,
) -> Result<Option<RequestDirectives>, Bypass> {
    let has_unkeyed_credentials = unkeyed_credentials && !rule.ignores_credentials();
    match rule.http() {
        // RFC 9111, section 3.5: the response says if it is for others, too.
        Some(_) => {
            let cache_control = CacheControl::of_request(request.headers());
            Ok(Some(RequestDirectives { cache_control, has_unkeyed_credentials }))
        }
        None if has_unkeyed_credentials => Err(Bypass::Credentials),
        None => Ok(None),
    }
}
