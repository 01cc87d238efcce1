//! Fields as they were read lately: what has the same names is filled into a copy of their map, and no name is looked for. A value
//! that is the same as before is shared instead of read.
//!
//! Each thread remembers some. What it remembers was read field by field once, so that whatever is the same is as good.

use std::cell::RefCell;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::header_names;
use crate::entry::header_template::emptied;

/// How many a thread remembers. One takes the place of another that is as likely here.
const SLOTS: usize = 32;

/// Of those that are new in their place one in so many is remembered: they may be all different.
const ONE_IN: u32 = 8;

/// The longest name that is remembered, and the longest value.
const LONGEST: usize = 0x7f;
const LONGEST_VALUE: usize = 64;

thread_local! {
    static SHAPES: RefCell<HeaderCache> = const { RefCell::new(HeaderCache { slots: [const { None }; SLOTS], turn: 0 }) };
}

struct HeaderCache {
    slots: [Option<CachedHeaders>; SLOTS],
    turn: u32,
}

/// Fields that were read, and how their names are written.
pub(crate) struct CachedHeaders {
    pub(super) names: Box<[Written]>,
    /// A map to be filled in, with the values that are likely to be the same.
    pub(super) shape: HeaderMap,
}

/// A name as it is written.
pub(crate) enum Written {
    Number(u8),
    /// The tag that says so, the length, the text.
    Text(Box<[u8]>),
}

impl CachedHeaders {
    fn of(map: &HeaderMap) -> Option<Self> {
        let names = map.keys().map(Written::of).collect::<Option<_>>()?;
        Some(Self { names, shape: emptied(map, lasting)? })
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

/// A value of its own, if it is likely to be that of other responses as well.
fn lasting(name: &HeaderName, value: &HeaderValue) -> Option<HeaderValue> {
    let is_of_one = matches!(
        *name,
        header::CONTENT_LENGTH
            | header::CONTENT_LOCATION
            | header::CONTENT_RANGE
            | header::DATE
            | header::ETAG
            | header::EXPIRES
            | header::LAST_MODIFIED
            | header::LOCATION
            | header::SET_COOKIE
    );
    if is_of_one || value.is_sensitive() || value.len() > LONGEST_VALUE {
        return None;
    }
    HeaderValue::from_bytes(value.as_bytes()).ok()
}

/// Does something with what was read lately of what is so likely to be the same.
#[inline]
pub(crate) fn with_known<T>(likely: u64, then: impl FnOnce(&CachedHeaders) -> Option<T>) -> Option<T> {
    let known = SHAPES.try_with(|shapes| then(shapes.try_borrow().ok()?.slots[slot(likely)].as_ref()?));
    // Gone at the end of a thread.
    known.ok().flatten()
}

/// Remembers these, if it is their turn.
pub(crate) fn learn(likely: u64, map: &HeaderMap) {
    let _ = SHAPES.try_with(|shapes| {
        let Ok(mut shapes) = shapes.try_borrow_mut() else { return };
        shapes.turn = shapes.turn.wrapping_add(1);
        let turn = shapes.turn;
        let place = &mut shapes.slots[slot(likely)];
        if (place.is_none() || turn.is_multiple_of(ONE_IN))
            && let Some(known) = CachedHeaders::of(map)
        {
            *place = Some(known);
        }
    });
}

fn slot(likely: u64) -> usize {
    likely as usize % SLOTS
}
