//! The promise: `atoll cluster dev` starts a whole cluster, commands beside it find it, a node that is killed comes
//! back, state is kept between runs, and no process outlives the command, however that ends.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use atoll_kv::nats_program;
use atoll_tests::{ClusterPlace, ClusterSession, all_ended, eventually};
use serde_json::Value;

fn place() -> ClusterPlace {
    let cache = std::env::home_dir().unwrap().join(".cache/atoll-tests");
    ClusterPlace::new(&nats_program::install(&cache).unwrap())
}

async fn all_answer(cluster: &ClusterSession, expected: &str) {
    for node in 0..cluster.nodes.len() {
        eventually("the worker answers", async || {
            let reply = cluster.request(node, "hello").send().await.ok()?;
            (reply.status == 200 && reply.text() == expected).then_some(())
        })
        .await;
    }
}

async fn deploy(place: &ClusterPlace, text: &str) -> String {
    let script = format!("export default {{ fetch: () => new Response({text:?}) }};");
    std::fs::write(place.path().join("worker.js"), script).unwrap();
    let command = ["deploy", "worker.js", "--name", "hello", "--compatibility-date", "2026-01-01"];
    let deployed = place.atoll(&command).await;
    assert!(deployed.success, "{}", deployed.stderr);
    deployed.stdout
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_starts_survives_and_ends() {
    let place = place();
    let mut cluster = place.start(3, &["--nodes", "3"]).await;
    let regions: Vec<_> = cluster.nodes.iter().map(|node| node.region.as_str()).collect();
    assert_eq!(regions, ["eu", "us", "asia"]);
    let told = deploy(&place, "one").await;
    for node in &cluster.nodes {
        assert!(told.contains(&format!("node {}: ok", node.name)), "{told}");
    }
    all_answer(&cluster, "one").await;
    let listed = place.atoll(&["--json", "nodes"]).await;
    assert!(listed.success, "{}", listed.stderr);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    let ready = |node: &Value| node["ready"] == true;
    assert_eq!(listed["nodes"].as_array().unwrap().iter().filter(|node| ready(node)).count(), 3);
    let second = place.atoll(&["cluster", "dev"]).await;
    assert!(!second.success);
    assert!(second.stderr.contains("is running"), "{}", second.stderr);

    // The first node is the one that commands ask: they go on with another.
    cluster.kill9(0);
    let told = deploy(&place, "two").await;
    assert!(told.contains("node node-2: ok"), "{told}");
    all_answer(&cluster, "two").await;
    let output = cluster.output();
    assert!(output.contains("node-1 has ended (signal: 9 (SIGKILL))"), "{output}");

    let processes = cluster.processes();
    // A server, three nodes with a serving process each, and the command.
    assert!(processes.len() >= 8, "{processes:?}");
    assert_eq!(cluster.interrupt().await.code(), Some(0));
    all_ended(&processes).await;

    let again = place.start(3, &[]).await;
    all_answer(&again, "two").await;
    let processes = again.processes();
    again.kill9_command(&processes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_keep_what_two_nodes_write() {
    let place = place();
    let mut cluster = place.start(2, &["--nodes", "2", "--servers", "3"]).await;
    deploy(&place, "three servers").await;
    all_answer(&cluster, "three servers").await;
    assert_eq!(cluster.interrupt().await.code(), Some(0));
}

#[tokio::test]
async fn a_server_that_is_too_old_or_absent_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let place = place();
    let old = place.path().join("old");
    std::fs::write(&old, "#!/bin/sh\necho 'nats-server: v2.9.10'\n").unwrap();
    std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o700)).unwrap();
    for (program, expected) in [
        ("./old", "it is version 2.9.10, and 2.12.0 or newer is needed"),
        ("./absent", "No such file"),
        ("/bin/true", "it does not tell its version"),
    ] {
        let refused = place.atoll(&["cluster", "dev", "--nats-server", program]).await;
        assert!(!refused.success);
        assert!(refused.stderr.contains(expected), "{}", refused.stderr);
        assert!(refused.stderr.contains("https://nats.io/download"), "{}", refused.stderr);
    }
}
