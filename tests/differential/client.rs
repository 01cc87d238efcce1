//! The clients: they send requests and record the responses.

use axum::body::Body;
use fastrand::Rng;
use http::{HeaderMap, Request, header};
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::{
    driver::Driver,
    history::{Expectation, Log, Received, SentRequest},
    origin::{MODE, REQUEST},
    program::{Credential, IfRange, Method, RequestSpec, Since, Tags},
    responses::{at, date},
    routes::{FORWARDED, HOSTS, LANGUAGES, MODES, QUERIES},
    spelling,
};

impl Driver {
    pub fn send(&mut self, spec: &RequestSpec, expectation: Option<Expectation>) {
        let (number, request) = self.request(spec, expectation);
        let process = &self.processes[usize::from(spec.process) % self.processes.len()];
        let (frontend, log, disconnects) = (process.frontend.clone(), self.log.clone(), spec.disconnects_in_body);
        let client = tokio::spawn(async move {
            let outcome = frontend.oneshot(request).await;
            let (head, body) = match outcome {
                Ok(response) => {
                    let (parts, body) = response.into_parts();
                    (Ok((parts.status.as_u16(), parts.headers)), Some(body))
                }
                Err(error) => (Err(error.to_string()), None),
            };
            // A write is acknowledged by the head of its response.
            acknowledge(&log, number);
            let (mut bytes, mut broken, mut read) = (Vec::new(), false, true);
            if let Some(mut body) = body {
                while let Some(frame) = body.frame().await {
                    match frame {
                        Ok(frame) => bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                        Err(_) => broken = true,
                    }
                    if broken || disconnects {
                        read = broken;
                        break;
                    }
                }
            }
            record_response(&log, number, head, bytes.into(), broken, read);
        });
        self.clients.push((number, client));
    }

    /// Records a request and builds it.
    pub fn request(&self, spec: &RequestSpec, expectation: Option<Expectation>) -> (usize, Request<Body>) {
        let mut log = self.log.lock();
        let mut rng = Rng::with_seed(spec.spelling);
        let (last_tag, last_date) = log.validators.get(&spec.resource()).cloned().unwrap_or_default();
        let tags = spec.tags.map(|tags| {
            let mut list = vec!["\"none\"".to_owned(), "W/\"a,b\"".to_owned()];
            list.extend(last_tag.clone().filter(|_| tags == Tags::Last));
            list
        });
        let since = spec.since.map(|since| match since {
            Since::Before => last_date.unwrap_or(1_700_000_000) - 60,
            Since::Equal => last_date.unwrap_or(1_700_000_000),
            Since::After => last_date.unwrap_or(1_700_000_000) + 60,
        });
        let if_range = spec.if_range.map(|which| match (which, &last_tag) {
            (IfRange::LastTag, Some(tag)) => tag.clone(),
            _ => "\"other\"".into(),
        });
        let number = log.requests.len();
        let method = match spec.method {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Put => "PUT",
            Method::Post => "POST",
            Method::Delete => "DELETE",
        };
        let (prefix, name, id, query) = (self.setup.prefix(), spec.rule().name, spec.id, QUERIES[spec.query].0);
        let target = match spec.respelled {
            1 => format!("{prefix}/{name}/%3{id}{query}"),
            2 => format!("{prefix}//{name}/{id}{query}"),
            3 => format!("{prefix}/./{name}/x/../{id}{query}"),
            _ => format!("{prefix}/{name}/{id}{query}"),
        };
        let host = match (HOSTS[spec.host].0, spec.respelled) {
            (host, 1) if !host.contains(':') => format!("{host}:80"),
            (host, 2) if !host.contains(':') => format!("{host}:"),
            (host, 4) => host.to_ascii_uppercase(),
            (host, _) => host.to_owned(),
        };
        let mut request = Request::builder().method(method).uri(target).header(header::HOST, host).header(REQUEST, number);
        let mut put = |name: &str, line: String| request = std::mem::take(&mut request).header(name, line);
        spelling::request_directives(&spec.directives, &mut rng).into_iter().for_each(|line| put("cache-control", line));
        if spec.tags == Some(Tags::Star) {
            put("if-none-match", "*".into());
        } else if let Some(tags) = &tags {
            spelling::list(tags.clone(), &mut rng).into_iter().for_each(|line| put("if-none-match", line));
        }
        since.iter().for_each(|since| put("if-modified-since", date(*since)));
        if spec.if_match {
            put("if-match", "*".into());
        }
        spec.range.iter().for_each(|range| put("range", spelling::range(*range, &mut rng)));
        if_range.iter().for_each(|tag| put("if-range", tag.clone()));
        spec.language.iter().for_each(|n| {
            spelling::language(LANGUAGES[usize::from(*n)], &mut rng).into_iter().for_each(|line| put("accept-language", line))
        });
        spec.mode.iter().for_each(|n| put(MODE.as_str(), MODES[usize::from(*n)].into()));
        // The client's address does not change the response.
        if rng.u8(..3) == 0 {
            put("x-forwarded-for", format!("10.0.0.{}", rng.u8(..)));
        }
        if let Some(place) = spec.forwarded {
            let (name, value) = FORWARDED[place];
            let client = if name == "forwarded" && rng.bool() { format!("for=10.0.0.{};", rng.u8(..)) } else { String::new() };
            put(name, format!("{client}{value}"));
        }
        if let Some((by, user)) = spec.user {
            for user in std::iter::once(user).chain(spec.second_user.then_some(user + 1)) {
                match by {
                    Credential::Bearer => {
                        let scheme = if rng.bool() { "Bearer" } else { "bearer" };
                        put("authorization", format!("{scheme} {}user{user}", if spec.respelled > 2 { " " } else { "" }));
                    }
                    Credential::Cookie => {
                        let before = if rng.bool() { "a=b; " } else { "" };
                        let pair = ["sid=user", "sid=user", "sid=user", "sid =user", "sid=\"user"][usize::from(spec.respelled)];
                        put("cookie", format!("{before}{pair}{user}{}", if spec.respelled == 4 { "\"" } else { "" }));
                    }
                    Credential::ApiKey => put("x-api-key", format!("user{user}")),
                }
            }
        }
        let (begin, began) = (log.next(), log.now);
        log.requests.push(SentRequest {
            spec: spec.clone(),
            tags,
            since,
            if_range,
            begin,
            began,
            expectation,
            received: None,
            disconnected: false,
        });
        (number, request.body(Body::empty()).expect("a request"))
    }
}

/// Marks the invalidations of a write as acknowledged.
fn acknowledge(log: &Log, number: usize) {
    let mut log = log.lock();
    let tick = log.next();
    if log.requests[number].spec.reads() {
        return;
    }
    let answered: Vec<u64> =
        log.calls.iter().filter(|call| call.request == number).filter_map(|call| Some(call.answered?.0)).collect();
    for invalidation in &mut log.invalidations {
        if answered.contains(&invalidation.commit) {
            invalidation.ack = Some(tick);
        }
    }
}

fn record_response(
    log: &Log,
    number: usize,
    head: Result<(u16, HeaderMap), String>,
    body: bytes::Bytes,
    broken: bool,
    read: bool,
) {
    let mut log = log.lock();
    let (end, ended) = (log.next(), log.now);
    if let Ok((200 | 206, headers)) = &head {
        let text = |name| Some(headers.get(name)?.to_str().ok()?.to_owned());
        let modified = text(header::LAST_MODIFIED).and_then(|line| httpdate::parse_http_date(&line).ok());
        let seconds = modified.and_then(|modified| Some(modified.duration_since(at(0)).ok()?.as_secs() as i64));
        let resource = log.requests[number].spec.resource();
        log.validators.insert(resource, (text(header::ETAG), seconds));
    }
    log.requests[number].received = Some(Received { end, ended, head, body, broken, read });
}
