//! The thread behind a store: it hears what masters push, keeps the lease, probes those that are away, and delivers bumps.
//!
//! It has a runtime of its own, so that neither a handler that blocks nor the end of a runtime of the application keeps an
//! invalidation from being heard or sent.

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

/// How often a master is asked whether it is still the one it was.
const SAME: Duration = Duration::from_millis(500);

/// How often pushes are asked for that were refused.
const REFUSED: Duration = Duration::from_secs(1);

/// How often it is asked for a sign of life where no lease depends on it.
const IDLE: Duration = Duration::from_millis(250);

/// How long it may take to answer before the connection is given up.
const SILENCE: Duration = Duration::from_secs(1);

/// How long bumps that could not be delivered are still tried once the store has been dropped.
const FAREWELL: Duration = Duration::from_secs(2);

/// Starts the thread.
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

/// Asks for the masters of a cluster until they are known, and now and then whether they still are those.
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

/// Leaves a master as soon as the sentinels name another: it would go on as a master for seconds.
fn follow_sentinels(core: &Arc<RedisInner>, node: &Arc<Node>) {
    let Source::Sentinel(sentinels) = &node.manager.source else { return };
    for which in 0..sentinels.count() {
        let (core, node, sentinels) = (core.clone(), node.clone(), sentinels.clone());
        tokio::spawn(async move {
            let is_at = |address: &str| {
                if node.leaves_all_but(address) {
                    tracing::info!(address, "the sentinels name another master");
                    core.lease.ends(&node.address);
                }
            };
            sentinels.follow(which, is_at).await;
        });
    }
}

/// Keeps a connection to a master that hears its pushes, for as long as it is one.
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
            // All keys at once: a FLUSHALL.
            (PushKind::Invalidate, _) => core.steps_all(),
            (PushKind::Disconnection, _) => core.lease.ends(&node.address),
            _ => {}
        }
    })
}

/// A connection by which a master is attended to.
struct Attending<'a> {
    core: &'a Arc<RedisInner>,
    node: &'a Arc<Node>,
    connection: RedisConnection,
    server: Server,
    /// It is another server than the one before.
    changed: bool,
}

/// Whether a master pushes what is invalidated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pushes {
    /// It does, and what was told is trusted up to this time.
    Until(Nanos),
    /// It refused to at this time.
    Refused(Nanos),
    /// No lease is wanted.
    Unwanted,
}

/// What came of a heartbeat.
enum Beat {
    /// The server would accept an invalidation.
    Well,
    /// It would not, for now.
    Refused,
    /// It is not the master any more, or is cut off from the others.
    Replaced,
    Misconfiguration,
}

impl Attending<'_> {
    /// Sends heartbeats until one is not answered, or the server is not the master any more.
    async fn attend(mut self) {
        if let Some(mut pushes) = self.begins_to_listen(true).await {
            let mut slot = None;
            // The lease begins with the first heartbeat, before anybody is told that the master is there.
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
                        tracing::info!(server = ?self.node.manager.source, "redis is another server than it was");
                        self.node.breaks();
                        return;
                    }
                }
            }
        }
    }

    /// One heartbeat, and what follows from it. `false` if the connection is of no use any more.
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
                    tracing::info!(server = ?self.node.manager.source, "redis is not the master any more");
                    self.node.breaks();
                    return false;
                }
                if !self.node.breaker.is_open() {
                    tracing::info!(server = ?self.node.manager.source, "the node is not a master of the cluster any more");
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

    /// Asks whether the server would accept an invalidation. In a cluster, of a slot of its own.
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
                // The slot is its own, and on its way to another.
                Some(ServerErrorKind::Ask) => return Beat::Well,
                Some(ServerErrorKind::Moved) if !refreshed => {
                    // Only this slot may have gone.
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
                    tracing::debug!(%error, server = ?self.node.manager.source, "redis would not accept an invalidation");
                    return Beat::Refused;
                }
            }
        }
    }

    /// Asks for pushes, if they are wanted. Nothing if there is no answer: the connection is of no use then.
    async fn begins_to_listen(&mut self, warns: bool) -> Option<Pushes> {
        if self.core.coherence != Coherence::Leased {
            return Some(Pushes::Unwanted);
        }
        match timeout(SILENCE, self.connection.one(&tracking(self.core))).await {
            Ok(Ok(_)) => {
                // In this order: tracking answered, every epoch stepped, and only then is anything trusted.
                self.core.steps_all();
                Some(Pushes::Until(monotonic()))
            }
            Ok(Err(error)) if !self.connection.is_broken() => {
                if warns {
                    tracing::warn!(%error, "redis does not push invalidations; each hit is validated instead");
                }
                Some(Pushes::Refused(monotonic()))
            }
            _ => None,
        }
    }
}

/// Closes the breaker if connections made anew are answered.
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

/// Delivers recent invalidations once more, and again when the server before has answered what was on its way to it.
fn invalidate_again(core: &Arc<RedisInner>) {
    core.invalidates_again();
    let core = core.clone();
    tokio::spawn(async move {
        sleep(SILENCE).await;
        core.invalidates_again();
    });
}

impl RedisInner {
    /// Steps every epoch: all entries belong to the root.
    fn steps_all(&self) {
        self.near.bump_hashes(Namespaces::root().hashes());
    }

    /// The server has changed, and the one before may have been replaced for a while: what it accepted meanwhile is lost.
    fn invalidates_again(&self) {
        let Some(again) = self.recent.again() else {
            tracing::info!("redis has another master; everything is invalidated again");
            drop(self.deliveries.send(&self.names, &Namespaces::root(), InvalidationKind::Hard, None));
            return;
        };
        if !again.is_empty() {
            tracing::info!(count = again.len(), "redis has another master; recent invalidations are delivered again");
        }
        self.deliveries.send_again(again);
    }
}
