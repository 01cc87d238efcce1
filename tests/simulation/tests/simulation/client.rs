//! The clients of the processes.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use tower_response_cache::{CacheStatus, Outcome, invalidate::Invalidation};

use super::{
    laws::operation::{Ending, Operation, Source},
    process::{FIRST_SOFT, LINE, LINES, OPERATION, PARTS, PATIENCE, Process, ROUTES, SOFT, call},
    world::World,
};

/// The longest time for an answer: no lock, fence or waiter outlives its deadline (I8).
const LIMIT: Duration = Duration::from_secs(20);

/// A response that was read.
pub struct Read {
    pub version: u64,
    /// `None` if the rule allows the response to be stale.
    pub source: Option<Source>,
}

impl Read {
    pub fn is_hit(&self) -> bool {
        self.source != Some(Source::Database)
    }
}

/// Reads a register on a route, and records the result.
pub async fn read(world: &World, process: &Process, route: usize, key: u32) -> Option<Read> {
    let register = if route == SOFT { key + FIRST_SOFT } else { key };
    let (id, begin) = world.act(|inner| (inner.number(), inner.stamp()));
    world.note(|| format!("{id}: process {} reads /{}/{key}", process.line, ROUTES[route]));
    let (ending, read) = match within(process, get(world, process, route, key)).await {
        Err(reason) => (Ending::Failed(reason.into()), None),
        Ok(Err(reason)) => (Ending::Failed(reason), None),
        Ok(Ok(read)) => match read.source {
            Some(source) => (Ending::Read { version: read.version, source }, Some(read)),
            None => {
                // Any committed version is allowed.
                let newest = world.lock().versions.get(&register).copied().unwrap_or(0);
                assert!(read.version <= newest, "I5: version {} of {register}: there is none", read.version);
                world.note(|| format!("{id}: version {}, marked as stale", read.version));
                return Some(read);
            }
        },
    };
    record(world, id, register, process, begin, ending);
    read
}

/// Writes a register, and records the result.
pub async fn write(world: &World, process: &Process, route: usize, key: u32) {
    let register = if route == SOFT { key + FIRST_SOFT } else { key };
    let (id, begin) = world.act(|inner| (inner.number(), inner.stamp()));
    world.note(|| format!("{id}: process {} writes /{}/{key}", process.line, ROUTES[route]));
    // A write is interrupted in one way at most: the outcome of a client that has left is that of its handler.
    let (leaves, loses) = {
        let inner = &mut *world.lock();
        let chance = inner.random.u32(..100);
        let leaves = chance < inner.plan.leaving;
        let loses = !leaves && chance < inner.plan.leaving + inner.plan.losing;
        let (leaving, losing) = (Duration::from_millis(inner.random.u64(1..60)), inner.random.u64(1..40));
        (leaves.then_some(leaving), loses.then_some(losing))
    };
    let post = post(process, route, key, id, loses);
    let ending = match leaves {
        Some(time) => match within(process, tokio::time::timeout(time, post)).await {
            Ok(Err(_)) => Ending::Disconnected,
            Ok(Ok(ending)) => ending,
            Err(reason) => Ending::Failed(reason.into()),
        },
        None => within(process, post).await.unwrap_or_else(|reason| Ending::Failed(reason.into())),
    };
    record(world, id, register, process, begin, ending);
}

fn record(world: &World, id: u64, key: u32, process: &Process, begin: Duration, ending: Ending) {
    world.act(|inner| {
        let end = inner.stamp();
        inner.note(format!("{id}: {ending:?}"));
        inner.history.operations.push(Operation { id, key, process: process.id, begin, end, ending });
    });
}

/// Waits for an answer of a process that may be killed.
async fn within<T>(process: &Process, answer: impl Future<Output = T>) -> Result<T, &'static str> {
    tokio::select! {
        biased;
        () = process.until_killed() => Err("the process was killed"),
        answer = answer => Ok(answer),
        () = tokio::time::sleep(LIMIT) => Err("no answer within 20 seconds"),
    }
}

fn request(method: Method, route: usize, key: u32) -> Request<Full<Bytes>> {
    let uri = format!("/{}/{key}", ROUTES[route]);
    Request::builder().method(method).uri(uri).body(Full::default()).expect("a request")
}

async fn get(world: &World, process: &Process, route: usize, key: u32) -> Result<Read, String> {
    let mut request = request(Method::GET, route, key);
    let part = {
        let random = &mut world.lock().random;
        (route == PARTS && random.bool()).then(|| random.usize(..LINE * (LINES - 3)))
    };
    if let Some(first) = part {
        let range = format!("bytes={first}-{}", first + 2 * LINE);
        request.headers_mut().insert(header::RANGE, range.try_into().expect("a field value"));
    }
    let (head, body) = call(&process.app, request).await.into_parts();
    let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
    if !head.status.is_success() {
        return Err(head.status.to_string());
    }
    let source = match head.extensions.get::<CacheStatus>().map(|status| status.outcome()) {
        Some(Outcome::Stale(_)) if route == SOFT => None,
        Some(Outcome::Hit | Outcome::Stale(_) | Outcome::Collapsed) => Some(Source::Store),
        _ => Some(Source::Database),
    };
    let register = if route == SOFT { key + FIRST_SOFT } else { key };
    // A part begins within a line and ends within another.
    let is_cut = part.is_some() && head.status == StatusCode::PARTIAL_CONTENT;
    let version = version(&body, register, is_cut).ok_or_else(|| format!("the response is {body:?}"))?;
    Ok(Read { version, source })
}

async fn post(process: &Process, route: usize, key: u32, id: u64, loses: Option<u64>) -> Ending {
    let mut request = request(Method::POST, route, key);
    request.headers_mut().insert(OPERATION, id.into());
    if let Some(millis) = loses {
        request.headers_mut().insert(PATIENCE, millis.into());
    }
    let (head, body) = call(&process.app, request).await.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let invalidation = head.extensions.get::<Invalidation>().copied();
    let register = if route == SOFT { key + FIRST_SOFT } else { key };
    match (invalidation, version(&body, register, false)) {
        (Some(Invalidation::NotFenced), _) => Ending::NotFenced,
        (Some(Invalidation::Delivered), Some(version)) => Ending::Written { version, delivered: true },
        (Some(_), Some(version)) => Ending::Written { version, delivered: false },
        _ if head.status == StatusCode::GATEWAY_TIMEOUT => Ending::Lost,
        _ => Ending::Failed(format!("{} {invalidation:?} {body:?}", head.status)),
    }
}

/// Returns the version in all lines of a response. Of a part whose first line `is_cut`, only whole lines count.
fn version(body: &[u8], register: u32, is_cut: bool) -> Option<u64> {
    let mut lines: Vec<&str> = std::str::from_utf8(body).ok()?.split('\n').collect();
    // After the last line end, or a line that was cut.
    lines.pop();
    let (first, others) = lines.get(usize::from(is_cut)..)?.split_first()?;
    let (of, version) = first.trim_end().split_once(' ')?;
    (of.parse() == Ok(register) && others.iter().all(|line| line == first)).then(|| version.parse().ok())?
}
