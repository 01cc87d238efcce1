//! One master: the connections to it, and whether it answers.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bb8_redis::bb8::Pool;
use redis::{Cmd, Pipeline, Value};
use tokio::sync::{Notify, watch};

use super::{
    circuit_breaker::Breaker,
    connection::{RedisConnection, RedisManager},
    error::CommandError,
    keys::Packed,
    options::CONNECT_TIMEOUT,
    resp::FastReply,
    server::Server,
    time::ServerTime,
};

/// A master.
pub(crate) struct Node {
    /// `host:port`, as the cluster calls it; empty where there is only one.
    pub(super) address: String,
    pub(super) manager: RedisManager,
    /// A pool of the application: connections are taken out, cloned and given back at once, so that commands share a pipeline.
    pool: Option<Pool<RedisManager>>,
    at_hand: AtHand,
    next: AtomicUsize,
    filling: Mutex<Option<Filling>>,
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

/// The connections that are asked by, each in its place.
type AtHand = Arc<[RwLock<Option<RedisConnection>>]>;

/// A task that puts connections into their places. It is not the task of a request, so that a connection can take longer to make than
/// a request may wait; it is of the runtime of a request, and ends with that.
struct Filling {
    since: Instant,
    ended: watch::Receiver<Option<Result<(), String>>>,
}

/// How long such a task may take. After that it is not waited for: its runtime may be driven by nobody.
const FILLING: Duration = Duration::from_secs(2);

/// By which connection to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// One of the pool.
    Pool,
    /// That of the pushes, or one of the pool if there is none.
    Control,
}

/// A command that changes nothing, and that a server answers only if it would accept an invalidation: a replica says `READONLY`, or
/// `MOVED` in a cluster, and a master that is cut off from its cluster says `CLUSTERDOWN`. A master that is being replaced on
/// purpose holds it back together with all other writes. The key does not exist.
pub(crate) fn check(key: &str) -> Cmd {
    redis::cmd("PEXPIREAT").arg(key).arg(1).take()
}

impl Node {
    pub(super) fn new(address: String, manager: RedisManager, connections: usize) -> Self {
        Self::made(address, manager, None, connections)
    }

    pub(super) fn with_pool(address: String, manager: RedisManager, pool: Pool<RedisManager>, connections: usize) -> Self {
        Self::made(address, manager, Some(pool), connections)
    }

    fn made(address: String, manager: RedisManager, pool: Option<Pool<RedisManager>>, connections: usize) -> Self {
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
    pub(super) async fn one(&self, command: &Cmd, via: Route, limit: Duration) -> Result<(Value, u128), CommandError> {
        self.within(limit, async |by| {
            let connection = by.insert(self.connection(via).await?);
            Ok((connection.one(command).await?, connection.server))
        })
        .await
    }

    /// The answer to one command that is packed already: the way of a hit.
    pub(super) async fn packed(&self, packed: Packed, limit: Duration) -> Result<(FastReply, u128), CommandError> {
        let connection = match self.connection_at_hand() {
            Some(connection) if !self.breaker.is_open() => connection,
            _ => {
                let (value, server) = Box::pin(self.one(&packed.unpacked(), Route::Pool, limit)).await?;
                return Ok((FastReply::Value(value), server));
            }
        };
        self.trips.fetch_add(1, Ordering::Relaxed);
        let reply = connection.pipeline().ask_plainly(packed.into_bytes());
        let answer = match tokio::time::timeout(limit, reply).await {
            Ok(Ok(FastReply::Value(Value::ServerError(error)))) => Err(CommandError::Server(error)),
            Ok(answer) => connection.seen(answer).map_err(CommandError::from),
            Err(_) => {
                connection.is_silent();
                Err(CommandError::Timeout)
            }
        };
        Ok((self.noted(answer)?, connection.server))
    }

    #[inline]
    fn connection_at_hand(&self) -> Option<RedisConnection> {
        let place = self.next.fetch_add(1, Ordering::Relaxed) % self.at_hand.len();
        self.at_hand(place)
    }

    /// The answers to some commands in one pipeline, errors of the server among them.
    pub(super) async fn all(
        &self,
        commands: &Pipeline,
        via: Route,
        limit: Duration,
    ) -> Result<(Vec<Value>, u128), CommandError> {
        self.within(limit, async |by| {
            let connection = by.insert(self.connection(via).await?);
            Ok((connection.all(commands).await?, connection.server))
        })
        .await
    }

    /// What the server says of itself now.
    pub(super) async fn server(&self, limit: Duration) -> Result<Server, CommandError> {
        self.within(limit, async |by| {
            by.insert(self.connection(Route::Pool).await?).server().await.map_err(CommandError::Connecting)
        })
        .await
    }

    async fn within<T>(
        &self,
        limit: Duration,
        asking: impl AsyncFnOnce(&mut Option<RedisConnection>) -> Result<T, CommandError>,
    ) -> Result<T, CommandError> {
        if self.breaker.is_open() {
            return Err(CommandError::Unavailable);
        }
        self.trips.fetch_add(1, Ordering::Relaxed);
        // The connection that is asked by, once there is one.
        let mut by = None;
        let answer = tokio::time::timeout(limit, asking(&mut by)).await.unwrap_or_else(|_| {
            by.iter().for_each(RedisConnection::is_silent);
            Err(CommandError::Timeout)
        });
        self.noted(answer)
    }

    /// Notes whether the server answers.
    fn noted<T>(&self, answer: Result<T, CommandError>) -> Result<T, CommandError> {
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

    async fn connection(&self, via: Route) -> Result<RedisConnection, CommandError> {
        if via == Route::Control
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
        (0..self.at_hand.len()).find_map(|next| self.at_hand((place + next) % self.at_hand.len())).ok_or(CommandError::Timeout)
    }

    fn at_hand(&self, place: usize) -> Option<RedisConnection> {
        let connection = self.at_hand[place].read().unwrap_or_else(PoisonError::into_inner);
        connection.as_ref().filter(|connection| !connection.is_broken()).cloned()
    }

    /// Has connections put where there are none, or broken ones, and waits for that.
    pub(super) async fn fill(&self) -> Result<(), CommandError> {
        // Once more if the task has ended with a runtime that is not ours.
        for _ in 0..2 {
            let mut ended = self.filling();
            if let Ok(result) = ended.wait_for(Option::is_some).await {
                let result = result.clone().unwrap_or(Ok(()));
                return result.map_err(|error| CommandError::Connecting(error.into()));
            }
        }
        Err(CommandError::Timeout)
    }

    /// The task that puts connections into their places: the one that is at it, or a new one.
    fn filling(&self) -> watch::Receiver<Option<Result<(), String>>> {
        let mut filling = self.filling.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Filling { since, ended }) = &*filling
            && since.elapsed() < FILLING
            // Whoever ends without a word has ended with its runtime.
            && ended.has_changed().is_ok()
            && ended.borrow().is_none()
        {
            return ended.clone();
        }
        let (end, ended) = watch::channel(None);
        *filling = Some(Filling { since: Instant::now(), ended: ended.clone() });
        let (manager, pool, at_hand) = (self.manager.clone(), self.pool.clone(), self.at_hand.clone());
        tokio::spawn(async move {
            let late = || Err(format!("no connection within {FILLING:?}"));
            let filled = tokio::time::timeout(FILLING, fill(&manager, pool.as_ref(), &at_hand)).await;
            let _ = end.send(Some(filled.unwrap_or_else(|_| late())));
        });
        ended
    }

    /// Throws all connections away: the server they were made to is not there any more, or another.
    pub(super) fn breaks(&self) {
        for slot in &*self.at_hand {
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
            let (connection, _) = self.manager.open(None).await.map_err(CommandError::Connecting)?;
            Ok::<_, CommandError>(connection.one(&redis::cmd("PING")).await?)
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

/// Puts connections where there are none, or broken ones.
async fn fill(manager: &RedisManager, pool: Option<&Pool<RedisManager>>, at_hand: &AtHand) -> Result<(), String> {
    let mut pooled = match pool {
        Some(pool) => pooled(pool, at_hand.len()).await,
        None => Vec::new(),
    };
    let is_there = |place: &RwLock<Option<RedisConnection>>| {
        let place = place.read().unwrap_or_else(PoisonError::into_inner);
        place.as_ref().is_some_and(|connection| !connection.is_broken())
    };
    for place in at_hand.iter().filter(|place| !is_there(place)) {
        let connection = match pooled.pop() {
            Some(connection) => connection,
            None => match manager.open(None).await {
                Ok((connection, _)) => connection,
                // Those that are there serve for all.
                Err(_) if at_hand.iter().any(is_there) => break,
                Err(error) => return Err(error.to_string()),
            },
        };
        *place.write().unwrap_or_else(PoisonError::into_inner) = Some(connection);
    }
    Ok(())
}

/// Connections of a pool, as many as it gives of those that are wanted. All are taken out at once, so that they are not the same; broken
/// ones are thrown away as they go back.
///
/// A pool may give none for ever, after a runtime has ended that was opening one: then they are made without it.
async fn pooled(pool: &Pool<RedisManager>, wanted: usize) -> Vec<RedisConnection> {
    let mut taken = Vec::with_capacity(wanted);
    for _ in 0..2 * wanted {
        if taken.len() == wanted {
            break;
        }
        match tokio::time::timeout(CONNECT_TIMEOUT, pool.get()).await {
            Ok(Ok(connection)) if connection.is_broken() => drop(connection),
            Ok(Ok(connection)) => taken.push(connection),
            _ => break,
        }
    }
    taken.iter().map(|connection| (**connection).clone()).cycle().take(if taken.is_empty() { 0 } else { wanted }).collect()
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("address", &self.address).field("away", &self.breaker.is_open()).finish_non_exhaustive()
    }
}
