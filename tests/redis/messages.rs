//! Namespaces from messages over a store that two processes share.

use http::{Method, Request, header};
use tower_response_cache::{
    CachePolicy, Namespace, Outcome, Redis, ResponseCache, Rule, Rules, message::MessageView, redis::Coherence,
};

use crate::{
    common::{
        app,
        redis::{Server, until},
        *,
    },
    setup::store,
};

type Process = app::App<Plain>;

fn name(message: &MessageView<'_>) -> Result<Namespace, tower_response_cache::BoxError> {
    Ok(Namespace::of(["note", std::str::from_utf8(message.bytes())?]))
}

/// Returns rules whose namespaces come from the requests, or from the responses, which repeat the content of their requests.
fn rules(by_response: bool) -> Rules {
    let (read, write) = (Rule::ttl(MINUTE).reads_by_post(), Rule::uncached());
    let (read, write) = match by_response {
        true => (
            read.policy_from_response(|message| Ok(CachePolicy::new().namespace(name(message)?))),
            write.invalidates_from_response(|message| Ok(vec![name(message)?])),
        ),
        false => (
            read.namespaces_from_request(|message| Ok(vec![name(message)?])),
            write.invalidates_from_request(|message| Ok(vec![name(message)?])),
        ),
    };
    Rules::new().route("/read", read).route("/write", write)
}

fn process(store: Redis, rules: Rules) -> Process {
    Process::around(ResponseCache::new(store).rules(rules), |content, _| ok(content.to_owned()))
}

fn request(target: &str, content: &'static str) -> Request<Plain> {
    let request = Request::builder().method(Method::POST).uri(target).header(header::CONTENT_TYPE, "text/plain");
    request.body(Plain::from(content)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn write_invalidates_by_its_message_in_both_processes() {
    let server = Server::start().await;
    for by_response in [false, true] {
        for coherence in [Coherence::Validated, Coherence::Leased] {
            let prefix = format!("{by_response}{coherence:?}");
            let one = process(store(&server, &prefix, coherence, true).await, rules(by_response));
            let other = process(store(&server, &prefix, coherence, true).await, rules(by_response));
            for note in ["a", "b"] {
                until("a hit", async || one.is_hit(request("/read", note)).await).await;
                assert!(other.is_hit(request("/read", note)).await, "{prefix} {note}");
            }
            one.send(request("/write", "a")).await;
            let is_seen = async || !other.is_hit(request("/read", "a")).await;
            match coherence {
                Coherence::Validated => assert!(is_seen().await, "{prefix}"),
                _ => until("the write is seen", is_seen).await,
            }
            for process in [&one, &other] {
                assert!(process.is_hit(request("/read", "b")).await, "{prefix}");
            }
        }
    }
}

/// The message of a write could not be read, so that everything is invalidated, in all processes.
#[tokio::test(flavor = "multi_thread")]
async fn unreadable_write_invalidates_everything_everywhere() {
    let server = Server::start().await;
    let one = process(store(&server, "p", Coherence::Validated, true).await, rules(false));
    let other = process(store(&server, "p", Coherence::Validated, true).await, rules(false));
    until("a hit", async || one.is_hit(request("/read", "a")).await).await;
    assert!(other.is_hit(request("/read", "a")).await);
    let mut unreadable = request("/write", "");
    *unreadable.body_mut() = Plain::from(&b"\xff"[..]);
    one.send(unreadable).await;
    assert_ne!(other.read(request("/read", "a")).await.0, Outcome::Hit);
    assert_eq!(one.cache.stats().unread_writes, 1);
}
