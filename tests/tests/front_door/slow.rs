//! Clients that take their time, many of them: each holds little, and not for long. What takes a minute by
//! default (stalled bodies and responses) is tested in the router with shorter limits.

use atoll_tests::{Node, NodeOptions};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};

use crate::neighbour::{Neighbours, serving};
use crate::wire::{deploy_door, read_to_close};

/// Slow clients of each kind.
const CLIENTS: usize = 200;

/// Sends a byte now and then until the node has had enough.
async fn drip(mut stream: TcpStream, bytes: &'static [u8]) {
    for byte in bytes.iter().cycle() {
        if stream.write_all(&[*byte]).await.is_err() {
            return;
        }
        let silence = sleep(Duration::from_millis(700));
        tokio::select! {
            () = silence => {}
            read = read_to_close(&mut stream) => {
                assert!(read.is_ok());
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_and_handshakes_in_drops_are_cut_and_others_are_served() {
    let node = Node::start(NodeOptions::with_config("[proxies]\npreamble = [\"127.0.0.2\"]")).await;
    deploy_door(&node).await;
    assert_eq!(node.request("door", "/").send().await.unwrap().status, 200);
    let processes = serving(&node);
    let neighbours = Neighbours::beside(&node).await;
    let addresses = node.addresses();
    let mut slow = JoinSet::new();
    for _ in 0..CLIENTS {
        for (address, bytes) in [
            (addresses.http, &b"GET / HTTP/1.1\r\nhost: door.demo.localhost\r\nx: "[..]),
            (addresses.http, b"PRI * HTTP/2.0\r\n\r\nSM"),
            // The beginning of a ClientHello of 508 bytes.
            (addresses.https, b"\x16\x03\x01\x01\xfc\x01\x00\x01\xf8\x03\x03"),
            (addresses.https, b""),
        ] {
            slow.spawn(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                match bytes.is_empty() {
                    true => assert!(read_to_close(&mut stream).await.is_ok(), "silence is cut"),
                    false => drip(stream, bytes).await,
                }
            });
        }
    }
    let all_cut = async { while slow.join_next().await.is_some_and(|ended| ended.is_ok()) {} };
    let within = tokio::time::timeout(Duration::from_secs(60), all_cut).await;
    assert!(within.is_ok(), "slow clients are still there");
    assert!(slow.is_empty());
    neighbours.unharmed(&node, &processes).await;
}
