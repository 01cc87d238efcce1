//! The schema accepts every file that the loader accepts. It refuses the files that the loader refuses, if the fault is one of form.

use std::{collections::BTreeSet, fs, path::Path};

use jsonschema::Validator;
use serde_json::Value;
use tower_response_cache::{Rules, rules::RulesFile};

fn schema() -> Value {
    serde_json::from_str(RulesFile::json_schema()).expect("JSON")
}

fn validator() -> Validator {
    jsonschema::draft7::new(&schema()).expect("a schema of draft 7")
}

fn json(text: &str) -> Value {
    toml::from_str(text).unwrap_or_else(|error| panic!("{text}{error}"))
}

/// Returns the path from here to a file of the repository.
fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Returns the paths of all files below a folder, without those of builds.
fn files_below(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match path.is_dir() {
            true if name == "target" || name.starts_with('.') => {}
            true => files_below(&path, found),
            false => found.push(path),
        }
    }
}

/// Returns the files of rules, and the blocks of rules in texts and comments, with their paths.
fn rules_in_repository() -> Vec<(String, String)> {
    let mut paths = Vec::new();
    ["docs", "examples", "src", "tests"].iter().for_each(|folder| files_below(&repository().join(folder), &mut paths));
    let mut found = Vec::new();
    for path in paths {
        let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let name = path.strip_prefix(repository()).expect("it is below").display().to_string();
        let is_rules = |text: &str| text.lines().any(|line| line.trim() == "[[route]]" || line.trim() == "[fallback]");
        match extension.as_str() {
            "toml" if is_rules(&text) => found.push((name, text)),
            "md" => {
                let blocks = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
                found.extend(blocks.filter(|block| is_rules(block)).map(|block| (name.clone(), block.to_owned())));
            }
            "rs" if name.starts_with("src") => {
                let docs: Vec<_> = text.lines().filter_map(|line| line.trim().strip_prefix("///")).collect();
                let docs = docs.join("\n");
                let blocks = docs.split("r#\"").skip(1).filter_map(|rest| rest.split("\"#").next());
                found.extend(blocks.filter(|block| is_rules(block)).map(|block| (name.clone(), block.to_owned())));
            }
            _ => {}
        }
    }
    found
}

#[test]
fn files_of_the_repository_are_valid() {
    let validator = validator();
    let found = rules_in_repository();
    for name in ["docs/operations.md", "examples/gateway.toml", "src/rules/config/mod.rs"] {
        assert!(found.iter().any(|(path, _)| path == name), "{name} has rules: {found:?}");
    }
    for (path, text) in found {
        Rules::from_toml(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
        let errors: Vec<_> =
            validator.iter_errors(&json(&text)).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(errors.is_empty(), "{path}: {errors:#?}");
    }
}

/// Returns the names that an error of the loader lists for an unknown name in a table.
fn names(file: &str) -> BTreeSet<String> {
    let error = Rules::from_toml(file).expect_err("an unknown name").to_string();
    let (_, listed) = error.split_once("expected one of ").unwrap_or_else(|| panic!("{error}"));
    listed.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn schema_has_the_names_of_the_loader() {
    let schema = schema();
    let route = "[[route]]\npath = '/a'\nttl = '1s'\n";
    for (pointer, file) in [
        ("", "unknown = 1".to_owned()),
        ("/properties/credential_fields", "[credential_fields]\nunknown = 1".into()),
        ("/properties/route/items", format!("{route}unknown = 1")),
        ("/properties/route/items/properties/key", format!("{route}key.unknown = 1")),
        ("/properties/route/items/properties/normalise", format!("{route}normalise.unknown = 1")),
        ("/properties/route/items/properties/delivery_timeout", format!("{route}delivery_timeout.unknown = 1")),
        ("/properties/route/items/properties/response_rules/items", format!("{route}response_rules = [{{ unknown = 1 }}]")),
        ("/properties/route/items/properties/identity/anyOf/1", format!("{route}identity.unknown = 1")),
        ("/properties/route/items/properties/key/properties/query/anyOf/1", format!("{route}key.query.unknown = 1")),
    ] {
        let table = schema.pointer(&format!("{pointer}/properties")).and_then(Value::as_object);
        let known: BTreeSet<String> = table.unwrap_or_else(|| panic!("{pointer}")).keys().cloned().collect();
        let error = Rules::from_toml(&file).expect_err("an unknown name").to_string();
        let listed = match error.contains("expected one of") {
            true => names(&file),
            // Two names are listed as `a` or `b`.
            false => {
                error.split("expected ").last().unwrap_or_default().split('`').skip(1).step_by(2).map(str::to_owned).collect()
            }
        };
        assert_eq!(known, listed, "{pointer}: {error}");
    }
    let mut fallback = names(&format!("{route}unknown = 1"));
    fallback.remove("path");
    let known = schema.pointer("/properties/fallback/properties").and_then(Value::as_object).expect("a table");
    assert_eq!(known.keys().cloned().collect::<BTreeSet<_>>(), fallback);
}

#[test]
fn schema_refuses_what_the_loader_refuses() {
    let validator = validator();
    let route = |lines: &str| format!("[[route]]\npath = '/t/{{table}}'\n{lines}\n");
    assert!(validator.is_valid(&json(&route("ttl = '60s'"))), "the lines alone are at fault");
    for text in [
        "[[routes]]\npath = '/a'".to_owned(),
        "[route]\npath = '/a'\nttl = '1s'".into(),
        "[[route]]\nttl = '1s'".into(),
        "[[route]]\npath = 'a'\nttl = '1s'".into(),
        "[fallback]\npath = '/a'\nttl = '1s'".into(),
        "[credential_fields]\nadd = ['a b']".into(),
    ]
    .into_iter()
    .chain(
        [
            "",
            "ttl = 60",
            "ttl = '60'",
            "ttl = '30m1h'",
            "ttl = ''",
            "ttl = '1s'\nttls = 1",
            "ttl = '1s'\nhttp = true",
            "http = true\nuncached = true",
            "http = false",
            "http = true\nrpc = true",
            "ttl = '1s'\nrpc = true\ngraphql = true",
            "ttl = '1s'\nheuristics = true",
            "ttl = '1s'\ndefault_ttl = '1s'",
            "ttl = '1s'\njitter = 1.5",
            "ttl = '1s'\njitter = 'a bit'",
            "ttl = '1s'\nrefresh_ahead = -1",
            "ttl = '1s'\nearly_refresh = -1",
            "ttl = '1s'\naudit = 0",
            "ttl = '1s'\nmax_body = '1 MiB'",
            "ttl = '1s'\nmax_body = -1",
            "ttl = '1s'\nstatuses = [404]",
            "ttl = '1s'\nstatuses = { 4xx = '5s' }",
            "ttl = '1s'\nstatuses = { 404 = 5 }",
            "ttl = '1s'\nrpc = true\nrpc_statuses = { 0 = '5s' }",
            "ttl = '1s'\nnamespaces = 't'",
            "ttl = '1s'\nnamespaces = ['t', 7]",
            "ttl = '1s'\nnamespaces = ['']",
            "ttl = '1s'\ninvalidates_on = { delete = ['t'] }",
            "ttl = '1s'\ninvalidates = ['t']\ninvalidates_nothing = true",
            "ttl = '1s'\ninvalidates_softly = 'yes'",
            "ttl = '1s'\nidentity = 'basic'",
            "ttl = '1s'\nidentity = 'header:'",
            "ttl = '1s'\nidentity = { required = true }",
            "ttl = '1s'\nkey.query = 'unsorted'",
            "ttl = '1s'\nkey.query = { only = ['a'], without = ['b'] }",
            "ttl = '1s'\nkey.query = {}",
            "ttl = '1s'\nkey.headers = ['a b']",
            "ttl = '1s'\nkey.body = 'xml'",
            "ttl = '1s'\nkey.cookies = ['a=b']",
            "ttl = '1s'\nkey.path = true",
            "ttl = '1s'\nnormalise.accept_language = 'none'",
            "ttl = '1s'\ndelivery_timeout = { limit = '1s' }",
            "ttl = '1s'\ndelivery_timeout = { limit = '1s', then = 'wait' }",
            "ttl = '1s'\non_fence_error = 'ignore'",
            "ttl = '1s'\nnamespaces_from_header = 'a b'",
            "ttl = '1s'\ngraphql_documents = 'a'",
            "ttl = '1s'\nresponse_rules = { status = 404 }",
            "ttl = '1s'\nresponse_rules = [{ status = '4xx' }]",
            "ttl = '1s'\nresponse_rules = [{ status = 99 }]",
            "ttl = '1s'\nresponse_rules = [{ content_type = 'html' }]",
            "ttl = '1s'\nresponse_rules = [{ content_type = [] }]",
            "ttl = '1s'\nresponse_rules = [{ status = [] }]",
            "ttl = '1s'\nresponse_rules = [{ headers = { 'a b' = '*' } }]",
            "ttl = '1s'\nresponse_rules = [{ headers = { a = true } }]",
            "ttl = '1s'\nresponse_rules = [{ ttl = 5 }]",
            "ttl = '1s'\nresponse_rules = [{ when = 5 }]",
        ]
        .map(route),
    ) {
        assert!(Rules::from_toml(&text).is_err(), "the loader accepts {text}");
        assert!(!validator.is_valid(&json(&text)), "the schema accepts {text}");
    }
}

#[test]
fn schema_accepts_what_the_loader_accepts() {
    let validator = validator();
    for lines in [
        "ttl = '1h30m'\nhttp = false\nuncached = false",
        "ttl = '1m1ms'\nmax_body = 10\nmax_request_body = '64KiB'",
        "ttl = '1s'\nearly_refresh = 1\nfill_across_processes = '30s'\nspare_client_errors = true\nspare_errors = true",
        "ttl = '1s'\nhold = { limit = '1s', then = 'acknowledge' }",
        "http = true\ndefault_ttl = '0s'\nheuristics = true\ntargeted = ['cdn-cache-control']\nkeep_for_validation = '2d'",
        "uncached = true\ninvalidates_on = { DELETE = ['t'], M-SEARCH = [] }",
        "ttl = '1s'\nidentity = { by = 'cookie:session', required = true }\nnamespaces = ['of:{identity}']",
        "ttl = '1s'\nrpc = true\nrpc_statuses = { 5 = '5s' }",
        "ttl = '1s'\ngraphql = true\ngraphql_documents = ['{ a }']",
        "ttl = '1s'\ninvalidates = []\ninvalidates_nothing = false",
        "ttl = '1s'\nkey = { query = { no_vary_search = 'key-order' }, headers = ['a'], cookies = ['b'], body = 'json', host = false }",
        "ttl = '1s'\nresponse_rules = [{ status = [404, '500-599'], content_type = 'image/*', headers = { X-A = '*' }, ttl = '5s' }, {}]",
        "ttl = '1s'\nresponse_rules = [{ status = '404', content_type = ['text/html'], no_store = true }, { namespaces = ['a'] }]",
    ] {
        let text = format!("[[route]]\npath = '/a'\n{lines}\n");
        Rules::from_toml(&text).unwrap_or_else(|error| panic!("{text}{error}"));
        let errors: Vec<_> =
            validator.iter_errors(&json(&text)).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(errors.is_empty(), "{text}{errors:#?}");
    }
}
