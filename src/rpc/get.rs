//! The message in the query of a GET of Connect: <https://connectrpc.com/docs/protocol#unary-get-request>.

use std::borrow::Cow;

use base64::{
    Engine,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use percent_encoding::percent_decode_str;

/// The message of a call by GET.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct GetMessage {
    pub(crate) bytes: Vec<u8>,
    pub(crate) is_json: bool,
    pub(crate) is_compressed: bool,
}

const BASE64: GeneralPurpose =
    GeneralPurpose::new(&URL_SAFE, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

impl GetMessage {
    /// Returns the message in a query. Returns `None` if a parameter is missing, repeated or unknown in its value: a server may then read another
    /// message.
    pub(crate) fn of_query(query: &str) -> Option<Self> {
        let text = parameter(query, "message")??;
        let is_json = match &*parameter(query, "encoding")?? {
            b"json" => true,
            b"proto" => false,
            _ => return None,
        };
        let bytes = match parameter(query, "base64")?.as_deref() {
            None | Some(b"0") => text.into_owned(),
            Some(b"1") => BASE64.decode(text).ok()?,
            Some(_) => return None,
        };
        let compression = parameter(query, "compression")?;
        let is_compressed = compression.is_some_and(|name| !name.is_empty() && *name != *b"identity");
        Some(Self { bytes, is_json, is_compressed })
    }
}

/// Returns the decoded value of a parameter, or `Some(None)` if the query does not have it. Returns `None` if it is repeated.
fn parameter<'a>(query: &'a str, name: &str) -> Option<Option<Cow<'a, [u8]>>> {
    let mut values = query.split('&').filter_map(|pair| {
        let (known, value) = pair.split_once('=').unwrap_or((pair, ""));
        (*decoded(known) == *name.as_bytes()).then_some(value)
    });
    let value = values.next();
    values.next().is_none().then(|| value.map(decoded))
}

/// Decodes a name or a value as a form does, in which `+` stands for a space.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    match text.contains('+') {
        true => Cow::Owned(percent_decode_str(&text.replace('+', " ")).collect()),
        false => Cow::from(percent_decode_str(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_decoded_as_a_server_reads_it() {
        let message = |bytes: &[u8], is_json, is_compressed| Some(GetMessage { bytes: bytes.to_vec(), is_json, is_compressed });
        for (query, want) in [
            ("connect=v1&encoding=json&message=%7B%22a%22%3A1%7D", message(b"{\"a\":1}", true, false)),
            ("encoding=json&message=a+b%2Bc", message(b"a b+c", true, false)),
            ("message=AQL_&base64=1&encoding=proto", message(&[1, 2, 255], false, false)),
            ("message=AQ%3D%3D&base64=1&encoding=proto", message(&[1], false, false)),
            ("message=AQ&base64=1&encoding=proto&compression=gzip", message(&[1], false, true)),
            ("message=&encoding=proto&compression=identity", message(b"", false, false)),
            ("mess%61ge=x&encoding=proto", message(b"x", false, false)),
            ("encoding=proto", None),
            ("message=a", None),
            ("message=a&encoding=xml", None),
            ("message=a&message=b&encoding=proto", None),
            ("message=a&encoding=proto&encoding=json", None),
            ("message=a%20b&base64=1&encoding=proto", None),
            ("message=a&base64=2&encoding=proto", None),
            ("", None),
        ] {
            assert_eq!(GetMessage::of_query(query), want, "{query}");
        }
    }
}
