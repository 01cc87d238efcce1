//! The simulated network, the turns of the simulated server, the trace, and the record of a run.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::Duration,
};

use fastrand::Rng;
use tokio::{sync::Notify, time::Instant};
use tower_response_cache_simulation::{
    keyspace::Keyspace,
    reply::Reply,
    server::{ClientId, Identity, Server},
};

use super::{
    laws::{check::History, operation::Commit},
    machine,
    plan::{Broken, Fault, Plan},
    trace::Trace,
};

/// The interval at which the server removes keys whose life has ended, if it has nothing else to do.
const CRON: u64 = 100;

/// Everything that the parts of a simulation share.
#[derive(Clone)]
pub struct World(Arc<(Mutex<Inner>, Notify)>);

pub struct Inner {
    pub plan: Plan,
    pub random: Rng,
    pub trace: Trace,
    pub history: History,
    pub versions: BTreeMap<u32, u64>,
    pub server: Server,
    pub lines: BTreeMap<usize, Line>,
    pub links: BTreeMap<ClientId, Link>,
    pub slow: bool,
    /// The server does nothing until then.
    paused: u64,
    turn: bool,
    snapshot: Keyspace,
    events: BinaryHeap<Reverse<(u64, u64, u64, Event)>>,
    count: u64,
    stamped: (u64, u64),
    operations: u64,
}

/// The connections between one process and the server.
#[derive(Clone, Debug, Default)]
pub struct Line {
    pub from_process: bool,
    pub to_process: bool,
    /// The time by which each message is late, in milliseconds.
    pub late: u64,
    /// The process is gone.
    pub gone: bool,
}

/// One connection.
pub struct Link {
    pub process: usize,
    to_server: VecDeque<(u64, Message)>,
    to_client: VecDeque<(u64, Message)>,
    pub inbox: VecDeque<u8>,
    pub ended: bool,
    pub reader: Option<Waker>,
    /// The server has received commands that it has not executed.
    ready: bool,
    /// The server has received the end of the connection.
    closing: bool,
}

#[derive(Debug)]
enum Message {
    Bytes(Vec<u8>),
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    ToServer(ClientId),
    ToClient(ClientId),
    Turn,
    Cron,
}

impl World {
    pub fn new(plan: Plan, mut random: Rng) -> Self {
        let server = Server::new(identity(&mut random));
        let inner = Inner {
            plan,
            random,
            trace: Trace::default(),
            history: History::default(),
            versions: BTreeMap::new(),
            server,
            lines: BTreeMap::new(),
            links: BTreeMap::new(),
            slow: false,
            paused: 0,
            turn: false,
            snapshot: Keyspace::default(),
            events: BinaryHeap::new(),
            count: 0,
            stamped: (0, 0),
            operations: 0,
        };
        Self(Arc::new((Mutex::new(inner), Notify::new())))
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `act`, and lets the network notice new events.
    pub fn act<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        let result = act(&mut self.lock());
        self.0.1.notify_one();
        result
    }

    /// Returns a random number below a limit.
    pub fn below(&self, limit: u64) -> u64 {
        self.lock().random.u64(..limit.max(1))
    }

    pub fn note(&self, line: impl FnOnce() -> String) {
        self.lock().note(line());
    }

    /// Waits for a random time below a number of milliseconds, and lets others of the same moment go first at random.
    pub async fn pause(&self, limit: u64) {
        let (time, turns) = {
            let random = &mut self.lock().random;
            (random.u64(..limit.max(1)), random.u32(..3))
        };
        if time > 0 {
            tokio::time::sleep(Duration::from_millis(time)).await;
        }
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }

    /// Delivers messages and takes the turns of the server, for ever.
    pub async fn run(self) {
        self.act(|inner| inner.schedule(CRON, Event::Cron));
        let begin = Instant::now() - Duration::from_nanos(machine::now());
        loop {
            let next = {
                let mut inner = self.lock();
                while let Some(Reverse((at, _, _, event))) = inner.events.peek().copied()
                    && at <= now()
                {
                    inner.events.pop();
                    inner.handle(event);
                }
                inner.events.peek().map(|Reverse((at, ..))| *at)
            };
            let next = begin + Duration::from_millis(next.unwrap_or(u64::from(u32::MAX)));
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(next) => {}
                () = self.0.1.notified() => {}
            }
        }
    }
}

/// Returns the milliseconds since the beginning.
pub fn now() -> u64 {
    machine::now() / 1_000_000
}

fn identity(random: &mut Rng) -> Identity {
    Identity { run_id: format!("{:040x}", random.u128(..)), replication_id: format!("{:040x}", random.u128(..)) }
}

impl Inner {
    pub fn note(&mut self, line: String) {
        self.trace.add(now(), &line);
    }

    /// Returns the time since the beginning. Each call returns a later time, also within one millisecond.
    pub fn stamp(&mut self) -> Duration {
        let now = machine::now();
        self.stamped = if self.stamped.0 == now { (now, self.stamped.1 + 1) } else { (now, 0) };
        Duration::from_nanos(now + self.stamped.1)
    }

    /// Returns the number of a new operation.
    pub fn number(&mut self) -> u64 {
        self.operations += 1;
        self.operations
    }

    /// Commits a write, and returns the new version.
    pub fn commit(&mut self, key: u32, operation: u64) -> u64 {
        let version = self.versions.entry(key).or_insert(0);
        *version += 1;
        let version = *version;
        let at = self.stamp();
        self.history.commits.push(Commit { key, version, at, operation });
        self.note(format!("database: {key} has version {version}, by operation {operation}"));
        version
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.count += 1;
        self.events.push(Reverse((at, self.random.u64(..), self.count, event)));
    }

    /// Returns the number of a new line between a process and the server.
    pub fn new_line(&mut self) -> usize {
        let line = self.lines.len();
        self.lines.insert(line, Line::default());
        line
    }

    // ---- Connections --------------------------------------------------------------------------------------------------

    /// Connects a process. Returns `None` if it cannot reach the server.
    pub fn connect(&mut self, process: usize) -> Option<ClientId> {
        let line = self.lines.entry(process).or_default();
        if line.gone || line.from_process || line.to_process {
            return None;
        }
        let id = self.server.connect();
        let link = Link {
            process,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            inbox: VecDeque::new(),
            ended: false,
            reader: None,
            ready: false,
            closing: false,
        };
        self.links.insert(id, link);
        self.note(format!("process {process} connects: {id}"));
        Some(id)
    }

    /// Sends bytes of a client.
    pub fn send(&mut self, id: ClientId, bytes: &[u8]) {
        self.send_message(id, true, Message::Bytes(bytes.to_vec()), 0);
    }

    /// Sends the end of a connection.
    pub fn close(&mut self, id: ClientId) {
        if self.links.get(&id).is_some_and(|link| !link.ended) {
            self.links.get_mut(&id).expect("it is there").ended = true;
            self.send_message(id, true, Message::End, 0);
        }
    }

    fn send_message(&mut self, id: ClientId, to_server: bool, message: Message, after: u64) {
        let way = self.random.u64(..self.plan.way.max(1));
        let Some(link) = self.links.get_mut(&id) else { return };
        let late = self.lines.get(&link.process).map_or(0, |line| line.late);
        let late = if late > 0 { self.random.u64(..late) } else { 0 };
        let queue = if to_server { &mut link.to_server } else { &mut link.to_client };
        let before = queue.back().map_or(0, |(at, _)| *at);
        let at = before.max(now() + after + way + late);
        queue.push_back((at, message));
        self.schedule(at, if to_server { Event::ToServer(id) } else { Event::ToClient(id) });
    }

    /// Cuts a connection. Of the messages on their way to the server, the first ones still arrive: none, some or all.
    pub fn cut(&mut self, id: ClientId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let keeps = self.random.usize(..=link.to_server.len());
        link.to_server.truncate(keeps);
        link.to_client.clear();
        link.ended = true;
        link.reader.take().into_iter().for_each(Waker::wake);
        self.note(format!("connection {id} is cut"));
        self.send_message(id, true, Message::End, 0);
    }

    pub fn cut_all(&mut self, process: usize) {
        self.links_of(process).into_iter().for_each(|id| self.cut(id));
    }

    pub fn links_of(&self, process: usize) -> Vec<ClientId> {
        self.links.iter().filter(|(_, link)| link.process == process && !link.ended).map(|(id, _)| *id).collect()
    }

    /// Ends a partition: everything that was held back arrives.
    pub fn heal(&mut self, process: usize) {
        let line = self.lines.entry(process).or_default();
        (line.from_process, line.to_process, line.late) = (false, false, 0);
        let mut late = Vec::new();
        for (id, link) in self.links.iter().filter(|(_, link)| link.process == process) {
            late.extend(link.to_server.iter().filter(|(at, _)| *at <= now()).map(|_| Event::ToServer(*id)));
            late.extend(link.to_client.iter().filter(|(at, _)| *at <= now()).map(|_| Event::ToClient(*id)));
        }
        late.into_iter().for_each(|event| self.schedule(now(), event));
    }

    // ---- Events ---------------------------------------------------------------------------------------------------------

    fn handle(&mut self, event: Event) {
        match event {
            Event::ToServer(id) => self.deliver_to_server(id),
            Event::ToClient(id) => self.deliver_to_client(id),
            Event::Turn => self.take_turn(),
            Event::Cron => {
                self.request_turn(0);
                self.schedule(now() + CRON, Event::Cron);
            }
        }
    }

    fn deliver_to_server(&mut self, id: ClientId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let is_cut = self.lines.get(&link.process).is_some_and(|line| line.from_process);
        match arrived(&mut link.to_server, is_cut) {
            Some(Message::Bytes(bytes)) => {
                link.ready = true;
                self.server.receive(id, &bytes);
            }
            Some(Message::End) => link.closing = true,
            None => return,
        }
        self.request_turn(0);
    }

    fn deliver_to_client(&mut self, id: ClientId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let is_cut = self.lines.get(&link.process).is_some_and(|line| line.to_process);
        match arrived(&mut link.to_client, is_cut) {
            Some(Message::Bytes(bytes)) => link.inbox.extend(bytes),
            Some(Message::End) => link.ended = true,
            None => return,
        }
        link.reader.take().into_iter().for_each(Waker::wake);
    }

    fn request_turn(&mut self, after: u64) {
        if !self.turn {
            self.turn = true;
            self.schedule(self.paused.max(now() + after), Event::Turn);
        }
    }

    /// Lets the server do nothing for a time.
    pub fn pause_server(&mut self, millis: u64) {
        self.paused = self.paused.max(now() + millis);
    }

    fn take_turn(&mut self) {
        self.turn = false;
        if self.paused > now() {
            return self.request_turn(0);
        }
        let mut ready: Vec<ClientId> = self.links.iter().filter(|(_, link)| link.ready).map(|(id, _)| *id).collect();
        self.random.shuffle(&mut ready);
        let count = if ready.is_empty() { 0 } else { self.random.usize(1..=ready.len()) };
        let now_ready = &ready[..count];
        let busy = match self.random.u32(..20) {
            0 if self.slow => self.random.u64(5..80),
            0..4 => 1,
            _ => 0,
        };
        let expires = self.random.bool();
        let loses = self.plan.broken == Some(Broken::LostPushes) && self.random.u32(..8) == 0;
        self.server.set_time(machine::redis_time());
        let mut lines = Vec::new();
        let sees = |id, words: &[Vec<u8>], reply: &Reply| lines.push(describe(id, words, reply));
        self.server.turn(now_ready, expires, !loses, sees);
        lines.into_iter().for_each(|line| self.note(line));
        for id in now_ready {
            self.links.get_mut(id).expect("it was ready").ready = false;
        }
        self.send_outputs(busy);
        let gone: Vec<ClientId> =
            self.links.iter().filter(|(_, link)| link.closing && !link.ready).map(|(id, _)| *id).collect();
        for id in gone {
            self.server.disconnect(id);
            self.links.remove(&id);
        }
        self.paused = self.paused.max(now() + busy);
        if count < ready.len() {
            self.request_turn(0);
        }
    }

    /// Sends the output of the server, sometimes in two pieces.
    fn send_outputs(&mut self, after: u64) {
        for id in self.server.with_output() {
            let mut output = self.server.take_output(id);
            if self.random.u8(..) < 24 {
                let rest = output.split_off(self.random.usize(..output.len()));
                self.send_message(id, false, Message::Bytes(output), after);
                output = rest;
            }
            self.send_message(id, false, Message::Bytes(output), after);
        }
    }

    // ---- Faults of the server -------------------------------------------------------------------------------------------

    /// Remembers the present data for a later restart.
    pub fn take_snapshot(&mut self) {
        self.snapshot = self.server.keys().clone();
    }

    /// Restarts the server without data, or with those of the last snapshot.
    pub fn restart(&mut self, older: bool) {
        let data = if older { self.snapshot.clone() } else { Keyspace::default() };
        let ids: Vec<ClientId> = self.links.keys().copied().collect();
        ids.into_iter().for_each(|id| self.cut(id));
        let identity = identity(&mut self.random);
        self.server.restart(identity, data);
    }

    pub fn flush(&mut self) {
        self.server.flush();
        self.send_outputs(0);
    }

    /// Evicts some keys.
    pub fn evict(&mut self) {
        let fences = self.plan.evicts_fences && self.plan.has(Fault::Evict);
        let is_fence = |key: &[u8]| key.windows(3).any(|part| part == b":f:");
        let names: Vec<Vec<u8>> = self.server.keys().names().into_iter().filter(|key| fences || !is_fence(key)).collect();
        if names.is_empty() {
            return;
        }
        for _ in 0..self.random.usize(1..4) {
            let key = &names[self.random.usize(..names.len())];
            self.server.keys().evict(key);
            self.note(format!("{} is evicted", key.escape_ascii()));
        }
        self.request_turn(0);
    }
}

/// Takes the next message of a queue if it has arrived, and its direction is not cut.
fn arrived(queue: &mut VecDeque<(u64, Message)>, is_cut: bool) -> Option<Message> {
    let (at, _) = queue.front()?;
    if is_cut || *at > now() {
        return None;
    }
    queue.pop_front().map(|(_, message)| message)
}

fn describe(id: ClientId, words: &[Vec<u8>], reply: &Reply) -> String {
    let is_script = words[0] == b"EVAL";
    let words = words.iter().enumerate().filter(|(index, _)| !is_script || *index != 1);
    let mut text: String = words.map(|(_, word)| format!(" {}", short(word))).collect();
    let mut encoded = Vec::new();
    reply.encode(true, &mut encoded);
    text.push_str(" -> ");
    text.push_str(&short(&encoded));
    format!("redis, client {id}:{text}")
}

fn short(bytes: &[u8]) -> String {
    let text = bytes.escape_ascii().to_string();
    if text.len() <= 100 { text } else { format!("{}...{}", &text[..40], &text[text.len() - 40..]) }
}
