//! Hits: which calls share a response, and that it is the response of the method bit for bit.

use tonic::{Code, codec::CompressionEncoding};
use tower_response_cache::{
    Identity, KeyExtractor, Memory, ResponseCache, RouteAndQuery, Rule,
    key::Headers,
    status::{Bypass, NoStore},
};

use super::*;

#[tokio::test]
async fn hit_is_the_response_of_the_method_bit_for_bit() {
    let notebook = Notebook::default();
    notebook.set("a", "text of a");
    let cache = cache_of(Rule::rpc(MINUTE).rpc_status(Code::NotFound, MINUTE));
    let channel = serve(&cache, &notebook).await;
    for body in [frame(&name("a")), frame(&name("lost")), frame(&name("unknown"))] {
        let before = notebook.gets();
        let miss = call(&channel, GET, body.clone(), &[]).await;
        let hit = call(&channel, GET, body, &[]).await;
        assert_eq!(miss, hit);
        assert_eq!(notebook.gets(), before + 1);
    }
    assert_eq!((cache.stats().hits, cache.stats().stored), (3, 3), "{}", cache.stats());
    let hit = call(&channel, GET, frame(&name("a")), &[]).await;
    assert_eq!(hit.trailers, Some(vec![("grpc-status".into(), b"0".to_vec())]));
    assert_eq!(hit.headers["x-call"], "1");
}

#[tokio::test]
async fn hit_shows_its_age_if_the_rule_says_so() {
    let notebook = Notebook::default();
    notebook.set("a", "text");
    let channel = serve(&cache_of(Rule::rpc(MINUTE).rpc_age()), &notebook).await;
    assert!(!call(&channel, GET, frame(&name("a")), &[]).await.headers.contains_key("age"));
    assert_eq!(call(&channel, GET, frame(&name("a")), &[]).await.headers["age"], "0");
}

#[tokio::test]
async fn calls_that_differ_in_anything_but_time_share_nothing() {
    let notebook = Notebook::default();
    notebook.set("a", "text of a");
    notebook.set("b", "text of b");
    let rule = Rule::rpc(MINUTE).key(RouteAndQuery.and(Headers::new(["x-tenant"])));
    let channel = serve(&cache_of(rule), &notebook).await;
    let different: [(_, &[(&str, &str)]); 6] = [
        ("a", &[]),
        ("b", &[]),
        ("a", &[("x-tenant", "one")]),
        ("a", &[("x-tenant", "two")]),
        ("a", &[("grpc-accept-encoding", "gzip")]),
        ("a", &[("grpc-encoding", "identity")]),
    ];
    for (n, (of, fields)) in different.into_iter().enumerate() {
        call(&channel, GET, frame(&name(of)), fields).await;
        assert_eq!(notebook.gets(), n + 1, "{of} {fields:?}");
    }
    for fields in [[("grpc-timeout", "9S")], [("user-agent", "another")], [("x-request-id", "7")]] {
        call(&channel, GET, frame(&name("a")), &fields).await;
    }
    assert_eq!(notebook.gets(), 6);
}

#[tokio::test]
async fn errors_are_stored_only_with_a_lifetime_for_their_status() {
    let notebook = Notebook::default();
    let cache = cache_of(Rule::rpc(MINUTE).rpc_status(5, MINUTE).rpc_status(Code::Aborted, MINUTE));
    let mut client = NotesClient::new(serve(&cache, &notebook).await);
    let mut message = async |of: &str| {
        let status = client.get(name(of)).await.expect_err("a status");
        (status.code(), status.message().to_owned())
    };
    for _ in 0..2 {
        assert_eq!(message("unknown").await, (Code::NotFound, "call 1".into()));
    }
    assert_eq!(message("broken").await, (Code::Internal, "call 2".into()));
    assert_eq!(message("broken").await, (Code::Internal, "call 3".into()));
    assert!(cache.stats().not_stored.contains(&(NoStore::RpcStatus, 2)), "{}", cache.stats());
}

#[tokio::test]
async fn methods_that_no_rule_lists_are_not_cached() {
    let notebook = Notebook::default();
    notebook.set("a", "text");
    let cache = ResponseCache::new(Memory::default()).route("/notes.v1.Notes/Count", Rule::rpc(MINUTE));
    let mut client = NotesClient::new(serve(&cache, &notebook).await);
    get(&mut client, "a").await;
    get(&mut client, "a").await;
    assert_eq!((notebook.gets(), cache.stats().stored), (2, 0));
}

#[tokio::test]
async fn compressed_calls_have_entries_of_their_own() {
    let notebook = Notebook::default();
    notebook.set("a", &"compressible ".repeat(100));
    let channel = serve(&cache_of(Rule::rpc(MINUTE)), &notebook).await;
    let plain = NotesClient::new(channel.clone());
    let accepts = NotesClient::new(channel.clone()).accept_compressed(CompressionEncoding::Gzip);
    let both = accepts.clone().send_compressed(CompressionEncoding::Gzip);
    for (n, mut client) in [plain, accepts, both].into_iter().enumerate() {
        for _ in 0..2 {
            assert_eq!(get(&mut client, "a").await, "compressible ".repeat(100));
            assert_eq!(notebook.gets(), n + 1);
        }
    }
    let fields = [("grpc-accept-encoding", "gzip")];
    let (miss, hit) =
        (call(&channel, GET, frame(&name("a")), &fields).await, call(&channel, GET, frame(&name("a")), &fields).await);
    assert_eq!(miss, hit);
    assert_eq!((hit.headers["grpc-encoding"].as_bytes(), hit.body[0]), (&b"gzip"[..], 1));
}

#[tokio::test]
async fn credentials_need_an_identity_in_the_key() {
    let notebook = Notebook::default();
    notebook.set("a", "text");
    let cache = cache_of(Rule::rpc(MINUTE));
    let channel = serve(&cache, &notebook).await;
    for _ in 0..2 {
        call(&channel, GET, frame(&name("a")), &[("authorization", "Bearer one")]).await;
    }
    assert!(cache.stats().bypasses.contains(&(Bypass::Credentials, 2)), "{}", cache.stats());
    let channel = serve(&cache_of(Rule::rpc(MINUTE).identity(Identity::bearer())), &notebook).await;
    for (token, gets) in [("Bearer one", 3), ("Bearer one", 3), ("Bearer two", 4)] {
        call(&channel, GET, frame(&name("a")), &[("authorization", token)]).await;
        assert_eq!(notebook.gets(), gets, "{token}");
    }
}

#[tokio::test]
async fn large_messages_pass_uncached() {
    let notebook = Notebook::default();
    notebook.set("a", &"x".repeat(2 << 20));
    let cache = cache_of(Rule::rpc(MINUTE).max_request_body(100));
    let mut client = NotesClient::new(serve(&cache, &notebook).await);
    for _ in 0..2 {
        assert_eq!(get(&mut client, "a").await.len(), 2 << 20);
    }
    assert_eq!((notebook.gets(), cache.stats().stored), (2, 0));
    let long = client.get(name(&"n".repeat(200))).await.expect_err("no such note");
    assert_eq!(long.code(), Code::NotFound);
    assert!(cache.stats().bypasses.contains(&(Bypass::RequestBodyTooLarge, 1)), "{}", cache.stats());
}

#[tokio::test]
async fn requests_without_exactly_one_message_pass_uncached() {
    let notebook = Notebook::default();
    notebook.set("a", "text");
    let cache = cache_of(Rule::rpc(MINUTE));
    let channel = serve(&cache, &notebook).await;
    let one = frame(&name("a"));
    let kind = ("content-type", "text/plain");
    let bodies = [Bytes::new(), one.slice(..3), [&one[..], &one].concat().into(), [&one[..], b"\0"].concat().into()];
    for body in bodies {
        call(&channel, GET, body, &[]).await;
    }
    call(&channel, GET, one, &[kind]).await;
    assert!(cache.stats().bypasses.contains(&(Bypass::NotUnary, 5)), "{}", cache.stats());
}
