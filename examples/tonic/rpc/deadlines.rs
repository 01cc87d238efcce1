//! Deadlines and cancelled calls.

use tokio::time::timeout;
use tonic::{Code, Request};
use tower_response_cache::Rule;

use super::*;

/// Waits until a condition is true.
pub(crate) async fn until(what: &str, is_true: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if is_true() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what}");
}

fn with_deadline(of: &str, limit: Duration) -> Request<GetRequest> {
    let mut request = Request::new(name(of));
    request.set_timeout(limit);
    request
}

#[tokio::test]
async fn follower_gets_its_own_deadline() {
    let notebook = Notebook::default();
    notebook.set("slow", "text");
    let mut client = NotesClient::new(serve(&cache_of(Rule::rpc(MINUTE)), &notebook).await);
    let mut first = client.clone();
    let leader = tokio::spawn(async move { first.get(name("slow")).await });
    until("the leader calls", || notebook.gets() == 1).await;
    let late = client.get(with_deadline("slow", Duration::from_millis(50))).await.expect_err("no response in time");
    assert!(matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled), "{late:?}");
    notebook.slow.add_permits(1);
    let found = leader.await.expect("no panic").expect("a note");
    assert_eq!((found.into_inner().text.as_str(), notebook.gets()), ("text", 1));
}

/// The cache answers with the status of the deadline, so that it also holds where no server enforces it.
#[tokio::test]
async fn deadline_of_a_follower_is_a_status() {
    let notebook = Notebook::default();
    notebook.set("slow", "text");
    let cache = cache_of(Rule::rpc(MINUTE));
    let service =
        tower::ServiceBuilder::new().layer(cache.layer_with_request_bodies()).service(NotesServer::new(notebook.clone()));
    let request = |limit: Option<&'static str>| {
        let mut request = http::Request::post(GET).header("content-type", "application/grpc").header("te", "trailers");
        if let Some(limit) = limit {
            request = request.header("grpc-timeout", limit);
        }
        request.body(Body::new(Full::new(frame(&name("slow"))))).expect("a request")
    };
    let leader = tokio::spawn(service.clone().oneshot(request(None)));
    until("the leader calls", || notebook.gets() == 1).await;
    let late = service.clone().oneshot(request(Some("20m"))).await.expect("a response");
    assert_eq!(
        (late.headers()["grpc-status"].as_bytes(), late.headers()["content-type"].as_bytes()),
        (&b"4"[..], &b"application/grpc"[..])
    );
    notebook.slow.add_permits(1);
    let found = leader.await.expect("no panic").expect("a response").into_body().collect().await.expect("a body");
    assert_eq!(found.trailers().expect("trailers")["grpc-status"], "0");
}

#[tokio::test]
async fn short_deadline_of_a_leader_does_not_hurt_its_followers() {
    let notebook = Notebook::default();
    notebook.set("slow", "text");
    let mut client = NotesClient::new(serve(&cache_of(Rule::rpc(MINUTE)), &notebook).await);
    let mut first = client.clone();
    let leader = tokio::spawn(async move { first.get(with_deadline("slow", Duration::from_millis(100))).await });
    until("the leader calls", || notebook.gets() == 1).await;
    let follower = tokio::spawn(async move { client.get(name("slow")).await });
    leader.await.expect("no panic").expect_err("no response in time");
    notebook.slow.add_permits(2);
    let found = timeout(Duration::from_secs(10), follower).await.expect("in time").expect("no panic");
    assert_eq!(found.expect("a note").into_inner().text, "text");
}

#[tokio::test]
async fn response_of_a_cancelled_call_is_stored() {
    let notebook = Notebook::default();
    notebook.set("slow", "text");
    let cache = cache_of(Rule::rpc(MINUTE));
    let mut client = NotesClient::new(serve(&cache, &notebook).await);
    let mut first = client.clone();
    let cancelled = tokio::spawn(async move { first.get(name("slow")).await });
    until("the call begins", || notebook.gets() == 1).await;
    cancelled.abort();
    notebook.slow.add_permits(1);
    until("the response is stored", || cache.stats().stored == 1).await;
    assert_eq!((get(&mut client, "slow").await.as_str(), notebook.gets()), ("text", 1));
}
