//! A response cache for Tower services of `http` requests whose invalidation is right.
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

// In the order of the layers: a module uses modules below it.
mod action;
mod body;
mod clock;
#[cfg(feature = "redis")]
mod codec;
mod entry;
mod error;
mod extensions;
mod fill;
mod future;
#[cfg(all(any(test, fuzzing), feature = "redis"))]
mod fuzz;
pub mod invalidate;
mod key;
mod layer;
mod lookup;
#[cfg(feature = "metrics")]
mod metrics;
mod namespace;
mod query;
#[cfg(feature = "redis")]
mod redis;
mod refresh;
mod respond;
mod route;
mod rules;
mod secret;
pub mod semantics;
mod service;
mod single_flight;
mod slow_path;
mod state;
mod stats;
mod status;
mod store;
mod switch;
mod target_cache;

#[cfg(feature = "redis-encryption")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis-encryption")))]
pub use self::codec::encryption::{KeyRing, KeyRingError};
#[cfg(all(fuzzing, feature = "redis"))]
#[doc(hidden)]
pub use self::codec::fuzz_stored;
#[cfg(feature = "redis")]
#[doc(hidden)]
pub use self::codec::{bench_read, bench_stored};
#[cfg(all(any(test, fuzzing), feature = "redis"))]
#[doc(hidden)]
pub use self::fuzz::fuzz_response;
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
pub use self::rules::file::RulesFileError;
#[doc(hidden)]
pub use self::target_cache::remember_at_once;
pub use self::{
    body::{CacheBody, InvalidateBody},
    clock::Clock,
    entry::{
        Entry,
        stamp::{Generation, Stamp},
        validity::Validity,
    },
    error::BoxError,
    extensions::{CachePolicy, Invalidations},
    future::ResponseFuture,
    invalidate::{layer::InvalidateLayer, outcome::Invalidation, service::InvalidateService},
    key::{
        And, Cookie, CredentialFields, Extracted, Headers, Identity, Key, KeyExtractor, KeyRef, KeyWriter, MAX_KEY_LEN,
        RequestView, RouteAndQuery,
    },
    layer::CacheLayer,
    namespace::{InvalidNamespace, MAX_NAMESPACE_LEN, MAX_NAMESPACES, Namespace, set::Namespaces},
    query::{Content as ReadContent, ContentBody, ContentFuture, QueryLayer},
    rules::{
        Rules,
        error::{RulesError, RulesErrorKind},
        failure::{OnDeliveryTimeout, OnFenceError},
        rule::Rule,
    },
    secret::Secret,
    service::CacheService,
    stats::{Stats, usage::Usage},
    status::{Bypass, CacheStatus, Miss, NoStore, Outcome, Stale, Storing},
    store::{
        backend::{Admitted, BeginFill, Context, Fence, FillOptions, Put, Store, StoreLookup},
        epochs::InvalidationKind,
        error::StoreError,
        lock::Lock,
        memory::{Memory, MemoryBuilder},
    },
    switch::Switch,
};
