//! Responses to calls by RPC.

use std::future::Future;

use http::{Response, header};
use tokio::time::timeout_at;

use crate::{
    body::CacheBody,
    rpc::{Call, deadline},
};

/// Awaits the response to a call until the deadline of the call. Without an `Age`, a response from the store equals the response of the method.
pub(crate) async fn respond_to_call<F, B, E>(call: Call, response: F) -> Result<Response<CacheBody<B>>, E>
where
    F: Future<Output = Result<Response<CacheBody<B>>, E>>,
{
    let mut response = match call.deadline {
        None => response.await?,
        Some(deadline) => match timeout_at(deadline, response).await {
            Ok(response) => response?,
            Err(_) => return Ok(deadline::exceeded(call.protocol).map(|body| CacheBody::whole(body, None))),
        },
    };
    if !call.shows_age {
        response.headers_mut().remove(header::AGE);
    }
    Ok(response)
}
