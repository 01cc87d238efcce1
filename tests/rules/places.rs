//! The places of faults in a file of rules: the line and the column of the value at fault.

use tower_response_cache::Rules;

/// Checks the place and the text of the error of a file. `§` marks the place, and is not part of the file.
fn check(marked: &str, message: &str) {
    let (before, after) = marked.split_once('§').expect("a mark");
    let line = 1 + before.matches('\n').count();
    let column = 1 + before.rsplit('\n').next().unwrap_or_default().chars().count();
    let text = format!("{before}{after}");
    let error = Rules::from_toml(&text).expect_err(&text);
    assert_eq!((error.line(), error.column()), (Some(line), Some(column)), "{text}\n{error}");
    assert!(error.to_string().contains(message), "{message}: {error}");
}

/// Checks the error of a file whose second route has these lines.
fn check_route(lines: &str, message: &str) {
    check(
        &format!("# é\n[[route]]\npath = '/first'\nttl = '1s'\n[[route]] # the second\npath = '/t/{{table}}'\n{lines}\n"),
        message,
    );
}

#[test]
fn wrong_values_have_their_own_place() {
    for (lines, message) in [
        ("ttl = §'60'", "expected a duration"),
        ("ttl = '60s'\n§ttls = 1", "unknown field `ttls`"),
        ("ttl = '60s'\nmax_body = §'1 MB'", "expected a size"),
        ("ttl = '60s'\njitter = §'a bit'", "expected a number"),
        ("ttl = '60s'\nidentity = §'basic'", "expected \"bearer\""),
        ("ttl = '60s'\nidentity = { by = §'basic' }", "expected \"bearer\""),
        ("ttl = '60s'\nstatuses = { 200 = '1s', §99 = '5s' }", "expected a status"),
        ("ttl = '60s'\nstatuses = { 200 = '1s', 404 = §5 }", "expected a duration"),
        ("ttl = '60s'\nrpc = true\nrpc_statuses = { §0 = '5s' }", "number of a gRPC status"),
        ("ttl = '60s'\nnamespaces = ['a', §7]", "expected a namespace"),
        ("ttl = '60s'\ninvalidates_on = { PUT = ['a'], §delete = ['a'] }", "expected a method in capital letters"),
        ("ttl = '60s'\ninvalidates_on = { PUT = ['a', §7] }", "expected a namespace"),
        ("ttl = '60s'\nkey.headers = ['accept', §'a b']", "expected the name of a header field"),
        ("ttl = '60s'\nkey = { cookies = [\n  'a', # é\n  §'b=c',\n] }", "expected the name of a cookie"),
        ("ttl = '60s'\nkey.body = §'xml'", "expected \"bytes\", \"json\" or \"form\""),
        ("ttl = '60s'\nkey.query = §'unsorted'", "expected \"sorted\""),
        ("ttl = '60s'\nkey.query.only = ['a', §'a*b']", "expected the decoded name of a query parameter"),
        ("ttl = '60s'\nkey.query.no_vary_search = §'params=1'", "expected a value of No-Vary-Search"),
        ("ttl = '60s'\nnormalise = { accept_language = §'none' }", "unknown variant `none`"),
        ("ttl = '60s'\non_fence_error = §'ignore'", "unknown variant `ignore`"),
        ("ttl = '60s'\ndelivery_timeout = { limit = '1s', then = §'wait' }", "unknown variant `wait`"),
        ("ttl = '60s'\nnamespaces_from_header = §'a b'", "expected the name of a header field"),
        ("ttl = '60s'\netag = §1", "expected a boolean"),
        ("ttl = '60s'\nresponse_rules = §{ status = 404 }", "expected a list of response rules"),
        ("ttl = '60s'\nresponse_rules = [{ status = 404 }, { §state = 404 }]", "unknown field `state`"),
        ("ttl = '60s'\nresponse_rules = [{ status = §[], no_store = true }]", "an empty list: expected a status such as 404"),
        ("ttl = '60s'\nresponse_rules = [{ content_type = §[] }]", "an empty list: expected a media type"),
        (
            "ttl = '60s'\nresponse_rules = [{ status = §'4xx' }]",
            "expected a status such as 404, a range such as \"500-599\", or a list of them",
        ),
        (
            "ttl = '60s'\nresponse_rules = [{ status = [404, §'5xx'] }]",
            "expected a status such as 404, or a range such as \"500-599\"",
        ),
        ("ttl = '60s'\nresponse_rules = [{ headers = { x-a = '*', §'a b' = '*' } }]", "expected the name of a header field"),
        ("ttl = '60s'\nresponse_rules = [{ headers = { x-a = §true } }]", "expected a pattern"),
        ("ttl = '60s'\nresponse_rules = [{ ttl = §5 }]", "expected a duration"),
    ] {
        check_route(lines, message);
    }
    check("credential_fields.add = ['x', §'a b']", "expected the name of a header field");
    check("[[§routes]]\npath = '/u'", "unknown field `routes`");
}

#[test]
fn faults_of_whole_rules_have_the_place_of_the_value() {
    for (lines, message) in [
        // Namespaces.
        ("ttl = '60s'\nnamespaces = ['a', §'t:{id}']", "the route has no parameter `{id}`: expected one of `{table}`"),
        ("ttl = '60s'\nnamespaces = [\n  'a',\n  §\"of:{identity}\",\n]", "the rule's key holds no identity"),
        ("ttl = '60s'\nnamespaces = ['a', §'t:{table']", "unmatched brace"),
        ("ttl = '60s'\nnamespaces = ['a', §'']", "template \"\""),
        ("ttl = '60s'\nnamespaces = ['a']\ninvalidates = ['b', §'t:{id}']", "the route has no parameter `{id}`"),
        ("ttl = '60s'\ninvalidates_on = { PUT = ['b'], DELETE = ['c', §'{id}'] }", "the route has no parameter `{id}`"),
        ("ttl = '60s'\n[route.invalidates_on]\nPUT = ['b']\nDELETE = ['c', §'{id}']", "the route has no parameter `{id}`"),
        // Response rules.
        (
            "ttl = '60s'\nresponse_rules = [{ status = 404 }, { namespaces = ['a', §'{id}'] }]",
            "the route has no parameter `{id}`",
        ),
        (
            "ttl = '60s'\n[[route.response_rules]]\nttl = '1s'\nno_store = §true",
            "response rule 1: `no_store` stands beside a lifetime",
        ),
        (
            "ttl = '60s'\n[[route.response_rules]]\n[[route.response_rules]]\nstatus = §'599-500'",
            "response rule 2: invalid statuses 599-500",
        ),
        ("ttl = '60s'\n[[route.response_rules]]\nstatus = §304", "a 304 response cannot be stored"),
        (
            "ttl = '60s'\n[[route.response_rules]]\nstatus = §1000",
            "invalid statuses 1000-1000: expected a range within 100-999",
        ),
        ("ttl = '60s'\n[[route.response_rules]]\ncontent_type = §'html'", "expected a media type such as \"text/html\""),
        ("uncached = true\nresponse_rules = §[{ ttl = '1s' }]", "invalid response_rule: expected a rule that caches"),
        // Values out of range.
        ("ttl = '60s'\njitter = §1.5", "invalid jitter 1.5: expected a fraction between 0 and 1"),
        ("ttl = '60s'\nrefresh_ahead = §-1", "invalid refresh_ahead -1"),
        ("ttl = '60s'\nearly_refresh = §-1", "invalid refresh_ahead -1"),
        ("ttl = '60s'\naudit = §2", "invalid audit 2"),
        ("ttl = '60s'\ndistributed_lock = §'1ms'", "invalid distributed_lock 1ms"),
        ("ttl = '60s'\nfill_across_processes = §'1h'", "invalid distributed_lock 3600s"),
        ("ttl = '60s'\nstatuses = { 200 = '1s', §206 = '5s' }", "a 206 response cannot be stored"),
        ("ttl = '60s'\n[route.statuses]\n404 = '1s'\n§101 = '5s'", "a 101 response cannot be stored"),
        // Options of another kind of rule.
        ("ttl = '60s'\nheuristics = §true", "invalid heuristics: expected a rule under which HTTP decides"),
        ("ttl = '60s'\ntargeted = §['a']", "invalid targeted"),
        ("ttl = '60s'\nrpc_statuses = §{ 5 = '5s' }", "invalid rpc_status: expected a rule for RPC"),
        ("ttl = '60s'\nrpc_age = §true", "invalid rpc_age: expected a rule for RPC"),
        // Options that contradict each other.
        ("http = true\nttl = §'60s'", "exactly one of"),
        ("ttl = '60s'\nhttp = true\nuncached = §true", "exactly one of"),
        ("ttl = '60s'\nrpc = true\ngraphql = §true", "at most one of"),
        ("http = true\nrpc = §true", "stands without `ttl`"),
        ("ttl = '60s'\ninvalidates_nothing = §true\ninvalidates = ['a']", "`invalidates_nothing` stands beside"),
        // Routes that contradict each other.
        ("ttl = '60s'\n[[route]]\npath = §'/t/{x}'\nttl = '1s'", "overlaps with \"/t/{table}\""),
        ("ttl = '60s'\n[[route]]\nttl = '1s'\npath = §'/first'", "overlaps with \"/first\""),
        ("ttl = '60s'\n[[route]]\npath = §'t'\nttl = '1s'", "a pattern begins with `/`"),
        ("ttl = '60s'\n[[route]]\npath = §'/t/:id'\nttl = '1s'", "is plain text, not a parameter"),
        ("ttl = '60s'\n[[route]]\npath = §'/t/{a}{b}'\nttl = '1s'", "a segment has more than one parameter"),
        ("ttl = '60s'\n[fallback]\npath = §'/u'\nttl = '1s'", "`fallback` has no `path`"),
        ("ttl = '60s'\n[fallback]\nttl = '1s'\njitter = §2", "invalid jitter 2"),
        ("ttl = '60s'\n[fallback]\nttl = '1s'\nnamespaces = [§'{table}']", "`{table}` needs a route that has it"),
    ] {
        check_route(lines, message);
    }
    check("route = [{ path = '/a', ttl = '1s' }, { path = '/b', ttl = '1s', jitter = §3 }]", "invalid jitter 3");
}

#[test]
fn missing_options_have_the_place_of_the_rule() {
    check("[[route]]\npath = '/a'\nttl = '1s'\n§[[route]]\npath = '/b'", "exactly one of");
    check("[[route]]\npath = '/a'\nttl = '1s'\n§[[route]]\nttl = '1s'", "a route has a `path`");
    check("[[route]]\npath = '/a'\nttl = '1s'\ndelivery_timeout = §{ limit = '1s' }", "missing field `then`");
}

#[cfg(feature = "graphql")]
#[test]
fn faults_of_rules_for_graphql_have_the_place_of_the_value() {
    check_route("ttl = '60s'\ngraphql_entities = §true", "invalid graphql_entities");
    check_route("ttl = '60s'\ngraphql_documents = §['{ a }']", "invalid graphql_document");
    let documents = "graphql_documents = ['{ a }', §'{ a']";
    check_route(&format!("ttl = '60s'\ngraphql = true\n{documents}"), "expected an executable document");
}

#[cfg(not(feature = "graphql"))]
#[test]
fn missing_feature_has_the_place_of_the_option() {
    for line in ["graphql = §true", "graphql_entities = §true", "graphql_documents = §['{ a }']"] {
        check_route(&format!("ttl = '60s'\n{line}"), "need the feature `graphql`");
    }
}
