//! Two calls by RPC, or two requests with content, share a response only if they differ in nothing that can change it.

use std::{collections::BTreeMap, convert::Infallible};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use proptest::{prelude::*, sample::select};
use tower::{ServiceBuilder, ServiceExt, service_fn, util::BoxCloneService};
use tower_response_cache::{
    CacheStatus, KeyExtractor, Memory, Outcome, ResponseCache, RouteAndQuery, Rule,
    key::{Headers, Identity, RequestBody},
    request_body::ReadBody,
};

use crate::common::{MINUTE, rpc::success};

type Service = BoxCloneService<Request<Full<Bytes>>, (Option<Outcome>, Bytes), Infallible>;

/// The fields that no response depends on.
const IRRELEVANT: [&str; 3] = ["grpc-timeout", "connect-timeout-ms", "x-request-id"];

/// Returns everything of a request that a response may depend on.
fn digest(request: &Request<()>, body: &[u8]) -> String {
    let mut headers = request.headers().clone();
    IRRELEVANT.iter().for_each(|name| drop(headers.remove(*name)));
    format!("{} {} {headers:?} {body:?}", request.method(), request.uri())
}

/// Returns a cache around a service whose response repeats its request.
fn service(route: &str, rule: Rule) -> Service {
    let cache = ResponseCache::new(Memory::default()).route(route, rule);
    let inner = service_fn(|request: Request<ReadBody<Full<Bytes>>>| async {
        let (head, body) = request.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        let request = Request::from_parts(head, ());
        Ok::<_, Infallible>(success(request.headers(), &digest(&request, &body)))
    });
    let service = ServiceBuilder::new().layer(cache.layer_with_request_bodies()).service(inner);
    BoxCloneService::new(service_fn(move |request: Request<Full<Bytes>>| {
        let service = service.clone();
        async move {
            let response = service.oneshot(request).await?;
            let outcome = CacheStatus::of(&response).map(|status| status.outcome());
            Ok((outcome, response.into_body().collect().await.expect("a whole body").to_bytes()))
        }
    }))
}

/// Returns true if the second request gets the response to the first one. Each response must be the one that the request gets without a cache.
fn share(service: Service, one: Request<Full<Bytes>>, other: Request<Full<Bytes>>) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let (first, _) = service.clone().oneshot(one).await.expect("a response");
        assert_ne!(first, Some(Outcome::Hit));
        let wanted = {
            let (head, body) = other.clone().into_parts();
            let body = body.collect().await.expect("a whole body").to_bytes();
            digest(&Request::from_parts(head, ()), &body)
        };
        let (second, got) = service.oneshot(other).await.expect("a response");
        let got = String::from_utf8_lossy(&got);
        assert!(got.contains(&wanted), "got    {got}\nwanted {wanted}");
        second == Some(Outcome::Hit)
    })
}

// ---- Calls -----------------------------------------------------------------------------------------------------------

type Fields = Vec<(&'static str, &'static str)>;

/// A call by POST, or by GET with a query.
#[derive(Debug, Clone, PartialEq)]
struct Call {
    query: Option<&'static str>,
    path: &'static str,
    kind: &'static str,
    encodings: Fields,
    metadata: Fields,
    user: Option<&'static str>,
    flag: u8,
    message: Vec<u8>,
    /// Another number of frames than one.
    frames: usize,
    irrelevant: Fields,
}

impl Call {
    fn is_framed(&self) -> bool {
        self.kind.starts_with("application/grpc")
    }

    fn request(&self) -> Request<Full<Bytes>> {
        let mut request = match self.query {
            Some(query) => Request::get(format!("{}?{query}", self.path)),
            None => Request::post(self.path).header("content-type", self.kind),
        };
        let user = self.user.map(|user| ("x-user", user));
        for (name, value) in self.encodings.iter().chain(&self.metadata).chain(&user).chain(&self.irrelevant) {
            request = request.header(*name, *value);
        }
        let length = u32::try_from(self.message.len()).expect("a short message").to_be_bytes();
        let frame = [&[self.flag][..], &length, &self.message].concat();
        let body = match (self.query, self.is_framed()) {
            (Some(_), _) => Vec::new(),
            (None, true) => frame.repeat(self.frames),
            (None, false) => self.message.clone(),
        };
        request.body(body.into()).expect("a request")
    }

    /// Returns what counts, written down by the documentation alone. Returns `None` for a call that is never cached.
    fn counts(&self) -> Option<impl PartialEq + use<>> {
        let lines = |fields: &Fields, name: &str| -> Vec<&'static str> {
            fields.iter().filter(|(listed, _)| *listed == name).map(|(_, value)| *value).collect()
        };
        let is_get = self.query.is_some();
        let is_cached = is_get
            || !matches!(self.kind, "text/plain" | "application/connect+json") && (!self.is_framed() || self.frames == 1);
        let named: &[&str] = match is_get {
            true => &["accept", "accept-encoding", "connect-protocol-version"],
            false => &[
                "accept",
                "accept-encoding",
                "connect-protocol-version",
                "content-encoding",
                "grpc-encoding",
                "grpc-accept-encoding",
            ],
        };
        let encodings: Vec<_> = named.iter().map(|name| lines(&self.encodings, name)).collect();
        let body = (!is_get).then(|| (self.kind, self.is_framed().then_some(self.flag), self.message.clone()));
        is_cached.then(|| (self.path, self.query, encodings, lines(&self.metadata, "x-tenant"), self.user, body))
    }
}

fn fields(choices: &'static [(&'static str, &'static str)]) -> impl Strategy<Value = Fields> {
    prop::collection::vec(select(choices), 0..3)
}

const ENCODINGS: &[(&str, &str)] = &[
    ("grpc-encoding", "gzip"),
    ("grpc-encoding", "identity"),
    ("grpc-accept-encoding", "gzip"),
    ("grpc-accept-encoding", "gzip,identity"),
    ("content-encoding", "gzip"),
    ("accept-encoding", "gzip"),
    ("accept-encoding", "br"),
    ("accept", "application/json"),
    ("connect-protocol-version", "1"),
];

/// The encodings that a GET by Connect may have.
fn of_get(fields: Fields) -> Fields {
    fields.into_iter().filter(|(name, _)| !name.starts_with("grpc") && *name != "content-encoding").collect()
}

fn call() -> impl Strategy<Value = Call> {
    let queries = prop::option::weighted(
        0.3,
        select(
            &[
                "message=a&connect=v1",
                "connect=v1&message=a",
                "connect=v1&message=b",
                "connect=v1&message=a&base64=1",
                "message=",
            ][..],
        ),
    );
    let kinds = select(
        &[
            "application/grpc",
            "application/grpc+proto",
            "application/grpc-web+proto",
            "application/json",
            "application/proto",
            "application/json; charset=utf-8",
            "application/connect+json",
            "text/plain",
        ][..],
    );
    let metadata = fields(&[("x-tenant", "a"), ("x-tenant", "b"), ("x-tenant", "a,b"), ("x-tenant", "")]);
    let irrelevant =
        fields(&[("grpc-timeout", "5S"), ("connect-timeout-ms", "700"), ("x-request-id", "1"), ("x-request-id", "2")]);
    let messages = prop_oneof![Just(Vec::new()), prop::collection::vec(0_u8..3, 0..8), Just(b"\0\0\0\0\x01a".to_vec())];
    let frames = prop_oneof![8 => Just(1_usize), 1 => Just(0), 1 => Just(2)];
    let head = (queries, select(&["/s.S/A", "/s.S/B"][..]), kinds, fields(ENCODINGS), metadata);
    let rest = (prop::option::of(select(&["ann", "bob"][..])), 0_u8..2, messages, frames, irrelevant);
    (head, rest).prop_map(|((query, path, kind, encodings, metadata), (user, flag, message, frames, irrelevant))| {
        let encodings = if query.is_some() { of_get(encodings) } else { encodings };
        Call { query, path, kind, encodings, metadata, user, flag, message, frames, irrelevant }
    })
}

/// Adds the first line of other fields, or removes the last line.
fn change_line(fields: &mut Fields, others: &Fields) {
    match others.first() {
        Some(line) => fields.push(*line),
        None => _ = fields.pop(),
    }
}

/// Two calls that differ in at most two parts.
fn similar_calls() -> impl Strategy<Value = (Call, Call)> {
    (call(), call(), prop::collection::vec(0..12, 0..3)).prop_map(|(one, another, parts)| {
        let mut other = one.clone();
        let of_one_method = one.query.is_some() == another.query.is_some();
        for part in parts {
            match part {
                0 if of_one_method => other.query = another.query,
                1 => other.path = another.path,
                2 => other.kind = another.kind,
                3 => change_line(&mut other.metadata, &another.metadata),
                4 => other.metadata.reverse(),
                5 => other.user = another.user,
                6 => other.flag = another.flag,
                7 => other.message = another.message.clone(),
                8 => other.frames = another.frames,
                9 => other.irrelevant = another.irrelevant.clone(),
                _ if of_one_method => change_line(&mut other.encodings, &another.encodings),
                _ => {}
            }
        }
        (one, other)
    })
}

fn rule() -> Rule {
    Rule::rpc(MINUTE).key(RouteAndQuery.query_as_sent().and(Headers::new(["x-tenant"]))).identity(Identity::header("x-user"))
}

proptest! {
    // Many, so that each field is several times the only difference.
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn calls_share_iff_nothing_that_counts_differs((one, other) in similar_calls()) {
        let want = one.counts().is_some_and(|counts| other.counts() == Some(counts));
        prop_assert_eq!(share(service("/s.S/{method}", rule()), one.request(), other.request()), want);
    }

}

proptest! {
    #[test]
    fn calls_share_if_only_timeouts_differ(call in call(), milliseconds in 1000_u32..99_999) {
        let mut request = call.request();
        for name in ["grpc-timeout", "connect-timeout-ms"] {
            let unit = if name == "grpc-timeout" { "m" } else { "" };
            request.headers_mut().insert(name, format!("{milliseconds}{unit}").parse().expect("a value"));
        }
        prop_assert_eq!(share(service("/s.S/{method}", rule()), call.request(), request), call.counts().is_some());
    }
}

// ---- Content of HTTP -------------------------------------------------------------------------------------------------

const FORM: &str = "application/x-www-form-urlencoded";

/// Content in one of several spellings, with its type and coding.
#[derive(Debug, Clone)]
struct Content {
    method: &'static str,
    kind: &'static str,
    coding: Option<&'static str>,
    text: String,
}

#[derive(Debug, PartialEq)]
enum Meaning {
    Bytes(String),
    Json(serde_json::Value),
    Form(BTreeMap<String, Vec<String>>),
}

impl Content {
    fn request(&self) -> Request<Full<Bytes>> {
        let mut request = Request::builder().method(self.method).uri("/search").header("content-type", self.kind);
        if let Some(coding) = self.coding {
            request = request.header("content-encoding", coding);
        }
        request.body(Full::from(self.text.clone())).expect("a request")
    }

    fn counts(&self, canonical: &str) -> impl PartialEq + use<> {
        let meaning = match canonical {
            "json" if self.kind != FORM && self.coding.is_none() => serde_json::from_str(&self.text).ok().map(Meaning::Json),
            "form" if self.kind == FORM && self.coding.is_none() => form(&self.text).map(Meaning::Form),
            _ => None,
        };
        (self.method, self.kind, self.coding, meaning.unwrap_or_else(|| Meaning::Bytes(self.text.clone())))
    }
}

/// Returns the pairs of a form by their names.
fn form(text: &str) -> Option<BTreeMap<String, Vec<String>>> {
    let mut pairs = BTreeMap::<_, Vec<_>>::new();
    for pair in text.split('&') {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        if pair.contains(';') || name.contains(['%', '+', '[', ']']) {
            return None;
        }
        pairs.entry(name.to_owned()).or_default().push(pair.to_owned());
    }
    Some(pairs)
}

fn content() -> impl Strategy<Value = Content> {
    let members = select(
        &[
            "\"a\":1",
            "\"b\":[1,2]",
            "\"a\" : 1",
            "\"c\":\"x\"",
            "\"c\":\"&\"",
            "\"d\":{\"f\":null,\"e\":1}",
            "\"d\":{\"e\":1, \"f\":null}",
        ][..],
    );
    let json = prop::collection::vec(members, 0..4).prop_map(|members| {
        // A member whose name comes twice has no meaning that all readers share.
        let names: std::collections::BTreeSet<_> = members.iter().map(|member| &member[..3]).collect();
        if names.len() == members.len() { format!("{{{}}}", members.join(",")) } else { "{}".to_owned() }
    });
    let pieces = select(&["a=1", "a=2", "b=1", "b", "a", "%61=1", "c=x;d", "c[]=1", "=", ""][..]);
    let forms = prop::collection::vec(pieces, 0..4).prop_map(|pieces| pieces.join("&"));
    let texts = prop_oneof![4 => json, 4 => forms, 1 => Just("{\"a\":1".to_owned())];
    let kinds = select(&["application/json", "application/vnd.a+json", FORM][..]);
    (select(&["POST", "QUERY"][..]), kinds, prop::option::weighted(0.1, Just("gzip")), texts)
        .prop_map(|(method, kind, coding, text)| Content { method, kind, coding, text })
}

/// Two contents of one kind, of which the second may be another spelling of the first.
fn similar_contents() -> impl Strategy<Value = (Content, Content)> {
    (content(), content(), any::<bool>(), 0_usize..4).prop_map(|(one, another, is_spelled_anew, turn)| {
        let mut other = one.clone();
        if !is_spelled_anew {
            return (one, another);
        }
        other.text = match serde_json::from_str::<serde_json::Value>(&one.text) {
            Ok(value) => format!(" {} ", serde_json::to_string_pretty(&value).expect("JSON")),
            Err(_) => {
                let mut pieces: Vec<_> = one.text.split('&').collect();
                let turn = turn % pieces.len();
                pieces.rotate_left(turn);
                pieces.join("&")
            }
        };
        (one, other)
    })
}

proptest! {
    /// The canonical forms ask for one handler that sees no difference between spellings, so the digest is not compared.
    #[test]
    fn contents_share_iff_their_meaning_is_equal((one, other) in similar_contents(), canonical in select(&["bytes", "json", "form"][..])) {
        let extractor = match canonical {
            "json" => RequestBody::json(),
            "form" => RequestBody::form(),
            _ => RequestBody::bytes(),
        };
        let rule = Rule::ttl(MINUTE).reads_by_post().key(RouteAndQuery.and(extractor));
        let want = one.counts(canonical) == other.counts(canonical);
        prop_assert_eq!(shares_entry(&service("/search", rule), one.request(), other.request()), want);
    }
}

fn shares_entry(service: &Service, one: Request<Full<Bytes>>, other: Request<Full<Bytes>>) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let mut outcomes = Vec::new();
        for request in [one, other] {
            outcomes.push(service.clone().oneshot(request).await.expect("a response").0);
        }
        outcomes[1] == Some(Outcome::Hit)
    })
}
