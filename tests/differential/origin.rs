//! The origin: it answers as the program specifies, and records each call.

use std::{
    task::{Context, Poll},
    time::SystemTime,
};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderName, Request, Response, header};
use tokio::sync::oneshot;
use tower::Service;
use tower_response_cache::Clock;

use super::{
    held::{End, HeldCalls, ResponseFuture, ScriptedBody, Unreachable},
    history::{Call, History, Invalidation, Log, Representation, Resource, Scope, SentRequest},
    program::{Body as BodyKind, Length, Method, RequestSpec, ResponseSpec, Setup},
    responses::{build_response, is_big, is_unchanged, part, representation, validators},
    routes::Kind,
};

pub const REQUEST: HeaderName = HeaderName::from_static("x-request");
pub const CALL: HeaderName = HeaderName::from_static("x-call");
pub const MODE: HeaderName = HeaderName::from_static("x-mode");

#[derive(Clone)]
pub struct Origin {
    pub log: Log,
    pub held: HeldCalls,
    pub clock: Clock,
    pub setup: Setup,
}

impl Service<Request<Body>> for Origin {
    type Response = Response<Body>;
    type Error = Unreachable;
    type Future = ResponseFuture<Unreachable>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Unreachable>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let origin = self.clone();
        let sent: usize = request.headers()[REQUEST].to_str().expect("text").parse().expect("a number");
        let (call, held) = origin.begin(sent);
        Box::pin(async move {
            // A dropped sender releases the call.
            if let Some(held) = held {
                let _ = held.await;
            }
            origin.respond(sent, call, &request)
        })
    }
}

impl Origin {
    fn begin(&self, sent: usize) -> (usize, Option<oneshot::Receiver<()>>) {
        let mut log = self.log.lock();
        let (begin, began) = (log.next(), log.now);
        let call = Call {
            request: sent,
            begin,
            began,
            answered: None,
            status: 0,
            representation: Representation(String::new()),
            part: None,
            date: 0,
            etag: None,
            modified: None,
            age: 0,
        };
        log.calls.push(call);
        let held = log.requests[sent].spec.response.held.then(|| self.held.hold());
        (log.calls.len() - 1, held)
    }

    fn respond(&self, sent: usize, number: usize, request: &Request<Body>) -> Result<Response<Body>, Unreachable> {
        let mut log = self.log.lock();
        let tick = log.next();
        let now = log.now;
        let spec = log.requests[sent].spec.clone();
        let planned = &spec.response;
        let item = spec.item();
        if planned.changes || !spec.reads() {
            *log.versions.entry(item).or_default() += 1;
        }
        let version = log.versions.get(&item).copied().unwrap_or_default();
        if !spec.reads() {
            self.write(&mut log, sent, tick);
        }
        let status = if planned.status == 0 && self.setup.nested { 503 } else { planned.status };
        let seconds = self.clock.now().duration_since(SystemTime::UNIX_EPOCH).expect("a time").as_secs() as i64;
        let representation = representation(&spec, version, number, status);
        let call = &mut log.calls[number];
        call.answered = Some((tick, now));
        call.status = status;
        call.date = seconds - planned.date_age.unwrap_or_default() as i64;
        call.age = planned.age.unwrap_or_default();
        call.representation = representation;
        if status == 0 {
            return Err(Unreachable);
        }
        if !planned.without_validators && status == 200 {
            (call.etag, call.modified) = validators(&call.representation, spec.id, version);
        }
        if spec.reads() && status == 200 && is_unchanged(request.headers(), call.etag.as_deref(), call.modified) {
            call.status = 304;
        }
        let whole = call.representation.bytes(is_big(&spec));
        let ranged = planned.obeys_ranges
            && call.status == 200
            && spec.method == Method::Get
            && request.headers().contains_key(header::RANGE);
        let allowed = request
            .headers()
            .get(header::IF_RANGE)
            .is_none_or(|tag| call.etag.as_deref().is_some_and(|own| tag == own && !own.starts_with("W/")));
        if ranged
            && allowed
            && let Some(wanted) = spec.range
        {
            call.part = part(wanted, whole.len() as u64);
            call.status = if call.part.is_some() { 206 } else { 200 };
        }
        let response = build_response(&spec, &log.calls[number], number, whole, self.setup.prefix());
        drop(log);
        Ok(self.with_body(response, &spec, planned))
    }

    /// Records the invalidations of a write.
    fn write(&self, log: &mut History, sent: usize, commit: u64) {
        let SentRequest { spec, .. } = &log.requests[sent];
        let rule = spec.rule();
        let mut scopes = Vec::new();
        // A failed call has no response to name namespaces.
        let failed = spec.response.status == 0 && !self.setup.nested;
        let only = spec.response.invalidates_only.filter(|_| !failed);
        match only {
            Some(row) => scopes.push(Scope::Name(vec!["row".into(), row.to_string()])),
            None => scopes.extend(
                rule.family.filter(|_| !rule.identity).map(|family| Scope::Name(vec![family.into(), spec.id.to_string()])),
            ),
        }
        if rule.identity && only.is_none() {
            let user = match spec.user {
                Some((by, user)) if by == self.setup.identity => vec![user, user + u8::from(spec.second_user)],
                _ => Vec::new(),
            };
            let names = user.iter().map(|user| format!("user{user}"));
            let names: Vec<String> = if user.is_empty() { vec!["anonymous".into()] } else { names.collect() };
            scopes.extend(names.into_iter().map(|name| Scope::Name(vec!["u".into(), name])));
        }
        // RFC 9111, section 4.4: the URI of a successful write, and the URIs that its response names.
        if rule.kind == Kind::Http && (200..400).contains(&spec.response.status) {
            scopes.push(Scope::Uri(spec.resource()));
            let location = spec.response.location.map(|id| Resource { id, query: 0, ..spec.resource() });
            scopes.extend(location.map(Scope::Uri));
        }
        let soft = rule.soft_writes;
        log.invalidations.extend(scopes.into_iter().map(|scope| Invalidation { soft, scope, commit, ack: None }));
    }

    fn with_body(&self, head: Response<Bytes>, spec: &RequestSpec, planned: &ResponseSpec) -> Response<Body> {
        let (parts, bytes) = head.into_parts();
        let empty = spec.method == Method::Head || parts.status == 304 || parts.status == 204;
        let (mut pieces, mut end) = (Vec::new(), End::Clean);
        let half = bytes.len() / 2;
        let announced = bytes.len() as u64;
        if !empty {
            pieces = vec![bytes.slice(..half), bytes.slice(half..)];
            match planned.body {
                BodyKind::Whole | BodyKind::Held => {}
                BodyKind::Breaks => (_, end) = (pieces.pop(), End::Error),
                BodyKind::Short => _ = pieces.pop(),
            }
        }
        let held = (planned.body == BodyKind::Held && !empty).then(|| self.held.hold());
        pieces.reverse();
        let exact = match planned.length {
            Length::SizeHint if !empty => Some(announced),
            _ => empty.then_some(0),
        };
        let body = ScriptedBody { pieces, end, held, started: false, exact, sent: 0 };
        Response::from_parts(parts, Body::new(body))
    }
}
