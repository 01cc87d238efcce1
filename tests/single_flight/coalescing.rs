//! One call for all requests of a key, and one for each variant.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::{
    common::*,
    setup::{CROWD, layer, memory, with_manual_clock},
};
use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body_util::Full;
use tokio::{
    sync::{Barrier, Semaphore},
    time::Instant,
};
use tower::{Layer, ServiceBuilder, service_fn};
use tower_response_cache::{
    CacheLayer, CacheStatus, Memory, Outcome, Rule, Store,
    status::{NoStore, Storing},
};

#[tokio::test(start_paused = true)]
async fn thousand_requests_to_a_cold_key_make_one_call() {
    let store = memory();
    let (cache, mut handle) = mocked(&layer(&store, Rule::ttl(MINUTE)));
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        crowd.push(begin(&cache, get("/t/a")).await);
    }
    let (_, answer) = next_call(&mut handle).await;
    no_call(&mut handle).await;
    answer.send_response(ok("rows"));
    let mut collapsed = 0;
    for one in crowd {
        let response = one.await.unwrap();
        collapsed += usize::from(outcome(&response) == Outcome::Collapsed);
        assert_eq!(text(response).await, "rows");
    }
    assert_eq!(collapsed, CROWD - 1);
    no_call(&mut handle).await;
    assert_eq!(store.stats().inner_calls, 1);
    assert_eq!(store.stats().flights, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn thousand_requests_on_many_threads_make_one_call() {
    let calls = Arc::new(AtomicUsize::new(0));
    let open = Arc::new(Semaphore::new(0));
    let inner = service_fn({
        let (calls, open) = (calls.clone(), open.clone());
        move |_: Request<Plain>| {
            let open = open.clone();
            calls.fetch_add(1, Ordering::SeqCst);
            async move {
                let _ = open.acquire().await;
                Ok::<_, Infallible>(ok("rows"))
            }
        }
    });
    let cache = layer(&memory(), Rule::ttl(MINUTE)).layer(inner);
    let began = Arc::new(Barrier::new(CROWD + 1));
    let crowd: Vec<_> = (0..CROWD)
        .map(|_| {
            let (cache, began) = (cache.clone(), began.clone());
            tokio::spawn(async move {
                let mine = begin(&cache, get("/t/a")).await;
                began.wait().await;
                text(mine.await.unwrap()).await
            })
        })
        .collect();
    began.wait().await;
    open.add_permits(CROWD);
    for one in crowd {
        assert_eq!(one.await.unwrap(), "rows");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

/// The inner service answers at once: a request that looked up before the entry existed, and joins after the flight has
/// landed, must still find the entry.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn racing_requests_fill_a_cold_key_once() {
    const KEYS: usize = 400;
    const EACH: usize = 16;
    let (inner, calls) = counting(|_, _| ok("rows"));
    let cache = layer(&memory(), Rule::ttl(MINUTE)).layer(inner);
    for key in 0..KEYS {
        let together = Arc::new(Barrier::new(EACH));
        let crowd: Vec<_> = (0..EACH)
            .map(|_| {
                let (cache, together) = (cache.clone(), together.clone());
                tokio::spawn(async move {
                    together.wait().await;
                    text(send(&cache, get(&format!("/t/{key}"))).await).await
                })
            })
            .collect();
        for one in crowd {
            assert_eq!(one.await.unwrap(), "rows");
        }
        assert_eq!(calls.load(Ordering::SeqCst), key + 1, "key {key} was fetched more than once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn racing_requests_refresh_a_stale_entry_once() {
    const ROUNDS: usize = 400;
    const EACH: usize = 16;
    let (store, clock) = with_manual_clock();
    let (inner, calls) = counting(|_, _| ok("rows"));
    let cache = layer(&store, Rule::ttl(SECOND).stale_while_revalidate(MINUTE)).layer(inner);
    send(&cache, get("/t/a")).await;
    for round in 1..=ROUNDS {
        clock.advance(2 * SECOND);
        let together = Arc::new(Barrier::new(EACH));
        let crowd: Vec<_> = (0..EACH)
            .map(|_| {
                let (cache, together) = (cache.clone(), together.clone());
                tokio::spawn(async move {
                    together.wait().await;
                    text(send(&cache, get("/t/a")).await).await
                })
            })
            .collect();
        for one in crowd {
            assert_eq!(one.await.unwrap(), "rows");
        }
        until("the refresh ends", || store.stats().stored as usize > round && store.stats().flights == 0).await;
        assert_eq!(calls.load(Ordering::SeqCst), round + 1, "more than one refresh in round {round}");
    }
}

#[tokio::test(start_paused = true)]
async fn different_keys_do_not_wait_for_each_other() {
    let (cache, mut handle) = mocked(&layer(&memory(), Rule::ttl(MINUTE)));
    let first = begin(&cache, get("/t/a")).await;
    let second = begin(&cache, get("/t/b")).await;
    let also_second = begin(&cache, get("/t/b")).await;
    let (_, answer_a) = next_call(&mut handle).await;
    let (request, answer_b) = next_call(&mut handle).await;
    assert_eq!(request.uri().path(), "/t/b");
    answer_b.send_response(ok("b"));
    assert_eq!(text(second.await.unwrap()).await, "b");
    assert_eq!(text(also_second.await.unwrap()).await, "b");
    answer_a.send_response(ok("a"));
    assert_eq!(text(first.await.unwrap()).await, "a");
}

#[tokio::test(start_paused = true)]
async fn follower_holds_no_readiness_of_the_inner_service() {
    let gate = Arc::new(Semaphore::new(0));
    let inner = service_fn({
        let gate = gate.clone();
        move |request: Request<Plain>| {
            let gate = gate.clone();
            async move {
                if request.uri().path() == "/t/slow" {
                    let _ = gate.acquire().await;
                }
                Ok::<_, Infallible>(ok(request.uri().path().to_owned()))
            }
        }
    });
    let inner = ServiceBuilder::new().concurrency_limit(2).service(inner);
    let cache = layer(&memory(), Rule::ttl(MINUTE)).layer(inner);
    let slow: Vec<_> = {
        let mut slow = Vec::new();
        for _ in 0..5 {
            slow.push(begin(&cache, get("/t/slow")).await);
        }
        slow
    };
    let start = Instant::now();
    assert_eq!(text(send(&cache, get("/t/quick")).await).await, "/t/quick");
    assert_eq!(start.elapsed(), Duration::ZERO);
    gate.add_permits(1);
    for one in slow {
        assert_eq!(text(one.await.unwrap()).await, "/t/slow");
    }
}

#[tokio::test(start_paused = true)]
async fn followers_get_their_own_variant() {
    let (inner, calls) = counting(|request, _| {
        let language = request.headers()[header::ACCEPT_LANGUAGE].clone();
        let mut response = ok(Bytes::copy_from_slice(language.as_bytes()));
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-language"));
        response
    });
    let cache = layer(&memory(), Rule::ttl(MINUTE)).layer(inner);
    let mut crowd = Vec::new();
    for i in 0..60 {
        let language = ["de", "en", "fr"][i % 3];
        let request = Request::get("/t/a").header(header::ACCEPT_LANGUAGE, language).body(Plain::default()).unwrap();
        crowd.push((language, begin(&cache, request).await));
    }
    for (language, one) in crowd {
        assert_eq!(text(one.await.unwrap()).await, language);
    }
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

/// Request fields are not kept while responses have not varied for long: the first varying response belongs to its own request.
#[tokio::test(start_paused = true)]
async fn first_varying_response_after_long_is_not_shared() {
    let store = memory();
    let (cache, mut handle) = mocked(&layer(&store, Rule::ttl(MINUTE)));
    for n in 0..200 {
        let plain = begin(&cache, get(&format!("/t/plain-{n}"))).await;
        next_call(&mut handle).await.1.send_response(ok("plain"));
        assert_eq!(text(plain.await.unwrap()).await, "plain");
    }
    let in_language = |language: &str| {
        Request::get("/t/a").header(header::ACCEPT_LANGUAGE, language).body(Plain::default()).expect("a valid request")
    };
    let varying = |text: &'static str| {
        let mut response = ok(text);
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-language"));
        response
    };
    let leader = begin(&cache, in_language("de")).await;
    let same = begin(&cache, in_language("de")).await;
    let other = begin(&cache, in_language("fr")).await;
    next_call(&mut handle).await.1.send_response(varying("eins"));
    let response = leader.await.unwrap();
    let not_stored = CacheStatus::of(&response).expect("a rule covers it").stored();
    assert_eq!(not_stored, Some(Storing::Not(NoStore::Vary)));
    assert_eq!(text(response).await, "eins");
    // One of the two followers leads, and the other calls for itself once the responses differ.
    let (same, other) = (tokio::spawn(same), tokio::spawn(other));
    for _ in 0..2 {
        let (asked, answers) = next_call(&mut handle).await;
        let de = asked.headers()[header::ACCEPT_LANGUAGE] == "de";
        answers.send_response(varying(if de { "zwei" } else { "deux" }));
    }
    assert_eq!(text(same.await.unwrap().unwrap()).await, "zwei");
    assert_eq!(text(other.await.unwrap().unwrap()).await, "deux");
    for (language, want) in [("de", "zwei"), ("fr", "deux")] {
        let hit = send(&cache, in_language(language)).await;
        assert_eq!((outcome(&hit), text(hit).await.as_str()), (Outcome::Hit, want));
    }
    no_call(&mut handle).await;
}

#[tokio::test(start_paused = true)]
async fn readers_of_a_shared_response_get_equal_bodies() {
    let (cache, mut handle) = mocked::<ChannelBody>(&layer(&memory(), Rule::ttl(MINUTE)));
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(tokio::spawn(begin(&cache, get("/t/a")).await));
    }
    let (response, source) = channel_response(Some(3000));
    next_call(&mut handle).await.1.send_response(response);
    let mut readers = Vec::new();
    for one in crowd {
        readers.push(tokio::spawn(text(one.await.unwrap().unwrap())));
    }
    for _ in 0..1000 {
        source.send("abc");
        tokio::task::yield_now().await;
    }
    drop(source);
    for reader in readers {
        assert_eq!(reader.await.unwrap(), "abc".repeat(1000));
    }
}

#[tokio::test]
async fn empty_response_is_shared() {
    let (cache, mut handle) = mocked::<Full<Bytes>>(&layer(&memory(), Rule::ttl(MINUTE)));
    let leader = begin(&cache, get("/t/a")).await;
    let follower = begin(&cache, get("/t/a")).await;
    next_call(&mut handle).await.1.send_response(ok(""));
    assert_eq!(text(leader.await.unwrap()).await, "");
    let response = follower.await.unwrap();
    assert_eq!(outcome(&response), Outcome::Collapsed);
    assert_eq!(text(response).await, "");
}

/// A call that was moved to a task continues in the span of the request that began it.
#[tokio::test]
async fn fill_keeps_the_span_of_its_first_request() {
    use tracing::{Instrument, Subscriber, span};

    /// Numbers spans, and records the entered span of this thread.
    #[derive(Default)]
    struct Spans {
        entered: std::sync::Mutex<Vec<u64>>,
        all: std::sync::Mutex<Vec<&'static tracing::Metadata<'static>>>,
    }

    impl Subscriber for Spans {
        // The spans of fills are within those of the requests.
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            !metadata.target().starts_with("tower_response_cache")
        }
        fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
            let mut all = self.all.lock().unwrap();
            all.push(attributes.metadata());
            span::Id::from_u64(all.len() as u64)
        }
        fn current_span(&self) -> tracing_core::span::Current {
            match self.entered.lock().unwrap().last() {
                Some(id) => {
                    tracing_core::span::Current::new(span::Id::from_u64(*id), self.all.lock().unwrap()[*id as usize - 1])
                }
                None => tracing_core::span::Current::none(),
            }
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, _: &tracing::Event<'_>) {}
        fn enter(&self, id: &span::Id) {
            self.entered.lock().unwrap().push(id.into_u64());
        }
        fn exit(&self, _: &span::Id) {
            self.entered.lock().unwrap().pop();
        }
    }

    let spans = Arc::new(Spans::default());
    let _default = tracing::subscriber::set_default(spans.clone());
    let opened = Arc::new(tokio::sync::Notify::new());
    let (seen, open) = (Arc::new(std::sync::Mutex::new(Vec::new())), opened.clone());
    let (spans_inside, seen_inside) = (spans.clone(), seen.clone());
    let inner = tower::service_fn(move |_: Request<Plain>| {
        let (spans, seen, open) = (spans_inside.clone(), seen_inside.clone(), open.clone());
        async move {
            open.notified().await;
            seen.lock().unwrap().extend(spans.entered.lock().unwrap().last().copied());
            Ok::<_, std::convert::Infallible>(ok("x"))
        }
    });
    let service = CacheLayer::new(Memory::default()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    let request = |span: tracing::Span| {
        let service = service.clone();
        tokio::spawn(async move { text(send(&service, get("/t/a")).await).await }.instrument(span))
    };
    let (first, second) = (tracing::info_span!("first"), tracing::info_span!("second"));
    let began_in = first.id().expect("enabled").into_u64();
    let tasks = [request(first), request(second)];
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
    opened.notify_one();
    for task in tasks {
        assert_eq!(task.await.unwrap(), "x");
    }
    assert_eq!(*seen.lock().unwrap(), [began_in]);
}
