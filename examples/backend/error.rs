//! Errors of requests and their JSON: `{"error": "..."}`.
//!
//! The text of an internal error is written to standard error and not sent to the client.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

/// The reason why a request failed.
#[derive(Debug)]
pub(crate) enum Error {
    BadRequest(String),
    Unauthorized(&'static str),
    Forbidden(&'static str),
    NotFound(String),
    MethodNotAllowed,
    Conflict(String),
    TooLarge(String),
    Internal(String),
}

/// Makes an error with status 400.
pub(crate) fn bad_request(message: impl Into<String>) -> Error {
    Error::BadRequest(message.into())
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let message = match &self {
            Self::Internal(cause) => {
                eprintln!("internal error: {cause}");
                "internal error".into()
            }
            other => other.to_string(),
        };
        let mut response = (status, Json(json!({ "error": message }))).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::Internal(error.to_string())
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unauthorized(message) | Self::Forbidden(message) => f.write_str(message),
            Self::BadRequest(message) | Self::NotFound(message) | Self::Conflict(message) | Self::TooLarge(message) => {
                f.write_str(message)
            }
            Self::MethodNotAllowed => f.write_str("method not allowed: see the header `Allow`"),
            Self::Internal(cause) => f.write_str(cause),
        }
    }
}

impl std::error::Error for Error {}
