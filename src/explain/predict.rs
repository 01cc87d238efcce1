//! The outcome of a request, by the functions of the real lookup, without a trace in the cache.

use http::Request;
use http_body::Body;

use super::{explanation::Explanation, names::most_specific, stored::StoredResponse};
use crate::{
    action::{self, Call, Wanted},
    fast_path::{WrittenKey, accepts_stored_only, write_key},
    key::{Key, KeyRef, describe::parts_of},
    lookup::{
        Lookup,
        classify::directives,
        decision::Decision,
        request::{CacheRequest, LookupMiss, LookupTime},
    },
    respond::partial,
    rules::{RouteMatch, policy::Policy},
    single_flight::ExpectedJoin,
    state::LayerState,
    status::{Bypass, Miss, Outcome, Stale},
    store::Store,
};

/// A request with a key.
struct KeyedRequest {
    request: CacheRequest,
    has_range: bool,
}

/// An explanation that may still need a lookup. It does not hold the request.
pub(crate) struct Begun {
    explanation: Explanation,
    keyed: Option<KeyedRequest>,
}

/// Finds the rule and writes the key.
pub(crate) fn begin<St: Store, B: Body>(shared: &LayerState<St>, request: &Request<B>) -> Begun {
    let mut explanation = Explanation::default();
    let Some(found) = shared.rules.peek(request.uri(), request.extensions()) else {
        return Begun { explanation, keyed: None };
    };
    explanation.rule = Some(found.rule.summary());
    explanation.is_shadow = found.rule.is_shadow();
    let keyed = keyed(shared, request, &found, &mut explanation);
    explanation.outcome = keyed.as_ref().err().map(|reason| bypassed(request, found.rule, *reason));
    Begun { explanation, keyed: keyed.ok() }
}

impl Begun {
    /// Returns the explanation, after a lookup if one is needed.
    pub(crate) async fn explanation<St: Store>(self, shared: &LayerState<St>) -> Explanation {
        let Self { mut explanation, keyed } = self;
        if let Some(keyed) = keyed {
            look_up(shared, keyed, &mut explanation).await;
        }
        explanation.if_enabled = explanation.outcome;
        if explanation.rule.is_some() && !shared.options.enabled.is_on() {
            explanation.outcome = Some(Outcome::Bypass(Bypass::Disabled));
        } else if explanation.rule.is_some() && (explanation.is_shadow || shared.options.shadow.is_on()) {
            explanation.outcome = Some(Outcome::Bypass(Bypass::Shadow));
        }
        explanation
    }
}

fn bypassed<B>(request: &Request<B>, rule: &Policy, reason: Bypass) -> Outcome {
    if accepts_stored_only(request, rule) { Outcome::OnlyIfCached } else { Outcome::Bypass(reason) }
}

fn keyed<St: Store, B: Body>(
    shared: &LayerState<St>,
    request: &Request<B>,
    found: &RouteMatch<'_>,
    explanation: &mut Explanation,
) -> Result<KeyedRequest, Bypass> {
    let mut canonical = Vec::new();
    let written = write_key(request, found, &shared.store.context().secret, &mut canonical)?;
    let WrittenKey { view, traits, base_len, is_identified, .. } = written;
    let key = Key::new(canonical);
    explanation.parts = parts_of(key.canonical());
    let plan = found.rule.plan(&view, KeyRef::new(&key.canonical()[..base_len]));
    explanation.namespaces = most_specific(&plan.names);
    explanation.key = Some(key.clone());
    let directives = directives(request, found.rule, traits.has_credentials && !is_identified)?.map(Box::new);
    let request = CacheRequest::new(found.rule, key, plan, request, traits.is_conditional_or_range, directives)
        .keeping(request.headers());
    Ok(KeyedRequest { request, has_range: traits.has_range })
}

/// Looks the request up, and decides about the result.
async fn look_up<St: Store>(shared: &LayerState<St>, keyed: KeyedRequest, explanation: &mut Explanation) {
    let KeyedRequest { request, has_range } = keyed;
    let completions = shared.flights.landings_at(request.primary.hash());
    let lookup = request.peek(shared).await.unwrap_or_else(|error| {
        explanation.store_error = Some(error.to_string());
        Lookup::nothing()
    });
    let now = shared.store.context().clock.nanos();
    if let Some((vary, _)) = &lookup.varying {
        explanation.varies_by = vary.names().iter().map(ToString::to_string).collect();
    }
    explanation.stored = lookup.found.clone().map(|(entry, validity)| StoredResponse::new(entry, validity, now));
    let outcome = match request.decide(lookup.found.as_ref(), now) {
        Decision::Fresh | Decision::RefreshAhead | Decision::Audit => Outcome::Hit,
        Decision::Stale => Outcome::Stale(Stale::WhileRevalidate),
        Decision::AcceptedStale => Outcome::Stale(Stale::MaxStale),
        Decision::OnlyIfCached => Outcome::OnlyIfCached,
        Decision::Fetch { reason, fallback } => {
            let time = LookupTime { at: now, completions, has_queried: true };
            let Lookup { found, stamp, varying } = lookup;
            let found = found.map(|(entry, _)| entry).filter(|_| fallback);
            explanation.falls_back = found.is_some();
            fetched(shared, request, has_range, LookupMiss::new(reason, found, stamp, varying, time), explanation).await
        }
    };
    explanation.outcome = Some(outcome);
}

/// Returns the outcome of a request that the lookup did not answer.
async fn fetched<St: Store>(
    shared: &LayerState<St>,
    request: CacheRequest,
    has_range: bool,
    miss: LookupMiss<St>,
    explanation: &mut Explanation,
) -> Outcome {
    let headers = request.info.conditions();
    let by_http = request.info.directives.is_some();
    let is_conditional_or_range = request.info.is_conditional_or_range;
    let call = Wanted { method: &request.info.method, headers, has_range, is_conditional_or_range, by_http }.call();
    match call {
        Call::Range => Outcome::Bypass(Bypass::Range),
        Call::Head => Outcome::Miss(Miss::Head),
        Call::Part if partial::would_answer(shared, &request, &miss).await => Outcome::Hit,
        Call::Part => Outcome::Miss(miss.reason),
        Call::Whole => {
            explanation.revalidates = miss.revalidatable.is_some();
            let missed = request.missed(miss);
            let (request, miss) = (&missed.request, &missed.miss);
            if action::requires_own_response(&missed) {
                return Outcome::Miss(miss.reason);
            }
            if action::is_hit_for_miss(shared, &missed, miss.time.at) {
                return Outcome::Miss(if miss.revalidatable.is_some() { miss.reason } else { Miss::HitForMiss });
            }
            match request.expected_join(shared, miss) {
                ExpectedJoin::Lead => Outcome::Miss(miss.reason),
                ExpectedJoin::Follow => Outcome::Collapsed,
                ExpectedJoin::Full => Outcome::Miss(Miss::FlightLimit),
            }
        }
    }
}
