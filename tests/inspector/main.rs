//! The Inspector over an axum router: access, figures, explanations and purges.

#[path = "../common/mod.rs"]
mod common;

mod access;
mod figures;
mod hottest;
mod page;
mod purges;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{Router, body::Body as AxumBody, routing};
use common::*;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::Value;
use tower_response_cache::{
    AnyStore, CacheStatus, Identity, Memory, Outcome, ResponseCache, Rule, Rules, inspector::Inspector,
};

const TOKEN: &str = "a-long-random-token";

fn rules() -> Rules {
    Rules::new()
        .route("/t/{table}", Rule::ttl(MINUTE).namespace("db:{table}"))
        .route("/me", Rule::ttl(MINUTE).identity(Identity::bearer()).namespace("user:{identity}"))
        .route("/cookie", Rule::ttl(MINUTE).namespace("db"))
}

/// An application whose cache is inspected at `/_cache`.
struct App {
    router: Router,
    cache: ResponseCache,
    calls: Arc<AtomicUsize>,
}

impl App {
    fn new() -> Self {
        Self::over(Memory::default())
    }

    fn over(store: impl Into<AnyStore>) -> Self {
        let cache = ResponseCache::new(store).rules(rules()).status_extension(true);
        let inspector = Inspector::builder(cache.clone()).token(TOKEN).build().expect("a token");
        Self::with(cache, inspector)
    }

    fn with(cache: ResponseCache, inspector: Inspector) -> Self {
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = calls.clone();
        let rows = async move || {
            counter.fetch_add(1, Ordering::SeqCst);
            "0123456789"
        };
        let router = Router::new()
            .route("/t/{table}", routing::get(rows.clone()))
            .route("/me", routing::get(rows))
            .route("/cookie", routing::get(async || ([(header::SET_COOKIE, "a=b")], "x")))
            .layer(cache.layer())
            .nest_service("/_cache", inspector);
        Self { router, cache, calls }
    }

    /// Sends a GET to the application, reads the response, and returns its outcome.
    async fn get(&self, target: &str) -> Option<Outcome> {
        let response = send(&self.router, request(Method::GET, target, &[], "")).await;
        let outcome = response.extensions().get::<CacheStatus>().map(CacheStatus::outcome);
        response.into_body().collect().await.expect("a whole body");
        outcome
    }

    /// Sends a request with the token to the Inspector.
    async fn ask(&self, method: Method, path: &str, content: &str) -> Answer {
        let kind = if content.starts_with('{') { "application/json" } else { "application/x-www-form-urlencoded" };
        let bearer = format!("Bearer {TOKEN}");
        self.send(method, path, &[("authorization", &bearer), ("content-type", kind)], content).await
    }

    async fn send(&self, method: Method, path: &str, fields: &[(&str, &str)], content: &str) -> Answer {
        Answer::of(send(&self.router, request(method, &format!("/_cache{path}"), fields, content)).await).await
    }

    async fn json(&self, path: &str) -> Value {
        let answer = self.ask(Method::GET, path, "").await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer.json()
    }
}

/// A response that was read.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    async fn of<B>(response: Response<B>) -> Self
    where
        B: http_body::Body<Error: Into<tower_response_cache::BoxError>>,
    {
        let (status, headers) = (response.status(), response.headers().clone());
        Self { status, headers, text: text(response).await }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text).expect("JSON")
    }

    fn field(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }
}

fn request(method: Method, target: &str, fields: &[(&str, &str)], content: &str) -> Request<AxumBody> {
    let request = Request::builder().method(method).uri(target).header("host", "app.example");
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(AxumBody::from(content.to_owned())).expect("a valid request")
}
