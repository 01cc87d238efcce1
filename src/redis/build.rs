//! Builds a store: finds its servers, makes its parts and starts its thread.

use std::sync::Arc;

use bb8_redis::bb8::Pool;
use tokio::sync::Notify;

use super::{
    builder::{Place, RedisBuilder},
    cluster::Topology,
    connection::{RedisManager, Source},
    error::RedisConnectError,
    generation_times::GenerationTimes,
    inner::RedisInner,
    keys::RedisKeys,
    lease::{KnownGenerations, Lease},
    node::Node,
    options::{Coherence, Failover},
    outbox::Outbox,
    recent::Recent,
    sentinel::Sentinels,
    shared_reads::Reads,
    stop::Stop,
    store::{Handle, Redis},
    transport::Endpoint,
    worker,
};
use crate::{
    clock::nanos,
    secret::Secret,
    store::{backend::Backend, memory::Memory},
};

impl Redis {
    /// Connects to the store at `redis://[user:password@]host[:port][/db]`, at `rediss://` over TLS, or at `unix:///path`, with default
    /// settings.
    ///
    /// # Errors
    ///
    /// Returns an error if the URL is invalid, if the server is too old, or if it refuses the sign-in. A server that cannot be reached is
    /// not an error: requests are then served without the store until it can. [`RedisBuilder::require_connection`] makes it one.
    pub async fn connect(url: &str) -> Result<Self, RedisConnectError> {
        Self::builder(url).build().await
    }

    /// Returns a builder for the store at a URL. It sets memory, coherence, timeouts and all other options.
    pub fn builder(url: &str) -> RedisBuilder {
        RedisBuilder::new(url)
    }

    /// Returns this store with `bytes` bytes of memory in front of Redis, on connections of its own. Call it before the store is used.
    ///
    /// # Panics
    ///
    /// Panics if `bytes` is out of the range of [`Memory::new`](crate::Memory::new).
    #[track_caller]
    #[must_use]
    pub fn with_memory(self, bytes: usize) -> Self {
        self.0.builder.clone().memory(bytes).start()
    }
}

impl RedisBuilder {
    /// Builds the store and connects to Redis.
    ///
    /// # Errors
    ///
    /// Returns an error if a setting is out of its range, if the server is too old or not a master, or if it refuses the sign-in. A server
    /// that cannot be reached is an error only with [`require_connection`](Self::require_connection).
    ///
    /// # Panics
    ///
    /// Panics outside of a Tokio runtime.
    pub async fn build(self) -> Result<Redis, RedisConnectError> {
        self.check()?;
        let source = self.source()?;
        let reached = match &source {
            Sources::One(manager, _) => manager.open(None).await.map(drop),
            Sources::Cluster(seeds) => first_of(seeds).await,
        };
        match reached {
            Err(error) if self.require_connection || error.is_final() => return Err(error),
            Err(error) => tracing::warn!(%error, "redis cannot be reached: requests are served without it"),
            Ok(()) => {}
        }
        let store = self.start();
        // The first request then finds a known server. A server that is known to be down is not waited for.
        store.0.inner.wait_until_ready().await;
        Ok(store)
    }

    /// Starts the store without waiting for Redis. All settings have been checked.
    #[track_caller]
    pub(super) fn start(self) -> Redis {
        let source = self.source().expect("a place that was checked");
        let clock = self.clock.clone();
        let memory = Memory::builder()
            .invalidate_timeout(self.invalidate_timeout)
            .clock(clock)
            .hashes_with(self.secret.clone().unwrap_or_else(|| self.derived_secret()));
        let memory = match self.memory {
            Some(bytes) => memory.capacity(bytes.get()),
            None => memory,
        };
        let memory = memory.build();
        let lease = Arc::new(Lease::default());
        let database = match &source {
            Sources::One(RedisManager { source: Source::At(endpoint), .. }, _) => endpoint.database(),
            Sources::One(..) => match &self.place {
                Place::Sentinel { master, .. } => master.db(),
                _ => 0,
            },
            Sources::Cluster(_) => 0,
        };
        let trust = self.failover == Failover::Trust;
        let keys = RedisKeys::new(&self.prefix);
        let (tell, found) = tokio::sync::mpsc::unbounded_channel();
        let times = memory.context().counters.round_trips.clone();
        let topology = match source {
            Sources::One(manager, pool) => Topology::One(Arc::new(match pool {
                None => Node::new(String::new(), manager, self.connections, times),
                Some(pool) => {
                    let connections = pool.state().connections.max(1) as usize;
                    Node::with_pool(manager, pool, connections, times)
                }
            })),
            Sources::Cluster(seeds) => {
                Topology::cluster(seeds, trust, self.connections, tell, lease.clone(), memory.clone(), keys.check(None))
            }
        };
        let outbox = Outbox::new(memory.context().counters.waiting.clone());
        let inner = Arc::new(RedisInner {
            memory,
            has_memory: self.memory.is_some(),
            topology,
            keys,
            codec: self.codec.clone().in_database(database),
            coherence: self.coherence,
            memory_ttl: match self.coherence {
                Coherence::Ttl(ttl) => nanos(ttl),
                _ => 0,
            },
            heartbeat: self.heartbeat,
            max_heartbeat: self.max_heartbeat,
            max_round_trip: self.max_round_trip,
            gather: self.gather,
            command_timeout: self.command_timeout,
            generation_times: GenerationTimes::new(self.generation_ttl),
            fence: self.strict,
            lease,
            known: KnownGenerations::new(),
            reads: Reads::default(),
            outbox,
            recent: Recent::default(),
            reconnected: Notify::new(),
            stop: Stop::default(),
            runtime: std::sync::OnceLock::new(),
            warned_of_channel: std::sync::atomic::AtomicBool::new(false),
        });
        match self.network {
            None => worker::start(inner.clone(), found).expect("a thread with a runtime can be started"),
            Some(_) => worker::spawn(inner.clone(), found),
        }
        Redis(Arc::new(Handle { inner, builder: self }))
    }

    fn source(&self) -> Result<Sources, RedisConnectError> {
        let trust = self.failover == Failover::Trust;
        let endpoint =
            |url: &String| Endpoint::from_url(url, &self.certificates).map(|endpoint| endpoint.over(self.network.clone()));
        let one = |source| Ok(Sources::One(RedisManager { source, trust }, None));
        match &self.place {
            Place::Url(url) => one(Source::At(Box::new(endpoint(url)?))),
            Place::Client(client) => one(Source::At(Box::new(Endpoint::from_client(client, &self.certificates)?))),
            Place::Pool(manager, _) if manager.trust != trust => Err(RedisConnectError::settled(
                "failover differs from that of the pool's manager: expected the same setting on both".into(),
            )),
            Place::Pool(manager, pool) => Ok(Sources::One(manager.clone(), Some(pool.clone()))),
            Place::Cluster(urls) if urls.is_empty() => {
                Err(RedisConnectError::settled("no URL of the cluster: expected at least one node".into()))
            }
            Place::Cluster(urls) => Ok(Sources::Cluster(urls.iter().map(endpoint).collect::<Result<_, _>>()?)),
            Place::Sentinel { urls, .. } if urls.is_empty() => {
                Err(RedisConnectError::settled("no URL of a sentinel: expected at least one".into()))
            }
            Place::Sentinel { urls, service, master } => {
                let sentinels = urls.iter().map(endpoint).collect::<Result<_, _>>()?;
                one(Source::Sentinel(Arc::new(Sentinels::new(sentinels, service, master.clone()))))
            }
        }
    }

    /// Derives a secret that is equal in all processes with equal settings.
    fn derived_secret(&self) -> Secret {
        let password = match self.source() {
            Ok(Sources::One(RedisManager { source: Source::At(endpoint), .. }, _)) => password_of(&endpoint),
            Ok(Sources::Cluster(seeds)) => seeds.first().map(password_of).unwrap_or_default(),
            _ => match &self.place {
                Place::Sentinel { master, .. } => master.password().unwrap_or_default().to_owned(),
                _ => String::new(),
            },
        };
        let of = format!("{}:{}{password}", self.prefix.len(), self.prefix);
        Secret::new(blake3::derive_key("tower-response-cache 1 identities in a shared store", of.as_bytes()))
    }
}

fn password_of(endpoint: &Endpoint) -> String {
    endpoint.password().unwrap_or_default().to_owned()
}

enum Sources {
    One(RedisManager, Option<Pool<RedisManager>>),
    Cluster(Vec<Endpoint>),
}

/// Succeeds if one of the nodes answers.
async fn first_of(seeds: &[Endpoint]) -> Result<(), RedisConnectError> {
    let mut last = None;
    for seed in seeds {
        let manager = RedisManager { source: Source::At(Box::new(seed.clone())), trust: false };
        match manager.open_any(None).await {
            Ok((_, server)) if server.cluster => return Ok(()),
            Ok(_) => last = Some(RedisConnectError::settled("the server is not a cluster node".into())),
            Err(error) => last = Some(error),
        }
    }
    Err(last.expect("at least one node"))
}
