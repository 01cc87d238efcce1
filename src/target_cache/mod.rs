//! Recent targets of a thread, with their rule and key, and hot responses.
//!
//! Most targets repeat. Each thread remembers recent targets, so that a request for one of them skips routing and the writing of the key. Rule and key
//! depend on the target alone while the layer exists, so that a remembered target never becomes wrong. The validity of the entry is checked each time.
//!
//! A thread also keeps copies of its most requested responses. If many threads answered with one entry, each would write to the lock of its shard and
//! to its reference counts, and these cache lines would move between the processors. A hit on a hot response writes to no memory that another thread
//! reads. It still asks the store if the entry is current.
//!
//! Under a rule whose key ends in an identity, the key of a remembered target also serves other identities: only the hash of the identity
//! differs. The hash is computed for each request, so that no thread keeps a credential.
//!
//! Under a rule whose keys have a part for the content of requests, the remembered target serves all contents: their part is written for each
//! request.
//!
//! For a store that has to be queried, the namespaces of the query are remembered as well, if they depend on the target alone.

pub(crate) mod hot;

use std::{
    cell::{Cell, RefCell},
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
};

use http::{Extensions, Uri, uri::Scheme};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{
    entry::Entry,
    key::{self, Forwarding, HostLine, Key},
    rules::policy::ReadPlan,
    secret::IdentityHash,
};

use self::hot::HotResponse;

/// The number of targets that a thread remembers. Targets with the same hash replace each other. The hash is seeded.
const SLOTS: usize = 512;

/// The maximum length of a remembered target with its host, and of its key, in bytes.
const LONGEST: usize = 512;

/// One target in this number is remembered, so that frequent targets are remembered soon and rare ones cost little.
const ONE_IN: u32 = 8;

/// The number of hot responses of a thread.
const AT_HAND: usize = 32;

/// The number of hits after which a response becomes hot.
const OFTEN: u32 = 64;

/// One hit in this number on a hot response reads the entry from the store, so that the store counts its use for eviction.
const TOLD_ONE_IN: u32 = 16;

/// Every target is remembered at once, and hot from the second hit on.
static AT_ONCE: AtomicBool = AtomicBool::new(false);

/// Remembers targets at once, in the whole process. For tests.
pub fn remember_at_once() {
    AT_ONCE.store(true, Ordering::Relaxed);
}

thread_local! {
    static RECALL: RefCell<ThreadCache> = const { RefCell::new(ThreadCache::new()) };
}

struct ThreadCache {
    slots: Vec<Option<CachedTarget>>,
    turn: u32,
    /// The slots of the targets with a hot response. A new one replaces the oldest.
    places: [Cell<u16>; AT_HAND],
    next_place: Cell<u8>,
}

impl ThreadCache {
    const fn new() -> Self {
        Self { slots: Vec::new(), turn: 0, places: [const { Cell::new(0) }; AT_HAND], next_place: Cell::new(0) }
    }
}

/// A remembered target.
pub(crate) struct CachedTarget {
    layer: u64,
    /// The target, followed by the host.
    words: Box<[u8]>,
    target: usize,
    scheme: Option<Scheme>,
    rule: usize,
    key: Key,
    /// The position of the forwarding fields in the key.
    base: usize,
    /// The position of the content part in the key, if it has one.
    content_at: Option<usize>,
    /// Present for a store that has to be queried.
    plan: Option<Box<ReadPlan>>,
    /// The number of hits since the target was remembered, or since its response became hot.
    asked: Cell<u32>,
    response: Cell<Option<Arc<HotResponse>>>,
}

/// The rule and the key of a target.
pub(crate) struct Resolution {
    pub(crate) rule: usize,
    pub(crate) key: Key,
    /// The position of the forwarding fields in the key, or the length of the key.
    pub(crate) base: usize,
    /// The position of the content part in the key, if it has one.
    pub(crate) content_at: Option<usize>,
    pub(crate) plan: Option<ReadPlan>,
}

/// The parts of a request that rules and keys of targets depend on.
#[derive(Clone, Copy)]
pub(crate) struct TargetId<'a> {
    target: &'a str,
    scheme: Option<&'a Scheme>,
    host: &'a [u8],
    forwarding: &'a Forwarding<'a>,
}

impl<'a> TargetId<'a> {
    /// Returns `None` if the key depends on more: with two hosts, with an empty host, or if a nested router has removed a prefix of the path.
    #[inline]
    pub(crate) fn of(
        uri: &'a Uri,
        extensions: &Extensions,
        line: HostLine<'a>,
        forwarding: &'a Forwarding<'a>,
    ) -> Option<Self> {
        let host = match (uri.authority(), line) {
            (None, HostLine::One(line)) if line.is_empty() => return None,
            (None, HostLine::One(line)) => line.as_bytes(),
            (None, HostLine::Unknown) => &[],
            (Some(authority), HostLine::Unknown) => authority.as_str().as_bytes(),
            (Some(_), HostLine::One(_)) | (_, HostLine::More) => return None,
        };
        let target = uri.path_and_query()?.as_str();
        key::is_as_sent(uri, extensions).then_some(Self { target, scheme: uri.scheme(), host, forwarding })
    }
}

impl CachedTarget {
    /// Returns true if scheme, host and forwarding fields are the same. The caller has compared the target.
    #[inline]
    pub(crate) fn is_of(&self, words: TargetId<'_>) -> bool {
        let key = self.key.canonical();
        &self.words[self.target..] == words.host
            && self.scheme.as_ref() == words.scheme
            && if words.forwarding.is_empty() { self.base == key.len() } else { words.forwarding.is(&key[self.base..]) }
    }

    /// Returns the position of the rule in the table of the layer.
    #[inline]
    pub(crate) fn rule(&self) -> usize {
        self.rule
    }

    #[inline]
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    #[inline]
    pub(crate) fn plan(&self) -> Option<&ReadPlan> {
        self.plan.as_deref()
    }

    /// Returns true if the key ends in this identity.
    #[inline]
    pub(crate) fn is_of_identity(&self, identity: IdentityHash) -> bool {
        self.key.canonical()[..self.base].ends_with(&identity.0)
    }

    /// Writes the key of this target with another identity in the place of its own.
    pub(crate) fn write_key_of(&self, identity: IdentityHash, key: &mut Vec<u8>) {
        key.extend_from_slice(self.key.canonical());
        key[self.base - identity.0.len()..self.base].copy_from_slice(&identity.0);
    }

    /// Returns true if the key has a part for the content of a request.
    #[inline]
    pub(crate) fn has_content_part(&self) -> bool {
        self.content_at.is_some()
    }

    /// Returns the parts of the key that depend on the target, if a part for the content of the request follows them.
    #[inline]
    pub(crate) fn target_part(&self) -> Option<&[u8]> {
        self.content_at.map(|at| &self.key.canonical()[..at])
    }

    /// Returns the hot response, unless the store has to count this use.
    #[inline(always)]
    pub(crate) fn response(&self) -> Option<Arc<HotResponse>> {
        let response = self.response.take()?;
        let asked = self.asked.get() + 1;
        self.asked.set(asked % TOLD_ONE_IN);
        let at_hand = (asked < TOLD_ONE_IN).then(|| response.clone());
        self.response.set(Some(response));
        at_hand
    }

    /// Drops the hot response.
    #[cold]
    pub(crate) fn let_go(&self) {
        self.response.take();
        self.asked.set(0);
    }
}

/// Calls `then` with the remembered target of a layer. The host may differ: check it with [`is_of`](CachedTarget::is_of).
#[inline]
pub(crate) fn with_known<T>(layer: u64, uri: &Uri, then: impl FnOnce(&CachedTarget, &HotSlots<'_>) -> Option<T>) -> Option<T> {
    let known = RECALL.try_with(|recall| {
        // In use by a layer outside of this one, which is remembering a target.
        let recall = recall.try_borrow().ok()?;
        let target = uri.path_and_query()?.as_str();
        let slot = slot(target);
        let known = recall.slots.get(slot)?.as_ref()?;
        if known.layer == layer && &known.words[..known.target] == target.as_bytes() {
            then(known, &HotSlots { recall: &recall, slot })
        } else {
            None
        }
    });
    // The thread is ending.
    known.ok().flatten()
}

/// The hot responses of a thread.
pub(crate) struct HotSlots<'a> {
    recall: &'a ThreadCache,
    slot: usize,
}

impl HotSlots<'_> {
    /// Counts a hit of the store for a target, and makes its response hot after enough of them.
    #[inline]
    pub(crate) fn heard(&self, known: &CachedTarget, entry: &Arc<Entry>) {
        let asked = known.asked.get() + 1;
        if asked < OFTEN && !AT_ONCE.load(Ordering::Relaxed) {
            known.asked.set(asked);
        } else {
            self.take(known, entry);
        }
    }

    #[cold]
    fn take(&self, known: &CachedTarget, entry: &Arc<Entry>) {
        known.asked.set(0);
        // The entry is a variant, which may differ for another request.
        if entry.key() != &known.key {
            return;
        }
        let Some(response) = HotResponse::of(entry) else { return };
        let ThreadCache { slots, places, next_place, .. } = self.recall;
        let next = usize::from(next_place.get());
        next_place.set(((next + 1) % AT_HAND) as u8);
        if let Some(Some(oldest)) = slots.get(usize::from(places[next].replace(self.slot as u16))) {
            oldest.let_go();
        }
        known.response.set(Some(Arc::new(response)));
    }
}

/// Remembers the rule and the key of a target, if it is its turn.
pub(crate) fn remember(layer: u64, words: TargetId<'_>, to: impl FnOnce() -> Resolution) {
    let _ = RECALL.try_with(|recall| {
        let Ok(mut recall) = recall.try_borrow_mut() else { return };
        recall.turn = recall.turn.wrapping_add(1);
        let TargetId { target, scheme, host, .. } = words;
        // The text before an `@` is a secret.
        let its_turn = recall.turn.is_multiple_of(ONE_IN) || AT_ONCE.load(Ordering::Relaxed);
        if !its_turn || target.len() + host.len() > LONGEST || host.contains(&b'@') {
            return;
        }
        let Resolution { rule, key, base, content_at, plan } = to();
        if key.canonical().len() > LONGEST {
            return;
        }
        if recall.slots.is_empty() {
            recall.slots.resize_with(SLOTS, || None);
        }
        let words: Box<[u8]> = [target.as_bytes(), host].concat().into();
        let (plan, asked, response) = (plan.map(Box::new), Cell::new(0), Cell::new(None));
        let (scheme, target_len) = (scheme.cloned(), target.len());
        recall.slots[slot(target)] =
            Some(CachedTarget { layer, words, target: target_len, scheme, rule, key, base, content_at, plan, asked, response });
    });
}

#[inline]
fn slot(target: &str) -> usize {
    // Constant in debug builds, so that tests are deterministic.
    static SEED: LazyLock<u64> = LazyLock::new(|| if cfg!(debug_assertions) { 0 } else { RandomState::new().hash_one(0) });
    xxh3_64_with_seed(target.as_bytes(), *SEED) as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::target_cache::hot::LARGEST;
    use crate::{
        entry::{Content, Draft, stamp::Stamp, times::Times},
        namespace::set::Namespaces,
    };

    const LAYER: u64 = u64::MAX;

    fn target(n: usize) -> Uri {
        format!("/t/{n}").try_into().expect("a target")
    }

    /// Returns an entry with a body of this many bytes.
    fn entry(target: &Uri, bytes: usize) -> Arc<Entry> {
        let times = Times { born: 0, fresh_until: 1, while_revalidate_until: 1, if_error_until: 1, kept_until: 1, cost: 0 };
        let (status, headers) = (StatusCode::OK, HeaderMap::new().into());
        let content = Content::Response { status, headers, body: vec![0; bytes].into(), trailers: None };
        let draft = Draft { names: Namespaces::root(), times, content, http: None };
        Arc::new(Entry::new(Key::new(target.path().as_bytes()), Stamp::local(1), draft))
    }

    fn hear(target: &Uri, entry: &Arc<Entry>) {
        let heard = with_known(LAYER, target, |known, places| {
            places.heard(known, entry);
            Some(())
        });
        assert!(heard.is_some(), "{target} is remembered");
    }

    /// Counts hits of the store for a remembered target.
    fn answer(target: &Uri, entry: &Arc<Entry>, times: u32) {
        let forwarding = Forwarding::default();
        let words = TargetId::of(target, &Extensions::new(), HostLine::Unknown, &forwarding).expect("a plain target");
        let comes = || {
            let key = Key::new(target.path().as_bytes());
            let base = key.canonical().len();
            Resolution { rule: 0, key, base, content_at: None, plan: None }
        };
        (0..ONE_IN).for_each(|_| remember(LAYER, words, comes));
        (0..times).for_each(|_| hear(target, entry));
    }

    fn is_at_hand(target: &Uri) -> bool {
        with_known(LAYER, target, |known, _| known.response()).is_some()
    }

    fn at_hand() -> usize {
        let has = |known: &CachedTarget| {
            let response = known.response.take();
            let has = response.is_some();
            known.response.set(response);
            has
        };
        RECALL.with_borrow(|recall| recall.slots.iter().flatten().filter(|known| has(known)).count())
    }
    #[test]
    fn frequent_store_hits_make_a_response_hot() {
        let target = target(0);
        answer(&target, &entry(&target, 100), OFTEN - 1);
        assert!(!is_at_hand(&target));
        hear(&target, &entry(&target, 100));
        assert!(is_at_hand(&target));
    }
    #[test]
    fn one_of_many_hot_hits_reaches_the_store() {
        let target = target(0);
        answer(&target, &entry(&target, 100), OFTEN);
        let uses = (0..TOLD_ONE_IN * 10).filter(|_| is_at_hand(&target)).count();
        assert_eq!(uses as u32, TOLD_ONE_IN * 10 - 10);
    }
    #[test]
    fn only_the_latest_small_responses_stay_hot() {
        for n in 0..4 * AT_HAND {
            answer(&target(n), &entry(&target(n), 100), OFTEN);
            assert!(at_hand() <= AT_HAND);
            assert!(is_at_hand(&target(n)));
        }
        assert!(at_hand() > AT_HAND / 2);
        let large = target(usize::MAX);
        answer(&large, &entry(&large, LARGEST as usize), OFTEN);
        assert!(!is_at_hand(&large));
    }
    #[test]
    fn response_of_another_key_is_not_hot() {
        let target = target(0);
        answer(&target, &entry(&"/other".parse().expect("a target"), 100), 2 * OFTEN);
        assert!(!is_at_hand(&target));
    }
}
