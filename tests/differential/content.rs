//! Compares bodies and ranges of bodies with their headers.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

use super::{
    check::{CheckResult, Checker, violated},
    history::{Call, Received},
    oracle::covered,
    program::{Body, Method, RangeSpec},
    responses::{is_big, part},
    switches,
};

impl Checker<'_> {
    /// Checks that the body matches the status and the headers.
    pub fn content(&self, call: &Call, number: usize, received: &Received, status: u16, headers: &HeaderMap) -> CheckResult {
        let made = &self.history.requests[call.request].spec;
        let whole = call.representation.bytes(is_big(made));
        let length = headers.get(header::CONTENT_LENGTH).and_then(|line| line.to_str().ok()?.parse::<u64>().ok());
        if self.request.spec.method == Method::Head || status == 304 {
            let stated = length.is_none_or(|length| status != 200 || length == whole.len() as u64);
            return if received.body.is_empty() && stated {
                Ok(())
            } else {
                violated("HEAD and 304 have no content, only its length", format!("{length:?} {:?}", received.body))
            };
        }
        let expected = match status {
            206 => return self.part(call, number, received, headers, &whole),
            204 => Bytes::new(),
            _ => whole.clone(),
        };
        if status != 200 && status != call.status {
            return violated("the status is the origin's", format!("{status} for {}", call.status));
        }
        if !expected.starts_with(&received.body) {
            return violated("a body matches its headers", format!("{:?} instead of {expected:?}", received.body));
        }
        let short = received.body.len() < expected.len();
        let own_short = call.request == self.number && made.response.body == Body::Short;
        if received.read && !received.broken && short && !own_short {
            return violated(
                "a truncated body does not end cleanly",
                format!("{} of {} bytes", received.body.len(), expected.len()),
            );
        }
        let may_break = matches!(made.response.body, Body::Breaks | Body::Short) || call.part.is_some();
        if received.broken && !may_break {
            return violated("the cache adds no error", "a body failed");
        }
        match length {
            Some(length) if length != expected.len() as u64 => {
                violated("Content-Length is the length of the body", format!("{length}"))
            }
            _ if call.part.is_some() && call.request != self.number => self.parts_live(call, number, (0, whole.len() as u64)),
            _ => Ok(()),
        }
    }

    /// Checks a 206 (RFC 9110, sections 14 and 15.3.7).
    fn part(&self, call: &Call, number: usize, received: &Received, headers: &HeaderMap, whole: &Bytes) -> CheckResult {
        const LAW: &str = "the bytes of a part match the full response";
        let spec = &self.request.spec;
        let Some(wanted) = spec.range else { return violated("206 answers only a range request", "") };
        if let Some(tag) = &self.request.if_range
            && (tag.starts_with("W/") || call.etag.as_ref() != Some(tag))
        {
            return violated("If-Range prevents a part of another representation", format!("{tag} {:?}", call.etag));
        }
        if received.broken || !received.read {
            return Ok(());
        }
        let total = whole.len() as u64;
        let text = |name| headers.get(name).and_then(|line: &HeaderValue| line.to_str().ok());
        let slices: Vec<(u64, u64, u64, Bytes)> = match text(header::CONTENT_RANGE) {
            Some(line) => {
                stated(line).map(|(first, end, total)| (first, end, total, received.body.clone())).into_iter().collect()
            }
            None => multipart(text(header::CONTENT_TYPE).unwrap_or_default(), &received.body),
        };
        let wants: Vec<(u64, u64)> = match wanted {
            RangeSpec::Two(one, two) => vec![(one, one + 1), (two, two + 1)],
            one => part(one, total).into_iter().collect(),
        };
        if slices.is_empty() {
            return violated(LAW, format!("{headers:?}"));
        }
        for (first, end, stated, bytes) in slices {
            let right = stated == total && first < end && end <= total && bytes == whole.slice(first as usize..end as usize);
            let own_short = call.request == self.number && self.request.spec.response.body == Body::Short;
            if !right && !own_short {
                return violated(LAW, format!("{first}-{end}/{stated} of {total}: {bytes:?}"));
            }
            if !wants.contains(&(first, end)) && matches!(wanted, RangeSpec::Two(..)) == text(header::CONTENT_RANGE).is_none() {
                return violated("a part is the requested one", format!("{first}-{end} for {wants:?}"));
            }
            if call.part.is_some() && call.request != self.number {
                self.parts_live(call, number, (first, end))?;
            }
        }
        Ok(())
    }

    fn parts_live(&self, call: &Call, number: usize, wanted: (u64, u64)) -> CheckResult {
        match covered(self.setup, self.history, (number, call), self.request.begin, wanted) {
            true => Ok(()),
            false if !switches::PARTS_WITH_ROWS => Ok(()),
            false => violated("no response older than an invalidation is served", "a part older than an invalidation"),
        }
    }
}

/// Parses `bytes 0-9/100` into its first byte, the byte after its last, and the total length.
fn stated(line: &str) -> Option<(u64, u64, u64)> {
    let (range, total) = line.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse::<u64>().ok()? + 1, total.parse().ok()?))
}

/// Returns the parts of a `multipart/byteranges`, or none if the content type differs.
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
