//! Parts of a request, taken so that a malformed one is answered in JSON like every other error.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Request, path::ErrorKind, rejection::PathRejection},
    http::{StatusCode, request::Parts},
    response::IntoResponse,
};
use serde_json::{Map, Value};

use super::error::{Error, bad_request};

/// The parameters in the path. One parameter is a `String`, two are a pair of them.
pub(crate) struct Segments<T>(pub(crate) T);

impl<S: Send + Sync> FromRequestParts<S> for Segments<String> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        Path::from_request_parts(parts, state).await.map(|Path(one)| Self(one)).map_err(unreadable)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Segments<(String, String)> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        Path::from_request_parts(parts, state).await.map(|Path(two)| Self(two)).map_err(unreadable)
    }
}

fn unreadable(rejection: PathRejection) -> Error {
    match rejection {
        PathRejection::FailedToDeserializePathParams(error) => match error.into_kind() {
            ErrorKind::InvalidUtf8InPathParam { key } => bad_request(format!("`{key}` in the path is not UTF-8")),
            kind => bad_request(kind.to_string()),
        },
        other => Error::Internal(other.to_string()),
    }
}

/// The body, whole, within axum's limit of 2 MB.
pub(crate) struct Payload(pub(crate) Bytes);

impl<S: Send + Sync> FromRequest<S> for Payload {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self, Error> {
        Bytes::from_request(request, state).await.map(Self).map_err(|rejection| {
            let message = rejection.body_text();
            match rejection.into_response().status() {
                StatusCode::PAYLOAD_TOO_LARGE => Error::TooLarge(message),
                _ => bad_request(message),
            }
        })
    }
}

/// The body as a JSON object.
pub(crate) struct Object(pub(crate) Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for Object {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self, Error> {
        let Payload(bytes) = Payload::from_request(request, state).await?;
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(_) => Err(bad_request("the body must be a JSON object")),
            Err(error) => Err(bad_request(format!("the body is not JSON: {error}"))),
        }
    }
}

impl Object {
    /// A member that must be there and must be a string.
    pub(crate) fn string(&self, name: &str) -> Result<&str, Error> {
        self.optional_string(name)?.ok_or_else(|| bad_request(format!("`{name}` is missing")))
    }

    /// A member that may be absent, but must be a string if it is there.
    pub(crate) fn optional_string(&self, name: &str) -> Result<Option<&str>, Error> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(bad_request(format!("`{name}` must be a string"))),
        }
    }
}
