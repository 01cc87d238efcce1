//! GraphQL: the query `airline` and the mutation `renameAirline`.

use async_graphql::{Context, EmptySubscription, Object, Schema, SimpleObject};
use async_graphql_axum::GraphQL;
use axum::{Router, routing::post_service};

use super::table::Table;

/// An airline. Its id is the carrier code.
#[derive(SimpleObject)]
struct Airline {
    id: String,
    name: String,
}

struct Query;

#[Object]
impl Query {
    async fn airline(&self, context: &Context<'_>, carrier: String) -> Option<Airline> {
        let name = context.data_unchecked::<Table>().name(&carrier)?;
        Some(Airline { id: carrier, name })
    }
}

struct Mutation;

#[Object]
impl Mutation {
    async fn rename_airline(&self, context: &Context<'_>, carrier: String, name: String) -> Option<Airline> {
        let is_known = context.data_unchecked::<Table>().rename(&carrier, &name);
        is_known.then_some(Airline { id: carrier, name })
    }
}

pub(crate) fn routes(table: Table) -> Router {
    let schema = Schema::build(Query, Mutation, EmptySubscription).data(table).finish();
    Router::new().route("/graphql", post_service(GraphQL::new(schema)))
}
