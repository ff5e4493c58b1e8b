//! HTTP/3: what the other protocols are held to, over QUIC.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use atoll_tests::{Node, NodeOptions, Script, trusting_config};
use bytes::{Buf, Bytes};
use http::{Method, Request};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint};

use crate::neighbour::{Neighbours, serving};
use crate::wire::{HOST, PATIENCE, deploy_door};

type Sender = h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>;

/// A connection, and what keeps it going.
struct Http3 {
    sender: Sender,
    quic: quinn::Connection,
    _endpoint: Endpoint,
}

async fn connect(node: &Node) -> Http3 {
    let mut endpoint = Endpoint::client(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))).unwrap();
    let mut tls = trusting_config().unwrap().with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let crypto = QuicClientConfig::try_from(tls).unwrap();
    endpoint.set_default_client_config(ClientConfig::new(Arc::new(crypto)));
    let quic = endpoint.connect(node.addresses().https, HOST).unwrap().await.unwrap();
    let connection = h3_quinn::Connection::new(quic.clone());
    let (mut driver, sender) = h3::client::new(connection).await.unwrap();
    tokio::spawn(async move { driver.wait_idle().await });
    Http3 { sender, quic, _endpoint: endpoint }
}

/// The status and the body of an answer, or why there is none.
async fn ask(sender: &mut Sender, request: Request<()>) -> Result<(u16, String), String> {
    let exchange = async {
        let mut stream = sender.send_request(request).await.map_err(|e| e.to_string())?;
        // A server may answer without having read everything.
        let _ = stream.finish().await;
        let response = stream.recv_response().await.map_err(|e| e.to_string())?;
        let mut body = Vec::new();
        while let Some(mut part) = stream.recv_data().await.map_err(|e| e.to_string())? {
            body.extend_from_slice(&part.copy_to_bytes(part.remaining()));
        }
        Ok((response.status().as_u16(), String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::time::timeout(PATIENCE, exchange).await.expect("something comes of it in time")
}

fn get(path: &str) -> http::request::Builder {
    Request::get(format!("https://{HOST}{path}"))
}

#[tokio::test]
async fn malformed_requests_reach_no_worker() {
    let node = Node::start(NodeOptions::default()).await;
    deploy_door(&node).await;
    let long = "y".repeat(100_000);
    // 0: a reset is the only answer.
    for (name, request, status) in [
        ("another host", get("/").header("host", "other.test"), 400),
        ("the host twice", get("/").header("host", HOST).header("host", HOST), 400),
        ("TRACE", get("/").method(Method::TRACE), 405),
        ("transfer-encoding", get("/").header("transfer-encoding", "chunked"), 0),
        ("connection", get("/").header("connection", "close"), 0),
        ("upgrade", get("/").header("upgrade", "websocket"), 0),
        ("te", get("/").header("te", "gzip"), 0),
        ("a length without a body", get("/").header("content-length", "5"), 0),
        ("a long URL", get(&format!("/{}", "x".repeat(20_000))), 414),
        ("many headers", (0..150).fold(get("/"), |get, _| get.header("x", "y")), 431),
        ("long headers", get("/").header("x", &long).header("y", &long), 431),
        ("a user", Request::get("https://user@door.demo.localhost/"), 400),
    ] {
        let mut http3 = connect(&node).await;
        let outcome = ask(&mut http3.sender, request.body(()).unwrap()).await;
        println!("{name:40} {outcome:?}");
        // A reset is a refusal too, and so is what no client library sends.
        if let Ok((seen, body)) = outcome {
            assert_eq!(seen, status, "{name}: {body}");
        }
    }
    assert_eq!(node.metrics().await.unwrap().outcomes(Some("door")), [].into());
    let mut http3 = connect(&node).await;
    let request = get("/a/../b").header("cookie", "a=1").header("cookie", "b=2");
    let (status, body) = ask(&mut http3.sender, request.body(()).unwrap()).await.unwrap();
    assert_eq!(status, 200);
    assert!(body.contains(&format!("https://{HOST}/b\"")) && body.contains("a=1; b=2"), "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_end_the_connection_and_others_are_served() {
    let node = Node::start(NodeOptions::default()).await;
    deploy_door(&node).await;
    let slow = "export default { async fetch() { await scheduler.wait(60000); } };";
    node.deploy("slow", &Script::module(slow)).await;
    assert_eq!(node.request("door", "/").send().await.unwrap().status, 200);
    let processes = serving(&node);
    let neighbours = Neighbours::beside(&node).await;

    // Requests that are taken back at once.
    let mut http3 = connect(&node).await;
    let mut taken_back = 0;
    while taken_back < 20_000 {
        let request = Request::get("https://slow.demo.localhost/").body(()).unwrap();
        let sending = tokio::time::timeout(PATIENCE, http3.sender.send_request(request)).await;
        let Ok(Ok(mut stream)) = sending else { break };
        stream.stop_stream(h3::error::Code::H3_REQUEST_CANCELLED);
        stream.stop_sending(h3::error::Code::H3_REQUEST_CANCELLED);
        taken_back += 1;
    }
    println!("{taken_back} requests are taken back");
    assert!(taken_back < 20_000, "all are taken");

    // More streams than agreed: QUIC holds them back.
    let http3 = connect(&node).await;
    let mut open = Vec::new();
    let opening = async {
        while open.len() < 1_000 {
            open.push(http3.quic.open_bi().await.unwrap());
        }
    };
    let refused = tokio::time::timeout(std::time::Duration::from_secs(2), opening).await.is_err();
    assert!(refused && open.len() <= 128, "{} streams are open", open.len());

    // Streams that begin a head and never end it.
    for (send, _) in &mut open {
        send.write_all(&[1, 0x80, 0, 0xff, 0xff, 0]).await.unwrap();
    }
    neighbours.unharmed(&node, &processes).await;
}
