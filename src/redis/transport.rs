//! Streams to a server: TCP, TLS or a Unix socket, and the sign-in over them.

use std::{fmt, sync::Arc};

use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, RedisResult,
    io::tcp::socket2::SockRef,
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{
    error::RedisConnectError,
    network::Network,
    pipeline::{Pipeline, PushListener},
};
use crate::tls::{Certificates, Verification, client_config};

#[cfg(unix)]
use tokio::net::UnixStream;

/// A server: its address, the sign-in and the configuration of TLS.
#[derive(Clone)]
pub(crate) struct Endpoint {
    info: ConnectionInfo,
    /// `None` without TLS.
    tls: Option<Arc<ClientConfig>>,
    /// Replaces TCP, TLS and Unix sockets in simulations.
    network: Option<Arc<dyn Network>>,
}

impl Endpoint {
    /// Reads a URL: `redis://[user:password@]host[:port][/db]`, `rediss://` for TLS, `unix:///path`.
    pub(super) fn from_url(url: &str, certificates: &Certificates) -> Result<Self, RedisConnectError> {
        // The URL is not shown, since it may hold a password.
        let info = url.into_connection_info().map_err(|error| {
            RedisConnectError::settled(format!(
                "invalid Redis URL ({error}): expected redis://[user:password@]host[:port][/db], rediss:// for TLS, or unix:///path"
            ))
        })?;
        Self::new(info, certificates)
    }

    /// Takes the address, the database and the sign-in of a client.
    pub(super) fn from_client(client: &Client, certificates: &Certificates) -> Result<Self, RedisConnectError> {
        let info = client.get_connection_info().clone();
        if let ConnectionAddr::TcpTls { tls_params: Some(_), .. } = info.addr() {
            return Err(RedisConnectError::settled(
                "the certificates of a redis::Client cannot be read: give them to root_certificate and client_certificate instead"
                    .into(),
            ));
        }
        Self::new(info, certificates)
    }

    /// Creates an endpoint without TLS.
    pub(super) fn plain(host: String, port: u16, sign_in: RedisConnectionInfo) -> Result<Self, RedisConnectError> {
        Self::new((host, port).into_connection_info()?.set_redis_settings(sign_in), &Certificates::default())
    }

    fn new(info: ConnectionInfo, certificates: &Certificates) -> Result<Self, RedisConnectError> {
        let tls = match info.addr() {
            ConnectionAddr::TcpTls { insecure, .. } => {
                let verification = if *insecure { Verification::None } else { Verification::Full };
                Some(Arc::new(client_config(certificates, verification).map_err(RedisConnectError::settled)?))
            }
            _ if certificates.is_empty() => None,
            address => {
                return Err(RedisConnectError::settled(format!("certificates were given for {address}: expected rediss://")));
            }
        };
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        Ok(Self { info: info.set_redis_settings(settings), tls, network: None })
    }

    /// Returns this endpoint with a replaced network.
    pub(super) fn over(self, network: Option<Arc<dyn Network>>) -> Self {
        Self { network, ..self }
    }

    /// Returns this endpoint with RESP2, which has no pushes.
    pub(super) fn without_pushes(mut self) -> Self {
        let settings = self.info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2);
        self.info = self.info.set_redis_settings(settings);
        self
    }

    /// Returns another node of the same cluster.
    pub(super) fn at(&self, host: &str, port: u16) -> Self {
        let address = match self.info.addr() {
            ConnectionAddr::TcpTls { insecure, .. } => {
                ConnectionAddr::TcpTls { host: host.into(), port, insecure: *insecure, tls_params: None }
            }
            _ => ConnectionAddr::Tcp(host.into(), port),
        };
        Self { info: self.info.clone().set_addr(address), tls: self.tls.clone(), network: self.network.clone() }
    }

    /// Returns the host, unless the address is a path.
    pub(super) fn host(&self) -> Option<&str> {
        match self.info.addr() {
            ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => Some(host),
            _ => None,
        }
    }

    pub(super) fn database(&self) -> i64 {
        self.info.redis_settings().db()
    }

    pub(super) fn password(&self) -> Option<&str> {
        self.info.redis_settings().password()
    }

    /// Connects and signs in. `listener` receives pushes and the end of the connection.
    pub(super) async fn connect(&self, listener: Option<PushListener>) -> RedisResult<Pipeline> {
        let pipeline = match (self.info.addr(), &self.tls) {
            (address, _) if let Some(network) = &self.network => drive(network.connect(address.to_string()).await?, listener),
            (ConnectionAddr::Tcp(host, port), _) => drive(self.tcp(host, *port).await?, listener),
            (ConnectionAddr::TcpTls { host, port, .. }, Some(tls)) => {
                let name = ServerName::try_from(host.clone()).map_err(std::io::Error::other)?;
                let stream = self.tcp(host, *port).await?;
                drive(TlsConnector::from(tls.clone()).connect(name, stream).await?, listener)
            }
            #[cfg(unix)]
            (ConnectionAddr::Unix(path), _) => drive(UnixStream::connect(path).await?, listener),
            (address, _) => return Err(std::io::Error::other(format!("unsupported address {address}")).into()),
        };
        sign_in(&pipeline, self.info.redis_settings()).await?;
        Ok(pipeline)
    }

    async fn tcp(&self, host: &str, port: u16) -> RedisResult<TcpStream> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        let settings = self.info.tcp_settings();
        if let Some(keepalive) = settings.keepalive() {
            SockRef::from(&stream).set_tcp_keepalive(keepalive)?;
        }
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        if let Some(timeout) = settings.user_timeout() {
            SockRef::from(&stream).set_tcp_user_timeout(Some(timeout))?;
        }
        Ok(stream)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info.addr().fmt(f)
    }
}

fn drive(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, listener: Option<PushListener>) -> Pipeline {
    let (pipeline, driver) = Pipeline::new(stream, listener);
    tokio::spawn(driver);
    pipeline
}

/// Selects the protocol, the user and the database, and names this client.
async fn sign_in(pipeline: &Pipeline, settings: &RedisConnectionInfo) -> RedisResult<()> {
    let mut commands = redis::pipe();
    if settings.protocol() == ProtocolVersion::RESP3 {
        let hello = commands.cmd("HELLO").arg(3);
        if let Some(password) = settings.password() {
            hello.arg("AUTH").arg(settings.username().unwrap_or("default")).arg(password);
        }
    } else if let Some(password) = settings.password() {
        commands.cmd("AUTH").arg(settings.username()).arg(password);
    }
    if settings.db() != 0 {
        commands.cmd("SELECT").arg(settings.db());
    }
    let required = commands.len();
    if !settings.skip_set_lib_name() {
        let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        commands.cmd("CLIENT").arg("SETINFO").arg("LIB-NAME").arg(settings.lib_name().unwrap_or(name));
        commands.cmd("CLIENT").arg("SETINFO").arg("LIB-VER").arg(settings.lib_ver().unwrap_or(version));
    }
    let answers = pipeline.send_many(commands.get_packed_pipeline(), commands.len()).await?;
    // The name is for operators only. Old servers and users without the permission refuse it.
    answers.into_iter().take(required).try_for_each(|answer| answer.extract_error().map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_nodes_keep_the_sign_in_and_tls() {
        let none = Certificates::default();
        let seed = Endpoint::from_url("rediss://app:secret@a:1/2#insecure", &none).expect("a URL");
        let node = seed.at("b", 7);
        assert_eq!((node.to_string(), node.host(), node.database()), ("b:7".to_owned(), Some("b"), 2));
        assert_eq!((node.password(), node.info.redis_settings().username()), (Some("secret"), Some("app")));
        assert!(matches!(node.info.addr(), ConnectionAddr::TcpTls { insecure: true, .. }));
        assert!(Arc::ptr_eq(seed.tls.as_ref().expect("TLS"), node.tls.as_ref().expect("TLS")));
        assert!(Endpoint::from_url("redis://a:1", &none).expect("a URL").at("b", 7).tls.is_none());
    }

    #[test]
    fn sentinels_use_resp2_and_all_other_servers_resp3() {
        let endpoint = Endpoint::from_url("redis://a", &Certificates::default()).expect("a URL");
        assert_eq!(endpoint.info.redis_settings().protocol(), ProtocolVersion::RESP3);
        assert_eq!(endpoint.without_pushes().info.redis_settings().protocol(), ProtocolVersion::RESP2);
    }

    #[test]
    fn certificates_without_tls_are_refused() {
        let certificates = Certificates { roots: Some(b"PEM".to_vec()), client: None };
        let error = Endpoint::from_url("redis://a", &certificates).err().expect("refused").to_string();
        assert!(error.contains("expected rediss://"), "{error}");
    }
}
