//! Streaming methods beside cached ones, under one rule for the whole service.

use std::time::Instant;

use tokio::{sync::mpsc, time::timeout};
use tokio_stream::{StreamExt, iter, wrappers::ReceiverStream};
use tower_response_cache::{
    Memory, ResponseCache, Rule,
    status::{Miss, NoStore},
};

use super::*;

fn cache() -> ResponseCache {
    ResponseCache::new(Memory::default()).route("/notes.v1.Notes/{method}", Rule::rpc(MINUTE).namespace("notes"))
}

/// The time in which a message arrives that nothing holds.
const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn messages_of_a_server_stream_arrive_as_they_are_sent() {
    let (notebook, cache) = (Notebook::default(), cache());
    notebook.set("a", "first");
    let mut client = NotesClient::new(serve(&cache, &notebook).await);
    for _ in 0..2 {
        let mut watch = client.watch(name("a")).await.expect("a stream").into_inner();
        let next = timeout(SOON, watch.message()).await.expect("in time").expect("no error").expect("a message");
        assert_eq!(next.text, "first");
        for text in ["second", "first"] {
            notebook.set("a", text);
            let next = timeout(SOON, watch.message()).await.expect("in time").expect("no error").expect("a message");
            assert_eq!(next.text, text);
        }
    }
    assert_eq!((cache.stats().hits, cache.stats().stored), (0, 0), "{}", cache.stats());
    assert!(cache.stats().not_stored.contains(&(NoStore::NotUnary, 2)), "{}", cache.stats());
    // A unary method of the service is cached.
    assert_eq!((get(&mut client, "a").await, get(&mut client, "a").await), ("first".into(), "first".into()));
    assert_eq!((notebook.gets(), cache.stats().hits), (1, 1));
}

#[tokio::test]
async fn watchers_of_one_name_do_not_wait_for_each_other() {
    let (notebook, cache) = (Notebook::default(), cache());
    notebook.set("a", "text");
    let client = NotesClient::new(serve(&cache, &notebook).await);
    let began = Instant::now();
    let watch = || {
        let mut client = client.clone();
        async move {
            let mut watch = client.watch(name("a")).await.expect("a stream").into_inner();
            let first = watch.message().await.expect("no error").expect("a message");
            (first.text, watch)
        }
    };
    let (one, other) = tokio::join!(watch(), watch());
    assert_eq!((one.0.as_str(), other.0.as_str()), ("text", "text"));
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    let stats = cache.stats();
    assert!(stats.misses.contains(&(Miss::NotShared, 1)) || stats.misses.contains(&(Miss::HitForMiss, 1)), "{stats}");
}

#[tokio::test]
async fn client_stream_passes() {
    let (notebook, cache) = (Notebook::default(), cache());
    let mut client = NotesClient::new(serve(&cache, &notebook).await);
    for _ in 0..2 {
        let size = client.count(iter([note("a", "12"), note("b", "345")])).await.expect("a size").into_inner();
        assert_eq!(size.characters, 5);
    }
    assert_eq!(cache.stats().stored, 0);
}

#[tokio::test]
async fn both_sides_of_a_stream_can_wait_for_each_other() {
    let (notebook, cache) = (Notebook::default(), cache());
    let mut client = NotesClient::new(serve(&cache, &notebook).await);
    let (sender, receiver) = mpsc::channel(1);
    let said = ReceiverStream::new(receiver);
    sender.send(note("a", "first")).await.expect("open");
    let mut heard = timeout(SOON, client.chat(said)).await.expect("in time").expect("a stream").into_inner();
    for text in ["second", "third"] {
        let next = timeout(SOON, heard.next()).await.expect("in time").expect("a message").expect("no error");
        assert_ne!(next.text, text);
        sender.send(note("a", text)).await.expect("open");
    }
    drop(sender);
    assert_eq!(timeout(SOON, heard.next()).await.expect("in time").expect("a message").expect("no error").text, "third");
    assert!(timeout(SOON, heard.next()).await.expect("in time").is_none());
}
