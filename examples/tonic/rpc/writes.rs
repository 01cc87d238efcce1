//! Writes by gRPC: every read after the status of a write sees it.

use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::Code;
use tower_response_cache::Rule;

use super::{deadlines::until, *};

const PUT: &str = "/notes.v1.Notes/Put";
const CHAT: &str = "/notes.v1.Notes/Chat";

/// Serves a note that is read by `Get` and written by `Put` and `Chat`.
async fn start(write: Rule) -> (Notebook, ResponseCache, NotesClient<Channel>) {
    let notebook = Notebook::default();
    notebook.set("a", "old");
    let write = write.invalidates("notes");
    let cache = cache_of(Rule::rpc(MINUTE)).route(PUT, write.clone()).route(CHAT, write);
    let channel = serve(&cache, &notebook).await;
    (notebook, cache, NotesClient::new(channel))
}

#[tokio::test]
async fn read_after_a_write_is_right() {
    let (notebook, cache, mut client) = start(Rule::uncached()).await;
    for n in 0..20 {
        let text = format!("text {n}");
        client.put(note("a", &text)).await.expect("a response");
        assert_eq!((get(&mut client, "a").await, get(&mut client, "a").await), (text.clone(), text));
    }
    // One invalidation for each write, because the method has ended before its response.
    assert_eq!((notebook.gets(), cache.stats().invalidations), (20, 20));
}

#[tokio::test]
async fn status_decides_if_the_rule_keeps_entries_after_errors() {
    for (write, name, code, invalidations) in [
        (Rule::uncached(), "a", Code::InvalidArgument, 1),
        (Rule::uncached().skip_on_client_error(), "a", Code::InvalidArgument, 0),
        (Rule::uncached().skip_on_client_error(), "broken", Code::Internal, 1),
        (Rule::uncached().skip_on_error(), "broken", Code::Internal, 0),
    ] {
        let (_, cache, mut client) = start(write).await;
        let text = if name == "broken" { "text" } else { "" };
        assert_eq!(client.put(note(name, text)).await.expect_err("a status").code(), code);
        assert_eq!(cache.stats().invalidations, invalidations, "{name} {code}");
    }
}

#[tokio::test]
async fn write_with_a_rule_for_errors_invalidates_on_success() {
    let (_, cache, mut client) = start(Rule::uncached().skip_on_error()).await;
    assert_eq!(get(&mut client, "a").await, "old");
    client.put(note("a", "new")).await.expect("a response");
    assert_eq!((get(&mut client, "a").await.as_str(), cache.stats().invalidations), ("new", 1));
}

#[tokio::test]
async fn cancelled_write_invalidates_when_it_has_finished() {
    let (notebook, cache, mut client) = start(Rule::uncached()).await;
    let mut first = client.clone();
    let cancelled = tokio::spawn(async move { first.put(note("a", "slow text")).await });
    until("the write begins", || notebook.puts() == 1).await;
    cancelled.abort();
    assert!(cancelled.await.is_err());
    assert_eq!(get(&mut client, "a").await, "old", "stored during the write");
    notebook.slow.add_permits(1);
    until("the write is finished", || cache.stats().invalidations == 1).await;
    assert_eq!(get(&mut client, "a").await, "slow text");
}

#[tokio::test]
async fn end_of_a_writing_stream_invalidates_its_last_change() {
    let (_, _, mut client) = start(Rule::uncached()).await;
    let (sender, receiver) = mpsc::channel(1);
    let mut heard = client.chat(ReceiverStream::new(receiver)).await.expect("a stream").into_inner();
    assert_eq!(get(&mut client, "a").await, "old", "stored while the stream is open");
    sender.send(note("a", "new")).await.expect("open");
    assert_eq!(heard.next().await.expect("a message").expect("no error").text, "new");
    drop(sender);
    assert!(heard.next().await.is_none(), "the status has arrived");
    assert_eq!(get(&mut client, "a").await, "new");
}

#[tokio::test]
async fn abandoned_writing_stream_invalidates() {
    let (_, cache, mut client) = start(Rule::uncached()).await;
    let (sender, receiver) = mpsc::channel(1);
    let mut heard = client.chat(ReceiverStream::new(receiver)).await.expect("a stream").into_inner();
    sender.send(note("a", "new")).await.expect("open");
    assert_eq!(heard.next().await.expect("a message").expect("no error").text, "new");
    let before = cache.stats().invalidations;
    drop((sender, heard));
    until("the end invalidates", || cache.stats().invalidations > before).await;
    assert_eq!(get(&mut client, "a").await, "new");
}
