//! Errors of commands and connections.

use std::{error, fmt};

use redis::{ErrorKind, RedisError, ServerError, ServerErrorKind};

use crate::store::error::StoreError;

#[derive(Debug)]
pub(crate) enum CommandError {
    /// Redis did not answer in time.
    Timeout,
    /// Redis is known to be down, and no command was sent.
    Unavailable,
    /// No connection could be made.
    Connecting(RedisConnectError),
    /// Redis answered with an error.
    Server(ServerError),
    /// The connection broke.
    Broken(RedisError),
    /// Redis answered with an unexpected value.
    Protocol(&'static str),
}

impl CommandError {
    /// Returns `true` if the error concerns the connection rather than the command.
    pub(super) fn is_connection_error(&self) -> bool {
        match self {
            Self::Timeout | Self::Connecting(_) | Self::Broken(_) => true,
            Self::Unavailable | Self::Server(_) | Self::Protocol(_) => false,
        }
    }

    /// Returns the kind of the error, as spans show it.
    pub(super) fn kind(&self) -> &str {
        match self {
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::Connecting(_) => "connecting",
            Self::Server(error) => error.code(),
            Self::Broken(_) => "broken",
            Self::Protocol(_) => "protocol",
        }
    }

    /// Returns `true` if the command belongs to another server.
    pub(super) fn is_redirect(&self) -> bool {
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
            Self::Unavailable => f.write_str("redis is down: no command was sent"),
            Self::Connecting(error) => write!(f, "no connection to redis: {error}"),
            Self::Server(error) => write!(f, "redis answered with an error: {error}"),
            Self::Broken(error) => write!(f, "the connection to redis broke: {error}"),
            Self::Protocol(what) => write!(f, "invalid answer of redis: expected {what}"),
        }
    }
}

impl error::Error for CommandError {}

impl From<CommandError> for StoreError {
    fn from(error: CommandError) -> Self {
        Self::new(error)
    }
}

/// The reason why there is no connection to Redis.
#[derive(Debug)]
pub struct RedisConnectError(Cause);

#[derive(Debug)]
enum Cause {
    Redis(RedisError),
    /// It may be gone at the next attempt.
    Said(String),
    /// It will be the same at the next attempt.
    Settled(String),
}

impl RedisConnectError {
    pub(super) fn settled(text: String) -> Self {
        Self(Cause::Settled(text))
    }

    /// Returns `true` if another attempt is pointless.
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
