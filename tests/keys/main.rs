//! Keys: two requests share one if, and only if, they are the same request.

#[path = "../common/backend.rs"]
mod backend;
#[path = "../common/mod.rs"]
mod common;

mod bypasses;
mod calls;
mod equality;
mod forwarding;
mod hostile;
mod identities;
mod posts;
mod query;
mod rpc;
mod secrets;

use common::{counting, get, ok, one_rule, outcome, send};
use http::{HeaderValue, Request};
use tower::Layer;
use tower_response_cache::{
    CacheLayer, Key, Memory, Outcome, Rule, Rules,
    status::{Bypass, Miss},
};

const ABSENT: Outcome = Outcome::Miss(Miss::Absent);

const HIT: Outcome = Outcome::Hit;

const CREDENTIALS: Outcome = Outcome::Bypass(Bypass::Credentials);

const EXTRACTOR: Outcome = Outcome::Bypass(Bypass::Extractor);

const REPEATED: Outcome = Outcome::Bypass(Bypass::IdentityAmbiguous);

const MISSING: Outcome = Outcome::Bypass(Bypass::IdentityMissing);

/// Sends one request with each list of fields. Returns their outcomes.
async fn outcomes(rule: Rule, requests: &[&[(&str, &str)]]) -> Vec<Outcome> {
    let (inner, _) = counting(|request, _| ok(format!("{:?}", request.headers())));
    let service = CacheLayer::new(Memory::default()).rules(one_rule(rule)).layer(inner);
    let mut outcomes = Vec::new();
    for fields in requests {
        let mut request = get("/t/a");
        for (name, value) in *fields {
            let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a name");
            request.headers_mut().append(name, HeaderValue::from_str(value).expect("a value"));
        }
        outcomes.push(outcome(&send(&service, request).await));
    }
    outcomes
}

fn key_of<B>(rules: &Rules, store: &Memory, request: &Request<B>) -> Key {
    rules.key(store, request).expect("a key")
}

fn everything(rule: Rule) -> Rules {
    Rules::new().route("/{*path}", rule)
}
