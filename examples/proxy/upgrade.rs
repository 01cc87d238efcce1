//! Connections that change their protocol (RFC 9110, section 7.8), WebSocket above all: after a 101 both ends speak to each other.

use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode,
    header::{CONNECTION, UPGRADE},
};
use hyper::{
    body::Incoming,
    upgrade::{OnUpgrade, on},
};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use crate::fields::members;

/// What a message wants the connection to become, if it says so as it must; read it before the fields of the connection are gone.
///
/// Not another HTTP: whatever went through that tunnel would pass by the cache and by its invalidation. To offer `h2c` in this place is
/// obsolete as well (RFC 9113, section 3.1), and no reason to bypass a cache.
pub(crate) fn wanted(headers: &HeaderMap) -> Option<HeaderValue> {
    if !members(headers, CONNECTION).any(|option| option.eq_ignore_ascii_case(b"upgrade")) {
        return None;
    }
    let protocols: Vec<_> = members(headers, UPGRADE).filter(|protocol| !is_http(protocol)).collect();
    HeaderValue::from_bytes(&protocols.join(&b", "[..])).ok().filter(|protocols| !protocols.is_empty())
}

/// Whether a protocol carries HTTP: by its name, with or without a version (RFC 9110, section 7.8; RFC 2817).
fn is_http(protocol: &[u8]) -> bool {
    let name = protocol.split(|b| *b == b'/').next().unwrap_or_default();
    [&b"h2c"[..], b"h2", b"http", b"tls"].iter().any(|http| name.eq_ignore_ascii_case(http))
}

/// Says in a message what the connection is to become.
pub(crate) fn name(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(UPGRADE, protocol);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
}

/// The client's end, taken from its request before that is sent on.
pub(crate) struct Client {
    end: Option<OnUpgrade>,
    /// What it wants the connection to become.
    wants: Vec<Vec<u8>>,
}

/// The origin has switched to a protocol that nobody has asked for.
pub(crate) struct NotWanted;

impl Client {
    pub(crate) fn of<B>(request: &mut Request<B>) -> Self {
        let wants: Vec<_> = members(request.headers(), UPGRADE).map(<[u8]>::to_ascii_lowercase).collect();
        Self { end: (!wants.is_empty()).then(|| on(request)), wants }
    }

    /// Joins it with the origin's end if the origin has agreed.
    pub(crate) fn join(self, response: &mut Response<Incoming>) -> Result<(), NotWanted> {
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        let agreed = wanted(response.headers()).ok_or(NotWanted)?;
        let is_wanted = self.wants.contains(&agreed.as_bytes().to_ascii_lowercase());
        let client = self.end.filter(|_| is_wanted).ok_or(NotWanted)?;
        let origin = on(response);
        tokio::spawn(async move {
            if let (Ok(client), Ok(origin)) = tokio::join!(client, origin) {
                let _ = copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(origin)).await;
            }
        });
        Ok(())
    }
}
