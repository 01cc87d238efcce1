//! Redis over TLS: certificates, pushes, and connections that break.

use std::time::Duration;

use crate::{
    common::{
        redis::{Options, Server, free_port, until},
        *,
    },
    setup::{patient, read, rule},
};
use tempfile::TempDir;
use tower::Layer;
use tower_response_cache::{CacheLayer, Redis, Store, redis::RedisBuilder};

/// A server with a self-signed certificate, which is also the authority for the certificates of clients.
struct TlsServer {
    server: Server,
    port: u16,
    certificate: String,
    key: String,
    _dir: TempDir,
}

impl TlsServer {
    async fn start(options: Options) -> Self {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (certificate, key) = (own.cert.pem(), own.signing_key.serialize_pem());
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let port = free_port();
        let options = options
            .line(format!("tls-port {port}"))
            .line(format!("tls-cert-file {}", file("cert.pem", &certificate)))
            .line(format!("tls-key-file {}", file("key.pem", &key)))
            .line(format!("tls-ca-cert-file {}", file("ca.pem", &certificate)));
        Self { server: options.start().await, port, certificate, key, _dir: dir }
    }

    fn url(&self) -> String {
        format!("rediss://localhost:{}", self.port)
    }

    fn builder(&self) -> RedisBuilder {
        patient(Redis::builder(&self.url())).root_certificate(self.certificate.clone())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_connections_receive_pushes_and_survive_being_killed() {
    let tls = TlsServer::start(Options::default().line("tls-auth-clients no")).await;
    let store = tls.builder().memory(8 << 20).build().await.unwrap();
    let writer = patient(Redis::builder(&tls.server.url())).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(rule())).layer(inner);
    for _ in 0..3 {
        until("hits are served from memory under a lease", async || read(&cache, "/t/x").await.1 && store.is_leased()).await;
        let before = read(&cache, "/t/x").await.0;
        // A leased entry ends by a push alone: heartbeats extend the lease.
        writer.invalidate(["t:x"]).await.unwrap();
        until("the push arrives", async || read(&cache, "/t/x").await.0 != before).await;
        tls.server.client_kill_all().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_bodies_pass_over_tls_unchanged() {
    let tls = TlsServer::start(Options::default().line("tls-auth-clients no")).await;
    let (reader, writer) = (tls.builder().build().await.unwrap(), tls.builder().build().await.unwrap());
    let body = "0123456789abcdef".repeat(40_000);
    let (inner, _) = counting(move |_, _| ok(body.clone()));
    let [one, other] = [writer, reader].map(|store| CacheLayer::new(store).rules(one_rule(rule())).layer(inner.clone()));
    let (sent, _) = read(&one, "/t/x").await;
    for _ in 0..3 {
        assert!(read(&other, "/t/x").await == (sent.clone(), true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn server_may_require_a_client_certificate() {
    let tls = TlsServer::start(Options::default().line("tls-auth-clients yes")).await;
    assert!(tls.builder().require_connection().build().await.is_err(), "no certificate");
    let signed_in = || tls.builder().client_certificate(tls.certificate.clone(), tls.key.clone()).require_connection();
    assert!(signed_in().build().await.unwrap().is_reachable());
    let error = signed_in().client_certificate("", "no key").build().await.unwrap_err().to_string();
    assert!(error.contains("invalid client key"), "{error}");
    let error = tls.builder().root_certificate("no certificate").build().await.unwrap_err().to_string();
    assert!(error.contains("invalid root certificate"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn insecure_url_accepts_any_certificate() {
    let tls = TlsServer::start(Options::default().line("tls-auth-clients no")).await;
    let build = |url: String| Redis::builder(&url).connections(2).command_timeout(Duration::from_secs(2)).require_connection();
    assert!(build(tls.url()).build().await.is_err());
    assert!(build(format!("{}/#insecure", tls.url())).build().await.unwrap().is_reachable());
}

#[tokio::test(flavor = "multi_thread")]
async fn client_with_unreadable_certificates_is_refused() {
    let tls = TlsServer::start(Options::default().line("tls-auth-clients no")).await;
    let _ = ::rustls::crypto::ring::default_provider().install_default();
    let certificates = ::redis::TlsCertificates { client_tls: None, root_cert: Some(tls.certificate.clone().into_bytes()) };
    let client = ::redis::Client::build_with_tls(tls.url(), certificates).unwrap();
    let error = RedisBuilder::client(client).build().await.unwrap_err().to_string();
    assert!(error.contains("root_certificate and client_certificate"), "{error}");
    let client = ::redis::Client::open(tls.url()).unwrap();
    let builder = patient(RedisBuilder::client(client)).root_certificate(tls.certificate.clone()).require_connection();
    assert!(builder.build().await.unwrap().is_reachable());
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_both_tls_versions_are_reached() {
    for version in ["TLSv1.2", "TLSv1.3"] {
        let tls =
            TlsServer::start(Options::default().line("tls-auth-clients no").line(format!("tls-protocols {version}"))).await;
        let builder = patient(Redis::builder(&tls.url())).root_certificate(tls.certificate.clone()).require_connection();
        assert!(builder.build().await.expect(version).is_reachable());
    }
}
