//! Requests that wait for the response to an equal query, while a mutation changes its data.

use tokio::task::JoinHandle;
use tower::buffer::Buffer;
use tower_response_cache::request_body::ReadBody;
use tower_test::mock;

use super::*;

type Calls = mock::Handle<Request<ReadBody<Plain>>, Response<ChannelBody>>;

/// Waits for the next call of the server.
async fn next_call(calls: &mut Calls) -> mock::SendResponse<Response<ChannelBody>> {
    within(calls.next_request()).await.expect("a call").1
}

/// Returns the head of a response, and the source of its body.
fn head() -> (Response<ChannelBody>, BodySource) {
    let (mut response, source) = channel_response(None);
    response.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().expect("a value"));
    response.headers_mut().insert("cache-namespaces", "notes".parse().expect("a value"));
    response.headers_mut().insert("cache-invalidates", "notes".parse().expect("a value"));
    (response, source)
}

fn data(version: &str) -> String {
    json!({ "data": { "note": { "__typename": "Note", "id": 1, "version": version } } }).to_string()
}

fn answer(call: mock::SendResponse<Response<ChannelBody>>, version: &str) {
    let (head, source) = head();
    call.send_response(head);
    source.send(data(version));
}

#[tokio::test]
async fn follower_after_a_mutation_never_gets_the_older_response() {
    let by_header = Rule::graphql(MINUTE).namespaces_from_header("cache-namespaces");
    for rule in [
        Rule::graphql(MINUTE).graphql_entities(),
        Rule::graphql(MINUTE).namespace("notes"),
        by_header.invalidates_from_header("cache-invalidates"),
    ] {
        for has_head in [false, true] {
            let (server, mut calls) = mock::pair();
            let cache = ResponseCache::new(Memory::default()).route("/graphql", rule.clone());
            let service = ServiceBuilder::new().layer(cache.layer_with_request_bodies()).service(Buffer::new(server, 8));
            let send = |document: &str| -> JoinHandle<(Outcome, String)> {
                let (service, request) = (service.clone(), query(document));
                tokio::spawn(async move {
                    let response = service.oneshot(request).await.expect("a response");
                    (outcome(&response), text(response).await)
                })
            };
            let leader = send(NOTES);
            let older = next_call(&mut calls).await;
            let (older_head, older_body) = head();
            let mut waits = Some((older, older_head));
            if has_head && let Some((older, head)) = waits.take() {
                older.send_response(head);
            }
            let mutation = send(ADD);
            answer(next_call(&mut calls).await, "newer");
            mutation.await.expect("the mutation ends");
            // From here on, a client may rely on the change.
            let follower = send(NOTES);
            for _ in 0..64 {
                tokio::task::yield_now().await;
            }
            if let Some((older, head)) = waits.take() {
                older.send_response(head);
            }
            older_body.send(data("older"));
            drop(older_body);
            answer(next_call(&mut calls).await, "newer");
            assert_eq!(leader.await.expect("the leader ends").1, data("older"));
            assert_eq!(follower.await.expect("the follower ends").1, data("newer"));
            assert_eq!(send(NOTES).await.expect("a hit"), (Outcome::Hit, data("newer")));
        }
    }
}

/// Without a mutation, one call serves both.
#[tokio::test]
async fn follower_gets_the_complete_response_of_its_leader() {
    let (server, mut calls) = mock::pair();
    let cache = ResponseCache::new(Memory::default()).route("/graphql", Rule::graphql(MINUTE).graphql_entities());
    let service = ServiceBuilder::new().layer(cache.layer_with_request_bodies()).service(Buffer::new(server, 8));
    let send = || tokio::spawn(service.clone().oneshot(query(NOTES)));
    let leader = send();
    let call = next_call(&mut calls).await;
    let follower = send();
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
    answer(call, "only");
    assert_eq!(text(leader.await.expect("a task").expect("a response")).await, data("only"));
    assert_eq!(text(follower.await.expect("a task").expect("a response")).await, data("only"));
}
