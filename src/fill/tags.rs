//! Cache tags of responses that do not come from the store.

use std::{future::Future, iter, sync::Arc};

use http::{HeaderMap, Request, Response, StatusCode, response};
use http_body::Body;

use super::{Answer, Fill, forwarded::Forwarded};
use crate::{
    body::CacheBody,
    cdn::response::TaggedBy,
    error::BoxError,
    extensions::CachePolicy,
    key::{KeyRef, RequestView},
    namespace::{fields::NamingFields, set::Namespaces},
    rules::policy::{Policy, ReadPlan},
    state::LayerState,
    status::{Bypass, Outcome},
    store::Store,
};

impl<St: Store> Fill<St> {
    /// Records the namespaces of a response in its extensions.
    #[cold]
    pub(super) fn note_tags(&self, parts: &mut response::Parts, hints: Option<&CachePolicy>) {
        let tagged_by = self.tagged_by((parts.status, &parts.headers), hints, iter::empty());
        parts.extensions.insert(tagged_by);
    }

    /// Returns the namespaces known from the request, those of the response, and `more`.
    #[cold]
    pub(super) fn tagged_by<'a>(
        &self,
        head: Head<'_>,
        hints: Option<&CachePolicy>,
        more: impl Iterator<Item = &'a str>,
    ) -> TaggedBy {
        let plan = &self.request.plan;
        let mut names = plan.names.clone();
        more.for_each(|name| names.push(name));
        let rule = &self.request.rule;
        let is_known = add_names_of(&mut names, rule, head, hints, plan.named_by.as_deref()) && names_are_known(rule, plan);
        TaggedBy { names: is_known.then(|| Arc::new(names)), route: self.request.rule.route().map(Into::into) }
    }
}

/// The status and the fields of a response.
type Head<'a> = (StatusCode, &'a HeaderMap);

/// Returns false if messages name further namespaces: one of the request that could not be read, or one at the end of the response.
fn names_are_known(rule: &Policy, plan: &ReadPlan) -> bool {
    !rule.names_at_the_end() && plan.end.as_ref().is_none_or(|end| end.unread.is_none())
}

/// Adds the namespaces that a response names. Returns false if its fields cannot be read.
fn add_names_of(
    names: &mut Namespaces,
    rule: &Policy,
    (status, headers): Head<'_>,
    hints: Option<&CachePolicy>,
    fields: Option<&NamingFields>,
) -> bool {
    hints.map_or(&[][..], CachePolicy::namespaces).iter().for_each(|name| names.push(name.as_str()));
    let matching = || rule.response_rule(status, headers).map(|(number, _)| number);
    match fields.map(|fields| fields.names_in(headers, matching())).transpose() {
        Ok(named) => {
            named.unwrap_or_default().iter().for_each(|name| names.push(name.as_str()));
            true
        }
        Err(_) => false,
    }
}

/// The namespaces of a request that bypasses the cache, or whose response is not stored.
pub(crate) struct RequestNames {
    /// `None` if the path may name another route than the one that was found.
    names: Option<Namespaces>,
    named_by: Option<Box<NamingFields>>,
    rule: Option<Arc<Policy>>,
}

/// Returns the namespaces known from a request.
#[cold]
pub(crate) fn of_request<St: Store, B>(shared: &LayerState<St>, request: &Request<B>, outcome: Outcome) -> RequestNames {
    let Some(found) = shared.rules.find(request.uri(), request.extensions()) else {
        return RequestNames { names: None, named_by: None, rule: None };
    };
    let view = RequestView::of(request, &found.params, &shared.store.context().secret);
    let plan = found.rule.plan(&view, KeyRef::new(&[]));
    let is_known = outcome != Outcome::Bypass(Bypass::AmbiguousPath) && names_are_known(found.rule, &plan);
    RequestNames { names: is_known.then_some(plan.names), named_by: plan.named_by, rule: Some(found.rule.clone()) }
}

/// Awaits a response that is not stored, and adds its cache tags.
pub(crate) async fn tagged<F, St, B, E>(call: F, forwarded: Forwarded<St>, request: RequestNames) -> Answer<B, E>
where
    F: Future<Output = Result<Response<B>, E>>,
    St: Store,
    B: Body<Error: Into<BoxError>>,
{
    let mut response = call.await?.map(CacheBody::inner);
    let RequestNames { names, named_by, rule } = request;
    let names = names.zip(rule.as_ref()).and_then(|(mut names, rule)| {
        let (head, hints) = ((response.status(), response.headers()), response.extensions().get());
        add_names_of(&mut names, rule, head, hints, named_by.as_deref()).then(|| Arc::new(names))
    });
    let route = rule.and_then(|rule| rule.route().map(Into::into));
    response.extensions_mut().insert(TaggedBy { names, route });
    Ok(forwarded.answered(response))
}
