//! The reasons for which a message cannot be read.

use std::{error, fmt};

use crate::error::BoxError;

/// The reason for which a message cannot be read: the error of the methods of [`MessageView`](super::MessageView).
#[derive(Debug)]
#[non_exhaustive]
pub enum MessageError {
    /// The content has a content coding, or the message has the flag of compression. Let compression stand outside of the cache.
    Compressed,
    /// The `Content-Type` names another format.
    ContentType,
    /// The content is not a message of this type.
    Malformed(BoxError),
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compressed => f.write_str("the message is compressed"),
            Self::ContentType => f.write_str("the content type names another format"),
            Self::Malformed(error) => write!(f, "the message is malformed: {error}"),
        }
    }
}

impl error::Error for MessageError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Malformed(error) => Some(&**error),
            Self::Compressed | Self::ContentType => None,
        }
    }
}
