//! Fields and messages that belong to one connection.

use tokio::sync::mpsc;

use crate::{
    cached, fetched, run_cases,
    wire::{Client, Origin, Proxy, Reaction, joined, request, response},
};

#[tokio::test]
async fn http_in_another_version_is_never_tunnelled() {
    let origin = Origin::start().await;
    let proxy = Proxy::start(&origin.address, &[]).await;
    for (upgrade, want) in [
        ("upgrade: h2c, websocket", "websocket"),
        ("upgrade: h2c,", "-"),
        ("upgrade: ,H2C", "-"),
        ("upgrade: h2c\nupgrade: websocket", "websocket"),
        ("upgrade: websocket\nupgrade: h2c/1", "websocket"),
        ("upgrade: HTTP/2.0, TLS/1.2", "-"),
        ("upgrade: websocket, chat/2", "websocket, chat/2"),
    ] {
        for connection in ["Upgrade, HTTP2-Settings, close", "close\nconnection: upgrade"] {
            origin.then(Reaction::Whole(response("200\ncache-control: no-store\n\na")));
            let request = format!("GET /x\nconnection: {connection}\n{upgrade}\nhttp2-settings: AAMAAABkAAQAAP__");
            let answer = proxy.send(&request).await;
            assert_eq!(answer.status, 200, "{request}");
            let calls = origin.take_requests();
            assert_eq!(joined(&calls[0].fields, "upgrade"), want, "{request}");
            assert_eq!(joined(&calls[0].fields, "http2-settings"), "-", "{request}");
            assert!(!joined(&calls[0].fields, "connection").to_ascii_lowercase().contains("http2"), "{request}");
        }
    }
}

#[tokio::test]
async fn unrequested_protocol_switch_is_refused() {
    let origin = Origin::start().await;
    let proxy = Proxy::start(&origin.address, &[]).await;
    for (request, agreed) in [("h2c, websocket", "h2c"), ("websocket", "chat"), ("websocket", "h2c, websocket-2")] {
        let switch = format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {agreed}\r\n\r\n");
        origin.then(Reaction::Echo(switch.into_bytes()));
        let answer = proxy.send(&format!("GET /x\nconnection: upgrade, close\nupgrade: {request}")).await;
        assert_eq!(answer.status, 502, "{request}, {agreed}");
    }
}

#[tokio::test]
async fn connection_field_cannot_remove_cache_fields() {
    run_cases(&[
        (
            "vary",
            &[
                fetched(
                    "GET /x\naccept-language: de",
                    "200\ncache-control: max-age=60\nconnection: Vary, x-hop\nvary: accept-language\nx-hop: 1\n\nde",
                    "uri-miss 200 de",
                )
                .has(&[("vary", "accept-language"), ("x-hop", "-"), ("connection", "close")]),
                cached("GET /x\naccept-language: de", "hit 200 de").has(&[("vary", "accept-language")]),
                fetched(
                    "GET /x\naccept-language: en",
                    "200\ncache-control: max-age=60\nconnection: vary\nvary: accept-language\n\nen",
                    "vary-miss 200 en",
                ),
            ],
        ),
        (
            "set-cookie",
            &[
                fetched(
                    "GET /x",
                    "200\ncache-control: max-age=60\nconnection: ,set-cookie\nset-cookie: sid=1\n\na",
                    "uri-miss 200 a",
                )
                .has(&[("set-cookie", "sid=1")]),
                fetched("GET /x", "200\ncache-control: no-store\n\nb", "uri-miss 200 b"),
            ],
        ),
        (
            "what says for how long",
            &[
                fetched(
                    "GET /x",
                    "200\nconnection: cdn-cache-control, cache-control\ncdn-cache-control: no-store\ncache-control: max-age=60\n\na",
                    "uri-miss 200 a",
                ),
                fetched("GET /x", "200\ncache-control: no-store\n\nb", "uri-miss 200 b"),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn content_length_beside_a_transfer_coding_is_removed() {
    let origin = Origin::start().await;
    let proxy = Proxy::start(&origin.address, &[]).await;
    for length in [2, 5, 99] {
        let path = format!("GET /{length}");
        let says = format!("200\ncache-control: max-age=60\ncontent-length: {length}\ntransfer-encoding: chunked\n");
        origin.then(Reaction::Whole(response(&format!("{says}\n5\r\nabcde\r\n0\r\n\r\n"))));
        for want in ["uri-miss", "hit"] {
            let answer = proxy.send(&path).await;
            assert_eq!((answer.outcome().as_str(), answer.text().as_str(), answer.complete), (want, "abcde", true), "{length}");
            let stated = answer.field("content-length");
            assert!(stated == "5" || stated == "-", "{length}: {stated}");
        }
    }
    origin.take_requests();
    // A request in the same form.
    origin.then(Reaction::Whole(response("200\n\na")));
    let mut client = Client::connect(&proxy.address).await;
    let head = "POST /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n";
    client.write(format!("{head}5\r\nabcde\r\n0\r\n\r\n").as_bytes()).await;
    let got = String::from_utf8(client.rest().await).expect("text");
    let calls = origin.take_requests();
    match calls.first() {
        Some(call) => assert_eq!(joined(&call.fields, "content-length"), "-"),
        None => assert!(got.starts_with("HTTP/1.1 400 "), "{got}"),
    }
}

#[tokio::test]
async fn half_closed_client_gets_its_response() {
    let origin = Origin::start().await;
    let proxy = Proxy::start(&origin.address, &[]).await;
    for n in 0..20 {
        for want in ["fwd=uri-miss", "hit"] {
            let (say, live) = mpsc::unbounded_channel();
            let mut heads = origin.heads();
            let mut client = Client::connect(&proxy.address).await;
            if want == "hit" {
                client.write(&request(&format!("GET /{n}\nconnection: keep-alive"))).await;
                client.finish().await;
            } else {
                origin.then(Reaction::Live(live));
                client.write(&request(&format!("GET /{n}\nconnection: keep-alive"))).await;
                client.finish().await;
                // The origin has received the request, and the client has closed its half, before the response begins.
                heads.recv().await.expect("the origin is asked");
                say.send(response("200\ncache-control: max-age=60\n\nrows")).expect("asked");
                drop(say);
            }
            let got = String::from_utf8(client.rest().await).expect("text");
            assert!(got.starts_with("HTTP/1.1 200 ") && got.contains(want) && got.ends_with("rows"), "{n}: {got:?}");
        }
    }
}

#[tokio::test]
async fn flag_without_its_required_flag_is_only_reported() {
    let origin = Origin::start().await;
    for (flags, wants) in [
        (&["--prefix", "p"][..], "proxy: `--prefix` is unused without `--redis`"),
        (&["--coherence", "ttl"], "proxy: `--coherence` is unused without `--redis`"),
        (&["--strict"], "proxy: `--strict` is unused without `--redis`"),
    ] {
        let (proxy, complaint) = Proxy::start_with_stderr(&origin.address, flags).await;
        assert_eq!(complaint, wants);
        origin.then(Reaction::Whole(response("200\n\na")));
        assert_eq!(proxy.send("GET /x").await.text(), "a");
    }
}
