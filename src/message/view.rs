//! `MessageView`: one message with the head that describes it.

use std::fmt;

use http::{HeaderMap, StatusCode, header};

#[cfg(any(feature = "json", feature = "prost"))]
use super::error::MessageError;
use crate::{
    route::params::Params,
    rpc::{Protocol, frames, get::GetMessage},
};

/// The message in a request or in a response, with its header fields and the parameters of its route.
#[derive(Clone, Copy)]
pub struct MessageView<'a> {
    params: RouteParams<'a>,
    status: Option<StatusCode>,
    headers: &'a HeaderMap,
    bytes: &'a [u8],
    is_compressed: bool,
    /// The media type of a message in a query.
    of_query: Option<&'static str>,
}

/// The parameters of a route: of a request, or kept for its response.
#[derive(Clone, Copy)]
pub(crate) enum RouteParams<'a> {
    Request(&'a Params<'a>),
    Kept(&'a [(String, String)]),
}

/// The parameters of a route, kept until the response to their request has ended.
#[derive(Debug, Clone)]
pub(crate) struct Parameters(Box<[(String, String)]>);

impl From<&Params<'_>> for Parameters {
    fn from(params: &Params<'_>) -> Self {
        Self(params.all().into())
    }
}

impl Parameters {
    pub(crate) fn view(&self) -> RouteParams<'_> {
        RouteParams::Kept(&self.0)
    }
}

impl<'a> MessageView<'a> {
    /// Returns the view of a whole content. Returns `None` for content of gRPC that is not exactly one message.
    pub(crate) fn of_content(params: RouteParams<'a>, headers: &'a HeaderMap, content: &'a [u8]) -> Option<Self> {
        let has_coding = headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity");
        let (bytes, is_compressed) = match Protocol::of(headers).filter(|protocol| protocol.is_framed()) {
            None => (content, has_coding),
            Some(_) => frames::only_message(content)?,
        };
        Some(Self { params, status: None, headers, bytes, is_compressed, of_query: None })
    }

    /// Returns the view of the message in the query of a GET of Connect.
    pub(crate) fn of_query(params: RouteParams<'a>, headers: &'a HeaderMap, message: &'a GetMessage) -> Self {
        let GetMessage { bytes, is_json, is_compressed } = message;
        let kind = if *is_json { "application/json" } else { "application/proto" };
        Self { params, status: None, headers, bytes, is_compressed: *is_compressed, of_query: Some(kind) }
    }

    /// Sets the status of a response.
    pub(crate) fn with_status(self, status: StatusCode) -> Self {
        Self { status: Some(status), ..self }
    }

    /// Returns the bytes of the message as they were sent, without a frame. They may be compressed.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns true if the bytes are compressed: by `Content-Encoding`, or by the flag of a message of gRPC.
    pub fn is_compressed(&self) -> bool {
        self.is_compressed
    }

    /// Returns the header fields of the request or of the response.
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// Returns the status of a response. Returns `None` for a request.
    pub fn status(&self) -> Option<StatusCode> {
        self.status
    }

    /// Returns the media type of the message without parameters, as `Content-Type` names it. In a GET of Connect, it is `application/json` or
    /// `application/proto`. Returns `None` without exactly one `Content-Type`.
    pub fn media_type(&self) -> Option<&'a str> {
        if self.of_query.is_some() {
            return self.of_query;
        }
        let mut lines = self.headers.get_all(header::CONTENT_TYPE).iter();
        let kind = lines.next().filter(|_| lines.next().is_none())?;
        kind.to_str().ok()?.split(';').next().map(str::trim)
    }

    /// Returns a parameter of the route, percent-decoded. Returns an empty text if the route has no parameter of this name.
    pub fn param(&self, name: &str) -> &str {
        match self.params {
            RouteParams::Request(params) => params.get(name).unwrap_or_default(),
            RouteParams::Kept(params) => params.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value),
        }
    }

    /// Decodes JSON (RFC 8259). The `Content-Type` must be `application/json` or end in `+json`. Needs the feature `json`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use serde_json::Value;
    /// use tower_response_cache::{Namespace, Rule};
    ///
    /// let search = Rule::ttl(Duration::from_secs(60)).reads_by_post().namespaces_from_request(|request| {
    ///     let query: Value = request.json()?;
    ///     Ok(vec![Namespace::of(["orders", query["customer"].as_str().ok_or("no customer")?])])
    /// });
    /// # drop(search);
    /// ```
    ///
    /// # Errors
    ///
    /// If the message is compressed, if it has another `Content-Type`, or if it is not JSON of this type.
    #[cfg(feature = "json")]
    #[cfg_attr(docsrs, doc(cfg(feature = "json")))]
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, MessageError> {
        let plain = self.plain(self.is_json())?;
        serde_json::from_slice(plain).map_err(|error| MessageError::Malformed(error.into()))
    }

    /// Decodes a message of Protobuf. The `Content-Type` must be that of gRPC, gRPC-Web or Connect with Protobuf, or `application/protobuf` or
    /// `application/x-protobuf`. Needs the feature `prost`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::{Namespace, Rule};
    ///
    /// #[derive(Clone, PartialEq, prost::Message)]
    /// struct GetNote {
    ///     #[prost(string, tag = "1")]
    ///     name: String,
    /// }
    ///
    /// let get = Rule::rpc(Duration::from_secs(60)).namespaces_from_request(|request| {
    ///     let get: GetNote = request.prost()?;
    ///     Ok(vec![Namespace::of(["note", &get.name])])
    /// });
    /// # drop(get);
    /// ```
    ///
    /// # Errors
    ///
    /// If the message is compressed, if it has another `Content-Type`, or if it is not a message of this type.
    #[cfg(feature = "prost")]
    #[cfg_attr(docsrs, doc(cfg(feature = "prost")))]
    pub fn prost<M: prost::Message + Default>(&self) -> Result<M, MessageError> {
        let plain = self.plain(self.is_protobuf())?;
        M::decode(plain).map_err(|error| MessageError::Malformed(error.into()))
    }

    #[cfg(any(feature = "json", feature = "prost"))]
    fn plain(&self, has_format: bool) -> Result<&'a [u8], MessageError> {
        match (self.is_compressed, has_format) {
            (true, _) => Err(MessageError::Compressed),
            (false, false) => Err(MessageError::ContentType),
            (false, true) => Ok(self.bytes),
        }
    }

    #[cfg(feature = "json")]
    fn is_json(&self) -> bool {
        self.media_type().is_some_and(|kind| ends_with(kind, "+json") || kind.eq_ignore_ascii_case("application/json"))
    }

    #[cfg(feature = "prost")]
    fn is_protobuf(&self) -> bool {
        const NAMES: [&str; 7] = [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc-web",
            "application/grpc-web+proto",
            "application/proto",
            "application/protobuf",
            "application/x-protobuf",
        ];
        self.media_type().is_some_and(|kind| NAMES.iter().any(|name| kind.eq_ignore_ascii_case(name)))
    }
}

#[cfg(feature = "json")]
fn ends_with(text: &str, end: &str) -> bool {
    text.len().checked_sub(end.len()).and_then(|at| text.get(at..)).is_some_and(|tail| tail.eq_ignore_ascii_case(end))
}

impl fmt::Debug for MessageView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, bytes, is_compressed, .. } = self;
        f.debug_struct("MessageView")
            .field("status", status)
            .field("len", &bytes.len())
            .field("is_compressed", is_compressed)
            .finish_non_exhaustive()
    }
}
