//! Calls by gRPC through the cache: a tonic server and a tonic client over TCP, with generated code.
#![allow(missing_docs)]

mod client_side;
mod deadlines;
mod descriptors;
mod hits;
mod service;
mod streams;
mod writes;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use prost::Message;
use tokio::net::TcpListener;
use tonic::{
    body::Body,
    codec::CompressionEncoding,
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};
use tower::ServiceExt;
use tower_response_cache::{Memory, ResponseCache, Rule};

use self::service::{
    Notebook,
    notes::{GetRequest, Note, notes_client::NotesClient, notes_server::NotesServer},
};

const MINUTE: Duration = Duration::from_secs(60);
const GET: &str = "/notes.v1.Notes/Get";

/// Returns a cache for the method `Get`.
fn cache_of(rule: Rule) -> ResponseCache {
    ResponseCache::new(Memory::default()).route(GET, rule.namespace("notes"))
}

/// Serves a notebook behind a cache. Returns a connection.
async fn serve(cache: &ResponseCache, notebook: &Notebook) -> Channel {
    let service = NotesServer::new(notebook.clone())
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let server = Server::builder().layer(cache.layer_with_request_bodies()).add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    endpoint.connect().await.expect("a connection")
}

fn name(name: &str) -> GetRequest {
    GetRequest { name: name.into() }
}

fn note(name: &str, text: &str) -> Note {
    Note { name: name.into(), text: text.into() }
}

/// Calls `Get` and returns the text of the note.
async fn get(client: &mut NotesClient<Channel>, of: &str) -> String {
    client.get(name(of)).await.expect("a note").into_inner().text
}

/// A response as it arrived: without `date`, which the server adds to each response.
#[derive(Debug, PartialEq)]
struct Raw {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    trailers: Option<Vec<(String, Vec<u8>)>>,
}

/// Returns a message in a frame.
fn frame(message: &impl Message) -> Bytes {
    let content = message.encode_to_vec();
    let length = u32::try_from(content.len()).expect("a short message");
    [&[0], &length.to_be_bytes()[..], &content].concat().into()
}

/// Calls a method with a body as it is, and these fields.
async fn call(channel: &Channel, path: &str, body: Bytes, fields: &[(&str, &str)]) -> Raw {
    let mut request = Request::post(path).header("te", "trailers").header("content-type", "application/grpc");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::new(Full::new(body))).expect("a request");
    let (mut head, body) = channel.clone().oneshot(request).await.expect("a response").into_parts();
    head.headers.remove("date");
    let body = body.collect().await.expect("a whole body");
    let pairs = |map: &HeaderMap| map.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
    let trailers = body.trailers().map(pairs);
    Raw { status: head.status, headers: head.headers, body: body.to_bytes(), trailers }
}
