//! Which master has which key, and commands sent to those that have them.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use redis::Cmd;
use tokio::sync::{Notify, mpsc};

use super::{
    command::{Command, CommandResult, check_error},
    connection::{RedisManager, Source},
    error::CommandError,
    lease::Lease,
    node::{Node, Route},
    slots::{Redirect, Slots, slots_by_first},
    transport::Endpoint,
};
use crate::{namespace::set::Namespaces, store::memory::Memory};

/// How often a command follows a key to where it has gone.
const MOVES: usize = 4;

/// How long to leave a table of slots alone that was just asked for.
const REFRESH: Duration = Duration::from_millis(100);
const SLOTS: usize = 16_384;

/// The masters.
pub(crate) enum Topology {
    One(Arc<Node>),
    Cluster(Box<Cluster>),
}

pub(crate) struct Cluster {
    seeds: Vec<Endpoint>,
    trust: bool,
    connections: usize,
    table: RwLock<Arc<Table>>,
    asked: tokio::sync::Mutex<Option<Instant>>,
    /// Nobody could tell the masters when that was asked for last.
    untold: AtomicBool,
    /// Told when who asks behind the scenes should do so now.
    wanted: Notify,
    /// Where new masters are told, to be tended.
    found: mpsc::UnboundedSender<Arc<Node>>,
    /// Notified when the set of masters has changed after it was first known.
    changed: Notify,
    /// The key of the command that a node answers only if it is part of the cluster.
    check: String,
    all: Mutex<HashMap<String, Arc<Node>>>,
    lease: Arc<Lease>,
    /// Where epochs are stepped.
    near: Memory,
}

/// Which master has which slot.
#[derive(Default)]
struct Table {
    nodes: Vec<Arc<Node>>,
    /// By slot: the index of its master, or that of none.
    slots: Vec<u16>,
}

impl Topology {
    pub(super) fn cluster(
        seeds: Vec<Endpoint>,
        trust: bool,
        connections: usize,
        found: mpsc::UnboundedSender<Arc<Node>>,
        lease: Arc<Lease>,
        near: Memory,
        check: String,
    ) -> Self {
        Self::Cluster(Box::new(Cluster {
            seeds,
            trust,
            connections,
            table: RwLock::default(),
            asked: tokio::sync::Mutex::default(),
            untold: AtomicBool::new(false),
            wanted: Notify::new(),
            found,
            changed: Notify::new(),
            check,
            all: Mutex::default(),
            lease,
            near,
        }))
    }

    /// The one master, if there is only one.
    #[inline]
    pub(super) fn one(&self) -> Option<&Arc<Node>> {
        match self {
            Self::One(node) => Some(node),
            Self::Cluster(_) => None,
        }
    }

    /// All masters that are known.
    pub(super) fn all(&self) -> Vec<Arc<Node>> {
        match self {
            Self::One(node) => vec![node.clone()],
            Self::Cluster(cluster) => cluster.table().nodes.clone(),
        }
    }

    /// The master of a slot, if it is known.
    pub(super) fn master_of(&self, slot: u16) -> Option<Arc<Node>> {
        match self {
            Self::One(node) => Some(node.clone()),
            Self::Cluster(cluster) => {
                let table = cluster.table();
                table.nodes.get(usize::from(table.master_of(slot))).cloned()
            }
        }
    }

    /// Whether the masters are known.
    pub(super) fn are_known(&self) -> bool {
        match self {
            Self::One(_) => true,
            Self::Cluster(cluster) => !cluster.table().nodes.is_empty(),
        }
    }

    /// Until somebody has not had the time to ask for the masters himself.
    pub(super) async fn are_wanted(&self) {
        match self {
            Self::One(_) => std::future::pending().await,
            Self::Cluster(cluster) => cluster.wanted.notified().await,
        }
    }

    /// Waits until the set of masters changes: a replica may have been promoted that has not heard the last invalidations.
    pub(super) async fn have_changed(&self) {
        match self {
            Self::One(_) => std::future::pending().await,
            Self::Cluster(cluster) => cluster.changed.notified().await,
        }
    }

    /// A slot of a master, the given one if that is still its own. `None` where there are no slots, or the master has none.
    pub(super) fn slot_of(&self, node: &Arc<Node>, before: Option<u16>) -> Option<u16> {
        match self {
            Self::One(_) => None,
            Self::Cluster(cluster) => cluster.table().slot_of(node, before),
        }
    }

    /// The masters may have changed.
    pub(super) async fn refresh(&self) {
        if let Self::Cluster(cluster) = self {
            cluster.refresh().await;
        }
    }

    /// Sends each command to the master of its key, all at once, and follows keys that have moved. One answer for each, in their
    /// order.
    pub(super) async fn ask(&self, asks: Vec<Command>, via: Route, limit: Duration) -> Vec<CommandResult> {
        match self {
            Self::One(node) => {
                let answers = pipe(node, asks.into_iter().map(|ask| ask.command).collect(), via, limit).await;
                if answers.iter().any(|answer| matches!(answer, Err(fault) if fault.is_elsewhere())) {
                    // It is a master no more: who is will be found on connecting.
                    node.breaks();
                }
                answers
            }
            Self::Cluster(cluster) => cluster.ask(asks, via, limit).await,
        }
    }
}

impl Cluster {
    fn table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All rounds, redirections and look-ups of the slots together take no longer than `limit`.
    async fn ask(&self, asks: Vec<Command>, via: Route, limit: Duration) -> Vec<CommandResult> {
        let deadline = Instant::now() + limit;
        if self.table().nodes.is_empty() && !self.untold.load(Ordering::Relaxed) {
            self.refresh_until(deadline).await;
        }
        let mut answers: Vec<Option<CommandResult>> = asks.iter().map(|_| None).collect();
        let mut open: Vec<usize> = (0..asks.len()).collect();
        for _ in 0..MOVES {
            if left(deadline).is_zero() {
                break;
            }
            let mut outdated = false;
            for (indices, from, got) in self.send(&asks, std::mem::take(&mut open), via, deadline).await {
                for (index, mut answer) in indices.into_iter().zip(got) {
                    let redirect = Redirect::of(&answer, &from);
                    if let Some(Redirect::To { address, asking }) = &redirect {
                        outdated |= !asking;
                        answer = self.follow(address, &asks[index].command, *asking, left(deadline)).await;
                    }
                    let lost = match redirect {
                        None => false,
                        Some(Redirect::Lost) => true,
                        Some(Redirect::To { address, .. }) => Redirect::of(&answer, &address).is_some(),
                    };
                    if lost {
                        outdated = true;
                        open.push(index);
                    }
                    if matches!(&answer, Err(fault) if fault.is_of_connection() || matches!(fault, CommandError::Unavailable)) {
                        // Its slots may have another master by now.
                        self.wanted.notify_one();
                    }
                    answers[index] = Some(answer);
                }
            }
            if outdated {
                self.refresh_until(deadline).await;
            }
            if open.is_empty() {
                break;
            }
        }
        answers.into_iter().map(|answer| answer.unwrap_or(Err(CommandError::Timeout))).collect()
    }

    /// Sends these commands to the masters of their slots, all at once. For each master: the commands, its address, its answers.
    async fn send(
        &self,
        asks: &[Command],
        which: Vec<usize>,
        via: Route,
        deadline: Instant,
    ) -> Vec<(Vec<usize>, String, Vec<CommandResult>)> {
        let table = self.table();
        let mut groups: HashMap<u16, Vec<usize>> = HashMap::new();
        for index in which {
            groups.entry(table.master_of(asks[index].slot)).or_default().push(index);
        }
        let sent = groups.into_iter().map(|(master, indices)| {
            let node = table.nodes.get(usize::from(master)).cloned();
            let commands = indices.iter().map(|index| asks[*index].command.clone()).collect::<Vec<_>>();
            async move {
                match node {
                    Some(node) => {
                        let answers = pipe(&node, commands, via, left(deadline)).await;
                        (indices, node.address.clone(), answers)
                    }
                    None => (indices, String::new(), commands.iter().map(|_| Err(CommandError::Unavailable)).collect()),
                }
            }
        });
        join_all(sent).await
    }

    /// Asks where the key has gone, or is going.
    async fn follow(&self, address: &str, command: &Cmd, asking: bool, limit: Duration) -> CommandResult {
        let node = self.node(address).ok_or(CommandError::Protocol("the address of a node"))?;
        if !self.table().nodes.iter().any(|known| Arc::ptr_eq(known, &node)) {
            // It has no slot yet, or none that we know of: what it says now, it may clear without our hearing of it.
            self.lease.lacks(address);
        }
        if !asking {
            return node.one(command, Route::Pool, limit).await;
        }
        let mut commands = redis::pipe();
        commands.cmd("ASKING").add_command(command.clone());
        let (mut answers, server) = node.all(&commands, Route::Pool, limit).await?;
        let answer = answers.pop().ok_or(CommandError::Protocol("one answer for each command"))?;
        check_error(answer).map(|answer| (answer, server))
    }

    fn node(&self, address: &str) -> Option<Arc<Node>> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = all.get(address) {
            return Some(node.clone());
        }
        let (host, port) = address.rsplit_once(':')?;
        let endpoint = self.seeds.first()?.at(host, port.parse().ok()?);
        let manager = RedisManager { source: Source::At(Box::new(endpoint)), trust: self.trust };
        let node = Arc::new(Node::new(address.to_owned(), manager, self.connections));
        all.insert(address.to_owned(), node.clone());
        Some(node)
    }

    /// Asks which master has which slot, for no longer than that: to wait for all nodes that do not answer is for who asks behind the scenes.
    async fn refresh_until(&self, deadline: Instant) {
        let refresh: Pin<Box<dyn Future<Output = ()> + Send + '_>> = Box::pin(self.refresh());
        if tokio::time::timeout(left(deadline), refresh).await.is_err() {
            self.wanted.notify_one();
        }
    }

    /// Asks the nodes which master has which slot, until one tells that is part of the cluster.
    async fn refresh(&self) {
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|at| at.elapsed() < REFRESH) && !self.table().nodes.is_empty() {
            return;
        }
        *asked = Some(Instant::now());
        let mut known = self.table().nodes.clone();
        if !known.is_empty() {
            // Not always the same one, whose view may be an old one; those that are not well come last.
            let first = fastrand::usize(..known.len());
            known.rotate_left(first);
            known.sort_by_key(|node| node.breaker.is_open());
        }
        let known = known.iter().map(|node| node.manager.clone());
        let seeds =
            self.seeds.iter().map(|seed| RedisManager { source: Source::At(Box::new(seed.clone())), trust: self.trust });
        let ranges = slots_by_first(known.chain(seeds), &self.check).await;
        self.untold.store(ranges.is_none(), Ordering::Relaxed);
        if let Some(ranges) = ranges {
            self.becomes(&ranges);
        }
    }

    fn becomes(&self, ranges: &[Slots]) {
        let before = self.table();
        let mut table = Table { nodes: Vec::new(), slots: vec![u16::MAX; SLOTS] };
        for range in ranges {
            let Some(node) = self.node(&range.master) else { continue };
            let index = table.nodes.iter().position(|known| Arc::ptr_eq(known, &node)).unwrap_or_else(|| {
                table.nodes.push(node);
                table.nodes.len() - 1
            });
            let slots = usize::from(range.first)..=usize::from(range.last).min(SLOTS - 1);
            table.slots[slots].fill(index as u16);
        }
        // Before anybody reads from a master that nothing is heard of yet.
        let step = || self.near.bump_hashes(Namespaces::root().hashes());
        self.lease.is_of(table.nodes.iter().map(|node| node.address.as_str()), step);
        let table = Arc::new(table);
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = table.clone();
        for node in &table.nodes {
            if !before.nodes.iter().any(|known| Arc::ptr_eq(known, node)) {
                let _ = self.found.send(node.clone());
            }
        }
        let is_new = |node: &Arc<Node>| !before.nodes.iter().any(|known| Arc::ptr_eq(known, node));
        if !before.nodes.is_empty() && table.nodes.iter().any(is_new) {
            self.changed.notify_one();
        }
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        for node in &before.nodes {
            if !table.nodes.iter().any(|known| Arc::ptr_eq(known, node)) {
                node.goes();
                all.remove(&node.address);
            }
        }
    }
}

impl Table {
    fn master_of(&self, slot: u16) -> u16 {
        self.slots.get(usize::from(slot)).copied().unwrap_or(u16::MAX)
    }

    fn slot_of(&self, node: &Arc<Node>, before: Option<u16>) -> Option<u16> {
        let index = self.nodes.iter().position(|known| Arc::ptr_eq(known, node))? as u16;
        before
            .filter(|slot| self.master_of(*slot) == index)
            .or_else(|| self.slots.iter().position(|master| *master == index).map(|slot| slot as u16))
    }
}

/// The time that is left of a command's limit.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Some commands for one master in one pipeline.
async fn pipe(node: &Node, mut commands: Vec<Cmd>, via: Route, limit: Duration) -> Vec<CommandResult> {
    let count = commands.len();
    match count {
        0 => return Vec::new(),
        1 => {
            let command = commands.pop().expect("just counted");
            return vec![node.one(&command, via, limit).await];
        }
        _ => {}
    }
    let mut pipeline = redis::Pipeline::with_capacity(count);
    for command in commands {
        pipeline.add_command(command);
    }
    match node.all(&pipeline, via, limit).await {
        Ok((answers, server)) if answers.len() == count => {
            answers.into_iter().map(|answer| Ok((check_error(answer)?, server))).collect()
        }
        Ok(_) => (0..count).map(|_| Err(CommandError::Protocol("one answer for each command"))).collect(),
        Err(fault) => {
            // One fault for all of them, and each is told.
            let mut answers: Vec<_> = (1..count)
                .map(|_| Err(if fault.is_of_connection() { CommandError::Timeout } else { CommandError::Unavailable }))
                .collect();
            answers.push(Err(fault));
            answers
        }
    }
}
