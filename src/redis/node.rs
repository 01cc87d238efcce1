//! One master: its connections and its circuit breaker.

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
    trips::{Trips, name_of},
};
use crate::histogram::Exported;

/// A master.
pub(crate) struct Node {
    /// `host:port` as the cluster names it. Empty without a cluster.
    pub(super) address: String,
    pub(super) manager: RedisManager,
    /// A pool of the application. Connections are taken out, cloned and given back at once, so that commands share a pipeline.
    pool: Option<Pool<RedisManager>>,
    slots: ConnectionSlots,
    next: AtomicUsize,
    connecting: Mutex<Option<ConnectTask>>,
    /// The connection that receives pushes. Commands whose own changes must not be pushed use it.
    control: RwLock<Option<RedisConnection>>,
    /// Notified when that connection is available again.
    pub(super) control_available: Notify,
    pub(super) breaker: Breaker,
    /// The clock of the server.
    pub(super) time: ServerTime,
    /// The monotonic time of the last push, or of the last delivery of invalidations by this process. Zero if there was none.
    pub(super) last_push: AtomicU64,
    pub(super) trips: Trips,
    /// `true` once it is not a master of the cluster any more.
    retired: AtomicBool,
}

/// The connections for commands, each in its slot.
type ConnectionSlots = Arc<[RwLock<Option<RedisConnection>>]>;

/// A task that fills empty slots with connections. It is not the task of a request, so that connecting may take longer than a request may
/// wait. It runs on the runtime of a request, and ends with it.
struct ConnectTask {
    since: Instant,
    ended: watch::Receiver<Option<Result<(), String>>>,
}

/// The longest time for such a task. After it the task is replaced: its runtime may not be running.
const CONNECT_TASK_LIMIT: Duration = Duration::from_secs(2);

/// The connection for a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// A connection of the pool.
    Pool,
    /// The connection that receives pushes, or one of the pool if there is none.
    Control,
}

/// Returns a command that changes nothing, and that a server answers only if it would accept an invalidation. The key does not exist.
///
/// A replica answers `READONLY`, or `MOVED` in a cluster. A master that is cut off from its cluster answers `CLUSTERDOWN`. A master that is
/// being replaced on purpose delays it together with all other writes.
pub(crate) fn check(key: &str) -> Cmd {
    redis::cmd("PEXPIREAT").arg(key).arg(1).take()
}

impl Node {
    pub(super) fn new(address: String, manager: RedisManager, connections: usize, times: Exported) -> Self {
        Self::made(address, manager, None, connections, times)
    }

    pub(super) fn with_pool(manager: RedisManager, pool: Pool<RedisManager>, connections: usize, times: Exported) -> Self {
        Self::made(String::new(), manager, Some(pool), connections, times)
    }

    /// `times` receives the times of round trips.
    fn made(
        address: String,
        manager: RedisManager,
        pool: Option<Pool<RedisManager>>,
        connections: usize,
        times: Exported,
    ) -> Self {
        Self {
            address,
            manager,
            pool,
            slots: (0..connections).map(|_| RwLock::default()).collect(),
            next: AtomicUsize::new(0),
            connecting: Mutex::default(),
            control: RwLock::default(),
            control_available: Notify::new(),
            breaker: Breaker::default(),
            time: ServerTime::default(),
            last_push: AtomicU64::new(0),
            trips: Trips::new(times),
            retired: AtomicBool::new(false),
        }
    }

    /// Sends one command.
    pub(super) async fn send(&self, command: &Cmd, via: Route, limit: Duration) -> Result<(Value, u128), CommandError> {
        let name = || name_of(command);
        self.within(limit, name, async |by| {
            let connection = by.insert(self.connection(via).await?);
            Ok((connection.send(command).await?, connection.server))
        })
        .await
    }

    /// Sends one encoded command. Hits use this path.
    pub(super) async fn packed(&self, packed: Packed, limit: Duration) -> Result<(FastReply, u128), CommandError> {
        let connection = match self.next_connection() {
            Some(connection) if !self.breaker.is_open() => connection,
            _ => {
                let (value, server) = Box::pin(self.send(&packed.unpacked(), Route::Pool, limit)).await?;
                return Ok((FastReply::Value(value), server));
            }
        };
        let trip = self.trips.begin(&self.address, || name_of(&packed.unpacked()));
        let reply = connection.pipeline().send_fast(packed.into_bytes());
        let answer = match tokio::time::timeout(limit, reply).await {
            Ok(Ok(FastReply::Value(Value::ServerError(error)))) => Err(CommandError::Server(error)),
            Ok(answer) => connection.note_result(answer).map_err(CommandError::from),
            Err(_) => {
                connection.note_timeout();
                Err(CommandError::Timeout)
            }
        };
        trip.end(&answer);
        Ok((self.note_answer(answer)?, connection.server))
    }

    #[inline]
    fn next_connection(&self) -> Option<RedisConnection> {
        let place = self.next.fetch_add(1, Ordering::Relaxed) % self.slots.len();
        self.connection_at(place)
    }

    /// Sends commands in one pipeline. Errors of the server are among the values.
    pub(super) async fn send_all(
        &self,
        commands: &Pipeline,
        via: Route,
        limit: Duration,
    ) -> Result<(Vec<Value>, u128), CommandError> {
        self.within(
            limit,
            || "PIPELINE",
            async |by| {
                let connection = by.insert(self.connection(via).await?);
                Ok((connection.send_all(commands).await?, connection.server))
            },
        )
        .await
    }

    /// Asks the server for current facts about itself.
    pub(super) async fn server(&self, limit: Duration) -> Result<Server, CommandError> {
        self.within(
            limit,
            || "INFO",
            async |by| by.insert(self.connection(Route::Pool).await?).server().await.map_err(CommandError::Connecting),
        )
        .await
    }

    async fn within<T, O: AsRef<str>>(
        &self,
        limit: Duration,
        operation: impl FnOnce() -> O,
        asking: impl AsyncFnOnce(&mut Option<RedisConnection>) -> Result<T, CommandError>,
    ) -> Result<T, CommandError> {
        if self.breaker.is_open() {
            return Err(CommandError::Unavailable);
        }
        let trip = self.trips.begin(&self.address, operation);
        // The connection of the command, once there is one.
        let mut by = None;
        let answer = tokio::time::timeout(limit, asking(&mut by)).await.unwrap_or_else(|_| {
            by.iter().for_each(RedisConnection::note_timeout);
            Err(CommandError::Timeout)
        });
        trip.end(&answer);
        self.note_answer(answer)
    }

    /// Records the answer in the circuit breaker.
    fn note_answer<T>(&self, answer: Result<T, CommandError>) -> Result<T, CommandError> {
        match &answer {
            Err(error) if error.is_connection_error() => {
                if self.breaker.failed() {
                    self.mark_broken();
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
        let place = self.next.fetch_add(1, Ordering::Relaxed) % self.slots.len();
        if let Some(connection) = self.connection_at(place) {
            return Ok(connection);
        }
        // Rarely needed, and large. The box keeps the futures of commands small.
        Box::pin(self.connect()).await?;
        (0..self.slots.len())
            .find_map(|next| self.connection_at((place + next) % self.slots.len()))
            .ok_or(CommandError::Timeout)
    }

    fn connection_at(&self, place: usize) -> Option<RedisConnection> {
        let connection = self.slots[place].read().unwrap_or_else(PoisonError::into_inner);
        connection.as_ref().filter(|connection| !connection.is_broken()).cloned()
    }

    /// Fills slots without a working connection, and waits until that is done.
    pub(super) async fn connect(&self) -> Result<(), CommandError> {
        // Tried again if the task has ended with a foreign runtime.
        for _ in 0..2 {
            let mut ended = self.connect_task();
            if let Ok(result) = ended.wait_for(Option::is_some).await {
                let result = result.clone().unwrap_or(Ok(()));
                return result.map_err(|error| CommandError::Connecting(error.into()));
            }
        }
        Err(CommandError::Timeout)
    }

    /// Returns the running task that fills slots, or starts one.
    fn connect_task(&self) -> watch::Receiver<Option<Result<(), String>>> {
        let mut connecting = self.connecting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ConnectTask { since, ended }) = &*connecting
            && since.elapsed() < CONNECT_TASK_LIMIT
            // A task that ended without a result has ended with its runtime.
            && ended.has_changed().is_ok()
            && ended.borrow().is_none()
        {
            return ended.clone();
        }
        let (end, ended) = watch::channel(None);
        *connecting = Some(ConnectTask { since: Instant::now(), ended: ended.clone() });
        let (manager, pool, slots) = (self.manager.clone(), self.pool.clone(), self.slots.clone());
        tokio::spawn(async move {
            let late = || Err(format!("no connection within {CONNECT_TASK_LIMIT:?}"));
            let filled = tokio::time::timeout(CONNECT_TASK_LIMIT, connect(&manager, pool.as_ref(), &slots)).await;
            let _ = end.send(Some(filled.unwrap_or_else(|_| late())));
        });
        ended
    }

    /// Marks all connections as broken: the server is gone, or is another one.
    pub(super) fn mark_broken(&self) {
        for slot in &*self.slots {
            let slot = slot.read().unwrap_or_else(PoisonError::into_inner);
            slot.iter().for_each(RedisConnection::mark_broken);
        }
    }

    /// Marks connections to other addresses as broken. Returns `true` if there were any.
    pub(super) fn disconnect_from_others(&self, address: &str) -> bool {
        let elsewhere = |connection: &RedisConnection| !connection.is_at(address) && !connection.is_broken();
        let mut left = false;
        for place in self.slots.iter().chain([&self.control]) {
            let place = place.read().unwrap_or_else(PoisonError::into_inner);
            for connection in place.iter().filter(|connection| elsewhere(connection)) {
                connection.mark_broken();
                left = true;
            }
        }
        left
    }

    /// Returns `true` if a new connection is answered. It is then closed: requests make the connections for commands, and their runtimes
    /// drive them.
    pub(super) async fn responds(&self, limit: Duration) -> bool {
        let probe = async {
            let (connection, _) = self.manager.open(None).await.map_err(CommandError::Connecting)?;
            Ok::<_, CommandError>(connection.send(&redis::cmd("PING")).await?)
        };
        matches!(tokio::time::timeout(limit, probe).await, Ok(Ok(_)))
    }

    pub(super) fn control(&self) -> Option<RedisConnection> {
        self.control.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_control(&self, connection: Option<RedisConnection>) {
        let there = connection.is_some();
        *self.control.write().unwrap_or_else(PoisonError::into_inner) = connection;
        if there {
            self.control_available.notify_waiters();
        }
    }

    /// Records the clock of the server.
    pub(super) fn learn_time(&self, server: &Server) {
        if let Some(reading) = server.time {
            self.time.learn(reading);
        }
    }

    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.mark_broken();
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }
}

/// Fills slots without a working connection.
async fn connect(manager: &RedisManager, pool: Option<&Pool<RedisManager>>, slots: &ConnectionSlots) -> Result<(), String> {
    let mut pooled = match pool {
        Some(pool) => pooled(pool, slots.len()).await,
        None => Vec::new(),
    };
    let is_there = |place: &RwLock<Option<RedisConnection>>| {
        let place = place.read().unwrap_or_else(PoisonError::into_inner);
        place.as_ref().is_some_and(|connection| !connection.is_broken())
    };
    for place in slots.iter().filter(|place| !is_there(place)) {
        let connection = match pooled.pop() {
            Some(connection) => connection,
            None => match manager.open(None).await {
                Ok((connection, _)) => connection,
                // The existing connections serve all requests.
                Err(_) if slots.iter().any(is_there) => break,
                Err(error) => return Err(error.to_string()),
            },
        };
        *place.write().unwrap_or_else(PoisonError::into_inner) = Some(connection);
    }
    Ok(())
}

/// Takes up to `wanted` connections out of a pool of the application. All are held at the same time, so that they are different ones. The
/// pool discards broken ones when they are given back.
///
/// A pool may never give one again if a runtime has ended that was opening one. The connections are then made without it.
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
