//! The builder of a store in Redis.

use std::{fmt, num::NonZeroUsize, sync::Arc, time::Duration};

use bb8_redis::bb8::Pool;
use redis::{Client, RedisConnectionInfo};

use super::{
    connection::RedisManager,
    error::RedisConnectError,
    network::Network,
    options::{Coherence, Failover},
};
use crate::{clock::Clock, codec::Codec, secret::Secret, store::memory::SMALLEST, tls::Certificates};

#[cfg(feature = "redis-compression")]
use crate::codec::compression::Compression;
#[cfg(feature = "redis-encryption")]
use crate::codec::encryption::KeyRing;

/// Builds a [`Redis`](crate::Redis) store.
///
/// The Redis user needs access to the keys `PREFIX:1:*`, the channel `PREFIX:1:pushes`, and the commands `GET`, `MGET`, `SET`, `GETRANGE`,
/// `EXISTS`, `UNLINK`, `EVAL`, `ZADD`, `ZREM`, `ZRANGE`, `ZCARD`, `ZREMRANGEBYSCORE`, `PEXPIRE`, `PEXPIREAT`, `TIME`, `INFO`, `PING`, `HELLO`, `AUTH`,
/// `SUBSCRIBE` and `CLIENT TRACKING`. Without the channel or `SUBSCRIBE`, Redis keeps all pushes for a process that does not read them.
/// [`Redis::reclaim`](crate::Redis::reclaim) needs `SCAN`. [`Redis::server`](crate::Redis::server) needs `DBSIZE` and `CLIENT INFO`. A cluster needs
/// `CLUSTER SLOTS` and `ASKING`.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use tower_response_cache::{Redis, redis::Coherence};
///
/// let store = Redis::builder("rediss://app:secret@redis.internal:6380")
///     .prefix("shop")
///     .memory(256 << 20)
///     .coherence(Coherence::Leased)
///     .strict(Duration::from_secs(30))
///     .secret([7; 32])
///     .root_certificate(std::fs::read("ca.pem")?)
///     .build()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use]
pub struct RedisBuilder {
    pub(super) place: Place,
    pub(super) certificates: Certificates,
    pub(super) prefix: String,
    pub(super) memory: Option<NonZeroUsize>,
    pub(super) coherence: Coherence,
    pub(super) heartbeat: Duration,
    pub(super) max_heartbeat: Duration,
    pub(super) max_round_trip: Duration,
    pub(super) gather: Duration,
    pub(super) command_timeout: Duration,
    pub(super) invalidate_timeout: Duration,
    pub(super) generation_ttl: Duration,
    pub(super) strict: Option<Duration>,
    pub(super) failover: Failover,
    pub(super) connections: usize,
    pub(super) require_connection: bool,
    pub(super) secret: Option<Secret>,
    pub(super) clock: Clock,
    pub(super) codec: Codec,
    /// Replaces the network in simulations.
    pub(super) network: Option<Arc<dyn Network>>,
}

/// The place of Redis, as the application gives it.
#[derive(Clone)]
pub(crate) enum Place {
    Url(String),
    Client(Client),
    Pool(RedisManager, Pool<RedisManager>),
    Cluster(Vec<String>),
    Sentinel { urls: Vec<String>, service: String, master: RedisConnectionInfo },
}

impl RedisBuilder {
    pub(super) fn new(url: &str) -> Self {
        Self::at(Place::Url(url.to_owned()))
    }

    fn at(place: Place) -> Self {
        Self {
            place,
            certificates: Certificates::default(),
            prefix: "cache".into(),
            memory: None,
            coherence: Coherence::Leased,
            heartbeat: Duration::from_millis(50),
            max_heartbeat: Duration::from_secs(2),
            max_round_trip: Duration::from_millis(20),
            gather: Duration::from_millis(1),
            command_timeout: Duration::from_millis(50),
            invalidate_timeout: crate::store::backend::INVALIDATE_TIMEOUT,
            generation_ttl: Duration::from_secs(7 * 86_400),
            strict: None,
            failover: Failover::Flush,
            connections: 1,
            require_connection: false,
            secret: None,
            clock: Clock::system(),
            codec: Codec::default(),
            network: None,
        }
    }

    /// Uses the address, the database and the sign-in of a client of the `redis` crate.
    ///
    /// Its certificates cannot be read. Set [`root_certificate`](Self::root_certificate) and
    /// [`client_certificate`](Self::client_certificate) instead.
    pub fn client(client: Client) -> Self {
        Self::at(Place::Client(client))
    }

    /// Uses the connections of a pool that the application owns. The manager makes further connections, which receive pushes.
    ///
    /// The pool is one of bb8 0.9, the version that this crate uses for its own connections. A new version of bb8 is a breaking change here.
    pub fn pool(manager: RedisManager, pool: Pool<RedisManager>) -> Self {
        Self::at(Place::Pool(manager, pool))
    }

    /// Uses a cluster. The URLs name some of its nodes, and the others are found through them.
    pub fn cluster<I>(urls: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self::at(Place::Cluster(urls.into_iter().map(Into::into).collect()))
    }

    /// Uses the master of `service`, which the sentinels at these URLs name.
    ///
    /// All sentinels are asked, first when the store connects and then every 100 milliseconds. The answer with the newest configuration
    /// counts: connections to any other master are closed. `master` is the sign-in at the master, `RedisConnectionInfo::default()` without
    /// one. Connections to the master do not use TLS. A user of the sentinels needs the commands `SENTINEL GET-MASTER-ADDR-BY-NAME` and
    /// `SENTINEL MASTER`.
    pub fn sentinel<I>(urls: I, service: &str, master: RedisConnectionInfo) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let urls = urls.into_iter().map(Into::into).collect();
        Self::at(Place::Sentinel { urls, service: service.to_owned(), master })
    }

    /// Sets the certificate authorities to trust with `rediss://`, in PEM. Defaults to those of the system.
    ///
    /// It applies to a URL, a client or a cluster. A pool and sentinels refuse it.
    pub fn root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.certificates.roots = Some(pem.into());
        self
    }

    /// Sets the certificate that identifies this process to a server with `rediss://`, and its private key, both in PEM. Defaults to none.
    ///
    /// `chain` begins with the certificate of the client. It applies to a URL, a client or a cluster. A pool and sentinels refuse it. The
    /// certificates of a [`redis::Client`](::redis::Client) cannot be read, so a client that has any is refused.
    pub fn client_certificate(mut self, chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.certificates.client = Some((chain.into(), key.into()));
        self
    }

    /// Sets the prefix of all keys in Redis: letters, digits, `-`, `_`, `.` and `:`, at least one. Each application needs its own. Defaults
    /// to `cache`.
    pub fn prefix(mut self, prefix: &str) -> Self {
        self.prefix = prefix.to_owned();
        self
    }

    /// Keeps entries in up to `bytes` bytes of memory in front of Redis: at least 64 KiB, or 0 for no memory. Defaults to 0.
    pub fn memory(mut self, bytes: usize) -> Self {
        self.memory = NonZeroUsize::new(bytes);
        self
    }

    /// Sets how fresh hits from memory must be. Defaults to [`Coherence::Leased`].
    pub fn coherence(mut self, coherence: Coherence) -> Self {
        self.coherence = coherence;
        self
    }

    /// Sets the interval of heartbeats to each master under [`Coherence::Leased`], from 5 milliseconds to 10 seconds. Defaults to 50
    /// milliseconds.
    ///
    /// The heartbeat is `PEXPIREAT` of a key that does not exist: only a server that would accept an invalidation extends the lease. The
    /// interval is longer if more than 100 processes receive pushes from the server: by 1.6 milliseconds for each further one, up to
    /// [`max_heartbeat`](Self::max_heartbeat). [`Redis::max_staleness`](crate::Redis::max_staleness) returns the resulting Δ.
    pub fn heartbeat(mut self, every: Duration) -> Self {
        self.heartbeat = every;
        self
    }

    /// Sets the longest interval of heartbeats, from 5 milliseconds to 10 seconds. Defaults to 2 seconds.
    ///
    /// With many processes, heartbeats are the largest part of the load of an idle server. If this is no longer than
    /// [`heartbeat`](Self::heartbeat), the interval and Δ do not change.
    pub fn max_heartbeat(mut self, every: Duration) -> Self {
        self.max_heartbeat = every;
        self
    }

    /// Sets the longest answer time of a heartbeat that extends the lease, from 1 millisecond to 10 seconds. Defaults to 20 milliseconds.
    ///
    /// Together with two heartbeats it makes Δ, by which a leased hit may be stale. A slower answer ends the lease for a moment.
    pub fn max_round_trip(mut self, time: Duration) -> Self {
        self.max_round_trip = time;
        self
    }

    /// Sets for how long an invalidation may wait for others while invalidations are frequent, up to 1 second. Defaults to 1 millisecond.
    ///
    /// Redis sends a message to each process whenever it has handled invalidations, for one or for many of them alike. With many processes
    /// that is nearly all of their cost. An invalidation waits if there was another one, of any process, within this time. It is then sent at
    /// a multiple of this time by the clock of the server. A lone invalidation does not wait. The response of a write waits for its
    /// invalidation.
    ///
    /// From 10 milliseconds on, the processes that send at the same moment share one message: each leaves its names in Redis, and the first one
    /// that has waited for a quarter of this time, at most 25 milliseconds, has all of them pushed. Exceptions are soft invalidations, those of
    /// strict writes, and clusters.
    pub fn gather(mut self, time: Duration) -> Self {
        self.gather = time;
        self
    }

    /// Sets how long a request waits for each command to Redis, from 1 millisecond to 30 seconds. Redirections within a cluster are
    /// included. Defaults to 50 milliseconds.
    pub fn command_timeout(mut self, command_timeout: Duration) -> Self {
        self.command_timeout = command_timeout;
        self
    }

    /// Sets how long [`invalidate`](crate::Store::invalidate) and the other methods of the store wait until Redis confirms: from zero to one
    /// hour. Defaults to one second.
    ///
    /// After that they return an error that [is queued](crate::StoreError::is_queued). They do not wait while Redis is known to be down.
    /// Writes through an [`InvalidateLayer`](crate::InvalidateLayer) wait for its
    /// [`delivery_timeout`](crate::InvalidateLayer::delivery_timeout) instead.
    pub fn invalidate_timeout(mut self, limit: Duration) -> Self {
        self.invalidate_timeout = limit;
        self
    }

    /// Sets the longest life of a generation in Redis, from one minute to 365 days. Defaults to 7 days.
    ///
    /// When a generation ends, each entry under it is missed once. A generation is created before the inner service is called, and then
    /// lives for two minutes. Storing a response under it extends its life to twice the life of the response, and by at least one hour. A
    /// response that takes longer than two minutes, under a namespace without other entries, is therefore not served from the store. The
    /// generations of the root and of the 4,096 sets of keys have the longest life from the start. A generation that only a response has
    /// named lives for one hour at first: responses that name it are stored from the second one on, if that one arrives within the hour.
    ///
    /// **Memory that a client can occupy.** A request for an invented path whose response is not stored leaves one generation of about 150
    /// bytes for each namespace: for two minutes if the rule derives it from the request, for one hour if the handler names it. A stored
    /// response leaves an entry for its lifetime, and its generations as described above.
    pub fn generation_ttl(mut self, ttl: Duration) -> Self {
        self.generation_ttl = ttl;
        self
    }

    /// Sets a fence before each write, so that affected entries are not served even if this process dies before it can invalidate them.
    /// Defaults to off. All processes that share the store must use it.
    ///
    /// The fence stands for `deadline` after the process has died: from one second to one hour. It is renewed while the handler runs.
    /// `deadline` must be longer than a database statement of the handler can continue without its process. The server needs
    /// `maxmemory-policy noeviction`.
    pub fn strict(mut self, deadline: Duration) -> Self {
        self.strict = Some(deadline);
        self
    }

    /// Sets whether entries from before a failover are served. Defaults to [`Failover::Flush`].
    pub fn failover(mut self, failover: Failover) -> Self {
        self.failover = failover;
        self
    }

    /// Sets the number of connections to each master, from 1 to 64, in addition to the one that receives pushes. All commands share them.
    /// Defaults to 1, which is fastest unless bodies are large.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// Fails the build if Redis cannot be reached. By default the store is built, and requests are served without it until Redis can be
    /// reached.
    pub fn require_connection(mut self) -> Self {
        self.require_connection = true;
        self
    }

    /// Sets the key under which tokens, cookies and other secrets are hashed before they enter a cache key or a namespace. Processes with
    /// different keys do not find each other's entries of signed-in users.
    ///
    /// Defaults to a key derived from the prefix and from the password in the URL, if there is one. All processes derive the same key, and
    /// it is as secret as the password.
    pub fn secret(mut self, key: [u8; 32]) -> Self {
        self.secret = Some(Secret::new(key));
        self
    }

    /// Compresses bodies of more than `above` bytes with zstd at this level before they go to Redis, unless they have a content coding.
    /// Defaults to off. Needs the feature `redis-compression`.
    ///
    /// 4 KiB and level 1 are good choices. A compressed length reveals something about the content, even if it is encrypted.
    #[cfg(feature = "redis-compression")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis-compression")))]
    pub fn compression(mut self, above: usize, level: i32) -> Self {
        self.codec = self.codec.compress(Compression::default().above(above).level(level));
        self
    }

    /// Encrypts entries in Redis: bodies, header fields and canonical keys cannot be read there. The names of namespaces can. Entries that
    /// are not encrypted are then not served. Defaults to off. Needs the feature `redis-encryption`.
    #[cfg(feature = "redis-encryption")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis-encryption")))]
    pub fn encryption(mut self, keys: KeyRing) -> Self {
        self.codec = self.codec.seal(keys);
        self
    }

    /// Sets the clock by which entries expire. Defaults to [`Clock::system`].
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    pub(super) fn check(&self) -> Result<(), RedisConnectError> {
        let error = |text: String| Err(RedisConnectError::settled(text));
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        if self.prefix.is_empty() || !self.prefix.chars().all(fits) {
            return error(format!("invalid prefix {:?}: expected letters, digits, - _ . or :, at least one", self.prefix));
        }
        if !self.certificates.is_empty() && !matches!(self.place, Place::Url(_) | Place::Client(_) | Place::Cluster(_)) {
            let (root, client) = ("root_certificate", "client_certificate");
            return error(format!(
                "{root} and {client} have no effect on a pool or on sentinels: expected a URL, a client or a cluster"
            ));
        }
        let times = [
            ("heartbeat", self.heartbeat, Duration::from_millis(5), Duration::from_secs(10)),
            ("gather", self.gather, Duration::ZERO, Duration::from_secs(1)),
            ("max_heartbeat", self.max_heartbeat, Duration::from_millis(5), Duration::from_secs(10)),
            ("max_round_trip", self.max_round_trip, Duration::from_millis(1), Duration::from_secs(10)),
            ("command_timeout", self.command_timeout, Duration::from_millis(1), Duration::from_secs(30)),
            ("invalidate_timeout", self.invalidate_timeout, Duration::ZERO, Duration::from_secs(3600)),
            ("generation_ttl", self.generation_ttl, Duration::from_secs(60), Duration::from_secs(365 * 86_400)),
            ("strict", self.strict.unwrap_or(Duration::from_secs(30)), Duration::from_secs(1), Duration::from_secs(3600)),
        ];
        for (name, time, least, most) in times {
            if time < least || time > most {
                return error(format!("invalid {name} {time:?}: expected {least:?} to {most:?}"));
            }
        }
        if let Some(bytes) = self.memory.filter(|bytes| bytes.get() < SMALLEST) {
            return error(format!("invalid memory {bytes}: expected 0, for none, or at least {SMALLEST} bytes (64 KiB)"));
        }
        if !(1..=64).contains(&self.connections) {
            return error(format!("invalid connections {}: expected 1 to 64", self.connections));
        }
        Ok(())
    }
}

/// Replaces the network of a store, for simulations. The worker of the store is then a task of the current runtime.
pub fn over_network(builder: RedisBuilder, network: Arc<dyn Network>) -> RedisBuilder {
    RedisBuilder { network: Some(network), ..builder }
}

impl fmt::Debug for RedisBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBuilder").field("prefix", &self.prefix).field("coherence", &self.coherence).finish_non_exhaustive()
    }
}
