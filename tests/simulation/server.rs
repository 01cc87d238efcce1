//! A simulated Redis: its clients, and the turns of its event loop.
//!
//! In one turn, the server executes the commands that have arrived from some of its clients, and writes the replies into their output. At
//! the end of the turn it removes keys whose life has ended, and appends one push for each prefix of which keys were changed. A push for
//! a change is therefore behind the replies to all commands of the same turn, those of other clients included.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    keyspace::{Key, Keyspace},
    reply::{Reply, take_command},
    scripts::{Scripts, SharedKeys},
};

/// The number of a client.
pub type ClientId = u64;

/// The identity of one run of a server.
#[derive(Clone, Debug)]
pub struct Identity {
    pub run_id: String,
    pub replication_id: String,
}

#[derive(Default)]
struct Client {
    resp3: bool,
    /// The prefixes whose changes are pushed.
    prefixes: Vec<Vec<u8>>,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// A server.
pub struct Server {
    keys: SharedKeys,
    scripts: Scripts,
    clients: BTreeMap<ClientId, Client>,
    identity: Identity,
    next: ClientId,
    now: u64,
}

impl Server {
    pub fn new(identity: Identity) -> Self {
        let keys = SharedKeys::default();
        Self { scripts: Scripts::new(keys.clone()), keys, clients: BTreeMap::new(), identity, next: 1, now: 0 }
    }

    /// Ends all connections, and goes on as another run of the server with the given data.
    pub fn restart(&mut self, identity: Identity, data: Keyspace) {
        self.clients.clear();
        self.identity = identity;
        *self.keys() = data;
        self.keys().take_changed();
    }

    pub fn keys(&self) -> MutexGuard<'_, Keyspace> {
        lock(&self.keys)
    }

    /// Sets the clock of the server, in microseconds since the Unix epoch.
    pub fn set_time(&mut self, micros: u64) {
        self.now = micros;
        self.keys().set_time(micros);
    }

    pub fn connect(&mut self) -> ClientId {
        let id = self.next;
        self.next += 1;
        self.clients.insert(id, Client::default());
        id
    }

    pub fn disconnect(&mut self, id: ClientId) {
        self.clients.remove(&id);
    }

    /// Takes bytes that have arrived from a client. They are executed in the next turn that includes it.
    pub fn receive(&mut self, id: ClientId, bytes: &[u8]) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.input.extend_from_slice(bytes);
        }
    }

    /// Executes the commands of these clients in this order, and ends the turn. `executed` sees each command.
    ///
    /// Keys whose life has ended are removed only if `expires`. Pushes are lost unless `pushes`, which no real server does.
    pub fn turn(
        &mut self,
        ids: &[ClientId],
        expires: bool,
        pushes: bool,
        mut executed: impl FnMut(ClientId, &[Vec<u8>], &Reply),
    ) {
        for id in ids {
            while let Some(words) = self.clients.get_mut(id).and_then(|client| take_command(&mut client.input)) {
                let reply = self.execute(*id, &words);
                executed(*id, &words, &reply);
                if let Some(client) = self.clients.get_mut(id) {
                    reply.encode(client.resp3, &mut client.output);
                }
            }
        }
        if expires {
            self.keys().expire();
        }
        if pushes {
            self.push();
        } else {
            self.keys().take_changed();
        }
    }

    /// Removes all keys, and pushes that at once, as `FLUSHALL` does.
    pub fn flush(&mut self) {
        self.keys().clear();
        let push = Reply::Push(vec![Reply::bulk("invalidate"), Reply::Null]);
        for client in self.clients.values_mut().filter(|client| !client.prefixes.is_empty()) {
            push.encode(client.resp3, &mut client.output);
        }
    }

    /// Removes the output of a client.
    pub fn take_output(&mut self, id: ClientId) -> Vec<u8> {
        self.clients.get_mut(&id).map(|client| std::mem::take(&mut client.output)).unwrap_or_default()
    }

    /// Puts bytes back in front of the output of a client.
    pub fn put_back(&mut self, id: ClientId, mut bytes: Vec<u8>) {
        if let Some(client) = self.clients.get_mut(&id) {
            bytes.append(&mut client.output);
            client.output = bytes;
        }
    }

    /// Returns the clients that have output.
    pub fn with_output(&self) -> Vec<ClientId> {
        self.clients.iter().filter(|(_, client)| !client.output.is_empty()).map(|(id, _)| *id).collect()
    }

    /// Appends the pushes for the changes of this turn: one for each prefix, with its changed keys in order.
    fn push(&mut self) {
        let changed: BTreeSet<Key> = self.keys().take_changed().into_iter().collect();
        if changed.is_empty() {
            return;
        }
        let prefixes: BTreeSet<Vec<u8>> = self.clients.values().flat_map(|client| client.prefixes.iter().cloned()).collect();
        for prefix in prefixes {
            let keys: Vec<Reply> =
                changed.iter().filter(|key| key.starts_with(&prefix)).map(|key| Reply::bulk(key.clone())).collect();
            if keys.is_empty() {
                continue;
            }
            let push = Reply::Push(vec![Reply::bulk("invalidate"), Reply::Array(keys)]);
            for client in self.clients.values_mut().filter(|client| client.prefixes.contains(&prefix)) {
                push.encode(client.resp3, &mut client.output);
            }
        }
    }

    fn execute(&mut self, id: ClientId, words: &[Vec<u8>]) -> Reply {
        let (name, arguments) = words.split_first().expect("a command has a name");
        match (name.to_ascii_uppercase().as_slice(), arguments) {
            (b"PING", []) => Reply::Simple("PONG"),
            (b"HELLO", [version]) => self.hello(id, version == b"3"),
            (b"INFO", _) => Reply::Verbatim(self.info()),
            (b"EVAL", [script, rest @ ..]) => self.scripts.eval(script, rest),
            (b"SUBSCRIBE", [channel]) => {
                Reply::Push(vec![Reply::bulk("subscribe"), Reply::Bulk(channel.clone()), Reply::Int(1)])
            }
            (b"CLIENT", [what, rest @ ..]) => self.client(id, what, rest),
            _ => self.keys().call(words).unwrap_or_else(|| {
                let text: Vec<String> = words.iter().map(|word| word.escape_ascii().to_string()).collect();
                Reply::Error(format!("ERR not simulated: {}", text.join(" ")))
            }),
        }
    }

    fn hello(&mut self, id: ClientId, resp3: bool) -> Reply {
        self.clients.get_mut(&id).expect("it sent a command").resp3 = resp3;
        let pair = |name: &str, value| (Reply::bulk(name), value);
        Reply::Map(vec![
            pair("server", Reply::bulk("redis")),
            pair("version", Reply::bulk(VERSION)),
            pair("proto", Reply::Int(if resp3 { 3 } else { 2 })),
            pair("id", Reply::Int(id as i64)),
            pair("mode", Reply::bulk("standalone")),
            pair("role", Reply::bulk("master")),
            pair("modules", Reply::Array(Vec::new())),
        ])
    }

    fn client(&mut self, id: ClientId, what: &[u8], rest: &[Vec<u8>]) -> Reply {
        match (what.to_ascii_uppercase().as_slice(), rest) {
            (b"SETINFO", [_, _]) => Reply::OK,
            (b"TRACKING", [on, mode, prefixes @ ..]) if on == b"ON" && mode == b"BCAST" => {
                let words = prefixes.chunks(2);
                let prefixes: Option<Vec<_>> = words.map(|two| (two[0] == b"PREFIX").then(|| two[1].clone())).collect();
                match (prefixes, self.clients.get_mut(&id)) {
                    (Some(prefixes), Some(client)) => {
                        client.prefixes = prefixes;
                        Reply::OK
                    }
                    _ => Reply::Error("ERR not simulated: this kind of tracking".into()),
                }
            }
            _ => Reply::Error("ERR not simulated: this CLIENT command".into()),
        }
    }

    fn info(&self) -> String {
        let Identity { run_id, replication_id } = &self.identity;
        let tracking = self.clients.values().filter(|client| !client.prefixes.is_empty()).count();
        [
            format!("redis_version:{VERSION}"),
            format!("run_id:{run_id}"),
            format!("server_time_usec:{}", self.now),
            format!("tracking_clients:{tracking}"),
            "role:master".into(),
            format!("master_replid:{replication_id}"),
            "maxmemory_policy:noeviction".into(),
            "used_memory:1000000".into(),
            "maxmemory:0".into(),
            "cluster_enabled:0".into(),
            String::new(),
        ]
        .join("\r\n")
    }
}

/// The version of Redis whose behaviour is simulated.
const VERSION: &str = "7.0.15";

fn lock(keys: &Arc<Mutex<Keyspace>>) -> MutexGuard<'_, Keyspace> {
    keys.lock().unwrap_or_else(PoisonError::into_inner)
}
