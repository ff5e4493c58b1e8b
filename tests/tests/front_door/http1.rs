//! HTTP/1.1: requests that two parsers could read in two ways. Each stands in a table with what comes of it;
//! behind it on the connection stands a request that is answered only if the node and the client agree where
//! the first one ended.

use atoll_tests::{Node, NodeOptions, eventually};

use crate::wire::{Answer, End, HOST, Listener, connect, deploy_door, exchange};

/// What follows each request on its connection.
const CANARY: &str =
    "GET /canary HTTP/1.1\r\nhost: door.demo.localhost\r\nconnection: close\r\n\r\n";
const CANARY_SAID: &str = "GET /canary";

/// A request and what is said to it. `{H}` stands for the line with the right host.
struct Case {
    name: &'static str,
    request: Vec<u8>,
    said: Vec<&'static str>,
    /// What may be said instead.
    or: Option<&'static str>,
}

/// It is refused, and nothing behind it is read as a request.
fn refused(name: &'static str, request: &str, status: &'static str) -> Case {
    let request = request.replace("{H}", "host: door.demo.localhost\r\n").into_bytes();
    Case { name, request, said: vec![status], or: None }
}

/// It is one request, and what is behind it another.
fn served(name: &'static str, request: &str, said: &'static str) -> Case {
    Case { said: vec![said, CANARY_SAID], ..refused(name, request, "") }
}

/// It is one request, after which the connection is closed.
fn last(name: &'static str, request: &str, said: &'static str) -> Case {
    refused(name, request, said)
}

/// Sends a case; how many answers came from the worker, and how many it may have given besides. Else what was wrong.
async fn run(node: &Node, listener: Listener, case: &Case) -> Result<(usize, usize), String> {
    let bytes = [&case.request, CANARY.as_bytes()].concat();
    let (answers, end) = exchange(connect(node, listener).await, &bytes).await;
    let said: Vec<String> = answers.iter().map(Answer::said).collect();
    let is_cut = case.or.is_some_and(|or| said == [or]);
    if !(said == case.said || is_cut) || end != End::Closed {
        let Case { name, said: expected, .. } = case;
        return Err(format!("{name} over {listener:?}: {said:?}, {end:?} instead of {expected:?}"));
    }
    let answered = answers.iter().filter(|answer| answer.status == 200).count();
    Ok((answered, usize::from(is_cut)))
}

fn body_lengths() -> Vec<Case> {
    let post = |lines: &str, body: &str| format!("POST / HTTP/1.1\r\n{{H}}{lines}\r\n{body}");
    vec![
        served("a length", &post("content-length: 5\r\n", "hello"), "POST / hello"),
        served(
            "the same length twice",
            &post("content-length: 5\r\ncontent-length: 5\r\n", "hello"),
            "POST / hello",
        ),
        refused("two lengths", &post("content-length: 5\r\ncontent-length: 6\r\n", "hello"), "400"),
        refused("two lengths in a line", &post("content-length: 5, 5\r\n", "hello"), "400"),
        refused("a length with a plus", &post("content-length: +5\r\n", "hello"), "400"),
        refused("a length below zero", &post("content-length: -5\r\n", "hello"), "400"),
        refused("a hexadecimal length", &post("content-length: 0x5\r\n", "hello"), "400"),
        refused("a length with a blank", &post("content-length: 5 5\r\n", "hello"), "400"),
        refused("an empty length", &post("content-length:\r\n", "hello"), "400"),
        refused(
            "a length beyond 64 bits",
            &post("content-length: 18446744073709551621\r\n", "hello"),
            "400",
        ),
        refused("a length beyond the limit", &post("content-length: 5368709121\r\n", ""), "413"),
        refused("a length with a line feed", &post("content-length: 5\n6\r\n", "hello"), "400"),
        refused(
            "a length and a blank before the colon",
            &post("content-length : 5\r\n", "hello"),
            "400",
        ),
        // RFC 9112 section 6.3: chunked wins, and nobody may go on with the connection.
        last(
            "length, then chunked",
            &post("content-length: 6\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\nG"),
            "POST /",
        ),
        last(
            "chunked, then length",
            &post("transfer-encoding: chunked\r\ncontent-length: 6\r\n", "0\r\n\r\nG"),
            "POST /",
        ),
        served(
            "a GET with a body",
            "GET / HTTP/1.1\r\n{H}content-length: 5\r\n\r\nhello",
            "GET / hello",
        ),
    ]
}

fn codings() -> Vec<Case> {
    let post = |lines: &str| format!("POST / HTTP/1.1\r\n{{H}}{lines}\r\n5\r\nhello\r\n0\r\n\r\n");
    let mut cases = vec![
        served("chunked", &post("transfer-encoding: chunked\r\n"), "POST / hello"),
        served("Chunked", &post("Transfer-Encoding: Chunked\r\n"), "POST / hello"),
        served("a tab before chunked", &post("transfer-encoding:\tchunked\r\n"), "POST / hello"),
        served("blanks around chunked", &post("transfer-encoding:  chunked  \r\n"), "POST / hello"),
        served(
            "another name",
            &post("transfer_encoding: chunked\r\ncontent-length: 15\r\n"),
            "POST / 5\r\nhello\r\n0",
        ),
        refused(
            "chunked in HTTP/1.0",
            "POST / HTTP/1.0\r\n{H}transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "400",
        ),
    ];
    for (name, lines, status) in [
        ("xchunked", "transfer-encoding: xchunked\r\n", "400"),
        ("chunked with a parameter", "transfer-encoding: chunked;q=1\r\n", "400"),
        ("chunked in quotes", "transfer-encoding: \"chunked\"\r\n", "400"),
        ("identity", "transfer-encoding: identity\r\n", "400"),
        ("chunked, identity", "transfer-encoding: chunked, identity\r\n", "400"),
        ("identity, chunked", "transfer-encoding: identity, chunked\r\n", "501"),
        ("gzip, chunked", "transfer-encoding: gzip, chunked\r\n", "501"),
        ("chunked, chunked", "transfer-encoding: chunked, chunked\r\n", "501"),
        ("chunked twice", "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", "501"),
        (
            "chunked, then identity",
            "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
            "400",
        ),
        ("an empty coding", "transfer-encoding:\r\n", "400"),
        ("a vertical tab", "transfer-encoding: \x0bchunked\r\n", "400"),
        ("a NUL", "transfer-encoding: chunked\0\r\n", "400"),
        ("a blank before the colon", "transfer-encoding : chunked\r\n", "400"),
        ("a tab before the colon", "transfer-encoding\t: chunked\r\n", "400"),
        ("a folded line", "transfer-encoding:\r\n chunked\r\n", "400"),
        ("a folded word", "transfer-encoding: chun\r\n ked\r\n", "400"),
        ("a blank before the name", " transfer-encoding: chunked\r\n", "400"),
        ("a line that is no header", "x: y\r\ntransfer-encoding chunked\r\n", "400"),
        ("a bare carriage return", "x: y\rtransfer-encoding: chunked\r\n", "400"),
    ] {
        cases.push(refused(name, &post(lines), status));
    }
    cases
}

fn chunks() -> Vec<Case> {
    let post =
        |body: &str| format!("POST / HTTP/1.1\r\n{{H}}transfer-encoding: chunked\r\n\r\n{body}");
    let long_extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(20_000));
    let long_trailers = format!("0\r\n{}\r\n", "x: y\r\n".repeat(4_000));
    let mut cases = vec![
        served("an extension", &post("5;a=b\r\nhello\r\n0\r\n\r\n"), "POST / hello"),
        served("a size with zeros", &post("00005\r\nhello\r\n0\r\n\r\n"), "POST / hello"),
        served(
            "trailers",
            &post("5\r\nhello\r\n0\r\nx: y\r\ncontent-length: 3\r\n\r\n"),
            "POST / hello",
        ),
    ];
    for (name, body) in [
        ("a size that is none", "g\r\nhello\r\n0\r\n\r\n"),
        ("a size with a prefix", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("a size below zero", "-5\r\nhello\r\n0\r\n\r\n"),
        ("a size beyond 64 bits", "fffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
        ("no size", "\r\nhello\r\n0\r\n\r\n"),
        ("a size without carriage return", "5\nhello\r\n0\r\n\r\n"),
        ("a chunk that is too long", "5\r\nhello!\r\n0\r\n\r\n"),
        ("a chunk without an end", "5\r\nhello0\r\n\r\n"),
        ("a line feed in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
        ("a blank in the size", "5 5\r\nhello\r\n0\r\n\r\n"),
        ("a long extension", &long_extension),
        ("trailers without end", &long_trailers),
        ("trailers that are none", "0\r\nno header\r\n\r\n"),
    ] {
        // The worker has the request already: it learns that its body is broken. Where another process has it, the
        // call may end before the worker has said so.
        cases.push(Case { or: Some("400"), ..last(name, &post(body), "POST / broken") });
    }
    cases
}

fn heads() -> Vec<Case> {
    let get = |lines: &str| format!("GET / HTTP/1.1\r\n{{H}}{lines}\r\n");
    let mut cases = vec![
        served("odd but right", &get("x:y\r\nX-Y:\t z \r\n"), "GET /"),
        served("empty lines before", "\r\n\r\nGET / HTTP/1.1\r\n{H}\r\n", "GET /"),
        // RFC 9112 section 2.2 lets a line feed end a line, and there is no body that could be read in two ways.
        served("bare line feeds", "GET / HTTP/1.1\nhost: door.demo.localhost\n\n", "GET /"),
        served(
            "an expectation",
            "POST / HTTP/1.1\r\n{H}expect: 200-ok\r\ncontent-length: 5\r\n\r\nhello",
            "POST / hello",
        ),
        served(
            "an offer of h2c",
            &get(
                "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
            ),
            "GET /",
        ),
        served(
            "an offer of nothing known",
            &get("connection: upgrade\r\nupgrade: TLS/1.0\r\n"),
            "GET /",
        ),
    ];
    let lines = "x: y\r\n".repeat(200);
    let long = format!("x: {}\r\n", "y".repeat(140_000));
    let longer = format!("x: {}\r\n", "y".repeat(400_000));
    let name = format!("{}: y\r\n", "x".repeat(140_000));
    for (name, head, status) in [
        ("a bare carriage return", get("x: a\rb\r\n"), "400"),
        ("a NUL in a value", get("x: a\0b\r\n"), "400"),
        ("a NUL in a name", get("x\0: a\r\n"), "400"),
        ("a control character", get("x: a\x01b\r\n"), "400"),
        ("DEL", get("x: a\x7fb\r\n"), "400"),
        ("a name with a blank", get("x y: z\r\n"), "400"),
        ("a name with a separator", get("x@y: z\r\n"), "400"),
        ("no name", get(": z\r\n"), "400"),
        ("no colon", get("x\r\n"), "400"),
        ("a folded line", get("x: a\r\n b\r\n"), "400"),
        ("two blanks", "GET  / HTTP/1.1\r\n{H}\r\n".to_owned(), "400"),
        ("a tab", "GET\t/ HTTP/1.1\r\n{H}\r\n".to_owned(), "400"),
        ("a blank at the end", "GET / HTTP/1.1 \r\n{H}\r\n".to_owned(), "400"),
        ("a blank before", " GET / HTTP/1.1\r\n{H}\r\n".to_owned(), "400"),
        ("a blank in the path", "GET /a b HTTP/1.1\r\n{H}\r\n".to_owned(), "400"),
        ("a carriage return in the path", "GET /\rb HTTP/1.1\r\n{H}\r\n".to_owned(), "400"),
        ("a NUL in the path", "GET /\0 HTTP/1.1\r\n{H}\r\n".to_owned(), "400"),
        ("HTTP/0.9", "GET /\r\n".to_owned(), "400"),
        ("no version", "GET / \r\n{H}\r\n".to_owned(), "400"),
        ("another version", "GET / HTTP/1.2\r\n{H}\r\n".to_owned(), "400"),
        ("HTTP/2.0 in words", "GET / HTTP/2.0\r\n{H}\r\n".to_owned(), "400"),
        ("a version in small letters", "GET / http/1.1\r\n{H}\r\n".to_owned(), "400"),
        ("no method", "/ HTTP/1.1\r\n{H}\r\n".to_owned(), "400"),
        ("half a preface", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_owned(), "400"),
        ("a preface in small letters", "pri * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), "400"),
        (
            "a preamble",
            "PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\nGET / HTTP/1.1\r\n{H}\r\n".to_owned(),
            "400",
        ),
        ("bytes", "\u{16}\u{3}\u{1}\0\u{1}\r\n\r\n".to_owned(), "400"),
        ("too many lines", get(&lines), "431"),
        ("a long line", get(&long), "431"),
        ("a longer line", get(&longer), "431"),
        ("a long name", get(&name), "431"),
        ("a long URL", format!("GET /{} HTTP/1.1\r\n{{H}}\r\n", "x".repeat(20_000)), "414"),
        ("a longer URL", format!("GET /{} HTTP/1.1\r\n{{H}}\r\n", "x".repeat(100_000)), "414"),
    ] {
        cases.push(refused(name, &head, status));
    }
    cases
}

fn targets() -> Vec<Case> {
    let host = |line: &str| format!("GET / HTTP/1.1\r\n{line}\r\n");
    let target = |target: &str| format!("GET {target} HTTP/1.1\r\n{{H}}\r\n");
    let mut cases = vec![
        served("a whole URL", &target("http://door.demo.localhost/a?b"), "GET /a?b"),
        served("a whole URL in capitals", &target("HTTP://DOOR.demo.localhost/a"), "GET /a"),
        served("a host with a port", &host("host: door.demo.localhost:80\r\n"), "GET :80/"),
    ];
    for (name, head, status) in [
        ("no host", host(""), "400"),
        ("an empty host", host("host:\r\n"), "400"),
        (
            "the host twice",
            host("host: door.demo.localhost\r\nhost: door.demo.localhost\r\n"),
            "400",
        ),
        ("two hosts", host("host: door.demo.localhost\r\nhost: other\r\n"), "400"),
        ("two hosts in a line", host("host: door.demo.localhost, other\r\n"), "400"),
        ("a host with a blank", host("host: door.demo.localhost x\r\n"), "400"),
        ("a host with a path", host("host: evil.test/door.demo.localhost\r\n"), "400"),
        ("a host with a query", host("host: evil.test?door.demo.localhost\r\n"), "400"),
        ("a host with a user", host("host: user@door.demo.localhost\r\n"), "400"),
        ("a host with a bad port", host("host: door.demo.localhost:8x\r\n"), "400"),
        ("a blank before the colon", host("host : door.demo.localhost\r\n"), "400"),
        ("a folded host", host("host:\r\n door.demo.localhost\r\n"), "400"),
        ("another host in the URL", target("http://other/a"), "400"),
        (
            "a URL without Host",
            "GET http://door.demo.localhost/ HTTP/1.1\r\n\r\n".to_owned(),
            "400",
        ),
        ("a URL with a user", target("http://user@door.demo.localhost/"), "400"),
        ("a URL of another scheme", target("ftp://door.demo.localhost/"), "400"),
        ("a path without a slash", target("a"), "400"),
        ("a host as target", target("door.demo.localhost:80"), "400"),
        ("an asterisk", target("*"), "400"),
        ("OPTIONS of the server", "OPTIONS * HTTP/1.1\r\n{H}\r\n".to_owned(), "400"),
        (
            "CONNECT",
            "CONNECT door.demo.localhost:80 HTTP/1.1\r\nhost: door.demo.localhost:80\r\n\r\n"
                .to_owned(),
            "405",
        ),
        ("CONNECT with a path", "CONNECT / HTTP/1.1\r\n{H}\r\n".to_owned(), "405"),
        ("TRACE", "TRACE / HTTP/1.1\r\n{H}\r\n".to_owned(), "405"),
        ("TRACK", "TRACK / HTTP/1.1\r\n{H}\r\n".to_owned(), "405"),
        ("HTTP/1.0 without Host", "GET / HTTP/1.0\r\n\r\n".to_owned(), "400"),
    ] {
        cases.push(refused(name, &head, status));
    }
    cases
}

#[tokio::test]
async fn no_request_is_read_in_two_ways() {
    let node = Node::start(NodeOptions::default()).await;
    deploy_door(&node).await;
    let (mut answered, mut cut, mut wrong) = (0, 0, vec![]);
    for case in [body_lengths(), codings(), chunks(), heads(), targets()].iter().flatten() {
        for listener in [Listener::Plain, Listener::Tls] {
            match run(&node, listener, case).await {
                Ok(counts) => (answered, cut) = (answered + counts.0, cut + counts.1),
                Err(what) => wrong.push(what),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // A request that somebody smuggled in would have been counted, whether or not its answer was sent.
    let counted = eventually("the node has counted", async || {
        let metrics = node.metrics().await.ok()?;
        let counted = metrics.sum("atoll_invocations_total", &[("worker", "door")]) as usize;
        (counted >= answered).then_some(counted)
    })
    .await;
    let right = answered..=answered + cut;
    assert!(right.contains(&counted), "{counted} invocations, {right:?} by what came back");
}

#[tokio::test]
async fn an_expected_continue_comes_before_the_body_is_read() {
    let node = Node::start(NodeOptions::default()).await;
    deploy_door(&node).await;
    let request = format!(
        "POST / HTTP/1.1\r\nhost: {HOST}\r\nexpect: 100-Continue\r\ncontent-length: 5\r\n\r\nhello{CANARY}"
    );
    let (answers, end) = exchange(connect(&node, Listener::Plain).await, request.as_bytes()).await;
    let said: Vec<String> = answers.iter().map(Answer::said).collect();
    assert_eq!(said, ["100", "POST / hello", CANARY_SAID]);
    assert_eq!(end, End::Closed);
}
