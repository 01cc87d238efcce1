//! Responses to calls by RPC: stored only if the whole call has ended with one message and status 0, or with a status that the rule stores.

use http::{HeaderMap, Response};

use super::{Fill, admission::Admission, end::Refusal};
use crate::{
    rpc::{
        Protocol,
        frames::FrameCounter,
        outcome::{CallOutcome, is_failure, is_transient, outcome, status},
    },
    semantics::Failure,
    status::NoStore,
    store::Store,
};

impl<St: Store> Fill<St> {
    /// Checks the complete response to a call, and sets its lifetime by its status. Returns true if the response has a message.
    pub(super) fn admit_call(
        &self,
        protocol: Protocol,
        fit: &mut Admission,
        body: &[u8],
        trailers: Option<&HeaderMap>,
    ) -> Result<bool, Refusal> {
        match outcome(protocol, &fit.headers.map(), body, trailers) {
            CallOutcome::Message => Ok(true),
            CallOutcome::NotUnary => Err(Refusal { reason: NoStore::NotUnary, is_lasting: true }),
            CallOutcome::Status(status) => match self.request.rule.rpc_status_lifetime(status) {
                Some(ttl) => {
                    fit.times = self.times(ttl, None);
                    Ok(false)
                }
                None => Err(Refusal { reason: NoStore::RpcStatus, is_lasting: !is_transient(status) }),
            },
        }
    }

    /// Returns the failure that a response states: by its status or, in the head of a response to a call, by the status of the call.
    pub(super) fn failure_of<B>(&self, response: &Response<B>) -> Option<Failure> {
        let of_call = || is_failure(status(response.headers())?).then_some(Failure::ServerError);
        Failure::of_status(response.status()).or_else(|| self.framed().and_then(|_| of_call()))
    }

    /// Returns a counter of messages for a response that must have one.
    pub(super) fn frames(&self) -> Option<FrameCounter> {
        self.framed().map(|_| FrameCounter::default())
    }

    /// Returns the protocol of a call whose messages stand in frames.
    fn framed(&self) -> Option<Protocol> {
        self.request.plan.end.as_ref()?.framed
    }
}
