//! Sign-in and TLS.

use tokio::io::AsyncWriteExt;
use tower_response_cache::postgres::{PostgresError, PostgresErrorKind, PostgresListener};

use crate::{App, ORDERS, Server};

#[tokio::test]
async fn long_messages_before_the_sign_in_are_refused() {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("postgres://app@{}/app?sslmode=disable", server.local_addr().expect("an address"));
    // A request for a password of the longest length that is accepted, and others.
    for (length, expected) in [
        (30_000, "invalid message of the server"),
        (30_001, "a message of 30001 bytes before the sign-in has ended: expected at most 30000"),
        (i32::MAX, "a message of 2147483647 bytes before the sign-in"),
        (-1, "invalid message of the server"),
    ] {
        let answer = async {
            let (mut client, _) = server.accept().await.expect("a client");
            client.write_all(&[&b"R"[..], &length.to_be_bytes(), &[0xff; 30_000]].concat()).await.expect("a client that reads");
            client
        };
        let (error, _client) = tokio::join!(start(&url), answer);
        let error = error.expect_err("an error");
        assert_eq!(error.kind(), PostgresErrorKind::Protocol, "{error}");
        assert!(error.to_string().contains(expected), "{length}: {error}");
    }
}

async fn start(url: &str) -> Result<(), PostgresError> {
    let listener = PostgresListener::new(url).slot("cache").table("orders", ["order:{id}"]);
    listener.start(&App::new().cache).await?.stop().await;
    Ok(())
}

#[tokio::test]
async fn passwords_and_certificates_are_checked() {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let (certificate, key) = (own.cert.pem(), own.signing_key.serialize_pem());
    let server = Server::start();
    server.sql(ORDERS);
    server.sql("CREATE PUBLICATION response_cache FOR TABLE orders; SET password_encryption = 'md5'");
    server.sql("SET password_encryption = 'md5'; CREATE ROLE old LOGIN REPLICATION PASSWORD 'sEcReT'");
    let rules = "host all postgres all trust\nhostssl all replicator all scram-sha-256\nhost all old all md5\nhost all plain all password\n";
    server.sql("CREATE ROLE plain LOGIN REPLICATION PASSWORD 'sEcReT'");
    server.configure(rules, &[("server.crt", &certificate), ("server.key", &key)]);
    server.sql("ALTER SYSTEM SET ssl = on");
    server.sql("SELECT pg_reload_conf()");

    let dir = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let (trusted, strange) = (file("trusted.pem", &certificate), file("strange.pem", &other.cert.pem()));
    let url = |role: &str, host: &str, parameters: &str| server.url(role).replace("127.0.0.1", host) + parameters;
    let encrypted = |host: &str, parameters: &str| url("replicator:sEcReT", host, parameters);
    // The reload takes a moment.
    while start(&encrypted("localhost", "?sslmode=require")).await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    for accepted in [
        encrypted("localhost", ""),
        encrypted("localhost", &format!("?sslmode=verify-full&sslrootcert={trusted}")),
        encrypted("127.0.0.1", &format!("?sslmode=verify-ca&sslrootcert={trusted}")),
        url("old:sEcReT", "127.0.0.1", "?sslmode=disable"),
        url("plain:sEcReT", "127.0.0.1", "?sslmode=disable"),
    ] {
        start(&accepted).await.unwrap_or_else(|error| panic!("{accepted}: {error}"));
    }
    use PostgresErrorKind::{Connection, SignIn};
    for (refused, kind) in [
        (encrypted("127.0.0.1", &format!("?sslmode=verify-full&sslrootcert={trusted}")), Connection),
        (encrypted("localhost", &format!("?sslmode=verify-ca&sslrootcert={strange}")), Connection),
        (encrypted("localhost", &format!("?sslmode=require&sslrootcert={strange}")), Connection),
        (encrypted("localhost", "?sslmode=verify-full"), Connection),
        (encrypted("localhost", "?sslmode=disable"), SignIn),
        (url("replicator:wrong", "localhost", ""), SignIn),
        (url("replicator", "localhost", ""), SignIn),
    ] {
        let error = start(&refused).await.expect_err(&refused);
        assert_eq!(error.kind(), kind, "{refused}: {error}");
        assert!(!format!("{error} {error:?}").contains("sEcReT"), "{error:?}");
    }
}
