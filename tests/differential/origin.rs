//! The origin: it answers as the request's program says, and writes down each call.

use std::{
    future::Future,
    pin::Pin,
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
    hand::{End, Held, Script, Unreachable},
    history::{Call, Cleared, History, Log, Rep, Resource, Scope, Sent},
    program::{Answer, Ask, Body as Sends, Length, Setup, Verb},
    routes::Kind,
    shows::{is_big, is_unchanged, part, respond, shows, validators},
};

pub const ASK: HeaderName = HeaderName::from_static("x-ask");
pub const CALL: HeaderName = HeaderName::from_static("x-call");
pub const MODE: HeaderName = HeaderName::from_static("x-mode");

#[derive(Clone)]
pub struct Origin {
    pub log: Log,
    pub held: Held,
    pub clock: Clock,
    pub setup: Setup,
}

impl Service<Request<Body>> for Origin {
    type Response = Response<Body>;
    type Error = Unreachable;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Unreachable>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Unreachable>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let origin = self.clone();
        let ask: usize = request.headers()[ASK].to_str().expect("text").parse().expect("a number");
        let (call, held) = origin.begin(ask);
        Box::pin(async move {
            // A sender that is gone lets it go on.
            if let Some(held) = held {
                let _ = held.await;
            }
            origin.answer(ask, call, &request)
        })
    }
}

impl Origin {
    fn begin(&self, ask: usize) -> (usize, Option<oneshot::Receiver<()>>) {
        let mut log = self.log.lock();
        let (begin, began) = (log.next(), log.now);
        let call = Call {
            ask,
            begin,
            began,
            answered: None,
            status: 0,
            rep: Rep(String::new()),
            part: None,
            date: 0,
            etag: None,
            modified: None,
            age: 0,
        };
        log.calls.push(call);
        let held = log.sent[ask].ask.answer.held.then(|| self.held.hold());
        (log.calls.len() - 1, held)
    }

    fn answer(&self, ask: usize, number: usize, request: &Request<Body>) -> Result<Response<Body>, Unreachable> {
        let mut log = self.log.lock();
        let tick = log.next();
        let now = log.now;
        let question = log.sent[ask].ask.clone();
        let answer = &question.answer;
        let thing = question.thing();
        if answer.changes || !question.reads() {
            *log.versions.entry(thing).or_default() += 1;
        }
        let version = log.versions.get(&thing).copied().unwrap_or_default();
        if !question.reads() {
            self.write(&mut log, ask, tick);
        }
        let status = if answer.status == 0 && self.setup.nested { 503 } else { answer.status };
        let seconds = self.clock.now().duration_since(SystemTime::UNIX_EPOCH).expect("a time").as_secs() as i64;
        let rep = shows(&question, version, number, status);
        let call = &mut log.calls[number];
        call.answered = Some((tick, now));
        call.status = status;
        call.date = seconds - answer.dated.unwrap_or_default() as i64;
        call.age = answer.age.unwrap_or_default();
        call.rep = rep;
        if status == 0 {
            return Err(Unreachable);
        }
        if !answer.bare && status == 200 {
            (call.etag, call.modified) = validators(&call.rep, question.id, version);
        }
        if question.reads() && status == 200 && is_unchanged(request.headers(), call.etag.as_deref(), call.modified) {
            call.status = 304;
        }
        let whole = call.rep.bytes(is_big(&question));
        let ranged = answer.obeys_ranges
            && call.status == 200
            && question.verb == Verb::Get
            && request.headers().contains_key(header::RANGE);
        let allowed = request
            .headers()
            .get(header::IF_RANGE)
            .is_none_or(|tag| call.etag.as_deref().is_some_and(|own| tag == own && !own.starts_with("W/")));
        if ranged
            && allowed
            && let Some(wanted) = question.range
        {
            call.part = part(wanted, whole.len() as u64);
            call.status = if call.part.is_some() { 206 } else { 200 };
        }
        let response = respond(&question, &log.calls[number], number, whole, self.setup.prefix());
        drop(log);
        Ok(self.with_body(response, &question, answer))
    }

    /// A write takes effect.
    fn write(&self, log: &mut History, ask: usize, commit: u64) {
        let Sent { ask: question, .. } = &log.sent[ask];
        let facts = question.facts();
        let mut scopes = Vec::new();
        // Without a response there is nothing that could name them.
        let failed = question.answer.status == 0 && !self.setup.nested;
        let only = question.answer.invalidates_only.filter(|_| !failed);
        match only {
            Some(row) => scopes.push(Scope::Name(vec!["row".into(), row.to_string()])),
            None => scopes.extend(
                facts
                    .family
                    .filter(|_| !facts.identity)
                    .map(|family| Scope::Name(vec![family.into(), question.id.to_string()])),
            ),
        }
        if facts.identity && only.is_none() {
            let user = match question.user {
                Some((by, user)) if by == self.setup.identity => vec![user, user + u8::from(question.twice)],
                _ => Vec::new(),
            };
            let names = user.iter().map(|user| format!("user{user}"));
            let names: Vec<String> = if user.is_empty() { vec!["anonymous".into()] } else { names.collect() };
            scopes.extend(names.into_iter().map(|name| Scope::Name(vec!["u".into(), name])));
        }
        // RFC 9111, section 4.4: the URI with what is no error, and those that the response names.
        if facts.kind == Kind::Http && (200..400).contains(&question.answer.status) {
            scopes.push(Scope::Uri(question.resource()));
            let location = question.answer.location.map(|id| Resource { id, query: 0, ..question.resource() });
            scopes.extend(location.map(Scope::Uri));
        }
        let soft = facts.soft_writes;
        log.cleared.extend(scopes.into_iter().map(|scope| Cleared { soft, scope, commit, ack: None }));
    }

    fn with_body(&self, head: Response<Bytes>, question: &Ask, answer: &Answer) -> Response<Body> {
        let (parts, bytes) = head.into_parts();
        let empty = question.verb == Verb::Head || parts.status == 304 || parts.status == 204;
        let (mut pieces, mut end) = (Vec::new(), End::Clean);
        let half = bytes.len() / 2;
        let announced = bytes.len() as u64;
        if !empty {
            pieces = vec![bytes.slice(..half), bytes.slice(half..)];
            match answer.body {
                Sends::Whole | Sends::Held => {}
                Sends::Breaks => (_, end) = (pieces.pop(), End::Error),
                Sends::Short => _ = pieces.pop(),
            }
        }
        let held = (answer.body == Sends::Held && !empty).then(|| self.held.hold());
        pieces.reverse();
        let exact = match answer.length {
            Length::SizeHint if !empty => Some(announced),
            _ => empty.then_some(0),
        };
        let body = Script { pieces, end, held, started: false, exact, sent: 0 };
        Response::from_parts(parts, Body::new(body))
    }
}
