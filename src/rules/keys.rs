//! Keys: the parts that a checked rule writes to the key of a request.

use http::{Extensions, HeaderMap, Method, header};

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
        match self.has_content_part(request.body) {
            false => self.write_target(request, key),
            true => {
                let extracted = self.write_shared_target(request, key);
                key.end_target();
                self.write_content(request.method, request.headers, request.extensions, request.body, key);
                extracted
            }
        }
    }

    /// Returns true if the key of a request with this content has a part behind its target.
    #[inline]
    pub(crate) fn has_content_part(&self, content: Option<&[u8]>) -> bool {
        content.is_some() || self.is_rpc()
    }

    /// Writes the part of a key behind the target: the method, the content, and the fields that describe the content or choose a form of the
    /// response. A query of GraphQL has its operation in their place, and the method does not count.
    #[inline(never)]
    pub(crate) fn write_content(
        &self,
        method: &Method,
        headers: &HeaderMap,
        extensions: &Extensions,
        content: Option<&[u8]>,
        key: &mut KeyWriter<'_>,
    ) {
        if self.is_graphql() {
            let read = RequestContent::of(extensions).and_then(|content| content.operation.as_ref());
            if let Some(Ok(operation)) = read.map(|read| &read.operation) {
                key.tagged(Tag::Operation, operation);
            }
            return key::content::write_fields(&[header::ACCEPT, header::CONTENT_LANGUAGE], headers, key);
        }
        let Some(content) = content else {
            return key::content::write_fields(&rpc::FIELDS_OF_GET, headers, key);
        };
        key.tagged(Tag::Method, method.as_str().as_bytes());
        if !self.rule.key.writes_body() {
            key::content::write(content, key);
        }
        match self.is_rpc() {
            true => key::content::write_fields(&rpc::FIELDS, headers, key),
            false => key::content::write_fields(&key::content::FIELDS, headers, key),
        }
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
