//! Responses to calls by RPC.

use std::{future::Future, sync::Arc};

use http::{Response, header};
use tokio::time::{Instant, timeout_at};

use crate::{
    body::CacheBody,
    rpc::{Call, deadline},
    state::LayerState,
    status::{CacheStatus, Outcome},
    store::Store,
};

/// Awaits the response to a call until the deadline of the call. Without an `Age`, a response from the store equals the response of the method.
pub(crate) async fn respond_to_call<F, St, B, E>(
    (call, deadline): (Call, Option<Instant>),
    shared: Arc<LayerState<St>>,
    response: F,
) -> Result<Response<CacheBody<B>>, E>
where
    F: Future<Output = Result<Response<CacheBody<B>>, E>>,
    St: Store,
{
    let mut response = match deadline {
        None => response.await?,
        Some(deadline) => match timeout_at(deadline, response).await {
            Ok(response) => response?,
            Err(_) => {
                let response = deadline::exceeded(call.protocol).map(|body| CacheBody::whole(body, None));
                return Ok(shared.marked(response, CacheStatus::new(Outcome::DeadlineExceeded)));
            }
        },
    };
    if !call.shows_age {
        response.headers_mut().remove(header::AGE);
    }
    Ok(response)
}
