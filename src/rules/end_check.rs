//! The checks of a complete response before it is stored, as data.

use crate::{
    error::BoxError,
    message::{MessageError, view::Parameters},
    rpc::Protocol,
    status::NoStore,
};

/// What has to be known of a complete response before it is stored.
#[derive(Debug, Clone)]
pub(crate) struct EndCheck {
    /// The protocol of a call by RPC whose messages stand in frames.
    pub(crate) framed: Option<Protocol>,
    /// The reason for which the message of the request could not be read.
    pub(crate) unread: Option<Unread>,
    /// The parameters of the route, if the response is read.
    pub(super) parameters: Option<Parameters>,
}

/// The reason for which a message could not be read.
#[derive(Debug, Clone)]
pub(crate) struct Unread {
    pub(crate) reason: NoStore,
    pub(crate) error: String,
}

impl Unread {
    /// Returns the reason for content that is not one message, or is none.
    pub(crate) fn not_a_message() -> Self {
        Self { reason: NoStore::ContentUnreadable, error: "there is no single message".into() }
    }
}

impl From<BoxError> for Unread {
    fn from(error: BoxError) -> Self {
        let reason = match error.downcast_ref() {
            Some(MessageError::Compressed) => NoStore::ContentCompressed,
            _ => NoStore::ContentUnreadable,
        };
        Self { reason, error: error.to_string() }
    }
}
