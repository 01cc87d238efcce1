//! Audits: hits that are compared with fresh responses.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;

use super::{policy::Policy, rule::Rule};
use crate::{
    compare::{Difference, Ignored, Whole},
    key::header_name::header_name,
};

/// Audits: a share of the hits is computed again in the background and compared with the responses that were served.
/// [The guide](crate::guide::audit) shows how to use them.
impl Rule {
    /// Audits this share of the hits, above 0 and up to 1, such as 0.01. Off by default.
    ///
    /// An audit calls the inner service in the background with the request of the hit, and compares its response with the entry: status, header
    /// fields, body and trailers. Nothing of it is stored, and the client never waits for it. A fresh hit can be chosen, whether it was answered
    /// completely, in part, or by a 304. The fresh request has no condition and no range. Responses to HEAD are compared without a body.
    ///
    /// [`RouteStats::audits`](crate::stats::RouteStats::audits) counts the results, and
    /// [`audit_differences`](crate::stats::RouteStats::audit_differences) the parts that differed. A difference counts only if the entry was still
    /// valid after the fresh response was computed, and if a second fresh response equals the first one. It is logged as a warning, at most once
    /// for each route in 10 minutes, without bodies and identities.
    ///
    /// The inner service gets one more call for each audit, and two more if the responses differ.
    /// [`CacheLayer::max_audits`](crate::CacheLayer::max_audits) limits the calls at one time. The handler must not change data for the reads of
    /// this rule.
    ///
    /// These fields are not compared:
    ///
    /// - `Age`, `Cache-Status`, `Content-Length`, `Date`, `Expires`, `Retry-After`, `Set-Cookie`, `Via`, `X-Cache`, and an `ETag` that the cache has added;
    /// - `Connection`, `Keep-Alive`, `Proxy-Authenticate`, `Proxy-Authentication-Info`, `Proxy-Authorization`, `Proxy-Connection`, `TE`, `Trailer`,
    ///   `Transfer-Encoding` and `Upgrade`;
    /// - `RateLimit`, `RateLimit-Limit`, `RateLimit-Remaining`, `RateLimit-Reset`, and `X-RateLimit-Limit`, `-Remaining`,
    ///   `-Reset` and `-Used`;
    /// - `CF-Ray`, `Request-Id`, `Server-Timing`, `Traceparent`, `Traceresponse`, `X-Amzn-Trace-Id`, `X-Correlation-Id`, `X-Request-Id`,
    ///   `X-Response-Time`, `X-Runtime` and `X-Trace-Id`.
    ///
    /// [`audit_ignoring`](Self::audit_ignoring) adds others, and [`audit_by`](Self::audit_by) replaces the comparison.
    ///
    /// A share of 0 or less, or above 1, is an error of [`Rules::try_route`](crate::Rules::try_route).
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::{Rule, Rules};
    ///
    /// let rule = Rule::ttl(Duration::from_secs(60)).namespace("orders");
    /// Rules::new().try_route("/orders", rule.clone().audit(0.01).audit_ignoring(["x-served-by"]))?;
    ///
    /// let error = Rules::new().try_route("/orders", rule.audit(1.5)).unwrap_err();
    /// assert!(error.to_string().contains("invalid audit 1.5: expected a share of the hits above 0 and up to 1"), "{error}");
    /// # Ok::<(), tower_response_cache::RulesError>(())
    /// ```
    #[must_use]
    pub fn audit(mut self, share: f64) -> Self {
        self.audit.share = Some(share);
        self
    }

    /// Leaves header fields and trailers out of the comparison of [`audit`](Self::audit) and of [shadow mode](crate::CacheLayer::shadow). Adds to
    /// earlier ones.
    ///
    /// # Panics
    ///
    /// If one of them is not a header name.
    #[must_use]
    #[track_caller]
    pub fn audit_ignoring<I>(mut self, fields: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        self.audit.ignored.extend(fields.into_iter().map(|field| header_name(field.as_ref())));
        self
    }

    /// Replaces the comparison of [`audit`](Self::audit): the closure gets the stored and the fresh response, and returns true if they count as
    /// equal. If not, the parts that differ are named by the usual comparison.
    ///
    /// The fresh response to a HEAD has no body. Trailers are not passed. Shadow mode does not call the closure.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::Rule;
    ///
    /// // The order of the rows does not matter.
    /// let rule = Rule::ttl(Duration::from_secs(60)).audit(0.01).audit_by(|stored, fresh| {
    ///     let sorted = |body: &[u8]| {
    ///         let mut lines: Vec<_> = body.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    ///         lines.sort();
    ///         lines
    ///     };
    ///     stored.status() == fresh.status() && sorted(stored.body()) == sorted(fresh.body())
    /// });
    /// # drop(rule);
    /// ```
    #[must_use]
    pub fn audit_by<F>(mut self, equal: F) -> Self
    where
        F: Fn(&Response<Bytes>, &Response<Bytes>) -> bool + Send + Sync + 'static,
    {
        self.audit.by = Some(Arc::new(equal));
        self
    }
}

/// Shadow mode of one rule.
impl Rule {
    /// Sets shadow mode for this rule: see [`CacheLayer::shadow`](crate::CacheLayer::shadow). Defaults to off. In a file: `shadow = true`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::Rule;
    ///
    /// // The other rules serve. This one is new.
    /// let rule = Rule::ttl(Duration::from_secs(60)).namespace("reports").shadow();
    /// # drop(rule);
    /// ```
    #[must_use]
    pub fn shadow(mut self) -> Self {
        self.audit.shadow = true;
        self
    }
}

impl Policy {
    /// Returns true if the inner service answers all requests of the rule.
    #[inline]
    pub(crate) fn is_shadow(&self) -> bool {
        self.rule.audit.shadow
    }

    /// Decides at random if a hit is audited.
    pub(crate) fn audits_this_hit(&self) -> bool {
        self.rule.audit.share.is_some_and(|share| share >= 1.0 || fastrand::f64() < share)
    }

    /// Returns the fields that are not compared.
    pub(crate) fn uncompared(&self) -> Ignored<'_> {
        Ignored { fields: &self.rule.audit.ignored, own_tag: self.tags() }
    }

    /// Returns the parts in which a fresh response differs from the stored one, or from another fresh one.
    pub(crate) fn differences(&self, stored: &Whole, fresh: &Whole, is_head: bool) -> Vec<Difference> {
        if let Some(by) = &self.rule.audit.by
            && by(&stored.response, &fresh.response)
        {
            return Vec::new();
        }
        let found = stored.differences(fresh, is_head, self.uncompared());
        if found.is_empty() && self.rule.audit.by.is_some() { vec![Difference::Body] } else { found }
    }
}
