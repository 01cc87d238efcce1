//! The stored form: its properties, and the bytes of each version.

use std::{fmt, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use proptest::{collection::vec, option, prelude::*};

use super::{
    decode::{STAR, VARIANTS},
    *,
};
use crate::{
    entry::{
        Draft,
        stamp::{Generation, Stamp},
        stored_headers::stored_map,
        times::{Http, Times},
    },
    key::Key,
    namespace::set::Namespaces,
    semantics::{Freshness, Vary},
};

const EPOCH: u64 = 99;

/// Prints all parts of an entry, to compare them.
fn told(entry: &Entry) -> String {
    let names = entry.namespaces();
    let places: Vec<_> = names.places().zip(names.hashes()).collect();
    let (times, http, stamp) = (entry.times(), entry.http(), entry.stamp());
    format!("{:?} {stamp:?} {:?} {places:?} {times:?} {http:?} {:?}", entry.key().canonical(), names.text(), entry.content())
}

/// In tests no response is confidential.
impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variants(vary) => write!(f, "{vary:?}"),
            Self::Response { status, headers, body, trailers } => {
                write!(f, "{status} {:?} {body:?} {:?}", lines(&headers.map()), trailers.as_deref().map(lines))
            }
        }
    }
}

fn lines(map: &HeaderMap) -> Vec<(&str, &[u8], bool)> {
    map.iter().map(|(name, value)| (name.as_str(), value.as_bytes(), value.is_sensitive())).collect()
}

fn unlimited() -> DecodeOptions<fn() -> String> {
    DecodeOptions { moment: None, max_body: usize::MAX, place: String::new }
}

fn read(codec: &Codec, bytes: &Bytes, entry: &Entry) -> Result<String, Damaged> {
    codec.decode(bytes.clone(), entry.key().as_ref(), EPOCH).map(|entry| told(&entry))
}

fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        map.append(*name, HeaderValue::from_static(value));
    }
    map
}

fn entry(key: Key, names: Namespaces, content: Content, http: Option<Http>) -> Entry {
    let generations: Vec<_> =
        (1..=names.count() as u64).map(|n| Some(Generation { hard: u128::from(n) << 64 | 0xabcd, soft: n })).collect();
    let stamp = Stamp::local(EPOCH).with_generations(generations);
    let times = Times {
        born: 1_700_000_000_000_000_000,
        fresh_until: 1_700_000_060_000_000_000,
        while_revalidate_until: 1_700_000_070_000_000_000,
        if_error_until: 1_700_000_080_000_000_000,
        kept_until: 1_700_000_090_000_000_000,
        cost: 5_000_000,
    };
    Entry::new(key, stamp, Draft { names, times, content, http: http.map(Box::new) })
}

fn response(headers: &HeaderMap, body: impl Into<Bytes>, trailers: Option<HeaderMap>) -> Content {
    Content::Response {
        status: StatusCode::OK,
        headers: stored_map(headers, false, 0).into(),
        body: body.into(),
        trailers: trailers.map(Box::new),
    }
}

fn some_key() -> Key {
    Key::new(*b"\x01\x07/orders\x07\x04page\x08\x017")
}

/// The stored form contains the hash of a key's name, but not how it is computed. Here it is the hash of the key.
fn names_of(key: &Key) -> Namespaces {
    let mut names = Namespaces::root();
    names.push("db_query:orders");
    let hash = (key.hash() >> 64) as u64 ^ key.hash() as u64;
    let mut all = Namespaces::with_text(names.text(), names.count() + 1);
    let of_http = key.as_ref().is_of_http();
    assert!(names.places().chain([crate::namespace::set::Place::Key { of_http, hash }]).all(|place| all.push_place(place)));
    all
}

const JSON: &[(&str, &str)] = &[("content-type", "application/json"), ("x-shard", "seven")];

fn plain() -> Entry {
    entry(some_key(), names_of(&some_key()), response(&fields(JSON), "[1,2,3]", None), None)
}

fn with_trailers() -> Entry {
    let mut headers =
        fields(&[("content-type", "application/grpc"), ("link", "</a>"), ("x-a", "1"), ("link", "</b>"), ("x-a", "2")]);
    let mut token = HeaderValue::from_static("token-of-one-user");
    token.set_sensitive(true);
    headers.append("x-token", token);
    let trailers = fields(&[("grpc-status", "0"), ("grpc-message", "")]);
    entry(some_key(), names_of(&some_key()), response(&headers, "\0\0\0\0\x01x", Some(trailers)), None)
}

fn variants() -> Entry {
    let vary = Vary::of(&fields(&[("vary", "Accept-Language, X-Tenant")]));
    entry(some_key(), names_of(&some_key()), Content::Variants(vary), None)
}

fn under_http() -> Entry {
    let key = Key::new(*b"\x10\0\x01\x02/a");
    let mut freshness = Freshness::fixed(Duration::from_millis(60_500), 1_700_000_000_000);
    freshness.initial_age = Duration::from_secs(3);
    freshness.stale_if_error = Duration::MAX;
    freshness.validate_always = true;
    let http = Http { freshness, open: true, asks: false, own_tag: true };
    let headers = fields(&[("etag", "\"v1\""), ("cache-control", "max-age=60"), ("date", "Tue, 14 Nov 2023 22:13:20 GMT")]);
    let names = names_of(&key);
    entry(key, names, response(&headers, "<p>", None), Some(http))
}

/// A typical entry: six header fields, one kilobyte, four namespaces.
fn typical() -> Entry {
    let headers = fields(&[
        ("content-type", "application/json"),
        ("content-length", "1024"),
        ("cache-control", "max-age=60"),
        ("etag", "\"0123456789abcdef0123456789abcdef\""),
        ("vary", "accept-encoding"),
    ]);
    entry(some_key(), names_of(&some_key()), response(&headers, vec![b'x'; 1024], None), None)
}

/// The contents of sample entries behind their keys, for the fuzz target `response`: a response, one with trailers, one under a rule of
/// HTTP caching, and a list of variants.
pub(crate) fn contents_of_samples() -> [Vec<u8>; 4] {
    [plain(), with_trailers(), under_http(), variants()].map(|entry| {
        let bytes = Codec::default().encode(&entry, None).expect("storable");
        let body = body(&entry).len();
        let contents = &bytes[FRAME + 4..bytes.len() - CHECK];
        let own = 1 + entry.key().canonical().len();
        [&contents[own..], &u16::try_from(body).expect("short").to_le_bytes()].concat()
    })
}

fn all() -> [(&'static str, Entry); 5] {
    [
        ("plain", plain()),
        ("trailers", with_trailers()),
        ("variants", variants()),
        ("http", under_http()),
        ("typical", typical()),
    ]
}

/// Prints bytes in lines of sixteen, each with its readable characters.
fn dump(bytes: &[u8]) -> String {
    let line = |line: &[u8]| {
        let hex: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let text: String = line.iter().map(|byte| if byte.is_ascii_graphic() { *byte as char } else { '.' }).collect();
        format!("{:47}  # {text}\n", hex.join(" "))
    };
    bytes.chunks(16).map(line).collect()
}

fn undump(text: &str) -> Bytes {
    let pairs = text.lines().flat_map(|line| line.split('#').next().unwrap_or_default().split_whitespace());
    pairs.map(|pair| u8::from_str_radix(pair, 16).expect("two digits")).collect()
}

fn is_stored_as(codec: &Codec, name: &str, entry: &Entry, encoded: &Bytes, fixture: &str) {
    assert_eq!(dump(encoded), fixture, "{name} is written differently: entries of other processes would be lost");
    assert_eq!(read(codec, &undump(fixture), entry).as_deref(), Ok(told(entry).as_str()), "{name}");
}

#[test]
fn bytes_of_version_1_never_change() {
    let codec = Codec::default();
    for (name, entry, fixture) in [
        ("plain", plain(), include_str!("../../tests/fixtures/stored/plain.hex")),
        ("trailers", with_trailers(), include_str!("../../tests/fixtures/stored/trailers.hex")),
        ("variants", variants(), include_str!("../../tests/fixtures/stored/variants.hex")),
        ("http", under_http(), include_str!("../../tests/fixtures/stored/http.hex")),
    ] {
        let encoded = codec.encode(&entry, None).expect("storable");
        is_stored_as(&codec, name, &entry, &encoded, fixture);
    }
}

#[test]
fn numbers_of_header_names_never_change() {
    for (number, name) in [(1, header::AGE), (35, header::SET_COOKIE), (55, header::USER_AGENT)] {
        assert_eq!(header_names::of_number(number), Some(&name));
    }
    assert_eq!((header_names::number(&HeaderName::from_static("no-vary-search")), header_names::of_number(67)), (66, None));
    for number in 1..=66 {
        assert_eq!(header_names::number(header_names::of_number(number).expect("a name")), number, "each name once");
    }
    assert_eq!((header_names::of_number(0), header_names::number(&HeaderName::from_static("x-shard"))), (None, 0));
}

#[test]
fn entry_survives_encoding() {
    for (name, entry) in all() {
        let bytes = Codec::default().encode(&entry, None).expect("storable");
        assert_eq!(read(&Codec::default(), &bytes, &entry), Ok(told(&entry)), "{name}");
    }
}

#[test]
fn times_are_translated_and_no_copy_outlives_its_lifetime() {
    const SECOND: u64 = 1_000_000_000;
    let hour = 3_600 * SECOND;
    for entry in [plain(), under_http()] {
        let (key, times) = (entry.key().as_ref(), *entry.times());
        let read = |bytes: &Bytes, moment| {
            let (names, stamp) = (entry.namespaces(), entry.stamp());
            let wanted = DecodeOptions { moment: Some(moment), ..unlimited() };
            let read = Codec::default().decode_with(bytes.clone(), key, names, stamp, wanted).expect("whole");
            (read.times().born, read.times().fresh_until, read.http().map(|http| http.freshness.received))
        };
        // Written by a process that is one hour ahead of the server, two seconds after the response arrived.
        let here = times.born + 2 * SECOND;
        let bytes = Codec::default().encode(&entry, Some(Moment { there: here - hour, here })).expect("storable");
        // Read one second later by a process that is one hour behind the server.
        let born = times.born - hour;
        let (there, here) = (born + 3 * SECOND, born + 3 * SECOND - hour);
        let received = entry.http().map(|http| http.freshness.received - 2 * 3_600_000);
        assert_eq!(read(&bytes, Moment { there, here }), (born - hour, born - hour + 60 * SECOND, received));
        // Read by a clock at which the response has not arrived yet.
        assert_eq!(read(&bytes, Moment { there: born - hour, here: 7 * hour }).1, 7 * hour + 60 * SECOND);
    }
}

#[test]
fn epoch_is_that_of_the_reader() {
    let entry = plain();
    let bytes = Codec::default().encode(&entry, None).expect("storable");
    let read = Codec::default().decode(bytes, entry.key().as_ref(), 7).expect("whole");
    assert_eq!(read.stamp().epoch(), 7);
    assert!(read.stamp().is_whole());
}

#[test]
fn equal_generations_are_shared_and_others_copied() {
    let entry = plain();
    let bytes = Codec::default().encode(&entry, None).expect("storable");
    let read = |stamp: &Stamp| {
        let read = Codec::default().decode_with(bytes.clone(), entry.key().as_ref(), entry.namespaces(), stamp, unlimited());
        read.expect("whole").stamp().clone()
    };
    let same = entry.stamp().again(7, 8);
    let shared = read(&same);
    assert!(Arc::ptr_eq(shared.shared_generations().expect("some"), same.shared_generations().expect("some")));
    assert_eq!((shared.epoch(), shared.taken()), (7, 8));
    let mut generations = same.generations().expect("some").to_vec();
    generations[1] = Some(Generation { hard: 1, soft: 1 });
    for other in [generations, vec![None; 4], vec![generations_of(&entry)[0]]] {
        let read = read(&Stamp::local(7).with_generations(other));
        assert_eq!(read.generations(), entry.stamp().generations());
        assert_eq!(read.epoch(), 7);
    }
}

fn generations_of(entry: &Entry) -> Vec<Option<Generation>> {
    entry.stamp().generations().expect("some").to_vec()
}

#[test]
fn entry_needs_a_generation_for_each_name() {
    let of = |generations: Option<Vec<Option<Generation>>>| {
        let stamp = match generations {
            Some(generations) => Stamp::local(1).with_generations(generations),
            None => Stamp::local(1),
        };
        let content = response(&HeaderMap::new(), "", None);
        let times = *plain().times();
        let draft = Draft { names: names_of(&some_key()), times, content, http: None };
        Codec::default().encode(&Entry::new(some_key(), stamp, draft), None)
    };
    let one = Some(Generation { hard: 1, soft: 1 });
    assert_eq!(names_of(&some_key()).count(), 4);
    assert_eq!(of(None), Err(Unstored::Stamp));
    assert_eq!(of(Some(vec![one; 3])), Err(Unstored::Stamp));
    assert_eq!(of(Some(vec![one, one, None, one])), Err(Unstored::Stamp));
    assert!(of(Some(vec![one; 4])).is_ok());
}

#[test]
fn plain_body_is_not_copied_and_its_buffer_counts() {
    let entry = typical();
    let bytes = Codec::default().encode(&entry, None).expect("storable");
    let whole = bytes.as_ptr_range();
    let read = Codec::default().decode(bytes.clone(), entry.key().as_ref(), 0).expect("whole");
    let Content::Response { headers, body, .. } = read.content() else { panic!("a response") };
    assert!(whole.contains(&body.as_ptr()) && whole.contains(&headers.map()["etag"].as_bytes().as_ptr()));
    // Decoded names have no room to grow. Otherwise the weights are equal, apart from the bytes that are kept alive.
    let weight = |entry: &Entry| entry.weight() - entry.namespaces().heap() as u64;
    assert!(weight(&read) >= weight(&entry) + (bytes.len() - body.len() - FRAME - CHECK) as u64);
}

#[test]
fn truncated_entry_is_damaged() {
    for (name, entry) in all() {
        let bytes = Codec::default().encode(&entry, None).expect("storable");
        for len in 0..bytes.len() {
            assert_eq!(read(&Codec::default(), &bytes.slice(..len), &entry), Err(Damaged::Truncated), "{name}: {len} bytes");
        }
        let longer: Bytes = [&bytes[..], b"\0"].concat().into();
        assert_eq!(read(&Codec::default(), &longer, &entry), Err(Damaged::Trailing), "{name}");
    }
}

#[test]
fn truncated_content_with_a_right_checksum_is_damaged() {
    for (name, entry) in all() {
        let bytes = Codec::default().encode(&entry, None).expect("storable");
        let contents = &bytes[FRAME..bytes.len() - CHECK];
        let head = u32::from_le_bytes(*contents.first_chunk().expect("a length")) as usize;
        for len in 0..head {
            let mut cut = (len as u32).to_le_bytes().to_vec();
            cut.extend_from_slice(&contents[4..4 + len]);
            assert_eq!(read(&Codec::default(), &framed(0, &cut), &entry), Err(Damaged::Truncated), "{name}: {len} bytes");
            assert_eq!(
                read(&Codec::default(), &framed(0, &contents[..len]), &entry),
                Err(Damaged::Truncated),
                "{name}: {len} bytes"
            );
        }
    }
}

fn every_flip_is_damage(codec: &Codec, entry: &Entry, bytes: &Bytes) {
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(read(codec, &flipped.into(), entry).is_err(), "bit {bit}");
    }
}

#[test]
fn flipped_bit_is_damage() {
    for entry in [plain(), with_trailers(), variants()] {
        let bytes = Codec::default().encode(&entry, None).expect("storable");
        every_flip_is_damage(&Codec::default(), &entry, &bytes);
    }
}

#[test]
fn damage_is_reported_by_its_kind() {
    let entry = plain();
    let codec = Codec::default();
    let bytes = codec.encode(&entry, None).expect("storable");
    let with = |at: usize, byte: u8| {
        let mut bytes = bytes.to_vec();
        bytes[at] = byte;
        read(&codec, &bytes.into(), &entry).expect_err("damaged")
    };
    assert_eq!(with(0, 2), Damaged::Version);
    assert_eq!(with(0, 0), Damaged::Version);
    assert_eq!(with(1, 4), Damaged::Malformed);
    assert_eq!(with(1, SEALED), Damaged::Sealed);
    assert_eq!(with(bytes.len() - CHECK - 1, b'!'), Damaged::Checksum);
    let other = Key::new(*b"another");
    assert_eq!(codec.decode(bytes, other.as_ref(), 0).map(|_| ()), Err(Damaged::Foreign));
}

/// Decodes contents with one byte replaced, under the right checksum.
fn with_byte(contents: &[u8], at: usize, byte: u8, key: KeyRef<'_>) -> Result<Arc<Entry>, Damaged> {
    let mut changed = contents.to_vec();
    changed[at] = byte;
    Codec::default().decode(framed(0, &changed), key, EPOCH)
}

/// Anyone who can compute a checksum can write any bytes. They are refused, or decoded to an entry that can be stored again.
#[test]
fn changed_bytes_never_panic() {
    for (name, entry) in all() {
        let bytes = Codec::default().encode(&entry, None).expect("storable");
        let contents = &bytes[FRAME..bytes.len() - CHECK];
        let (mut taken, mut refused) = (0, 0);
        for at in 0..contents.len().min(400) {
            for byte in [0, 1, contents[at] ^ 0x80, contents[at].wrapping_add(1), contents[at].wrapping_sub(1), 0x7f, 0xff] {
                match with_byte(contents, at, byte, entry.key().as_ref()) {
                    Ok(other) => {
                        let again = Codec::default().encode(&other, None).expect("storable");
                        assert_eq!(read(&Codec::default(), &again, &other), Ok(told(&other)), "{name}: {byte} at {at}");
                        taken += 1;
                    }
                    Err(_) => refused += 1,
                }
            }
        }
        assert!(taken > 0 && refused > 0, "{name}: {taken} taken, {refused} refused");
    }
}

#[test]
fn impossible_count_is_refused_before_allocation() {
    let key = Key::new(*b"k");
    let fixed = |tail: &[u8]| {
        let head = [&b"\x01k"[..], &[0; 48], tail].concat();
        let contents = [&(head.len() as u32).to_le_bytes()[..], &head].concat();
        Codec::default().decode(framed(0, &contents), key.as_ref(), 0).map(|_| ())
    };
    let most = [0xff, 0xff, 0xff, 0xff, 0x0f];
    let names = [&[0, 0][..], &most].concat();
    let headers = [&[0, 0, 0, 200, 0][..], &most].concat();
    let several = [0, 0, 0, 200, 0, 1, 0x81, 0xff, 0xff, 0xff, 0xff, 0x0f];
    let text = [&[0][..], &most].concat();
    let vary = [&[VARIANTS, 0, 0][..], &most].concat();
    for tail in [&names[..], &headers, &several, &text, &vary] {
        assert_eq!(fixed(tail), Err(Damaged::Truncated), "{tail:02x?}");
    }
    assert_eq!(fixed(&[0, 0, 0, 200, 0, 0]), Ok(()), "without those it is an entry");
}

#[test]
fn unwritten_form_is_refused() {
    let key = Key::new(*b"k");
    let fixed = |tail: &[u8]| {
        let head = [&b"\x01k"[..], &[0; 48], tail].concat();
        let contents = [&(head.len() as u32).to_le_bytes()[..], &head].concat();
        Codec::default().decode(framed(0, &contents), key.as_ref(), 0).map(|_| ()).expect_err("refused")
    };
    for (what, tail) in [
        ("an unknown part", &[0x20, 0, 0, 200, 0, 0][..]),
        ("a star without variants", &[STAR, 0, 0, 200, 0, 0]),
        ("a length of zero in two bytes", &[0, 0x80, 0, 0, 200, 0, 0]),
        ("a status below 100", &[0, 0, 0, 99, 0, 0]),
        ("the same field twice", &[0, 0, 0, 200, 0, 2, 1, 0, 1, 0]),
        ("several values that are one", &[0, 0, 0, 200, 0, 1, 0x81, 1, 0]),
        ("several values that are none", &[0, 0, 0, 200, 0, 1, 0x81, 0, 0]),
        ("a number without a name", &[0, 0, 0, 200, 0, 1, 127, 0]),
        ("a name in capitals", &[0, 0, 0, 200, 0, 1, 0, 1, b'A', 0]),
        ("a line feed in a value", &[0, 0, 0, 200, 0, 1, 1, 2, b'\n']),
        ("variants twice by a field", &[VARIANTS, 0, 0, 2, 1, 1]),
        ("a repeated field of variants", &[VARIANTS, 0, 0, 1, 0x81]),
        ("namespaces that are no text", &[0, 1, 0xff, 0, 200, 0, 0]),
    ] {
        assert_eq!(fixed(tail), Damaged::Malformed, "{what}");
    }
    let past_the_text = [&[0, 1, b'a', 1, 0, 2][..], &[0; 24], &[200, 0, 0]].concat();
    assert_eq!(fixed(&past_the_text), Damaged::Malformed);
    assert_eq!(fixed(&[0, 0, 0, 200, 0, 0, 0]), Damaged::Trailing);
}

proptest! {
    #[test]
    fn random_entry_survives_encoding(entry in any_entry()) {
        let bytes = Codec::default().encode(&entry, None).expect("storable");
        prop_assert_eq!(read(&Codec::default(), &bytes, &entry), Ok(told(&entry)));
        let again = Codec::default().decode(bytes.clone(), entry.key().as_ref(), EPOCH).expect("whole");
        prop_assert_eq!(Codec::default().encode(&again, None), Ok(bytes));
    }
    #[test]
    fn expected_names_do_not_change_a_decoded_entry(entry in any_entry(), other in any_entry()) {
        let bytes = Codec::default().encode(&entry, None).expect("storable");
        for expected in [&entry, &other] {
            let stamp = expected.stamp();
            let read = Codec::default().decode_with(bytes.clone(), entry.key().as_ref(), expected.namespaces(), stamp, unlimited());
            prop_assert_eq!(told(&read.expect("whole")), told(&entry));
        }
    }
    #[test]
    fn random_bytes_are_no_entry(bytes in vec(any::<u8>(), 0..400), head in vec(any::<u8>(), 0..200)) {
        let key = Key::new(*b"k");
        prop_assert!(Codec::default().decode(bytes.into(), key.as_ref(), 0).is_err());
        let head = [&b"\x01k"[..], &[0; 48], &head].concat();
        let contents = [&(head.len() as u32).to_le_bytes()[..], &head].concat();
        // Only the parser stands between these bytes and an entry.
        let _ = Codec::default().decode(framed(0, &contents), key.as_ref(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A thread with cached headers decodes the same bytes to the same entry, or to the same damage, as a new thread.
    #[test]
    fn earlier_reads_do_not_change_a_decoded_entry(
        many in vec((alike_fields(), option::of(alike_fields()), option::of((any::<prop::sample::Index>(), any::<u8>()))), 1..12),
    ) {
        for (headers, trailers, damage) in many {
            let entry = entry(some_key(), names_of(&some_key()), response(&headers, "body", trailers), None);
            let bytes = Codec::default().encode(&entry, None).expect("storable");
            let contents = &bytes[FRAME..bytes.len() - CHECK];
            let mut changed = contents.to_vec();
            if let Some((at, byte)) = damage {
                changed[at.index(contents.len())] = byte;
            } else {
                prop_assert_eq!(read(&Codec::default(), &bytes, &entry), Ok(told(&entry)));
            }
            let changed = framed(0, &changed);
            let here = read(&Codec::default(), &changed, &entry);
            let elsewhere = std::thread::scope(|scope| scope.spawn(|| read(&Codec::default(), &changed, &entry)).join());
            prop_assert_eq!(here, elsewhere.expect("nothing panics"));
        }
    }
}

/// Fields of few names and values, so that most were cached before.
fn alike_fields() -> impl Strategy<Value = HeaderMap> {
    let name = prop::sample::select(vec!["content-type", "etag", "x-a", "x-b", "vary"]);
    let value = prop::sample::select(vec![
        "a",
        "b",
        "",
        "aa",
        "a value that is too long to be remembered, which takes 65 bytes at least",
    ]);
    vec((name, value, prop::sample::select(vec![false, false, true])), 0..5).prop_map(|lines| {
        let mut map = HeaderMap::new();
        for (name, value, sensitive) in lines {
            let mut value = HeaderValue::from_static(value);
            value.set_sensitive(sensitive);
            map.append(name, value);
        }
        map
    })
}

#[test]
fn remembered_value_keeps_no_read_buffer() {
    let bytes = Codec::default().encode(&plain(), None).expect("storable");
    for _ in 0..20 {
        assert_eq!(read(&Codec::default(), &bytes, &plain()), Ok(told(&plain())));
    }
    assert!(bytes.is_unique());
    let read = Codec::default().decode(bytes.clone(), some_key().as_ref(), 0).expect("whole");
    let Content::Response { headers, .. } = read.content() else { panic!("a response") };
    assert!(!bytes.as_ptr_range().contains(&headers.map()["content-type"].as_bytes().as_ptr()), "it is shared");
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let key = vec(any::<u8>(), 0..200).prop_map(Key::new);
    let times = any::<[u64; 6]>().prop_map(|[born, fresh_until, while_revalidate_until, if_error_until, kept_until, cost]| {
        Times { born, fresh_until, while_revalidate_until, if_error_until, kept_until, cost }
    });
    (key, any_names(), times, option::of(any_http()), any_content(), any::<[(u128, u64); 20]>()).prop_map(
        |(key, names, times, http, content, generations)| {
            let generations =
                generations.iter().take(names.count()).map(|(hard, soft)| Some(Generation { hard: *hard, soft: *soft }));
            let stamp = Stamp::local(EPOCH).with_generations(generations.collect::<Vec<_>>());
            Entry::new(key, stamp, Draft { names, times, content, http: http.map(Box::new) })
        },
    )
}

/// Names as rules and handlers make them: with ancestors, joined with others, and without the first ones.
fn any_names() -> impl Strategy<Value = Namespaces> {
    let name = "[a-zä]{1,3}(:[a-z0-9%]{1,9}){0,2}";
    (vec(name, 0..3), vec(name, 0..3), option::of(vec(any::<u8>(), 0..30)), 0..3_usize).prop_map(
        |(ours, added, key, left_out)| {
            let (mut names, mut more) = (Namespaces::root(), Namespaces::root());
            ours.iter().for_each(|name| names.push(name));
            added.iter().for_each(|name| more.push(name));
            if let Some(key) = key {
                names.push_key(Key::new(key).as_ref());
            }
            names.extend(&more);
            names.since(left_out.min(names.count()))
        },
    )
}

fn any_http() -> impl Strategy<Value = Http> {
    let span = || (any::<u64>(), 0..1_000_000_000_u32).prop_map(|(seconds, nanos)| Duration::new(seconds, nanos));
    (any::<u64>(), [span(), span(), span(), span(), span()], any::<[bool; 6]>()).prop_map(|(received, spans, flags)| {
        let mut freshness = Freshness::fixed(spans[0], received);
        freshness.initial_age = spans[1];
        freshness.stale_while_revalidate = spans[2];
        freshness.stale_if_error = spans[3];
        freshness.stale_if_unreachable = spans[4];
        freshness.forbids_stale = flags[0];
        freshness.validate_always = flags[1];
        freshness.immutable = flags[2];
        Http { freshness, open: flags[3], asks: flags[4], own_tag: flags[5] }
    })
}

fn any_content() -> impl Strategy<Value = Content> {
    let body = vec(any::<u8>(), 0..3000);
    let response =
        (100..1000_u16, any_fields(), body, option::of(any_fields())).prop_map(|(status, headers, body, trailers)| {
            Content::Response {
                status: StatusCode::from_u16(status).expect("three digits"),
                headers: stored_map(&headers, false, 0).into(),
                body: body.into(),
                trailers: trailers.map(Box::new),
            }
        });
    let variants = any_fields().prop_map(|fields| {
        let vary = fields.keys().fold(Vary::default(), |vary, name| vary.and(name.clone()));
        Content::Variants(vary)
    });
    prop_oneof![4 => response, 1 => variants]
}

fn any_fields() -> impl Strategy<Value = HeaderMap> {
    let name = prop_oneof![
        "[a-z0-9-]{1,20}".prop_map(|name| HeaderName::try_from(name).expect("a name")),
        (2..=66_u8).prop_map(|number| header_names::of_number(number).expect("a name").clone()),
    ];
    // Values may contain bytes above ASCII. A few are long.
    let value = (prop_oneof!["[ -~\u{e9}]{0,40}", "[a-z]{100,300}"], any::<bool>()).prop_map(|(value, sensitive)| {
        let mut value = HeaderValue::from_bytes(value.as_bytes()).expect("a value");
        value.set_sensitive(sensitive);
        value
    });
    vec((name, vec(value, 1..4)), 0..8).prop_map(|lines| {
        let mut map = HeaderMap::new();
        for (name, values) in lines {
            for value in values {
                if name != header::AGE {
                    map.append(name.clone(), value);
                }
            }
        }
        map
    })
}

#[cfg(feature = "redis-compression")]
mod compressed {
    use super::*;

    fn codec() -> Codec {
        Codec::default().compress(Compression::default().above(100).level(3))
    }

    fn orders() -> Entry {
        let rows: Vec<_> = (0..40).map(|n| format!("{{\"id\":{n},\"state\":\"open\"}}")).collect();
        entry(some_key(), names_of(&some_key()), response(&fields(JSON), rows.join(","), None), None)
    }

    fn is_packed(entry: &Entry) -> bool {
        codec().encode(entry, None).expect("storable")[1] & COMPRESSED != 0
    }

    /// Another release of zstd may compress the same body to other bytes, so only decoding is fixed.
    #[test]
    fn compressed_entries_of_version_1_stay_readable() {
        let fixture = undump(include_str!("../../tests/fixtures/stored/compressed.hex"));
        assert_eq!(fixture[1], COMPRESSED);
        assert_eq!(read(&Codec::default(), &fixture, &orders()), Ok(told(&orders())));
    }
    #[test]
    fn compressed_body_is_read_without_configured_compression() {
        let bytes = codec().encode(&orders(), None).expect("storable");
        assert!(bytes.len() < Codec::default().encode(&orders(), None).expect("storable").len());
        for reader in [codec(), Codec::default()] {
            assert_eq!(read(&reader, &bytes, &orders()), Ok(told(&orders())));
        }
        every_flip_is_damage(&codec(), &orders(), &bytes);
    }
    #[test]
    fn decompressed_body_keeps_no_compressed_bytes() {
        let bytes = codec().encode(&orders(), None).expect("storable");
        let read = codec().decode(bytes.clone(), some_key().as_ref(), 0).expect("whole");
        assert!(bytes.is_unique(), "the entry still holds them");
        assert!(read.weight() < orders().weight() + bytes.len() as u64);
    }
    #[test]
    fn only_shrinking_bodies_are_compressed() {
        let of =
            |headers: &HeaderMap, body: Vec<u8>| entry(some_key(), Namespaces::root(), response(headers, body, None), None);
        let mut noise = vec![0; 5000];
        fastrand::Rng::with_seed(1).fill(&mut noise);
        assert!(is_packed(&of(&HeaderMap::new(), vec![b'a'; 101])));
        assert!(!is_packed(&of(&HeaderMap::new(), vec![b'a'; 100])), "not above the size");
        assert!(!is_packed(&of(&HeaderMap::new(), noise)), "does not get smaller");
        assert!(!is_packed(&of(&fields(&[("content-encoding", "br")]), vec![b'a'; 5000])), "has a coding");
        assert!(!is_packed(&variants()));
    }
    #[test]
    fn frame_of_another_length_than_stated_is_refused() {
        let frame = zstd::bulk::compress(&[0; 10_000], 1).expect("compresses");
        assert_eq!(compression::unpack(&frame, 10_000).map(|body| body.len()), Ok(10_000));
        for len in [0, 1, 9_999, 10_001, compression::MAX_UNPACKED, compression::MAX_UNPACKED + 1, u32::MAX as usize] {
            assert_eq!(compression::unpack(&frame, len), Err(Damaged::Compressed), "{len}");
        }
        assert_eq!(compression::unpack(&frame[..frame.len() - 1], 10_000), Err(Damaged::Compressed));
        assert_eq!(compression::unpack(b"no frame", 8), Err(Damaged::Compressed));
    }
}

#[cfg(not(feature = "redis-compression"))]
#[test]
fn compressed_entry_is_damaged_without_the_feature() {
    let fixture = undump(include_str!("../../tests/fixtures/stored/compressed.hex"));
    assert_eq!(Codec::default().decode(fixture, some_key().as_ref(), 0).map(|_| ()), Err(Damaged::Compressed));
}

#[cfg(feature = "redis-encryption")]
mod sealed {
    use super::*;

    const OLD: [u8; 32] = [1; 32];
    const NEW: [u8; 32] = [2; 32];

    fn codec(keys: &[[u8; 32]]) -> Codec {
        Codec::default().seal(KeyRing::new(keys.iter().copied()).expect("a ring"))
    }
    #[test]
    fn encrypted_bytes_of_version_1_never_change() {
        let bytes = codec(&[OLD]).encode_with("", &plain(), None, [9; encryption::NONCE]).expect("storable");
        let fixture = include_str!("../../tests/fixtures/stored/sealed.hex");
        is_stored_as(&codec(&[OLD]), "sealed", &plain(), &bytes, fixture);
    }
    #[test]
    fn encrypted_entry_is_decrypted_in_place() {
        for (name, entry) in all() {
            let bytes = codec(&[OLD]).encode(&entry, None).expect("storable");
            assert_eq!(read(&codec(&[OLD]), &bytes, &entry), Ok(told(&entry)), "{name}");
        }
        let bytes = codec(&[OLD]).encode(&typical(), None).expect("storable");
        let whole = bytes.as_ptr_range();
        let read = codec(&[OLD]).decode(bytes, typical().key().as_ref(), 0).expect("whole");
        let Content::Response { body, .. } = read.content() else { panic!("a response") };
        assert!(whole.contains(&body.as_ptr()));
    }
    #[test]
    fn equal_entries_encrypt_differently() {
        let codec = codec(&[OLD]);
        assert_ne!(codec.encode(&plain(), None), codec.encode(&plain(), None));
    }
    #[test]
    fn encrypted_entry_has_no_plain_content() {
        let entry = with_trailers();
        let clear = Codec::default().encode(&entry, None).expect("storable");
        let sealed = codec(&[OLD]).encode(&entry, None).expect("storable");
        let Content::Response { body, .. } = entry.content() else { panic!("a response") };
        let secrets: [&[u8]; 6] =
            [entry.key().canonical(), body, b"token-of-one-user", b"application/grpc", b"x-token", b"db_query"];
        let finds = |bytes: &Bytes, secret: &[u8]| bytes.windows(secret.len()).any(|window| window == secret);
        for secret in secrets {
            assert!(finds(&clear, secret), "{} is looked for in the right way", secret.escape_ascii());
            assert!(!finds(&sealed, secret), "{}", secret.escape_ascii());
        }
    }
    #[test]
    fn keys_can_be_rotated() {
        let old = codec(&[OLD]).encode(&plain(), None).expect("storable");
        let both = codec(&[NEW, OLD]);
        let new = both.encode(&plain(), None).expect("storable");
        let good = Ok(told(&plain()));
        assert_eq!((read(&both, &old, &plain()), read(&both, &new, &plain())), (good.clone(), good.clone()));
        assert_eq!((read(&codec(&[OLD, NEW]), &new, &plain()), read(&codec(&[NEW]), &new, &plain())), (good.clone(), good));
        assert_eq!(read(&codec(&[NEW]), &old, &plain()), Err(Damaged::Sealed), "the old key is gone");
        assert_eq!(read(&codec(&[OLD]), &new, &plain()), Err(Damaged::Sealed), "the new key is not there yet");
    }
    #[test]
    fn moved_encrypted_entry_does_not_decrypt() {
        let at = |database, place: &'static str| {
            let bytes = codec(&[OLD]).in_database(3).encode_at("app:1:e:{*}:1", &plain(), None).expect("storable");
            let wanted = DecodeOptions { moment: None, max_body: usize::MAX, place: || place.to_owned() };
            let (entry, stamp) = (plain(), Stamp::local(EPOCH));
            let codec = codec(&[OLD]).in_database(database);
            codec.decode_with(bytes, entry.key().as_ref(), entry.namespaces(), &stamp, wanted).map(|_| ())
        };
        assert_eq!(at(3, "app:1:e:{*}:1"), Ok(()));
        for (database, place) in
            [(3, "app:1:e:{*}:2"), (3, "apq:1:e:{*}:1"), (3, "app:1:e:{a}:1"), (2, "app:1:e:{*}:1"), (3, "")]
        {
            assert_eq!(at(database, place), Err(Damaged::Sealed), "{database} {place}");
        }
    }
    #[test]
    fn changed_or_truncated_encrypted_entry_is_damaged() {
        let (codec, entry) = (codec(&[OLD]), plain());
        let bytes = codec.encode(&entry, None).expect("storable");
        every_flip_is_damage(&codec, &entry, &bytes);
        for len in 0..bytes.len() {
            assert_eq!(read(&codec, &bytes.slice(..len), &entry), Err(Damaged::Truncated), "{len} bytes");
            // Even if its own length agrees.
            let mut cut = bytes[..len].to_vec();
            if let Some(length) = cut.get_mut(2..FRAME) {
                length.copy_from_slice(&(len as u32).to_le_bytes());
            }
            assert!(read(&codec, &cut.into(), &entry).is_err(), "{len} bytes");
        }
    }
    #[test]
    fn plain_and_encrypted_entries_do_not_mix() {
        let clear = Codec::default().encode(&plain(), None).expect("storable");
        let sealed = codec(&[OLD]).encode(&plain(), None).expect("storable");
        assert_eq!(read(&codec(&[OLD]), &clear, &plain()), Err(Damaged::Unsealed));
        assert_eq!(read(&Codec::default(), &sealed, &plain()), Err(Damaged::Sealed));
    }
    #[test]
    fn debug_shows_no_key() {
        let ring = KeyRing::new([[0xab; 32]]).expect("a ring");
        let shown = format!("{ring:?} {:?}", Codec::default().seal(ring.clone()));
        assert!(shown.starts_with("KeyRing[\"") && !shown.contains("abab") && !shown.contains("171, 171"), "{shown}");
    }

    #[cfg(feature = "redis-compression")]
    #[test]
    fn compressed_entry_is_encrypted_too() {
        let entry = entry(some_key(), Namespaces::root(), response(&HeaderMap::new(), vec![b'a'; 9000], None), None);
        let codec = codec(&[OLD]).compress(Compression::default());
        let bytes = codec.encode(&entry, None).expect("storable");
        assert_eq!(bytes[1], SEALED | COMPRESSED);
        assert!(bytes.len() < 1000);
        assert_eq!(read(&codec, &bytes, &entry), Ok(told(&entry)));
    }
}
