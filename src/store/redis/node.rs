//! One master: the connections to it, and whether it answers.

use std::{
    fmt,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bb8_redis::bb8::Pool;
use redis::{Cmd, Pipeline, Value};
use tokio::sync::{Mutex, Notify};

use super::{
    breaker::Breaker,
    connect::{CONNECTING, RedisConnection, RedisManager, Server},
    fault::Fault,
    line::Told,
    names::Packed,
    time::ServerTime,
};

/// A master.
pub(super) struct Node {
    /// `host:port`, as the cluster calls it; empty where there is only one.
    pub(super) address: String,
    pub(super) manager: RedisManager,
    /// Makes, and replaces, what is at hand: taken out, cloned and given back at once, so that commands share a pipeline.
    pool: Pool<RedisManager>,
    at_hand: Box<[RwLock<Option<RedisConnection>>]>,
    next: AtomicUsize,
    filling: Mutex<()>,
    /// The connection by which pushes come, for what they should not tell us of.
    control: RwLock<Option<RedisConnection>>,
    /// Told when that is there again.
    pub(super) controlled: Notify,
    pub(super) breaker: Breaker,
    /// Its clock.
    pub(super) time: ServerTime,
    /// How often it was asked something, heartbeats apart.
    pub(super) trips: AtomicU64,
    /// It is no master of the cluster any more.
    gone: AtomicBool,
}

/// By which connection to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Via {
    /// One of the pool.
    Pool,
    /// That of the pushes, or one of the pool if there is none.
    Control,
}

/// A command that changes nothing, and that a server answers only if it would accept an invalidation: a replica says `READONLY`, or
/// `MOVED` in a cluster, and a master that is cut off from its cluster says `CLUSTERDOWN`. A master that is being replaced on
/// purpose holds it back together with all other writes. The key does not exist.
pub(super) fn check(key: &str) -> Cmd {
    redis::cmd("PEXPIREAT").arg(key).arg(1).take()
}

impl Node {
    pub(super) fn new(address: String, manager: RedisManager, connections: usize) -> Self {
        let pool = Pool::builder()
            .max_size(connections as u32)
            .test_on_check_out(false)
            .connection_timeout(CONNECTING)
            .retry_connection(false)
            .max_lifetime(None)
            .idle_timeout(None)
            .build_unchecked(manager.clone());
        Self::with_pool(address, manager, pool, connections)
    }

    pub(super) fn with_pool(address: String, manager: RedisManager, pool: Pool<RedisManager>, connections: usize) -> Self {
        Self {
            address,
            manager,
            pool,
            at_hand: (0..connections).map(|_| RwLock::default()).collect(),
            next: AtomicUsize::new(0),
            filling: Mutex::default(),
            control: RwLock::default(),
            controlled: Notify::new(),
            breaker: Breaker::default(),
            time: ServerTime::default(),
            trips: AtomicU64::new(0),
            gone: AtomicBool::new(false),
        }
    }

    /// The answer to one command.
    pub(super) async fn one(&self, command: &Cmd, via: Via, limit: Duration) -> Result<(Value, u128), Fault> {
        self.within(limit, async |by| {
            let connection = by.insert(self.connection(via).await?);
            Ok((connection.one(command).await?, connection.server))
        })
        .await
    }

    /// The answer to one command that is packed already: the way of a hit.
    pub(super) async fn packed(&self, packed: Packed, limit: Duration) -> Result<(Told, u128), Fault> {
        let connection = match self.line() {
            Some(connection) if !self.breaker.is_open() => connection,
            _ => {
                let (value, server) = Box::pin(self.one(&packed.unpacked(), Via::Pool, limit)).await?;
                return Ok((Told::Value(value), server));
            }
        };
        self.trips.fetch_add(1, Ordering::Relaxed);
        let reply = connection.line().expect("it is one").ask_plainly(packed.into_bytes());
        let answer = match tokio::time::timeout(limit, reply).await {
            Ok(Ok(Told::Value(Value::ServerError(error)))) => Err(Fault::Said(error)),
            Ok(answer) => connection.seen(answer).map_err(Fault::from),
            Err(_) => {
                connection.is_silent();
                Err(Fault::Late)
            }
        };
        Ok((self.noted(answer)?, connection.server))
    }

    /// A connection that is at hand and is a line.
    #[inline]
    fn line(&self) -> Option<RedisConnection> {
        let place = self.next.fetch_add(1, Ordering::Relaxed) % self.at_hand.len();
        self.at_hand(place).filter(|connection| connection.line().is_some())
    }

    /// The answers to some commands in one pipeline, errors of the server among them.
    pub(super) async fn all(&self, commands: &Pipeline, via: Via, limit: Duration) -> Result<(Vec<Value>, u128), Fault> {
        self.within(limit, async |by| {
            let connection = by.insert(self.connection(via).await?);
            Ok((connection.all(commands).await?, connection.server))
        })
        .await
    }

    /// What the server says of itself now.
    pub(super) async fn server(&self, limit: Duration) -> Result<Server, Fault> {
        self.within(limit, async |by| by.insert(self.connection(Via::Pool).await?).server().await.map_err(Fault::Connecting))
            .await
    }

    async fn within<T>(
        &self,
        limit: Duration,
        asking: impl AsyncFnOnce(&mut Option<RedisConnection>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        if self.breaker.is_open() {
            return Err(Fault::Away);
        }
        self.trips.fetch_add(1, Ordering::Relaxed);
        // The connection that is asked by, once there is one.
        let mut by = None;
        let answer = tokio::time::timeout(limit, asking(&mut by)).await.unwrap_or_else(|_| {
            by.iter().for_each(RedisConnection::is_silent);
            Err(Fault::Late)
        });
        self.noted(answer)
    }

    /// Notes whether the server answers.
    fn noted<T>(&self, answer: Result<T, Fault>) -> Result<T, Fault> {
        match &answer {
            Err(fault) if fault.is_of_connection() => {
                if self.breaker.failed() {
                    self.breaks();
                }
            }
            _ => self.breaker.succeeded(),
        }
        answer
    }

    async fn connection(&self, via: Via) -> Result<RedisConnection, Fault> {
        if via == Via::Control
            && let Some(connection) = self.control().filter(|connection| !connection.is_broken())
        {
            return Ok(connection);
        }
        let place = self.next.fetch_add(1, Ordering::Relaxed) % self.at_hand.len();
        if let Some(connection) = self.at_hand(place) {
            return Ok(connection);
        }
        // Hardly ever needed, and large: in a box, so that not every command is as large.
        Box::pin(self.fill()).await?;
        self.at_hand(place).ok_or(Fault::Away)
    }

    fn at_hand(&self, place: usize) -> Option<RedisConnection> {
        let connection = self.at_hand[place].read().unwrap_or_else(PoisonError::into_inner);
        connection.as_ref().filter(|connection| !connection.is_broken()).cloned()
    }

    /// Puts connections where there are none, or broken ones.
    pub(super) async fn fill(&self) -> Result<(), Fault> {
        let _filling = self.filling.lock().await;
        let mut taken = Vec::with_capacity(self.at_hand.len());
        // All are taken out at once, so that they are not the same; broken ones are thrown away as they go back.
        while taken.len() < self.at_hand.len() {
            match self.pool.get().await {
                Ok(connection) if connection.is_broken() => drop(connection),
                Ok(connection) => taken.push(connection),
                Err(_) if !taken.is_empty() => break,
                Err(error) => return Err(Fault::connecting(error)),
            }
        }
        for (place, slot) in self.at_hand.iter().enumerate() {
            let mut slot = slot.write().unwrap_or_else(PoisonError::into_inner);
            if slot.as_ref().is_none_or(RedisConnection::is_broken) {
                *slot = taken.get(place % taken.len()).map(|connection| (**connection).clone());
            }
        }
        Ok(())
    }

    /// Throws all connections away: the server they were made to is not there any more, or another.
    pub(super) fn breaks(&self) {
        for slot in &self.at_hand {
            let slot = slot.read().unwrap_or_else(PoisonError::into_inner);
            slot.iter().for_each(RedisConnection::breaks);
        }
    }

    /// Throws away the connections to servers at other addresses than this.
    pub(super) fn leaves_all_but(&self, address: &str) -> bool {
        let elsewhere = |connection: &RedisConnection| !connection.is_at(address) && !connection.is_broken();
        let mut left = false;
        for place in self.at_hand.iter().chain([&self.control]) {
            let place = place.read().unwrap_or_else(PoisonError::into_inner);
            for connection in place.iter().filter(|connection| elsewhere(connection)) {
                connection.breaks();
                left = true;
            }
        }
        left
    }

    /// Whether a connection made anew is answered. It is thrown away: those of the pool are made by who needs them, and driven by
    /// their runtime.
    pub(super) async fn answers(&self, limit: Duration) -> bool {
        let probe = async {
            let (mut connection, _) = self.manager.open(None).await.map_err(Fault::Connecting)?;
            Ok::<_, Fault>(connection.one(&redis::cmd("PING")).await?)
        };
        matches!(tokio::time::timeout(limit, probe).await, Ok(Ok(_)))
    }

    pub(super) fn control(&self) -> Option<RedisConnection> {
        self.control.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn is_controlled_by(&self, connection: Option<RedisConnection>) {
        let there = connection.is_some();
        *self.control.write().unwrap_or_else(PoisonError::into_inner) = connection;
        if there {
            self.controlled.notify_waiters();
        }
    }

    /// Notes the clock of the server.
    pub(super) fn learns(&self, server: &Server) {
        if let Some(reading) = server.time {
            self.time.learn(reading);
        }
    }

    pub(super) fn goes(&self) {
        self.gone.store(true, Ordering::Relaxed);
        self.breaks();
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("address", &self.address).field("away", &self.breaker.is_open()).finish_non_exhaustive()
    }
}
