//! A tonic server with a cache: the gRPC method `Notes.Add` invalidates the responses of `GET /notes`.
//!
//! ```sh
//! cargo run --example tonic                      # the server, on port 3000
//! curl -i localhost:3000/notes                   # tonic; fwd=uri-miss; stored
//! curl -i localhost:3000/notes                   # tonic; hit; ttl=58
//! cargo run --example tonic -- 'buy milk'        # calls Notes.Add
//! curl -i localhost:3000/notes                   # tonic; fwd=uri-miss; stored, with the note
//! ```
//!
//! No method here reads. A method that reads has a rule of its own, `Rule::rpc`: see `examples/grpc`, the guide's page on RPC, and the tests in
//! `examples/tonic/rpc`.

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::Request, extract::State, response::IntoResponse, routing::get, routing::post};
use tokio::sync::Mutex;
use tonic::transport::{Endpoint, Server};
use tonic_prost::ProstCodec;
use tower_response_cache::{BoxError, Memory, ResponseCache, Rule};

const ADD: &str = "/notes.Notes/Add";

type Notes = Arc<Mutex<Vec<String>>>;

/// The method `Add`. Usually tonic generates this code from a file, and `add_service` adds it to the server.
async fn add(State(notes): State<Notes>, request: Request) -> impl IntoResponse {
    let add = tower::service_fn(move |request: tonic::Request<String>| {
        let notes = notes.clone();
        async move {
            notes.lock().await.push(request.into_inner());
            Ok(tonic::Response::new(()))
        }
    });
    tonic::server::Grpc::new(ProstCodec::<(), String>::default()).unary(add, request).await
}

async fn serve() -> Result<(), BoxError> {
    let minute = Duration::from_secs(60);
    let cache = ResponseCache::new(Memory::new(64 << 20))
        .route("/notes", Rule::ttl(minute).namespace("notes"))
        .route(ADD, Rule::uncached().invalidates("notes"))
        .cache_status("tonic");
    let list = async |State(notes): State<Notes>| notes.lock().await.join("\n") + "\n";
    let routes = Router::new().route("/notes", get(list)).route(ADD, post(add)).with_state(Notes::default());
    let server = Server::builder().accept_http1(true).layer(cache.layer()).add_routes(routes.into());
    Ok(server.serve("127.0.0.1:3000".parse()?).await?)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let Some(note) = std::env::args().nth(1) else { return serve().await };
    let mut client = tonic::client::Grpc::new(Endpoint::from_static("http://127.0.0.1:3000").connect().await?);
    client.ready().await?;
    client.unary(tonic::Request::new(note), ADD.parse()?, ProstCodec::<String, ()>::default()).await?;
    Ok(())
}
