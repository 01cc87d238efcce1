//! Secrets: they appear neither in keys nor in debug output nor in traces.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use super::{equality::field, key_of};
use crate::common::{MINUTE, counting, get, ok, one_rule, send};
use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::Full;
use tower::Layer;
use tower_response_cache::{
    __private::{Backend, Secret},
    CacheLayer, Identity, KeyExtractor, Memory, RouteAndQuery, Rule, Rules,
    key::{Cookie, CredentialFields, Headers, RequestView},
};

const SECRET: &str = "s3cr3t-T0ken";

fn contains(bytes: &[u8], needle: &str) -> bool {
    bytes.to_ascii_lowercase().windows(needle.len()).any(|window| window == needle.to_ascii_lowercase().as_bytes())
}

fn with_secrets(target: &str) -> Request<Full<Bytes>> {
    let mut request = get(target);
    let headers = request.headers_mut();
    headers.insert("authorization", HeaderValue::from_str(&format!("Bearer {SECRET}")).expect("valid"));
    headers.insert("cookie", HeaderValue::from_str(&format!("a=b; session={SECRET}")).expect("valid"));
    headers.insert("x-api-key", HeaderValue::from_static(SECRET));
    let mut marked = HeaderValue::from_static(SECRET);
    marked.set_sensitive(true);
    headers.insert("x-marked", marked);
    request
}

fn rules_with_secrets() -> Vec<Rule> {
    let by = |request: &RequestView<'_>| Some(field(request.headers(), "x-api-key"));
    let rule = || Rule::ttl(MINUTE);
    vec![
        rule().identity(Identity::bearer()).namespace("user:{identity}"),
        rule().identity(Identity::header("x-api-key")).namespace("user:{identity}"),
        rule().identity(Identity::cookie("session")).namespace("user:{identity}"),
        rule().identity(Identity::by(by)).namespace("user:{identity}"),
        rule().key(Headers::new(["authorization", "cookie", "x-api-key", "x-marked"])).ignore_credentials(),
        rule().key(Cookie::new("session")).ignore_credentials(),
    ]
}

#[test]
fn no_secret_is_in_key_bytes_or_debug_output() {
    let store = Memory::builder().secret(*b"0123456789abcdef0123456789abcdef").build();
    let clear = with_secrets("/t/a");
    for rule in rules_with_secrets() {
        let shown = format!("{rule:?}");
        let rules = one_rule(rule);
        let key = key_of(&rules, &store, &clear);
        assert!(!contains(key.canonical(), SECRET), "{shown}");
        assert!(!contains(format!("{key:?} {:?} {shown} {rules:?}", key.as_ref()).as_bytes(), SECRET));
    }
    let shown = format!("{:?} {store:?}", Secret::new(*b"0123456789abcdef0123456789abcdef"));
    assert!(!contains(shown.as_bytes(), "0123456789abcdef") && !contains(shown.as_bytes(), "48, 49"), "{shown}");
}

#[test]
fn target_credentials_enter_the_key_as_an_exact_hash() {
    let store = Memory::new(64 << 10);
    let rules = one_rule(Rule::ttl(MINUTE));
    let key = |user: &str| {
        let request = Request::get(format!("http://{user}A.example/t/a")).body(()).expect("valid");
        key_of(&rules, &store, &request)
    };
    let user = format!("me:{SECRET}@");
    assert!(!contains(key(&user).canonical(), SECRET));
    assert_ne!(key(&user), key(&user.to_ascii_lowercase()));
    assert_ne!(key(&user), key(""));
}

#[tokio::test]
async fn debug_output_of_an_entry_has_no_secrets() {
    for rule in rules_with_secrets() {
        let store = Memory::default();
        let rules = one_rule(rule);
        let (inner, _) = counting(|_, _| {
            let mut response = ok("a body that is for one user alone");
            response.headers_mut().insert("x-secret-answer", HeaderValue::from_static("fortytwo"));
            response
        });
        let service = CacheLayer::new(store.clone()).rules(rules.clone()).layer(inner);
        send(&service, with_secrets("/t/a")).await;
        let key = key_of(&rules, &store, &with_secrets("/t/a"));
        let (entry, _) = store.get_now(key.as_ref()).and_then(|look| look.found).expect("stored");
        let shown = format!("{entry:?}");
        assert!(!shown.contains(SECRET) && !shown.contains("one user") && !shown.contains("fortytwo"), "{shown}");
    }
}

/// Records every field of every event and span.
struct Recorder(Arc<Mutex<String>>);

impl tracing::Subscriber for Recorder {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        span.record(&mut FieldVisitor(&self.0));
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, values: &tracing::span::Record<'_>) {
        values.record(&mut FieldVisitor(&self.0));
    }

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut FieldVisitor(&self.0));
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

struct FieldVisitor<'a>(&'a Mutex<String>);

impl tracing::field::Visit for FieldVisitor<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        *self.0.lock().expect("not poisoned") += &format!("{field}={value:?}\n");
    }
}

#[test]
fn no_secret_is_traced() {
    let records = Arc::new(Mutex::new(String::new()));
    tracing::subscriber::with_default(Recorder(records.clone()), || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            for rule in rules_with_secrets() {
                // Another test may have met an event for the first time while the recorder was set, and turned it off for good.
                tracing_core::callsite::rebuild_interest_cache();
                // Too many names for an entry: only this event contains names.
                let many = |_: &RequestView<'_>| (0..200).map(|n| format!("n{n}").try_into().expect("valid")).collect();
                for rule in [rule.clone(), rule.namespaces_by(many)] {
                    let (inner, _) = counting(|_, _| ok("x"));
                    let service = CacheLayer::new(Memory::default()).rules(one_rule(rule)).layer(inner);
                    for _ in 0..2 {
                        send(&service, with_secrets("/t/a")).await;
                    }
                    let mut ranged = with_secrets("/t/a");
                    ranged.headers_mut().insert("range", HeaderValue::from_static("bytes=0-1"));
                    send(&service, ranged).await;
                }
            }
        });
    });
    let records = records.lock().expect("not poisoned");
    for word in ["hit", "miss", "cache bypassed", "not stored"] {
        assert!(records.contains(word), "no record of {word:?}: {records}");
    }
    assert!(!contains(records.as_bytes(), SECRET), "{records}");
}

#[test]
fn credential_enters_a_key_only_as_a_hash() {
    const SECRET: &str = "top-secret-value";
    let store = Memory::default();
    for (name, fields) in [
        ("private-token", CredentialFields::default()),
        ("x-tenant-token", CredentialFields::default().with(["x-tenant-token"])),
        ("authorization", CredentialFields::default().without(["authorization"])),
    ] {
        let rule = Rule::ttl(MINUTE).key(RouteAndQuery.and(Headers::new([name])));
        let rules = Rules::new().credential_fields(fields).route("/t/{table}", rule);
        let key = |value: &str| {
            let request = Request::get("/t/a").header(name, value).body(()).expect("a request");
            rules.key(&store, &request).expect("a key")
        };
        assert!(!contains(key(SECRET).canonical(), SECRET), "{name}");
        assert_ne!(key(SECRET), key("another"), "{name}");
    }
}
