//! The promise: nodes of a cluster reach each other over TLS with certificates of their own, and nobody else
//! reaches them there.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use atoll_kv::contract::nats::NatsServers;
use atoll_tests::{Failure, Node, NodeOptions, connect_tls, eventually};
use http::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn options(servers: &NatsServers, name: &str, key: Option<Vec<u8>>) -> NodeOptions {
    let config = format!(
        "[cluster]\nnats = [{:?}]\nname = {name:?}\nregion = \"r-{name}\"\nshards = 1\n\
         peer = \"127.0.0.1:0\"\n",
        servers.url(0)
    );
    NodeOptions { threads: 2, processes: Some(2), config, key, ..NodeOptions::default() }
}

/// What a node says of another.
async fn row(node: &Node, name: &str) -> Option<Value> {
    let told = node.api().call(Method::GET, "/nodes", &Value::Null).await.ok()?;
    told["nodes"].as_array()?.iter().find(|row| row["name"] == name).cloned()
}

async fn reaches(node: &Node, name: &str) {
    eventually("one reaches the other", async || row(node, name).await?["rtt_us"].as_u64()).await;
}

async fn reaches_no_more(node: &Node, name: &str) {
    eventually("one does not reach the other", async || {
        row(node, name).await.is_none_or(|row| row["rtt_us"].is_null()).then_some(())
    })
    .await;
}

/// What comes of a connection without a node's certificate, plain or over TLS.
async fn knock(address: &str, tls: bool) -> Vec<u8> {
    let mut read = Vec::new();
    let request = b"GET /ping HTTP/1.1\r\nhost: node\r\n\r\n";
    let socket = TcpStream::connect(address).await.unwrap();
    let exchange = async {
        if tls {
            let mut stream = connect_tls(socket, "node", b"atoll-peer/1").await?;
            stream.write_all(request).await?;
            stream.read_to_end(&mut read).await?;
        } else {
            let mut socket = socket;
            socket.write_all(request).await?;
            socket.read_to_end(&mut read).await?;
        }
        Ok::<_, Failure>(())
    };
    let ended = tokio::time::timeout(Duration::from_secs(30), exchange).await;
    // A refusal by an alert of TLS is an error of reading.
    let _ = ended.expect("a stranger is turned away within moments");
    read
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_reach_each_other_and_strangers_reach_none() {
    let servers = NatsServers::start(1);
    let a = Node::start(options(&servers, "a", None)).await;
    let key = std::fs::read(a.data_dir().join("node.key")).unwrap();
    let mut b = Node::start(options(&servers, "b", Some(key))).await;
    reaches(&a, "b").await;
    reaches(&b, "a").await;
    let listed = a.atoll(&["nodes"]).await;
    assert!(listed.stdout.contains(" ms\t"), "{}", listed.stdout);

    let address = row(&a, "b").await.unwrap()["peer"].as_str().unwrap().to_owned();
    assert_eq!(knock(&address, true).await, b"");
    assert!(!knock(&address, false).await.starts_with(b"HTTP"));
    eventually("it is in the log", async || {
        b.output().contains("a stranger was turned away").then_some(())
    })
    .await;

    // Serving processes that start later have what they need, too.
    for process in b.serving_processes().await.unwrap() {
        b.kill_process(process.pid.unwrap(), "KILL");
    }
    // They are back before anybody asks again, so this waits until somebody has.
    tokio::time::sleep(Duration::from_secs(3)).await;
    reaches(&a, "b").await;

    // A node that is gone, and one that does not answer.
    b.signal("STOP");
    for process in b.processes() {
        b.kill_process(process.id(), "STOP");
    }
    reaches_no_more(&a, "b").await;
    for process in b.processes() {
        b.kill_process(process.id(), "CONT");
    }
    reaches(&a, "b").await;
    b.kill9();
    reaches_no_more(&a, "b").await;
    b.restart().await;
    reaches(&a, "b").await;
    reaches(&b, "a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nodes_listen_is_checked() {
    let servers = NatsServers::start(1);
    let mut nowhere = options(&servers, "a", None);
    nowhere.config = nowhere.config.replace("127.0.0.1:0", "0.0.0.0:0");
    let refused = Node::refused(nowhere).await;
    assert!(refused.contains("cluster.advertise_peer: say where"), "{refused}");
}
