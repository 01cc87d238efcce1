//! Writes by gRPC: their outcome is a status, in the head of the response or at its end.

use http::{Response, StatusCode};

use super::{
    body::{CallEnd, InvalidateBody, Settling},
    outcome::Invalidation,
    write::Write,
};
use crate::{
    extensions::Invalidations,
    namespace::set::Namespaces,
    rpc::outcome::{as_http, status},
    rules::failure::OnDeliveryTimeout,
    store::Store,
};

/// A call that has sent the head of its response.
struct Call<St: Store> {
    write: Write<St>,
    /// The namespaces that the handler has named.
    said: Namespaces,
    /// The namespaces were invalidated before the head was sent.
    was_early: bool,
}

impl<St: Store> Write<St> {
    /// Returns the status of a response, in terms of HTTP. `None` if it stands at the end of the response.
    pub(super) fn status_of<B>(&self, response: &Response<B>) -> Option<StatusCode> {
        if !self.is_call || response.status() != StatusCode::OK {
            return Some(response.status());
        }
        status(response.headers()).map(as_http)
    }

    /// Returns the response to a call whose status stands at its end.
    ///
    /// A call is invalidated before the head of its response, because most methods have ended by then and their message follows at once. It is
    /// invalidated again before its status if the method was still running. If the rule keeps entries after some errors, or if a fence keeps
    /// readers away meanwhile, it is invalidated before its status alone.
    pub(super) async fn respond_to_call<B>(mut self, response: Response<B>) -> Response<InvalidateBody<B>> {
        let said = response.extensions().get().map(Invalidations::namespaces).unwrap_or_default();
        let said = Namespaces::exactly(said);
        let response = self.add_names_of(response, StatusCode::OK);
        if self.invalidated().is_empty() {
            self.has_settled(true);
            return response.map(InvalidateBody::inner);
        }
        let was_early = self.fence.is_none() && !self.depends_on_status();
        let mut outcome = None;
        if was_early {
            outcome = self.settle(true).await;
            self.has_settled(false);
        }
        let mut response = response;
        if let Some(outcome) = outcome {
            response = self.marked(response, outcome);
        }
        let was_early = was_early && outcome == Some(Invalidation::Delivered);
        let call = Box::new(Call { write: self, said, was_early });
        response.map(|body| InvalidateBody::call(body, call))
    }

    /// Says if the write needs an invalidation when it is dropped.
    fn has_settled(&mut self, settled: bool) {
        self.settled = settled;
    }

    /// Returns true if the rule keeps entries after some errors.
    fn depends_on_status(&self) -> bool {
        let changes = |status| self.rule.as_ref().is_none_or(|rule| rule.may_have_changed(status));
        !changes(StatusCode::BAD_REQUEST) || !changes(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl<St: Store> CallEnd for Call<St> {
    fn settle(self: Box<Self>, status: Option<i32>, has_waited: bool) -> Settling {
        let Self { mut write, said, was_early } = *self;
        // A call without a status may have changed data.
        let status = status.map_or(StatusCode::INTERNAL_SERVER_ERROR, as_http);
        Box::pin(async move {
            if write.rule.as_ref().is_some_and(|rule| !rule.may_have_changed(status)) {
                write.names = said;
            }
            if was_early && !has_waited {
                write.has_settled(true);
                return false;
            }
            let outcome = write.settle(!status.is_server_error()).await;
            outcome == Some(Invalidation::Undelivered) && write.delivery_timeout().1 == OnDeliveryTimeout::Reject
        })
    }
}
