//! The worker thread of a store. It receives pushes, keeps the lease, probes servers that are down, and delivers invalidations.
//!
//! It has a runtime of its own. Neither a blocking handler nor the end of a runtime of the application can then keep an invalidation from
//! being received or sent.

use std::{io, sync::Arc, thread, time::Duration};

use redis::{PushInfo, PushKind, ServerErrorKind, Value};
use tokio::{
    runtime,
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    circuit_breaker::PROBES,
    connection::{RedisConnection, Source},
    delivery,
    error::CommandError,
    inner::RedisInner,
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

/// The interval at which the identity of a master is checked.
const SAME: Duration = Duration::from_millis(500);

/// The interval at which refused pushes are requested again.
const REFUSED: Duration = Duration::from_secs(1);

/// The interval of heartbeats that no lease depends on.
const IDLE: Duration = Duration::from_millis(250);

/// The longest wait for an answer before the connection is given up.
const SILENCE: Duration = Duration::from_secs(1);

/// The time for which undelivered invalidations are still tried after the store was dropped.
const FAREWELL: Duration = Duration::from_secs(2);

/// Starts the worker thread.
pub(crate) fn start(core: Arc<RedisInner>, mut found: mpsc::UnboundedReceiver<Arc<Node>>) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let _ = core.runtime.set(runtime.handle().clone());
    let work = async move {
        if let Some(node) = core.nodes.one() {
            core.lease.is_of([node.address.as_str()].into_iter(), || ());
            tokio::spawn(tend(core.clone(), node.clone()));
            follow_sentinels(&core, node);
        } else {
            tokio::spawn(seek(core.clone()));
        }
        tokio::spawn(delivery::run(core.clone()));
        let stopped = async {
            loop {
                tokio::select! {
                    () = core.stop.wait() => return,
                    Some(node) = found.recv() => {
                        tokio::spawn(tend(core.clone(), node));
                        core.deliveries.move_on();
                    }
                    () = core.nodes.have_changed() => invalidate_again(&core),
                }
            }
        };
        stopped.await;
        let delivered = async {
            while !core.deliveries.is_empty() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = timeout(FAREWELL, delivered).await;
    };
    thread::Builder::new().name("response-cache-redis".into()).spawn(move || runtime.block_on(work)).map(drop)
}

/// Finds the masters of a cluster, and checks from time to time that they have not changed.
async fn seek(core: Arc<RedisInner>) {
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

/// Leaves a master as soon as the sentinels name another one. It would act as a master for seconds more.
fn follow_sentinels(core: &Arc<RedisInner>, node: &Arc<Node>) {
    let Source::Sentinel(sentinels) = &node.manager.source else { return };
    for which in 0..sentinels.count() {
        let (core, node, sentinels) = (core.clone(), node.clone(), sentinels.clone());
        tokio::spawn(async move {
            let is_at = |address: &str| {
                if node.leaves_all_but(address) {
                    tracing::info!(address, "sentinels named another master");
                    core.lease.ends(&node.address);
                }
            };
            sentinels.follow(which, is_at).await;
        });
    }
}

/// Maintains a connection to a master that receives its pushes, as long as it is a master.
async fn tend(core: Arc<RedisInner>, node: Arc<Node>) {
    let (mut told, mut before) = (false, None);
    while !node.is_gone() {
        match node.manager.open(Some(hearing(&core, &node))).await {
            Ok((connection, server)) => {
                core.greets(&server);
                told = false;
                let changed = before.replace(server.id).is_some_and(|before| before != server.id);
                Attending { core: &core, node: &node, connection, server, changed }.attend().await;
                core.lease.ends(&node.address);
                node.is_controlled_by(None);
            }
            Err(error) => {
                if !told {
                    tracing::warn!(server = ?node.manager.source, %error, "redis cannot be reached: requests are served without it");
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

/// Returns the listener for the pushes of a master. It runs inline, in the order of the pushes.
fn hearing(core: &Arc<RedisInner>, node: &Arc<Node>) -> PushListener {
    let (core, node) = (Arc::downgrade(core), Arc::downgrade(node));
    Box::new(move |push: PushInfo| {
        let (Some(core), Some(node)) = (core.upgrade(), node.upgrade()) else { return };
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
            // All keys at once, as by FLUSHALL.
            (PushKind::Invalidate, _) => core.steps_all(),
            (PushKind::Disconnection, _) => core.lease.ends(&node.address),
            _ => {}
        }
    })
}

/// The connection to a master that receives its pushes.
struct Attending<'a> {
    core: &'a Arc<RedisInner>,
    node: &'a Arc<Node>,
    connection: RedisConnection,
    server: Server,
    /// `true` if the identity differs from that of the previous connection.
    changed: bool,
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
enum Beat {
    /// The server would accept an invalidation.
    Well,
    /// The server would not accept one now.
    Refused,
    /// It is not the master any more, or is cut off from its cluster.
    Replaced,
    Misconfiguration,
}

impl Attending<'_> {
    /// Sends heartbeats until one is not answered or the server is not the master any more.
    async fn attend(mut self) {
        if let Some(mut pushes) = self.begins_to_listen(true).await {
            let mut slot = None;
            // The lease begins with the first heartbeat, before waiting tasks learn that the master can be reached.
            if self.beats(&mut pushes, &mut slot).await {
                self.node.learns(&self.server);
                self.node.is_controlled_by(Some(self.connection.clone()));
                if self.changed {
                    invalidate_again(self.core);
                }
                self.core.reconnected.notify_waiters();
                self.keeps_beating(pushes, slot).await;
            }
        }
        self.connection.breaks();
        self.core.nodes.refresh().await;
    }

    async fn keeps_beating(&mut self, mut pushes: Pushes, mut slot: Option<u16>) {
        let every = if pushes == Pushes::Unwanted { IDLE.max(self.core.heartbeat) } else { self.core.heartbeat };
        let mut beats = interval(every);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut same = monotonic();
        while !self.node.is_gone() && !self.connection.is_broken() {
            tokio::select! {
                _ = beats.tick() => {}
                () = self.node.breaker.opened.notified() => {}
            }
            if !self.beats(&mut pushes, &mut slot).await {
                return;
            }
            if monotonic().saturating_sub(same) >= nanos(SAME) {
                same = monotonic();
                match timeout(SILENCE, self.connection.server()).await {
                    Ok(Ok(now)) if now.id == self.server.id && now.role == self.server.role => {
                        self.core.greets(&now);
                        self.node.learns(&now);
                    }
                    _ => {
                        tracing::info!(server = ?self.node.manager.source, "redis server identity changed (restart or failover)");
                        self.node.breaks();
                        return;
                    }
                }
            }
        }
    }

    /// Sends one heartbeat and acts on its result. Returns `false` if the connection is of no further use.
    async fn beats(&mut self, pushes: &mut Pushes, slot: &mut Option<u16>) -> bool {
        follow_the_wall();
        let sent = monotonic();
        match self.beat(slot).await {
            Beat::Well => {
                if let Pushes::Until(trusted) = pushes
                    && !self.connection.is_broken()
                {
                    self.core.lease.extends(&self.node.address, trusted.saturating_add(self.core.delta));
                    *trusted = sent;
                }
                if self.node.breaker.is_open() {
                    probe(self.node).await;
                }
            }
            Beat::Refused => {}
            Beat::Replaced => {
                self.core.lease.ends(&self.node.address);
                if self.core.nodes.one().is_some() {
                    tracing::info!(server = ?self.node.manager.source, "redis is no longer the master");
                    self.node.breaks();
                    return false;
                }
                if !self.node.breaker.is_open() {
                    tracing::info!(server = ?self.node.manager.source, "redis is no longer a master of the cluster");
                }
                self.node.breaker.open();
                self.core.nodes.refresh().await;
            }
            Beat::Misconfiguration => return false,
        }
        match *pushes {
            Pushes::Refused(at) if monotonic().saturating_sub(at) >= nanos(REFUSED) => {
                match self.begins_to_listen(false).await {
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
    async fn beat(&mut self, slot: &mut Option<u16>) -> Beat {
        let alone = self.core.nodes.one().is_some();
        let mut refreshed = false;
        loop {
            *slot = self.core.nodes.slot_of(self.node, *slot);
            if slot.is_none() && !alone {
                return Beat::Replaced;
            }
            let command = node::check(&self.core.names.check(*slot));
            let Ok(answer) = timeout(SILENCE, self.connection.one(&command)).await else { return Beat::Misconfiguration };
            let error = match answer.map_err(CommandError::from) {
                Ok(_) => return Beat::Well,
                Err(CommandError::Server(error)) => error,
                Err(_) => return Beat::Misconfiguration,
            };
            match error.kind() {
                // The slot belongs to this master and is moving to another one.
                Some(ServerErrorKind::Ask) => return Beat::Well,
                Some(ServerErrorKind::Moved) if !refreshed => {
                    // Perhaps only this slot has moved.
                    refreshed = true;
                    self.core.nodes.refresh().await;
                }
                Some(
                    ServerErrorKind::Moved
                    | ServerErrorKind::ReadOnly
                    | ServerErrorKind::ClusterDown
                    | ServerErrorKind::MasterDown,
                ) => return Beat::Replaced,
                _ => {
                    tracing::debug!(%error, server = ?self.node.manager.source, "redis refused a heartbeat");
                    return Beat::Refused;
                }
            }
        }
    }

    /// Requests pushes, if a lease is wanted. `None` without an answer: the connection is then of no further use.
    async fn begins_to_listen(&mut self, warns: bool) -> Option<Pushes> {
        if self.core.coherence != Coherence::Leased {
            return Some(Pushes::Unwanted);
        }
        match timeout(SILENCE, self.connection.one(&tracking(self.core))).await {
            Ok(Ok(_)) => {
                // The order matters: tracking is answered, every epoch is stepped, and only then is anything trusted.
                self.core.steps_all();
                Some(Pushes::Until(monotonic()))
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
}

/// Closes the breaker if new connections are answered.
async fn probe(node: &Node) {
    node.breaks();
    if node.answers(SILENCE / 4).await {
        node.breaker.close();
    }
}

fn tracking(core: &RedisInner) -> redis::Cmd {
    let mut command = redis::cmd("CLIENT");
    command.arg("TRACKING").arg("ON").arg("BCAST");
    for prefix in core.names.pushed() {
        command.arg("PREFIX").arg(prefix);
    }
    command.arg("NOLOOP").take()
}

/// Delivers recent invalidations again, and once more after the previous server has answered pending commands.
fn invalidate_again(core: &Arc<RedisInner>) {
    core.invalidates_again();
    let core = core.clone();
    tokio::spawn(async move {
        sleep(SILENCE).await;
        core.invalidates_again();
    });
}

impl RedisInner {
    /// Steps every epoch, because all entries belong to the root.
    fn steps_all(&self) {
        self.near.bump_hashes(Namespaces::root().hashes());
    }

    /// Queues recent invalidations again. The previous server may have been replaced for a while, and its last commands are lost.
    fn invalidates_again(&self) {
        let Some(again) = self.recent.again() else {
            tracing::info!("redis master changed: everything is invalidated again");
            drop(self.deliveries.send(&self.names, &Namespaces::root(), InvalidationKind::Hard, None));
            return;
        };
        if !again.is_empty() {
            tracing::info!(count = again.len(), "redis master changed: recent invalidations are delivered again");
        }
        self.deliveries.send_again(again);
    }
}
