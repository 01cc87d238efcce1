//! Namespaces and lifetimes of entries, from the requests and the responses of reads.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tower_response_cache::{CachePolicy, CacheTags, Clock, Rule};

use super::*;

fn post(content: &'static str) -> Request<Plain> {
    request(Method::POST, "/notes", "text/plain", content)
}

pub(super) fn notes(rule: Rule) -> Rules {
    Rules::new().route("/notes", rule)
}

fn by_request() -> Rule {
    Rule::ttl(MINUTE).reads_by_post().namespaces_from_request(|request| named(request.bytes()))
}

#[tokio::test]
async fn request_names_the_namespaces_of_its_entry() {
    let app = App::new(notes(by_request()), |content, call| response("text/plain", format!("{content} {call}")));
    for name in ["a", "b", "a", "b"] {
        app.read(post(name)).await;
    }
    assert_eq!(app.calls(), 2);
    app.cache.invalidate(["note:a"]).await.unwrap();
    assert_eq!(app.read(post("a")).await.1, "a 3");
    assert_eq!(app.read(post("b")).await, (Outcome::Hit, "b 2".into()));
}

#[tokio::test]
async fn response_to_an_unreadable_request_is_not_stored() {
    let app = App::new(notes(by_request()), |content, _| response("text/plain", content.to_owned()));
    assert_eq!(app.refusal(post("bad")).await, Some(NoStore::ContentUnreadable));
    // A GET has no message, so that its namespaces are not known.
    assert_eq!(app.refusal(get("/notes")).await, Some(NoStore::ContentUnreadable));
    assert_eq!(app.refusal(get("/notes?message=a&encoding=json")).await, Some(NoStore::ContentUnreadable));
    assert_eq!(app.refusal(post("good")).await, None);
    assert!(app.is_hit(post("good")).await);
}

#[tokio::test]
async fn response_names_namespaces_and_lifetime() {
    let clock = Clock::manual();
    let rule = Rule::ttl(MINUTE).namespace("notes").policy_from_response(|response| {
        let text = std::str::from_utf8(response.bytes())?;
        let (name, seconds) = text.split_once(' ').ok_or("no lifetime")?;
        Ok(CachePolicy::new().namespace(Namespace::of(["note", name])).ttl(Duration::from_secs(seconds.parse()?)))
    });
    let answer = Arc::new(Mutex::new("a 10"));
    let current = answer.clone();
    let (inner, calls) = answering(move |_, _| response("text/plain", *current.lock().unwrap()));
    let cache = ResponseCache::new(Memory::builder().clock(clock.clone()).build()).rules(notes(rule));
    let service = ServiceBuilder::new().layer(cache.layer_with_request_bodies()).service(inner);
    let calls_after = async |n: usize| {
        for _ in 0..n {
            text(service.clone().oneshot(get("/notes")).await.unwrap()).await;
        }
        calls.load(Ordering::SeqCst)
    };
    assert_eq!(calls_after(2).await, 1);
    clock.advance(Duration::from_secs(9));
    assert_eq!(calls_after(1).await, 1);
    clock.advance(Duration::from_secs(1));
    assert_eq!(calls_after(2).await, 2);
    for (name, misses) in [("note:b", 0), ("note:a", 1), ("notes", 1)] {
        let before = calls.load(Ordering::SeqCst);
        cache.invalidate([name]).await.unwrap();
        assert_eq!(calls_after(1).await - before, misses, "{name}");
    }
    for (text, expected) in [("a 0", NoStore::Lifetime), ("a", NoStore::ContentUnreadable)] {
        *answer.lock().unwrap() = text;
        cache.invalidate(["notes"]).await.unwrap();
        let response = service.clone().oneshot(get("/notes")).await.unwrap();
        let status = CacheStatus::of(&response).unwrap().stored();
        assert_eq!(status, Some(Storing::Not(expected)), "{text}");
    }
}

#[tokio::test]
async fn policy_may_forbid_storing_and_sees_status_fields_and_parameters() {
    let rule = Rule::ttl(MINUTE).policy_from_response(|response| {
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/plain");
        assert_eq!(response.status().unwrap().as_u16(), 404);
        match response.param("name") {
            "a b" => Ok(CachePolicy::no_store()),
            _ => Ok(CachePolicy::new()),
        }
    });
    let app = App::new(Rules::new().route("/notes/{name}", rule), |_, _| {
        let mut response = response("text/plain", "none");
        *response.status_mut() = http::StatusCode::NOT_FOUND;
        response
    });
    assert_eq!(app.refusal(get("/notes/a%20b")).await, Some(NoStore::NoStore));
    assert_eq!(app.refusal(get("/notes/a")).await, None);
}

#[tokio::test]
async fn too_many_namespaces_in_a_response_are_not_stored() {
    let rule = Rule::ttl(MINUTE).policy_from_response(|_| {
        Ok((0..1000).fold(CachePolicy::new(), |policy, n: usize| policy.namespace(Namespace::of([n.to_string()]))))
    });
    let app = App::new(notes(rule), |_, _| response("text/plain", "x"));
    assert_eq!(app.refusal(get("/notes")).await, Some(NoStore::Namespaces));
}

/// A request that waits for a response gets it only when its namespaces are known: it may be invalidated until then.
#[tokio::test]
async fn response_is_shared_when_it_is_complete() {
    let rule = Rule::ttl(MINUTE).policy_from_response(|response| {
        Ok(named(response.bytes())?.into_iter().fold(CachePolicy::new(), CachePolicy::namespace))
    });
    let (inner, mut handle) = held();
    let cache = ResponseCache::new(Memory::default()).rules(notes(rule));
    let service = ServiceBuilder::new().layer(cache.layer()).service(inner);
    let mut leader = begin(&service, get("/notes")).await;
    let (_, answer) = next_call(&mut handle).await;
    let mut follower = begin(&service, get("/notes")).await;
    let (head, source) = channel_response(None);
    answer.send_response(head);
    let led = leader.as_mut().await.unwrap();
    source.send("a");
    assert!(poll_once(&mut follower).is_pending());
    // The value changes while its response is read.
    cache.invalidate(["note:a"]).await.unwrap();
    drop(source);
    assert_eq!(text(led).await, "a");
    let (_, answer) = within(async {
        tokio::select! {
            call = next_call(&mut handle) => call,
            _ = &mut follower => panic!("the outdated response was shared"),
        }
    })
    .await;
    let (head, source) = channel_response(None);
    answer.send_response(head);
    source.send("b");
    drop(source);
    assert_eq!(text(follower.await.unwrap()).await, "b");
}

#[tokio::test]
async fn call_by_rpc_is_read_without_its_frame() {
    let rule = Rule::rpc(MINUTE)
        .rpc_status(5, MINUTE)
        .namespaces_from_request(|request| named(request.bytes()))
        .policy_from_response(|response| Ok(CachePolicy::new().namespace(named(response.bytes())?.remove(0))));
    let app = App::new(notes(rule), |content, _| match &content[5..] {
        "none" => Response::builder().header("grpc-status", "5").body(BoxBody::default()).unwrap(),
        name => call_response(&name.to_uppercase(), "0"),
    });
    let call = |name: &str| request(Method::POST, "/notes", GRPC, frame(name));
    for name in ["a", "none"] {
        app.read(call(name)).await;
        assert!(app.is_hit(call(name)).await, "{name}");
    }
    for (invalidated, name) in [("note:a", "a"), ("note:A", "a"), ("note:none", "none")] {
        app.cache.invalidate([invalidated]).await.unwrap();
        assert!(!app.is_hit(call(name)).await, "{invalidated}");
        assert!(app.is_hit(call(name)).await, "{invalidated}");
    }
    assert_eq!(app.refusal(call("bad")).await, Some(NoStore::ContentUnreadable));
}

#[tokio::test]
async fn get_of_connect_has_its_message_in_the_query() {
    let rule = Rule::rpc(MINUTE).namespaces_from_request(|request| named(request.bytes()));
    let app = App::new(notes(rule), |_, _| response("application/proto", "x"));
    let call = || get("/notes?connect=v1&encoding=proto&base64=1&message=YQ");
    app.read(call()).await;
    assert!(app.is_hit(call()).await);
    app.cache.invalidate(["note:a"]).await.unwrap();
    assert!(!app.is_hit(call()).await);
    assert_eq!(app.refusal(get("/notes?encoding=proto")).await, Some(NoStore::ContentUnreadable));
}

#[tokio::test]
async fn revalidated_response_keeps_the_lifetime_of_its_message() {
    let clock = Clock::manual();
    let rule = Rule::http().policy_from_response(|response| {
        assert_eq!(response.bytes(), b"a");
        Ok(CachePolicy::new().ttl(Duration::from_secs(10)))
    });
    let service = service_fn(async |request: Request<ReadBody<Plain>>| {
        let mut response = response("text/plain", "a");
        if request.headers().contains_key(header::IF_NONE_MATCH) {
            (*response.status_mut(), *response.body_mut()) = (http::StatusCode::NOT_MODIFIED, BoxBody::default());
        }
        response.headers_mut().insert(header::ETAG, "\"1\"".parse().unwrap());
        response.headers_mut().insert(header::CACHE_CONTROL, "max-age=100".parse().unwrap());
        Ok::<_, Infallible>(response)
    });
    let cache = ResponseCache::new(Memory::builder().clock(clock.clone()).build()).rules(notes(rule));
    let service = ServiceBuilder::new().layer(cache.layer_with_request_bodies()).service(service);
    let mut outcomes = Vec::new();
    for _ in 0..5 {
        let response = service.clone().oneshot(get("/notes")).await.unwrap();
        outcomes.push(outcome(&response));
        assert_eq!(text(response).await, "a");
        clock.advance(Duration::from_secs(6));
    }
    let miss = Outcome::Miss(tower_response_cache::status::Miss::Absent);
    assert_eq!(outcomes, [miss, Outcome::Hit, Outcome::Revalidated, Outcome::Hit, Outcome::Revalidated]);
}

/// The namespaces of a response are not known when its head is sent, and a CDN could not purge it.
#[tokio::test]
async fn cdn_stores_only_responses_whose_namespaces_are_known() {
    let rule =
        Rule::ttl(MINUTE).policy_from_response(|response| Ok(CachePolicy::new().namespace(named(response.bytes())?.remove(0))));
    let cache = ResponseCache::new(Memory::default()).rules(notes(rule)).cache_tags(CacheTags::cloudflare());
    let (inner, _) = answering(|_, _| response("text/plain", "a"));
    let service = ServiceBuilder::new().layer(cache.layer_with_request_bodies()).service(inner);
    for (tags, control) in [(None, Some("private, no-store")), (Some("%2A,note,note:a"), None)] {
        let response = service.clone().oneshot(get("/notes")).await.unwrap();
        let field = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!((field("cache-tag").as_deref(), field("cache-control").as_deref()), (tags, control));
        text(response).await;
    }
}
