//! HTTP/2: requests that are malformed, one by one. The connection may survive them or not, as RFC 9113 says;
//! the worker must not see them.

use atoll_tests::{Node, NodeOptions, eventually};

use crate::frames::*;
use crate::wire::{HOST, deploy_door};

/// A request's fields, over those of an ordinary one.
fn with(more: &[(&str, &str)]) -> Vec<u8> {
    let mut all = GET.to_vec();
    all.extend_from_slice(more);
    fields(&all)
}

/// An ordinary request's fields with another value for one of them, or without it.
fn instead(name: &str, value: Option<&str>) -> Vec<u8> {
    let mut all = GET.to_vec();
    match value {
        Some(value) => {
            all.iter_mut().filter(|field| field.0 == name).for_each(|field| field.1 = value)
        }
        None => all.retain(|field| field.0 != name),
    }
    fields(&all)
}

/// What came of it is a refusal: a reset, the end of the connection, or a page of the node's own.
fn is_refusal(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Answered(body) => body.starts_with("error "),
        _ => true,
    }
}

#[tokio::test]
async fn malformed_requests_reach_no_worker() {
    let node = Node::start(NodeOptions::default()).await;
    deploy_door(&node).await;
    for (name, block) in [
        ("a name in capitals", with(&[("X-Upper", "y")])),
        ("a name with a blank", with(&[("x y", "z")])),
        ("a name with a colon", with(&[("x:y", "z")])),
        ("an empty name", with(&[("", "z")])),
        ("a line feed in a value", with(&[("x", "a\nb: c")])),
        ("a carriage return in a value", with(&[("x", "a\rb")])),
        ("a NUL in a value", with(&[("x", "a\0b")])),
        ("connection", with(&[("connection", "close")])),
        ("keep-alive", with(&[("keep-alive", "timeout=5")])),
        ("proxy-connection", with(&[("proxy-connection", "close")])),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("upgrade", with(&[("upgrade", "h2c")])),
        ("te with anything but trailers", with(&[("te", "gzip")])),
        ("another host", with(&[("host", "other.test")])),
        ("the host twice", with(&[("host", HOST), ("host", HOST)])),
        ("an unknown pseudo header", with(&[(":status", "200")])),
        ("another unknown pseudo header", with(&[(":x", "y")])),
        ("a pseudo header twice", with(&[(":path", "/other")])),
        ("no method", instead(":method", None)),
        ("no path", instead(":path", None)),
        ("no scheme", instead(":scheme", None)),
        ("no authority", instead(":authority", None)),
        ("an empty path", instead(":path", Some(""))),
        ("a path without a slash", instead(":path", Some("x"))),
        ("a whole URL as path", instead(":path", Some("http://other.test/"))),
        ("an asterisk", instead(":path", Some("*"))),
        ("a blank in the path", instead(":path", Some("/ HTTP/1.1\r\nx: y"))),
        ("a line feed in the path", instead(":path", Some("/\nx"))),
        ("an empty method", instead(":method", Some(""))),
        ("a method with a blank", instead(":method", Some("GET /x"))),
        ("TRACE", instead(":method", Some("TRACE"))),
        ("CONNECT", instead(":method", Some("CONNECT"))),
        ("another scheme", instead(":scheme", Some("ftp"))),
        ("an authority with a user", instead(":authority", Some("user@door.demo.localhost"))),
        ("an authority with a path", instead(":authority", Some("evil.test/door.demo.localhost"))),
        ("an empty authority", instead(":authority", Some(""))),
        ("a pseudo header behind others", {
            let mut block = fields(&[("x", "y")]);
            block.extend(fields(&GET));
            block
        }),
        ("an index of nothing", vec![0xff, 0x80, 0x01]),
        ("a string without end", vec![0x00, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ("a table larger than allowed", vec![0x3f, 0xe1, 0xff, 0xff, 0x03]),
    ] {
        let mut http2 = Http2::open(&node).await;
        http2.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await;
        let outcome = http2.outcome(1).await;
        println!("{name:40} {outcome:?}");
        assert!(is_refusal(&outcome), "{name}: {outcome:?}");
    }
    assert_eq!(node.metrics().await.unwrap().outcomes(Some("door")), [].into());
}

#[tokio::test]
async fn bodies_have_the_length_that_they_claim() {
    let node = Node::start(NodeOptions::default()).await;
    deploy_door(&node).await;
    for (name, length, parts) in [
        ("too short", "5", &["abc"][..]),
        ("too long", "2", &["abc"]),
        ("nothing", "5", &[""]),
        ("too long by a second frame", "3", &["abc", "def"]),
        ("no number", "x", &["abc"]),
    ] {
        let mut head = GET.to_vec();
        head[0].1 = "POST";
        head.push(("content-length", length));
        let mut bytes = frame(HEADERS, END_HEADERS, 1, &fields(&head));
        for (at, part) in parts.iter().enumerate() {
            let last = if at + 1 == parts.len() { END_STREAM } else { 0 };
            bytes.extend(frame(DATA, last, 1, part.as_bytes()));
        }
        let mut http2 = Http2::open(&node).await;
        http2.send(&bytes).await;
        let outcome = http2.outcome(1).await;
        println!("{name:40} {outcome:?}");
        let whole = matches!(&outcome, Outcome::Answered(said) if !said.contains("\"broken\"") && !said.starts_with("error "));
        assert!(!whole, "{name}: {outcome:?}");
    }
}

#[tokio::test]
async fn frames_that_break_the_protocol_end_the_connection() {
    let node = Node::start(NodeOptions::default()).await;
    deploy_door(&node).await;
    let large = vec![0; 16_385];
    for (name, bytes) in [
        ("a frame larger than agreed", frame(DATA, 0, 1, &large)),
        ("DATA on the connection", frame(DATA, 0, 0, b"x")),
        ("DATA on a stream that nobody opened", frame(DATA, 0, 5, b"x")),
        ("HEADERS on the connection", frame(HEADERS, END_HEADERS | END_STREAM, 0, &fields(&GET))),
        ("HEADERS on an even stream", frame(HEADERS, END_HEADERS | END_STREAM, 2, &fields(&GET))),
        ("a stream number that goes back", [get(5), get(3)].concat()),
        (
            "a frame between HEADERS and CONTINUATION",
            [frame(HEADERS, END_STREAM, 1, &fields(&GET)), frame(PING, 0, 0, &[0; 8])].concat(),
        ),
        ("CONTINUATION of nothing", frame(CONTINUATION, END_HEADERS, 1, &fields(&GET))),
        (
            "CONTINUATION of another stream",
            [
                frame(HEADERS, END_STREAM, 1, &fields(&GET)),
                frame(CONTINUATION, END_HEADERS, 3, &[]),
            ]
            .concat(),
        ),
        ("SETTINGS of an odd length", frame(SETTINGS, 0, 0, &[0; 5])),
        ("SETTINGS on a stream", frame(SETTINGS, 0, 1, &[])),
        ("an ACK with a payload", frame(SETTINGS, ACK, 0, &[0; 6])),
        ("a window that is too large", frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0])),
        ("a frame size that is too small", frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1])),
        ("PING of an odd length", frame(PING, 0, 0, &[0; 7])),
        ("PING on a stream", frame(PING, 0, 1, &[0; 8])),
        ("a window update of nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        (
            "a window beyond its limit",
            frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]).repeat(2),
        ),
        ("a reset of a stream that nobody opened", frame(RST_STREAM, 0, 5, &[0, 0, 0, 8])),
        ("a promise from a client", frame(5, END_HEADERS, 1, &[0, 0, 0, 2])),
        ("padding longer than its frame", frame(DATA, 8, 1, &[200, 0])),
    ] {
        let mut http2 = Http2::open(&node).await;
        http2.send(&bytes).await;
        let ended = http2.ends().await;
        assert!(ended, "{name}: the connection goes on");
    }
    assert!(!node.text("door", "/").await.is_empty());
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused() {
    let node = Node::start(NodeOptions::default()).await;
    deploy_door(&node).await;
    let mut http2 = Http2::open(&node).await;
    // Bodies that never end keep their streams open.
    let streams = (0..160).map(|at| 2 * at + 1);
    http2.send(&streams.flat_map(post).collect::<Vec<_>>()).await;
    let outcome = http2.outcome(2 * 140 + 1).await;
    assert!(matches!(outcome, Outcome::Reset(REFUSED_STREAM) | Outcome::GoAway(_)), "{outcome:?}");
}

#[tokio::test]
async fn cookies_in_many_fields_are_one_header() {
    let node = Node::start(NodeOptions::default()).await;
    deploy_door(&node).await;
    let mut http2 = Http2::open(&node).await;
    let block = with(&[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")]);
    http2.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await;
    let Outcome::Answered(said) = http2.outcome(1).await else { panic!("it is answered") };
    // RFC 9113 section 8.2.3.
    assert!(said.contains(r#""cookie":"a=1; b=2""#), "{said}");
}

#[tokio::test]
async fn an_ordinary_request_is_answered() {
    let node = Node::start(NodeOptions::default()).await;
    deploy_door(&node).await;
    let mut http2 = Http2::open(&node).await;
    http2.send(&get(1)).await;
    let outcome = http2.outcome(1).await;
    assert!(matches!(&outcome, Outcome::Answered(said) if said.contains("\"GET\"")), "{outcome:?}");
    http2.send(&[post(3), frame(DATA, END_STREAM, 3, b"hello")].concat()).await;
    let outcome = http2.outcome(3).await;
    assert!(matches!(&outcome, Outcome::Answered(said) if said.contains("hello")), "{outcome:?}");
    eventually("both are counted", async || {
        (node.metrics().await.ok()?.outcomes(Some("door")) == [("ok".to_owned(), 2)].into())
            .then_some(())
    })
    .await;
}
