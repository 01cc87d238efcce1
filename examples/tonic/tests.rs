//! The layers around a tonic server: gRPC calls pass with their trailers and can invalidate namespaces.

use std::time::Duration;

use tokio::net::TcpListener;
use tonic::{
    Code,
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_client::HealthClient},
    server::health_reporter,
};
use tower_response_cache::{Memory, ResponseCache, Rule, Rules, status::Bypass};

const CHECK: &str = "/grpc.health.v1.Health/Check";

async fn client(cache: &ResponseCache) -> HealthClient<Channel> {
    let (reporter, service) = health_reporter();
    reporter.set_service_status("known", ServingStatus::Serving).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let server = Server::builder().layer(cache.layer()).add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    HealthClient::new(endpoint.connect().await.expect("a connection"))
}

fn check(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}

#[tokio::test]
async fn grpc_calls_pass_uncached_with_their_status_in_the_trailers() {
    let rule = Rule::ttl(Duration::from_secs(60)).invalidates_nothing();
    let cache = ResponseCache::new(Memory::default()).route(CHECK, rule);
    let mut client = client(&cache).await;
    for _ in 0..2 {
        let known = client.check(check("known")).await.expect("a response").into_inner();
        assert_eq!(known.status, ServingStatus::Serving as i32);
        let unknown = client.check(check("unknown")).await.expect_err("an error status");
        assert_eq!(unknown.code(), Code::NotFound);
    }
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.stored, stats.invalidations), (0, 0, 0));
    assert!(stats.bypasses.contains(&(Bypass::Method, 4)), "{stats}");
}

#[tokio::test]
async fn a_grpc_call_invalidates_the_namespaces_of_its_rule() {
    let cache = ResponseCache::new(Memory::default()).route(CHECK, Rule::uncached().invalidates("health"));
    let mut client = client(&cache).await;
    client.check(check("known")).await.expect("a response");
    assert_eq!(cache.stats().invalidations, 1);
}

#[tokio::test]
async fn the_first_message_of_a_grpc_stream_is_not_delayed() {
    let rules = Rules::new().fallback(Rule::ttl(Duration::from_secs(60)));
    let cache = ResponseCache::new(Memory::default()).rules(rules);
    let mut client = client(&cache).await;
    // The stream sends the current status and does not end.
    let mut watch = client.watch(check("known")).await.expect("a stream").into_inner();
    let first = watch.message().await.expect("no error").expect("a first message");
    assert_eq!(first.status, ServingStatus::Serving as i32);
}
