//! Explanations of requests, as JSON.

use std::{
    convert::Infallible,
    future::{self, Ready},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request};
use serde_json::{Value, json};
use tower::{Layer, Service};

use super::{body::InspectorBody, curl, input::Input, shared::Shared, shown::Shown};
use crate::{
    explain::{Explanation, KeyPart, RuleSummary, StoredResponse, explanation::word, predict},
    handle::ResponseCache,
    request_body::ReadBody,
};

/// The length of the part of a body that is shown, in bytes.
const SHOWN_BODY: usize = 4096;

/// An explained request.
pub(super) struct Explained {
    pub(super) method: Method,
    pub(super) target: String,
    pub(super) explanation: Explanation,
}

impl Shared {
    /// Explains the request that the parameters name. `host` is the host of a request whose URL has none.
    pub(super) async fn explain(&self, input: &Input, host: Option<&HeaderValue>) -> Result<Explained, String> {
        let line =
            ["request", "url", "curl", "uri"].iter().find_map(|name| input.get(name)).ok_or("there is no URL to explain")?;
        let mut request = curl::parse(line, host)?;
        if let Some(method) = input.get("method") {
            *request.method_mut() = method.to_ascii_uppercase().parse().map_err(|_| format!("{method:?} is not a method"))?;
        }
        let (method, target) = (request.method().clone(), request.uri().to_string());
        let mut explainer = self.cache.request_body_layer().layer(Explainer(self.cache.clone()));
        let request = request.map(|content: Bytes| InspectorBody::new(content));
        let begun = explainer.call(request).await.unwrap_or_else(|never| match never {});
        let explanation = begun.explanation(&self.cache.state()).await;
        Ok(Explained { method, target, explanation })
    }
}

/// Begins the explanation of a request inside of a layer that has read its content.
#[derive(Clone)]
struct Explainer(ResponseCache);

impl Service<Request<ReadBody<InspectorBody>>> for Explainer {
    type Response = predict::Begun;
    type Error = Infallible;
    type Future = Ready<Result<predict::Begun, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ReadBody<InspectorBody>>) -> Self::Future {
        future::ready(Ok(predict::begin(&self.0.state(), &request)))
    }
}

impl Explained {
    pub(super) fn json(&self, shown: Shown) -> Value {
        let Self { method, target, explanation } = self;
        let hash = explanation.key().map(|key| format!("{:032x}", key.hash()));
        let parts: Vec<_> = explanation.key_parts().iter().map(|part| part_json(part, shown)).collect();
        json!({
            "request": { "method": method.as_str(), "target": target },
            "outcome": word(explanation.outcome()),
            "outcome_if_enabled": word(explanation.outcome_if_enabled()),
            "reason": explanation.reason(),
            "remedy": explanation.remedy(),
            "revalidates": explanation.revalidates(),
            "falls_back": explanation.falls_back(),
            "rule": explanation.rule().map(rule_json),
            "key": hash.map(|hash| json!({ "hash": hash, "parts": parts })),
            "namespaces": explanation.namespaces().iter().map(|name| shown.name(name.as_str())).collect::<Vec<_>>(),
            "varies_by": explanation.varies_by(),
            "stored": explanation.stored().map(|stored| stored_json(stored, shown)),
            "store_error": explanation.store_error(),
        })
    }
}

pub(super) fn part_json(part: &KeyPart, shown: Shown) -> Value {
    json!({ "kind": part.kind(), "value": shown.part(part), "is_hash": part.is_hash() })
}

pub(super) fn rule_json(rule: &RuleSummary) -> Value {
    json!({
        "route": rule.route(),
        "lifetime": rule.lifetime(),
        "namespaces": rule.namespaces(),
        "invalidates": rule.invalidates(),
        "options": rule.options(),
        "has_matched": rule.has_matched(),
    })
}

fn stored_json(stored: &StoredResponse, shown: Shown) -> Value {
    let mut value = json!({
        "status": stored.status().as_u16(),
        "age_seconds": stored.age().as_secs_f64(),
        "seconds_left": stored.time_left().as_secs_f64(),
        "is_fresh": stored.is_fresh(),
        "is_softly_invalidated": stored.is_softly_invalidated(),
        "bytes": stored.size(),
        "body_bytes": stored.body_size(),
        "namespaces": stored.namespaces().iter().map(|name| shown.name(name.as_str())).collect::<Vec<_>>(),
    });
    if shown.bodies {
        let (headers, body) = (stored.headers(), stored.body());
        let field =
            |(name, value): (&http::HeaderName, &HeaderValue)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()));
        value["fields"] = headers.iter().map(field).collect::<Vec<_>>().into();
        value["body"] = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BODY)]).into();
    }
    value
}
