//! Each peer, configured as in its own documentation for responses to `GET` in memory.

use std::time::Duration;

use axum::body::Body as AxumBody;
use bytes::Bytes;
use hitbox::predicate::PredicateExt;
use hitbox_backend::format::Format;
use http::{Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::Empty;
use tower::{Layer, Service};

use crate::inner::Inner;

/// The lifetime that the responses allow: one minute.
pub const MINUTE: Duration = Duration::from_secs(60);

/// Creates axum-response-cache as in its first example, without a limit of entries.
pub fn axum_response_cache(
    inner: Inner<AxumBody>,
    ttl: Duration,
) -> impl Service<Request<AxumBody>, Response = Response<AxumBody>> + Clone + Send + 'static {
    axum_response_cache::CacheLayer::with_lifespan(ttl).layer(inner)
}

/// Creates axum-response-cache with the bounded store named in its documentation.
pub fn axum_response_cache_bounded(
    inner: Inner<AxumBody>,
    entries: usize,
    ttl: Duration,
) -> impl Service<Request<AxumBody>, Response = Response<AxumBody>> + Clone + Send + 'static {
    axum_response_cache::CacheLayer::with(cached::stores::LruTtlCache::with_size_and_ttl(entries, ttl)).layer(inner)
}

/// Creates tower-http-cache with its store in memory and its defaults.
pub fn tower_http_cache(
    inner: Inner,
    entries: u64,
    ttl: Duration,
) -> impl Service<Request<Empty<Bytes>>, Response = Response<impl Body<Data = Bytes>>> + Clone + Send + 'static {
    use tower_http_cache::prelude::{CacheLayer, InMemoryBackend};
    CacheLayer::builder(InMemoryBackend::new(entries)).ttl(ttl).build().layer(inner)
}

/// Creates hitbox as hitbox-http shows it, over hitbox-moka. The key consists of method, item and the two query parameters.
pub fn hitbox<F>(
    inner: Inner,
    entries: u64,
    ttl: Duration,
    format: F,
) -> impl Service<Request<Empty<Bytes>>, Response = Response<impl Body<Data = Bytes>>> + Clone + Send + 'static
where
    F: Format + Clone + Send + Sync + 'static,
{
    use hitbox_http::{
        extractors::{Method, path::PathExtractor, query::QueryExtractor},
        predicates::{
            header::{Header, Operation},
            response,
        },
    };
    let config = hitbox::Config::builder()
        .request_predicate(Header::new(Operation::Contains(header::CACHE_CONTROL, "no-cache".to_owned())).not())
        .response_predicate(response::StatusCode::new(StatusCode::OK))
        .extractor(Method::new().path("/items/{id}").query("page".to_owned()).query("sort".to_owned()))
        .policy(hitbox::policy::PolicyConfig::builder().ttl(ttl).build())
        .build();
    let backend = hitbox_moka::MokaBackend::builder().max_entries(entries).value_format(format).build();
    hitbox_tower::Cache::builder().backend(backend).config(config).build().layer(inner)
}

/// Creates http-cache-tower-server over http-cache's moka manager, with keys that contain the query.
pub fn http_cache_tower_server(
    inner: Inner,
    entries: u64,
) -> impl Service<Request<Empty<Bytes>>, Response = Response<impl Body<Data = Bytes>>> + Clone + Send + 'static {
    use http_cache_tower_server::{QueryKeyer, ServerCacheLayer};
    let manager = http_cache::MokaManager::new(moka::future::Cache::new(entries));
    ServerCacheLayer::with_keyer(manager, QueryKeyer).layer(inner)
}
