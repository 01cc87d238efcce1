//! A response cache for Tower services of `http` requests whose invalidation is right.
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

// In the order in which a request meets them.
mod answer;
mod begin;
mod body;
mod clock;
mod content;
mod drive;
mod fill;
mod flight;
mod future;
#[cfg(all(any(test, fuzzing), feature = "redis"))]
mod fuzz;
mod groups;
mod hints;
pub mod invalidate;
mod key;
mod layer;
#[cfg(feature = "metrics")]
mod metrics;
mod namespace;
mod parts;
mod recall;
mod road;
mod rules;
pub mod semantics;
mod service;
mod silent;
mod stats;
mod status;
mod store;
mod switch;
mod tape;

#[cfg(all(any(test, fuzzing), feature = "redis"))]
#[doc(hidden)]
pub use self::fuzz::fuzz_response;
#[doc(hidden)]
pub use self::recall::remember_at_once;
#[cfg(feature = "config")]
#[cfg_attr(docsrs, doc(cfg(feature = "config")))]
pub use self::rules::RulesFileError;
#[cfg(all(fuzzing, feature = "redis"))]
#[doc(hidden)]
pub use self::store::fuzz_stored;
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use self::store::{
    Coherence, Failover, Reclaimed, Redis, RedisBuilder, RedisConnectError, RedisConnection, RedisManager, ServerUsage,
};
#[cfg(feature = "redis-encryption")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis-encryption")))]
pub use self::store::{KeyRing, KeyRingError};
#[cfg(feature = "redis")]
#[doc(hidden)]
pub use self::store::{bench_read, bench_stored};
pub use self::{
    body::{BoxError, CacheBody, InvalidateBody},
    clock::Clock,
    content::{Content as ReadContent, ContentBody, ContentFuture, QueryLayer},
    future::ResponseFuture,
    hints::{CachePolicy, Invalidations},
    invalidate::{InvalidateLayer, InvalidateService, Invalidation, OnDeliveryTimeout, OnFenceError},
    key::{
        And, Cookie, CredentialFields, Extracted, Headers, Identity, Key, KeyExtractor, KeyRef, KeyWriter, MAX_KEY_LEN,
        RequestView, RouteAndQuery,
    },
    layer::CacheLayer,
    namespace::{InvalidNamespace, MAX_NAMESPACE_LEN, MAX_NAMESPACES, Namespace, Namespaces},
    rules::{Rule, Rules, RulesError, RulesErrorKind},
    service::CacheService,
    stats::Stats,
    status::{Bypass, CacheStatus, Miss, NoStore, Outcome, Stale, Storing},
    store::{
        Admitted, BeginFill, Context, Entry, Fence, FillOptions, Generation, InvalidationKind, Lock, Memory, MemoryBuilder,
        Put, Secret, Stamp, Store, StoreError, StoreLookup, Usage, Validity,
    },
    switch::Switch,
};
