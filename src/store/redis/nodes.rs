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
use redis::{Client, Cmd, ServerErrorKind, Value};
use tokio::sync::{Notify, mpsc};

use super::{
    connect::{self, RedisManager, Source},
    fault::Fault,
    lease::Lease,
    node::{Node, Via},
};
use crate::{namespace::Namespaces, store::Memory};

/// How often a command follows a key to where it has gone.
const MOVES: usize = 4;

/// How long to leave a table of slots alone that was just asked for.
const REFRESH: Duration = Duration::from_millis(100);

const SLOTS: usize = 16_384;

/// The masters.
pub(super) enum Nodes {
    One(Arc<Node>),
    Cluster(Box<Cluster>),
}

pub(super) struct Cluster {
    seeds: Vec<Client>,
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

/// A command, and the slot of its key.
#[derive(Clone)]
pub(super) struct Ask {
    pub(super) slot: u16,
    pub(super) command: Cmd,
}

/// What was answered, and by which server.
pub(super) type Answer = Result<(Value, u128), Fault>;

impl Nodes {
    pub(super) fn cluster(
        seeds: Vec<Client>,
        trust: bool,
        connections: usize,
        found: mpsc::UnboundedSender<Arc<Node>>,
        lease: Arc<Lease>,
        near: Memory,
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

    /// The masters may have changed.
    pub(super) async fn refresh(&self) {
        if let Self::Cluster(cluster) = self {
            cluster.refresh().await;
        }
    }

    /// Sends each command to the master of its key, all at once, and follows keys that have moved. One answer for each, in their
    /// order.
    pub(super) async fn ask(&self, asks: Vec<Ask>, via: Via, limit: Duration) -> Vec<Answer> {
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

    async fn ask(&self, asks: Vec<Ask>, via: Via, limit: Duration) -> Vec<Answer> {
        if self.table().nodes.is_empty() && !self.untold.load(Ordering::Relaxed) {
            self.refresh_within(limit).await;
        }
        let mut answers: Vec<Option<Answer>> = asks.iter().map(|_| None).collect();
        let mut open: Vec<usize> = (0..asks.len()).collect();
        for _ in 0..MOVES {
            let table = self.table();
            let mut groups: HashMap<u16, Vec<usize>> = HashMap::new();
            for index in open.drain(..) {
                groups.entry(table.master_of(asks[index].slot)).or_default().push(index);
            }
            let sent = groups.into_iter().map(|(master, indices)| {
                let node = table.nodes.get(usize::from(master)).cloned();
                let commands = indices.iter().map(|index| asks[*index].command.clone()).collect::<Vec<_>>();
                async move {
                    let answers = match node {
                        Some(node) => pipe(&node, commands, via, limit).await,
                        None => commands.iter().map(|_| Err(Fault::Away)).collect(),
                    };
                    (indices, answers)
                }
            });
            let mut outdated = false;
            for (indices, got) in join_all(sent).await {
                for (index, answer) in indices.into_iter().zip(got) {
                    let answer = match Redirect::of(&answer) {
                        None => answer,
                        Some(Redirect::Lost) => {
                            (outdated, _) = (true, open.push(index));
                            answer
                        }
                        Some(Redirect::To { address, asking }) => {
                            outdated |= !asking;
                            self.follow(&address, &asks[index].command, asking, limit).await
                        }
                    };
                    answers[index] = Some(answer);
                }
            }
            if outdated {
                self.refresh_within(limit).await;
            }
            if open.is_empty() {
                break;
            }
        }
        answers.into_iter().map(|answer| answer.unwrap_or(Err(Fault::Away))).collect()
    }

    /// Asks where the key has gone, or is going.
    async fn follow(&self, address: &str, command: &Cmd, asking: bool, limit: Duration) -> Answer {
        let node = self.node(address).ok_or(Fault::Nonsense("the address of a node"))?;
        if !self.table().nodes.iter().any(|known| Arc::ptr_eq(known, &node)) {
            // It has no slot yet, or none that we know of: what it says now, it may clear without our hearing of it.
            self.lease.lacks(address);
        }
        if !asking {
            return node.one(command, Via::Pool, limit).await;
        }
        let mut commands = redis::pipe();
        commands.cmd("ASKING").add_command(command.clone());
        let (mut answers, server) = node.all(&commands, Via::Pool, limit).await?;
        let answer = answers.pop().ok_or(Fault::Nonsense("one answer for each command"))?;
        said(answer).map(|answer| (answer, server))
    }

    fn node(&self, address: &str) -> Option<Arc<Node>> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = all.get(address) {
            return Some(node.clone());
        }
        let (host, port) = address.rsplit_once(':')?;
        let client = connect::at(self.seeds.first()?, host, port.parse().ok()?).ok()?;
        let manager = RedisManager { source: Source::At(Box::new(client)), trust: self.trust };
        let node = Arc::new(Node::new(address.to_owned(), manager, self.connections));
        all.insert(address.to_owned(), node.clone());
        Some(node)
    }

    /// Asks which master has which slot, for no longer than that: to wait for all nodes that do not answer is for who asks behind the scenes.
    async fn refresh_within(&self, limit: Duration) {
        let refresh: Pin<Box<dyn Future<Output = ()> + Send + '_>> = Box::pin(self.refresh());
        if tokio::time::timeout(limit, refresh).await.is_err() {
            self.wanted.notify_one();
        }
    }

    /// Asks whoever answers which master has which slot.
    async fn refresh(&self) {
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|at| at.elapsed() < REFRESH) && !self.table().nodes.is_empty() {
            return;
        }
        *asked = Some(Instant::now());
        let known = self.table().nodes.iter().map(|node| node.manager.clone()).collect::<Vec<_>>();
        let seeds =
            self.seeds.iter().map(|client| RedisManager { source: Source::At(Box::new(client.clone())), trust: self.trust });
        for manager in known.into_iter().chain(seeds) {
            match slots_by(&manager).await {
                Ok(ranges) => {
                    self.untold.store(false, Ordering::Relaxed);
                    return self.becomes(&ranges);
                }
                Err(error) => {
                    tracing::debug!(%error, server = ?manager.source, "a node does not tell the slots of the cluster")
                }
            }
        }
        self.untold.store(true, Ordering::Relaxed);
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
}

enum Redirect {
    /// To another node: for good, or for this command while its slot is on its way.
    To { address: String, asking: bool },
    /// To whoever has the slot now.
    Lost,
}

impl Redirect {
    fn of(answer: &Answer) -> Option<Self> {
        let Err(Fault::Said(error)) = answer else { return None };
        let address = || error.details()?.split(' ').nth(1).filter(|address| !address.starts_with(':')).map(str::to_owned);
        match error.kind()? {
            ServerErrorKind::Moved => Some(address().map_or(Self::Lost, |address| Self::To { address, asking: false })),
            ServerErrorKind::Ask => address().map(|address| Self::To { address, asking: true }),
            ServerErrorKind::ReadOnly => Some(Self::Lost),
            _ => None,
        }
    }
}

/// Some commands for one master in one pipeline.
async fn pipe(node: &Node, mut commands: Vec<Cmd>, via: Via, limit: Duration) -> Vec<Answer> {
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
            answers.into_iter().map(|answer| Ok((said(answer)?, server))).collect()
        }
        Ok(_) => (0..count).map(|_| Err(Fault::Nonsense("one answer for each command"))).collect(),
        Err(fault) => {
            // One fault for all of them, and each is told.
            let mut answers: Vec<_> =
                (1..count).map(|_| Err(if fault.is_of_connection() { Fault::Late } else { Fault::Away })).collect();
            answers.push(Err(fault));
            answers
        }
    }
}

fn said(answer: Value) -> Result<Value, Fault> {
    match answer {
        Value::ServerError(error) => Err(Fault::Said(error)),
        answer => Ok(answer),
    }
}

/// Slots in a row, and who has them.
#[derive(Debug, PartialEq, Eq)]
struct Slots {
    first: u16,
    last: u16,
    master: String,
}

async fn slots_by(manager: &RedisManager) -> Result<Vec<Slots>, Fault> {
    let asking = async {
        let (mut connection, server) = manager.open_any(None).await.map_err(Fault::Connecting)?;
        if !server.cluster {
            return Err(Fault::Nonsense("the slots of a cluster: it is none"));
        }
        let asked = manager.address().unwrap_or_default();
        read_slots(&connection.one(redis::cmd("CLUSTER").arg("SLOTS")).await?, &asked)
    };
    tokio::time::timeout(connect::CONNECTING, asking).await.unwrap_or(Err(Fault::Late))
}

/// `CLUSTER SLOTS`: first, last, the master as host, port and more, its replicas. A host that is empty is the one that was asked.
fn read_slots(answer: &Value, asked: &str) -> Result<Vec<Slots>, Fault> {
    let nonsense = || Fault::Nonsense("the slots of a cluster");
    let Value::Array(ranges) = answer else { return Err(nonsense()) };
    let number = |value: &Value| match value {
        Value::Int(number) => u16::try_from(*number).ok(),
        _ => None,
    };
    let read = |range: &Value| {
        let Value::Array(range) = range else { return None };
        let Value::Array(master) = range.get(2)? else { return None };
        let host = match master.first()? {
            Value::BulkString(host) => std::str::from_utf8(host).ok()?,
            Value::SimpleString(host) => host,
            Value::Nil => "",
            _ => return None,
        };
        let host = if host.is_empty() || host == "?" { asked } else { host };
        let master = format!("{host}:{}", number(master.get(1)?)?);
        Some(Slots { first: number(range.first()?)?, last: number(range.get(1)?)?, master })
    };
    ranges.iter().map(read).collect::<Option<_>>().ok_or_else(nonsense)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_read_and_an_empty_host_is_the_one_that_was_asked() {
        let range = |first, last, host: &str| {
            let node = Value::Array(vec![Value::BulkString(host.into()), Value::Int(7000), Value::BulkString("id".into())]);
            Value::Array(vec![Value::Int(first), Value::Int(last), node.clone(), node])
        };
        let answer = Value::Array(vec![range(0, 5460, "10.0.0.1"), range(5461, 16_383, "")]);
        let want = [
            Slots { first: 0, last: 5460, master: "10.0.0.1:7000".into() },
            Slots { first: 5461, last: 16_383, master: "asked:7000".into() },
        ];
        assert_eq!(read_slots(&answer, "asked").expect("slots"), want);
        for nonsense in [Value::Nil, Value::Array(vec![Value::Int(1)]), Value::Array(vec![range(-1, 70_000, "h")])] {
            assert!(read_slots(&nonsense, "asked").is_err(), "{nonsense:?}");
        }
    }
}
