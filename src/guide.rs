//! Guide pages: how to use the crate, its guarantees and their limits. Text only.

// The pages describe all features. Without a feature, the links to its items have no target.
#![cfg_attr(not(feature = "full"), allow(rustdoc::broken_intra_doc_links))]

/// Where the two layers stand among authentication, sessions, compression, CORS, timeouts and tracing.
pub mod layer_order {
    #![doc = include_str!("../docs/layer_order.md")]
}

/// Guarantees, limits and default bounds.
pub mod guarantees {
    #![doc = include_str!("../docs/guarantees.md")]
}

/// One cache for several processes.
pub mod redis {
    #![doc = include_str!("../docs/redis.md")]
}

/// Many processes, several regions, and what breaks first.
pub mod scale {
    #![doc = include_str!("../docs/scale.md")]
}

/// For operators: rules at run time, and access, memory, alerts and a runbook for Redis.
pub mod operations {
    #![doc = include_str!("../docs/operations.md")]
}

/// Calls by gRPC, gRPC-Web and Connect.
pub mod rpc {
    #![doc = include_str!("../docs/rpc.md")]
}

/// Cache tags for a CDN in front of the application, and its purges.
pub mod cdn {
    #![doc = include_str!("../docs/cdn.md")]
}

/// Writes that bypass the application: the changes of rows in PostgreSQL.
pub mod postgres {
    #![doc = include_str!("../docs/postgres.md")]
}

/// Requests that are answered, responses that are stored, and RFC 9111.
pub mod http {
    #![doc = include_str!("../docs/http.md")]
}

/// Keys, credentials, identities and namespaces.
pub mod keys {
    #![doc = include_str!("../docs/keys.md")]
}

/// GraphQL: queries in the cache, mutations as writes, and persisted queries.
pub mod graphql {
    #![doc = include_str!("../docs/graphql.md")]
}

/// Status, statistics, metrics, logs and warnings.
pub mod observability {
    #![doc = include_str!("../docs/observability.md")]
}

/// A page for operators, the same figures as JSON, and purges by HTTP.
pub mod dashboard {
    #![doc = include_str!("../docs/dashboard.md")]
}

/// Audits of hits, shadow mode, and the steps to introduce the cache to a running service.
pub mod audit {
    #![doc = include_str!("../docs/audit.md")]
}

/// Responses that are stored before clients ask for them.
pub mod warming {
    #![doc = include_str!("../docs/warming.md")]
}

/// Tests of an application with the cache: clocks, assertions, off switch.
pub mod testing {
    #![doc = include_str!("../docs/testing.md")]
}

/// Measurements and the commands that repeat them.
pub mod performance {
    #![doc = include_str!("../docs/performance.md")]
}

/// Other caches, and when to choose them.
pub mod comparison {
    #![doc = include_str!("../docs/comparison.md")]
}
