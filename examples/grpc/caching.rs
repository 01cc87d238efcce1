//! The rules of the cache: one namespace for each airline, whichever interface names it.

use std::time::Duration;

use tower_response_cache::{Memory, Namespace, ResponseCache, Rule};

use super::rpc::proto::{Airline, GetRequest};

/// The lifetime of all responses.
const MINUTE: Duration = Duration::from_secs(60);

/// Returns the namespace of an airline: the name that `graphql_entities` gives to an object of the type `Airline` with this id.
fn of_airline(carrier: &str) -> Namespace {
    Namespace::of(["graphql", "Airline", carrier])
}

pub(crate) fn cache() -> ResponseCache {
    let rest = Rule::ttl(MINUTE).namespace("graphql:Airline:{carrier}");
    let get = Rule::rpc(MINUTE).namespaces_from_request(|request| {
        let get: GetRequest = request.prost()?;
        Ok(vec![of_airline(&get.carrier)])
    });
    let rename = Rule::uncached().invalidates_from_request(|request| {
        let airline: Airline = request.prost()?;
        Ok(vec![of_airline(&airline.carrier)])
    });
    ResponseCache::new(Memory::new(64 << 20))
        .route("/airlines/{carrier}", rest)
        .route("/airlines.v1.Airlines/Get", get)
        .route("/airlines.v1.Airlines/Rename", rename)
        .route("/graphql", Rule::graphql(MINUTE).graphql_entities())
        .cache_status("example")
}
