//! A plain HTTP client, one for each simulated user of the demonstration, which takes the time of every exchange.

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

use super::{Fault, seed};

pub(crate) struct Client {
    http: Legacy<HttpConnector, Full<Bytes>>,
    server: SocketAddr,
}

/// An answer, read to its end.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// From the request's first byte to the answer's last.
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
    ) -> Result<Reply, Fault> {
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

    /// A new token for one of the accounts of [`seed`].
    pub(crate) async fn login(&self, user: usize) -> Result<String, Fault> {
        let body = serde_json::json!({ "name": format!("user{user}"), "password": seed::password(user) });
        let reply = self.send(Method::POST, "/auth/login", None, body.to_string()).await?;
        let token = reply.json()["token"].as_str().map(str::to_owned);
        token.ok_or_else(|| format!("login as user{user}: {}", reply.status).into())
    }
}

impl Reply {
    /// What the cache says of this answer, in its own words (RFC 9211); empty if no cache spoke.
    pub(crate) fn cache_status(&self) -> &str {
        self.headers.get("cache-status").and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Whether a cache has answered: `Cache-Status: name; hit`.
    pub(crate) fn hit(&self) -> bool {
        self.cache_status().split(';').skip(1).any(|parameter| parameter.trim() == "hit")
    }

    /// The body as JSON, or null.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}
