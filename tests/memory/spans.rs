//! Spans: one for each fill, and none for a hit.

use http::{Response, StatusCode};
use tower::{Layer, ServiceExt, service_fn};
use tower_response_cache::{CacheLayer, Memory, Rule};

use crate::common::{MINUTE, Plain, counting, get, ok, one_rule, post, send, spans::Spans};

fn layer() -> CacheLayer<Memory> {
    CacheLayer::new(Memory::new(1 << 20)).rules(one_rule(Rule::ttl(MINUTE)))
}

#[test]
fn each_fill_has_one_span_and_a_hit_none() {
    let spans = Spans::during(async {
        let service = layer().layer(counting(|_, _| ok("rows")).0);
        for _ in 0..3 {
            for request in [get("/t/a"), get("/t/b?secret=1"), post("/t/a"), get("/other")] {
                send(&service, request).await;
            }
        }
    });
    assert_eq!(spans.len(), 2, "{spans:?}");
    for span in &spans {
        assert_eq!((span.name, span.get("http.route")), ("cache fill", "/t/{table}"));
        assert_eq!(
            (span.get("cache.reason"), span.get("http.response.status_code"), span.get("error.type")),
            ("absent", "200", "")
        );
        assert!(!format!("{span:?}").contains("secret"), "no path: {span:?}");
    }
}

#[test]
fn span_of_a_failed_fill_has_the_error_type() {
    let spans = Spans::during(async {
        let failing = layer().layer(service_fn(async |_| Err::<Response<Plain>, _>("down")));
        failing.oneshot(get("/t/a")).await.map(|_| ()).expect_err("the inner service fails");
        let refusing = layer().layer(
            counting(|_, _| {
                let mut response = ok("");
                *response.status_mut() = StatusCode::BAD_GATEWAY;
                response
            })
            .0,
        );
        send(&refusing, get("/t/a")).await;
    });
    let errors: Vec<_> = spans.iter().map(|span| (span.get("error.type"), span.get("http.response.status_code"))).collect();
    assert_eq!(errors, [("inner_service", ""), ("502", "502")]);
}
