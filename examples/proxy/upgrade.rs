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

/// What a message wants the connection to become, if it says so as it must; read it before the fields of the connection are gone.
pub(crate) fn wanted(headers: &HeaderMap) -> Option<HeaderValue> {
    let asks = headers.get_all(CONNECTION).iter().flat_map(|line| line.as_bytes().split(|b| *b == b','));
    let named = asks.into_iter().any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
    // RFC 9113, section 3.1: h2c in this place is obsolete, and to offer it is no reason to bypass a cache.
    headers.get(UPGRADE).filter(|wanted| named && !wanted.as_bytes().eq_ignore_ascii_case(b"h2c")).cloned()
}

/// Says in a message what the connection is to become.
pub(crate) fn name(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(UPGRADE, protocol);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
}

/// The client's end, taken from its request before that is sent on.
pub(crate) struct Client(Option<OnUpgrade>);

impl Client {
    pub(crate) fn of<B>(request: &mut Request<B>) -> Self {
        let asks = request.headers().contains_key(UPGRADE);
        Self(asks.then(|| on(request)))
    }

    /// Joins it with the origin's end if the origin has agreed.
    pub(crate) fn join(self, response: &mut Response<Incoming>) {
        let Some(client) = self.0.filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS) else { return };
        let origin = on(response);
        tokio::spawn(async move {
            if let (Ok(client), Ok(origin)) = tokio::join!(client, origin) {
                let _ = copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(origin)).await;
            }
        });
    }
}
