//! Tables of rules: refused routes and names, and the most specific match.

use std::{
    cell::RefCell,
    panic::{self, AssertUnwindSafe},
    sync::Once,
    time::Duration,
};

use crate::common::{MINUTE, get};
use http::StatusCode;
use tower_response_cache::{CacheLayer, Identity, Memory, Rule, Rules, rules::RulesErrorKind};

fn rule() -> Rule {
    Rule::ttl(MINUTE)
}

/// Returns every fault of a table: the route, its rule, the kind of the error, and words of its text.
fn refused() -> Vec<(&'static str, Rule, RulesErrorKind, &'static [&'static str])> {
    use RulesErrorKind::{Namespace, Overlap, Parameter, Pattern, Setting};
    let table = "/t/{table}";
    let names = |n: usize| (0..n).fold(rule(), |rule, n| rule.namespace(&format!("n{n}")));
    let status = |status: u16| rule().status(StatusCode::from_u16(status).expect("a status"), MINUTE);
    vec![
        ("", rule(), Pattern, &["\"\"", "begins with `/`", "/tables/{table}"]),
        ("tables/{t}", rule(), Pattern, &["tables/{t}", "begins with `/`"]),
        ("/t/{", rule(), Pattern, &["/t/{", "`{name}`"]),
        ("/t/{}", rule(), Pattern, &["`{name}` or `{*name}`"]),
        ("/t/a}", rule(), Pattern, &["`{{` and `}}`"]),
        ("/t/{*rest}/more", rule(), Pattern, &["/t/{*rest}/more", "at the end"]),
        ("/t/{a}{b}", rule(), Pattern, &["more than one parameter"]),
        ("/there/{other}", rule(), Overlap, &["/there/{other}", "overlaps with", "/there/{name}"]),
        ("/there/{name}", rule(), Overlap, &["overlaps with"]),
        ("/there", rule(), Overlap, &["\"/there\"", "overlaps with"]),
        (
            table,
            rule().namespace("db:{nope}"),
            Parameter,
            &["/t/{table}", "db:{nope}", "no parameter `{nope}`", "`{table}`, `{identity}`"],
        ),
        (table, rule().namespace("{Table}"), Parameter, &["`{Table}`"]),
        (table, rule().namespace("db:{identity}"), Parameter, &["holds no identity", "Identity::bearer()"]),
        (table, rule().namespace("db:{table"), Parameter, &["unmatched brace"]),
        (table, rule().namespace("db:table}"), Parameter, &["unmatched brace"]),
        (table, rule().namespace("db:{}"), Parameter, &["no parameter `{}`"]),
        (table, rule().invalidates("db:{nope}"), Parameter, &["db:{nope}", "`{table}`"]),
        (table, rule().invalidates_on([http::Method::POST], "a::b"), Namespace, &["a::b", "empty level"]),
        (table, rule().namespace(""), Namespace, &["\"\"", "is empty", "`*` for everything"]),
        (table, rule().namespace("a::{table}"), Namespace, &["a::{table}", "empty level"]),
        (table, rule().namespace("a:"), Namespace, &["empty level"]),
        (table, rule().namespace(":a"), Namespace, &["empty level"]),
        (table, rule().namespace("a b"), Namespace, &["white space"]),
        (table, rule().namespace("a\u{7}"), Namespace, &["control character"]),
        (table, rule().namespace("a:*"), Namespace, &["`*`"]),
        (table, rule().namespace(&"n".repeat(201)), Namespace, &["longer than 200 bytes"]),
        (table, rule().namespace(&["{table}"; 4].join(":")), Namespace, &["259 bytes", "at most 200"]),
        (table, rule().namespace("a:b:c:d:e:f:g:h"), Namespace, &["7 levels"]),
        (table, names(129), Namespace, &["namespaces: 129", "at most 128"]),
        (table, names(128).namespace("a:b:c"), Namespace, &["namespaces: 129"]),
        (table, status(100), Setting, &["100", "cannot be stored"]),
        (table, status(199), Setting, &["199"]),
        (table, status(206), Setting, &["206"]),
        (table, status(304), Setting, &["304"]),
        (table, rule().jitter(1.5), Setting, &["invalid jitter 1.5", "between 0 and 1"]),
        (table, rule().jitter(-0.5), Setting, &["invalid jitter -0.5"]),
        (table, rule().jitter(f64::NAN), Setting, &["invalid jitter NaN"]),
        (table, rule().refresh_ahead(-1.0), Setting, &["invalid refresh_ahead -1"]),
        (table, rule().refresh_ahead(f64::NAN), Setting, &["invalid refresh_ahead NaN"]),
        (table, rule().refresh_ahead(f64::INFINITY), Setting, &["invalid refresh_ahead inf"]),
    ]
}

fn existing_routes() -> Rules {
    Rules::new().route("/there/{name}", rule()).route("/there", rule())
}

#[test]
fn invalid_route_is_refused_with_its_reason() {
    for (pattern, rule, kind, words) in refused() {
        let shown = format!("{pattern} {rule:?}");
        let error = existing_routes().try_route(pattern, rule).expect_err(&shown);
        let text = error.to_string();
        assert_eq!(error.kind(), kind, "{shown}: {text}");
        assert!(text.contains(&format!("route {pattern:?}")), "{shown}: {text}");
        for word in words {
            assert!(text.contains(word), "{shown}: {text:?} lacks {word:?}");
        }
    }
}

thread_local! {
    /// Location of the last panic of this thread, as the hook saw it.
    static PLACE: RefCell<Option<(String, u32)>> = const { RefCell::new(None) };
}

/// Returns the message of a panic, and its file and line.
fn panicked<T>(work: impl FnOnce() -> T) -> (String, (String, u32)) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let place = info.location().map(|place| (place.file().to_owned(), place.line()));
            PLACE.with(|last| *last.borrow_mut() = place);
            before(info);
        }));
    });
    let refused = panic::catch_unwind(AssertUnwindSafe(|| drop(work()))).expect_err("a panic");
    let text = match refused.downcast::<String>() {
        Ok(text) => *text,
        Err(other) => (*other.downcast::<&str>().expect("a message")).to_owned(),
    };
    (text, PLACE.with(|last| last.borrow().clone()).expect("a place"))
}

#[test]
fn invalid_table_panics_at_the_line_of_its_caller() {
    for (pattern, rule, _, _) in refused() {
        let text = existing_routes().try_route(pattern, rule.clone()).expect_err(pattern).to_string();
        let (by_rules, place) = (panicked(|| existing_routes().route(pattern, rule.clone())), (file!().to_owned(), line!()));
        assert_eq!(by_rules, (text.clone(), place));
        let layer = CacheLayer::new(Memory::new(64 << 10)).rules(existing_routes());
        let (by_layer, place) = (panicked(|| layer.route(pattern, rule.clone())), (file!().to_owned(), line!()));
        assert_eq!(by_layer, (text, place));
    }
}

#[test]
fn rule_without_a_route_has_no_parameters() {
    let layer = || CacheLayer::new(Memory::new(64 << 10));
    let faulty = || rule().namespace("db_query:{table}");
    let error = layer().try_rule(faulty()).expect_err("no route");
    assert_eq!(error.kind(), RulesErrorKind::Parameter);
    let text = error.to_string();
    for word in ["rule without a route", "db_query:{table}", ".route(\"/…/{table}\", rule)", "`{identity}`"] {
        assert!(text.contains(word), "{text:?} lacks {word:?}");
    }
    let (by_layer, place) = (panicked(|| layer().rule(faulty())), (file!().to_owned(), line!()));
    assert_eq!(by_layer, (text.clone(), place));
    let (by_rules, place) = (panicked(|| Rules::new().fallback(faulty())), (file!().to_owned(), line!()));
    assert_eq!(by_rules, (text, place));
    assert!(layer().try_rule(rule().identity(Identity::bearer()).namespace("user:{identity}")).is_ok());
}

#[test]
fn routes_at_the_limits_are_accepted() {
    let names = (0..7).fold(rule(), |rule, n| rule.namespace(&format!("n{n}")));
    for (pattern, rule) in [
        ("/", rule()),
        ("/v{version}/{*rest}", rule().namespace("{version}:{rest}")),
        ("/{{literal}}", rule()),
        ("/a", names),
        ("/b", rule().namespace("a:b:c:d:e:f:g")),
        ("/c/{a}", rule().namespace(&format!("{}:{{a}}", "n".repeat(135)))),
        ("/d", rule().namespace("*").namespace("käse:brot")),
        ("/e", rule().jitter(0.0).jitter(1.0).refresh_ahead(0.0).refresh_ahead(f64::MAX)),
        ("/f", Rule::ttl(Duration::MAX).stale_while_revalidate(Duration::MAX).stale_if_error(Duration::MAX)),
        ("/g/{a}", rule().identity(Identity::bearer()).namespace("{identity}:{a}")),
    ] {
        if let Err(error) = Rules::new().try_route(pattern, rule) {
            panic!("{pattern}: {error}");
        }
    }
}

#[test]
fn invalid_cache_status_name_is_refused() {
    let layer = || CacheLayer::new(Memory::new(64 << 10));
    for name in ["", "my cache", "1st", "a;b", "a\"", "käse", "a\n", "-a"] {
        let (text, place) = panicked(|| layer().cache_status(name));
        assert!(text.contains("Cache-Status") && text.contains(&format!("{name:?}")), "{text}");
        assert_eq!(place.0, file!());
    }
    for name in ["a", "Edge-1.example", "a_b"] {
        let _ = layer().cache_status(name);
    }
}

#[test]
fn most_specific_matching_route_counts() {
    let store = Memory::new(64 << 10);
    let fixed = |name: &'static str| rule().key(move |_: &tower_response_cache::key::RequestView<'_>| Some(name.to_owned()));
    let rules =
        Rules::new().route("/t/{table}", fixed("table")).route("/t/orders", fixed("orders")).route("/{*all}", fixed("all"));
    for (target, route) in [("/t/a", "table"), ("/t/orders", "orders"), ("/t/a/b", "all"), ("/x", "all")] {
        let key = rules.key(&store, &get(target)).expect("a key");
        assert!(key.canonical().ends_with(route.as_bytes()), "{target}");
    }
}

/// The notation of axum before 0.8 would be a literal that matches no request.
#[test]
fn parameter_in_the_old_notation_is_refused() {
    for (pattern, instead) in [("/users/:id", "`{id}`"), ("/files/*path", "`{*path}`"), ("/:a/b", "`{a}`")] {
        let error = Rules::new().try_route(pattern, Rule::ttl(MINUTE)).expect_err(pattern);
        assert_eq!(error.kind(), RulesErrorKind::Pattern);
        assert!(error.to_string().contains(pattern) && error.to_string().contains(instead), "{error}");
    }
    assert!(Rules::new().try_route("/a:b/c*", Rule::ttl(MINUTE)).is_ok());
}
