//! The figures of audits in the Inspector.

use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::{Layer, ServiceExt};
use tower_response_cache::{ResponseCache, Store, inspector::Inspector};

use crate::{Origin, audited, audits, common::*, memory};

#[tokio::test]
async fn inspector_shows_audits_by_result_and_part() {
    let (store, origin) = (memory(), Origin::new("old"));
    let cache = ResponseCache::new(store.clone())
        .route("/t/{table}", audited())
        .map_cache_layer(|layer| layer.audit_body(Plain::new).audit_grace(Duration::ZERO));
    let service = cache.cache_layer().layer(origin.service());
    send(&service, get("/t/a")).await;
    origin.set("new");
    send(&service, get("/t/a")).await;
    audits(&store, 1).await;
    assert!(store.stats().to_string().contains("audits 1 (differed 1)"));
    let inspector = Inspector::builder(cache).behind_own_authentication().build().unwrap();
    let read = async |path: &str| {
        let request = Request::get(path).header("host", "admin").body(Plain::default()).unwrap();
        inspector.clone().oneshot(request).await.unwrap().into_body().collect().await.unwrap().to_bytes()
    };
    let stats: Value = serde_json::from_slice(&read("/api/stats").await).unwrap();
    let shown = &stats["stats"]["routes"][0]["audits"];
    assert_eq!((&shown["results"]["differed"], &shown["results"]["same"]), (&json!(1), &json!(0)));
    assert_eq!(shown["differences"], json!([{ "part": "body", "field": null, "count": 1 }]));
    let page = String::from_utf8(read("/").await.to_vec()).unwrap();
    assert!(page.contains("Audits") && page.contains("body (1)"), "{page}");
}
