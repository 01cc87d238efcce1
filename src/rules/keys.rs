//! Keys: the parts that a checked rule writes to the key of a request.

use http::header;

use super::policy::Policy;
use crate::{
    key::{self, Extracted, Key, KeyExtractor, KeyWriter, RequestView, RouteAndQuery, Tag, content::RequestContent},
    rpc,
    status::Bypass,
};

impl Policy {
    /// Writes the key of a request: its route, then the parts of the extractor.
    #[inline]
    pub(crate) fn write_key(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted {
        match request.body {
            None if self.is_rpc() => {
                let extracted = self.write_target(request, key);
                key::content::write_fields(&rpc::FIELDS_OF_GET, request.headers, key);
                extracted
            }
            None => self.write_target(request, key),
            Some(content) => self.write_with_content(request, content, key),
        }
    }

    /// Writes the key of a request with content: the target, the method, and the content.
    #[inline(never)]
    fn write_with_content(&self, request: &RequestView<'_>, content: &[u8], key: &mut KeyWriter<'_>) -> Extracted {
        if self.is_graphql() {
            return self.write_operation(request, key);
        }
        let extracted = self.write_target(request, key);
        key.tagged(Tag::Method, request.method.as_str().as_bytes());
        if !self.rule.key.writes_body() {
            key::content::write(content, key);
        }
        match self.is_rpc() {
            true => key::content::write_fields(&rpc::FIELDS, request.headers, key),
            false => key::content::write_fields(&key::content::FIELDS, request.headers, key),
        }
        extracted
    }

    /// Writes the key of a query of GraphQL: the target, the operation, and the fields that choose a form of its response. The method does not
    /// count.
    fn write_operation(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted {
        let extracted = self.write_shared_target(request, key);
        let read = RequestContent::of(request.extensions).and_then(|content| content.operation.as_ref());
        if let Some(Ok(operation)) = read.map(|read| &read.operation) {
            key.tagged(Tag::Operation, operation);
        }
        key::content::write_fields(&[header::ACCEPT, header::CONTENT_LANGUAGE], request.headers, key);
        extracted
    }

    /// Writes the key of a target. Under a rule for GraphQL, a GET and a POST have the same.
    pub(super) fn write_shared_target(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted {
        #[cfg(feature = "graphql")]
        if let Some(uri) = Some(request.uri).filter(|_| self.is_graphql()).and_then(Self::target_without_params) {
            return self.write_target(&RequestView { uri: &uri, ..*request }, key);
        }
        self.write_target(request, key)
    }

    /// Returns the reason for a request whose extractor bypasses the cache.
    #[cold]
    pub(crate) fn why_bypassed(&self, request: &RequestView<'_>) -> Bypass {
        self.rule.key.identity().and_then(|identity| identity.bypass(request)).unwrap_or(Bypass::Extractor)
    }

    /// Writes the key of a GET of the same target. An extractor may add the content of the request.
    #[inline]
    fn write_target(&self, request: &RequestView<'_>, key: &mut KeyWriter<'_>) -> Extracted {
        key::begin(key, self.http().is_some(), self.route.as_deref(), request);
        self.rule.key.extract(&request.with_fields(&self.fields), key)
    }

    /// Returns the key of a request, unless it is too long.
    pub(super) fn key(&self, request: &RequestView<'_>) -> Option<Key> {
        let mut canonical = Vec::with_capacity(128);
        let mut writer = KeyWriter::new(&mut canonical, request.secret);
        match self.write_key(request, &mut writer) {
            Extracted::Key if !writer.too_long() => Some(Key::new(canonical)),
            _ => None,
        }
    }

    /// Returns the key of a request's URI, under a rule where HTTP decides. A write to a URI invalidates all stored responses of the URI (RFC 9111,
    /// section 4.4).
    pub(super) fn key_of_uri(&self, request: &RequestView<'_>) -> Option<Key> {
        self.http()?;
        let mut canonical = Vec::with_capacity(128);
        let mut key = KeyWriter::new(&mut canonical, request.secret);
        key::begin(&mut key, true, self.route.as_deref(), request);
        let _ = RouteAndQuery.extract(request, &mut key);
        Some(Key::new(canonical))
    }
}
