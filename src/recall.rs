//! Targets that were asked for lately, with the rule and the key that they came to.
//!
//! Most requests ask for what was asked for a moment ago, in the same words. Each thread remembers some of these words, so that such a
//! request neither looks for its route nor writes its key again. What a target comes to depends on the target alone, for as long as its
//! layer exists: nothing that is remembered can become wrong. Whether what is stored may be served is asked as it always is.
//!
//! Of a store that has to be asked, the names to ask with are remembered as well, where they depend on the target alone.

use std::cell::RefCell;

use http::{Extensions, Uri};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    key::{self, HostLine, Key},
    rules::ReadPlan,
};

/// How many targets a thread remembers. One takes the place of another that has the same hash.
const SLOTS: usize = 512;

/// The longest target that is remembered, its host included, and the longest key.
const LONGEST: usize = 512;

/// One hit in so many is remembered, or one question to a store that has to be asked: what is asked for often gets its turn, and what is
/// not costs next to nothing.
const ONE_IN: u32 = 8;

thread_local! {
    static RECALL: RefCell<Recall> = const { RefCell::new(Recall { slots: Vec::new(), turn: 0 }) };
}

struct Recall {
    slots: Vec<Option<Known>>,
    turn: u32,
}

/// A target that is remembered.
pub(crate) struct Known {
    layer: u64,
    /// The target, and behind it the host.
    words: Box<[u8]>,
    target: usize,
    rule: usize,
    key: Key,
    /// For a store that has to be asked.
    plan: Option<Box<ReadPlan>>,
}

/// What a target has come to.
pub(crate) struct Comes {
    pub(crate) rule: usize,
    pub(crate) key: Key,
    pub(crate) plan: Option<ReadPlan>,
}

/// What of a request its target is, as far as rules and keys go.
#[derive(Clone, Copy)]
pub(crate) struct Words<'a> {
    target: &'a str,
    host: &'a [u8],
}

impl<'a> Words<'a> {
    /// `None` if the request says more: with two hosts, or where a nested router has taken the head off its path.
    #[inline]
    pub(crate) fn of(uri: &'a Uri, extensions: &Extensions, line: HostLine<'a>) -> Option<Self> {
        let host = match (uri.authority(), line) {
            (None, HostLine::One(line)) => line.as_bytes(),
            (None, HostLine::Unknown) => &[],
            (Some(authority), HostLine::Unknown) => authority.as_str().as_bytes(),
            (Some(_), HostLine::One(_)) | (_, HostLine::More) => return None,
        };
        let target = uri.path_and_query()?.as_str();
        key::is_as_sent(uri, extensions).then_some(Self { target, host })
    }
}

impl Known {
    /// Whether these are its words, if the target is.
    #[inline]
    pub(crate) fn is_of(&self, words: Words<'_>) -> bool {
        &self.words[self.target..] == words.host
    }

    /// The place of its rule in the table of the layer.
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
}

/// Does something with what is remembered of a layer under the target of a request. It may be that of another host: ask whether it
/// [is](Known::is_of) of this one.
#[inline]
pub(crate) fn with_known<T>(layer: u64, uri: &Uri, then: impl FnOnce(&Known) -> Option<T>) -> Option<T> {
    let known = RECALL.try_with(|recall| {
        // In use above us: by a layer outside of this one that is remembering just now.
        let recall = recall.try_borrow().ok()?;
        let target = uri.path_and_query()?.as_str();
        let known = recall.slots.get(slot(target))?.as_ref()?;
        if known.layer == layer && &known.words[..known.target] == target.as_bytes() { then(known) } else { None }
    });
    // Gone at the end of a thread.
    known.ok().flatten()
}

/// Remembers what a target has come to, if it is its turn.
pub(crate) fn remember(layer: u64, words: Words<'_>, to: impl FnOnce() -> Comes) {
    let _ = RECALL.try_with(|recall| {
        let Ok(mut recall) = recall.try_borrow_mut() else { return };
        recall.turn = recall.turn.wrapping_add(1);
        let Words { target, host } = words;
        // Before an `@` stands a secret.
        if !recall.turn.is_multiple_of(ONE_IN) || target.len() + host.len() > LONGEST || host.contains(&b'@') {
            return;
        }
        let Comes { rule, key, plan } = to();
        if key.canonical().len() > LONGEST {
            return;
        }
        if recall.slots.is_empty() {
            recall.slots.resize_with(SLOTS, || None);
        }
        let (words, plan) = ([target.as_bytes(), host].concat().into(), plan.map(Box::new));
        let known = Known { layer, words, target: target.len(), rule, key, plan };
        recall.slots[slot(target)] = Some(known);
    });
}

#[inline]
fn slot(target: &str) -> usize {
    xxh3_64(target.as_bytes()) as usize % SLOTS
}
