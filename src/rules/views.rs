//! The paths by which readers may have found the target of a write.

use std::{borrow::Cow, cell::OnceCell};

use http::{Extensions, Uri};

use crate::key;

/// The paths of one target: as this layer sees it, as the client sent it, and as layers between this one and a reader may have normalised
/// it.
pub(crate) struct Views<'a> {
    now: &'a str,
    sent: &'a str,
    plain_now: Cow<'a, str>,
    plain_sent: Cow<'a, str>,
    /// All four paths are one text, as for most targets.
    is_plain: bool,
    /// The path with a slash at its end.
    folder: OnceCell<String>,
}

impl<'a> Views<'a> {
    pub(crate) fn of(uri: &'a Uri, extensions: &'a Extensions) -> Self {
        let is_as_sent = key::is_as_sent(uri, extensions);
        let (now, sent) = (uri.path(), key::path_as_sent(uri, extensions));
        let plain_now = key::plain_path(now);
        let is_plain = is_as_sent && matches!(plain_now, Cow::Borrowed(_));
        let plain_sent = if is_as_sent { plain_now.clone() } else { key::plain_path(sent) };
        Self { now, sent, plain_now, plain_sent, is_plain, folder: OnceCell::new() }
    }

    /// Returns the distinct paths. The path that this layer sees comes first.
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        let all: [&str; 4] = [self.now, self.sent, &self.plain_now, &self.plain_sent];
        let count = if self.is_plain { 1 } else { all.len() };
        (0..count).filter(move |at| !all[..*at].contains(&all[*at])).map(move |at| all[at])
    }

    /// Returns the paths to try if none of [`paths`](Self::paths) matches: with a slash at the end, then without the first segment, without
    /// the first two, and so on, as a nested router sees them. `/` is the end of every path and is left out, so each has at least one
    /// segment.
    pub(super) fn guesses(&self) -> impl Iterator<Item = &str> {
        let path = &*self.plain_sent;
        // `/` already has one.
        let folder = (!path.ends_with('/')).then(|| self.folder.get_or_init(|| format!("{path}/")).as_str());
        let ends = path.match_indices('/').skip(1).map(|(at, _)| &path[at..]);
        folder.into_iter().chain(ends)
    }
}
