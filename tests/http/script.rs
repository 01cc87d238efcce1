//! Requests, responses and expected results of `Rule::http()`, as tables.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::common::{Plain, get, ok, outcome, text};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use tower::{Layer, ServiceExt, service_fn};
use tower_response_cache::{CacheLayer, Clock, InvalidateLayer, Memory, Outcome, Rule, Rules, status::Stale};

pub(crate) type Fields = &'static [(&'static str, &'static str)];

/// One request, some seconds after the previous one, and its expected result.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    after: u64,
    method: &'static str,
    request: Fields,
    /// Response of the inner service, with status 0 for a failure; `None`: it must not be called.
    answer: Option<(u16, Fields, &'static str)>,
    /// Expected fields of the request to the inner service; `-`: absent.
    sends: Fields,
    /// Expected outcome, status and body.
    want: &'static str,
    /// Expected fields of the response; `-`: absent.
    returns: Fields,
}

pub(crate) const fn step(after: u64, request: Fields, answer: Option<(u16, Fields, &'static str)>, want: &'static str) -> Step {
    Step { after, method: "GET", request, answer, sends: &[], want, returns: &[] }
}

impl Step {
    pub(crate) const fn sends(self, sends: Fields) -> Self {
        Self { sends, ..self }
    }

    pub(crate) const fn returns(self, returns: Fields) -> Self {
        Self { returns, ..self }
    }

    pub(crate) const fn by(self, method: &'static str) -> Self {
        Self { method, ..self }
    }
}

pub(crate) fn fields(list: Fields) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in list {
        map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    map
}

fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Hit => "hit",
        Outcome::Stale(Stale::WhileRevalidate) => "refreshed",
        Outcome::Stale(Stale::IfError) => "if-error",
        Outcome::Stale(Stale::MaxStale) => "accepted",
        Outcome::Stale(_) => "stale",
        Outcome::Revalidated => "validated",
        Outcome::OnlyIfCached => "refused",
        Outcome::Miss(_) => "miss",
        Outcome::Bypass(_) => "bypass",
        _ => "other",
    }
}

fn check(map: &HeaderMap, want: Fields, place: &str) {
    for (name, value) in want {
        let lines: Vec<_> = map.get_all(*name).iter().map(|line| line.to_str().expect("text")).collect();
        let got = if lines.is_empty() { "-".to_owned() } else { lines.join(", ") };
        assert_eq!(got, *value, "{place}: {name}");
    }
}

/// Sends the requests of one case to a fresh cache with this rule.
pub(crate) async fn walk(name: &str, rule: Rule, steps: &[Step]) {
    type Script = (VecDeque<(u16, Fields, &'static str)>, Vec<HeaderMap>);
    let script: Arc<Mutex<Script>> = Arc::default();
    let inner = {
        let script = script.clone();
        service_fn(move |request: Request<Plain>| {
            let mut script = script.lock().expect("not poisoned");
            script.1.push(request.headers().clone());
            let (status, headers, body) = script.0.pop_front().unwrap_or((599, &[], "must not be called"));
            let mut response = ok(body);
            *response.headers_mut() = fields(headers);
            let answer = match status {
                0 => Err("no answer"),
                status => {
                    *response.status_mut() = status.try_into().expect("a status");
                    Ok(response)
                }
            };
            async move { answer }
        })
    };
    let clock = Clock::manual();
    let store = Memory::builder().clock(clock.clone()).build();
    let rules = Rules::new().fallback(rule);
    let service = CacheLayer::new(store.clone()).rules(rules.clone()).layer(inner);
    let service = InvalidateLayer::new(store).rules(rules).layer(service);
    for (i, step) in steps.iter().enumerate() {
        let place = format!("{name}, step {i}");
        clock.advance(Duration::from_secs(step.after));
        let before = {
            let mut script = script.lock().expect("not poisoned");
            script.0 = step.answer.into_iter().collect();
            script.1.len()
        };
        let mut request = get("http://a.test/x");
        *request.method_mut() = Method::from_bytes(step.method.as_bytes()).expect("a method");
        *request.headers_mut() = fields(step.request);
        let got = match service.clone().oneshot(request).await {
            Err(error) => error.to_owned(),
            Ok(response) => {
                check(response.headers(), step.returns, &place);
                let (what, status) = (outcome_word(outcome(&response)), response.status().as_u16());
                format!("{what} {status} {}", text(response).await).trim_end().to_owned()
            }
        };
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        assert_eq!(got, step.want, "{place}");
        let script = script.lock().expect("not poisoned");
        assert_eq!(script.1.len() - before, usize::from(step.answer.is_some()), "{place}: calls of the inner service");
        if let Some(asked) = script.1.get(before) {
            check(asked, step.sends, &place);
        }
    }
}

pub(crate) const FRESH: Fields = &[("cache-control", "max-age=60")];

pub(crate) const TAGGED: Fields = &[("cache-control", "max-age=60"), ("etag", "\"1\"")];
pub(crate) const NO_CACHE: Fields = &[("cache-control", "no-cache")];
