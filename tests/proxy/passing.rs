//! Messages that the proxy forwards.

use tokio::sync::mpsc;

use crate::wire::{Client, Origin, Proxy, Reaction, joined, request, response};

#[tokio::test]
async fn request_fields_are_end_to_end_and_via_is_added() {
    let origin = Origin::start().await;
    let proxy = Proxy::start(&origin.address, &[]).await;
    origin.then(Reaction::Whole(response("200\nvia: 1.1 inner\n\na")));
    let request = "GET /x\nHost: shop.test\nvia: 1.0 outer\nx-end: 1\nx-hop: 2\nconnection: close, x-hop, te\nte: trailers\nkeep-alive: 9\n\
        proxy-authorization: Basic eA==\nproxy-connection: keep-alive\nexpect: 100-continue";
    let answer = proxy.send(request).await;
    let call = origin.take_requests().remove(0);
    for (field, want) in [
        ("host", "shop.test"),
        ("via", "1.0 outer, 1.1 tower-response-cache"),
        ("x-end", "1"),
        ("x-hop", "-"),
        ("keep-alive", "-"),
        ("proxy-authorization", "-"),
        ("proxy-connection", "-"),
        ("expect", "-"),
        // Fields of the proxy's own connection.
        ("connection", "te"),
        ("te", "trailers"),
    ] {
        assert_eq!(joined(&call.fields, field), want, "{field} of the request");
    }
    assert_eq!(answer.field("via"), "1.1 inner, 1.1 tower-response-cache");
    assert_ne!(answer.field("date"), "-", "RFC 9110, 6.6.1: a response without a date is given one");
}

#[tokio::test]
async fn request_that_cannot_be_forwarded_is_refused() {
    let origin = Origin::start().await;
    let proxy = Proxy::start(&origin.address, &[]).await;
    for (bytes, want) in [
        ("GET / HTTP/1.1\r\nconnection: close\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nhost: a b\r\nconnection: close\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nhost: a@b\r\nconnection: close\r\n\r\n", "400"),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\nconnection: close\r\n\r\n1\r\na\r\n0\r\n\r\n",
            "501",
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n0\r\n\r\n",
            "501",
        ),
        ("CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\nconnection: close\r\n\r\n", "501"),
        ("TRACE / HTTP/1.1\r\nhost: a\r\nmax-forwards: 0\r\nconnection: close\r\n\r\n", "200"),
    ] {
        let mut client = Client::connect(&proxy.address).await;
        client.write(bytes.as_bytes()).await;
        let got = String::from_utf8(client.rest().await).expect("text").to_ascii_lowercase();
        assert!(got.starts_with(&format!("http/1.1 {want} ")), "{bytes:?}: {got}");
        assert!(got.contains("\r\ncache-status: tower-response-cache; detail=refused\r\n"), "{bytes:?}: {got}");
    }
    assert!(origin.take_requests().is_empty());
}

#[tokio::test]
async fn interim_response_passes_at_once_and_is_not_stored() {
    let origin = Origin::start().await;
    let proxy = Proxy::start(&origin.address, &[]).await;
    let (say, live) = mpsc::unbounded_channel();
    origin.then(Reaction::Live(live));
    let mut client = Client::connect(&proxy.address).await;
    client.write(&request("GET /x")).await;
    for (interim, want) in [
        ("HTTP/1.1 102 Processing\r\n\r\n", "HTTP/1.1 102 Processing\r\n\r\n"),
        (
            "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\nconnection: x-hop\r\nx-hop: 1\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n",
        ),
    ] {
        say.send(interim.into()).expect("the origin is being asked");
        assert_eq!(client.until("\r\n\r\n").await, want);
    }
    say.send(response("200\ncache-control: max-age=60\n\na")).expect("the origin is being asked");
    drop(say);
    let last = String::from_utf8(client.rest().await).expect("text");
    assert!(last.starts_with("HTTP/1.1 200 ") && !last.contains("link"), "{last}");
    let hit = proxy.send("GET /x").await;
    assert_eq!((hit.outcome().as_str(), hit.interim.len(), hit.field("link").as_str()), ("hit", 0, "-"));
}

#[tokio::test]
async fn http_1_0_gets_no_interim_response() {
    let origin = Origin::start().await;
    let proxy = Proxy::start(&origin.address, &[]).await;
    let early = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
    origin.then(Reaction::Whole([&early[..], &response("200\n\na")].concat()));
    let answer = proxy.send("GET /x HTTP/1.0").await;
    assert_eq!((answer.interim.len(), answer.status), (0, 200));
}

#[tokio::test]
async fn a_connection_may_become_another_protocol() {
    let origin = Origin::start().await;
    let proxy = Proxy::start(&origin.address, &[]).await;
    origin.then(Reaction::Echo(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n".to_vec()));
    let mut client = Client::connect(&proxy.address).await;
    client.write(&request("GET /x\nconnection: upgrade\nupgrade: echo")).await;
    let head = client.until("\r\n\r\n").await.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    for line in ["\r\nconnection: upgrade\r\n", "\r\nupgrade: echo\r\n", "\r\ncache-status: tower-response-cache; fwd=bypass"] {
        assert!(head.contains(line), "{line:?} in {head}");
    }
    for word in ["one.", "two."] {
        client.write(word.as_bytes()).await;
        assert_eq!(client.until(".").await, word);
    }
    // A switch of protocols that the origin declines is an ordinary response.
    origin.then(Reaction::Whole(response("200\ncache-control: max-age=60\n\nno")));
    let declined = proxy.send("GET /x\nconnection: upgrade, close\nupgrade: echo").await;
    assert_eq!((declined.status, declined.field("upgrade").as_str()), (200, "-"));
}

#[tokio::test]
async fn trailers_pass_and_are_stored() {
    let origin = Origin::start().await;
    let proxy = Proxy::start(&origin.address, &[]).await;
    let chunks =
        "200\ncache-control: max-age=60\ntransfer-encoding: chunked\ntrailer: x-sum\n\n2\r\nab\r\n0\r\nx-sum: 7\r\n\r\n";
    origin.then(Reaction::Whole(response(chunks)));
    for want in ["uri-miss", "hit"] {
        let answer = proxy.send("GET /x\nte: trailers\nconnection: close, te").await;
        assert_eq!((answer.outcome().as_str(), answer.text().as_str(), answer.complete), (want, "ab", true));
        assert_eq!(joined(&answer.trailers, "x-sum"), "7", "{want}");
    }
}

#[tokio::test]
async fn content_streams_down_before_it_is_complete() {
    let origin = Origin::start().await;
    let proxy = Proxy::start(&origin.address, &[]).await;
    for (at, kind) in ["text/event-stream", "text/plain\r\ncache-control: max-age=60"].iter().enumerate() {
        let (say, live) = mpsc::unbounded_channel();
        origin.then(Reaction::Live(live));
        let mut client = Client::connect(&proxy.address).await;
        client.write(&request(&format!("GET /{at}"))).await;
        say.send(
            format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n6\r\nfirst\n\r\n").into(),
        )
        .expect("asked");
        client.until("first\n").await;
        say.send(b"5\r\nlast\n\r\n0\r\n\r\n".to_vec()).expect("asked");
        client.until("0\r\n\r\n").await;
    }
}

#[tokio::test]
async fn content_streams_up_before_it_is_complete() {
    let origin = Origin::start().await;
    let proxy = Proxy::start(&origin.address, &[]).await;
    let mut pieces = origin.pieces();
    origin.then(Reaction::Whole(response("200\n\ndone")));
    let mut client = Client::connect(&proxy.address).await;
    client.write(&request("POST /x\ntransfer-encoding: chunked")).await;
    client.write(b"5\r\nfirst\r\n").await;
    let mut got = Vec::new();
    while !got.windows(5).any(|window| window == b"first") {
        got.extend(pieces.recv().await.expect("the origin reads"));
    }
    client.write(b"0\r\n\r\n").await;
    assert!(String::from_utf8(client.rest().await).expect("text").ends_with("done"));
}

#[tokio::test]
async fn uncovered_request_passes_and_is_marked() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "[[route]]\npath = \"/t/{table}\"\nttl = \"60s\"\n").expect("written");
    let origin = Origin::start().await;
    let proxy = Proxy::start(&origin.address, &["--rules", file.path().to_str().expect("text")]).await;
    for (request, says, want) in [
        ("GET /t/a", Some("200\n\na"), "uri-miss"),
        ("GET /t/a", None, "hit"),
        ("GET /u/a", Some("200\ncache-control: max-age=60\n\na"), "bypass"),
        ("GET /u/a", Some("200\ncache-control: max-age=60\n\na"), "bypass"),
    ] {
        if let Some(says) = says {
            origin.then(Reaction::Whole(response(says)));
        }
        let answer = proxy.send(request).await;
        assert_eq!((answer.outcome().as_str(), answer.text().as_str()), (want, "a"), "{request}");
    }
}

#[tokio::test]
async fn request_lost_on_a_closing_connection_is_repeated_if_safe() {
    const A: &str = "200\ncache-control: no-store\n\na";
    let origin = Origin::start().await;
    let proxy = Proxy::start(&origin.address, &[]).await;
    // The number of times that the connection closes after the head of the request, and the result.
    for (request, closes, want, attempts) in [
        ("GET /x", 1, "200 a", 2),
        ("GET /x", 2, "502 the origin cannot be reached\n", 2),
        ("HEAD /x", 1, "200 ", 2),
        ("OPTIONS /x", 1, "200 a", 2),
        // A write may have been carried out. The response to a repetition would be wrong.
        ("DELETE /x", 1, "502 the origin cannot be reached\n", 1),
        ("GET /x\nx-http-method-override: POST", 1, "502 the origin cannot be reached\n", 1),
        ("POST /x", 1, "502 the origin cannot be reached\n", 1),
        ("PUT /x\n\ncontent", 1, "502 the origin cannot be reached\n", 1),
    ] {
        // A connection that was used before.
        origin.then(Reaction::Whole(response(A)));
        assert_eq!(proxy.send("GET /before").await.text(), "a");
        origin.take_requests();
        (0..closes).for_each(|_| origin.then(Reaction::Then(Vec::new())));
        origin.then(if request.starts_with("HEAD") {
            Reaction::Whole(response("200\ncontent-length: 0\n"))
        } else {
            Reaction::Whole(response(A))
        });
        let answer = proxy.send(request).await;
        assert_eq!(format!("{} {}", answer.status, answer.text()), want, "{request}");
        assert_eq!(origin.take_requests().len(), attempts, "{request}");
    }
}

#[tokio::test]
async fn silently_closed_connection_loses_no_request() {
    let origin = Origin::start().await;
    let proxy = Proxy::start(&origin.address, &[]).await;
    for round in 0..50 {
        origin.then(Reaction::Then(response("200\ncache-control: no-store\n\na")));
        let answer = proxy.send("GET /x").await;
        assert_eq!(format!("{} {}", answer.status, answer.text()), "200 a", "round {round}");
    }
}

#[tokio::test]
async fn write_with_a_lost_response_invalidates() {
    let origin = Origin::start().await;
    let proxy = Proxy::start(&origin.address, &[]).await;
    for method in ["DELETE", "PUT"] {
        origin.then(Reaction::Whole(response("200\ncache-control: max-age=60\n\na")));
        proxy.send("GET /x").await;
        assert_eq!(proxy.send("GET /x").await.outcome(), "hit");
        // The write is carried out, and its connection ends before the response.
        origin.then(Reaction::Then(Vec::new()));
        origin.then(Reaction::Whole(response("404\ncache-control: no-store\n\ngone")));
        assert_eq!(proxy.send(&format!("{method} /x")).await.status, 502);
        let gone = proxy.send("GET /x").await;
        assert_eq!((gone.status, gone.text().as_str()), (404, "gone"), "{method}");
    }
}
