use http::{HeaderMap, HeaderValue};
use percent_encoding::percent_decode_str;
use proptest::{collection::vec, prelude::*};

use super::*;

fn all() -> [CacheTags; 6] {
    [
        CacheTags::surrogate_key(),
        CacheTags::cloudflare(),
        CacheTags::google(),
        CacheTags::cloudfront(),
        CacheTags::custom("X-Tags", ';'),
        CacheTags::custom("X-Tags", '|').max_tag_len(0).max_tags(3),
    ]
}

fn sent(tags: &CacheTags, before: &[&str], names: &[&str]) -> Result<String, TooManyTags> {
    let mut headers = HeaderMap::new();
    for line in before {
        headers.append(tags.field(), HeaderValue::from_str(line).expect("a value"));
    }
    tags.add(&mut headers, names.iter().copied())?;
    assert!(headers.get_all(tags.field()).iter().count() <= 1, "one line");
    Ok(headers.get(tags.field()).map_or_else(String::new, |line| line.to_str().expect("ASCII").to_owned()))
}

#[test]
fn names_are_percent_encoded() {
    for (name, tag) in [
        ("*", "%2A"),
        ("db_query:orders", "db_query:orders"),
        ("t:a%3Ab", "t:a%253Ab"),
        ("t:~0f", "t:~0f"),
        ("käse", "k%C3%A4se"),
        ("a,b;c|d", "a%2Cb%3Bc%7Cd"),
        ("a\"b", "a%22b"),
        ("a.b-c", "a.b-c"),
    ] {
        assert_eq!(CacheTags::cloudflare().tag(&Namespace::new(name).expect(name)), tag);
    }
}

#[test]
fn long_tag_becomes_the_digest_of_its_name() {
    let long = "ä".repeat(100);
    let name = Namespace::new(&long).expect("200 bytes");
    assert_eq!(CacheTags::surrogate_key().tag(&name).len(), 600, "1,024 bytes are allowed");
    for tags in [CacheTags::google(), CacheTags::cloudfront(), CacheTags::custom("x", ' ').max_tag_len(599)] {
        let tag = tags.tag(&name);
        assert!(tag.starts_with("%~") && tag.len() == 34, "{tag}");
        assert_eq!(sent(&tags, &[], &[&long]).expect("it fits"), tag, "the response and the purge agree");
        assert_ne!(tag, tags.tag(&Namespace::new(format!("{}b", "ä".repeat(99))).expect("valid")));
    }
    let exact = CacheTags::custom("x", ' ').max_tag_len(600);
    assert_eq!(exact.tag(&name).len(), 600);
}

#[test]
fn each_limit_holds_to_the_byte() {
    let names: Vec<String> = (0..51).map(|n| format!("n{n:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert!(sent(&CacheTags::google(), &[], &names[..50]).is_ok());
    assert_eq!(sent(&CacheTags::google(), &[], &names), Err(TooManyTags { tags: 51, bytes: 51 * 4 - 1 }));
    // Two tags of three bytes, and a separator.
    assert_eq!(sent(&CacheTags::custom("x", ',').max_field_len(7), &[], &names[..2]).expect("7 bytes"), "n00,n01");
    assert!(sent(&CacheTags::custom("x", ',').max_field_len(6), &[], &names[..2]).is_err());
    let long: Vec<String> = (0..17).map(|n| format!("{n:0>1000}")).collect();
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    for tags in [CacheTags::surrogate_key(), CacheTags::cloudflare()] {
        assert!(sent(&tags, &[], &long[..16]).is_ok());
        assert!(sent(&tags, &[], &long).is_err());
    }
}

#[test]
fn tags_of_the_handler_stay_and_count() {
    let tags = CacheTags::cloudflare();
    assert_eq!(sent(&tags, &["own, other", "more"], &["*", "other"]).expect("they fit"), "own,other,more,%2A");
    assert_eq!(sent(&tags, &["%2A,a"], &["*", "a"]).expect("they fit"), "%2A,a", "adding twice changes nothing");
    assert!(sent(&tags.clone().max_tags(2), &["own"], &["*", "a"]).is_err());
    assert_eq!(sent(&tags, &[], &[]).expect("nothing to send"), "");
}

#[test]
fn too_many_tags_forbid_storing() {
    let mut headers = HeaderMap::new();
    headers.insert("cache-control", HeaderValue::from_static("public, s-maxage=60"));
    headers.insert("surrogate-key", HeaderValue::from_static("own"));
    let mut names = crate::namespace::set::Namespaces::root();
    names.push("a:b");
    CacheTags::surrogate_key().max_tags(3).put(&mut headers, &names).expect_err("four tags");
    let value = |name: &str| headers.get(name).map(|value| value.to_str().expect("ASCII"));
    assert_eq!(value("surrogate-key"), None);
    assert_eq!(value("cache-control"), Some("private, no-store"));
    for name in ["surrogate-control", "cdn-cache-control", "cloudflare-cdn-cache-control"] {
        assert_eq!(value(name), Some("no-store"), "{name}");
    }
}

#[test]
#[should_panic(expected = "invalid separator 'a'")]
fn letter_is_no_separator() {
    let _ = CacheTags::custom("x", 'a');
}

#[test]
#[should_panic(expected = "invalid field name")]
fn field_name_is_checked() {
    let _ = CacheTags::custom("a b", ',');
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![Just("*".to_owned()), vec("[a-c%~,;|é\"\\\\=!-]{1,60}", 1..4).prop_map(|levels| levels.join(":")),]
        .prop_filter("a valid name", |name| Namespace::new(name).is_ok())
}

proptest! {
    #[test]
    fn decoded_tags_are_the_names(names in vec(name(), 0..8)) {
        for tags in all() {
            let separator = char::from(tags.separator);
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let mut unique: Vec<&str> = Vec::new();
            for name in &names {
                if !unique.contains(name) { unique.push(name); }
            }
            let Ok(line) = sent(&tags, &[], &names) else {
                prop_assert!(unique.len() > tags.max_tags, "only the last form has a limit that is reached");
                continue;
            };
            prop_assert!(line.len() <= tags.max_field_len);
            prop_assert!(line.bytes().all(|byte| byte.is_ascii_graphic() || byte == tags.separator));
            let got: Vec<&str> = line.split(separator).filter(|tag| !tag.is_empty()).collect();
            prop_assert_eq!(got.len(), unique.len(), "a separator stands between tags only");
            for (tag, name) in got.iter().zip(unique) {
                prop_assert!(tag.len() <= tags.max_tag_len);
                prop_assert_eq!(*tag, tags.tag(&Namespace::new(name).expect("valid")));
                if !tag.starts_with(DIGEST) {
                    prop_assert_eq!(percent_decode_str(tag).decode_utf8().expect("UTF-8"), name);
                }
            }
        }
    }
}
