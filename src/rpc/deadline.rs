//! The deadline of a call, and the response after it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use super::Protocol;

static FIELDS: [HeaderName; 2] = [HeaderName::from_static("grpc-timeout"), HeaderName::from_static("connect-timeout-ms")];

/// Returns the time that the client waits for the response to a call.
pub(crate) fn timeout(protocol: Protocol, headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &HeaderName| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    match protocol {
        Protocol::Grpc | Protocol::GrpcWeb => of_grpc(text(&FIELDS[0])?),
        Protocol::Connect => number(text(&FIELDS[1])?, 10).map(Duration::from_millis),
    }
}

/// Removes the time that a client waits, for a call that outlives its client.
pub(crate) fn remove(headers: &mut HeaderMap) {
    FIELDS.iter().for_each(|name| drop(headers.remove(name)));
}

/// Parses `grpc-timeout`: at most eight digits and a unit.
fn of_grpc(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back()?;
    let value = number(&text[..text.len() - unit.len_utf8()], 8)?;
    Some(match unit {
        'H' => Duration::from_secs(value * 3600),
        'M' => Duration::from_secs(value * 60),
        'S' => Duration::from_secs(value),
        'm' => Duration::from_millis(value),
        'u' => Duration::from_micros(value),
        'n' => Duration::from_nanos(value),
        _ => return None,
    })
}

fn number(digits: &str, most: usize) -> Option<u64> {
    let is_number = (1..=most).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok())?
}

/// Returns the response to a call whose deadline has passed. Its body is empty, except for Connect.
pub(crate) fn exceeded(protocol: Protocol) -> Response<Bytes> {
    const MESSAGE: &str = "deadline exceeded while waiting for the response to an equal call";
    let mut response = Response::new(Bytes::new());
    let mut set = |name, value| _ = response.headers_mut().insert(header::HeaderName::from_static(name), value);
    match protocol {
        Protocol::Grpc | Protocol::GrpcWeb => {
            let kind = if protocol == Protocol::Grpc { "application/grpc" } else { "application/grpc-web" };
            set("content-type", HeaderValue::from_static(kind));
            set("grpc-status", HeaderValue::from_static("4"));
            set("grpc-message", HeaderValue::from_static(MESSAGE));
        }
        Protocol::Connect => {
            set("content-type", HeaderValue::from_static("application/json"));
            *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
            *response.body_mut() = format!("{{\"code\":\"deadline_exceeded\",\"message\":\"{MESSAGE}\"}}").into();
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_have_at_most_eight_digits_and_a_unit() {
        for (text, want) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("5u", Some(Duration::from_micros(5))),
            ("0n", Some(Duration::ZERO)),
            ("123456789S", None),
            ("S", None),
            ("1", None),
            ("-1S", None),
            ("1é", None),
            ("", None),
        ] {
            assert_eq!(of_grpc(text), want, "{text:?}");
        }
    }
}
