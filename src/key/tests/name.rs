use super::*;

fn path(path: &str) -> String {
    String::from_utf8_lossy(&normal_path(path.as_bytes())).into_owned()
}

#[test]
fn path_has_one_normal_form() {
    for (spelled, normal) in [
        ("/", "/"),
        ("//", "/"),
        ("/a", "/a"),
        ("/a/", "/a"),
        ("/a//b", "/a/b"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/../b", "/b"),
        ("/a/b/..", "/a"),
        // RFC 3986, section 5.2.4: the segment that is taken out is the empty one.
        ("/a//../b", "/a/b"),
        ("/a/%2E%2e/b", "/b"),
        ("/%7ea", "/~a"),
        ("/a%2Fb", "/a/b"),
        // What an encoded slash brings is no segment.
        ("/a/b%2F../c", "/a/b/../c"),
        ("/100%", "/100%"),
        ("/.well-known", "/.well-known"),
        ("/...", "/..."),
        ("*", "*"),
    ] {
        assert_eq!(path(spelled), normal, "{spelled}");
    }
}

#[test]
fn host_has_one_normal_form() {
    for (spelled, normal) in [
        ("s.test", "s.test"),
        ("S.Test", "s.test"),
        ("s.test:", "s.test"),
        ("s.test:80", "s.test"),
        ("s.test:443", "s.test"),
        ("s.test:0080", "s.test"),
        ("s.test:8080", "s.test:8080"),
        ("S.test:08080", "s.test:8080"),
        ("ada@s.test:80", "s.test"),
        ("a:b@s.test", "s.test"),
        ("[::1]", "[::1]"),
        ("[::A]:80", "[::a]"),
        ("[::1]:8080", "[::1]:8080"),
        ("%73.test", "s.test"),
        ("s.test:x", "s.test:x"),
        ("", ""),
        (":80", ""),
    ] {
        assert_eq!(String::from_utf8_lossy(&normal_host(spelled.as_bytes())), normal, "{spelled}");
    }
}

#[test]
fn query_has_one_normal_form() {
    for (spelled, normal) in [
        ("", ""),
        ("a=1", "a=1"),
        ("b=1&a=2", "a=2&b=1"),
        ("a=%7e", "a=~"),
        ("a%7E=1&A=2", "A=2&a~=1"),
        ("a=2&b=1&a=1", "a=2&a=1&b=1"),
    ] {
        assert_eq!(String::from_utf8_lossy(&normal_query(spelled.as_bytes())), normal, "{spelled}");
    }
}

#[test]
fn invalid_key_bytes_have_a_stable_name() {
    for bytes in [b"" as &[u8], b"\x01", b"\x01\x05ab", b"\x01\xff\x01", b"key"] {
        assert_eq!(KeyRef::new(bytes).name(), KeyRef::new(bytes).name());
        assert_eq!(name_of(KeyRef::new(bytes)), None);
    }
    assert_ne!(KeyRef::new(b"one").name(), KeyRef::new(b"two").name());
}

#[test]
fn plain_path_is_its_own_normal_form() {
    for n in 0..20 {
        for (tail, plain) in [("", true), ("/b.c", true), ("/.b", false), ("//b", false), ("/%62", false), ("/", false)] {
            let path = format!("/{}a{tail}", "x".repeat(n));
            assert_eq!(is_plain_path(path.as_bytes()), plain, "{path}");
            let normal = normal_path(path.as_bytes());
            assert!(!plain || &*normal == path.as_bytes(), "{path}");
        }
    }
    assert!(is_plain_path(b"/") && !is_plain_path(b"//"));
}
