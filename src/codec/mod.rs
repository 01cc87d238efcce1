//! Entries in the form in which Redis stores them: bytes with a version.
//!
//! ```text
//!   0         1      2        6
//! +---------+------+--------+-----------------------------------------------+
//! | version | form | length | clear:   contents | check 8                    |
//! |   01    |      | u32    | sealed:  key id 4 | nonce 24 | contents | tag 16 |
//! +---------+------+--------+-----------------------------------------------+
//!
//! form      bit 0: sealed (encrypted), bit 1: the body is compressed; all others are 0
//! length    of all these bytes
//! check     xxh3 (64 bits) of all bytes before it
//! contents  if sealed, encrypted by XChaCha20-Poly1305; the tag also covers all bytes before the nonce, the number of the
//!           database, and the whole Redis key
//!
//! contents
//! +---------------+------+----------------------------+
//! | head's length | head | body, or its zstd frame    |
//! | u32           |      | (nothing for a `Variants`) |
//! +---------------+------+----------------------------+
//!
//! head
//!   key         n, bytes          canonical, complete
//!   times       6 × u64           born, fresh, while revalidate, if error, kept (until), cost: nanoseconds, by the clock of the server
//!   parts       u8                bit 0: variants, bit 1: their star, bit 2: http, bit 3: trailers, bit 4: an uncompressed length
//!   namespaces  n, text; n, names     a name: start and length in the text; or 0 or 1, length 0 and u64 for that of a key
//!   stamp       24 × names        hard u128, soft u64
//!   [http]      u8, u64, 5 × (u64, u32)    flags; received; age, lifetime and three windows as seconds and nanoseconds
//!   variants:   n, names          fields, sorted
//!   response:   u16, fields, [fields], [n]    status, headers, trailers, the uncompressed length of the body
//!
//! fields        n, then for each name: tag u8, [n, text], [n], values
//!   tag         bits 0–6: the name's number in `header_names.rs`, or 0 and its text follows; bit 7: several values, their number follows
//!   value       n, bytes          n is twice the length, plus one if the value is sensitive
//! ```
//!
//! Fixed numbers are little-endian. `n` is a LEB128 number of at most 32 bits in its shortest form. The first byte is the version in every
//! future form.
//!
//! **To add a field.** Processes of two versions share a Redis during a deployment. An entry of an unknown version is a miss and is
//! removed, so each process would remove the entries of the other. Therefore release a reader first that accepts both versions (a `match`
//! on the version here, the new field optional in `decode.rs`) and still writes the old one. One release later, write the new version. Then
//! drop the old one. A number in `header_names.rs` may be added in the same way, and is never given to another name. The files in
//! `tests/fixtures/stored` show each version byte for byte. Those of an old version stay as long as it is read.

pub(crate) mod compression;
pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod encryption;
pub(crate) mod frame;
pub(crate) mod header_cache;
pub(crate) mod header_names;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    codec::{
        compression::Compression,
        encryption::KeyRing,
        frame::{CHECK, COMPRESSED, Damaged, FRAME, MAX_LEN, Moment, SEALED, Unstored, VERSION},
    },
    entry::{Content, Entry, stamp::Stamp},
    key::KeyRef,
    namespace::set::Namespaces,
};

/// Encodes and decodes entries.
#[derive(Debug, Clone, Default)]
pub(crate) struct Codec {
    compression: Option<Compression>,
    keys: Option<KeyRing>,
    /// The number of the database, to which encrypted entries are bound.
    database: i64,
}

/// The conditions under which an entry is decoded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DecodeOptions<P> {
    /// Translates its times. Without it they stay as they were written.
    pub(crate) moment: Option<Moment>,
    /// The longest uncompressed body. An entry with a longer one is not decoded.
    pub(crate) max_body: usize,
    /// Returns the Redis key of the bytes. Called for encrypted entries only.
    pub(crate) place: P,
}

impl Codec {
    /// Compresses bodies. Compressed entries are decoded without this as well.
    #[cfg(feature = "redis-compression")]
    pub(crate) fn compress(self, compression: Compression) -> Self {
        Self { compression: Some(compression), ..self }
    }

    /// Encrypts entries, and decodes only encrypted ones: others could have been made by anyone.
    #[cfg(feature = "redis-encryption")]
    pub(crate) fn seal(self, keys: KeyRing) -> Self {
        Self { keys: Some(keys), ..self }
    }

    /// Binds encrypted entries to the database with this number.
    pub(crate) fn in_database(self, database: i64) -> Self {
        Self { database, ..self }
    }

    /// Encodes an entry that is to be stored under a Redis key. `moment` translates its times. Without it they are written as they are.
    pub(crate) fn encode_at(&self, place: &str, entry: &Entry, moment: Option<Moment>) -> Result<Bytes, Unstored> {
        let nonce = self.keys.as_ref().map_or(Ok([0; encryption::NONCE]), |_| encryption::nonce())?;
        self.encode_with(place, entry, moment, nonce)
    }

    /// Encodes an entry whose Redis key does not matter.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn encode(&self, entry: &Entry, moment: Option<Moment>) -> Result<Bytes, Unstored> {
        self.encode_at("", entry, moment)
    }

    fn encode_with(
        &self,
        place: &str,
        entry: &Entry,
        moment: Option<Moment>,
        nonce: [u8; encryption::NONCE],
    ) -> Result<Bytes, Unstored> {
        let packed = self.packed(entry);
        let body = packed.as_deref().unwrap_or_else(|| body(entry));
        let form = if packed.is_some() { COMPRESSED } else { 0 };
        let write = |out: &mut Vec<u8>| encode::contents(entry, moment, body, packed.is_some(), out);
        self.framed(place, form, nonce, body.len() + 1024, write)
    }

    /// Encodes a list that is to be stored under a Redis key.
    pub(crate) fn encode_list(&self, place: &str, contents: &[u8]) -> Result<Bytes, Unstored> {
        let nonce = self.keys.as_ref().map_or(Ok([0; encryption::NONCE]), |_| encryption::nonce())?;
        self.framed(place, 0, nonce, contents.len() + 128, |out| {
            out.extend_from_slice(contents);
            Ok(())
        })
    }

    /// Decodes the list that is stored under a Redis key.
    pub(crate) fn decode_list(&self, bytes: Bytes, place: &str) -> Result<Bytes, Damaged> {
        match self.contents(bytes, || place.to_owned())? {
            (form, contents) if form & COMPRESSED == 0 => Ok(contents),
            _ => Err(Damaged::Malformed),
        }
    }

    /// Puts contents in a frame, encrypted if there are keys.
    fn framed(
        &self,
        place: &str,
        form: u8,
        nonce: [u8; encryption::NONCE],
        capacity: usize,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), Unstored>,
    ) -> Result<Bytes, Unstored> {
        let form = form | if self.keys.is_some() { SEALED } else { 0 };
        let mut out = Vec::with_capacity(capacity);
        out.extend_from_slice(&[VERSION, form, 0, 0, 0, 0]);
        if let Some(keys) = &self.keys {
            keys.begin(nonce, &mut out);
        }
        write(&mut out)?;
        let end = if self.keys.is_some() { encryption::TAG } else { CHECK };
        let length = u32::try_from(out.len() + end).ok().filter(|len| *len as usize <= MAX_LEN).ok_or(Unstored::TooLarge)?;
        out[2..FRAME].copy_from_slice(&length.to_le_bytes());
        match &self.keys {
            Some(keys) => keys.finish(&encryption::Place::of(self.database, place), &mut out)?,
            None => out.extend_from_slice(&xxh3_64(&out).to_le_bytes()),
        }
        Ok(out.into())
    }

    /// Returns the compressed body, if compression is on and makes it smaller.
    fn packed(&self, entry: &Entry) -> Option<Vec<u8>> {
        let Content::Response { headers, body, .. } = entry.content() else { return None };
        self.compression.as_ref()?.pack(&headers.map(), body)
    }

    /// Decodes the entry that is stored under `key`.
    ///
    /// `seen` is the stamp that was taken before the bytes were requested. The stamp of the entry has its epoch and time, and shares
    /// generations that are equal. `names` are those of the request, which mostly are those of the entry.
    ///
    /// A body that is neither compressed nor encrypted is not copied: it is a slice of `bytes`. Encrypted bytes are decrypted in place if
    /// they are not shared. Header values are slices as well, unless the body is compressed. The bytes that they keep alive count in the
    /// weight of the entry.
    pub(crate) fn decode_with(
        &self,
        bytes: Bytes,
        key: KeyRef<'_>,
        names: &Namespaces,
        seen: &Stamp,
        wanted: DecodeOptions<impl FnOnce() -> String>,
    ) -> Result<Arc<Entry>, Damaged> {
        let (form, contents) = self.contents(bytes, wanted.place)?;
        decode::entry(contents, form & COMPRESSED != 0, key, names, (seen, wanted.moment, wanted.max_body))
    }

    /// Decodes an entry where only the epoch of this process is known.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn decode(&self, bytes: Bytes, key: KeyRef<'_>, epoch: u64) -> Result<Arc<Entry>, Damaged> {
        let wanted = DecodeOptions { moment: None, max_body: usize::MAX, place: String::new };
        self.decode_with(bytes, key, &Namespaces::default(), &Stamp::local(epoch), wanted)
    }

    /// Returns the names of a stored entry and their generations. They decide about its validity without its key.
    pub(crate) fn generations(&self, bytes: Bytes, place: &str) -> Result<frame::Stamped, Damaged> {
        let (form, contents) = self.contents(bytes, || place.to_owned())?;
        decode::generations(&contents, form & COMPRESSED != 0)
    }

    fn contents(&self, bytes: Bytes, place: impl FnOnce() -> String) -> Result<(u8, Bytes), Damaged> {
        let form = form(&bytes)?;
        let contents = match (&self.keys, form & SEALED != 0) {
            (Some(keys), true) => keys.open(bytes, &encryption::Place::of(self.database, &place()))?,
            (None, true) => return Err(Damaged::Sealed),
            (Some(_), false) => return Err(Damaged::Unsealed),
            (None, false) => checked(bytes)?,
        };
        Ok((form, contents))
    }
}

/// Builds contents with a matching key. The last two bytes of the input give the length of the body.
#[cfg(any(test, fuzzing))]
fn contents_of(key: KeyRef<'_>, input: &[u8]) -> Option<Vec<u8>> {
    let (input, tail) = input.split_last_chunk::<2>()?;
    let head = input.len().saturating_sub(usize::from(u16::from_le_bytes(*tail)));
    let mut own = Vec::new();
    encode::prefixed(key.canonical(), &mut own).ok()?;
    let mut contents = ((own.len() + head) as u32).to_le_bytes().to_vec();
    contents.extend_from_slice(&own);
    contents.extend_from_slice(input);
    Some(contents)
}

/// Decodes contents that follow a matching key. The entry has the stamp of a new store.
#[cfg(any(test, fuzzing))]
pub(crate) fn contents_as_entry(key: KeyRef<'_>, input: &[u8], compressed: bool, moment: Moment) -> Option<Arc<Entry>> {
    let bytes = framed(if compressed { COMPRESSED } else { 0 }, &contents_of(key, input)?);
    let wanted = DecodeOptions { moment: Some(moment), max_body: 1 << 20, place: String::new };
    Codec::default().decode_with(bytes, key, &Namespaces::default(), &Stamp::local(u64::MAX >> 2), wanted).ok()
}

/// Puts any contents in a frame in the clear, with the right length and checksum.
#[cfg(any(test, fuzzing))]
fn framed(form: u8, contents: &[u8]) -> Bytes {
    let mut out = vec![VERSION, form];
    out.extend_from_slice(&((FRAME + contents.len() + CHECK) as u32).to_le_bytes());
    out.extend_from_slice(contents);
    out.extend_from_slice(&xxh3_64(&out).to_le_bytes());
    out.into()
}

/// Encodes an entry, for its benchmark.
pub fn bench_stored(entry: &Entry) -> Option<Bytes> {
    Codec::default().encode_at("", entry, None).ok()
}

/// Decodes an entry for a request that has found the names and generations of `like`, for its benchmark.
pub fn bench_read(stored: Bytes, like: &Entry) -> Option<Arc<Entry>> {
    let (key, moment) = (like.key().as_ref(), Moment { there: like.times().born, here: like.times().born });
    let wanted = DecodeOptions { moment: Some(moment), max_body: usize::MAX, place: String::new };
    Codec::default().decode_with(stored, key, like.namespaces(), like.stamp(), wanted).ok()
}

/// Decodes any contents behind a matching key, for the fuzz target `stored`. An entry that was decoded must be encoded to bytes from which
/// it is decoded again.
#[cfg(fuzzing)]
pub fn fuzz_stored(compressed: bool, input: &[u8]) {
    let key = KeyRef::new(b"key");
    let Some(contents) = contents_of(key, input) else { return };
    let codec = Codec::default();
    let _ = codec.decode(Bytes::copy_from_slice(input), key, 0);
    if let Ok(entry) = codec.decode(framed(if compressed { COMPRESSED } else { 0 }, &contents), key, 0) {
        let again = codec.encode(&entry, None).expect("what was read can be written");
        let entry = codec.decode(again.clone(), key, 0).expect("what was written can be read");
        assert_eq!(codec.encode(&entry, None).expect("and written again"), again);
        let wanted = DecodeOptions { moment: None, max_body: usize::MAX, place: String::new };
        let expected = codec.decode_with(again.clone(), key, entry.namespaces(), entry.stamp(), wanted);
        assert_eq!(codec.encode(&expected.expect("also by who expects it"), None).expect("and written again"), again);
    }
}

fn body(entry: &Entry) -> &[u8] {
    match entry.content() {
        Content::Response { body, .. } => body,
        Content::Variants(_) => &[],
    }
}

/// Returns the form, if the frame is complete and its length is right.
fn form(bytes: &[u8]) -> Result<u8, Damaged> {
    let Some((version, rest)) = bytes.split_first() else { return Err(Damaged::Truncated) };
    if *version != VERSION {
        return Err(Damaged::Version);
    }
    let Some(([form, length @ ..], _)) = rest.split_first_chunk::<5>() else { return Err(Damaged::Truncated) };
    if form & !(SEALED | COMPRESSED) != 0 {
        return Err(Damaged::Malformed);
    }
    match bytes.len().cmp(&(u32::from_le_bytes(*length) as usize)) {
        std::cmp::Ordering::Less => Err(Damaged::Truncated),
        std::cmp::Ordering::Equal => Ok(*form),
        std::cmp::Ordering::Greater => Err(Damaged::Trailing),
    }
}

/// Returns contents in the clear, if the checksum is right.
fn checked(bytes: Bytes) -> Result<Bytes, Damaged> {
    match bytes.split_last_chunk::<CHECK>() {
        Some((before, _)) if before.len() < FRAME => Err(Damaged::Truncated),
        Some((before, check)) if xxh3_64(before) == u64::from_le_bytes(*check) => {
            let end = before.len();
            Ok(bytes.slice(FRAME..end))
        }
        Some(_) => Err(Damaged::Checksum),
        None => Err(Damaged::Truncated),
    }
}
