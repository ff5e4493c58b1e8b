//! The promise: what was acknowledged survives kill -9, every KV put and every deployed worker.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use atoll_tests::{Api, Node, NodeOptions, Script, eventually, fixture};
use tokio::task::JoinSet;

const WRITERS: usize = 8;
/// Acknowledged puts of a round before the node is killed: different in every round, so that the
/// kill falls at different points of the store's work.
const ACKED_BEFORE_KILL: [usize; 4] = [1, 40, 97, 250];

/// Every round: writers put keys until the node dies under them; after the restart each put that
/// was acknowledged, in this round or an earlier one, must be there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_puts_survive_kill_9() {
    let mut node = Node::start(NodeOptions::default()).await;
    let namespace = node.api().create_namespace("durable").await;
    let script = Script::module(fixture("kv.js")).bind_kv("KV", &namespace);
    node.deploy("kv", &script).await;
    let mut acked = Vec::new();
    for (round, before_kill) in ACKED_BEFORE_KILL.into_iter().enumerate() {
        let count = Arc::new(AtomicUsize::new(0));
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let (api, namespace) = (node.api().clone(), namespace.clone());
            writers.spawn(write(api, namespace, format!("{round}-{writer}"), Arc::clone(&count)));
        }
        eventually("enough puts are acknowledged", async || {
            (count.load(Ordering::Relaxed) >= before_kill).then_some(())
        })
        .await;
        node.kill9();
        while let Some(keys) = writers.join_next().await {
            acked.extend(keys.unwrap());
        }
        node.restart().await;
        for key in &acked {
            let value = node.api().kv_get(&namespace, key).await;
            assert_eq!(value.as_deref(), Some(value_of(key).as_bytes()), "round {round}: {key}");
        }
        let get = serde_json::json!({ "op": "get", "key": acked[0] });
        let reply = node.request("kv", "/").post(get.to_string()).await.unwrap();
        assert_eq!(reply.json()["ok"], value_of(&acked[0]), "the worker serves without a redeploy");
    }
}

/// Puts keys one after another until the node is gone; answers those that were acknowledged.
async fn write(
    api: Api,
    namespace: String,
    prefix: String,
    acked_by_all: Arc<AtomicUsize>,
) -> Vec<String> {
    let mut acked = Vec::new();
    loop {
        let key = format!("{prefix}-{}", acked.len());
        if api.try_kv_put(&namespace, &key, value_of(&key)).await.is_err() {
            return acked;
        }
        acked.push(key);
        acked_by_all.fetch_add(1, Ordering::Relaxed);
    }
}

fn value_of(key: &str) -> String {
    format!("the value of {key}, long enough to be told from another")
}

#[tokio::test]
async fn deployed_workers_survive_kill_9() {
    let mut node = Node::start(NodeOptions::default()).await;
    let mut deployed = Vec::new();
    for round in 0..3 {
        for worker in ["one", "two"] {
            let name = format!("{worker}-{round}");
            let script = Script::module(fixture("gate.js")).bind_text("VERSION", &name);
            node.deploy(&name, &script).await;
            deployed.push(name);
        }
        let again = Script::module(fixture("gate.js")).bind_text("VERSION", &format!("v{round}"));
        node.deploy("again", &again).await;
        node.kill9();
        node.restart().await;
        for name in &deployed {
            assert_eq!(&node.text(name, "/").await, name, "round {round}");
        }
        assert_eq!(node.text("again", "/").await, format!("v{round}"), "the newest version serves");
    }
}
