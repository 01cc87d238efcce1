//! An HTTP client that measures the duration of every exchange.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use axum::{
    body::Bytes,
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client as Legacy, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

use super::{BoxError, seed};

pub(crate) struct Client {
    http: Legacy<HttpConnector, Full<Bytes>>,
    server: SocketAddr,
}

/// A response with its whole body.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Time from the first byte of the request to the last byte of the response.
    pub(crate) took: Duration,
}

impl Client {
    pub(crate) fn new(server: SocketAddr) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { http: Legacy::builder(TokioExecutor::new()).build(connector), server }
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: impl Into<Bytes>,
    ) -> Result<Reply, BoxError> {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.server));
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body.into()))?;
        let begun = Instant::now();
        let (head, body) = self.http.request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Reply { status: head.status, headers: head.headers, body, took: begun.elapsed() })
    }

    /// Logs in with one of the accounts of [`seed`] and returns the token.
    pub(crate) async fn login(&self, user: usize) -> Result<String, BoxError> {
        let body = serde_json::json!({ "name": format!("user{user}"), "password": seed::password(user) });
        let reply = self.send(Method::POST, "/auth/login", None, body.to_string()).await?;
        let token = reply.json()["token"].as_str().map(str::to_owned);
        token.ok_or_else(|| format!("login as user{user}: {}", reply.status).into())
    }
}

impl Reply {
    /// Returns `Cache-Status` (RFC 9211), or an empty text.
    pub(crate) fn cache_status(&self) -> &str {
        self.headers.get("cache-status").and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Returns whether the response is a hit: `Cache-Status: name; hit`.
    pub(crate) fn hit(&self) -> bool {
        self.cache_status().split(';').skip(1).any(|parameter| parameter.trim() == "hit")
    }

    /// Parses the body as JSON; null if it is not JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}
