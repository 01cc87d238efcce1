//! Rules: which responses of a route are cached, for how long, and which namespaces a write invalidates.

pub(crate) mod audit;
mod audit_options;
mod check;
#[cfg(feature = "config")]
pub(crate) mod config;
pub(crate) mod content;
pub(crate) mod content_options;
#[cfg(feature = "protobuf")]
mod descriptors;
pub(crate) mod difference;
pub(crate) mod end_check;
pub(crate) mod error;
mod facts;
pub(crate) mod failure;
pub(crate) mod fields;
#[cfg(feature = "graphql")]
pub(crate) mod graphql;
#[cfg(feature = "graphql")]
pub(crate) mod graphql_documents;
pub(crate) mod http;
mod keys;
pub(crate) mod learned;
pub(crate) mod live;
pub(crate) mod message_options;
pub(crate) mod messages;
pub(crate) mod policy;
#[cfg(feature = "dashboard")]
pub(crate) mod reload_history;
mod response_rules;
pub(crate) mod responses;
pub(crate) mod rpc;
pub(crate) mod rule;
pub(crate) mod summary;
pub(crate) mod table;
pub(crate) mod template;
pub(crate) mod variants;
pub(crate) mod views;
pub(crate) mod write_options;
pub(crate) mod writes;

#[cfg(feature = "config")]
#[cfg_attr(docsrs, doc(cfg(feature = "config")))]
pub use self::config::{
    error::RulesFileError,
    file::{LoadError, RulesFile, RulesWatch},
};
pub(crate) use self::table::RouteMatch;
pub use self::{
    error::{RulesError, RulesErrorKind},
    responses::ResponseRule,
    rule::Rule,
    table::Rules,
};
