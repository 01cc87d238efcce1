//! The worker thread of a store. It receives pushes, keeps the lease, probes servers that are down, and delivers invalidations.
//!
//! It has a runtime of its own. Neither a blocking handler nor the end of a runtime of the application can then keep an invalidation from
//! being received or sent.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use redis::{PushInfo, PushKind, ServerErrorKind, Value};
use tokio::{
    runtime,
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    circuit_breaker::PROBE_INTERVAL,
    connection::{RedisConnection, Source},
    delivery,
    error::CommandError,
    inner::RedisInner,
    lease::Pace,
    node::{self, Node},
    options::Coherence,
    pipeline::PushListener,
    server::Server,
};
use crate::{
    clock::{Nanos, follow_the_wall, monotonic, nanos},
    namespace::set::Namespaces,
    store::epochs::InvalidationKind,
};

/// The shortest interval at which the identity of a master is checked, and the number of heartbeats in it.
const IDENTITY_INTERVAL: Duration = Duration::from_millis(500);
const IDENTITY_HEARTBEATS: u32 = 10;

/// The interval at which refused pushes are requested again.
const PUSH_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The interval of heartbeats that no lease depends on.
const IDLE_HEARTBEAT: Duration = Duration::from_millis(250);

/// The longest wait for an answer before the connection is given up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The time for which undelivered invalidations are still tried after the store was dropped.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Starts the worker thread.
pub(crate) fn start(inner: Arc<RedisInner>, found: mpsc::UnboundedReceiver<Arc<Node>>) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let _ = inner.runtime.set(runtime.handle().clone());
    thread::Builder::new().name("response-cache-redis".into()).spawn(move || runtime.block_on(work(inner, found))).map(drop)
}

/// Starts the worker as a task of the current runtime, for simulations.
pub(crate) fn spawn(inner: Arc<RedisInner>, found: mpsc::UnboundedReceiver<Arc<Node>>) {
    let _ = inner.runtime.set(runtime::Handle::current());
    tokio::spawn(work(inner, found));
}

/// Works until the store is dropped and its invalidations are delivered.
async fn work(inner: Arc<RedisInner>, mut found: mpsc::UnboundedReceiver<Arc<Node>>) {
    if let Some(node) = inner.topology.single() {
        inner.lease.set_masters([node.address.as_str()].into_iter(), || ());
        tokio::spawn(maintain(inner.clone(), node.clone()));
        follow_sentinels(&inner, node);
    } else {
        tokio::spawn(discover_masters(inner.clone()));
    }
    tokio::spawn(delivery::run(inner.clone()));
    let stopped = async {
        loop {
            tokio::select! {
                () = inner.stop.wait() => return,
                Some(node) = found.recv() => {
                    tokio::spawn(maintain(inner.clone(), node));
                    inner.outbox.slots_moved();
                }
                () = inner.topology.wait_for_change() => redeliver_twice(&inner),
            }
        }
    };
    stopped.await;
    let delivered = async {
        while !inner.outbox.is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let _ = timeout(SHUTDOWN_TIMEOUT, delivered).await;
}

/// Finds the masters of a cluster, and checks from time to time that they have not changed.
async fn discover_masters(inner: Arc<RedisInner>) {
    loop {
        inner.topology.refresh().await;
        let well = inner.topology.is_known() && inner.topology.all().iter().all(|node| !node.breaker.is_open());
        if well {
            let _ = timeout(Duration::from_secs(5), inner.topology.wait_until_wanted()).await;
        } else {
            sleep(PROBE_INTERVAL * 2).await;
        }
    }
}

/// Leaves a master as soon as the sentinels name another one. It would act as a master for seconds more.
fn follow_sentinels(inner: &Arc<RedisInner>, node: &Arc<Node>) {
    let Source::Sentinel(sentinels) = &node.manager.source else { return };
    for which in 0..sentinels.count() {
        let (inner, node, sentinels) = (inner.clone(), node.clone(), sentinels.clone());
        tokio::spawn(async move {
            let is_at = |address: &str| {
                if node.disconnect_from_others(address) {
                    tracing::info!(address, "sentinels named another master");
                    inner.lease.end(&node.address);
                }
            };
            sentinels.follow(which, is_at).await;
        });
    }
}

/// Maintains a connection to a master that receives its pushes, as long as it is a master.
async fn maintain(inner: Arc<RedisInner>, node: Arc<Node>) {
    let (mut told, mut before) = (false, None);
    while !node.is_retired() {
        match node.manager.open(Some(push_listener(&inner, &node))).await {
            Ok((connection, server)) => {
                inner.check_eviction(&server);
                told = false;
                let changed = before.replace(server.id).is_some_and(|before| before != server.id);
                let mut pace = Pace::new(inner.heartbeat, inner.max_heartbeat, inner.max_round_trip);
                pace.fit(server.tracking);
                ControlLink { inner: &inner, node: &node, connection, server, changed, pace }.run().await;
                inner.lease.end(&node.address);
                node.set_control(None);
            }
            Err(error) => {
                if !told {
                    tracing::warn!(server = ?node.manager.source, %error, "redis cannot be reached: requests are served without it");
                    told = true;
                }
                node.breaker.open();
                node.mark_broken();
            }
        }
        sleep(PROBE_INTERVAL).await;
    }
    inner.lease.end(&node.address);
}

/// Returns the listener for the pushes of a master. It runs inline, in the order of the pushes.
fn push_listener(inner: &Arc<RedisInner>, node: &Arc<Node>) -> PushListener {
    let (inner, node) = (Arc::downgrade(inner), Arc::downgrade(node));
    Box::new(move |push: PushInfo| {
        let (Some(inner), Some(node)) = (inner.upgrade(), node.upgrade()) else { return };
        node.trips.pushes.fetch_add(1, Ordering::Relaxed);
        match (push.kind, push.data.first()) {
            (PushKind::Invalidate, Some(Value::Array(keys))) => {
                node.last_push.store(monotonic(), Ordering::Relaxed);
                for key in keys {
                    if let Value::BulkString(key) = key
                        && let Some(pushed) = inner.keys.parse(key)
                    {
                        inner.memory.bump_hashes(pushed.hashes());
                    }
                }
            }
            // All keys at once, as by FLUSHALL.
            (PushKind::Invalidate, _) => inner.step_all_epochs(),
            (PushKind::Disconnection, _) => inner.lease.end(&node.address),
            _ => {}
        }
    })
}

/// The connection to a master that receives its pushes.
struct ControlLink<'a> {
    inner: &'a Arc<RedisInner>,
    node: &'a Arc<Node>,
    connection: RedisConnection,
    server: Server,
    /// `true` if the identity differs from that of the previous connection.
    changed: bool,
    pace: Pace,
}

/// The state of pushes from a master.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pushes {
    /// They arrive, and the table is trusted up to this time.
    Until(Nanos),
    /// The server refused them at this time.
    Refused(Nanos),
    /// No lease is wanted.
    Unwanted,
}

/// The result of a heartbeat.
enum HeartbeatResult {
    /// The server would accept an invalidation.
    Accepted,
    /// The server would not accept one now.
    Refused,
    /// It is not the master any more, or is cut off from its cluster.
    Replaced,
    Lost,
}

impl ControlLink<'_> {
    /// Sends heartbeats until one is not answered or the server is not the master any more.
    async fn run(mut self) {
        if let Some(mut pushes) = self.request_pushes(true).await {
            let mut slot = None;
            // The lease begins with the first heartbeat, before waiting tasks learn that the master can be reached.
            if self.heartbeat(&mut pushes, &mut slot).await {
                self.node.learn_time(&self.server);
                self.node.set_control(Some(self.connection.clone()));
                if self.changed {
                    redeliver_twice(self.inner);
                }
                self.inner.reconnected.notify_waiters();
                self.send_heartbeats(pushes, slot).await;
            }
        }
        self.connection.mark_broken();
        self.inner.topology.refresh().await;
    }

    async fn send_heartbeats(&mut self, mut pushes: Pushes, mut slot: Option<u16>) {
        let (mut next, mut same) = (Instant::now(), monotonic());
        while !self.node.is_retired() && !self.connection.is_broken() {
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.node.breaker.opened.notified() => {}
            }
            let every = self.pace.every();
            next = Instant::now() + if pushes == Pushes::Unwanted { IDLE_HEARTBEAT.max(every) } else { every };
            if !self.heartbeat(&mut pushes, &mut slot).await {
                return;
            }
            if monotonic().saturating_sub(same) >= nanos(IDENTITY_INTERVAL.max(IDENTITY_HEARTBEATS * every)) {
                same = monotonic();
                match timeout(ANSWER_TIMEOUT, self.connection.server()).await {
                    Ok(Ok(now)) if now.id == self.server.id && now.role == self.server.role => {
                        self.inner.check_eviction(&now);
                        self.node.learn_time(&now);
                        self.pace.fit(now.tracking);
                    }
                    _ => {
                        tracing::info!(server = ?self.node.manager.source, "redis server identity changed (restart or failover)");
                        self.node.mark_broken();
                        return;
                    }
                }
            }
        }
    }

    /// Sends one heartbeat and acts on its result. Returns `false` if the connection is of no further use.
    async fn heartbeat(&mut self, pushes: &mut Pushes, slot: &mut Option<u16>) -> bool {
        follow_the_wall();
        let sent = monotonic();
        match self.send_heartbeat(slot).await {
            HeartbeatResult::Accepted => {
                if let Pushes::Until(trusted) = pushes
                    && !self.connection.is_broken()
                {
                    self.inner.lease.extend(&self.node.address, *trusted, self.pace.delta());
                    self.pace.settle();
                    *trusted = sent;
                }
                if self.node.breaker.is_open() {
                    probe(self.node).await;
                }
            }
            HeartbeatResult::Refused => {}
            HeartbeatResult::Replaced => {
                self.inner.lease.end(&self.node.address);
                if self.inner.topology.single().is_some() {
                    tracing::info!(server = ?self.node.manager.source, "redis is no longer the master");
                    self.node.mark_broken();
                    return false;
                }
                if !self.node.breaker.is_open() {
                    tracing::info!(server = ?self.node.manager.source, "redis is no longer a master of the cluster");
                }
                self.node.breaker.open();
                self.inner.topology.refresh().await;
            }
            HeartbeatResult::Lost => return false,
        }
        match *pushes {
            Pushes::Refused(at) if monotonic().saturating_sub(at) >= nanos(PUSH_RETRY_INTERVAL) => {
                match self.request_pushes(false).await {
                    Some(now) => *pushes = now,
                    None => return false,
                }
            }
            _ => {}
        }
        true
    }

    /// Sends a command that the server answers only if it would accept an invalidation. In a cluster, its key is in one of the server's
    /// slots.
    async fn send_heartbeat(&mut self, slot: &mut Option<u16>) -> HeartbeatResult {
        let alone = self.inner.topology.single().is_some();
        let mut refreshed = false;
        loop {
            *slot = self.inner.topology.slot_of(self.node, *slot);
            if slot.is_none() && !alone {
                return HeartbeatResult::Replaced;
            }
            let command = node::check(&self.inner.keys.check(*slot));
            let Ok(answer) = timeout(ANSWER_TIMEOUT, self.connection.send(&command)).await else {
                return HeartbeatResult::Lost;
            };
            let error = match answer.map_err(CommandError::from) {
                Ok(_) => return HeartbeatResult::Accepted,
                Err(CommandError::Server(error)) => error,
                Err(_) => return HeartbeatResult::Lost,
            };
            match error.kind() {
                // The slot belongs to this master and is moving to another one.
                Some(ServerErrorKind::Ask) => return HeartbeatResult::Accepted,
                Some(ServerErrorKind::Moved) if !refreshed => {
                    // Perhaps only this slot has moved.
                    refreshed = true;
                    self.inner.topology.refresh().await;
                }
                Some(
                    ServerErrorKind::Moved
                    | ServerErrorKind::ReadOnly
                    | ServerErrorKind::ClusterDown
                    | ServerErrorKind::MasterDown,
                ) => return HeartbeatResult::Replaced,
                _ => {
                    tracing::debug!(%error, server = ?self.node.manager.source, "redis refused a heartbeat");
                    return HeartbeatResult::Refused;
                }
            }
        }
    }

    /// Requests pushes, if a lease is wanted. `None` without an answer: the connection is then of no further use.
    async fn request_pushes(&mut self, warns: bool) -> Option<Pushes> {
        if self.inner.coherence != Coherence::Leased {
            return Some(Pushes::Unwanted);
        }
        match timeout(ANSWER_TIMEOUT, self.connection.send(&tracking(self.inner))).await {
            Ok(Ok(_)) => {
                // The order matters: tracking is answered, every epoch is stepped, and only then is anything trusted.
                self.inner.step_all_epochs();
                let trusted = monotonic();
                self.subscribe().await?;
                Some(Pushes::Until(trusted))
            }
            Ok(Err(error)) if !self.connection.is_broken() => {
                if warns {
                    tracing::warn!(%error, "redis refused to push invalidations: each hit is validated instead");
                }
                Some(Pushes::Refused(monotonic()))
            }
            _ => None,
        }
    }

    /// Makes this a connection of the class `pubsub`, whose output buffer is limited: the server then closes it if this process does not
    /// read, instead of keeping all pushes. `None` without an answer.
    async fn subscribe(&self) -> Option<()> {
        let command = redis::cmd("SUBSCRIBE").arg(self.inner.keys.channel()).take();
        match timeout(ANSWER_TIMEOUT, self.connection.send(&command)).await {
            Ok(Ok(_)) => Some(()),
            Ok(Err(error)) if !self.connection.is_broken() => {
                if !self.inner.warned_of_channel.swap(true, Ordering::Relaxed) {
                    let channel = self.inner.keys.channel();
                    tracing::warn!(%error, channel, "redis refused a subscription: it keeps all pushes for a process that does not read");
                }
                Some(())
            }
            _ => None,
        }
    }
}

/// Closes the breaker if new connections are answered.
async fn probe(node: &Node) {
    node.mark_broken();
    if node.responds(ANSWER_TIMEOUT / 4).await {
        node.breaker.close();
    }
}

/// Returns the command that requests pushes.
///
/// With one master, only invalidations and fences are pushed: one message that Redis builds once for all processes. In a cluster, a name
/// is not touched, because the touched key of a slot that is moving belongs to the new node, which other processes may not know yet. There
/// the generations themselves are tracked, without those that this process creates.
fn tracking(inner: &RedisInner) -> redis::Cmd {
    let mut command = redis::cmd("CLIENT");
    command.arg("TRACKING").arg("ON").arg("BCAST");
    let alone = inner.topology.single().is_some();
    for prefix in inner.keys.pushed(alone) {
        command.arg("PREFIX").arg(prefix);
    }
    if !alone {
        command.arg("NOLOOP");
    }
    command
}

/// Delivers recent invalidations again, and once more after the previous server has answered pending commands.
fn redeliver_twice(inner: &Arc<RedisInner>) {
    inner.redeliver();
    let inner = inner.clone();
    tokio::spawn(async move {
        sleep(ANSWER_TIMEOUT).await;
        inner.redeliver();
    });
}

impl RedisInner {
    /// Steps every epoch, because all entries belong to the root.
    fn step_all_epochs(&self) {
        self.memory.bump_hashes(Namespaces::root().hashes());
    }

    /// Queues recent invalidations again. The previous server may have been replaced for a while, and its last commands are lost.
    fn redeliver(&self) {
        let Some(again) = self.recent.again() else {
            tracing::info!("redis master changed: everything is invalidated again");
            drop(self.outbox.send(&self.keys, &Namespaces::root(), InvalidationKind::Hard, None));
            return;
        };
        if !again.is_empty() {
            tracing::info!(count = again.len(), "redis master changed: recent invalidations are delivered again");
        }
        self.outbox.send_again(again);
    }
}
