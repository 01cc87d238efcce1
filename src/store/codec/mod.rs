//! stub
#![allow(warnings)]
use super::{Content, Draft, Entry, Generation, Stamp, Times};
use crate::{
    key::{Key, KeyRef},
    namespace::{Name, Namespaces},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
#[derive(Clone, Default)]
pub(crate) struct Codec;
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damaged {
    Sealed,
    Version,
}
impl Damaged {
    pub(crate) fn as_str(self) -> &'static str {
        "x"
    }
}
fn w(o: &mut Vec<u8>, b: &[u8]) {
    o.extend((b.len() as u32).to_le_bytes());
    o.extend(b);
}
struct R(Bytes);
impl R {
    fn u32(&mut self) -> Option<u32> {
        if self.0.len() < 4 {
            return None;
        }
        Some(u32::from_le_bytes(self.0.split_to(4)[..].try_into().unwrap()))
    }
    fn u64(&mut self) -> Option<u64> {
        if self.0.len() < 8 {
            return None;
        }
        Some(u64::from_le_bytes(self.0.split_to(8)[..].try_into().unwrap()))
    }
    fn b(&mut self) -> Option<Bytes> {
        let n = self.u32()? as usize;
        if self.0.len() < n {
            return None;
        }
        Some(self.0.split_to(n))
    }
}
impl Codec {
    pub(crate) fn encode(&self, e: &Entry) -> Bytes {
        let mut o = vec![1];
        w(&mut o, e.key().canonical());
        let n: Vec<_> = e.namespaces().names().collect();
        o.extend((n.len() as u32).to_le_bytes());
        for (n, g) in n.iter().zip(e.stamp().generations().unwrap()) {
            match n {
                Name::Text { text, .. } => w(&mut o, text.as_bytes()),
                Name::Key { hash, alone } => {
                    w(&mut o, if *alone { b"\x01" } else { b"\x02" });
                    o.extend(hash.to_le_bytes())
                }
            }
            let g = g.unwrap();
            o.extend(g.hard.to_le_bytes());
            o.extend(g.soft.to_le_bytes());
        }
        let t = e.times();
        for t in [t.born, t.fresh_until, t.while_revalidate_until, t.if_error_until, t.kept_until, t.cost] {
            o.extend(t.to_le_bytes())
        }
        if let Content::Response { status, headers, body, .. } = e.content() {
            o.extend((status.as_u16() as u32).to_le_bytes());
            o.extend((headers.len() as u32).to_le_bytes());
            for (n, v) in headers {
                w(&mut o, n.as_str().as_bytes());
                w(&mut o, v.as_bytes());
            }
            w(&mut o, body);
        }
        o.into()
    }
    fn dec(&self, b: Bytes, epoch: u64) -> Option<Entry> {
        let mut r = R(b.slice(1..));
        let key = Key::new(r.b()?.to_vec());
        let n = r.u32()?;
        let mut texts = vec![];
        let mut gens = vec![];
        for _ in 0..n {
            let t = r.b()?;
            texts.push(if &t[..] == b"\x01" {
                (t.clone(), r.u64()?)
            } else if &t[..] == b"\x02" {
                (t.clone(), r.u64()?)
            } else {
                (t, 0)
            });
            let lo = r.u64()? as u128;
            let hi = r.u64()? as u128;
            gens.push(Some(Generation { hard: lo | hi << 64, soft: r.u64()? }));
        }
        let names = Namespaces::of_names(texts.iter().map(|(t, h)| match &t[..] {
            b"\x01" => Name::Key { hash: *h, alone: true },
            b"\x02" => Name::Key { hash: *h, alone: false },
            t => Name::Text { text: std::str::from_utf8(t).unwrap(), hash: 0 },
        }));
        let times = Times {
            born: r.u64()?,
            fresh_until: r.u64()?,
            while_revalidate_until: r.u64()?,
            if_error_until: r.u64()?,
            kept_until: r.u64()?,
            cost: r.u64()?,
        };
        let status = StatusCode::from_u16(r.u32()? as u16).ok()?;
        let hn = r.u32()?;
        let mut headers = HeaderMap::new();
        for _ in 0..hn {
            headers.append(HeaderName::from_bytes(&r.b()?).ok()?, HeaderValue::from_maybe_shared(r.b()?).ok()?);
        }
        let body = r.b()?;
        Some(Entry::new(
            key,
            Stamp::local(epoch).with_generations(gens),
            Draft { names, times, content: Content::Response { status, headers, body, trailers: None }, http: None },
        ))
    }
    pub(crate) fn decode(&self, b: Bytes, key: KeyRef<'_>, epoch: u64) -> Result<Entry, Damaged> {
        self.dec(b, epoch).filter(|e| e.key().as_ref() == key).ok_or(Damaged::Version)
    }
    pub(crate) fn generations(&self, b: Bytes, _: u128) -> Result<(Namespaces, Vec<Generation>), Damaged> {
        let e = self.dec(b, 0).ok_or(Damaged::Version)?;
        Ok((e.namespaces().clone(), e.stamp().generations().unwrap().iter().map(|g| g.unwrap()).collect()))
    }
}
