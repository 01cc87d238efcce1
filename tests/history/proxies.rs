//! Processes of `examples/proxy`, and their origin: the database by HTTP.

use std::{net::SocketAddr, process::Command, time::Duration};

use axum::{
    Router,
    extract::Path,
    http::{
        HeaderMap, HeaderValue,
        header::{CACHE_CONTROL, CONTENT_LOCATION},
    },
    response::IntoResponse,
    routing::get,
};
use tokio::net::TcpListener;
use tower_response_cache::redis::Coherence;

use super::{
    database::Database,
    node::{HOLD, Heartbeat, OPERATION},
    operation::{Ending, Source},
    program::program,
};

/// The heartbeat of a proxy: its shortest round trip is not configurable.
pub const HEARTBEAT: Heartbeat = Heartbeat { interval: Duration::from_millis(20), round_trip: Duration::from_millis(20) };

/// Settings of a proxy.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    pub origin: SocketAddr,
    pub redis: String,
    pub coherence: Coherence,
    pub strict: Option<Duration>,
}

impl ProxySettings {
    pub fn command(&self) -> Command {
        let mut command = Command::new(program());
        let millis = |time: Duration| time.as_millis().to_string();
        command.args(["--listen", "127.0.0.1:0", "--prefix", "history", "--memory", "8MiB", "--redis", &self.redis]);
        command.args(["--origin", &format!("http://{}", self.origin), "--hold", &millis(HOLD)]);
        command.args(["--heartbeat", &millis(HEARTBEAT.interval), "--coherence"]);
        command.arg(if self.coherence == Coherence::Validated { "validated" } else { "leased" });
        if let Some(deadline) = self.strict {
            command.args(["--strict", "--fence", &millis(deadline)]);
        }
        command
    }
}

/// Starts the origin, which serves each register at three addresses. A write to `/r/{key}` invalidates that address. Its response names
/// the others: `/x/{key}`, whose responses are short-lived and may be stale during a refresh, by `Content-Location` (RFC 9111, section
/// 4.4), and `/v/{key}` by a group (RFC 9875).
pub async fn start_origin(database: Database) -> SocketAddr {
    let read = |database: Database, fields: fn(u32) -> Vec<(&'static str, String)>| {
        get(move |Path(key): Path<u32>| async move {
            let version = database.execute(format!("read {key}")).await;
            (headers(fields(key)), format!("{key} {version}"))
        })
    };
    let write = {
        let database = database.clone();
        move |Path(key): Path<u32>, sent: HeaderMap| async move {
            let operation = sent.get(OPERATION).and_then(|value| value.to_str().ok()).unwrap_or("0");
            let version = database.execute(format!("write {key} {operation}")).await;
            let fields = [
                (CACHE_CONTROL.as_str(), "no-store".to_owned()),
                (CONTENT_LOCATION.as_str(), format!("/x/{key}")),
                ("cache-group-invalidation", format!("\"row-{key}\"")),
            ];
            (headers(fields), format!("{key} {version}")).into_response()
        }
    };
    let long = |_| vec![("cache-control", "max-age=60".to_owned())];
    let short = |_| vec![("cache-control", "max-age=1, stale-while-revalidate=2".to_owned())];
    let grouped = |key| vec![("cache-control", "max-age=60".to_owned()), ("cache-groups", format!("\"row-{key}\""))];
    let app = Router::new()
        .route("/r/{key}", read(database.clone(), long).post(write))
        .route("/x/{key}", read(database.clone(), short))
        .route("/v/{key}", read(database, grouped));
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = socket.local_addr().expect("its address");
    tokio::spawn(async move { axum::serve(socket, app).await });
    address
}

fn headers(fields: impl IntoIterator<Item = (&'static str, String)>) -> HeaderMap {
    let value = |text: String| HeaderValue::try_from(text).expect("a field value");
    fields.into_iter().map(|(name, text)| (name.parse().expect("a field name"), value(text))).collect()
}

/// Returns the source of a response of a proxy, by its `Cache-Status` (RFC 9211).
pub fn source(headers: &HeaderMap) -> Source {
    match status(headers).flat_map(|member| member.split("; ")).any(|word| matches!(word, "hit" | "collapsed")) {
        true => Source::Store,
        false => Source::Database,
    }
}

/// Returns the ending of a write that a proxy has answered, by its `Cache-Status`.
pub fn ending_of_write(headers: &HeaderMap, version: u64) -> Ending {
    let has = |detail: &str| status(headers).any(|member| member.contains(detail));
    match has("detail=not-fenced") {
        true => Ending::NotFenced,
        false => Ending::Written { version, delivered: !has("detail=undelivered") },
    }
}

fn status(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers.get_all("cache-status").into_iter().filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(", "))
}
