//! Commands with the slots of their keys, and their results.

use bytes::Bytes;
use redis::{Cmd, Value};

use super::{error::CommandError, keys::slot};

/// A command and the slot of its key.
#[derive(Clone)]
pub(crate) struct Command {
    pub(super) slot: u16,
    pub(super) command: Cmd,
}

/// The answer to a command, and the identity of the server that gave it.
pub(crate) type CommandResult = Result<(Value, u128), CommandError>;

pub(crate) fn get(key: &str) -> Command {
    Command { slot: slot(key.as_bytes()), command: Cmd::new().arg("GET").arg(key).take() }
}

pub(crate) fn exists(key: &str) -> Command {
    Command { slot: slot(key.as_bytes()), command: Cmd::new().arg("EXISTS").arg(key).take() }
}

pub(crate) fn bulk(value: Value) -> Result<Option<Bytes>, CommandError> {
    match value {
        Value::BulkString(bytes) => Ok(Some(bytes.into())),
        Value::Nil => Ok(None),
        _ => Err(CommandError::Protocol("an entry")),
    }
}

pub(crate) fn unlink(key: &str) -> Command {
    Command { slot: slot(key.as_bytes()), command: redis::cmd("UNLINK").arg(key).take() }
}

pub(crate) fn check_error(answer: Value) -> Result<Value, CommandError> {
    match answer {
        Value::ServerError(error) => Err(CommandError::Server(error)),
        answer => Ok(answer),
    }
}
