//! Rules from a file: every option has its effect, and errors name the line and the allowed values.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_response_cache::{CacheLayer, Clock, InvalidateLayer, Memory, Rules};

const DURATION: &str = "expected a duration: \"250ms\", \"60s\", \"5m\", \"1h30m\" or \"2d\"";
const SIZE: &str = "expected a size: a whole number of bytes, or one with KiB, MiB, GiB, KB, MB or GB such as \"1MiB\"";
const OPTIONS: &str = "expected one of `path`, `ttl`, `http`, `uncached`, `default_ttl`, `heuristics`, `targeted`, \
    `stale_if_unreachable`, `keep_for_validation`, `statuses`, `stale_while_revalidate`, `stale_if_error`, `early_refresh`, `refresh_ahead`, \
    `jitter`, `audit`, `audit_ignoring`, `shadow`, `soft_timeout`, `distributed_lock`, `fill_across_processes`, `max_body`, `reads_by_post`, `rpc`, `rpc_statuses`, `rpc_age`, `graphql`, `graphql_entities`, `graphql_documents`, `max_request_body`, `etag`, `normalise`, `cache_groups`, `namespaces_from_header`, `key`, `identity`, \
    `ignore_credentials`, `ignore_cookies`, `path_as_text`, `ignore_forwarded`, `namespaces`, `response_rules`, `invalidates`, `invalidates_on`, \
    `invalidates_nothing`, `invalidates_from_header`, `invalidates_softly`, `skip_on_client_error`, `spare_client_errors`, `skip_on_error`, `spare_errors`, `delivery_timeout`, `hold`, `on_fence_error`";

const EVERY_OPTION: &str = r#"
credential_fields = { add = ["x-tenant-token"], remove = ["job-token"] }

[[route]]
path = "/t/{table}"
ttl = "60s"
statuses = { 404 = "5s", 500 = "250ms" }
stale_while_revalidate = "5s"
stale_if_error = "1h30m"
refresh_ahead = 1
jitter = 0.1
max_body = "1MiB"
reads_by_post = true
max_request_body = "16KiB"
identity = { by = "cookie:session", required = true }
ignore_credentials = false
ignore_cookies = false
path_as_text = true
ignore_forwarded = false
namespaces = ["t", "t:{table}", "of:{identity}"]
invalidates = ["t:{table}"]
invalidates_on = { DELETE = ["t"], PURGE = ["t"] }
invalidates_nothing = false
invalidates_from_header = "cache-invalidates"
invalidates_softly = true
skip_on_client_error = true
skip_on_error = true
etag = true
cache_groups = true
namespaces_from_header = "cache-namespaces"
normalise = { lists = false, accept_encoding = "ordered", accept_language = "unordered", select_language = false }
soft_timeout = "2s"
distributed_lock = "30s"
delivery_timeout = { limit = "500ms", then = "reject" }
on_fence_error = "proceed"
response_rules = [{ status = [404, "500-599"], content_type = "text/*", headers = { x-a = "*" }, ttl = "5s", namespaces = ["errors:{table}"] }, { status = "410", no_store = true }]
key = { query = { without = ["utm_*"] }, headers = ["accept-language"], cookies = ["theme"], body = "json", host = false }

[[route]]
path = "/notes.Notes/{method}"
ttl = "60s"
rpc = true
rpc_statuses = { 5 = "5s" }
rpc_age = true

[[route]]
path = "/logout"
uncached = true
identity = "bearer"
invalidates = ["auth:{identity}"]

[[route]]
path = "/raw/{*path}"
ttl = "0s"
max_body = 65536
key = { query = "as-sent" }
identity = "header:x-api-key"
invalidates_nothing = true

[[route]]
path = "/http"
http = true
default_ttl = "1s"
heuristics = true
targeted = ["cdn-cache-control", "x-own"]
stale_if_unreachable = "1h"
keep_for_validation = "2d"
key.query.no_vary_search = 'key-order, params=("utm_source")'

[fallback]
ttl = "1s"
key.query = "sorted"
"#;

#[test]
fn good_files_are_read() {
    for (what, text) in [
        ("an empty file", ""),
        ("a fallback alone", "[fallback]\nttl = '2d'"),
        ("every option", EVERY_OPTION),
        ("routes as one list", "route = [{ path = '/a', ttl = '1s' }, { path = '/b', ttl = '1m1ms' }]"),
        ("an empty key", "[[route]]\npath = '/a'\nttl = '1s'\nkey = {}"),
    ] {
        Rules::from_toml(text).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}

/// Checks the error of a file with one route that contains this line.
fn check_refused(line: &str, error: String) {
    let file = format!("[[route]]\npath = \"/t/{{table}}\"\nttl = \"60s\"\n{line}\n");
    assert_eq!(Rules::from_toml(&file).expect_err(line).to_string(), error, "{line}");
}

#[test]
fn bad_files_are_refused_with_line_and_alternatives() {
    for (line, want) in [
        ("tll = '5s'", format!("line 4: unknown field `tll`, {OPTIONS}")),
        ("jitter = 0.1\njitter = 0.2", "line 5: duplicate key".into()),
        ("jitter = ", "line 4: string values must be quoted, expected literal string".into()),
        // HTTP.
        (
            "http = true",
            "line 4: route \"/t/{table}\": a rule has exactly one of `ttl = \"60s\"`, `http = true` and `uncached = true`"
                .into(),
        ),
        (
            "heuristics = true",
            "line 4: route \"/t/{table}\": invalid heuristics: expected a rule under which HTTP decides (Rule::http(), or `http = true` in a file)"
                .into(),
        ),
        ("targeted = ['a b']", "line 4: invalid value: string \"a b\", expected the name of a header field, such as \"accept-language\"".into()),
        (
            "normalise = { accept_language = 'none' }",
            "line 4: unknown variant `none`, expected one of `verbatim`, `ordered`, `unordered`".into(),
        ),
        (
            "normalise = { user_agent = 'ordered' }",
            "line 4: unknown field `user_agent`, expected one of `lists`, `accept_encoding`, `accept_language`, `select_language`".into(),
        ),
        ("delivery_timeout = { limit = '1s', then = 'wait' }", "line 4: unknown variant `wait`, expected one of `acknowledge`, `respond`, `reject`".into()),
        ("delivery_timeout = { limit = '1s' }", "line 4: missing field `then`".into()),
        ("on_fence_error = 'ignore'", "line 4: unknown variant `ignore`, expected `reject` or `proceed`".into()),
        (
            "key.query.no_vary_search = 'params=1'",
            "line 4: invalid value: string \"params=1\", expected a value of No-Vary-Search such as 'key-order, params=(\"utm_source\")'".into(),
        ),
        (
            "distributed_lock = '1ms'",
            "line 4: route \"/t/{table}\": invalid distributed_lock 1ms: expected a duration between 100 milliseconds and 5 minutes"
                .into(),
        ),
        // Durations.
        ("stale_if_error = 5", format!("line 4: invalid value: integer `5`, {DURATION}")),
        ("stale_if_error = '5'", format!("line 4: invalid value: string \"5\", {DURATION}")),
        ("stale_if_error = '5 minutes'", format!("line 4: invalid value: string \"5 minutes\", {DURATION}")),
        ("stale_while_revalidate = '30m1h'", format!("line 4: invalid value: string \"30m1h\", {DURATION}")),
        // Numbers.
        ("jitter = 'a bit'", "line 4: invalid value: string \"a bit\", expected a number such as 0.5".into()),
        ("jitter = 1.5", "line 4: route \"/t/{table}\": invalid jitter 1.5: expected a fraction between 0 and 1".into()),
        (
            "refresh_ahead = -1",
            "line 4: route \"/t/{table}\": invalid refresh_ahead -1: expected 0 (off) or a positive number".into(),
        ),
        (
            "max_body = '1 MiB'",
            format!("line 4: invalid value: string \"1 MiB\", {SIZE}"),
        ),
        (
            "max_body = -1",
            format!("line 4: invalid value: integer `-1`, {SIZE}"),
        ),
        // Statuses.
        ("statuses = [404]", "line 4: invalid type: sequence, expected a table of statuses such as { 404 = \"5s\" }".into()),
        ("statuses = { 404 = 5 }", format!("line 4: invalid value: integer `5`, {DURATION}")),
        ("statuses = { 4xx = '5s' }", "line 4: invalid value: string \"4xx\", expected a status from 100 to 999, such as 404".into()),
        ("statuses = { 206 = '5s' }", "line 4: route \"/t/{table}\": a 206 response cannot be stored".into()),
    ] {
        check_refused(line, want);
    }
}

#[test]
fn bad_namespaces_keys_and_tables_are_refused_with_line() {
    for (line, want) in [
        // Namespaces.
        (
            "namespaces = 't'",
            "line 4: invalid value: string \"t\", expected a list of namespaces such as [\"t\", \"t:{table}\"]".into(),
        ),
        (
            "namespaces = ['t:{tabel}']",
            "line 4: route \"/t/{table}\": template \"t:{tabel}\": the route has no parameter `{tabel}`: \
             expected one of `{table}`, `{identity}` if the rule has an identity"
                .into(),
        ),
        (
            "invalidates_on = { delete = ['t'] }",
            "line 4: invalid value: string \"delete\", expected a method in capital letters, such as DELETE".into(),
        ),
        (
            "invalidates = ['t']\ninvalidates_nothing = true",
            "line 5: route \"/t/{table}\": `invalidates_nothing` stands beside `invalidates` or `invalidates_on`; \
             only one can hold"
                .into(),
        ),
        ("invalidates_softly = 'yes'", "line 4: invalid type: string \"yes\", expected a boolean".into()),
        // Lifetimes.
        (
            "uncached = true",
            "line 4: route \"/t/{table}\": a rule has exactly one of `ttl = \"60s\"`, `http = true` and `uncached = true`"
                .into(),
        ),
        // Keys.
        (
            "key = { query = 'unsorted' }",
            "line 4: invalid value: string \"unsorted\", expected \"sorted\", \"as-sent\", { only = [\"page\"] }, \
             { without = [\"utm_*\"] } or { no_vary_search = \"key-order\" }"
                .into(),
        ),
        (
            "key.query = { only = ['a'], without = ['b'] }",
            "line 4: invalid value: a table of several or none, expected \"sorted\", \"as-sent\", { only = [\"page\"] }, \
             { without = [\"utm_*\"] } or { no_vary_search = \"key-order\" }"
                .into(),
        ),
        (
            "key.query.only = ['a*b']",
            "line 4: invalid value: string \"a*b\", expected the decoded name of a query parameter, with at most one `*`, at its end".into(),
        ),
        ("key.headers = ['a b']", "line 4: invalid value: string \"a b\", expected the name of a header field, such as \"accept-language\"".into()),
        ("rpc_statuses = { 5 = '5s' }", "line 4: route \"/t/{table}\": invalid rpc_status: expected a rule for RPC (Rule::rpc(…), or `rpc = true` in a file)".into()),
        (
            "key.body = 'xml'",
            "line 4: invalid value: string \"xml\", expected \"bytes\", \"json\" or \"form\"".into(),
        ),
        ("rpc = true\ngraphql = true", "line 5: route \"/t/{table}\": a rule has at most one of `rpc = true` and `graphql = true`".into()),
        (
            "graphql_documents = 'a'",
            "line 4: invalid value: string \"a\", expected a list of GraphQL documents such as [\"query Notes { notes { text } }\"]".into(),
        ),
        (
            "namespaces_from_header = 'a b'",
            "line 4: invalid value: string \"a b\", expected the name of a header field, such as \"accept-language\"".into(),
        ),
        ("key.cookies = ['a=b']", "line 4: invalid value: string \"a=b\", expected the name of a cookie, such as \"theme\"".into()),
        ("key.path = true", "line 4: unknown field `path`, expected one of `query`, `headers`, `cookies`, `body`, `host`".into()),
        (
            "identity = 'basic'",
            "line 4: invalid value: string \"basic\", expected \"bearer\", \"cookie:NAME\", \"header:NAME\", \
             or { by = one of these, required = true }"
                .into(),
        ),
        (
            "identity = 'header:'",
            "line 4: invalid value: string \"header:\", expected \"bearer\", \"cookie:NAME\", \"header:NAME\", \
             or { by = one of these, required = true }"
                .into(),
        ),
        // Tables around the routes.
        (
            "[[route]]\npath = '/t/{name}'\nttl = '1s'",
            "line 5: route \"/t/{name}\" overlaps with \"/t/{table}\", which was added before".into(),
        ),
        ("[[route]]\nttl = '1s'", "line 4: a route has a `path`, such as \"/t/{table}\"".into()),
        (
            "[[route]]\npath = '/u'",
            "line 4: route \"/u\": a rule has exactly one of `ttl = \"60s\"`, `http = true` and `uncached = true`".into(),
        ),
        ("[[route]]\npath = 'u'\nttl = '1s'", "line 5: route \"u\": a pattern begins with `/`, as in `/tables/{table}`".into()),
        ("[[routes]]\npath = '/u'", "line 4: unknown field `routes`, expected one of `route`, `fallback`, `credential_fields`".into()),
        ("[fallback]\npath = '/u'\nttl = '1s'", "line 5: `fallback` has no `path`: it covers what no route matches".into()),
        (
            "[fallback]\nttl = '1s'\nnamespaces = ['{table}']",
            "line 6: rule without a route: template \"{table}\": `{table}` needs a route that has it: use \
             `.route(\"/…/{table}\", rule)`; without a route there is only `{identity}` if the rule has an identity"
                .into(),
        ),
    ] {
        check_refused(line, want);
    }
    let error = Rules::from_toml("[route]\npath = '/t'").unwrap_err();
    assert_eq!(error.to_string(), "line 1: invalid type: map, expected a list of routes; in TOML each begins with `[[route]]`");
    assert_eq!(error.line(), Some(1));
}

/// Returns the error of a file with one rule of these lines, if there is one.
fn error_of(lines: &str) -> Option<String> {
    Rules::from_toml(&format!("[fallback]\n{lines}\n")).err().map(|error| error.to_string())
}

#[test]
fn kinds_of_rules_need_a_lifetime() {
    for kind in ["rpc", "graphql"] {
        let want = format!("line 2: fallback: `{kind} = true` stands without `ttl`; write `ttl = \"60s\"` beside it");
        assert_eq!(error_of(&format!("{kind} = true\nhttp = true")), Some(want));
    }
}

#[cfg(feature = "graphql")]
#[test]
fn rules_for_graphql_are_read() {
    let options = "graphql_entities = true\ngraphql_documents = ['query Notes { notes { text } }', '{ a }']";
    assert_eq!(error_of(&format!("ttl = '1m'\ngraphql = true\n{options}")), None);
    let misplaced = "expected a rule for GraphQL (Rule::graphql(…), or `graphql = true` in a file)";
    let want = format!("line 3: rule without a route: invalid graphql_entities: {misplaced}");
    assert_eq!(error_of("ttl = '1m'\ngraphql_entities = true"), Some(want));
    let want = "line 4: rule without a route: invalid graphql_document: expected an executable document of at most 16,384 tokens and 64 levels";
    assert_eq!(error_of("ttl = '1m'\ngraphql = true\ngraphql_documents = ['{ a']"), Some(want.into()));
}

#[cfg(not(feature = "graphql"))]
#[test]
fn options_for_graphql_name_the_missing_feature() {
    for line in ["graphql = true", "graphql_entities = true", "graphql_documents = ['{ a }']"] {
        let want = "line 3: fallback: options for GraphQL need the feature `graphql` of this crate";
        assert_eq!(error_of(&format!("ttl = '1m'\n{line}")), Some(want.into()), "{line}");
    }
}

#[test]
fn former_names_are_accepted() {
    let read = |line: &str| Rules::from_toml(&format!("[[route]]\npath = '/t'\nttl = '60s'\n{line}\n"));
    for (former, name, value) in [
        ("early_refresh", "refresh_ahead", "1.0"),
        ("fill_across_processes", "distributed_lock", "'30s'"),
        ("spare_client_errors", "skip_on_client_error", "true"),
        ("spare_errors", "skip_on_error", "true"),
        ("hold", "delivery_timeout", "{ limit = '1s', then = 'acknowledge' }"),
    ] {
        read(&format!("{former} = {value}")).unwrap_or_else(|error| panic!("{former}: {error}"));
        read(&format!("{name} = {value}")).unwrap_or_else(|error| panic!("{name}: {error}"));
        let both = read(&format!("{former} = {value}\n{name} = {value}")).unwrap_err();
        assert!(both.to_string().contains(&format!("duplicate field `{name}`")), "{both}");
    }
}

#[test]
fn json_is_read_like_toml() {
    let rules = r#"{ "route": [{ "path": "/t/{table}", "ttl": "60s", "statuses": { "404": "5s" }, "max_body": 10 }],
        "fallback": { "uncached": true } }"#;
    serde_json::from_str::<Rules>(rules).unwrap();

    for (text, want) in [
        (
            "{\"route\": [{\"path\": \"/t\",\n\"ttl\": 60}]}",
            format!("invalid value: integer `60`, {DURATION} at line 2 column 9"),
        ),
        (
            "{\"route\": [{\"path\": \"/t\", \"ttl\": \"1s\", \"statuses\": {\"404\": \"1s\", \"404\": \"2s\"}}]}",
            "duplicate key `404` at line 1 column 70".into(),
        ),
    ] {
        assert_eq!(serde_json::from_str::<Rules>(text).unwrap_err().to_string(), want);
    }
}

/// Returns the number of calls of the handler after each request, sent some seconds after the previous one.
async fn calls(rules: &str, requests: &[(&str, &str, u64)]) -> Vec<usize> {
    let clock = Clock::manual();
    let store = Memory::builder().clock(clock.clone()).build();
    let rules = Rules::from_toml(rules).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let service = ServiceBuilder::new()
        .layer(CacheLayer::new(store.clone()).rules(rules.clone()))
        .layer(InvalidateLayer::new(store).rules(rules))
        .service(service_fn({
            let count = count.clone();
            move |request: Request<Full<Bytes>>| {
                count.fetch_add(1, Ordering::Relaxed);
                let status = if request.uri().path().ends_with("/none") { StatusCode::NOT_FOUND } else { StatusCode::OK };
                let body = Full::<Bytes>::from("x".repeat(100));
                async move { Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap()) }
            }
        }));
    let mut seen = Vec::new();
    for (method, target, seconds) in requests {
        clock.advance(Duration::from_secs(*seconds));
        let (target, field) = target.split_once(' ').unwrap_or((target, "x-none=1"));
        let (name, value) = field.split_once('=').unwrap();
        let request = Request::builder().method(method.parse::<Method>().unwrap()).uri(target).header(name, value);
        let response = service.clone().oneshot(request.body(Full::default()).unwrap()).await.unwrap();
        response.into_body().collect().await.unwrap();
        seen.push(count.load(Ordering::Relaxed));
    }
    seen
}

#[tokio::test]
async fn each_file_option_has_its_effect() {
    let route = |options: &str| format!("[[route]]\npath = '/t/{{table}}'\nttl = '60s'\n{options}\n");
    for (options, requests, want) in [
        ("", vec![("GET", "/t/a", 0), ("GET", "/t/a", 59), ("GET", "/t/a", 2)], [1, 1, 2]),
        ("statuses.404 = '5s'", vec![("GET", "/t/none", 0), ("GET", "/t/none", 4), ("GET", "/t/none", 2)], [1, 1, 2]),
        ("max_body = 99", vec![("GET", "/t/a", 0), ("GET", "/t/a", 0), ("GET", "/t/a", 0)], [1, 2, 3]),
        ("key.query = 'as-sent'", vec![("GET", "/t/a?x=1&y=2", 0), ("GET", "/t/a?y=2&x=1", 0), ("GET", "/t/a", 0)], [1, 2, 3]),
        ("key.query = 'sorted'", vec![("GET", "/t/a?x=1&y=2", 0), ("GET", "/t/a?y=2&x=1", 0), ("GET", "/t/a", 0)], [1, 1, 2]),
        ("key.query.only = ['x']", vec![("GET", "/t/a?x=1&y=2", 0), ("GET", "/t/a?x=1", 0), ("GET", "/t/a?x=2", 0)], [1, 1, 2]),
        (
            "key.query.without = ['utm_*']",
            vec![("GET", "/t/a?x=1&utm_b=2", 0), ("GET", "/t/a?x=1", 0), ("GET", "/t/a", 0)],
            [1, 1, 2],
        ),
        (
            "key.headers = ['x-v']",
            vec![("GET", "/t/a x-v=1", 0), ("GET", "/t/a x-v=1", 0), ("GET", "/t/a x-v=2", 0)],
            [1, 1, 2],
        ),
        (
            "key.query.no_vary_search = 'key-order'",
            vec![("GET", "/t/a?%78=1&y=2", 0), ("GET", "/t/a?y=2&x=1", 0), ("GET", "/t/a?x=2", 0)],
            [1, 1, 2],
        ),
        ("key.host = false", vec![("GET", "/t/a host=a", 0), ("GET", "/t/a host=b", 0), ("GET", "/t/a", 0)], [1, 1, 1]),
        ("", vec![("GET", "/t/a host=a", 0), ("GET", "/t/a host=b", 0), ("GET", "/t/a host=A", 0)], [1, 2, 2]),
        ("", vec![("GET", "/t/a cookie=s=1", 0), ("GET", "/t/a cookie=s=1", 0), ("GET", "/t/a", 0)], [1, 2, 3]),
        (
            "ignore_credentials = true",
            vec![("GET", "/t/a cookie=s=1", 0), ("GET", "/t/a cookie=s=2", 0), ("GET", "/t/a", 0)],
            [1, 1, 1],
        ),
        (
            "ignore_cookies = true",
            vec![("GET", "/t/a cookie=s=1", 0), ("GET", "/t/a cookie=s=2", 0), ("GET", "/t/a authorization=x", 0)],
            [1, 1, 2],
        ),
        (
            "identity = 'cookie:s'",
            vec![("GET", "/t/a cookie=s=1", 0), ("GET", "/t/a cookie=s=1", 0), ("GET", "/t/a cookie=s=2", 0)],
            [1, 1, 2],
        ),
        (
            "identity = { by = 'header:x-id', required = true }",
            vec![("GET", "/t/a x-id=1", 0), ("GET", "/t/a x-id=1", 0), ("GET", "/t/a", 0)],
            [1, 1, 2],
        ),
        ("namespaces = ['t']", vec![("GET", "/t/a", 0), ("POST", "/t/b", 0), ("GET", "/t/a", 0)], [1, 2, 3]),
        ("namespaces = ['t:{table}']", vec![("GET", "/t/a", 0), ("POST", "/t/b", 0), ("GET", "/t/a", 0)], [1, 2, 2]),
        (
            "namespaces = ['t:{table}']\ninvalidates = ['t']",
            vec![("GET", "/t/a", 0), ("POST", "/t/b", 0), ("GET", "/t/a", 0)],
            [1, 2, 3],
        ),
        (
            "namespaces = ['t']\ninvalidates_nothing = true",
            vec![("GET", "/t/a", 0), ("POST", "/t/a", 0), ("GET", "/t/a", 0)],
            [1, 2, 2],
        ),
        ("namespaces = ['t']\ninvalidates = []", vec![("GET", "/t/a", 0), ("POST", "/t/a", 0), ("GET", "/t/a", 0)], [1, 2, 2]),
        (
            "namespaces = ['t']\ninvalidates_on = { DELETE = ['t'] }",
            vec![("GET", "/t/a", 0), ("POST", "/t/a", 0), ("GET", "/t/a", 0)],
            [1, 2, 2],
        ),
        (
            "namespaces = ['t']\ninvalidates_on = { DELETE = ['t'] }",
            vec![("GET", "/t/a", 0), ("DELETE", "/t/a", 0), ("GET", "/t/a", 0)],
            [1, 2, 3],
        ),
        (
            "namespaces = ['t']\nskip_on_client_error = true",
            vec![("GET", "/t/a", 0), ("POST", "/t/none", 0), ("GET", "/t/a", 0)],
            [1, 2, 2],
        ),
        (
            "namespaces = ['t']\nskip_on_error = true",
            vec![("GET", "/t/a", 0), ("POST", "/t/none", 0), ("GET", "/t/a", 0)],
            [1, 2, 2],
        ),
        (
            "namespaces = ['t']\nspare_errors = true",
            vec![("GET", "/t/a", 0), ("POST", "/t/none", 0), ("GET", "/t/a", 0)],
            [1, 2, 2],
        ),
    ] {
        assert_eq!(calls(&route(options), &requests).await, want, "{options}: {requests:?}");
    }
    let http = |options: &str| format!("[[route]]\npath = '/t/{{table}}'\nhttp = true\n{options}\n");
    let twice = |later: u64| [("GET", "/t/a", 0), ("GET", "/t/a", later), ("GET", "/t/a", 0)];
    for (options, later, want) in [
        ("", 0, [1, 2, 3]),
        ("default_ttl = '5s'", 4, [1, 1, 1]),
        ("default_ttl = '5s'", 5, [1, 2, 2]),
        ("default_ttl = '5s'\nstale_while_revalidate = '5s'", 0, [1, 1, 1]),
        ("targeted = ['x-own']", 0, [1, 2, 3]),
        ("statuses = { 200 = '5s' }", 4, [1, 1, 1]),
    ] {
        assert_eq!(calls(&http(options), &twice(later)).await, want, "{options}, after {later} s");
    }
    let fallback = "[[route]]\npath = '/t'\nuncached = true\n[fallback]\nttl = '1s'";
    assert_eq!(calls(fallback, &[("GET", "/t", 0), ("GET", "/t", 0), ("GET", "/u", 0), ("GET", "/u", 0)]).await, [1, 2, 3, 3]);
}
