// The first definition of a link counts: the README's links to the pages in `docs` lead to the modules of the guide here.
//! [layer order]: crate::guide::layer_order
//! [guarantees]: crate::guide::guarantees
//! [Redis]: crate::guide::redis
//! [scale]: crate::guide::scale
//! [operations]: crate::guide::operations
//! [HTTP]: crate::guide::http
//! [keys]: crate::guide::keys
//! [PostgreSQL]: crate::guide::postgres
//! [RPC]: crate::guide::rpc
//! [GraphQL]: crate::guide::graphql
//! [CDN]: crate::guide::cdn
//! [observability]: crate::guide::observability
//! [dashboard]: crate::guide::dashboard
//! [how it looks]: crate::guide::dashboard
//! [audit]: crate::guide::audit
//! [warming]: crate::guide::warming
//! [testing]: crate::guide::testing
//! [performance]: crate::guide::performance
//! [comparison]: crate::guide::comparison
//!
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod guide;

// The modules stand in layers, the highest first. A module imports from its own layer's leaves and from lower layers only;
// `tests/architecture.rs` checks that.

// Layer 7: the services, and the path of a request through them.
mod action;
mod audit;
pub mod explain;
mod fast_path;
mod finish;
mod follow;
mod future;
mod handle;
#[cfg(feature = "dashboard")]
#[cfg_attr(docsrs, doc(cfg(feature = "dashboard")))]
pub mod inspector;
pub mod invalidate;
mod layer;
pub mod lint;
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub mod postgres;
#[cfg(all(debug_assertions, feature = "axum", not(fuzzing)))]
mod precompiled;
mod refresh;
mod service;
mod shadow;
mod slow_path;
pub mod warm;

// Layer 6: one call of the inner service and its result.
mod fill;

// Layer 5: responses from entries, and the targets that each thread remembers.
mod respond;
mod target_cache;

// Layer 4: lookups, the content of requests, and fills shared by concurrent requests.
mod body;
mod lookup;
pub mod request_body;
mod single_flight;
mod state;

// Layer 3: rules, and the Redis store.
#[cfg(feature = "redis")]
mod codec;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub mod redis;
pub mod rules;

// Layer 2: the protocol between the layers and a store, and the memory store; cache tags for CDNs.
pub mod cdn;
mod extensions;
pub mod message;
mod store;

// Layer 1: keys, namespaces, entries, routes, statistics.
mod entry;
mod hottest;
pub mod key;
pub mod namespace;
mod route;
pub mod stats;
pub mod status;

// Layer 0: leaves.
mod budget;
mod clock;
mod compare;
mod error;
#[cfg(feature = "graphql")]
mod graphql;
mod histogram;
mod percent;
mod ready;
mod rpc;
mod secret;
pub mod semantics;
mod switch;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod tls;
mod watched;

#[cfg(all(any(test, fuzzing), feature = "redis"))]
mod fuzz;

/// The store of one process.
pub mod memory {
    pub use crate::store::memory::{Memory, MemoryBuilder};
}

#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use self::redis::Redis;
pub use self::{
    body::CacheBody,
    cdn::CacheTags,
    clock::Clock,
    error::BoxError,
    extensions::{CachePolicy, Invalidations},
    future::ResponseFuture,
    handle::{
        ResponseCache,
        any_store::AnyStore,
        matching::{Match, NoMatch},
    },
    invalidate::{InvalidateLayer, InvalidateService},
    key::{Identity, Key, KeyExtractor, RouteAndQuery},
    layer::CacheLayer,
    memory::Memory,
    namespace::{InvalidNamespace, Namespace},
    request_body::RequestBodyLayer,
    rules::{Rule, Rules, RulesError},
    service::CacheService,
    stats::Stats,
    status::{CacheStatus, Outcome},
    store::{Store, error::StoreError},
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
    #[cfg(all(any(test, fuzzing), feature = "graphql"))]
    pub use crate::graphql::fuzz_graphql;
    #[cfg(all(any(test, fuzzing), feature = "redis"))]
    pub use crate::redis::resp::fuzz_replies;
    #[cfg(feature = "redis")]
    pub use crate::redis::{
        builder::over_network,
        network::{Connecting, Network, Stream},
    };
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
