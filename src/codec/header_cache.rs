//! Cached header maps: fields with the same names are read into a copy of a cached map, without looking up the names. Equal values are
//! shared.
//!
//! Each thread has its own cache. A cached map was read field by field once, so it is as valid as one that is read now.

use std::cell::RefCell;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::header_names;
use crate::entry::stored_headers::{emptied, is_lasting};

/// The number of cached maps of a thread. A new one replaces the one in its slot.
const SLOTS: usize = 32;

/// One of this number of new maps replaces a cached one. They may all differ.
const REPLACE_ONE_IN: u32 = 8;

/// The longest cached name.
const LONGEST: usize = 0x7f;

thread_local! {
    static SHAPES: RefCell<HeaderCache> = const { RefCell::new(HeaderCache { slots: [const { None }; SLOTS], turn: 0 }) };
}

struct HeaderCache {
    slots: [Option<CachedHeaders>; SLOTS],
    turn: u32,
}

/// Fields that were read, with the stored form of their names.
pub(crate) struct CachedHeaders {
    pub(super) names: Box<[Written]>,
    /// A map to copy, with the values that are likely to be equal.
    pub(super) shape: HeaderMap,
}

/// The stored form of a name.
pub(crate) enum Written {
    Number(u8),
    /// The tag, the length and the text.
    Text(Box<[u8]>),
}

impl CachedHeaders {
    fn of(map: &HeaderMap) -> Option<Self> {
        let names = map.keys().map(Written::of).collect::<Option<_>>()?;
        Some(Self {
            names,
            shape: emptied(map, |name, value| {
                is_lasting(name, value).then(|| HeaderValue::from_bytes(value.as_bytes()).ok())?
            })?,
        })
    }
}

impl Written {
    fn of(name: &HeaderName) -> Option<Self> {
        let text = name.as_str().as_bytes();
        match header_names::number(name) {
            0 if text.len() > LONGEST => None,
            0 => Some(Self::Text([&[0, text.len() as u8], text].concat().into())),
            number => Some(Self::Number(number)),
        }
    }
}

/// Calls `then` with the cached fields of similar entries.
#[inline]
pub(crate) fn with_known<T>(likely: u64, then: impl FnOnce(&CachedHeaders) -> Option<T>) -> Option<T> {
    let known = SHAPES.try_with(|shapes| then(shapes.try_borrow().ok()?.slots[slot(likely)].as_ref()?));
    // The cache is gone at the end of a thread.
    known.ok().flatten()
}

/// Caches a map, if it is its turn.
pub(crate) fn learn(likely: u64, map: &HeaderMap) {
    let _ = SHAPES.try_with(|shapes| {
        let Ok(mut shapes) = shapes.try_borrow_mut() else { return };
        shapes.turn = shapes.turn.wrapping_add(1);
        let turn = shapes.turn;
        let place = &mut shapes.slots[slot(likely)];
        if (place.is_none() || turn.is_multiple_of(REPLACE_ONE_IN))
            && let Some(known) = CachedHeaders::of(map)
        {
            *place = Some(known);
        }
    });
}

fn slot(likely: u64) -> usize {
    likely as usize % SLOTS
}
