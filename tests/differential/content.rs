//! Bodies and parts of them, held against what their heads say.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

use super::{
    check::{Checked, Judge, broken},
    history::{Call, Seen},
    known,
    oracle::covered,
    program::{Body, Verb, Wanted},
    shows::{is_big, part},
};

impl Judge<'_> {
    /// The bytes are those of what the head says.
    pub fn content(&self, call: &Call, number: usize, seen: &Seen, status: u16, headers: &HeaderMap) -> Checked {
        let made = &self.history.sent[call.ask].ask;
        let whole = call.rep.bytes(is_big(made));
        let length = headers.get(header::CONTENT_LENGTH).and_then(|line| line.to_str().ok()?.parse::<u64>().ok());
        if self.sent.ask.verb == Verb::Head || status == 304 {
            let stated = length.is_none_or(|length| status != 200 || length == whole.len() as u64);
            return if seen.body.is_empty() && stated {
                Ok(())
            } else {
                broken("HEAD and 304 have no content, and tell its length", format!("{length:?} {:?}", seen.body))
            };
        }
        let expected = match status {
            206 => return self.part(call, number, seen, headers, &whole),
            204 => Bytes::new(),
            _ => whole.clone(),
        };
        if status != 200 && status != call.status {
            return broken("a status is that of the response", format!("{status} for {}", call.status));
        }
        if !expected.starts_with(&seen.body) {
            return broken("a body belongs to its head", format!("{:?} instead of {expected:?}", seen.body));
        }
        let short = seen.body.len() < expected.len();
        let own_short = call.ask == self.number && made.answer.body == Body::Short;
        if seen.read && !seen.broken && short && !own_short {
            return broken(
                "no truncated body is passed off as whole",
                format!("{} of {} bytes", seen.body.len(), expected.len()),
            );
        }
        let may_break = matches!(made.answer.body, Body::Breaks | Body::Short) || call.part.is_some();
        if seen.broken && !may_break {
            return broken("the cache adds no error", "to a body");
        }
        match length {
            Some(length) if length != expected.len() as u64 => broken("Content-Length is the length", format!("{length}")),
            _ if call.part.is_some() && call.ask != self.number => self.parts_live(call, number, (0, whole.len() as u64)),
            _ => Ok(()),
        }
    }

    /// RFC 9110, section 14 and section 15.3.7.
    fn part(&self, call: &Call, number: usize, seen: &Seen, headers: &HeaderMap, whole: &Bytes) -> Checked {
        const LAW: &str = "the bytes of a part are those of the whole";
        let ask = &self.sent.ask;
        let Some(wanted) = ask.range else { return broken("a part answers who asked for one", "") };
        if let Some(tag) = &self.sent.if_range
            && (tag.starts_with("W/") || call.etag.as_ref() != Some(tag))
        {
            return broken("If-Range keeps a part of another thing away", format!("{tag} {:?}", call.etag));
        }
        if seen.broken || !seen.read {
            return Ok(());
        }
        let total = whole.len() as u64;
        let text = |name| headers.get(name).and_then(|line: &HeaderValue| line.to_str().ok());
        let slices: Vec<(u64, u64, u64, Bytes)> = match text(header::CONTENT_RANGE) {
            Some(line) => stated(line).map(|(first, end, total)| (first, end, total, seen.body.clone())).into_iter().collect(),
            None => multipart(text(header::CONTENT_TYPE).unwrap_or_default(), &seen.body),
        };
        let wants: Vec<(u64, u64)> = match wanted {
            Wanted::Two(one, two) => vec![(one, one + 1), (two, two + 1)],
            one => part(one, total).into_iter().collect(),
        };
        if slices.is_empty() {
            return broken(LAW, format!("{headers:?}"));
        }
        for (first, end, stated, bytes) in slices {
            let right = stated == total && first < end && end <= total && bytes == whole.slice(first as usize..end as usize);
            let own_short = call.ask == self.number && self.sent.ask.answer.body == Body::Short;
            if !right && !own_short {
                return broken(LAW, format!("{first}-{end}/{stated} of {total}: {bytes:?}"));
            }
            if !wants.contains(&(first, end)) && matches!(wanted, Wanted::Two(..)) == text(header::CONTENT_RANGE).is_none() {
                return broken("a part is the one that was asked for", format!("{first}-{end} for {wants:?}"));
            }
            if call.part.is_some() && call.ask != self.number {
                self.parts_live(call, number, (first, end))?;
            }
        }
        Ok(())
    }

    fn parts_live(&self, call: &Call, number: usize, wanted: (u64, u64)) -> Checked {
        match covered(self.setup, self.history, (number, call), self.sent.begin, wanted) {
            true => Ok(()),
            false if !known::PARTS_WITH_ROWS => Ok(()),
            false => broken("no response older than an invalidation is served", "parts of it are"),
        }
    }
}

/// `bytes 0-9/100` as its first byte, the byte after its last, and the length of the whole.
fn stated(line: &str) -> Option<(u64, u64, u64)> {
    let (range, total) = line.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse::<u64>().ok()? + 1, total.parse().ok()?))
}

/// The parts of a `multipart/byteranges`; none if it is not one.
fn multipart(kind: &str, body: &Bytes) -> Vec<(u64, u64, u64, Bytes)> {
    let Some((_, boundary)) = kind.split_once("boundary=") else { return Vec::new() };
    let text = String::from_utf8_lossy(body);
    let boundary = format!("--{boundary}");
    let between = text.split(&boundary);
    let read = |part: &str| {
        let (head, content) = part.split_once("\r\n\r\n")?;
        let line = head.lines().find_map(|line| line.strip_prefix("Content-Range: "))?;
        let (first, end, total) = stated(line)?;
        Some((first, end, total, content.strip_suffix("\r\n")?.to_owned().into()))
    };
    between.filter_map(read).collect()
}
