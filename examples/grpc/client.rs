//! Clients of the three interfaces, over TCP.

use std::net::SocketAddr;

use axum::http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};
use tower_response_cache::BoxError;

use super::rpc::proto::{Airline, GetRequest, airlines_client::AirlinesClient};

/// An interface of the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interface {
    Rest,
    Grpc,
    GraphQl,
}

impl Interface {
    /// All interfaces.
    pub(crate) const ALL: [Self; 3] = [Self::Rest, Self::Grpc, Self::GraphQl];

    /// Returns the name for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rest => "REST",
            Self::Grpc => "gRPC",
            Self::GraphQl => "GraphQL",
        }
    }
}

/// A client of all interfaces.
pub(crate) struct Clients {
    address: SocketAddr,
    http: Client<HttpConnector, Full<axum::body::Bytes>>,
    grpc: AirlinesClient<Channel>,
}

/// The result of a read: the name, and the `Cache-Status` of the response.
pub(crate) struct Read {
    pub(crate) name: String,
    pub(crate) status: String,
}

impl Clients {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self, BoxError> {
        let channel = Endpoint::try_from(format!("http://{address}"))?.connect().await?;
        let http = Client::builder(TokioExecutor::new()).build_http();
        Ok(Self { address, http, grpc: AirlinesClient::new(channel) })
    }

    /// Reads the name of an airline.
    pub(crate) async fn read(&self, by: Interface, carrier: &str) -> Result<Read, BoxError> {
        match by {
            Interface::Rest => {
                let response = self.send(Method::GET, &format!("/airlines/{carrier}"), "text/plain", String::new()).await?;
                let status = text_of(response.headers().get("cache-status"));
                Ok(Read { name: String::from_utf8(response.into_body())?, status })
            }
            Interface::Grpc => {
                let response = self.grpc.clone().get(GetRequest { carrier: carrier.to_owned() }).await?;
                let status = response.metadata().get("cache-status").and_then(|status| status.to_str().ok());
                Ok(Read { status: status.unwrap_or_default().to_owned(), name: response.into_inner().name })
            }
            Interface::GraphQl => {
                let query = "query($carrier: String!) { airline(carrier: $carrier) { __typename id name } }";
                let (data, status) = self.graphql(query, json!({ "carrier": carrier })).await?;
                Ok(Read { name: data["airline"]["name"].as_str().unwrap_or_default().to_owned(), status })
            }
        }
    }

    /// Renames an airline.
    pub(crate) async fn rename(&self, by: Interface, carrier: &str, name: &str) -> Result<(), BoxError> {
        match by {
            Interface::Rest => {
                let response = self.send(Method::PUT, &format!("/airlines/{carrier}"), "text/plain", name.to_owned()).await?;
                if !response.status().is_success() {
                    return Err(format!("PUT was answered with {}", response.status()).into());
                }
            }
            Interface::Grpc => {
                let airline = Airline { carrier: carrier.to_owned(), name: name.to_owned() };
                self.grpc.clone().rename(airline).await?;
            }
            Interface::GraphQl => {
                let mutation = "mutation($carrier: String!, $name: String!) {
                    renameAirline(carrier: $carrier, name: $name) { __typename id name }
                }";
                self.graphql(mutation, json!({ "carrier": carrier, "name": name })).await?;
            }
        }
        Ok(())
    }

    /// Sends an operation, and returns its data and the `Cache-Status` of the response.
    async fn graphql(&self, query: &str, variables: Value) -> Result<(Value, String), BoxError> {
        let content = json!({ "query": query, "variables": variables }).to_string();
        let response = self.send(Method::POST, "/graphql", "application/json", content).await?;
        let status = text_of(response.headers().get("cache-status"));
        let mut answer: Value = serde_json::from_slice(response.body())?;
        match answer.get("errors") {
            Some(errors) => Err(errors.to_string().into()),
            None => Ok((answer["data"].take(), status)),
        }
    }

    async fn send(&self, method: Method, path: &str, kind: &str, content: String) -> Result<Response<Vec<u8>>, BoxError> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header(header::CONTENT_TYPE, kind)
            .body(Full::from(content))?;
        let (head, body) = self.http.request(request).await?.into_parts();
        Ok(Response::from_parts(head, body.collect().await?.to_bytes().to_vec()))
    }
}

fn text_of(value: Option<&axum::http::HeaderValue>) -> String {
    value.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}
