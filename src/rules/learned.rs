//! State that a rule learns from requests and responses at run time.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::variants::VariantCounts;
use crate::entry::header_template::HeaderTemplate;

/// State that a rule learns from requests and responses. All copies of the rule share it.
#[derive(Default)]
pub(crate) struct Learned {
    /// The rule has covered a request.
    matched: AtomicBool,
    /// A handler has named namespaces in its response.
    names_namespaces: AtomicBool,
    /// The number of responses in a row without `Vary`, up to a limit; or the mark that one had it.
    without_vary: AtomicU32,
    /// The header template of the first stored response.
    template: HeaderTemplate,
    /// The numbers of variants of single targets.
    variants: VariantCounts,
    /// A response with a content coding had no `Vary: Accept-Encoding`.
    codes_without_vary: AtomicBool,
    /// A write has run for the whole deadline of its fence.
    outran_fence: AtomicBool,
}

/// The number of responses in a row without `Vary` after which the rule expects none.
const ENOUGH: u32 = 64;

/// The mark of a rule that has had a response with `Vary`.
const VARIES: u32 = u32::MAX;

impl Learned {
    /// Records that the rule covers a request.
    #[inline]
    pub(super) fn record_match(&self) {
        if !self.matched.load(Ordering::Relaxed) {
            self.matched.store(true, Ordering::Relaxed);
        }
    }

    /// Returns true if the rule has covered a request.
    pub(crate) fn has_matched(&self) -> bool {
        self.matched.load(Ordering::Relaxed)
    }

    /// Records that a response has named namespaces.
    pub(crate) fn record_namespaces(&self) {
        if !self.names_namespaces() {
            self.names_namespaces.store(true, Ordering::Relaxed);
        }
    }

    /// Returns true if a response of this rule has named namespaces.
    pub(crate) fn names_namespaces(&self) -> bool {
        self.names_namespaces.load(Ordering::Relaxed)
    }

    /// Records if a response varies by request fields.
    #[inline]
    pub(crate) fn record_response(&self, varies: bool) {
        let count = self.without_vary.load(Ordering::Relaxed);
        match varies {
            true if count != VARIES => self.without_vary.store(VARIES, Ordering::Relaxed),
            // A lost count does no harm. The mark is never overwritten.
            false if count < ENOUGH => {
                let _ = self.without_vary.compare_exchange(count, count + 1, Ordering::Relaxed, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    /// Returns true if responses of this rule may vary by request fields.
    #[inline]
    pub(crate) fn may_vary(&self) -> bool {
        self.without_vary.load(Ordering::Relaxed) != ENOUGH
    }

    /// Returns the numbers of variants of single targets.
    pub(crate) fn variants(&self) -> &VariantCounts {
        &self.variants
    }

    /// Records a response with a content coding and without `Vary: Accept-Encoding`.
    pub(crate) fn record_coding_without_vary(&self) {
        self.codes_without_vary.store(true, Ordering::Relaxed);
    }

    /// Returns true if a response had a content coding and no `Vary: Accept-Encoding`.
    pub(crate) fn codes_without_vary(&self) -> bool {
        self.codes_without_vary.load(Ordering::Relaxed)
    }

    /// Records a write that has run for the whole deadline of its fence.
    pub(crate) fn record_outrun_fence(&self) {
        self.outran_fence.store(true, Ordering::Relaxed);
    }

    /// Returns true if a write has run for the whole deadline of its fence.
    pub(crate) fn outran_fence(&self) -> bool {
        self.outran_fence.load(Ordering::Relaxed)
    }

    /// Returns the header template of most responses.
    #[inline]
    pub(crate) fn template(&self) -> &HeaderTemplate {
        &self.template
    }
}
