//! The page without its script.

use http::{Method, StatusCode};
use tower_response_cache::{Memory, Outcome, ResponseCache, Rule, inspector::Inspector, status::Miss};

use super::{App, TOKEN, rules};
use crate::common::MINUTE;

#[tokio::test]
async fn page_shows_figures_without_a_script() {
    let app = App::new();
    app.get("/t/a").await;
    app.get("/t/a").await;
    let page = app.ask(Method::GET, "/", "").await;
    assert_eq!((page.status, page.field("content-type")), (StatusCode::OK, "text/html; charset=utf-8"));
    for part in
        ["id=\"hit-ratio\">50.0 %<", "id=\"answered\">1<", "id=\"missed\">1<", "/t/{table}", "<caption>", "<svg", "absent"]
    {
        assert!(page.text.contains(part), "{part}: {}", page.text);
    }
    let nonce = page
        .field("content-security-policy")
        .split("'nonce-")
        .nth(1)
        .and_then(|rest| rest.split('\'').next())
        .expect("a nonce");
    assert_eq!(page.text.matches(&format!("nonce=\"{nonce}\"")).count(), 2, "the style and the script");
    for loads in ["http://", "https://", " src=", "url("] {
        assert!(!page.text.contains(loads), "{loads} in {}", page.text);
    }
    let again = app.ask(Method::GET, "/", "").await;
    assert!(!again.field("content-security-policy").contains(nonce), "a nonce is used once");
}

#[tokio::test]
async fn script_fetches_the_figures_alone() {
    let app = App::new();
    app.get("/t/a").await;
    let part = app.ask(Method::GET, "/?part=live", "").await;
    assert!(part.text.starts_with("<div id=\"live\">") && part.text.contains("id=\"missed\">1<"), "{}", part.text);
    assert!(!part.text.contains("<style") && !part.text.contains("<script"), "{}", part.text);
}

#[tokio::test]
async fn forms_explain_and_purge_without_a_script() {
    let app = App::new();
    app.get("/t/a").await;
    let page = app.ask(Method::POST, "/", "action=explain&request=%2Ft%2Fa").await;
    assert!(page.text.contains("<strong id=\"outcome\">hit</strong>"), "{}", page.text);
    let page = app.ask(Method::POST, "/", "action=purge&namespace=db%3Aa&uri=").await;
    assert!(page.text.contains("Purged, and visible"), "{}", page.text);
    assert_eq!(app.get("/t/a").await, Some(Outcome::Miss(Miss::Absent)));
    let page = app.ask(Method::POST, "/", "action=purge&namespace=&uri=").await;
    assert!(page.text.contains("Not purged"), "{}", page.text);
}

#[tokio::test]
async fn page_escapes_what_requests_contain() {
    let app = App::new();
    let page = app.ask(Method::POST, "/", "action=explain&request=%2Ft%2Fa%3F%3Cscript%3Ealert(1)%3C%2Fscript%3E%22x").await;
    assert!(page.text.contains("&lt;script&gt;alert") && !page.text.contains("<script>alert"), "{}", page.text);
}

#[tokio::test]
async fn page_and_report_show_the_findings_of_lint() {
    let rule = || Rule::ttl(MINUTE).namespace("db");
    let cache = ResponseCache::new(Memory::default()).rules(rules().fallback(rule()).fallback(rule()));
    let inspector = Inspector::builder(cache.clone()).token(TOKEN).build().expect("a token");
    let app = App::with(cache, inspector);
    let finding = app.json("/api/stats").await["findings"][0].clone();
    assert_eq!((&finding["kind"], &finding["route"]), (&"unmatched-rule".into(), &"(any)".into()));
    let page = app.ask(Method::GET, "/", "").await.text;
    for name in ["kind", "problem"] {
        assert!(page.contains(finding[name].as_str().expect("text")), "{name}: {page}");
    }
    let clean = App::new();
    assert_eq!(clean.json("/api/stats").await["findings"], serde_json::json!([]));
    assert!(!clean.ask(Method::GET, "/", "").await.text.contains("id=\"findings\""));
}
