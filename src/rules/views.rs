//! The paths by which readers may have found the target of a write.

use std::borrow::Cow;

use http::{Extensions, Uri};

use crate::key;

/// The paths of one target: as this layer sees it, as the client sent it, and as layers between this one and a reader may have normalised
/// it.
pub(crate) struct Views<'a> {
    now: &'a str,
    sent: &'a str,
    plain_now: Cow<'a, str>,
    plain_sent: Cow<'a, str>,
    /// The path with a slash at its end.
    folder: String,
}

impl<'a> Views<'a> {
    pub(crate) fn of(uri: &'a Uri, extensions: &'a Extensions) -> Self {
        let (now, sent) = (uri.path(), key::path_as_sent(uri, extensions));
        let (plain_now, plain_sent) = (key::plain_path(now), key::plain_path(sent));
        // `/` already has one.
        let folder = if plain_sent.ends_with('/') { String::new() } else { format!("{plain_sent}/") };
        Self { now, sent, plain_now, plain_sent, folder }
    }

    /// Returns the distinct paths. The path that this layer sees comes first.
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        let all: [&str; 4] = [self.now, self.sent, &self.plain_now, &self.plain_sent];
        (0..all.len()).filter(move |at| !all[..*at].contains(&all[*at])).map(move |at| all[at])
    }

    /// Returns the paths to try if none of [`paths`](Self::paths) matches: with a slash at the end, then without the first segment, without
    /// the first two, and so on, as a nested router sees them. `/` is the end of every path and is left out, so each has at least one
    /// segment.
    pub(super) fn guesses(&self) -> impl Iterator<Item = &str> {
        let path = &*self.plain_sent;
        let ends = path.match_indices('/').skip(1).map(|(at, _)| &path[at..]);
        (!self.folder.is_empty()).then_some(&*self.folder).into_iter().chain(ends)
    }
}
