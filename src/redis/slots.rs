//! The slots of a cluster as its nodes report them, and redirections.

use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::{ServerErrorKind, Value};

use super::{
    command::{CommandResult, check_error},
    connection::RedisManager,
    error::CommandError,
    node,
    options::CONNECT_TIMEOUT,
};

/// The time after which another node is asked as well.
const HEDGE_DELAY: Duration = Duration::from_millis(100);

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Redirect {
    /// To another node: permanently, or for this command while its slot is moving.
    To { address: String, asking: bool },
    /// To the current master of the slot: the asked node is not a master, or is cut off from the cluster.
    Lost,
}

impl Redirect {
    /// Reads a redirection. `from` is the address of the node that answered.
    pub(super) fn of(answer: &CommandResult, from: &str) -> Option<Self> {
        let Err(CommandError::Server(error)) = answer else { return None };
        let address = || address_in(error.details()?.split(' ').nth(1)?, from);
        match error.kind()? {
            ServerErrorKind::Moved => Some(address().map_or(Self::Lost, |address| Self::To { address, asking: false })),
            ServerErrorKind::Ask => address().map(|address| Self::To { address, asking: true }),
            ServerErrorKind::ReadOnly | ServerErrorKind::ClusterDown => Some(Self::Lost),
            _ => None,
        }
    }
}

/// Returns the `host:port` of a redirection. An empty host or `?` is the host of the node that answered.
fn address_in(text: &str, from: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':')?;
    let host = if host.is_empty() || host == "?" { from.rsplit_once(':')?.0 } else { host };
    Some(format!("{host}:{port}"))
}

/// A range of slots and its master.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Slots {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) master: String,
}

/// Returns the slots as the first node of the cluster reports them. Each node is asked after the previous one has failed, or has not
/// answered for a moment.
pub(crate) async fn slots_by_first(managers: impl Iterator<Item = RedisManager>, check: &str) -> Option<Vec<Slots>> {
    let (mut managers, mut asked) = (managers, FuturesUnordered::new());
    loop {
        if let Some(manager) = managers.next() {
            asked.push(async move { (slots_by(&manager, check).await, manager) });
        }
        match tokio::time::timeout(HEDGE_DELAY, asked.next()).await {
            Ok(Some((Ok(slots), _))) => return Some(slots),
            Ok(Some((Err(error), manager))) => {
                tracing::debug!(%error, server = ?manager.source, "cluster node did not report the slots")
            }
            Ok(None) => return None,
            Err(_) => {}
        }
    }
}

async fn slots_by(manager: &RedisManager, check: &str) -> Result<Vec<Slots>, CommandError> {
    let asking = async {
        let (connection, server) = manager.open_any(None).await.map_err(CommandError::Connecting)?;
        if !server.cluster {
            return Err(CommandError::Protocol("a cluster node"));
        }
        let mut commands = redis::pipe();
        commands.cmd("CLUSTER").arg("SLOTS").add_command(node::check(check));
        let answers = connection.send_all(&commands).await?;
        let [slots, checked] = &answers[..] else { return Err(CommandError::Protocol("one answer for each command")) };
        // A node that is cut off from the others reports an earlier state.
        if let Value::ServerError(error) = checked
            && error.kind() == Some(ServerErrorKind::ClusterDown)
        {
            return Err(CommandError::Server(error.clone()));
        }
        let asked = manager.address().unwrap_or_default();
        read_slots(&check_error(slots.clone())?, &asked)
    };
    tokio::time::timeout(CONNECT_TIMEOUT, asking).await.unwrap_or(Err(CommandError::Timeout))
}

/// Reads the answer of `CLUSTER SLOTS`: first, last, the master as host and port, its replicas. An empty host is the host of the asked
/// node.
fn read_slots(answer: &Value, asked: &str) -> Result<Vec<Slots>, CommandError> {
    let invalid = || CommandError::Protocol("the slots of a cluster");
    let Value::Array(ranges) = answer else { return Err(invalid()) };
    let number = |value: &Value| match value {
        Value::Int(number) => u16::try_from(*number).ok(),
        _ => None,
    };
    let read = |range: &Value| {
        let Value::Array(range) = range else { return None };
        let Value::Array(master) = range.get(2)? else { return None };
        let host = match master.first()? {
            Value::BulkString(host) => std::str::from_utf8(host).ok()?,
            Value::SimpleString(host) => host,
            Value::Nil => "",
            _ => return None,
        };
        let host = if host.is_empty() || host == "?" { asked } else { host };
        let master = format!("{host}:{}", number(master.get(1)?)?);
        Some(Slots { first: number(range.first()?)?, last: number(range.get(1)?)?, master })
    };
    ranges.iter().map(read).collect::<Option<_>>().ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirection_without_a_host_uses_the_answering_host() {
        let told = |text: &str| {
            let value = redis::parse_redis_value(format!("-{text}\r\n").as_bytes()).expect("an error");
            Redirect::of(&check_error(value).map(|value| (value, 0)), "10.0.0.7:7000")
        };
        let to = |address: &str, asking| Some(Redirect::To { address: address.to_owned(), asking });
        assert_eq!(told("MOVED 3999 10.0.0.1:6381"), to("10.0.0.1:6381", false));
        assert_eq!(told("MOVED 3999 :6381"), to("10.0.0.7:6381", false));
        assert_eq!(told("ASK 3999 :6381"), to("10.0.0.7:6381", true));
        assert_eq!(told("ASK 3999 ?:6381"), to("10.0.0.7:6381", true));
        assert_eq!(told("ASK 3999 ::1:6381"), to("::1:6381", true));
        assert_eq!(told("CLUSTERDOWN The cluster is down"), Some(Redirect::Lost));
        assert_eq!(told("ERR something else"), None);
    }
    #[test]
    fn slots_with_an_empty_host_use_the_queried_host() {
        let range = |first, last, host: &str| {
            let node = Value::Array(vec![Value::BulkString(host.into()), Value::Int(7000), Value::BulkString("id".into())]);
            Value::Array(vec![Value::Int(first), Value::Int(last), node.clone(), node])
        };
        let answer = Value::Array(vec![range(0, 5460, "10.0.0.1"), range(5461, 16_383, "")]);
        let want = [
            Slots { first: 0, last: 5460, master: "10.0.0.1:7000".into() },
            Slots { first: 5461, last: 16_383, master: "asked:7000".into() },
        ];
        assert_eq!(read_slots(&answer, "asked").expect("slots"), want);
        for invalid in [Value::Nil, Value::Array(vec![Value::Int(1)]), Value::Array(vec![range(-1, 70_000, "h")])] {
            assert!(read_slots(&invalid, "asked").is_err(), "{invalid:?}");
        }
    }
}
