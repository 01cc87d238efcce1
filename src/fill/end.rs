//! The checks of a complete response before it is stored: the status of a call by RPC, and the closures that read its message.

use std::time::Duration;

use http::HeaderMap;

use super::{
    Fill,
    admission::{Admission, ResponseNamespaces},
};
use crate::{
    entry::times::Times,
    namespace::{Namespace, set::MAX_NAMES},
    rules::end_check::Unread,
    status::NoStore,
    store::Store,
};

/// The reason for which a complete response is not stored.
pub(super) struct Refusal {
    pub(super) reason: NoStore,
    /// The next responses for the key will probably be refused, too.
    pub(super) is_lasting: bool,
}

impl From<NoStore> for Refusal {
    fn from(reason: NoStore) -> Self {
        Self { reason, is_lasting: true }
    }
}

impl<St: Store> Fill<St> {
    /// Checks a complete response, and sets its lifetime and its namespaces by its end and its message. Most responses need no check.
    pub(super) fn admit_end(&self, fit: &mut Admission, body: &[u8], trailers: Option<&HeaderMap>) -> Result<(), Refusal> {
        let Some(end) = &self.request.plan.end else { return Ok(()) };
        let has_message = match end.framed {
            Some(protocol) => self.admit_call(protocol, fit, body, trailers)?,
            None => true,
        };
        #[cfg(feature = "graphql")]
        if self.request.rule.is_graphql() {
            // Errors may be gone the next time.
            let refusal = |reason| Refusal { reason, is_lasting: reason != NoStore::GraphqlErrors };
            let names = self.request.rule.check_graphql(&fit.headers.map(), body).map_err(refusal)?;
            self.add_names(fit, &names)?;
        }
        if has_message {
            self.admit_message(fit, body)?;
        }
        Ok(())
    }

    /// Adds the namespaces and the lifetime that the message of a complete response states.
    pub(super) fn admit_message(&self, fit: &mut Admission, body: &[u8]) -> Result<(), NoStore> {
        let rule = &self.request.rule;
        let Some(end) = self.request.plan.end.as_ref().filter(|_| rule.reads_responses()) else { return Ok(()) };
        let policies = rule.policies_of(end, fit.status, &fit.headers.map(), body).map_err(|unread| {
            self.warn_of_unread(&unread);
            unread.reason
        })?;
        for policy in policies {
            if policy.forbids() {
                return Err(NoStore::NoStore);
            }
            if let Some(ttl) = policy.lifetime() {
                self.replace_lifetime(fit, ttl)?;
            }
            self.add_names(fit, policy.namespaces())?;
        }
        Ok(())
    }

    /// Adds namespaces that the complete response names.
    fn add_names(&self, fit: &mut Admission, names: &[Namespace]) -> Result<(), NoStore> {
        if names.is_empty() {
            return Ok(());
        }
        let known = &self.request.plan.names;
        let mut all = fit.named.take().map_or_else(|| known.clone(), |named| named.all);
        // Each name is compared with all others, and a client may ask for any number of objects.
        for name in names {
            all.push(name.as_str());
            if all.len() > MAX_NAMES {
                break;
            }
        }
        self.check_count(&all)?;
        fit.named = Some(ResponseNamespaces::new(known, all));
        Ok(())
    }

    /// Replaces the lifetime of a response that may be stored. It counts from the time of the response.
    fn replace_lifetime(&self, fit: &mut Admission, ttl: Duration) -> Result<(), NoStore> {
        if ttl.is_zero() {
            return Err(NoStore::Lifetime);
        }
        let rule = &self.request.rule;
        let ttl = rule.jittered(ttl);
        if let (Some(options), Some(http)) = (rule.http(), &mut fit.http) {
            http.freshness.lifetime = http.freshness.initial_age.saturating_add(ttl);
            fit.times = self.times_by_http(options, &http.freshness, http.asks);
            return Ok(());
        }
        let age = self.answered.saturating_sub(fit.times.born);
        let times = self.times(ttl, None);
        fit.times = Times { born: times.born.saturating_sub(age), ..times };
        Ok(())
    }

    /// Warns of a message that a closure of the rule could not read.
    pub(super) fn warn_of_unread(&self, unread: &Unread) {
        let context = self.shared.store.context();
        tracing::debug!(error = unread.error, "a message could not be read");
        context.counters.unread_read(self.request.rule.route(), &unread.error, context.clock.nanos());
    }
}
