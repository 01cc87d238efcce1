//! The cache around the channel of a client.

use tower::{ServiceBuilder, util::MapRequestLayer};
use tower_response_cache::{Memory, ResponseCache, Rule, request_body::ReadBody};

use super::*;

#[tokio::test]
async fn cache_around_a_channel_answers_without_the_server() {
    let notebook = Notebook::default();
    notebook.set("a", "text");
    let channel = serve(&ResponseCache::new(Memory::default()), &notebook).await;
    let cache = cache_of(Rule::rpc(MINUTE).rpc_status(5, MINUTE));
    let cached = ServiceBuilder::new()
        .layer(cache.layer_with_request_bodies())
        .layer(MapRequestLayer::new(|request: Request<ReadBody<Body>>| request.map(Body::new)))
        .service(channel.clone());
    let mut client = NotesClient::new(cached.clone());
    for _ in 0..3 {
        let found = client.get(name("a")).await.expect("a note");
        assert_eq!(
            (found.metadata().get("x-call").expect("metadata").as_bytes(), found.get_ref().text.as_str()),
            (&b"1"[..], "text")
        );
        let lost = client.get(name("lost")).await.expect_err("a status");
        assert_eq!((lost.message(), lost.details()), ("call 2", &b"\x01\x02"[..]));
    }
    assert_eq!((notebook.gets(), cache.stats().hits), (2, 4), "{}", cache.stats());
}

#[tokio::test]
async fn stream_through_a_cached_channel_arrives_as_it_is_sent() {
    let notebook = Notebook::default();
    notebook.set("a", "first");
    let channel = serve(&ResponseCache::new(Memory::default()), &notebook).await;
    let cache = ResponseCache::new(Memory::default()).route("/notes.v1.Notes/{method}", Rule::rpc(MINUTE));
    let cached = ServiceBuilder::new()
        .layer(cache.layer_with_request_bodies())
        .layer(MapRequestLayer::new(|request: Request<ReadBody<Body>>| request.map(Body::new)))
        .service(channel);
    let mut client = NotesClient::new(cached);
    let mut watch = client.watch(name("a")).await.expect("a stream").into_inner();
    assert_eq!(watch.message().await.expect("no error").expect("a message").text, "first");
    tokio::time::sleep(Duration::from_millis(200)).await;
    notebook.set("a", "second");
    assert_eq!(watch.message().await.expect("no error").expect("a message").text, "second");
    assert_eq!(cache.stats().stored, 0);
}
