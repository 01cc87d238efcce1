//! Classification of a request.

use http::{Method, Request, header};
use http_body::Body;

use crate::{
    key::{FieldClass, Forwarding, HostLine, common_field},
    lookup::info::RequestDirectives,
    query,
    rules::policy::Policy,
    semantics::CacheControl,
    status::Bypass,
    target_cache::TargetId,
};

/// What is asked under a rule where HTTP decides; elsewhere, credentials that the key does not tell apart are left alone.
#[inline]
pub(crate) fn asked_http<R>(
    request: &Request<R>,
    rule: &Policy,
    unkeyed_credentials: bool,
) -> Result<Option<RequestDirectives>, Bypass> {
    let guarded = unkeyed_credentials && !rule.ignores_credentials();
    match rule.http() {
        // RFC 9111, section 3.5: the response says whether it is for others, too.
        Some(_) => Ok(Some(RequestDirectives { directives: CacheControl::of_request(request.headers()), guarded })),
        None if guarded => Err(Bypass::Credentials),
        None => Ok(None),
    }
}

/// What a walk over the fields of a request has found.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RequestTraits<'a> {
    pub(crate) host: HostLine<'a>,
    /// A field that says who the client is, other than a `Cookie` that the rule ignores.
    pub(crate) credentials: bool,
    /// Those that the rule does not ignore.
    pub(crate) forwarding: Forwarding<'a>,
    /// A part of the whole: a stored whole can answer, and nothing else of ours.
    pub(crate) range: bool,
    /// Less than the whole, perhaps: a part of it, or nothing if it is still the same.
    pub(crate) less: bool,
    /// It is a QUERY: its content is part of its key.
    pub(crate) query: bool,
}

impl<'a> RequestTraits<'a> {
    /// The target of a request in the words it was sent in, if these are all that its key depends on.
    #[inline]
    pub(crate) fn words<R>(&'a self, request: &'a Request<R>) -> Option<TargetId<'a>> {
        TargetId::of(request.uri(), request.extensions(), self.host, &self.forwarding)
    }
}

/// What a request carries; or why it is to be left alone. One walk over its fields.
#[inline]
pub(crate) fn scan<'a, R: Body>(request: &'a Request<R>, rule: &Policy) -> Result<RequestTraits<'a>, Bypass> {
    if rule.is_uncached() {
        return Err(Bypass::Uncached);
    }
    let query = *request.method() != Method::GET && query::is_known(request.extensions());
    if *request.method() != Method::GET && *request.method() != Method::HEAD && !query {
        return Err(Bypass::Method);
    }
    if !query && !request.body().is_end_stream() && request.body().size_hint().exact() != Some(0) {
        return Err(Bypass::RequestBody);
    }
    let fields = rule.fields();
    let lists_common = fields.lists_common();
    let mut asks = RequestTraits { query, ..RequestTraits::default() };
    for (name, value) in request.headers() {
        match *name {
            header::HOST => asks.host = asks.host.and(value),
            header::RANGE => (asks.range, asks.less) = (true, true),
            header::IF_NONE_MATCH | header::IF_MODIFIED_SINCE | header::IF_RANGE => asks.less = true,
            header::IF_MATCH | header::IF_UNMODIFIED_SINCE => return Err(Bypass::Precondition),
            header::UPGRADE => return Err(Bypass::Upgrade),
            header::COOKIE if rule.ignores_cookies() => {}
            common_field!() if !lists_common => {}
            _ => match fields.class(name) {
                None => {}
                Some(FieldClass::Credential) => asks.credentials = true,
                Some(FieldClass::Forwarding(_)) if rule.ignores_forwarded() => {}
                Some(FieldClass::Forwarding(number)) if !asks.forwarding.push(number, value) => return Err(Bypass::Forwarding),
                Some(FieldClass::Forwarding(_)) => {}
                Some(FieldClass::MethodOverride) => return Err(Bypass::MethodOverride),
            },
        }
    }
    Ok(asks)
}
