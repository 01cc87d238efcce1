//! The master of a service, as its sentinels name it.
//!
//! Sentinels learn of a failover one after the other, some seconds apart, and the replaced master keeps its role until one of them
//! demotes it. The sentinel with the newest configuration is believed: its number (`config-epoch`) rises with each failover.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, RedisError,
    aio::MultiplexedConnection,
};
use tokio::time::{sleep, timeout};

use super::options::CONNECT_TIMEOUT;

/// How often a sentinel is asked.
const EVERY: Duration = Duration::from_millis(100);

/// How long other sentinels may take to answer once the first has.
const GRACE: Duration = Duration::from_millis(100);

/// The sentinels of a service.
pub(crate) struct Sentinels {
    clients: Box<[Client]>,
    service: String,
    /// How to sign in at the master.
    master: RedisConnectionInfo,
    /// What each has answered last; nothing if it does not answer.
    answers: Mutex<Vec<Option<Named>>>,
}

/// A master, as a sentinel names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    epoch: u64,
    host: String,
    port: u16,
}

impl Sentinels {
    pub(super) fn new(clients: Vec<Client>, service: &str, master: RedisConnectionInfo) -> Self {
        let answers = Mutex::new(vec![None; clients.len()]);
        Self { clients: clients.into(), service: service.to_owned(), master, answers }
    }

    pub(super) fn count(&self) -> usize {
        self.clients.len()
    }

    /// A client of the master. All sentinels are asked; those that do not answer at once hide nothing that others say.
    pub(super) async fn client(&self) -> Result<Client, RedisError> {
        let mut asked: FuturesUnordered<_> = self.clients.iter().map(|client| self.ask_once(client)).collect();
        let (mut named, mut error) = (None, None);
        loop {
            let next = match &named {
                None => asked.next().await,
                Some(_) => timeout(GRACE, asked.next()).await.ok().flatten(),
            };
            match next {
                Some(Ok(answer)) => named = named.max(Some(answer)),
                Some(Err(why)) => error = Some(why),
                None => break,
            }
        }
        let unknown = || RedisError::from((ErrorKind::MasterNameNotFoundBySentinel, "no sentinel names a master"));
        let Named { host, port, .. } = named.ok_or_else(|| error.unwrap_or_else(unknown))?;
        Client::open((host, port).into_connection_info()?.set_redis_settings(self.master.clone()))
    }

    async fn ask_once(&self, client: &Client) -> Result<Named, RedisError> {
        self.ask(&mut connect(client).await?).await
    }

    async fn ask(&self, connection: &mut MultiplexedConnection) -> Result<Named, RedisError> {
        type Fields = std::collections::HashMap<String, String>;
        let mut commands = redis::pipe();
        commands.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(&self.service);
        // While it fails over, the fields still have the address of the replaced master, but the number of the new configuration.
        commands.cmd("SENTINEL").arg("MASTER").arg(&self.service);
        let (address, fields): (Option<(String, u16)>, Fields) = commands.query_async(connection).await?;
        let epoch = fields.get("config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or_default();
        let unknown = || RedisError::from((ErrorKind::MasterNameNotFoundBySentinel, "the sentinel names no master"));
        let (host, port) = address.ok_or_else(unknown)?;
        Ok(Named { epoch, host, port })
    }

    /// Asks one of the sentinels again and again, and tells the address of the master that is to be believed each time.
    pub(super) async fn follow(&self, which: usize, is_at: impl Fn(&str)) {
        let mut connection = None;
        loop {
            let asking = async {
                let connection = match &mut connection {
                    Some(connection) => connection,
                    none => none.insert(connect(&self.clients[which]).await?),
                };
                self.ask(connection).await
            };
            let answer = timeout(CONNECT_TIMEOUT, asking).await.ok().and_then(Result::ok);
            if answer.is_none() {
                connection = None;
            }
            if let Some(Named { host, port, .. }) = self.learns(which, answer) {
                is_at(&format!("{host}:{port}"));
            }
            sleep(EVERY).await;
        }
    }

    /// The newest answer of all.
    fn learns(&self, which: usize, answer: Option<Named>) -> Option<Named> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers[which] = answer;
        answers.iter().flatten().max().cloned()
    }
}

async fn connect(client: &Client) -> Result<MultiplexedConnection, RedisError> {
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_TIMEOUT)).set_response_timeout(Some(CONNECT_TIMEOUT));
    let info = client.get_connection_info().clone();
    // Pushes are of no use here.
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2);
    Client::open(info.set_redis_settings(settings))?.get_multiplexed_async_connection_with_config(&config).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_sentinel_configuration_names_the_master() {
        let client = || Client::open("redis://127.0.0.1").expect("a client");
        let sentinels = Sentinels::new(vec![client(), client(), client()], "service", RedisConnectionInfo::default());
        let named = |epoch, port| Some(Named { epoch, host: "h".into(), port });
        assert_eq!(sentinels.learns(0, named(3, 1)), named(3, 1));
        assert_eq!(sentinels.learns(1, named(4, 2)), named(4, 2));
        assert_eq!(sentinels.learns(2, named(3, 1)), named(4, 2), "it has not heard of the failover yet");
        assert_eq!(sentinels.learns(1, None), named(3, 1));
        sentinels.learns(0, None);
        assert_eq!(sentinels.learns(2, None), None);
    }
}
