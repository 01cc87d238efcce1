//! The parameters of a request to the Inspector: from its query and its content.

use std::{future::poll_fn, pin::pin};

use bytes::Buf;
use http::{HeaderMap, StatusCode, Uri, header};
use http_body::Body;
use serde_json::Value;

/// The largest content of a request to the Inspector.
const MAX_CONTENT: usize = 64 << 10;

/// The parameters of a request, in their order.
#[derive(Debug, Default)]
pub(super) struct Input(Vec<(String, String)>);

impl Input {
    /// Reads the parameters of the query, and those of the content: a form, an object in JSON, or a text that stands for `request`.
    pub(super) async fn read<B: Body>(uri: &Uri, headers: &HeaderMap, body: B) -> Result<Self, StatusCode> {
        let mut input = Self::default();
        input.add_form(uri.query().unwrap_or_default().as_bytes());
        let content = content(body).await?;
        let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        match kind.split(';').next().unwrap_or_default().trim() {
            _ if content.is_empty() => {}
            "application/json" => input.add_json(&content)?,
            "text/plain" => input.add("request", String::from_utf8_lossy(&content)),
            _ => input.add_form(&content),
        }
        Ok(input)
    }

    /// Returns the first value of a parameter that is not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Returns the values of a parameter, without empty ones.
    pub(super) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(other, value)| other == name && !value.trim().is_empty()).map(|(_, value)| value.trim())
    }

    /// Returns true if a parameter is `true`, `1` or `on`.
    pub(super) fn is_on(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| ["true", "1", "on"].contains(&value))
    }

    fn add(&mut self, name: &str, value: impl Into<String>) {
        self.0.push((name.to_owned(), value.into()));
    }

    fn add_form(&mut self, form: &[u8]) {
        self.0.extend(form_urlencoded::parse(form).into_owned());
    }

    fn add_json(&mut self, content: &[u8]) -> Result<(), StatusCode> {
        let Ok(Value::Object(members)) = serde_json::from_slice(content) else { return Err(StatusCode::BAD_REQUEST) };
        for (name, value) in members {
            let values = if let Value::Array(values) = value { values } else { vec![value] };
            for value in values {
                match value {
                    Value::String(text) => self.add(&name, text),
                    Value::Null => {}
                    other => self.add(&name, other.to_string()),
                }
            }
        }
        Ok(())
    }
}

async fn content<B: Body>(body: B) -> Result<Vec<u8>, StatusCode> {
    let mut body = pin!(body);
    let mut content = Vec::new();
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let Ok(mut data) = frame.map_err(|_| StatusCode::BAD_REQUEST)?.into_data() else { continue };
        if content.len() + data.remaining() > MAX_CONTENT {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
        while data.has_remaining() {
            let chunk = data.chunk();
            content.extend_from_slice(chunk);
            let length = chunk.len();
            data.advance(length);
        }
    }
    Ok(content)
}
