//! Rules for GraphQL.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use http::{HeaderMap, Uri, header};

use super::{
    end_check::Unread,
    graphql_documents::{GraphqlOptions, KnownDocument, sha256},
    policy::Policy,
    rule::Rule,
};
use crate::{
    graphql::{
        document::OperationKind,
        params::{self, Params},
        response::{ObjectName, Response, has_response_type},
    },
    key::{content::OperationRequest, graphql::operation_hash},
    namespace::Namespace,
    status::{Bypass, NoStore},
};

impl Rule {
    /// Returns a rule for the route of a GraphQL server. It caches queries, by GET and by POST, and never a mutation or a subscription. Needs
    /// the feature `graphql`. [`guide::graphql`](crate::guide::graphql) describes it.
    ///
    /// - The key holds the document byte for byte (by its hash), the operation name, the variables and the extensions as
    ///   [JSON](crate::key::RequestBody::json), and `Accept`. A GET and a POST of one operation share their entry.
    /// - A POST needs the content type `application/json` and the members `query`, `operationName`, `variables` and `extensions`. A GET has
    ///   them in its query. Lists of requests, `@defer` and `@stream` bypass the cache.
    /// - A response is stored if it has status 200, the content type `application/json` or `application/graphql-response+json`, `data`, and
    ///   no `errors`.
    /// - A POST is a write for [`InvalidateLayer`](crate::InvalidateLayer) unless it is known to be a query or a subscription. A write
    ///   invalidates the namespaces that the rule names for writes, by default [its own](Self::namespace).
    /// - A hash without its document (automatic persisted queries) stands for the document that this process has seen with it, or that
    ///   [`graphql_document`](Self::graphql_document) has registered.
    /// - A request with credentials bypasses the cache unless the key holds an [identity](Self::identity).
    ///
    /// A [`RequestBodyLayer`](crate::RequestBodyLayer) must stand outside of the other two layers of this crate, as
    /// [`ResponseCache::layer_with_request_bodies`](crate::ResponseCache::layer_with_request_bodies) puts it. Without it, requests bypass the
    /// cache, a POST counts as a write, and a warning names the route.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::{Memory, ResponseCache, Rule};
    ///
    /// let rule = Rule::graphql(Duration::from_secs(60)).namespace("notes");
    /// let cache = ResponseCache::new(Memory::new(64 << 20)).route("/graphql", rule);
    /// # drop(cache.layer_with_request_bodies());
    /// ```
    #[cfg_attr(docsrs, doc(cfg(feature = "graphql")))]
    pub fn graphql(ttl: Duration) -> Self {
        let mut rule = Self::ttl(ttl).reads_by_post();
        rule.content.graphql = Some(GraphqlOptions::default());
        rule
    }

    /// Registers a document for a [`graphql`](Self::graphql) rule, so that a request with nothing but the document's SHA-256 hash is cached from
    /// the start. This is for persisted queries that are known at build time.
    ///
    /// The text must be byte for byte the one that the hash of the clients was computed from. A text that is not an executable document is
    /// an error when the rule is added to a route.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::Rule;
    ///
    /// let rule = Rule::graphql(Duration::from_secs(60)).graphql_document("query Notes { notes { text } }");
    /// # drop(rule);
    /// ```
    #[cfg_attr(docsrs, doc(cfg(feature = "graphql")))]
    #[must_use]
    pub fn graphql_document(self, text: &str) -> Self {
        self.graphql_option("graphql_document", |options| match options.documents.parse(text) {
            Ok(known) => drop(options.registered.insert(sha256(text), known)),
            Err(_) => options.invalid_document = Some(text.to_owned()),
        })
    }

    /// Takes namespaces from the data of responses, for [`graphql`](Self::graphql) rules: from the objects with a `__typename`.
    ///
    /// The entry of a query belongs to `graphql:Note:7` for an object of the type `Note` with the `id` 7 (a text or a whole number), and to
    /// `graphql:Note` for one without an `id`. A mutation invalidates `graphql:Note`, and so all notes, because it may move an object into a
    /// list that did not contain it. A mutation whose response cannot be read, or has both `data` and `errors`, invalidates all entries.
    /// [`Stats::unread_writes`](crate::Stats::unread_writes) counts these, and a warning names the route.
    ///
    /// Under a rule without other namespaces, each object inside of the data must have a `__typename`, and there must be one. Otherwise a response
    /// to a query is not stored, and a mutation invalidates all entries. Give the rule a [`namespace`](Self::namespace) if clients leave
    /// `__typename` out. An alias with the name `__typename` or `id` may hide an object: such a query bypasses the cache, and such a mutation
    /// invalidates all entries. A list inside of an object names nothing while it is empty. A response that names more than 128 namespaces is not
    /// stored.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::Rule;
    ///
    /// let rule = Rule::graphql(Duration::from_secs(60)).graphql_entities();
    /// # drop(rule);
    /// ```
    #[cfg_attr(docsrs, doc(cfg(feature = "graphql")))]
    #[must_use]
    pub fn graphql_entities(self) -> Self {
        self.graphql_option("graphql_entities", |options| options.reads_entities = true)
    }

    fn graphql_option(mut self, name: &'static str, set: impl FnOnce(&mut GraphqlOptions)) -> Self {
        match &mut self.content.graphql {
            Some(options) => set(options),
            None => self.misplaced = Some((name, "a rule for GraphQL (Rule::graphql(…), or `graphql = true` in a file)")),
        }
        self
    }
}

/// Requests.
impl Policy {
    /// Reads the operation of a GET, whose parameters stand in the query.
    pub(crate) fn operation_of_get(&self, uri: &Uri, has_content: bool) -> OperationRequest {
        let read = match has_content {
            true => Err(Bypass::RequestBody),
            false => Params::of_query(uri.query().unwrap_or_default()).map_err(|_| Bypass::GraphqlRequest),
        };
        self.operation(uri, read)
    }

    /// Reads the operation of a request whose parameters stand in its content.
    pub(crate) fn operation_of_content(&self, uri: &Uri, headers: &HeaderMap, content: &[u8]) -> OperationRequest {
        // With parameters in both places, a server may take either.
        let is_plain = params::is_json(headers) && !uri.query().is_some_and(params::has_params);
        let read = if is_plain { Params::of_json(content).ok() } else { None };
        self.operation(uri, read.ok_or(Bypass::GraphqlRequest))
    }

    fn operation(&self, uri: &Uri, params: Result<Params, Bypass>) -> OperationRequest {
        let mut read = OperationRequest {
            operation: Err(Bypass::GraphqlRequest),
            is_read: false,
            names_mislead: true,
            target: uri.path_and_query().cloned(),
        };
        read.operation = params.and_then(|params| {
            let (known, is_verified) = self.document(&params)?;
            let kind = known.document.select(params.operation_name.as_deref());
            // A server may execute the document of the hash.
            read.is_read = is_verified && kind.is_some_and(|kind| kind != OperationKind::Mutation);
            read.names_mislead = !is_verified || known.document.has_reserved_alias();
            match kind {
                _ if !is_verified => Err(Bypass::GraphqlPersisted),
                Some(OperationKind::Query) if read.names_mislead && self.content().reads_entities() => {
                    Err(Bypass::GraphqlOperation)
                }
                Some(OperationKind::Query) if known.document.is_incremental() => Err(Bypass::GraphqlIncremental),
                Some(OperationKind::Query) => Ok(operation_hash(&known.hash, &params)),
                _ => Err(Bypass::GraphqlOperation),
            }
        });
        read
    }

    /// Returns the document of a request, and true unless the request states another hash for it.
    fn document(&self, params: &Params) -> Result<(Arc<KnownDocument>, bool), Bypass> {
        let options = self.content().graphql.as_ref().ok_or(Bypass::GraphqlRequest)?;
        let GraphqlOptions { documents, registered, .. } = options;
        match (&params.query, &params.persisted) {
            (Some(text), stated) => {
                let known = documents.parse(text).map_err(|_| Bypass::GraphqlDocument)?;
                let is_verified = stated.is_none_or(|stated| stated == sha256(text));
                if let Some(hash) = stated.filter(|_| is_verified) {
                    documents.remember(hash, &known);
                }
                Ok((known, is_verified))
            }
            (None, Some(hash)) => {
                let known = registered.get(hash).cloned().or_else(|| documents.of_hash(hash));
                known.map(|known| (known, true)).ok_or(Bypass::GraphqlPersisted)
            }
            (None, None) => Err(Bypass::GraphqlRequest),
        }
    }

    /// Returns the target of a request without the parameters of its operation, so that a GET and a POST have the same.
    pub(super) fn target_without_params(uri: &Uri) -> Option<Uri> {
        let query = uri.query()?;
        let kept = params::without_params(query);
        if kept.len() == query.len() {
            return None;
        }
        let path = uri.path();
        let target = if kept.is_empty() { path.to_owned() } else { format!("{path}?{kept}") };
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(target.parse().ok()?);
        Uri::from_parts(parts).ok()
    }
}

/// Responses.
impl Policy {
    /// Checks the complete response to a query. Returns the namespaces that its data name.
    pub(crate) fn check_graphql(&self, headers: &HeaderMap, content: &[u8]) -> Result<Vec<Namespace>, NoStore> {
        let response = read(headers, content)?;
        if response.has_errors() {
            return Err(NoStore::GraphqlErrors);
        }
        if !self.content().reads_entities() {
            return Ok(Vec::new());
        }
        let name = |ObjectName { typename, id }| match id {
            Some(id) => Namespace::of([ROOT, &typename, &id]),
            None => Namespace::of([ROOT, &typename]),
        };
        let objects = response.objects().ok_or(NoStore::GraphqlResponse)?;
        if !objects.are_all_named() && !self.names_entries() && !self.lists_namespaces(headers) {
            return Err(NoStore::GraphqlTypename);
        }
        Ok(objects.named.into_iter().map(name).collect())
    }

    /// Returns the namespaces that a mutation invalidates by its complete response: the types of its objects. The types do not count if they mislead.
    pub(super) fn types_written(
        &self,
        headers: &HeaderMap,
        content: &[u8],
        is_misleading: bool,
    ) -> Result<Vec<Namespace>, Unread> {
        let unread = |reason, error: &str| Unread { reason, error: error.to_owned() };
        let response =
            read(headers, content).map_err(|reason| unread(reason, "the response to a mutation is not one of GraphQL"))?;
        if !response.has_data() {
            // Nothing was executed.
            return Ok(Vec::new());
        }
        if is_misleading {
            let error = "the document of a mutation is not known, or has an alias `__typename` or `id`";
            return Err(unread(NoStore::ContentUnreadable, error));
        }
        if response.has_errors() {
            return Err(unread(
                NoStore::GraphqlErrors,
                "a mutation has failed in part, and its response does not say what has changed",
            ));
        }
        let too_deep = || unread(NoStore::GraphqlResponse, "the response to a mutation is nested too deeply");
        let objects = response.objects().ok_or_else(too_deep)?;
        if !objects.are_all_named() && !self.names_writes() && !self.lists_invalidations(headers) {
            return Err(unread(
                NoStore::GraphqlTypename,
                "the response to a mutation has no object, or one without `__typename`. Select `__typename`, or name namespaces in the rule",
            ));
        }
        let types: BTreeSet<_> = objects.named.into_iter().map(|object| object.typename).collect();
        Ok(types.iter().map(|typename| Namespace::of([ROOT, typename])).collect())
    }
}

/// The namespaces that the rule itself names.
impl Policy {
    /// Returns true if the rule itself names namespaces of its entries.
    fn names_entries(&self) -> bool {
        let messages = &self.rule.messages;
        !self.rule.namespaces.is_empty() || !self.rule.namespaces_by.is_empty() || !messages.reads_none_of_reads()
    }

    /// Returns true if the rule names namespaces for writes, beside those in messages.
    fn names_writes(&self) -> bool {
        !self.fixed_invalidations.is_empty() || !self.invalidations.is_empty() || !self.rule.writes.computed.is_empty()
    }
}

/// The first level of the namespaces of objects.
const ROOT: &str = "graphql";

fn read<'a>(headers: &HeaderMap, content: &'a [u8]) -> Result<Response<'a>, NoStore> {
    if headers.contains_key(header::CONTENT_ENCODING) {
        return Err(NoStore::ContentCompressed);
    }
    Response::read(content).filter(|_| has_response_type(headers)).ok_or(NoStore::GraphqlResponse)
}
