//! Rules from descriptor sets, compiled from real `.proto` files.

use std::{convert::Infallible, fs, path::Path, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use proptest::{collection::vec, prelude::*};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_response_cache::{
    Clock, Identity, Memory, NoMatch, ResponseCache, Rules,
    request_body::ReadBody,
    rules::{RulesError, RulesErrorKind},
    status::Bypass,
};

use super::{MINUTE, get, note, serve};
use crate::service::{Notebook, notes::notes_client::NotesClient};

const NOTES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Compiles a file with these services.
fn compiled(services: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a folder");
    let header = "syntax = \"proto3\";\npackage shop.v1;\nimport \"cache.proto\";\nmessage M {}\n";
    fs::write(dir.path().join("shop.proto"), format!("{header}{services}")).expect("a file");
    let options = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let mut compiler = protox::Compiler::new([dir.path(), &options]).expect("two folders");
    compiler.include_imports(true).open_file(dir.path().join("shop.proto")).expect("a valid file");
    compiler.encode_file_descriptor_set()
}

/// Returns a service `Shop` with these methods: a name and its options.
fn shop(methods: &[(&str, &str)]) -> String {
    let methods = methods.iter().map(|(name, options)| format!("rpc {name}(M) returns (M) {{ {options} }}\n"));
    format!("service Shop {{\n{}}}\n", methods.collect::<String>())
}

const READS: &str = "option idempotency_level = NO_SIDE_EFFECTS;";

fn rules(services: &str) -> Result<Rules, RulesError> {
    Rules::from_descriptor_set(compiled(services), MINUTE)
}

fn cached(rules: &Rules) -> Vec<String> {
    rules.cached_routes().map(str::to_owned).collect()
}

fn error(services: &str) -> String {
    let error = rules(services).expect_err("invalid");
    assert!(matches!(error.kind(), RulesErrorKind::Descriptors | RulesErrorKind::Namespace));
    error.to_string()
}

/// Returns the namespaces of the responses of a method, or the reason for which it is not cached.
fn namespaces(rules: &Rules, method: &str) -> Result<Vec<String>, NoMatch> {
    let cache = ResponseCache::new(Memory::default()).rules(rules.clone());
    let found = cache.matches(&Method::GET, &method.parse().expect("a path"))?;
    Ok(found.namespaces().iter().map(ToString::to_string).collect())
}

#[test]
fn unary_methods_without_side_effects_are_taken() {
    let rules = Rules::from_descriptor_set(NOTES, MINUTE).expect("the descriptors of the tests");
    assert_eq!(cached(&rules), ["/notes.v1.Notes/Get"]);
    assert_eq!(namespaces(&rules, "/notes.v1.Notes/Get"), Ok(vec!["notes.v1.Notes".to_owned()]));
    for uncached in ["Put", "Watch", "Count", "Chat"] {
        assert_eq!(namespaces(&rules, &format!("/notes.v1.Notes/{uncached}")), Err(NoMatch::Uncached), "{uncached}");
    }
}

#[test]
fn services_without_reads_get_no_rule() {
    let services = format!("{}service Log {{ rpc Add(M) returns (M); }}\n", shop(&[("Get", READS)]));
    let rules = rules(&services).expect("valid");
    assert_eq!(cached(&rules), ["/shop.v1.Shop/Get"]);
    assert_eq!(namespaces(&rules, "/shop.v1.Log/Add"), Err(NoMatch::NoRule));
}

#[test]
fn options_set_lifetimes_and_namespaces() {
    let get = format!(
        "{READS} option (cache.namespace) = \"stock\"; option (cache.namespace) = \"a:b\"; option (cache.ttl).seconds = 5;"
    );
    let never = format!("{READS} option (cache.ttl) = {{}};");
    let set = "option (cache.invalidates) = \"stock\";";
    let rules = rules(&shop(&[("Get", &get), ("Now", &never), ("Set", set)])).expect("valid");
    assert_eq!(cached(&rules), ["/shop.v1.Shop/Get"]);
    assert_eq!(namespaces(&rules, "/shop.v1.Shop/Get"), Ok(["shop.v1.Shop", "stock", "a:b"].map(str::to_owned).to_vec()));
    assert_eq!(namespaces(&rules, "/shop.v1.Shop/Now"), Err(NoMatch::Uncached));
}

#[test]
fn misplaced_and_invalid_options_are_errors() {
    for (options, why) in [
        ("option (cache.ttl).seconds = 5;", "(cache.ttl) needs `idempotency_level"),
        ("option (cache.namespace) = \"a\";", "(cache.namespace) needs"),
        ("option idempotency_level = NO_SIDE_EFFECTS; option (cache.invalidates) = \"a\";", "(cache.invalidates) contradicts"),
        ("option idempotency_level = NO_SIDE_EFFECTS; option (cache.namespace) = \"a b\";", "white space"),
        ("option (cache.invalidates) = \"a:\";", "empty level"),
    ] {
        let error = error(&shop(&[("Get", READS), ("Other", options)]));
        assert!(error.contains("/shop.v1.Shop/Other") && error.contains(why), "{error}");
    }
    let stream = format!("service S {{ rpc Watch(M) returns (stream M) {{ {READS} option (cache.ttl).seconds = 5; }} }}");
    assert!(error(&stream).contains("(cache.ttl) needs a unary method"));
}

#[test]
fn set_without_reads_is_an_error() {
    let stream = format!("service S {{ rpc Watch(M) returns (stream M) {{ {READS} }} }}");
    for services in [shop(&[("Set", ""), ("Put", "option idempotency_level = IDEMPOTENT;")]), stream, String::new()] {
        assert!(error(&services).contains("no unary method has the option `idempotency_level = NO_SIDE_EFFECTS`"));
    }
}

#[test]
fn set_of_which_nothing_would_be_cached_is_an_error() {
    let own = |seconds: i32| format!("{READS} option (cache.ttl).seconds = {seconds};");
    let read = |services: String| Rules::from_descriptor_set(compiled(&services), Duration::ZERO).map(|rules| cached(&rules));
    for services in [shop(&[("Get", READS)]), shop(&[("Get", READS), ("List", &own(0))])] {
        let error = read(services).expect_err("nothing is cached");
        assert_eq!(error.kind(), RulesErrorKind::Descriptors);
        assert!(error.to_string().contains("expected a lifetime above zero, or a method with `option (cache.ttl)`"), "{error}");
    }
    let list = read(shop(&[("Get", READS), ("List", &own(5))])).expect("one method has a lifetime");
    assert_eq!(list, ["/shop.v1.Shop/List"]);
}

#[test]
fn set_without_its_imports_is_an_error() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("base.proto"), "syntax = \"proto3\"; message Base {}").expect("a file");
    let user = "syntax = \"proto3\"; import \"base.proto\"; service S { rpc Get(Base) returns (Base); }";
    fs::write(dir.path().join("user.proto"), user).expect("a file");
    let mut compiler = protox::Compiler::new([dir.path()]).expect("a folder");
    compiler.include_imports(false).open_file(dir.path().join("user.proto")).expect("a valid file");
    let error = Rules::from_descriptor_set(compiler.encode_file_descriptor_set(), MINUTE).expect_err("incomplete");
    assert!(error.to_string().contains("base.proto"), "{error}");
}

#[test]
fn bytes_that_are_no_set_are_an_error() {
    for bytes in [&b"no descriptors"[..], &[0x0a, 0xff], &NOTES[..NOTES.len() - 1], &[]] {
        let error = Rules::from_descriptor_set(bytes, MINUTE).expect_err("malformed");
        assert_eq!(error.kind(), RulesErrorKind::Descriptors);
        assert!(error.to_string().starts_with("descriptor set: "), "{error}");
    }
}

proptest! {
    /// Each result is an error or rules: no panic.
    #[test]
    fn hostile_bytes_never_panic(changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), end in any::<prop::sample::Index>()) {
        let mut bytes = NOTES.to_vec();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes.truncate(end.index(bytes.len() + 1).max(NOTES.len() / 2));
        match Rules::from_descriptor_set(&bytes, MINUTE) {
            Ok(rules) => prop_assert!(rules.cached_routes().all(|route| route.starts_with('/'))),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}

#[tokio::test]
async fn lifetime_of_a_method_replaces_the_common_one() {
    let own = format!("{READS} option (cache.ttl) = {{ seconds: 5, nanos: 500000000 }};");
    let rules = rules(&shop(&[("Own", &own), ("Common", READS)])).expect("valid");
    let clock = Clock::manual();
    let cache = ResponseCache::new(Memory::builder().clock(clock.clone()).build()).rules(rules);
    let service = ServiceBuilder::new().layer(cache.layer_with_request_bodies()).service(service_fn(
        async |_: Request<ReadBody<Full<Bytes>>>| Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())),
    ));
    let mut hits = Vec::new();
    for seconds in [0, 5, 1, 53] {
        clock.advance(Duration::from_secs(seconds));
        for method in ["Own", "Common"] {
            let before = cache.stats().hits;
            let call = Request::post(format!("/shop.v1.Shop/{method}")).header("content-type", "application/proto");
            let response = service.clone().oneshot(call.body(Full::default()).expect("a request")).await.expect("a response");
            response.into_body().collect().await.expect("a body");
            hits.push(cache.stats().hits - before);
        }
    }
    assert_eq!(hits, [0, 0, 1, 1, 0, 1, 0, 1], "5.5 seconds, and one minute");
}

#[tokio::test]
async fn one_line_caches_a_service() {
    let rules = Rules::from_descriptor_set(NOTES, MINUTE).expect("the descriptors of the tests");
    let cache = ResponseCache::new(Memory::default()).rules(rules);
    let notebook = Notebook::default();
    let mut client = NotesClient::new(serve(&cache, &notebook).await);
    client.put(note("a", "one")).await.expect("a write");
    for _ in 0..3 {
        assert_eq!(get(&mut client, "a").await, "one");
    }
    assert_eq!(cache.stats().hits, 2);
    client.put(note("a", "two")).await.expect("a write");
    assert_eq!(get(&mut client, "a").await, "two", "the write has invalidated the service");
    let before = cache.stats().invalidations;
    let mut watched = client.watch(super::name("a")).await.expect("a stream").into_inner();
    assert_eq!(watched.message().await.expect("a message").expect("a note").text, "two");
    assert_eq!(cache.stats().invalidations, before, "a stream that reads invalidates nothing");
    assert_eq!(cache.stats().uncovered_writes, 0);
    let bypassed = cache.stats().bypasses.into_iter().find(|(reason, _)| *reason == Bypass::RequestBodyUnread);
    assert_eq!(bypassed.map(|(_, count)| count), Some(0));
}

#[tokio::test]
async fn rules_of_a_set_may_be_changed_for_each_route() {
    let mut routes = Vec::new();
    let rules = Rules::from_descriptor_set_with(NOTES, MINUTE, |route, rule| {
        routes.push(route.to_owned());
        rule.identity(Identity::bearer())
    });
    routes.sort();
    assert_eq!(routes, ["Chat", "Count", "Get", "Put", "Watch"].map(|method| format!("/notes.v1.Notes/{method}")));
    let cache = ResponseCache::new(Memory::default()).rules(rules.expect("the descriptors of the tests"));
    let notebook = Notebook::default();
    let mut client = NotesClient::new(serve(&cache, &notebook).await);
    client.put(note("a", "one")).await.expect("a write");
    for (user, hits) in [("a", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 3)] {
        let mut call = tonic::Request::new(super::name("a"));
        call.metadata_mut().insert("authorization", format!("Bearer {user}").parse().expect("a value"));
        client.get(call).await.expect("a note");
        assert_eq!(cache.stats().hits, hits, "{user}");
    }
}
