//! Settings, requests and results that the tests of the Redis store share.

use std::{fmt::Debug, time::Duration};

use crate::common::{redis::Server, *};
use http::{Request, Response, StatusCode};
use http_body::Body;
use tower::Service;
use tower_response_cache::{
    BoxError, Outcome, Redis, Rule,
    invalidate::Invalidation,
    redis::{Coherence, RedisBuilder},
    status::StatusBody,
};

/// Longer than any wait under test: a test that would wait for ever fails.
const TOO_LONG: Duration = Duration::from_secs(60);

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// Fails if a future has not ended after a minute.
pub(crate) async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(TOO_LONG, work).await.unwrap_or_else(|_| panic!("{what} never ends"))
}

/// Sets limits that a busy machine keeps.
pub(crate) fn patient(builder: RedisBuilder) -> RedisBuilder {
    builder
        .command_timeout(Duration::from_secs(2))
        .heartbeat(Duration::from_millis(20))
        .max_round_trip(Duration::from_millis(500))
}

/// Returns a builder with [`patient`] limits for a server.
pub(crate) fn builder(server: &Server) -> RedisBuilder {
    patient(Redis::builder(&server.url()))
}

/// Builds a store with still longer limits, with or without memory in front of Redis.
pub(crate) async fn store(server: &Server, prefix: &str, coherence: Coherence, memory: bool) -> Redis {
    let builder = Redis::builder(&server.url()).prefix(prefix).coherence(coherence).command_timeout(Duration::from_secs(5));
    let builder = builder.heartbeat(Duration::from_millis(50)).max_round_trip(Duration::from_secs(2));
    if memory { builder.memory(8 << 20).build().await } else { builder.build().await }.expect("a server is there")
}

/// Returns a rule of one minute, with the namespace `t:{table}`.
pub(crate) fn rule() -> Rule {
    Rule::ttl(MINUTE).namespace("t:{table}")
}

/// Sends a GET, which succeeds. Returns the body of the response, and whether it was a hit.
pub(crate) async fn read<S, B>(cache: &S, target: &str) -> (String, bool)
where
    S: Service<Request<Plain>, Response = Response<B>, Error: Debug> + Clone,
    B: StatusBody + Body<Error: Into<BoxError>>,
{
    let response = send(cache, get(target)).await;
    assert_eq!(response.status(), StatusCode::OK);
    let hit = outcome(&response) == Outcome::Hit;
    (text(response).await, hit)
}

/// Returns the result of the invalidation, as the response of a write reports it.
pub(crate) fn invalidation<B>(response: &Response<B>) -> Option<Invalidation> {
    response.extensions().get().copied()
}
