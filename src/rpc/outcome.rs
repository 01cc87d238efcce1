//! The outcome of a call: the status in its response.

use http::{HeaderMap, StatusCode};

use super::{
    Protocol,
    frames::{FrameCounter, trailers},
};

/// The outcome of a unary call whose messages stand in frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallOutcome {
    /// Status 0 after exactly one message.
    Message,
    /// Another status, without a message.
    Status(i32),
    /// Several messages, none with status 0, a message with another status, or no status.
    NotUnary,
}

/// Returns the outcome of a call from its complete response.
pub(crate) fn outcome(protocol: Protocol, head: &HeaderMap, body: &[u8], after: Option<&HeaderMap>) -> CallOutcome {
    let mut frames = FrameCounter::default();
    frames.push(body);
    let in_body = || match protocol {
        Protocol::GrpcWeb => status_in_text(trailers(body)?),
        Protocol::Grpc | Protocol::Connect => None,
    };
    // A status in the head stands for a response without anything else.
    let status = match after.and_then(status).or_else(in_body) {
        None if body.is_empty() => status(head),
        status => status,
    };
    match status {
        Some(0) if frames.is_one_message() => CallOutcome::Message,
        Some(status) if status != 0 && !frames.has_messages() && frames.is_between() => CallOutcome::Status(status),
        _ => CallOutcome::NotUnary,
    }
}

/// Returns the status in fields or trailers.
pub(crate) fn status(fields: &HeaderMap) -> Option<i32> {
    let mut lines = fields.get_all("grpc-status").iter();
    let line = lines.next().filter(|_| lines.next().is_none())?;
    line.to_str().ok()?.parse().ok().filter(|status| *status >= 0)
}

/// Returns the status in the trailers of gRPC-Web, which have the form of fields in HTTP/1.1.
fn status_in_text(text: &[u8]) -> Option<i32> {
    let text = std::str::from_utf8(text).ok()?;
    let mut lines = text.split("\r\n").filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(name, _)| name.trim().eq_ignore_ascii_case("grpc-status"))?;
    value.trim().parse().ok()
}

/// Returns the class of a status in terms of HTTP: a success, an error of the client, or an outcome that is not known. A method may have
/// changed something before RESOURCE_EXHAUSTED (8), ABORTED (10) and OUT_OF_RANGE (11).
pub(crate) fn as_http(status: i32) -> StatusCode {
    match status {
        0 => StatusCode::OK,
        // INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, FAILED_PRECONDITION, UNIMPLEMENTED, UNAUTHENTICATED.
        3 | 5 | 6 | 7 | 9 | 12 | 16 => StatusCode::BAD_REQUEST,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Returns true for a status that says nothing about the next call: it was cancelled, took too long, or met a failure.
pub(crate) fn is_transient(status: i32) -> bool {
    const CANCELLED: i32 = 1;
    const RESOURCE_EXHAUSTED: i32 = 8;
    const ABORTED: i32 = 10;
    is_failure(status) || [CANCELLED, RESOURCE_EXHAUSTED, ABORTED].contains(&status)
}

/// Returns true for a failure of the method or of a server behind it, as 500, 502, 503 and 504 are in HTTP.
pub(crate) fn is_failure(status: i32) -> bool {
    const UNKNOWN: i32 = 2;
    const DEADLINE_EXCEEDED: i32 = 4;
    const INTERNAL: i32 = 13;
    const UNAVAILABLE: i32 = 14;
    const DATA_LOSS: i32 = 15;
    [UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS].contains(&status)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn fields(status: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static(status))])
    }

    #[test]
    fn only_one_message_with_status_0_is_a_success() {
        let (one, none) = (b"\0\0\0\0\x01a", HeaderMap::new());
        let two = [&one[..], one].concat();
        for (head, body, after, want) in [
            (&none, &one[..], Some(fields("0")), CallOutcome::Message),
            (&none, &two, Some(fields("0")), CallOutcome::NotUnary),
            (&none, &one[..3], Some(fields("0")), CallOutcome::NotUnary),
            (&none, b"", Some(fields("0")), CallOutcome::NotUnary),
            (&none, one, None, CallOutcome::NotUnary),
            (&fields("0"), one, None, CallOutcome::NotUnary),
            (&none, one, Some(fields("x")), CallOutcome::NotUnary),
            (&none, b"", Some(fields("5")), CallOutcome::Status(5)),
            (&fields("5"), b"", None, CallOutcome::Status(5)),
            (&none, one, Some(fields("5")), CallOutcome::NotUnary),
        ] {
            assert_eq!(outcome(Protocol::Grpc, head, body, after.as_ref()), want, "{head:?} {body:?} {after:?}");
        }
    }

    #[test]
    fn grpc_web_has_its_status_in_the_body() {
        let none = HeaderMap::new();
        for (body, want) in [
            (&b"\0\0\0\0\x01a\x80\0\0\0\x10grpc-status: 0\r\n"[..], CallOutcome::Message),
            (b"\x80\0\0\0\x10Grpc-Status:  5\r\n", CallOutcome::NotUnary),
            (b"\x80\0\0\0\x0fGrpc-Status: 5\r", CallOutcome::Status(5)),
            (b"\0\0\0\0\x01a", CallOutcome::NotUnary),
        ] {
            assert_eq!(outcome(Protocol::GrpcWeb, &none, body, None), want, "{body:?}");
        }
    }
}
