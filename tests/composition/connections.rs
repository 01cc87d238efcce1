//! The cache behind an HTTP server and real connections.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::{minute, rule};
use crate::common::*;
use axum::{Router, body::Body as AxumBody, routing};
use http::{Method, Request, StatusCode, header};
use tokio::net::{TcpListener, TcpStream};
use tower_response_cache::{CacheLayer, Memory, Store};

type Client = hyper_util::client::legacy::Client<hyper_util::client::legacy::connect::HttpConnector, Plain>;

/// Serves a router on the loopback interface. Returns its address, and the count of accepted connections.
async fn serve(router: Router) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    let listener = axum::serve::ListenerExt::tap_io(listener, move |_| {
        count.fetch_add(1, Ordering::SeqCst);
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, connections)
}

fn client() -> Client {
    hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http()
}

fn over_http(method: Method, address: &str, target: &str) -> Request<Plain> {
    Request::builder().method(method).uri(format!("http://{address}{target}")).body(Plain::default()).unwrap()
}

/// Sends a GET over a new connection, which the test can drop at any time.
async fn send_raw(address: &str, target: &str) -> TcpStream {
    let connection = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nhost: {address}\r\n\r\n");
    connection.writable().await.unwrap();
    assert_eq!(connection.try_write(request.as_bytes()).unwrap(), request.len());
    connection
}

#[tokio::test]
async fn hits_are_served_over_one_connection() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let handler = async move || {
        let call = count.fetch_add(1, Ordering::SeqCst) + 1;
        ([(header::ETAG, "\"v1\"")], format!("call {call}"))
    };
    let router = Router::new().route("/t/{table}", routing::get(handler)).layer(minute().cache_status("c"));
    let (address, connections) = serve(router).await;
    let client = client();
    for _ in 0..3 {
        let response = within(client.request(over_http(Method::GET, &address, "/t/a"))).await.unwrap();
        assert_eq!(response.headers()[header::CONTENT_LENGTH], "6");
        assert_eq!(within(text(response)).await, "call 1");
    }
    let head = within(client.request(over_http(Method::HEAD, &address, "/t/a"))).await.unwrap();
    assert_eq!(head.headers()[header::CONTENT_LENGTH], "6");
    assert!(head.headers()["cache-status"].to_str().unwrap().starts_with("c; hit"));
    assert_eq!(within(text(head)).await, "");

    let mut conditional = over_http(Method::GET, &address, "/t/a");
    conditional.headers_mut().insert(header::IF_NONE_MATCH, "\"v1\"".parse().unwrap());
    let response = within(client.request(conditional)).await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(response.headers()[header::ETAG], "\"v1\"");
    assert_eq!(within(text(response)).await, "");

    let mut changed = over_http(Method::GET, &address, "/t/a");
    changed.headers_mut().insert(header::IF_NONE_MATCH, "\"v0\"".parse().unwrap());
    let response = within(client.request(changed)).await.unwrap();
    assert_eq!((response.status(), within(text(response)).await.as_str()), (StatusCode::OK, "call 1"));
    assert_eq!((calls.load(Ordering::SeqCst), connections.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test]
async fn disconnect_during_the_body_costs_the_next_nothing() {
    let (source, body) = channel_body(None);
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let handler = async move || {
        count.fetch_add(1, Ordering::SeqCst);
        AxumBody::new(body.lock().unwrap().take().expect("only one call"))
    };
    let store = Memory::new(1 << 20);
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule()));
    let (address, _) = serve(Router::new().route("/t/{table}", routing::get(handler)).layer(cache)).await;

    let leaver = send_raw(&address, "/t/a").await;
    source.send("first part, ");
    let mut seen = Vec::new();
    while !seen.ends_with(b"first part, \r\n") {
        within(leaver.readable()).await.unwrap();
        let mut buffer = [0; 1024];
        match leaver.try_read(&mut buffer) {
            Ok(read) => {
                assert_ne!(read, 0, "the connection is still open");
                seen.extend_from_slice(&buffer[..read]);
            }
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
    drop(leaver);
    let client = client();
    let next = tokio::spawn(client.request(over_http(Method::GET, &address, "/t/a")));
    source.send("second part");
    drop(source);
    assert_eq!(within(text(within(next).await.unwrap().unwrap())).await, "first part, second part");
    assert_eq!((calls.load(Ordering::SeqCst), store.stats().stored), (1, 1));
}

#[tokio::test]
async fn disconnect_during_the_call_does_not_end_it() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let handler = async move || {
        let call = count.fetch_add(1, Ordering::SeqCst) + 1;
        wait.clone().wait_for(|go| *go).await.unwrap();
        format!("call {call}")
    };
    let (address, _) = serve(Router::new().route("/t/{table}", routing::get(handler)).layer(minute())).await;
    let leaver = send_raw(&address, "/t/a").await;
    eventually(|| calls.load(Ordering::SeqCst) == 1).await;
    drop(leaver);
    let next = tokio::spawn(client().request(over_http(Method::GET, &address, "/t/a")));
    go.send(true).unwrap();
    assert_eq!(within(text(within(next).await.unwrap().unwrap())).await, "call 1");
}

#[tokio::test]
async fn streamed_response_begins_over_http_before_it_ends() {
    let (source, body) = channel_body(None);
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let handler = async move || AxumBody::new(body.lock().unwrap().take().expect("only one call"));
    let (address, _) = serve(Router::new().route("/t/{table}", routing::get(handler)).layer(minute())).await;
    let response = within(client().request(over_http(Method::GET, &address, "/t/a"))).await.unwrap();
    let mut body = opened(response);
    source.send("one");
    assert_eq!(within(piece(&mut body)).await.unwrap().unwrap(), "one");
    source.send("two");
    drop(source);
    assert_eq!(within(piece(&mut body)).await.unwrap().unwrap(), "two");
    assert!(within(piece(&mut body)).await.is_none());
}
