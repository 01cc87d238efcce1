//! Calls as requests, in every form of the three protocols.

use std::io::Write;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use buffa_types::google::protobuf::StringValue;
use bytes::Bytes;
use connectrpc::codec::encode_proto;
use flate2::{Compression, write::GzEncoder};
use http::{Method, Request, Version, header};

use crate::service::SERVICE;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Grpc,
    GrpcWeb,
    Connect,
    ConnectGet,
}

/// The form of a call.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    pub protocol: Protocol,
    pub is_json: bool,
    /// The request is compressed.
    pub gzip: bool,
    /// The client takes compressed responses.
    pub accepts_gzip: bool,
    pub version: Version,
}

/// Returns all forms: gRPC needs HTTP/2.
pub fn forms() -> Vec<Form> {
    let mut forms = Vec::new();
    for protocol in [Protocol::Grpc, Protocol::GrpcWeb, Protocol::Connect, Protocol::ConnectGet] {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            for is_json in [false, true] {
                for (gzip, accepts_gzip) in [(false, false), (false, true), (true, true)] {
                    forms.push(Form { protocol, is_json, gzip, accepts_gzip, version });
                }
            }
        }
    }
    forms.retain(|form| form.protocol != Protocol::Grpc || form.version == Version::HTTP_2);
    forms
}

/// What a call is, apart from its form.
#[derive(Debug, Clone)]
pub struct Call {
    pub method: &'static str,
    pub messages: Vec<String>,
    pub fields: Vec<(&'static str, String)>,
}

impl Call {
    fn is_stream(&self) -> bool {
        !["Unary", "Idempotent", "Unimplemented"].contains(&self.method)
    }
}

impl Form {
    pub fn codec(&self) -> &'static str {
        if self.is_json { "json" } else { "proto" }
    }

    fn message(&self, text: &str) -> Vec<u8> {
        let encoded = match self.is_json {
            true => serde_json::to_vec(text).expect("JSON"),
            false => encode_proto(&StringValue::from(text)).expect("a message").to_vec(),
        };
        if !self.gzip {
            return encoded;
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&encoded).expect("memory");
        encoder.finish().expect("memory")
    }

    fn frames(&self, call: &Call) -> Bytes {
        let mut body = Vec::new();
        for message in &call.messages {
            let message = self.message(message);
            body.push(u8::from(self.gzip));
            body.extend(u32::try_from(message.len()).expect("a short message").to_be_bytes());
            body.extend(message);
        }
        body.into()
    }

    /// Returns a call in this form.
    pub fn request(&self, call: &Call) -> Request<Bytes> {
        let path = format!("/{SERVICE}/{}", call.method);
        let mut request = match (self.protocol, call.is_stream()) {
            (Protocol::Grpc, _) => self.framed(&path, "application/grpc", "grpc-", call),
            (Protocol::GrpcWeb, _) => self.framed(&path, "application/grpc-web", "grpc-", call),
            (_, true) => self.framed(&path, "application/connect", "connect-content-", call),
            (Protocol::Connect, false) => self.connect(&path, call),
            (Protocol::ConnectGet, false) => self.connect_get(&path, call),
        };
        *request.version_mut() = self.version;
        for (name, value) in &call.fields {
            request.headers_mut().append(*name, value.parse().expect("a value"));
        }
        request
    }

    fn framed(&self, path: &str, kind: &str, prefix: &str, call: &Call) -> Request<Bytes> {
        let kind = format!("{kind}+{}", self.codec());
        let mut request = Request::post(path).header(header::CONTENT_TYPE, kind).header(header::TE, "trailers");
        if self.gzip {
            request = request.header(format!("{prefix}encoding"), "gzip");
        }
        if self.accepts_gzip {
            request = request.header(format!("{prefix}accept-encoding"), "gzip");
        }
        request.body(self.frames(call)).expect("a request")
    }

    fn connect(&self, path: &str, call: &Call) -> Request<Bytes> {
        let mut request = Request::post(path)
            .header(header::CONTENT_TYPE, format!("application/{}", self.codec()))
            .header("connect-protocol-version", "1");
        if self.gzip {
            request = request.header(header::CONTENT_ENCODING, "gzip");
        }
        if self.accepts_gzip {
            request = request.header(header::ACCEPT_ENCODING, "gzip");
        }
        request.body(self.only_message(call).into()).expect("a request")
    }

    fn connect_get(&self, path: &str, call: &Call) -> Request<Bytes> {
        let compression = if self.gzip { "&compression=gzip" } else { "" };
        let message = URL_SAFE_NO_PAD.encode(self.only_message(call));
        let target = format!("{path}?connect=v1&encoding={}&base64=1{compression}&message={message}", self.codec());
        let mut request = Request::get(target);
        if self.accepts_gzip {
            request = request.header(header::ACCEPT_ENCODING, "gzip");
        }
        request.body(Bytes::new()).expect("a request")
    }

    fn only_message(&self, call: &Call) -> Vec<u8> {
        call.messages.first().map(|message| self.message(message)).unwrap_or_default()
    }
}

/// Makes a call with another method of HTTP.
pub fn with_verb(mut request: Request<Bytes>, verb: Method) -> Request<Bytes> {
    *request.method_mut() = verb;
    request
}
