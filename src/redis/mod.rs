//! A store in Redis that many processes share. No process serves an entry that another process has invalidated.

pub(crate) mod begin;
pub(crate) mod build;
pub(crate) mod builder;
pub(crate) mod change;
pub(crate) mod circuit_breaker;
pub(crate) mod cluster;
pub(crate) mod command;
pub(crate) mod connection;
pub(crate) mod delivery;
pub(crate) mod error;
pub(crate) mod extend;
pub(crate) mod fetch;
pub(crate) mod generation;
pub(crate) mod generation_times;
pub(crate) mod inner;
pub(crate) mod kept;
mod key_sample;
pub(crate) mod keys;
pub(crate) mod lease;
pub(crate) mod lock;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod options;
pub(crate) mod outbox;
mod peek;
pub(crate) mod pipeline;
pub(crate) mod read;
pub(crate) mod recent;
pub(crate) mod reclaim;
pub(crate) mod replace;
pub(crate) mod resp;
pub(crate) mod scripts;
pub(crate) mod sentinel;
pub(crate) mod server;
pub(crate) mod shared_reads;
pub(crate) mod slots;
pub(crate) mod stop;
pub(crate) mod store;
pub(crate) mod time;
pub(crate) mod transport;
mod trips;
pub(crate) mod waiting;
pub(crate) mod worker;
pub(crate) mod write;

pub use self::{
    builder::RedisBuilder,
    connection::{RedisConnection, RedisManager},
    error::RedisConnectError,
    key_sample::KeySample,
    options::{Coherence, Failover},
    reclaim::{Reclaimed, ServerUsage},
    store::Redis,
};
#[cfg(feature = "redis-encryption")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis-encryption")))]
pub use crate::codec::encryption::{KeyRing, KeyRingError};
