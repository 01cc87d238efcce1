//! Writes by RPC whose status does not stand in the head of the response.

use http::{Response, StatusCode};
use http_body::Body;
use tokio::{runtime::Handle, task::AbortHandle};

use super::{
    body::{CallEnd, InvalidateBody, Settling},
    held::HeldBody,
    outcome::Invalidation,
    write::Write,
};
use crate::{
    extensions::Invalidations,
    namespace::set::Namespaces,
    rpc::{
        StatusPlace,
        outcome::{as_http, status},
    },
    rules::failure::OnDeliveryTimeout,
    store::Store,
};

/// A call that has sent the head of its response.
struct Call<St: Store> {
    write: Write<St>,
    /// The namespaces that the handler has named.
    said: Namespaces,
    renewal: Option<FenceRenewal>,
}

/// A task that extends the deadline of a fence until it is dropped.
pub(super) struct FenceRenewal(AbortHandle);

impl Drop for FenceRenewal {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<St: Store> Write<St> {
    /// Returns the status of a response, in terms of HTTP. `None` if it stands at the end of the response.
    pub(super) fn status_of<B>(&self, response: &Response<B>) -> Option<StatusCode> {
        if self.status_place == StatusPlace::Head || response.status() != StatusCode::OK {
            return Some(response.status());
        }
        status(response.headers()).map(as_http)
    }

    /// Returns the response to a call whose status stands at its end. The call is invalidated there, before its trailers.
    ///
    /// A status in the body cannot be held. Such a call is invalidated before the head of its response as well, since most methods have ended by
    /// then. A fence keeps readers away meanwhile.
    pub(super) async fn respond_to_call<B: Body>(mut self, response: Response<HeldBody<B>>) -> Response<InvalidateBody<B>> {
        let said = response.extensions().get().map(Invalidations::namespaces).unwrap_or_default();
        let said = Namespaces::exactly(said);
        let (mut response, _) = self.add_names_of(response, StatusCode::OK);
        if self.invalidated().is_empty() {
            self.settled = true;
            return response.map(InvalidateBody::held);
        }
        if self.status_place == StatusPlace::Body && self.fence.is_none() {
            if let Some(outcome) = self.settle(false).await {
                response = self.marked(response, outcome);
            }
            self.settled = false;
        }
        let renewal = self.renewal();
        let call = Box::new(Call { write: self, said, renewal });
        response.map(|body| InvalidateBody::call(body, call))
    }

    /// Starts to extend the deadline of the fence, if there is one that needs it.
    pub(super) fn renewal(&self) -> Option<FenceRenewal> {
        let (names, fence) = self.fence.as_deref()?.clone();
        let (after, shared, rule) = (fence.renew_after()?, self.shared.clone(), self.rule.clone());
        let renewing = async move { shared.renew_fence::<()>(&names, &fence, after, rule.as_deref()).await };
        Some(FenceRenewal(Handle::try_current().ok()?.spawn(renewing).abort_handle()))
    }
}

impl<St: Store> CallEnd for Call<St> {
    fn settle(self: Box<Self>, status: Option<i32>) -> Settling {
        let Self { mut write, said, renewal } = *self;
        let status = status.map(as_http);
        Box::pin(async move {
            // A call without a status may have changed data.
            if let (Some(rule), Some(status)) = (&write.rule, status)
                && !rule.may_have_changed(status)
            {
                write.names = said;
                write.unread = false;
            }
            write.unread &= !status.is_some_and(|status| status.is_client_error());
            let outcome = write.settle(status.is_some_and(|status| !status.is_server_error())).await;
            drop(renewal);
            outcome == Some(Invalidation::Undelivered) && write.delivery_timeout().1 == OnDeliveryTimeout::Reject
        })
    }
}
