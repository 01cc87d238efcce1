//! Writes whose messages name the namespaces to invalidate.

use http::{HeaderMap, Response, StatusCode, header, response};
use http_body::Body;

use super::{
    body::InvalidateBody,
    held::{HeldBody, Limits, WholeContent},
    write::{Write, is_known},
};
use crate::{
    budget::Share,
    entry::header_template::is_event_stream,
    key::{RequestView, content::RequestContent},
    rpc::{
        Protocol, StatusPlace,
        outcome::{self, CallOutcome},
    },
    rules::{RouteMatch, end_check::Unread, policy::Policy, views::Views},
    store::Store,
};

/// The head of a response.
struct Head {
    status: StatusCode,
    headers: HeaderMap,
}

/// Returns true for a response that is sent in parts, for as long as its client wants: events, and incremental responses of GraphQL.
fn is_stream(headers: &HeaderMap) -> bool {
    const MULTIPART: &[u8] = b"multipart/";
    let is_multipart = |kind: &[u8]| kind.get(..MULTIPART.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(MULTIPART));
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| is_event_stream(kind) || is_multipart(kind.as_bytes()))
}

impl<St: Store> Write<St> {
    /// Adds the namespaces that the content of the request names under one rule.
    pub(super) fn add_names_in_request(&mut self, rule: &Policy, request: &RequestView<'_>) {
        let unread = |error: String| Unread { error, ..Unread::not_a_message() };
        let names = match RequestContent::of(request.extensions()).map(|content| &content.content) {
            None => Err(unread("no RequestBodyLayer stands outside of InvalidateLayer".into())),
            Some(Err(reason)) => Err(unread(format!("the content was not read: {reason}"))),
            Some(Ok(content)) => rule.invalidations_in_request(request, content),
        };
        match names {
            Ok(names) => self.names.extend_exactly(&names),
            Err(error) => self.has_unread(rule.route(), &error),
        }
    }

    /// Reads the response up to `max` bytes, invalidates the namespaces that it names, and passes it on.
    pub(super) async fn respond_with_message<B>(mut self, response: Response<B>, max: usize) -> Response<InvalidateBody<B>>
    where
        B: Body,
    {
        let (parts, body) = response.into_parts();
        let limits = Limits { bytes: max, is_framed: self.status_place != StatusPlace::Head };
        let mut body = HeldBody::untouched(body);
        let share = Share::of(self.shared.budget.clone());
        let renewal = self.renewal();
        let content = if is_stream(&parts.headers) { None } else { body.read(limits, share).await };
        drop(renewal);
        let Some(content) = content else {
            self.has_unread_response("the response is too large, too slow, a stream, or cut off".into());
            return self.respond(Response::from_parts(parts, body)).await;
        };
        let status = self.status_at_end(&parts, &content);
        let for_names = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let head = Head { status: parts.status, headers: parts.headers.clone() };
        let (response, by_rule) = self.add_names_of(Response::from_parts(parts, body), for_names);
        if by_rule {
            self.add_names_in_response(&head, for_names, &content.bytes);
        }
        drop(content);
        self.answered(response.map(InvalidateBody::held), status.is_some_and(is_known)).await
    }

    /// Returns the status of a complete response, in terms of HTTP. Returns `None` for a call without a status.
    fn status_at_end(&self, parts: &response::Parts, content: &WholeContent) -> Option<StatusCode> {
        let WholeContent { bytes, trailers } = content;
        if self.status_place == StatusPlace::Head || parts.status != StatusCode::OK {
            return Some(parts.status);
        }
        let protocol = if self.status_place == StatusPlace::Trailers { Protocol::Grpc } else { Protocol::GrpcWeb };
        match outcome::outcome(protocol, &parts.headers, bytes, trailers.as_ref()) {
            CallOutcome::Message => Some(StatusCode::OK),
            CallOutcome::Status(status) => Some(outcome::as_http(status)),
            CallOutcome::NotUnary => None,
        }
    }

    /// Adds the namespaces in a complete response.
    fn add_names_in_response(&mut self, response: &Head, status: StatusCode, content: &[u8]) {
        if status.is_client_error() {
            return;
        }
        if status.is_server_error() {
            // Something may have changed, and the response does not say what.
            self.has_unread_response(format!("the outcome of the write is not known, its status is {status}"));
            return;
        }
        let mut unread = None;
        let mut names = Vec::new();
        if let Some(head) = &self.head {
            let secret = &self.shared.store.context().secret;
            self.rules.each_covering(&Views::of(&head.uri, &head.extensions), |RouteMatch { rule, params, .. }| {
                if !rule.reads_written_responses() {
                    return;
                }
                let view = RequestView::of_parts(head, &params, secret);
                match rule.invalidations_in_response(&view, response.status, &response.headers, content) {
                    Ok(found) => names.extend(found),
                    Err(error) => unread = Some(error),
                }
            });
        }
        self.names.extend_exactly(&names);
        if let Some(unread) = unread {
            self.has_unread_response(unread.error);
        }
    }

    /// Lets the write invalidate all entries, because its response could not be read.
    pub(super) fn has_unread_response(&mut self, error: String) {
        let rule = self.rule.clone();
        let route = rule.as_ref().and_then(|rule| rule.route());
        self.has_unread(route, &Unread { error, ..Unread::not_a_message() });
    }

    fn has_unread(&mut self, route: Option<&str>, unread: &Unread) {
        self.unread = true;
        let context = self.shared.store.context();
        context.counters.unread_write(route, &unread.error, context.clock.nanos());
    }
}
