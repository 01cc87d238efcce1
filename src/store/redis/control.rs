//! The thread behind a store: it hears what masters push, keeps the lease, probes those that are away, and delivers bumps.
//!
//! It has a runtime of its own, so that neither a handler that blocks nor the end of a runtime of the application keeps an
//! invalidation from being heard or sent.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use redis::{AsyncConnectionConfig, PushInfo, PushKind, Value};
use tokio::{
    runtime,
    sync::{Notify, mpsc},
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    Coherence, Core,
    breaker::PROBES,
    connect::{RedisConnection, Server},
    deliver::{self, Job},
    node::Node,
};
use crate::{
    clock::{Nanos, follow_the_wall, monotonic, nanos},
    namespace::Namespaces,
};

/// How often a master is asked whether it is still the one it was.
const SAME: Duration = Duration::from_millis(500);

/// How often it is asked for a sign of life where no lease depends on it.
const IDLE: Duration = Duration::from_millis(250);

/// How long it may take to answer before the connection is given up.
const SILENCE: Duration = Duration::from_secs(1);

/// How long bumps that could not be delivered are still tried once the store has been dropped.
const FAREWELL: Duration = Duration::from_secs(2);

/// Ends the thread.
#[derive(Debug, Default)]
pub(super) struct Stop {
    told: AtomicBool,
    notify: Notify,
}

impl Stop {
    pub(super) fn tell(&self) {
        self.told.store(true, Ordering::SeqCst);
        self.notify.notify_waiters();
    }

    async fn wait(&self) {
        let told = self.notify.notified();
        if !self.told.load(Ordering::SeqCst) {
            told.await;
        }
    }
}

/// Starts the thread.
pub(super) fn start(
    core: Arc<Core>,
    jobs: mpsc::UnboundedReceiver<Job>,
    mut found: mpsc::UnboundedReceiver<Arc<Node>>,
) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let work = async move {
        if let Some(node) = core.nodes.one() {
            core.lease.is_of([node.address.as_str()].into_iter(), || ());
            tokio::spawn(tend(core.clone(), node.clone()));
        } else {
            tokio::spawn(seek(core.clone()));
        }
        tokio::spawn(deliver::run(core.clone(), jobs));
        let stopped = async {
            loop {
                tokio::select! {
                    () = core.stop.wait() => return,
                    Some(node) = found.recv() => drop(tokio::spawn(tend(core.clone(), node))),
                }
            }
        };
        stopped.await;
        let delivered = async {
            while core.deliveries.waiting() > 0 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = timeout(FAREWELL, delivered).await;
    };
    thread::Builder::new().name("response-cache-redis".into()).spawn(move || runtime.block_on(work)).map(drop)
}

/// Asks for the masters of a cluster until they are known, and now and then whether they still are those.
async fn seek(core: Arc<Core>) {
    loop {
        core.nodes.refresh().await;
        let well = core.nodes.are_known() && core.nodes.all().iter().all(|node| !node.breaker.is_open());
        if well {
            let _ = timeout(Duration::from_secs(5), core.nodes.are_wanted()).await;
        } else {
            sleep(PROBES * 2).await;
        }
    }
}

/// Keeps a connection to a master that hears its pushes, for as long as it is one.
async fn tend(core: Arc<Core>, node: Arc<Node>) {
    let mut told = false;
    while !node.is_gone() {
        let config = AsyncConnectionConfig::new().set_push_sender(hearing(&core, &node));
        match node.manager.open(Some(config)).await {
            Ok((connection, server)) => {
                core.greets(&server);
                told = false;
                attend(&core, &node, connection, server).await;
                core.lease.ends(&node.address);
                node.is_controlled_by(None);
            }
            Err(error) => {
                if !told {
                    tracing::warn!(server = ?node.manager.source, %error, "redis cannot be reached; requests go on without it");
                    told = true;
                }
                node.breaker.open();
                node.breaks();
            }
        }
        sleep(PROBES).await;
    }
    core.lease.ends(&node.address);
}

/// What is done with what a master sends of itself: inline, in the order in which it comes.
fn hearing(
    core: &Arc<Core>,
    node: &Arc<Node>,
) -> impl Fn(PushInfo) -> Result<(), redis::aio::SendError> + Send + Sync + 'static {
    let (core, node) = (Arc::downgrade(core), Arc::downgrade(node));
    move |push: PushInfo| {
        let (Some(core), Some(node)) = (core.upgrade(), node.upgrade()) else { return Ok(()) };
        match (push.kind, push.data.first()) {
            (PushKind::Invalidate, Some(Value::Array(keys))) => {
                for key in keys {
                    if let Value::BulkString(key) = key
                        && let Some(pushed) = core.names.parse(key)
                    {
                        core.near.bump_hashes(pushed.hashes());
                    }
                }
            }
            // All keys at once: a FLUSHALL.
            (PushKind::Invalidate, _) => core.steps_all(),
            (PushKind::Disconnection, _) => core.lease.ends(&node.address),
            _ => {}
        }
        Ok(())
    }
}

/// Asks a master for a sign of life, time and again, until there is none.
async fn attend(core: &Arc<Core>, node: &Arc<Node>, mut connection: RedisConnection, server: Server) {
    let leased = core.coherence == Coherence::Leased && tracks(core, &mut connection).await;
    // In this order: tracking answered, every epoch stepped, and only then is anything trusted.
    if leased {
        core.steps_all();
    }
    let mut trusted = monotonic();
    let extend = |until: Nanos| {
        if leased {
            core.lease.extends(&node.address, until.saturating_add(core.delta));
        }
    };
    extend(trusted);
    node.learns(&server);
    node.is_controlled_by(Some(connection.clone()));
    if node.breaker.is_open() {
        probe(node).await;
    }
    core.reconnected.notify_waiters();

    let every = if leased { core.heartbeat } else { IDLE.max(core.heartbeat) };
    let mut beats = interval(every);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut same = monotonic();
    while !node.is_gone() && !connection.is_broken() {
        tokio::select! {
            _ = beats.tick() => {}
            () = node.breaker.opened.notified() => {}
        }
        follow_the_wall();
        let sent = monotonic();
        if !matches!(timeout(SILENCE, connection.one(&redis::cmd("PING"))).await, Ok(Ok(_))) {
            break;
        }
        extend(trusted);
        trusted = sent;
        if node.breaker.is_open() {
            probe(node).await;
        }
        if monotonic().saturating_sub(same) >= nanos(SAME) {
            same = monotonic();
            match timeout(SILENCE, connection.server()).await {
                Ok(Ok(now)) if now.id == server.id && now.role == server.role => {
                    core.greets(&now);
                    node.learns(&now);
                }
                _ => {
                    tracing::info!(server = ?node.manager.source, "redis is another server than it was");
                    node.breaks();
                    break;
                }
            }
        }
    }
    connection.breaks();
    core.nodes.refresh().await;
}

/// Closes the breaker if connections made anew are answered.
async fn probe(node: &Node) {
    node.breaks();
    if node.answers(SILENCE / 4).await {
        node.breaker.close();
    }
}

async fn tracks(core: &Core, connection: &mut RedisConnection) -> bool {
    let mut command = redis::cmd("CLIENT");
    command.arg("TRACKING").arg("ON").arg("BCAST");
    for prefix in core.names.pushed() {
        command.arg("PREFIX").arg(prefix);
    }
    command.arg("NOLOOP");
    match timeout(SILENCE, connection.one(&command)).await {
        Ok(Ok(_)) => true,
        answer => {
            tracing::warn!(?answer, "redis does not push invalidations; each hit is validated instead");
            false
        }
    }
}

impl Core {
    /// Steps every epoch: all entries belong to the root.
    fn steps_all(&self) {
        self.near.bump_hashes(Namespaces::root().hashes());
    }
}
