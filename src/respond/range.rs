//! Ranges of a stored response.

use std::ops::Range;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, header};

use crate::{
    body::CacheBody,
    clock::{MS, Nanos},
    entry::{Content, Entry},
    semantics::{self, Multipart, Ranges, Selected},
};

/// Returns the requested ranges of a stored response (RFC 9110, section 14). Returns `None` if the complete response answers.
#[inline]
pub(crate) fn part<B>(method: &Method, fields: &HeaderMap, entry: &Entry, now: Nanos) -> Option<Response<CacheBody<B>>> {
    if !fields.contains_key(header::RANGE) {
        return None;
    }
    let Content::Response { status, headers, body, .. } = entry.content() else { return None };
    let headers = &*headers.map();
    let length = body.len() as u64;
    let slice = |part: &Range<u64>| body.slice(part.start as usize..part.end as usize);
    let selected = Selected { status: *status, headers, received: entry.times().born / MS };
    let (status, headers, body) = match semantics::select_ranges(method, fields, &selected, length, now / MS) {
        Ranges::Whole => return None,
        Ranges::Single(part) => (StatusCode::PARTIAL_CONTENT, semantics::partial_headers(headers, &part, length), slice(&part)),
        Ranges::Multiple(parts) => {
            // RFC 2046, section 5.1.1: the boundary must not occur in the content. Nobody can predict a random one.
            let boundary = format!("{:032x}", fastrand::u128(..));
            let multipart = Multipart::new(headers, &parts, length, &boundary);
            let mut content = Vec::new();
            for part in &parts {
                content.extend_from_slice(&multipart.head(part));
                content.extend_from_slice(&slice(part));
            }
            content.extend_from_slice(&multipart.end());
            (StatusCode::PARTIAL_CONTENT, multipart.headers(headers), content.into())
        }
        Ranges::NotSatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, semantics::unsatisfiable_headers(length), Bytes::new()),
    };
    let mut response = Response::new(CacheBody::whole(body, None));
    (*response.status_mut(), *response.headers_mut()) = (status, headers);
    Some(response)
}
