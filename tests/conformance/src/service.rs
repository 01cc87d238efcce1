//! A service that answers as the message of its call says, by all three protocols.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use buffa_types::google::protobuf::StringValue;
use connectrpc::{
    ConnectError, ConnectRpcService, ErrorCode, Limits, RequestContext, Response, Router, ServiceResult, ServiceStream,
    bidi_streaming_handler_fn, client_streaming_handler_fn, error::ErrorDetail, handler_fn, streaming_handler_fn,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

pub const SERVICE: &str = "conformance.v1.Service";

/// The size that a message may have.
pub const MAX_MESSAGE: usize = 200 << 10;

/// Returns the service, which counts the calls that reach a method.
pub fn service(calls: &Arc<AtomicUsize>) -> ConnectRpcService {
    let unary = || {
        let calls = calls.clone();
        handler_fn(move |context: RequestContext, message: StringValue| {
            calls.fetch_add(1, Ordering::SeqCst);
            respond(context, vec![message.value])
        })
    };
    let router = Router::new()
        .route(SERVICE, "Unary", unary())
        .route_idempotent(SERVICE, "Idempotent", unary())
        .route_server_stream(
            SERVICE,
            "ServerStream",
            streaming_handler_fn(|context: RequestContext, message: StringValue| respond_many(context, vec![message.value])),
        )
        .route_client_stream(
            SERVICE,
            "ClientStream",
            client_streaming_handler_fn(|context: RequestContext, messages: ServiceStream<StringValue>| async move {
                respond(context, collect(messages).await?).await
            }),
        )
        .route_bidi_stream(
            SERVICE,
            "Bidi",
            bidi_streaming_handler_fn(|context: RequestContext, messages: ServiceStream<StringValue>| async move {
                respond_many(context, collect(messages).await?).await
            }),
        );
    ConnectRpcService::new(router).with_limits(Limits::default().with_max_message_size(MAX_MESSAGE))
}

async fn collect(messages: ServiceStream<StringValue>) -> Result<Vec<String>, ConnectError> {
    messages.map_ok(|message| message.value).try_collect().await
}

/// Returns the only response to messages, of which the first one defines it.
async fn respond(context: RequestContext, messages: Vec<String>) -> ServiceResult<StringValue> {
    let definition = definition(&messages);
    if definition["waits"] == true {
        std::future::pending::<()>().await;
    }
    let (headers, trailers) = metadata(&definition);
    if let Some(error) = error(&definition) {
        return Err(error.with_headers(headers).with_trailers(trailers));
    }
    let mut response = Response::new(StringValue::from(echo(&context, &messages)));
    (response.headers, response.trailers) = (headers, trailers);
    Ok(response.compress(definition["compress"].as_bool()))
}

/// Returns as many messages as the first message says, and then its error.
async fn respond_many(context: RequestContext, messages: Vec<String>) -> ServiceResult<ServiceStream<StringValue>> {
    let definition = definition(&messages);
    let (headers, trailers) = metadata(&definition);
    let text = echo(&context, &messages);
    let count = definition["responses"].as_u64().unwrap_or(0);
    let all = (0..count).map(move |n| Ok(StringValue::from(format!("{n} {text}"))));
    let last = error(&definition).map(|error| Err(error.with_trailers(trailers.clone())));
    let mut response = Response::stream(stream::iter(all).chain(stream::iter(last)));
    (response.headers, response.trailers) = (headers, trailers);
    Ok(response)
}

fn definition(messages: &[String]) -> Value {
    messages.first().and_then(|message| serde_json::from_str(message).ok()).unwrap_or_default()
}

/// Returns the view that the method has of the call: its messages, and the metadata of the table.
fn echo(context: &RequestContext, messages: &[String]) -> String {
    let lines = |name| context.headers().get_all(name).iter().collect::<Vec<_>>();
    format!("{messages:?} {:?} {:?}", lines("x-conformance-test"), lines("x-conformance-bin"))
}

fn metadata(definition: &Value) -> (HeaderMap, HeaderMap) {
    let map = |name: &str| {
        let pairs = definition[name].as_array().into_iter().flatten();
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        pairs
            .map(|pair| {
                let name: HeaderName = text(&pair[0]).parse().expect("a name");
                (name, HeaderValue::try_from(text(&pair[1])).expect("a value"))
            })
            .fold(HeaderMap::new(), |mut map, (name, value)| {
                map.append(name, value);
                map
            })
    };
    (map("headers"), map("trailers"))
}

fn error(definition: &Value) -> Option<ConnectError> {
    let code = ErrorCode::from_grpc_code(u32::try_from(definition["error"].as_u64()?).ok()?)?;
    let error = ConnectError::new(code, definition["says"].as_str().unwrap_or("no"));
    Some(match definition["details"] == true {
        true => error.with_detail(ErrorDetail::from_message("google.protobuf.StringValue", &StringValue::from("why"))),
        false => error,
    })
}
