//! A response cache for Tower services of `http` requests whose invalidation is right.
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

// The modules stand in layers, the highest first. A module imports from its own layer's leaves and from lower layers only;
// `tests/architecture.rs` checks that.

// Layer 7: the services, and the path of a request through them.
mod action;
mod fast_path;
mod finish;
mod follow;
mod future;
pub mod invalidate;
mod layer;
mod refresh;
mod service;
mod slow_path;

// Layer 6: one call of the inner service and its result.
mod fill;

// Layer 5: responses from entries, and the targets that each thread remembers.
mod respond;
mod target_cache;

// Layer 4: lookups, and fills shared by concurrent requests.
mod body;
mod lookup;
mod single_flight;
mod state;

// Layer 3: rules, and the Redis store.
#[cfg(feature = "redis")]
mod codec;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "redis")]
mod redis;
mod rules;

// Layer 2: the protocol between the layers and a store, and the memory store.
mod extensions;
mod query;
mod store;

// Layer 1: keys, namespaces, entries, routes, statistics.
mod entry;
mod key;
mod namespace;
mod route;
mod stats;
mod status;

// Layer 0: leaves.
mod clock;
mod error;
mod percent;
mod ready;
mod secret;
pub mod semantics;
mod switch;

#[cfg(all(any(test, fuzzing), feature = "redis"))]
mod fuzz;

#[cfg(feature = "redis-encryption")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis-encryption")))]
pub use self::codec::encryption::{KeyRing, KeyRingError};
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use self::redis::{
    Redis,
    builder::{Coherence, Failover, RedisBuilder},
    connection::{RedisConnectError, RedisConnection, RedisManager},
    reclaim::{Reclaimed, ServerUsage},
};
#[cfg(feature = "config")]
#[cfg_attr(docsrs, doc(cfg(feature = "config")))]
pub use self::rules::config::RulesFileError;
pub use self::{
    body::{CacheBody, InvalidateBody},
    clock::Clock,
    error::BoxError,
    extensions::{CachePolicy, Invalidations},
    future::ResponseFuture,
    invalidate::{layer::InvalidateLayer, outcome::Invalidation, service::InvalidateService},
    key::{
        And, Cookie, CredentialFields, Extracted, Headers, Identity, Key, KeyExtractor, KeyRef, KeyWriter, MAX_KEY_LEN,
        RequestView, RouteAndQuery,
    },
    layer::CacheLayer,
    namespace::{InvalidNamespace, MAX_NAMESPACE_LEN, MAX_NAMESPACES, Namespace},
    query::{Content as ReadContent, ContentBody, ContentFuture, QueryLayer},
    rules::{
        Rules,
        error::{RulesError, RulesErrorKind},
        failure::{OnDeliveryTimeout, OnFenceError},
        rule::Rule,
    },
    service::CacheService,
    stats::Stats,
    status::{Bypass, CacheStatus, Miss, NoStore, Outcome, Stale, Storing},
    store::{
        Store,
        error::StoreError,
        memory::{Memory, MemoryBuilder},
    },
    switch::Switch,
};

/// Items for the tests, benchmarks and fuzz targets of this crate. They may change in any release.
#[doc(hidden)]
pub mod __private {
    #[cfg(all(fuzzing, feature = "redis"))]
    pub use crate::codec::fuzz_stored;
    #[cfg(feature = "redis")]
    pub use crate::codec::{bench_read, bench_stored};
    #[cfg(all(any(test, fuzzing), feature = "redis"))]
    pub use crate::fuzz::fuzz_response;
    #[cfg(fuzzing)]
    pub use crate::semantics::list::steps::during as count_steps;
    pub use crate::{
        entry::{
            Entry,
            stamp::{Generation, Stamp},
            validity::Validity,
        },
        namespace::set::Namespaces,
        secret::Secret,
        stats::usage::Usage,
        store::{
            backend::{Admitted, Backend, BeginFill, Context, Fence, FillOptions, Put, StoreLookup},
            epochs::InvalidationKind,
            lock::Lock,
        },
        target_cache::remember_at_once,
    };
}
