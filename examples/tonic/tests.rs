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
use tower_response_cache::{CacheLayer, InvalidateLayer, Memory, Rule, Rules, Store, status::Bypass};

const CHECK: &str = "/grpc.health.v1.Health/Check";

async fn client(store: &Memory, rules: Rules) -> HealthClient<Channel> {
    let (reporter, service) = health_reporter();
    reporter.set_service_status("known", ServingStatus::Serving).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let server = Server::builder()
        .layer(CacheLayer::new(store.clone()).rules(rules.clone()))
        .layer(InvalidateLayer::new(store.clone()).rules(rules))
        .add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    HealthClient::new(endpoint.connect().await.expect("a connection"))
}

fn check(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}

#[tokio::test]
async fn grpc_calls_pass_uncached_with_their_status_in_the_trailers() {
    let store = Memory::default();
    let rules = Rules::new().route(CHECK, Rule::ttl(Duration::from_secs(60)).invalidates_nothing());
    let mut client = client(&store, rules).await;
    for _ in 0..2 {
        let known = client.check(check("known")).await.expect("a response").into_inner();
        assert_eq!(known.status, ServingStatus::Serving as i32);
        let unknown = client.check(check("unknown")).await.expect_err("an error status");
        assert_eq!(unknown.code(), Code::NotFound);
    }
    let stats = store.stats();
    assert_eq!((stats.hits, stats.stored, stats.bumps), (0, 0, 0));
    assert!(stats.bypasses.contains(&(Bypass::Method, 4)), "{stats}");
}

#[tokio::test]
async fn a_grpc_call_invalidates_the_namespaces_of_its_rule() {
    let store = Memory::default();
    let mut client = client(&store, Rules::new().route(CHECK, Rule::uncached().invalidates("health"))).await;
    client.check(check("known")).await.expect("a response");
    assert_eq!(store.stats().bumps, 1);
}

#[tokio::test]
async fn the_first_message_of_a_grpc_stream_is_not_delayed() {
    let store = Memory::default();
    let mut client = client(&store, Rules::new().fallback(Rule::ttl(Duration::from_secs(60)))).await;
    // The stream sends the current status and does not end.
    let mut watch = client.watch(check("known")).await.expect("a stream").into_inner();
    let first = watch.message().await.expect("no error").expect("a first message");
    assert_eq!(first.status, ServingStatus::Serving as i32);
}
