//! gRPC: the service `airlines.v1.Airlines`.

use axum::Router;
use tonic::{Request, Response, Status, service::Routes};

use super::table::Table;
use proto::{
    Airline, GetRequest,
    airlines_server::{Airlines, AirlinesServer},
};

/// The generated code.
#[allow(missing_docs, unreachable_pub, reason = "generated")]
pub(crate) mod proto {
    tonic::include_proto!("airlines.v1");
}

pub(crate) fn routes(table: Table) -> Router {
    Routes::new(AirlinesServer::new(Service { table })).into_axum_router()
}

struct Service {
    table: Table,
}

#[tonic::async_trait]
impl Airlines for Service {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<Airline>, Status> {
        let GetRequest { carrier } = request.into_inner();
        let name = self.table.name(&carrier).ok_or_else(|| Status::not_found("no such airline"))?;
        Ok(Response::new(Airline { carrier, name }))
    }

    async fn rename(&self, request: Request<Airline>) -> Result<Response<Airline>, Status> {
        let airline = request.into_inner();
        match self.table.rename(&airline.carrier, &airline.name) {
            true => Ok(Response::new(airline)),
            false => Err(Status::not_found("no such airline")),
        }
    }
}
