//! A simulated process of the application: the layers over a store, and a handler over the database.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use tokio::sync::watch;
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_response_cache::{
    __private::over_network,
    CacheBody, CacheLayer, CachePolicy, Clock, InvalidateLayer, Namespace, Redis, Rule, Rules, Store,
    invalidate::{InvalidateBody, OnDeliveryTimeout},
    redis::Failover,
};

use super::{
    laws::{check, operation},
    machine,
    plan::{Broken, Fault, Plan},
    restamp::Restamp,
    stream::Wire,
    world::World,
};

/// Routes on which a register is read: by a namespace of the rule, by one that only the response names, with a short lifetime and a lock,
/// a register that is invalidated softly, and a long response, of which parts are read.
pub const ROUTES: [&str; 5] = ["r", "v", "x", "s", "p"];

/// The place of the softly invalidated registers in [`ROUTES`].
pub const SOFT: usize = 3;

/// The place of the long responses in [`ROUTES`], the number of their lines, and the bytes of a line.
pub const PARTS: usize = 4;
pub const LINES: usize = 64;
pub const LINE: usize = 16;

/// The number of the first register that is invalidated softly.
pub const FIRST_SOFT: u32 = 1_000;

/// The request header with the number of the operation.
pub const OPERATION: &str = "x-operation";

/// The request header with the time in milliseconds after which the handler stops waiting for its statement.
pub const PATIENCE: &str = "x-patience";

/// The longest time for which the response of a write waits for Redis.
const HOLD: Duration = Duration::from_millis(500);

pub type Answer = Response<InvalidateBody<CacheBody<Full<Bytes>>>>;

pub type App = BoxCloneSyncService<Request<Full<Bytes>>, Answer, Infallible>;

/// A process.
#[derive(Clone)]
pub struct Process {
    pub id: operation::Process,
    /// The number of its line to the server. A process that replaces another one has a new line.
    pub line: usize,
    pub app: App,
    pub store: Redis,
    /// `None` if it uses the clock of the machine.
    pub clock: Option<Clock>,
    killed: Arc<watch::Sender<bool>>,
}

impl Process {
    pub async fn start(world: &World, id: operation::Process, line: usize) -> Self {
        let (plan, sets_clock) = {
            let mut inner = world.lock();
            (inner.plan.clone(), inner.random.bool())
        };
        let clock = (sets_clock && plan.has(Fault::WallClock)).then(machine::process_clock);
        let wire = Arc::new(Wire { world: world.clone(), process: line });
        let builder = over_network(Redis::builder("redis://redis"), wire)
            .prefix("s")
            .memory(plan.memory)
            .coherence(plan.coherence)
            .heartbeat(plan.heartbeat)
            .max_heartbeat(plan.heartbeat)
            .max_round_trip(plan.round_trip)
            .command_timeout(plan.command_timeout)
            .gather(plan.gather)
            .failover(if plan.broken == Some(Broken::Trust) { Failover::Trust } else { Failover::Flush });
        let builder = match plan.strict {
            Some(deadline) => builder.strict(deadline),
            None => builder,
        };
        let builder = match &clock {
            Some(clock) => builder.clock(clock.clone()),
            None => builder,
        };
        let store = builder.build().await.expect("valid settings");
        let killed = Arc::new(watch::Sender::new(false));
        let handler = Handler { world: world.clone(), killed: killed.clone() };
        let app = match plan.broken {
            Some(Broken::Restamp) => app(Restamp(store.clone()), &plan, handler),
            _ => app(store.clone(), &plan, handler),
        };
        world.note(|| format!("process {line} runs"));
        Self { id, line, app, store, clock, killed }
    }

    /// Kills the process: nothing that it sends later arrives.
    pub fn kill(&self, world: &World) {
        self.killed.send_replace(true);
        world.act(|inner| {
            inner.note(format!("process {} is killed", self.line));
            let at = inner.stamp();
            inner.history.kills.push(check::Kill { process: self.id, at });
            inner.lines.entry(self.line).or_default().gone = true;
            inner.cut_all(self.line);
        });
    }

    pub fn is_killed(&self) -> bool {
        *self.killed.borrow()
    }

    /// Returns when the process is killed.
    pub async fn until_killed(&self) {
        let _ = self.killed.subscribe().wait_for(|killed| *killed).await;
    }
}

fn rules(plan: &Plan) -> Rules {
    let names = if plan.one_namespace { "row" } else { "row:{key}" };
    let lifetime = Duration::from_secs(60);
    let short = Rule::ttl(Duration::from_millis(300))
        .stale_while_revalidate(Duration::from_secs(2))
        .refresh_ahead(1.0)
        .distributed_lock(Duration::from_secs(1))
        .namespace(names);
    let soft = Rule::ttl(lifetime).stale_while_revalidate(Duration::from_millis(300)).namespace("soft:{key}");
    Rules::new()
        .route("/r/{key}", Rule::ttl(lifetime).namespace(names))
        .route("/v/{key}", Rule::ttl(lifetime))
        .route("/x/{key}", short)
        .route("/p/{key}", Rule::ttl(lifetime).namespace(names))
        .route("/s/{key}", soft.invalidates_softly())
}

fn app<St: Store>(store: St, plan: &Plan, handler: Handler) -> App {
    let rules = rules(plan);
    let handle = service_fn(move |request| handler.clone().handle(request));
    let cache = CacheLayer::new(store.clone()).rules(rules.clone()).status_extension(true).layer(handle);
    let invalidate = InvalidateLayer::new(store).rules(rules).delivery_timeout(HOLD, OnDeliveryTimeout::Respond);
    BoxCloneSyncService::new(invalidate.layer(cache))
}

/// The handler of a process.
#[derive(Clone)]
struct Handler {
    world: World,
    killed: Arc<watch::Sender<bool>>,
}

impl Handler {
    async fn handle(self, request: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
        let mut segments = request.uri().path().split('/').skip(1);
        let route = segments.next().expect("a route");
        let key: u32 = segments.next().and_then(|key| key.parse().ok()).expect("a register");
        let register = if route == ROUTES[SOFT] { key + FIRST_SOFT } else { key };
        let operation = (*request.method() != Method::GET)
            .then(|| request.headers()[OPERATION].to_str().ok().and_then(|text| text.parse().ok()).expect("a number"));
        let patience = request.headers().get(PATIENCE).and_then(|value| value.to_str().ok()?.parse().ok());
        let patience = Duration::from_millis(patience.unwrap_or(u64::from(u32::MAX)));
        let Ok(version) = tokio::time::timeout(patience, self.execute(register, operation)).await else {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
            return Ok(response);
        };
        let line = format!("{:<width$}\n", format!("{register} {version}"), width = LINE - 1);
        let mut response = Response::new(Full::from(line.repeat(if route == ROUTES[PARTS] { LINES } else { 1 })));
        if route == "v" {
            response.extensions_mut().insert(CachePolicy::new().namespace(Namespace::of(["row", &key.to_string()])));
        }
        Ok(response)
    }

    /// Executes a statement, with the work of a handler around it. A statement that has been sent is executed even if the caller is gone.
    async fn execute(&self, register: u32, operation: Option<u64>) -> u64 {
        self.world.pause(3).await;
        if *self.killed.borrow() {
            std::future::pending::<()>().await;
        }
        let world = self.world.clone();
        let statement = tokio::spawn(async move {
            let long = world.below(10) == 0;
            world.pause(if long { 40 } else { 4 }).await;
            let version = match operation {
                Some(operation) => world.lock().commit(register, operation),
                None => world.lock().versions.get(&register).copied().unwrap_or(0),
            };
            world.pause(if long { 40 } else { 4 }).await;
            version
        });
        let version = statement.await.expect("it does not panic");
        self.world.pause(3).await;
        version
    }
}

/// Sends a request to a process.
pub async fn call(app: &App, request: Request<Full<Bytes>>) -> Answer {
    app.clone().oneshot(request).await.unwrap_or_else(|never| match never {})
}
