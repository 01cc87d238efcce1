//! Responses to calls by RPC.

use std::{convert::Infallible, future::ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};

/// Returns a successful response in the protocol of a request with these fields. Its message is a text.
pub fn success(headers: &HeaderMap, text: &str) -> Response<BoxBody<Bytes, Infallible>> {
    let frame = |flags: u8, content: &[u8]| {
        let length = u32::try_from(content.len()).expect("a short message");
        [&[flags][..], &length.to_be_bytes(), content].concat()
    };
    let kind = headers.get("content-type").cloned().unwrap_or(HeaderValue::from_static("application/proto"));
    let is = |name: &str| kind.as_bytes().starts_with(name.as_bytes());
    let body = match () {
        () if is("application/grpc-web") => {
            Full::from([frame(0, text.as_bytes()), frame(0x80, b"grpc-status: 0\r\n")].concat()).boxed()
        }
        () if is("application/grpc") => {
            let status = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
            Full::from(frame(0, text.as_bytes())).with_trailers(ready(Some(Ok(status)))).boxed()
        }
        () => Full::from(text.to_owned()).boxed(),
    };
    Response::builder().header("content-type", kind).body(body).expect("a response")
}
