//! The options of a rule for the content of requests, as data.

#[cfg(feature = "graphql")]
use std::collections::BTreeSet;
use std::time::Duration;

/// The options of a rule for the content of requests.
#[derive(Debug, Clone)]
pub(super) struct ContentOptions {
    /// A POST reads.
    pub(super) by_post: bool,
    /// The size of the largest content that is read, in bytes.
    pub(super) max: usize,
    /// The options for calls by RPC, under a rule for them.
    pub(super) rpc: Option<RpcOptions>,
    /// The options for GraphQL, under a rule for it.
    #[cfg(feature = "graphql")]
    pub(super) graphql: Option<super::graphql_documents::GraphqlOptions>,
}

#[cfg(feature = "graphql")]
impl ContentOptions {
    pub(super) fn is_graphql(&self) -> bool {
        self.graphql.is_some()
    }

    /// Returns true if the data in responses name namespaces.
    pub(super) fn reads_entities(&self) -> bool {
        self.graphql.as_ref().is_some_and(|options| options.reads_entities)
    }

    /// Returns true if responses under both options have the same namespaces.
    pub(super) fn names_objects_as(&self, other: &Self) -> bool {
        let documents = |options: &Self| -> BTreeSet<[u8; 32]> {
            options.graphql.iter().flat_map(|options| options.registered.keys().copied()).collect()
        };
        self.is_graphql() == other.is_graphql()
            && self.reads_entities() == other.reads_entities()
            && documents(self) == documents(other)
    }
}

#[cfg(not(feature = "graphql"))]
impl ContentOptions {
    pub(super) fn is_graphql(&self) -> bool {
        false
    }

    pub(super) fn reads_entities(&self) -> bool {
        false
    }

    pub(super) fn names_objects_as(&self, _: &Self) -> bool {
        true
    }
}

/// The options of a rule for calls by RPC.
#[derive(Debug, Clone, Default)]
pub(super) struct RpcOptions {
    /// The lifetimes of responses with a status other than 0.
    pub(super) statuses: Vec<(i32, Duration)>,
    /// Responses from the cache have an `Age`.
    pub(super) shows_age: bool,
}

impl Default for ContentOptions {
    fn default() -> Self {
        Self {
            by_post: false,
            max: 64 << 10,
            rpc: None,
            #[cfg(feature = "graphql")]
            graphql: None,
        }
    }
}
