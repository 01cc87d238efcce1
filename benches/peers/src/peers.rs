//! Each peer as its own documentation sets it up to keep responses to `GET` in memory for a while.

use std::time::Duration;

use axum::body::Body as AxumBody;
use bytes::Bytes;
use hitbox::predicate::PredicateExt;
use hitbox_backend::format::Format;
use http::{Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::Empty;
use tower_layer::Layer;
use tower_service::Service;

use crate::inner::Inner;

/// A minute, which is what responses allow.
pub const MINUTE: Duration = Duration::from_secs(60);

/// axum-response-cache as its first example has it, without a bound on what it keeps.
pub fn axum_response_cache(
    inner: Inner<AxumBody>,
    ttl: Duration,
) -> impl Service<Request<AxumBody>, Response = Response<AxumBody>> + Clone + Send + 'static {
    axum_response_cache::CacheLayer::with_lifespan(ttl).layer(inner)
}

/// axum-response-cache with the store that its documentation names to bound it.
pub fn axum_response_cache_bounded(
    inner: Inner<AxumBody>,
    entries: usize,
    ttl: Duration,
) -> impl Service<Request<AxumBody>, Response = Response<AxumBody>> + Clone + Send + 'static {
    axum_response_cache::CacheLayer::with(cached::stores::LruTtlCache::with_size_and_ttl(entries, ttl)).layer(inner)
}

/// tower-http-cache with its store in memory; all else is its default.
pub fn tower_http_cache(
    inner: Inner,
    entries: u64,
    ttl: Duration,
) -> impl Service<Request<Empty<Bytes>>, Response = Response<impl Body<Data = Bytes>>> + Clone + Send + 'static {
    use tower_http_cache::prelude::{CacheLayer, InMemoryBackend};
    CacheLayer::builder(InMemoryBackend::new(entries)).ttl(ttl).build().layer(inner)
}

/// hitbox as hitbox-http sets it up, over hitbox-moka: the key is the method, the item and the two parameters of the query.
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

/// http-cache-tower-server over http-cache's moka manager, with the keys that hold the query.
pub fn http_cache_tower_server(
    inner: Inner,
    entries: u64,
) -> impl Service<Request<Empty<Bytes>>, Response = Response<impl Body<Data = Bytes>>> + Clone + Send + 'static {
    use http_cache_tower_server::{QueryKeyer, ServerCacheLayer};
    let manager = http_cache::MokaManager::new(moka::future::Cache::new(entries));
    ServerCacheLayer::with_keyer(manager, QueryKeyer).layer(inner)
}
