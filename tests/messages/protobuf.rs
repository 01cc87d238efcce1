//! Messages in Protobuf.

use tower_response_cache::Rule;

use super::{reads::notes, *};

#[tokio::test]
async fn protobuf_is_decoded_by_its_content_type() {
    /// A message of one text.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Name {
        #[prost(string, tag = "1")]
        text: String,
    }

    let rule = Rule::rpc(MINUTE).namespaces_from_request(|request| named(request.prost::<Name>()?.text.as_bytes()));
    let app = App::new(notes(rule), |_, _| call_response("x", "0"));
    let call = |kind: &str, flag: u8, message: &[u8]| {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        request(Method::POST, "/notes", kind, [&[flag], &length[..], message].concat())
    };
    for (call, expected) in [
        (call(GRPC, 0, b"\x0a\x01a"), None),
        (call("application/grpc+proto", 0, b"\x0a\x01b"), None),
        (call(GRPC, 1, b"\x0a\x01a"), Some(NoStore::ContentCompressed)),
        (call("application/grpc+json", 0, b"\x0a\x01a"), Some(NoStore::ContentUnreadable)),
        (call(GRPC, 0, b"\x0a\x02a"), Some(NoStore::ContentUnreadable)),
    ] {
        assert_eq!(app.refusal(call).await, expected);
    }
    app.cache.invalidate(["note:a"]).await.unwrap();
    assert!(!app.is_hit(call(GRPC, 0, b"\x0a\x01a")).await);
    assert!(app.is_hit(call("application/grpc+proto", 0, b"\x0a\x01b")).await);
}
