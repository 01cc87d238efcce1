//! The origin: it answers as the request's program says, and writes down each call.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use axum::body::Body;
use bytes::Bytes;
use fastrand::Rng;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body::{Frame, SizeHint};
use tokio::sync::oneshot;
use tower::Service;
use tower_response_cache::{Caching, Clock, Invalidates, Namespace};

use super::{
    history::{Call, Cleared, Log, Rep, Scope, Sent},
    program::{Answer, Body as Sends, Kind, Length, Setup, Varies, Verb, Wanted},
    spell,
};

pub const ASK: HeaderName = HeaderName::from_static("x-ask");
pub const CALL: HeaderName = HeaderName::from_static("x-call");
pub const MODE: HeaderName = HeaderName::from_static("x-mode");

/// It cannot be reached.
#[derive(Debug)]
pub struct Unreachable;

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the origin is out of reach")
    }
}

impl std::error::Error for Unreachable {}

/// What is held in the hand: calls and bodies that wait to be let go.
#[derive(Clone, Default)]
pub struct Held(Arc<Mutex<Vec<oneshot::Sender<()>>>>);

impl Held {
    fn hold(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        receiver
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.iter().filter(|sender| !sender.is_closed()).count()
    }

    /// Lets one of them go on, if there is any.
    pub fn release(&self, which: usize) -> bool {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|sender| !sender.is_closed());
        if held.is_empty() {
            return false;
        }
        let which = which % held.len();
        let _ = held.remove(which).send(());
        true
    }
}

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
        let allowed =
            request.headers().get(header::IF_RANGE).is_none_or(|tag| call.etag.as_deref().is_some_and(|own| tag == own));
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
    fn write(&self, log: &mut super::history::History, ask: usize, commit: u64) {
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
            let location = question.answer.location.map(|id| super::history::Resource { id, query: 0, ..question.resource() });
            scopes.extend(location.map(Scope::Uri));
        }
        let soft = facts.soft_writes;
        log.cleared.extend(scopes.into_iter().map(|scope| Cleared { soft, scope, commit, ack: None }));
    }

    fn with_body(&self, head: Response<Bytes>, question: &super::program::Ask, answer: &Answer) -> Response<Body> {
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

/// What a request is shown: a change of the thing, the resource, the user and the fields that the answer varies by make another.
fn shows(question: &super::program::Ask, version: u64, number: usize, status: u16) -> Rep {
    let resource = question.resource();
    let mut text =
        format!("{}/{} host {} query {} version {version}", question.facts().name, question.id, resource.host, resource.query);
    text.extend(question.user.map(|(_, user)| format!(" user {user}")));
    for field in &question.answer.vary {
        match field {
            Varies::Language => text.push_str(&format!(" language {:?}", question.language)),
            Varies::Mode => text.push_str(&format!(" mode {:?}", question.mode)),
            Varies::Star => {}
        }
    }
    if question.answer.bare || status != 200 || !question.reads() {
        text.push_str(&format!(" call {number}"));
    }
    Rep(text)
}

pub fn is_big(question: &super::program::Ask) -> bool {
    question.id == 3
}

/// The validators of a thing: which it has depends on its id.
fn validators(rep: &Rep, id: u8, version: u64) -> (Option<String>, Option<i64>) {
    let hash = rep.0.bytes().fold(7_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    let tag = format!("\"{hash:x},{version}\"");
    let modified = 1_600_000_000 + version as i64 * 70;
    match id % 4 {
        0 => (Some(tag), None),
        1 => (Some(tag), Some(modified)),
        2 => (Some(format!("W/{tag}")), None),
        _ => (None, Some(modified)),
    }
}

/// The origin's own look at the conditions that have come to it.
fn is_unchanged(request: &HeaderMap, etag: Option<&str>, modified: Option<i64>) -> bool {
    let mut tags = request.get_all(header::IF_NONE_MATCH).iter().peekable();
    if tags.peek().is_some() {
        let opaque = etag.map(|tag| tag.trim_start_matches("W/"));
        return tags.any(|line| line == "*" || opaque.is_some_and(|tag| line.to_str().is_ok_and(|line| line.contains(tag))));
    }
    let since = request.get(header::IF_MODIFIED_SINCE).and_then(|line| httpdate::parse_http_date(line.to_str().ok()?).ok());
    since.is_some_and(|since| modified.is_some_and(|modified| at(modified) <= since))
}

/// The bytes that a range asks of a whole; `None` if not one part of it.
pub fn part(wanted: Wanted, length: u64) -> Option<(u64, u64)> {
    let (first, end) = match wanted {
        Wanted::First(count) => (0, count.min(length)),
        Wanted::From(start) => (start, length),
        Wanted::Between(first, last) => (first, (last + 1).min(length)),
        Wanted::Last(count) => (length.saturating_sub(count), length),
        _ => return None,
    };
    (first < end).then_some((first, end))
}

fn respond(question: &super::program::Ask, call: &Call, number: usize, whole: Bytes, prefix: &str) -> Response<Bytes> {
    let answer = &question.answer;
    let mut rng = Rng::with_seed(answer.spelling);
    let mut response = Response::builder().status(call.status);
    let mut put = |name: HeaderName, value: String| {
        response.headers_mut().expect("no error yet").append(name, HeaderValue::from_str(&value).expect("a value"));
    };
    put(CALL, number.to_string());
    put(header::DATE, date(call.date));
    // A 304 takes the place of what is stored field by field: each is there.
    let renews = call.status == 304;
    let lines = spell::directives(&answer.directives, &mut rng);
    let nothing = (renews && lines.is_empty()).then(|| "x-nothing".into());
    lines.into_iter().chain(nothing).for_each(|line| put(header::CACHE_CONTROL, line));
    // RFC 9213: a structured field, whose names are in small letters and whose numbers are bare.
    let targeted = answer.targeted.as_ref().map(structured).or_else(|| renews.then(String::new));
    targeted.into_iter().for_each(|line| put(HeaderName::from_static("cdn-cache-control"), line));
    answer.expires.filter(|_| answer.bare).into_iter().for_each(|after| put(header::EXPIRES, date(call.date + after)));
    answer.age.into_iter().for_each(|age| put(header::AGE, spell::age(age, &mut rng)));
    spell::vary(&answer.vary, &mut rng).into_iter().for_each(|line| put(header::VARY, line));
    if answer.cookie {
        put(header::SET_COOKIE, "visit=1".into());
    }
    call.etag.iter().for_each(|tag| put(header::ETAG, tag.clone()));
    call.modified.into_iter().for_each(|modified| put(header::LAST_MODIFIED, date(modified)));
    answer.location.iter().for_each(|id| put(header::LOCATION, format!("{prefix}/{}/{id}", question.facts().name)));
    let length = whole.len() as u64;
    let body = match call.part {
        Some((first, end)) => {
            put(header::CONTENT_RANGE, format!("bytes {first}-{}/{length}", end - 1));
            whole.slice(first as usize..end as usize)
        }
        None => whole,
    };
    if answer.length == Length::Field && call.status != 304 && call.status != 204 {
        put(header::CONTENT_LENGTH, body.len().to_string());
    }
    let mut response = response.body(body).expect("a response");
    let mut caching = if answer.forbids { Caching::no_store() } else { Caching::new() };
    for row in &answer.rows {
        caching = caching.namespace(Namespace::of(["row", &row.to_string()]));
    }
    if let Some(ttl) = answer.ttl {
        caching = caching.ttl(Duration::from_secs(ttl));
    }
    response.extensions_mut().insert(caching);
    if let Some(row) = answer.invalidates_only.filter(|_| !question.reads()) {
        response.extensions_mut().insert(Invalidates::only([Namespace::of(["row", &row.to_string()])]));
    }
    response
}

fn structured(of: &super::program::Directives) -> String {
    let numbers =
        [("max-age", of.max_age), ("stale-while-revalidate", of.stale_while_revalidate), ("stale-if-error", of.stale_if_error)];
    let flags = [
        ("no-store", of.no_store),
        ("private", of.private),
        ("no-cache", of.no_cache),
        ("must-revalidate", of.must_revalidate),
    ];
    let numbers = numbers.iter().filter_map(|(name, value)| value.map(|value| format!("{name}={value}")));
    numbers.chain(flags.iter().filter(|(_, on)| *on).map(|(name, _)| (*name).into())).collect::<Vec<_>>().join(", ")
}

pub fn at(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.max(0) as u64)
}

pub fn date(seconds: i64) -> String {
    httpdate::fmt_http_date(at(seconds))
}

enum End {
    Clean,
    Error,
}

/// A body whose pieces are known beforehand, the last first.
struct Script {
    pieces: Vec<Bytes>,
    end: End,
    /// Waited for before the second piece.
    held: Option<oneshot::Receiver<()>>,
    started: bool,
    exact: Option<u64>,
    sent: u64,
}

impl http_body::Body for Script {
    type Data = Bytes;
    type Error = Unreachable;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Unreachable>>> {
        if self.started
            && let Some(held) = &mut self.held
        {
            std::task::ready!(Pin::new(held).poll(cx)).unwrap_or_default();
            self.held = None;
        }
        self.started = true;
        Poll::Ready(match self.pieces.pop() {
            Some(piece) => {
                self.sent += piece.len() as u64;
                Some(Ok(Frame::data(piece)))
            }
            None if matches!(self.end, End::Error) => {
                self.end = End::Clean;
                Some(Err(Unreachable))
            }
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && matches!(self.end, End::Clean)
    }

    fn size_hint(&self) -> SizeHint {
        self.exact.map_or_else(SizeHint::default, |exact| SizeHint::with_exact(exact.saturating_sub(self.sent)))
    }
}

/// Answers with 503 in place of an error, as a router's handlers must.
#[derive(Clone)]
pub struct Infallibly<S>(pub S);

impl<S> Service<Request<Body>> for Infallibly<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Future: Send + 'static>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let inner = self.0.call(request);
        Box::pin(async move {
            Ok(inner.await.unwrap_or_else(|_| Response::builder().status(503).body(Body::empty()).expect("a response")))
        })
    }
}
