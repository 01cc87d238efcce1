//! Extractors whose errors are JSON.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Request, path::ErrorKind, rejection::PathRejection},
    http::{StatusCode, request::Parts},
    response::IntoResponse,
};
use serde_json::{Map, Value};

use super::error::{Error, bad_request};

/// The parameters of the path: a `String`, or two of them.
pub(crate) struct PathParams<T>(pub(crate) T);

impl<S: Send + Sync> FromRequestParts<S> for PathParams<String> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        Path::from_request_parts(parts, state).await.map(|Path(one)| Self(one)).map_err(unreadable)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PathParams<(String, String)> {
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

/// The whole body, up to the limit of axum (2 MB).
pub(crate) struct BodyBytes(pub(crate) Bytes);

impl<S: Send + Sync> FromRequest<S> for BodyBytes {
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
pub(crate) struct JsonObject(pub(crate) Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for JsonObject {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self, Error> {
        let BodyBytes(bytes) = BodyBytes::from_request(request, state).await?;
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(_) => Err(bad_request("the body must be a JSON object")),
            Err(error) => Err(bad_request(format!("the body is not JSON: {error}"))),
        }
    }
}

impl JsonObject {
    /// Returns a required member, which must be a string.
    pub(crate) fn string(&self, name: &str) -> Result<&str, Error> {
        self.optional_string(name)?.ok_or_else(|| bad_request(format!("`{name}` is missing")))
    }

    /// Returns an optional member, which must be a string.
    pub(crate) fn optional_string(&self, name: &str) -> Result<Option<&str>, Error> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(bad_request(format!("`{name}` must be a string"))),
        }
    }
}
