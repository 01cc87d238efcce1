//! Why Redis did not do what was asked.

use std::{error, fmt};

use redis::{ErrorKind, RedisError, ServerError, ServerErrorKind};

use crate::store::error::StoreError;

#[derive(Debug)]
pub(crate) enum CommandError {
    /// No answer within the time that there was.
    Timeout,
    /// It did not answer a moment ago, and is not asked.
    Unavailable,
    /// A connection cannot be made.
    Connecting(RedisConnectError),
    /// It answered with an error.
    Server(ServerError),
    /// The connection broke.
    Broken(RedisError),
    /// It answered with something that is no answer.
    Protocol(&'static str),
}

impl CommandError {
    /// Whether it says something of the connection rather than of what was asked.
    pub(super) fn is_of_connection(&self) -> bool {
        match self {
            Self::Timeout | Self::Connecting(_) | Self::Broken(_) => true,
            Self::Unavailable | Self::Server(_) | Self::Protocol(_) => false,
        }
    }

    /// Whether another server has to be asked.
    pub(super) fn is_elsewhere(&self) -> bool {
        use ServerErrorKind::{Ask, ClusterDown, MasterDown, Moved, ReadOnly, TryAgain};
        matches!(self, Self::Server(error) if matches!(
            error.kind(),
            Some(Moved | Ask | TryAgain | ClusterDown | ReadOnly | MasterDown)
        ))
    }
}

impl From<RedisError> for CommandError {
    fn from(error: RedisError) -> Self {
        match error.kind() {
            ErrorKind::Server(_) | ErrorKind::Extension => match error.clone().into_server_errors() {
                Some(errors) if !errors.is_empty() => Self::Server(errors[0].1.clone()),
                _ => Self::Broken(error),
            },
            _ => Self::Broken(error),
        }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("redis did not answer in time"),
            Self::Unavailable => f.write_str("redis is not asked: it did not answer a moment ago"),
            Self::Connecting(error) => write!(f, "no connection to redis: {error}"),
            Self::Server(error) => write!(f, "redis answered: {error}"),
            Self::Broken(error) => write!(f, "the connection to redis broke: {error}"),
            Self::Protocol(what) => write!(f, "redis answered with something else than {what}"),
        }
    }
}

impl error::Error for CommandError {}

impl From<CommandError> for StoreError {
    fn from(fault: CommandError) -> Self {
        Self::new(fault)
    }
}

/// Why there is no connection to Redis.
#[derive(Debug)]
pub struct RedisConnectError(Cause);

#[derive(Debug)]
enum Cause {
    Redis(RedisError),
    /// May be otherwise in a moment.
    Said(String),
    /// Will be the same the next time.
    Settled(String),
}

impl RedisConnectError {
    pub(super) fn settled(text: String) -> Self {
        Self(Cause::Settled(text))
    }

    /// Whether trying again is of no use.
    pub(super) fn is_final(&self) -> bool {
        use redis::ErrorKind;
        match &self.0 {
            Cause::Settled(_) => true,
            Cause::Said(_) => false,
            Cause::Redis(error) => {
                let refused = ["WRONGPASS", "NOAUTH", "NOPERM"].iter().any(|code| error.to_string().contains(code));
                let kinds = [ErrorKind::AuthenticationFailed, ErrorKind::InvalidClientConfig, ErrorKind::RESP3NotSupported];
                refused || kinds.contains(&error.kind())
            }
        }
    }
}

impl From<RedisError> for RedisConnectError {
    fn from(error: RedisError) -> Self {
        Self(Cause::Redis(error))
    }
}

impl From<String> for RedisConnectError {
    fn from(text: String) -> Self {
        Self(Cause::Said(text))
    }
}

impl fmt::Display for RedisConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Cause::Redis(error) => error.fmt(f),
            Cause::Said(text) | Cause::Settled(text) => f.write_str(text),
        }
    }
}

impl error::Error for RedisConnectError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match &self.0 {
            Cause::Redis(error) => Some(error),
            Cause::Said(_) | Cause::Settled(_) => None,
        }
    }
}
