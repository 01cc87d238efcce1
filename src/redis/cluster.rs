//! The masters of a cluster: the slots of each, and commands sent to them.

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
use crate::{
    namespace::set::Namespaces,
    store::{backend::Backend, memory::Memory},
};

/// The number of times that a command follows its key to another master.
const MAX_ROUNDS: usize = 4;

/// The age below which the table of slots is not read again.
const MIN_TABLE_AGE: Duration = Duration::from_millis(100);
const SLOTS: usize = 16_384;

/// The known masters.
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
    /// The last attempt to read the slots has failed on every node.
    slots_unknown: AtomicBool,
    /// Notified when the background task should read the slots now.
    refresh_wanted: Notify,
    /// Receives new masters, for the task that maintains a connection to each.
    found: mpsc::UnboundedSender<Arc<Node>>,
    /// Notified when the set of masters has changed after it was first known.
    changed: Notify,
    /// The key of a command that a node answers only if it is part of the cluster.
    check: String,
    all: Mutex<HashMap<String, Arc<Node>>>,
    lease: Arc<Lease>,
    /// The memory whose epochs are stepped.
    memory: Memory,
}

/// The master of each slot.
#[derive(Default)]
struct Table {
    nodes: Vec<Arc<Node>>,
    /// The index of the master of each slot, or `u16::MAX`.
    slots: Vec<u16>,
}

impl Topology {
    pub(super) fn cluster(
        seeds: Vec<Endpoint>,
        trust: bool,
        connections: usize,
        found: mpsc::UnboundedSender<Arc<Node>>,
        lease: Arc<Lease>,
        memory: Memory,
        check: String,
    ) -> Self {
        Self::Cluster(Box::new(Cluster {
            seeds,
            trust,
            connections,
            table: RwLock::default(),
            asked: tokio::sync::Mutex::default(),
            slots_unknown: AtomicBool::new(false),
            refresh_wanted: Notify::new(),
            found,
            changed: Notify::new(),
            check,
            all: Mutex::default(),
            lease,
            memory,
        }))
    }

    /// Returns the master if there is no cluster.
    #[inline]
    pub(super) fn single(&self) -> Option<&Arc<Node>> {
        match self {
            Self::One(node) => Some(node),
            Self::Cluster(_) => None,
        }
    }

    /// Returns all known masters.
    pub(super) fn all(&self) -> Vec<Arc<Node>> {
        match self {
            Self::One(node) => vec![node.clone()],
            Self::Cluster(cluster) => cluster.table().nodes.clone(),
        }
    }

    /// Returns the master of a slot, if it is known.
    pub(super) fn master_of(&self, slot: u16) -> Option<Arc<Node>> {
        match self {
            Self::One(node) => Some(node.clone()),
            Self::Cluster(cluster) => {
                let table = cluster.table();
                table.nodes.get(usize::from(table.master_of(slot))).cloned()
            }
        }
    }

    /// Returns `true` once the masters are known.
    pub(super) fn is_known(&self) -> bool {
        match self {
            Self::One(_) => true,
            Self::Cluster(cluster) => !cluster.table().nodes.is_empty(),
        }
    }

    /// Waits until a request needs the masters and had no time to read the slots itself.
    pub(super) async fn wait_until_wanted(&self) {
        match self {
            Self::One(_) => std::future::pending().await,
            Self::Cluster(cluster) => cluster.refresh_wanted.notified().await,
        }
    }

    /// Waits until the set of masters changes. A promoted replica may have missed the last invalidations.
    pub(super) async fn wait_for_change(&self) {
        match self {
            Self::One(_) => std::future::pending().await,
            Self::Cluster(cluster) => cluster.changed.notified().await,
        }
    }

    /// Returns a slot of a master: `before` if it still belongs to the master. `None` without a cluster, or if the master has no slot.
    pub(super) fn slot_of(&self, node: &Arc<Node>, before: Option<u16>) -> Option<u16> {
        match self {
            Self::One(_) => None,
            Self::Cluster(cluster) => cluster.table().slot_of(node, before),
        }
    }

    /// Reads the slots again, since the masters may have changed.
    pub(super) async fn refresh(&self) {
        if let Self::Cluster(cluster) = self {
            cluster.refresh().await;
        }
    }

    /// Sends each command to the master of its key, all at the same time, and follows keys that have moved. Returns one result for each, in
    /// their order.
    pub(super) async fn send(&self, commands: Vec<Command>, via: Route, limit: Duration) -> Vec<CommandResult> {
        match self {
            Self::One(node) => {
                let answers = send_pipeline(node, commands.into_iter().map(|ask| ask.command).collect(), via, limit).await;
                if answers.iter().any(|answer| matches!(answer, Err(error) if error.is_redirect())) {
                    // The server is not a master any more. The next connection finds the new one.
                    node.mark_broken();
                }
                answers
            }
            Self::Cluster(cluster) => cluster.send(commands, via, limit).await,
        }
    }
}

impl Cluster {
    fn table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends commands. All rounds, redirections and reads of the slots together take at most `limit`.
    async fn send(&self, commands: Vec<Command>, via: Route, limit: Duration) -> Vec<CommandResult> {
        let deadline = Instant::now() + limit;
        if self.table().nodes.is_empty() && !self.slots_unknown.load(Ordering::Relaxed) {
            self.refresh_until(deadline).await;
        }
        let mut answers: Vec<Option<CommandResult>> = commands.iter().map(|_| None).collect();
        let mut open: Vec<usize> = (0..commands.len()).collect();
        for _ in 0..MAX_ROUNDS {
            if remaining(deadline).is_zero() {
                break;
            }
            let mut outdated = false;
            for (indices, from, results) in self.send_round(&commands, std::mem::take(&mut open), via, deadline).await {
                for (index, mut answer) in indices.into_iter().zip(results) {
                    let redirect = Redirect::of(&answer, &from);
                    if let Some(Redirect::To { address, asking }) = &redirect {
                        outdated |= !asking;
                        answer = self.follow(address, &commands[index].command, *asking, remaining(deadline)).await;
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
                    if matches!(&answer, Err(error) if error.is_connection_error() || matches!(error, CommandError::Unavailable))
                    {
                        // Its slots may have another master by now.
                        self.refresh_wanted.notify_one();
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

    /// Sends the commands of `which` to the masters of their slots, all at the same time. Returns for each master the indices, its address
    /// and the results.
    async fn send_round(
        &self,
        commands: &[Command],
        which: Vec<usize>,
        via: Route,
        deadline: Instant,
    ) -> Vec<(Vec<usize>, String, Vec<CommandResult>)> {
        let table = self.table();
        let mut groups: HashMap<u16, Vec<usize>> = HashMap::new();
        for index in which {
            groups.entry(table.master_of(commands[index].slot)).or_default().push(index);
        }
        let sent = groups.into_iter().map(|(master, indices)| {
            let node = table.nodes.get(usize::from(master)).cloned();
            let commands = indices.iter().map(|index| commands[*index].command.clone()).collect::<Vec<_>>();
            async move {
                match node {
                    Some(node) => {
                        let answers = send_pipeline(&node, commands, via, remaining(deadline)).await;
                        (indices, node.address.clone(), answers)
                    }
                    None => (indices, String::new(), commands.iter().map(|_| Err(CommandError::Unavailable)).collect()),
                }
            }
        });
        join_all(sent).await
    }

    /// Sends a command to the node that a redirection names.
    async fn follow(&self, address: &str, command: &Cmd, asking: bool, limit: Duration) -> CommandResult {
        let node = self.node(address).ok_or(CommandError::Protocol("the address of a node"))?;
        if !self.table().nodes.iter().any(|known| Arc::ptr_eq(known, &node)) {
            // The node has no known slot yet. Its later changes would not be pushed to this process.
            self.lease.require(address);
        }
        if !asking {
            return node.send(command, Route::Pool, limit).await;
        }
        let mut commands = redis::pipe();
        commands.cmd("ASKING").add_command(command.clone());
        let (mut answers, server) = node.send_all(&commands, Route::Pool, limit).await?;
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
        let times = self.memory.context().counters.round_trips.clone();
        let node = Arc::new(Node::new(address.to_owned(), manager, self.connections, times));
        all.insert(address.to_owned(), node.clone());
        Some(node)
    }

    /// Reads the slots until `deadline`. The background task waits longer for nodes that do not answer.
    async fn refresh_until(&self, deadline: Instant) {
        let refresh: Pin<Box<dyn Future<Output = ()> + Send + '_>> = Box::pin(self.refresh());
        if tokio::time::timeout(remaining(deadline), refresh).await.is_err() {
            self.refresh_wanted.notify_one();
        }
    }

    /// Reads the slots from the nodes, one after another, until a node of the cluster answers.
    async fn refresh(&self) {
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|at| at.elapsed() < MIN_TABLE_AGE) && !self.table().nodes.is_empty() {
            return;
        }
        *asked = Some(Instant::now());
        let mut known = self.table().nodes.clone();
        if !known.is_empty() {
            // A random node first, since the view of one node may be outdated. Nodes that do not answer come last.
            let first = fastrand::usize(..known.len());
            known.rotate_left(first);
            known.sort_by_key(|node| node.breaker.is_open());
        }
        let known = known.iter().map(|node| node.manager.clone());
        let seeds =
            self.seeds.iter().map(|seed| RedisManager { source: Source::At(Box::new(seed.clone())), trust: self.trust });
        let ranges = slots_by_first(known.chain(seeds), &self.check).await;
        self.slots_unknown.store(ranges.is_none(), Ordering::Relaxed);
        if let Some(ranges) = ranges {
            self.set_slots(&ranges);
        }
    }

    fn set_slots(&self, ranges: &[Slots]) {
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
        // Before a request reads from a master whose pushes are not received yet.
        let step = || self.memory.bump_hashes(Namespaces::root().hashes());
        self.lease.set_masters(table.nodes.iter().map(|node| node.address.as_str()), step);
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
                node.retire();
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

/// Returns the time until the deadline.
fn remaining(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Sends commands to one master in one pipeline.
async fn send_pipeline(node: &Node, mut commands: Vec<Cmd>, via: Route, limit: Duration) -> Vec<CommandResult> {
    let count = commands.len();
    match count {
        0 => return Vec::new(),
        1 => {
            let command = commands.pop().expect("just counted");
            return vec![node.send(&command, via, limit).await];
        }
        _ => {}
    }
    let mut pipeline = redis::Pipeline::with_capacity(count);
    for command in commands {
        pipeline.add_command(command);
    }
    match node.send_all(&pipeline, via, limit).await {
        Ok((answers, server)) if answers.len() == count => {
            answers.into_iter().map(|answer| Ok((check_error(answer)?, server))).collect()
        }
        Ok(_) => (0..count).map(|_| Err(CommandError::Protocol("one answer for each command"))).collect(),
        Err(error) => {
            // One failure of all: each command gets an error.
            let mut answers: Vec<_> = (1..count)
                .map(|_| Err(if error.is_connection_error() { CommandError::Timeout } else { CommandError::Unavailable }))
                .collect();
            answers.push(Err(error));
            answers
        }
    }
}
