//! The clients: requests as they are sent, and what is seen of their responses.

use axum::body::Body;
use fastrand::Rng;
use http::{HeaderMap, Request, header};
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::{
    drive::Driver,
    history::{Demand, Log, Seen, Sent},
    origin::{ASK, MODE},
    program::{Ask, Credential, IfRange, Since, Tags, Verb},
    routes::{FORWARDED, HOSTS, LANGUAGES, MODES, QUERIES},
    shows::{at, date},
    spell,
};

impl Driver {
    pub fn send(&mut self, ask: &Ask, demand: Option<Demand>) {
        let (number, request) = self.request(ask, demand);
        let process = &self.processes[usize::from(ask.process) % self.processes.len()];
        let (front, log, leaves) = (process.front.clone(), self.log.clone(), ask.leaves_in_body);
        let client = tokio::spawn(async move {
            let outcome = front.oneshot(request).await;
            let (head, body) = match outcome {
                Ok(response) => {
                    let (parts, body) = response.into_parts();
                    (Ok((parts.status.as_u16(), parts.headers)), Some(body))
                }
                Err(error) => (Err(error.to_string()), None),
            };
            // The head is what the promise of a write is about.
            acknowledge(&log, number);
            let (mut bytes, mut broken, mut read) = (Vec::new(), false, true);
            if let Some(mut body) = body {
                while let Some(frame) = body.frame().await {
                    match frame {
                        Ok(frame) => bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                        Err(_) => broken = true,
                    }
                    if broken || leaves {
                        read = broken;
                        break;
                    }
                }
            }
            see(&log, number, head, bytes.into(), broken, read);
        });
        self.clients.push((number, client));
    }

    /// Writes a request down and makes it.
    pub fn request(&self, ask: &Ask, demand: Option<Demand>) -> (usize, Request<Body>) {
        let mut log = self.log.lock();
        let mut rng = Rng::with_seed(ask.spelling);
        let (seen_tag, seen_date) = log.validators.get(&ask.resource()).cloned().unwrap_or_default();
        let tags = ask.tags.map(|tags| {
            let mut list = vec!["\"none\"".to_owned(), "W/\"a,b\"".to_owned()];
            list.extend(seen_tag.clone().filter(|_| tags == Tags::Seen));
            list
        });
        let since = ask.since.map(|since| match since {
            Since::Before => seen_date.unwrap_or(1_700_000_000) - 60,
            Since::Seen => seen_date.unwrap_or(1_700_000_000),
            Since::After => seen_date.unwrap_or(1_700_000_000) + 60,
        });
        let if_range = ask.if_range.map(|which| match (which, &seen_tag) {
            (IfRange::SeenTag, Some(tag)) => tag.clone(),
            _ => "\"other\"".into(),
        });
        let number = log.sent.len();
        let method = match ask.verb {
            Verb::Get => "GET",
            Verb::Head => "HEAD",
            Verb::Put => "PUT",
            Verb::Post => "POST",
            Verb::Delete => "DELETE",
        };
        let (prefix, name, id, query) = (self.setup.prefix(), ask.facts().name, ask.id, QUERIES[ask.query].0);
        let target = match ask.oddly {
            1 => format!("{prefix}/{name}/%3{id}{query}"),
            2 => format!("{prefix}//{name}/{id}{query}"),
            3 => format!("{prefix}/./{name}/x/../{id}{query}"),
            _ => format!("{prefix}/{name}/{id}{query}"),
        };
        let host = match (HOSTS[ask.host].0, ask.oddly) {
            (host, 1) if !host.contains(':') => format!("{host}:80"),
            (host, 2) if !host.contains(':') => format!("{host}:"),
            (host, 4) => host.to_ascii_uppercase(),
            (host, _) => host.to_owned(),
        };
        let mut request = Request::builder().method(method).uri(target).header(header::HOST, host).header(ASK, number);
        let mut put = |name: &str, line: String| request = std::mem::take(&mut request).header(name, line);
        spell::asked(&ask.directives, &mut rng).into_iter().for_each(|line| put("cache-control", line));
        if ask.tags == Some(Tags::Star) {
            put("if-none-match", "*".into());
        } else if let Some(tags) = &tags {
            spell::list(tags.clone(), &mut rng).into_iter().for_each(|line| put("if-none-match", line));
        }
        since.iter().for_each(|since| put("if-modified-since", date(*since)));
        if ask.if_match {
            put("if-match", "*".into());
        }
        ask.range.iter().for_each(|range| put("range", spell::range(*range, &mut rng)));
        if_range.iter().for_each(|tag| put("if-range", tag.clone()));
        ask.language.iter().for_each(|n| {
            spell::language(LANGUAGES[usize::from(*n)], &mut rng).into_iter().for_each(|line| put("accept-language", line))
        });
        ask.mode.iter().for_each(|n| put(MODE.as_str(), MODES[usize::from(*n)].into()));
        // Who the client is does not change what it gets.
        if rng.u8(..3) == 0 {
            put("x-forwarded-for", format!("10.0.0.{}", rng.u8(..)));
        }
        if let Some(place) = ask.forwarded {
            let (name, value) = FORWARDED[place];
            let client = if name == "forwarded" && rng.bool() { format!("for=10.0.0.{};", rng.u8(..)) } else { String::new() };
            put(name, format!("{client}{value}"));
        }
        if let Some((by, user)) = ask.user {
            for user in std::iter::once(user).chain(ask.twice.then_some(user + 1)) {
                match by {
                    Credential::Bearer => {
                        let scheme = if rng.bool() { "Bearer" } else { "bearer" };
                        put("authorization", format!("{scheme} {}user{user}", if ask.oddly > 2 { " " } else { "" }));
                    }
                    Credential::Cookie => {
                        let before = if rng.bool() { "a=b; " } else { "" };
                        let pair = ["sid=user", "sid=user", "sid=user", "sid =user", "sid=\"user"][usize::from(ask.oddly)];
                        put("cookie", format!("{before}{pair}{user}{}", if ask.oddly == 4 { "\"" } else { "" }));
                    }
                    Credential::ApiKey => put("x-api-key", format!("user{user}")),
                }
            }
        }
        let (begin, began) = (log.next(), log.now);
        log.sent.push(Sent { ask: ask.clone(), tags, since, if_range, begin, began, demand, seen: None, left: false });
        (number, request.body(Body::empty()).expect("a request"))
    }
}

/// A write has been answered.
fn acknowledge(log: &Log, number: usize) {
    let mut log = log.lock();
    let tick = log.next();
    if log.sent[number].ask.reads() {
        return;
    }
    let answered: Vec<u64> =
        log.calls.iter().filter(|call| call.ask == number).filter_map(|call| Some(call.answered?.0)).collect();
    for cleared in &mut log.cleared {
        if answered.contains(&cleared.commit) {
            cleared.ack = Some(tick);
        }
    }
}

fn see(log: &Log, number: usize, head: Result<(u16, HeaderMap), String>, body: bytes::Bytes, broken: bool, read: bool) {
    let mut log = log.lock();
    let (end, ended) = (log.next(), log.now);
    if let Ok((200 | 206, headers)) = &head {
        let text = |name| Some(headers.get(name)?.to_str().ok()?.to_owned());
        let modified = text(header::LAST_MODIFIED).and_then(|line| httpdate::parse_http_date(&line).ok());
        let seconds = modified.and_then(|modified| Some(modified.duration_since(at(0)).ok()?.as_secs() as i64));
        let resource = log.sent[number].ask.resource();
        log.validators.insert(resource, (text(header::ETAG), seconds));
    }
    log.sent[number].seen = Some(Seen { end, ended, head, body, broken, read });
}
