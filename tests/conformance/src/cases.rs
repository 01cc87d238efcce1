//! The cases, by the names of the suites.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use serde_json::{Value, json};

use crate::{
    service::MAX_MESSAGE,
    wire::{Call, Form, Protocol, with_verb},
};

/// What the cache does with a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cached {
    /// The first response answers the next calls.
    Always,
    /// As `Always`, if the rule gives errors a lifetime.
    WithErrors,
    /// Each call reaches the service.
    Never,
    /// A stream of one message cannot be told from a unary call, if a rule covers its method.
    AsUnary,
    /// The table does not say: the service itself refuses the request before its method.
    Any,
}

pub struct Case {
    pub name: String,
    pub request: Request<Bytes>,
    pub cached: Cached,
}

/// Returns all cases in one form.
pub fn cases(form: Form) -> Vec<Case> {
    let mut cases = Cases { form, all: Vec::new() };
    cases.basic();
    cases.duplicate_metadata();
    cases.errors();
    cases.streams();
    cases.deadlines();
    cases.empty_and_large();
    cases.unexpected();
    if form.protocol != Protocol::ConnectGet {
        cases.unexpected_posts();
    }
    cases.all
}

struct Cases {
    form: Form,
    all: Vec<Case>,
}

fn pairs(name: &str, values: &[&str]) -> Value {
    values.iter().map(|value| json!([name, value])).collect()
}

impl Cases {
    fn unary(&self) -> &'static str {
        if self.form.protocol == Protocol::ConnectGet { "Idempotent" } else { "Unary" }
    }

    /// Returns a unary call whose message holds the name of its case.
    fn call(&self, name: &str, mut definition: Value) -> Call {
        definition["case"] = name.into();
        Call { method: self.unary(), messages: vec![definition.to_string()], fields: Vec::new() }
    }

    fn add(&mut self, name: &str, call: &Call, cached: Cached) {
        let request = self.form.request(call);
        self.push(name, request, cached);
    }

    fn push(&mut self, name: &str, request: Request<Bytes>, cached: Cached) {
        self.all.push(Case { name: name.to_owned(), request, cached });
    }

    /// Adds a unary call with this definition.
    fn define(&mut self, name: &str, definition: Value, cached: Cached) {
        let call = self.call(name, definition);
        self.add(name, &call, cached);
    }

    fn basic(&mut self) {
        let metadata =
            json!({ "headers": pairs("x-custom-header", &["foo"]), "trailers": pairs("x-custom-trailer", &["bing"]) });
        self.define("Basic/unary/success", metadata, Cached::Always);
        self.define("Basic/unary/compressed", json!({ "compress": true }), Cached::Always);
        self.define("Basic/unary/uncompressed", json!({ "compress": false }), Cached::Always);
        let mut call = self.call("Basic/unary/metadata", json!({}));
        call.fields = vec![("x-conformance-test", "Value1".to_owned()), ("x-conformance-bin", "AAEC".to_owned())];
        self.add("Basic/unary/metadata", &call, Cached::Always);
        let call = Call { method: "Unimplemented", ..self.call("Basic/unimplemented", json!({})) };
        self.add("Basic/unimplemented", &call, Cached::WithErrors);
    }

    fn duplicate_metadata(&mut self) {
        let values = ["b", "a", "b", "c, d"];
        let both = json!({ "headers": pairs("x-custom-header", &values), "trailers": pairs("x-custom-trailer", &values) });
        let mut call = self.call("Duplicate Metadata/unary", both.clone());
        call.fields = values.map(|value| ("x-conformance-test", value.to_owned())).to_vec();
        self.add("Duplicate Metadata/unary", &call, Cached::Always);
        call.fields.reverse();
        self.add("Duplicate Metadata/unary, in another order", &call, Cached::Always);
        call.method = "ServerStream";
        self.add("Duplicate Metadata/server-stream", &call, Cached::AsUnary);
        // One value that looks like two.
        let mut call = self.call("Duplicate Metadata/joined", json!({}));
        for values in [vec!["a", "b"], vec!["a,b"], vec!["a, b"], vec!["a"], vec![""]] {
            call.fields = values.iter().map(|value| ("x-conformance-test", (*value).to_owned())).collect();
            self.add(&format!("Duplicate Metadata/{values:?}"), &call, Cached::Always);
        }
        let mut both = both;
        both["error"] = 5.into();
        self.define("Duplicate Metadata/error", both, Cached::WithErrors);
    }

    fn errors(&mut self) {
        // RESOURCE_EXHAUSTED is HTTP status 429 in Connect, which depends on a rate and is never stored.
        let is_connect = matches!(self.form.protocol, Protocol::Connect | Protocol::ConnectGet);
        let exhausted = if is_connect { Cached::Never } else { Cached::WithErrors };
        for code in 1..=16 {
            let name = format!("Errors/unary/{code}");
            let cached = if code == 8 { exhausted } else { Cached::WithErrors };
            self.define(&name, json!({ "error": code, "says": "failed" }), cached);
        }
        let metadata = json!({
            "error": 13, "details": true,
            "headers": pairs("x-custom-header", &["foo", "bar"]), "trailers": pairs("x-custom-trailer", &["bing"]),
        });
        self.define("Errors/unary/error-with-metadata", metadata, Cached::WithErrors);
        self.define("Errors/unary/unicode", json!({ "error": 8, "says": "日本 % \n é" }), exhausted);
        self.define("Errors/unary/no message", json!({ "error": 5, "says": "" }), Cached::WithErrors);
    }

    fn streams(&mut self) {
        for method in ["ServerStream", "ClientStream", "Bidi"] {
            for (kind, mut definition) in [
                ("success", json!({ "responses": 3 })),
                ("one-response", json!({ "responses": 1 })),
                ("no-responses", json!({ "responses": 0 })),
                ("error-with-responses", json!({ "responses": 2, "error": 8, "details": true })),
                ("error-no-responses", json!({ "error": 5, "trailers": pairs("x-custom-trailer", &["bing"]) })),
            ] {
                let name = format!("{method}/{kind}");
                definition["case"] = name.clone().into();
                let first = definition.to_string();
                for more in [0, 2] {
                    if method == "ServerStream" && more > 0 {
                        continue;
                    }
                    let mut messages = vec![first.clone()];
                    messages.extend((0..more).map(|n| format!("message {n}")));
                    let call = Call { method, messages, fields: Vec::new() };
                    self.add(
                        &format!("{name}, {more} more requests"),
                        &call,
                        if more == 0 { Cached::AsUnary } else { Cached::Never },
                    );
                }
            }
            let call = Call { method, messages: Vec::new(), fields: Vec::new() };
            self.add(&format!("{method}/no-requests"), &call, Cached::Never);
        }
    }

    fn timeout(&self, milliseconds: &str) -> (&'static str, String) {
        match self.form.protocol {
            Protocol::Grpc | Protocol::GrpcWeb => ("grpc-timeout", format!("{milliseconds}m")),
            Protocol::Connect | Protocol::ConnectGet => ("connect-timeout-ms", milliseconds.to_owned()),
        }
    }

    fn deadlines(&mut self) {
        let mut call = self.call("Deadline Propagation/unary", json!({}));
        call.fields = vec![self.timeout("20000")];
        self.add("Deadline Propagation/unary", &call, Cached::Always);
        let mut call = self.call("Timeouts/unary", json!({ "waits": true }));
        call.fields = vec![self.timeout("200")];
        self.add("Timeouts/unary", &call, Cached::WithErrors);
        for timeout in ["", "soon", "-1", "0", "99999999999999"] {
            let mut call = self.call("Timeouts/unexpected", json!({ "timeout": timeout }));
            call.fields = vec![self.timeout(timeout)];
            self.add(&format!("Timeouts/{timeout:?}"), &call, Cached::Any);
        }
    }

    fn empty_and_large(&mut self) {
        let empty = Call { method: self.unary(), messages: vec![String::new()], fields: Vec::new() };
        self.add("Server Empty Responses/empty message", &empty, Cached::Always);
        if self.form.protocol == Protocol::ConnectGet {
            return;
        }
        // Text that gzip cannot make short.
        let noise: String = (0..MAX_MESSAGE as u64).map(|n| char::from(b'a' + (n.wrapping_mul(n) / 7 % 23) as u8)).collect();
        // By a gzip of the table it may still fit into what the cache reads.
        let passed = if self.form.gzip { Cached::Any } else { Cached::Never };
        self.define("Message Size/larger than the cache reads", json!({ "text": &noise[..100 << 10] }), passed);
        self.define("Message Size/too large", json!({ "text": noise }), Cached::Any);
        self.define("Message Size/kept", json!({ "text": &noise[..20 << 10], "compress": true }), Cached::Always);
    }

    fn unexpected(&mut self) {
        let call = self.call("Unexpected", json!({}));
        for verb in [Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS, Method::HEAD] {
            let request = with_verb(self.form.request(&call), verb.clone());
            self.push(&format!("Unexpected Requests/verb {verb}"), request, Cached::Any);
        }
        for path in ["/", "/conformance.v1.Service", "/conformance.v1.Service/", "/conformance.v1.Other/Unary"] {
            let mut request = self.form.request(&call);
            let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
            *request.uri_mut() = format!("{path}{query}").parse().expect("a URI");
            self.push(&format!("Unexpected Requests/path {path}"), request, Cached::Any);
        }
        if self.form.protocol == Protocol::ConnectGet {
            let target = self.form.request(&call).uri().to_string();
            for (name, from, to) in [
                ("version", "connect=v1", "connect=v2"),
                ("no version", "connect=v1&", ""),
                ("codec", "encoding=", "encoding=x"),
                ("no base64", "&base64=1", ""),
                ("compression", "&message", "&compression=br&message"),
                ("repeated message", "&message", "&message=AA&message"),
            ] {
                let mut request = self.form.request(&call);
                *request.uri_mut() = target.replacen(from, to, 1).parse().expect("a URI");
                self.push(&format!("Connect Unexpected Requests/GET, {name}"), request, Cached::Any);
            }
        }
    }

    fn unexpected_posts(&mut self) {
        let call = self.call("Unexpected", json!({}));
        let base = self.form.request(&call);
        let codec = self.form.codec();
        for kind in [
            "text/plain".to_owned(),
            "application/grpc".to_owned(),
            "application/grpc-web".to_owned(),
            "application/grpc+text".to_owned(),
            "application/x".to_owned(),
            format!("application/{codec}"),
            format!("application/connect+{codec}"),
            format!("application/grpc+{codec}"),
            format!("application/grpc-web+{codec}"),
            format!("application/grpc-web-text+{codec}"),
            format!("application/{codec}; charset=utf-8"),
        ] {
            let mut request = base.clone();
            request.headers_mut().insert(header::CONTENT_TYPE, kind.parse().expect("a value"));
            self.push(&format!("Unexpected Requests/content type {kind}"), request, Cached::Any);
        }
        for (name, value) in [
            ("grpc-encoding", "br"),
            ("content-encoding", "br"),
            ("connect-protocol-version", "2"),
            ("grpc-accept-encoding", "br, gzip"),
            ("accept-encoding", "br, gzip;q=0.5"),
        ] {
            let mut request = base.clone();
            request.headers_mut().insert(name, HeaderValue::from_static(value));
            self.push(&format!("Unexpected Requests/{name}: {value}"), request, Cached::Any);
        }
        let mut request = base.clone();
        request.headers_mut().remove("connect-protocol-version");
        request.headers_mut().remove("te");
        self.push("Unexpected Requests/no protocol fields", request, Cached::Any);
        for (name, body) in [
            ("no body", Bytes::new()),
            ("half a frame", base.body().slice(..base.body().len() / 2)),
            ("two messages", [base.body().as_ref(), base.body().as_ref()].concat().into()),
            ("bytes after the message", [base.body().as_ref(), &b"\0\0"[..]].concat().into()),
            ("flag of compression", [&b"\x01"[..], &base.body()[1..]].concat().into()),
            ("unknown flag", [&b"\x40"[..], &base.body()[1..]].concat().into()),
        ] {
            let mut request = base.clone();
            *request.body_mut() = body;
            self.push(&format!("Unexpected Requests/{name}"), request, Cached::Any);
        }
    }
}
