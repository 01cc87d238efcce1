//! The paths by which readers may have found the target of a write.

use std::borrow::Cow;

use http::{Extensions, Uri};

use crate::key;

/// The paths of one target: as this layer sees it, as the client sent it, and as layers between it and a reader may have normalised it.
pub(crate) struct Views<'a> {
    now: &'a str,
    sent: &'a str,
    plain_now: Cow<'a, str>,
    plain_sent: Cow<'a, str>,
    /// With a slash at its end.
    folder: String,
}

impl<'a> Views<'a> {
    pub(crate) fn of(uri: &'a Uri, extensions: &'a Extensions) -> Self {
        let (now, sent) = (uri.path(), key::path_as_sent(uri, extensions));
        let (plain_now, plain_sent) = (key::plain_path(now), key::plain_path(sent));
        // `/` has one already.
        let folder = if plain_sent.ends_with('/') { String::new() } else { format!("{plain_sent}/") };
        Self { now, sent, plain_now, plain_sent, folder }
    }

    /// The paths, each once; that which this layer sees comes first.
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        let all: [&str; 4] = [self.now, self.sent, &self.plain_now, &self.plain_sent];
        (0..all.len()).filter(move |at| !all[..*at].contains(&all[*at])).map(move |at| all[at])
    }

    /// The paths to look for where none of these is found: with a slash at the end, then without the first segment, without the first two,
    /// and so on, as a nested router sees them. What is left has one segment at least, since `/` is the end of every path.
    pub(super) fn guesses(&self) -> impl Iterator<Item = &str> {
        let path = &*self.plain_sent;
        let ends = path.match_indices('/').skip(1).map(|(at, _)| &path[at..]);
        (!self.folder.is_empty()).then_some(&*self.folder).into_iter().chain(ends)
    }
}
