//! The master of a service, as its sentinels name it.
//!
//! Sentinels learn of a failover one after another, some seconds apart. The replaced master keeps its role until one of them demotes it.
//! The sentinel with the newest configuration counts: its number (`config-epoch`) rises with each failover.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::{ErrorKind, RedisConnectionInfo, RedisError, Value, from_redis_value};
use tokio::time::{sleep, timeout};

use super::{error::RedisConnectError, options::CONNECT_TIMEOUT, pipeline::Pipeline, transport::Endpoint};

/// The interval at which a sentinel is asked.
const QUERY_INTERVAL: Duration = Duration::from_millis(100);

/// The longest wait for other sentinels after the first answer.
const GRACE: Duration = Duration::from_millis(100);

/// The sentinels of a service.
pub(crate) struct Sentinels {
    endpoints: Box<[Endpoint]>,
    service: String,
    /// The sign-in at the master.
    master: RedisConnectionInfo,
    /// The last answer of each sentinel. `None` if it does not answer.
    answers: Mutex<Vec<Option<NamedMaster>>>,
}

/// A master as a sentinel names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct NamedMaster {
    epoch: u64,
    host: String,
    port: u16,
}

impl Sentinels {
    pub(super) fn new(endpoints: Vec<Endpoint>, service: &str, master: RedisConnectionInfo) -> Self {
        let answers = Mutex::new(vec![None; endpoints.len()]);
        let endpoints = endpoints.into_iter().map(Endpoint::without_pushes).collect();
        Self { endpoints, service: service.to_owned(), master, answers }
    }

    pub(super) fn count(&self) -> usize {
        self.endpoints.len()
    }

    /// Returns the endpoint of the master. All sentinels are asked at the same time, so that one without an answer hides no other answer.
    pub(super) async fn master(&self) -> Result<Endpoint, RedisConnectError> {
        let mut asked: FuturesUnordered<_> = self.endpoints.iter().map(|endpoint| self.query_once(endpoint)).collect();
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
        let NamedMaster { host, port, .. } = named.ok_or_else(|| error.unwrap_or_else(unknown))?;
        Endpoint::plain(host, port, self.master.clone())
    }

    async fn query_once(&self, endpoint: &Endpoint) -> Result<NamedMaster, RedisError> {
        self.query(&connect(endpoint).await?).await
    }

    async fn query(&self, connection: &Pipeline) -> Result<NamedMaster, RedisError> {
        type Fields = std::collections::HashMap<String, String>;
        let mut commands = redis::pipe();
        commands.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(&self.service);
        // During a failover the fields still contain the address of the replaced master, but the number of the new configuration.
        commands.cmd("SENTINEL").arg("MASTER").arg(&self.service);
        let answers = connection.send_many(commands.get_packed_pipeline(), commands.len()).await?;
        let answers = answers.into_iter().map(Value::extract_error).collect::<Result<_, _>>()?;
        let (address, fields): (Option<(String, u16)>, Fields) = from_redis_value(Value::Array(answers))?;
        let epoch = fields.get("config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or_default();
        let unknown = || RedisError::from((ErrorKind::MasterNameNotFoundBySentinel, "the sentinel names no master"));
        let (host, port) = address.ok_or_else(unknown)?;
        Ok(NamedMaster { epoch, host, port })
    }

    /// Asks one of the sentinels again and again. Calls `is_at` each time with the address of the master by the newest configuration.
    pub(super) async fn follow(&self, which: usize, is_at: impl Fn(&str)) {
        let mut connection = None;
        loop {
            let asking = async {
                let connection = match &mut connection {
                    Some(connection) => connection,
                    none => none.insert(connect(&self.endpoints[which]).await?),
                };
                self.query(connection).await
            };
            let answer = timeout(CONNECT_TIMEOUT, asking).await.ok().and_then(Result::ok);
            if answer.is_none() {
                connection = None;
            }
            if let Some(NamedMaster { host, port, .. }) = self.record(which, answer) {
                is_at(&format!("{host}:{port}"));
            }
            sleep(QUERY_INTERVAL).await;
        }
    }

    /// Records an answer and returns the newest one.
    fn record(&self, which: usize, answer: Option<NamedMaster>) -> Option<NamedMaster> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers[which] = answer;
        answers.iter().flatten().max().cloned()
    }
}

async fn connect(endpoint: &Endpoint) -> Result<Pipeline, RedisError> {
    let late = || RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    timeout(CONNECT_TIMEOUT, endpoint.connect(None)).await.map_err(|_| late())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::Certificates;

    #[test]
    fn newest_sentinel_configuration_names_the_master() {
        let endpoint = || Endpoint::from_url("redis://127.0.0.1", &Certificates::default()).expect("a URL");
        let sentinels = Sentinels::new(vec![endpoint(), endpoint(), endpoint()], "service", RedisConnectionInfo::default());
        let named = |epoch, port| Some(NamedMaster { epoch, host: "h".into(), port });
        assert_eq!(sentinels.record(0, named(3, 1)), named(3, 1));
        assert_eq!(sentinels.record(1, named(4, 2)), named(4, 2));
        assert_eq!(sentinels.record(2, named(3, 1)), named(4, 2), "it has not heard of the failover yet");
        assert_eq!(sentinels.record(1, None), named(3, 1));
        sentinels.record(0, None);
        assert_eq!(sentinels.record(2, None), None);
    }
}
