//! Upgrades (RFC 9110, section 7.8), such as WebSocket: after a 101 the proxy copies bytes in both directions.

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

use crate::headers::members;

/// Returns the protocols of `Upgrade` if `Connection` names that field. Call it before the hop-by-hop fields are removed.
///
/// Versions of HTTP are left out, because requests in such a tunnel would bypass the cache and its invalidation. An offer of `h2c` is
/// obsolete (RFC 9113, section 3.1) and does not bypass the cache either.
pub(crate) fn requested(headers: &HeaderMap) -> Option<HeaderValue> {
    if !members(headers, CONNECTION).any(|option| option.eq_ignore_ascii_case(b"upgrade")) {
        return None;
    }
    let protocols: Vec<_> = members(headers, UPGRADE).filter(|protocol| !is_http(protocol)).collect();
    HeaderValue::from_bytes(&protocols.join(&b", "[..])).ok().filter(|protocols| !protocols.is_empty())
}

/// Returns whether a protocol, with or without a version, carries HTTP (RFC 9110, section 7.8; RFC 2817).
fn is_http(protocol: &[u8]) -> bool {
    let name = protocol.split(|b| *b == b'/').next().unwrap_or_default();
    [&b"h2c"[..], b"h2", b"http", b"tls"].iter().any(|http| name.eq_ignore_ascii_case(http))
}

/// Sets `Upgrade` and `Connection` of a message.
pub(crate) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(UPGRADE, protocol);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
}

/// The client's side of an upgrade, taken from its request before the request is forwarded.
pub(crate) struct Client {
    end: Option<OnUpgrade>,
    /// The protocols that the client offers.
    offers: Vec<Vec<u8>>,
}

/// The error when the origin switches to a protocol that the client has not offered.
pub(crate) struct UnexpectedUpgrade;

impl Client {
    pub(crate) fn of<B>(request: &mut Request<B>) -> Self {
        let offers: Vec<_> = members(request.headers(), UPGRADE).map(<[u8]>::to_ascii_lowercase).collect();
        Self { end: (!offers.is_empty()).then(|| on(request)), offers }
    }

    /// Connects both sides if the origin has agreed to the upgrade.
    pub(crate) fn join(self, response: &mut Response<Incoming>) -> Result<(), UnexpectedUpgrade> {
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        let agreed = requested(response.headers()).ok_or(UnexpectedUpgrade)?;
        let is_wanted = self.offers.contains(&agreed.as_bytes().to_ascii_lowercase());
        let client = self.end.filter(|_| is_wanted).ok_or(UnexpectedUpgrade)?;
        let origin = on(response);
        tokio::spawn(async move {
            if let (Ok(client), Ok(origin)) = tokio::join!(client, origin) {
                let _ = copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(origin)).await;
            }
        });
        Ok(())
    }
}
