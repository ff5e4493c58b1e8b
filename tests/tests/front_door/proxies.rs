//! Load balancers in front of the node: whom the configuration names is believed, and nobody else.

use std::net::SocketAddr;

use atoll_tests::{Node, NodeOptions, Script, connect_tls};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::frames::{END_HEADERS, END_STREAM, GET, HEADERS, PREFACE, SETTINGS, fields, frame};
use crate::wire::{Answer, End, HOST, exchange, read_to_close};

const CONFIG: &str = r#"
[proxies]
preamble = ["127.0.0.2"]
trusted = ["127.0.0.3", "10.0.0.0/8"]
[[geo.networks]]
cidr = "192.0.2.0/24"
country = "DE"
[[geo.networks]]
cidr = "2001:db8::/32"
country = "JP"
"#;

/// Says where a request came from, as a worker may know it.
const ORIGIN: &str = "export default { fetch(request) {\n\
       const header = (name) => request.headers.get(name);\n\
       return Response.json({ url: request.url, ip: header('cf-connecting-ip'), \n\
         country: request.cf.country, ray: header('cf-ipcountry'), forwarded: header('forwarded'),\n\
         for: header('x-forwarded-for'), proto: header('x-forwarded-proto'), visitor: header('cf-visitor'),\n\
         tls: request.cf.tlsVersion, protocol: request.cf.httpProtocol });\n\
     } };";

async fn node(config: &str) -> Node {
    let node = Node::start(NodeOptions::with_config(config)).await;
    node.deploy("door", &Script::module(ORIGIN)).await;
    node
}

/// A connection from one of this machine's own addresses.
async fn from(address: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
    socket.connect(to).await.unwrap()
}

fn get(headers: &str) -> String {
    format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n{headers}connection: close\r\n\r\n")
}

fn seen(answers: &[Answer]) -> Value {
    assert_eq!(answers.len(), 1, "{answers:?}");
    serde_json::from_str(&answers[0].body).unwrap_or_else(|_| panic!("{answers:?}"))
}

/// A preamble of version 2.
fn binary(version_command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let length = (addresses.len() as u16).to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[version_command, family][..], &length, addresses].concat()
}

fn preambles() -> Vec<(Vec<u8>, &'static str, Option<&'static str>)> {
    let v4 = [192, 0, 2, 7, 10, 0, 0, 1, 0x10, 0, 0, 80, 0x04, 0, 1, 0];
    let mut v6 = [0; 36];
    v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    v6[15] = 7;
    vec![
        (b"PROXY TCP4 192.0.2.7 10.0.0.1 4096 80\r\n".to_vec(), "192.0.2.7", Some("DE")),
        (b"PROXY TCP6 2001:db8::7 ::1 4096 80\r\n".to_vec(), "2001:db8::7", Some("JP")),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.2", None),
        (binary(0x21, 0x11, &v4), "192.0.2.7", Some("DE")),
        (binary(0x21, 0x21, &v6), "2001:db8::7", Some("JP")),
        (binary(0x20, 0x00, &[]), "127.0.0.2", None),
        (binary(0x21, 0x31, &[0; 216]), "127.0.0.2", None),
    ]
}

#[tokio::test]
async fn a_preamble_names_the_client() {
    let node = node(CONFIG).await;
    let addresses = node.addresses();
    for (preamble, ip, country) in preambles() {
        let check = |answers: &[Answer], tls: &str| {
            let seen = seen(answers);
            assert_eq!(
                (seen["ip"].as_str(), seen["country"].as_str()),
                (Some(ip), country),
                "{seen}"
            );
            assert_eq!((&seen["for"], seen["tls"].as_str()), (&seen["ip"], Some(tls)), "{seen}");
        };
        let stream = from("127.0.0.2", addresses.http).await;
        let bytes = [preamble.as_slice(), get("").as_bytes()].concat();
        check(&exchange(Box::new(stream), &bytes).await.0, "");
        // It comes before the handshake.
        let mut stream = from("127.0.0.2", addresses.https).await;
        stream.write_all(&preamble).await.unwrap();
        let tls = connect_tls(stream, HOST, b"http/1.1").await.unwrap();
        check(&exchange(Box::new(tls), get("").as_bytes()).await.0, "TLSv1.3");
        // And before HTTP/2 with prior knowledge.
        let mut stream = from("127.0.0.2", addresses.http).await;
        let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields(&GET));
        let goodbye = frame(7, 0, 0, &[0; 8]);
        let http2 = [&preamble, PREFACE, &frame(SETTINGS, 0, 0, &[]), &head, &goodbye].concat();
        stream.write_all(&http2).await.unwrap();
        let read = String::from_utf8_lossy(&read_to_close(&mut stream).await.unwrap()).into_owned();
        assert!(read.contains(&format!("\"ip\":\"{ip}\"")), "{read}");
        assert!(read.contains("\"protocol\":\"HTTP/2\""), "{read}");
    }
}

#[tokio::test]
async fn a_preamble_is_wanted_of_some_and_refused_of_others() {
    let node = node(CONFIG).await;
    let addresses = node.addresses();
    for (preamble, ..) in preambles() {
        let bytes = [preamble.as_slice(), get("").as_bytes()].concat();
        let stream = from("127.0.0.1", addresses.http).await;
        let (answers, end) = exchange(Box::new(stream), &bytes).await;
        let said: Vec<_> = answers.iter().map(Answer::said).collect();
        assert_eq!((said, end), (vec!["400".to_owned()], End::Closed));
        let mut stream = from("127.0.0.1", addresses.https).await;
        stream.write_all(&preamble).await.unwrap();
        assert!(connect_tls(stream, HOST, b"http/1.1").await.is_err());
    }
    for bytes in [get(""), "PROXY TCP4 1.2.3 4 5 6\r\n".to_owned() + &get(""), "PROXY".to_owned()] {
        // The last one waits for more, until its time is over.
        let mut stream = from("127.0.0.2", addresses.http).await;
        stream.write_all(bytes.as_bytes()).await.unwrap();
        assert_eq!(read_to_close(&mut stream).await.unwrap(), b"", "{bytes}");
    }
    let stream = from("127.0.0.2", addresses.https).await;
    assert!(connect_tls(stream, HOST, b"http/1.1").await.is_err(), "TLS without a preamble");
    let refused = "it does not begin with a preamble of the PROXY protocol";
    assert!(node.output().contains(refused), "{}", node.output());
}

#[tokio::test]
async fn trusted_proxies_tell_of_their_clients() {
    let node = node(CONFIG).await;
    let addresses = node.addresses();
    for (peer, headers, ip, scheme) in [
        (
            "127.0.0.3",
            "x-forwarded-for: 192.0.2.7\r\nx-forwarded-proto: https\r\n",
            "192.0.2.7",
            "https",
        ),
        ("127.0.0.3", "x-forwarded-for: 1.1.1.1, 192.0.2.7, 10.0.0.9\r\n", "192.0.2.7", "http"),
        (
            "127.0.0.3",
            "x-forwarded-for: 1.1.1.1\r\nx-forwarded-for: 192.0.2.7\r\n",
            "192.0.2.7",
            "http",
        ),
        ("127.0.0.3", "x-forwarded-for: 2001:db8::7\r\n", "2001:db8::7", "http"),
        ("127.0.0.3", "x-forwarded-proto: https\r\n", "127.0.0.3", "https"),
        ("127.0.0.3", "x-forwarded-for: nonsense\r\n", "127.0.0.3", "http"),
        ("127.0.0.3", "forwarded: for=192.0.2.7;proto=https\r\n", "127.0.0.3", "http"),
        (
            "127.0.0.3",
            "cf-connecting-ip: 192.0.2.7\r\nx-real-ip: 192.0.2.7\r\n",
            "127.0.0.3",
            "http",
        ),
        (
            "127.0.0.1",
            "x-forwarded-for: 192.0.2.7\r\nx-forwarded-proto: https\r\n",
            "127.0.0.1",
            "http",
        ),
        ("127.0.0.1", "forwarded: for=192.0.2.7;proto=https\r\n", "127.0.0.1", "http"),
    ] {
        let stream = from(peer, addresses.http).await;
        let (answers, _) = exchange(Box::new(stream), get(headers).as_bytes()).await;
        let seen = seen(&answers);
        let url = format!("{scheme}://{HOST}/");
        let visitor = format!("{{\"scheme\":\"{scheme}\"}}");
        let text = |name: &str| seen[name].as_str().unwrap_or_default();
        let told = [
            text("ip"),
            text("for"),
            text("url"),
            text("proto"),
            text("visitor"),
            text("forwarded"),
        ];
        assert_eq!(told, [ip, ip, &*url, scheme, &*visitor, ""], "{peer} says {headers}");
        let country = match ip {
            "192.0.2.7" => "DE",
            "2001:db8::7" => "JP",
            _ => "XX",
        };
        assert_eq!(text("ray"), country, "{seen}");
    }
    // A load balancer names the proxy that it was called by, and that one its client.
    let stream = from("127.0.0.2", addresses.http).await;
    let preamble = "PROXY TCP4 10.0.0.5 10.0.0.1 4096 80\r\n";
    let bytes = preamble.to_owned() + &get("x-forwarded-for: 192.0.2.7\r\n");
    let (answers, _) = exchange(Box::new(stream), bytes.as_bytes()).await;
    assert_eq!(seen(&answers)["ip"], "192.0.2.7");
}

#[tokio::test]
async fn the_other_header_is_believed_where_it_is_configured() {
    let config = CONFIG.replacen("[proxies]", "[proxies]\nheader = \"forwarded\"", 1);
    let node = node(&config).await;
    for (headers, ip, scheme) in [
        ("forwarded: for=1.1.1.1, for=192.0.2.7;proto=https\r\n", "192.0.2.7", "https"),
        ("forwarded: for=\"[2001:db8::7]:4711\"\r\n", "2001:db8::7", "http"),
        ("x-forwarded-for: 192.0.2.7\r\nx-forwarded-proto: https\r\n", "127.0.0.3", "http"),
    ] {
        let stream = from("127.0.0.3", node.addresses().http).await;
        let (answers, _) = exchange(Box::new(stream), get(headers).as_bytes()).await;
        let seen = seen(&answers);
        assert_eq!(seen["ip"], ip, "{headers}");
        assert_eq!(seen["proto"], scheme, "{headers}");
    }
}
