//! The promise: nodes that share NATS servers are one. What is written or deployed on one is on all of them in
//! moments, a node serves and restarts without NATS, and catches up alone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use atoll_kv::contract::nats::NatsServers;
use atoll_tests::{Node, NodeOptions, Script, eventually, fixture};
use http::Method;
use serde_json::{Value, json};

/// How long a deploy may take until every node serves by it, on a machine that does other things too.
const DEPLOY_MAX: Duration = Duration::from_secs(5);

fn options(servers: &NatsServers, name: &str, key: Option<Vec<u8>>) -> NodeOptions {
    let urls: Vec<_> = (0..servers.count()).map(|server| servers.url(server)).collect();
    let replicas = servers.count();
    let config = format!(
        "[cluster]\nnats = {urls:?}\nname = {name:?}\nregion = \"r-{name}\"\nshards = 4\n\
         replicas = {replicas}\nstale_ms_max = 10000\n"
    );
    NodeOptions { threads: 1, processes: Some(1), config, key, ..NodeOptions::default() }
}

/// A server and three nodes that share it.
struct Cluster {
    nodes: Vec<Node>,
    servers: NatsServers,
}

impl Cluster {
    async fn start() -> Self {
        let servers = NatsServers::start(1);
        let mut nodes = vec![Node::start(options(&servers, "a", None)).await];
        let key = std::fs::read(nodes[0].data_dir().join("node.key")).unwrap();
        for name in ["b", "c"] {
            nodes.push(Node::start(options(&servers, name, Some(key.clone()))).await);
        }
        Self { nodes, servers }
    }

    /// Waits until every node has a worker's answer.
    async fn all_answer(&self, worker: &str, expected: &str) {
        for node in &self.nodes {
            answers(node, worker, expected).await;
        }
    }
}

fn gate(text: &str) -> Script {
    Script::module(fixture("gate.js")).bind_text("VERSION", text)
}

async fn answers(node: &Node, worker: &str, expected: &str) {
    eventually("the worker answers", async || {
        let reply = node.request(worker, "/").send().await.ok()?;
        (reply.status == 200 && reply.text() == expected).then_some(())
    })
    .await;
}

async fn nodes(node: &Node) -> Value {
    node.api().call(Method::GET, "/nodes", &Value::Null).await.unwrap()
}

async fn kv_op(node: &Node, op: Value) -> Value {
    node.request("kv", "/").post(op.to_string()).await.unwrap().json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_one() {
    let mut cluster = Cluster::start().await;
    let [a, b, c] = &cluster.nodes[..] else { panic!("there are three nodes") };

    // Every node hears of all.
    for node in [a, b, c] {
        eventually("the nodes see each other", async || {
            let told = nodes(node).await;
            (told["nodes"].as_array()?.len() == 3).then_some(())
        })
        .await;
    }
    let told = nodes(b).await;
    assert_eq!(told["nodes"][0]["region"], "r-a");
    assert_eq!(told["nodes"][1]["this"], true);

    // A deploy is answered when all nodes serve by it, through whichever it goes.
    a.deploy("gate", &gate("one")).await;
    cluster.all_answer("gate", "one").await;
    let begun = Instant::now();
    b.api().upload("gate", &gate("two")).await.unwrap();
    println!("a deploy to three nodes took {:?}", begun.elapsed());
    assert!(begun.elapsed() < DEPLOY_MAX, "a deploy took {:?}", begun.elapsed());
    for node in [a, b, c] {
        assert_eq!(node.text("gate", "/").await, "two", "it is live when the deploy is answered");
    }

    // KV written on one node is read on the others, by their workers too.
    let namespace = a.api().create_namespace("shared").await;
    c.deploy("kv", &Script::module(fixture("kv.js")).bind_kv("KV", &namespace)).await;
    a.api().kv_put(&namespace, "key", "first").await.unwrap();
    for node in [a, b, c] {
        eventually("the value comes", async || {
            let read = kv_op(node, json!({ "op": "get", "key": "key" })).await;
            (read["ok"] == "first").then_some(())
        })
        .await;
    }
    // What a process has read before is not kept when another node replaces it.
    kv_op(b, json!({ "op": "put", "key": "key", "value": "second" })).await;
    for node in [a, b, c] {
        eventually("the new value comes", async || {
            let read = kv_op(node, json!({ "op": "get", "key": "key" })).await;
            (read["ok"] == "second").then_some(())
        })
        .await;
    }

    // Without NATS nodes serve and refuse changes at once, and say why.
    cluster.servers.kill(0);
    let [a, b, c] = &mut cluster.nodes[..] else { panic!("there are three nodes") };
    assert_eq!(b.text("gate", "/").await, "two");
    eventually("changes are refused", async || {
        let begun = Instant::now();
        let refused = b.api().upload("gate", &gate("three")).await.err()?;
        assert_eq!(refused.status, 503, "{refused}");
        assert!(begun.elapsed() < Duration::from_secs(15), "refused after {:?}", begun.elapsed());
        refused.text.contains("NATS cannot be reached").then_some(())
    })
    .await;
    let refused = b.api().kv_put(&namespace, "key", "third").await.unwrap_err();
    assert_eq!(refused.status, 503, "{refused}");
    // A node starts from its disk, and is not ready, as it cannot know what it missed.
    c.restart_unready().await;
    answers(c, "gate", "two").await;
    assert_eq!(kv_op(c, json!({ "op": "get", "key": "key" })).await["ok"], "second");
    let (status, text) = c.admin_text("/readyz").await;
    assert_eq!(status, 503);
    assert!(text.contains("not current"), "{text}");
    assert!(c.admin_text("/healthz").await.1.contains("nats=unreachable"));
    // One that was current is ready until what it has is too old.
    eventually("it is too old", async || {
        let (status, text) = b.admin_text("/readyz").await;
        (status == 503 && text.contains("stale_ms_max")).then_some(())
    })
    .await;
    // It recovers alone, also from what it misses while it is away.
    c.kill9();
    cluster.servers.restart(0);
    eventually("changes are taken again", async || {
        a.api().upload("gate", &gate("three")).await.ok()
    })
    .await;
    c.restart().await;
    answers(c, "gate", "three").await;
    answers(b, "gate", "three").await;
    b.ready().await;
    let metrics = c.metrics().await.unwrap();
    assert!(metrics.text().contains("\natoll_nats_connected 1\n"), "{}", metrics.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_name_the_nodes() {
    let mut cluster = Cluster::start().await;
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("worker.js");
    std::fs::write(&script, "export default { fetch: () => new Response('hello') };").unwrap();
    let script = script.to_str().unwrap();
    let command = ["deploy", script, "--name", "hello", "--compatibility-date", "2026-01-01"];
    let deploy = cluster.nodes[1].atoll(&command).await;
    assert!(deploy.success, "{}", deploy.stderr);
    for name in ["a", "b", "c"] {
        assert!(deploy.stdout.contains(&format!("node {name}: ok")), "{}", deploy.stdout);
    }
    let listed = cluster.nodes[2].atoll(&["nodes"]).await;
    assert!(listed.success, "{}", listed.stderr);
    let rows: Vec<Vec<&str>> =
        listed.stdout.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(rows.iter().map(|row| row[1]).collect::<Vec<_>>(), ["r-a", "r-b", "r-c"]);
    assert!(rows.iter().all(|row| row[3] == rows[0][3]), "{}", listed.stdout);
    assert!(!listed.stdout.contains('\u{1b}'), "no colours without a terminal");

    // A node that drains says so, and is not waited for.
    assert!(cluster.nodes[0].drain().await.success());
    eventually("the others know", async || {
        let told = nodes(&cluster.nodes[1]).await;
        (told["nodes"].as_array()?.len() == 2).then_some(())
    })
    .await;
    // One that hangs is named.
    cluster.nodes[2].signal("STOP");
    let deploy = cluster.nodes[1].atoll(&command).await;
    cluster.nodes[2].signal("CONT");
    assert!(deploy.success, "{}", deploy.stderr);
    assert!(deploy.stdout.contains("node b: ok"), "{}", deploy.stdout);
    answers(&cluster.nodes[2], "hello", "hello").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_needs_the_clusters_key() {
    let servers = NatsServers::start(1);
    let first = Node::start(options(&servers, "a", None)).await;
    for key in [None, Some(vec![7; 32])] {
        let refused = Node::refused(options(&servers, "b", key)).await;
        assert!(refused.contains("copy node.key"), "{refused}");
    }
    drop(first);
}

/// Three servers keep each record, and any of them can be lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_servers_can_be_lost() {
    let mut servers = NatsServers::start(3);
    let a = Node::start(options(&servers, "a", None)).await;
    let key = std::fs::read(a.data_dir().join("node.key")).unwrap();
    let b = Node::start(options(&servers, "b", Some(key))).await;
    a.deploy("gate", &gate("0")).await;
    answers(&b, "gate", "0").await;
    for server in 0..3 {
        servers.kill(server);
        let version = format!("after {server}");
        // A new leader is elected within seconds; until then changes are refused, or their outcome is unknown.
        eventually("changes are taken again", async || {
            a.api().upload("gate", &gate(&version)).await.ok()
        })
        .await;
        for node in [&a, &b] {
            answers(node, "gate", &version).await;
        }
        servers.restart(server);
        eventually("both are ready", async || {
            let ready = [a.admin_text("/readyz").await, b.admin_text("/readyz").await];
            ready.iter().all(|(status, _)| *status == 200).then_some(())
        })
        .await;
    }
    let told = nodes(&b).await;
    assert_eq!(told["nodes"][0]["revision"], told["nodes"][1]["revision"]);
}

/// Servers that have lost everything look like new ones. They were begun anew by the next new node, and all
/// others forgot their KV values.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_servers_take_nothing_away() {
    let mut servers = NatsServers::start(1);
    let mut a = Node::start(options(&servers, "a", None)).await;
    let key = std::fs::read(a.data_dir().join("node.key")).unwrap();
    let mut b = Node::start(options(&servers, "b", Some(key.clone()))).await;
    let namespace = a.api().create_namespace("kept").await;
    a.deploy("kv", &Script::module(fixture("kv.js")).bind_kv("KV", &namespace)).await;
    a.api().kv_put(&namespace, "key", "value").await.unwrap();
    // This one lies with the servers until somebody reads it.
    a.api().kv_put(&namespace, "large", "v".repeat(600 << 10)).await.unwrap();
    let reads = async |node: &Node| {
        eventually("the value is read", async || {
            let read = kv_op(node, json!({ "op": "get", "key": "key" })).await;
            (read["ok"] == "value").then_some(())
        })
        .await;
    };
    reads(&b).await;
    servers.kill(0);
    servers.wipe(0);
    servers.restart(0);
    eventually("the nodes are connected", async || {
        let told = [a.admin_text("/healthz").await.1, b.admin_text("/healthz").await.1];
        told.iter().all(|text| text.contains("nats=connected")).then_some(())
    })
    .await;
    // A new node hears the others, and begins nothing.
    let refused = Node::refused(options(&servers, "c", Some(key.clone()))).await;
    assert!(refused.contains("its nodes are there, but its streams are not"), "{refused}");
    // While nobody is there it cannot know better: it begins another cluster, which the others do not follow.
    a.kill9();
    b.kill9();
    let c = Node::start(options(&servers, "c", Some(key))).await;
    for node in [&mut a, &mut b] {
        node.restart_unready().await;
        reads(node).await;
        eventually("it says why it is not ready", async || {
            let (status, text) = node.admin_text("/readyz").await;
            (status == 503 && text.contains("another cluster")).then_some(())
        })
        .await;
        let refused = node.api().kv_put(&namespace, "key", "other").await.unwrap_err();
        assert!(refused.status == 503 && refused.text.contains("nothing was written"), "{refused}");
        assert!(node.admin_text("/healthz").await.1.contains("not this cluster's"));
        reads(node).await;
    }
    assert_eq!(c.admin_text("/readyz").await.0, 200);
    // What a node has goes into a file all the same.
    assert!(b.drain().await.success());
    let dir = tempfile::tempdir().unwrap();
    let (file, config) = (dir.path().join("export"), dir.path().join("node.toml"));
    std::fs::write(&config, &options(&servers, "b", None).config).unwrap();
    let data = b.data_dir();
    let arguments =
        ["export", file.to_str().unwrap(), "--data", data.to_str().unwrap(), "--config"];
    let arguments = [&arguments[..], &[config.to_str().unwrap()]].concat();
    let refused = b.atoll(&arguments).await;
    assert!(refused.stderr.contains("\"large\" is not on this node"), "{}", refused.stderr);
    let exported = b.atoll(&[&arguments[..], &["--leave-out-missing"]].concat()).await;
    assert!(exported.success, "{}", exported.stderr);
    assert!(exported.stdout.contains(" 1 KV keys"), "{}", exported.stdout);
    assert!(exported.stderr.contains("left out 1 KV keys whose values"), "{}", exported.stderr);
    assert!(exported.stderr.contains("may lack what others have"), "{}", exported.stderr);
}

/// The registry's record that the cluster has begun means that the key-value streams were made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_key_value_streams_are_not_made_anew() {
    let mut servers = NatsServers::start(1);
    let mut a = Node::start(options(&servers, "a", None)).await;
    let key = std::fs::read(a.data_dir().join("node.key")).unwrap();
    let namespace = a.api().create_namespace("lost").await;
    servers.stop(0);
    let streams = servers.path().join("store-0/jetstream/$G/streams");
    for stream in std::fs::read_dir(&streams).unwrap().map(Result::unwrap) {
        if stream.file_name().to_string_lossy().starts_with("atoll_kv") {
            std::fs::remove_dir_all(stream.path()).unwrap();
        }
    }
    servers.restart(0);
    let refused = Node::refused(options(&servers, "b", Some(key))).await;
    assert!(refused.contains("atoll_kv-meta is gone, restore it"), "{refused}");
    // Just after its start the server may not yet say that there is no stream: then it is unknown what became of a write.
    eventually("a write says that nothing was written", async || {
        let refused = a.api().kv_put(&namespace, "key", "value").await.unwrap_err();
        assert_eq!(refused.status, 503, "{refused}");
        refused.text.contains("nothing was written").then_some(())
    })
    .await;
    a.restart_unready().await;
    eventually("it says why it is not ready", async || {
        let (status, text) = a.admin_text("/readyz").await;
        (status == 503 && text.contains("is gone, restore it")).then_some(())
    })
    .await;
}

/// What a single node has goes into a cluster by a file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_becomes_a_cluster() {
    let mut single = Node::start(NodeOptions::default()).await;
    let namespace = single.api().create_namespace("moved").await;
    let script = Script::module(fixture("kv.js")).bind_kv("KV", &namespace);
    single.deploy("kv", &script).await;
    single.api().kv_put(&namespace, "key", "value").await.unwrap();
    assert!(single.drain().await.success());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("export");
    let file = file.to_str().unwrap();
    let data = single.data_dir();
    let exported = single.atoll(&["export", file, "--data", data.to_str().unwrap()]).await;
    assert!(exported.success, "{}", exported.stderr);

    let servers = NatsServers::start(1);
    let key = std::fs::read(data.join("node.key")).unwrap();
    let options = options(&servers, "a", Some(key));
    let config = dir.path().join("node.toml");
    std::fs::write(&config, &options.config).unwrap();
    let mut node = Node::start(options).await;
    let data = node.data_dir();
    let import =
        ["import", file, "--data", data.to_str().unwrap(), "--config", config.to_str().unwrap()];
    let refused = node.atoll(&import).await;
    assert!(refused.stderr.contains("in use by another process"), "{}", refused.stderr);
    assert!(node.drain().await.success());
    let imported = node.atoll(&import).await;
    assert!(imported.success, "{}", imported.stderr);
    node.restart().await;
    assert_eq!(kv_op(&node, json!({ "op": "get", "key": "key" })).await["ok"], "value");
}

/// A line of every minute, on three nodes that all could fire it, of which the one that does is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cron_line_is_fired_once() {
    let mut cluster = Cluster::start().await;
    let script = "export default { scheduled() {}, fetch: () => new Response('') };";
    let a = &cluster.nodes[0];
    a.deploy("tick", &Script::module(script)).await;
    let path = a.api().in_account("/workers/scripts/tick/schedules");
    a.api().call(Method::PUT, &path, &json!([{ "cron": "* * * * *" }])).await.unwrap();
    assert_eq!(fired_in_this_minute(&cluster.nodes).await, 1);
    // The lease is the first node's, which had no rival when it asked.
    while seconds_of_minute() < 58 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    cluster.nodes[0].kill9();
    assert_eq!(fired_in_this_minute(&cluster.nodes[1..]).await, 1);
}

fn seconds_of_minute() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_secs() % 60
}

/// How often the nodes fire the line `tick` from now until some seconds after it came due.
async fn fired_in_this_minute(nodes: &[Node]) -> u64 {
    let fired = async || {
        let mut sum = 0;
        for node in nodes {
            let outcomes = node.metrics().await.unwrap().outcomes(Some("tick"));
            sum += outcomes.get("ok").copied().unwrap_or(0);
        }
        sum
    };
    let before = fired().await;
    let begun = Instant::now();
    while fired().await == before {
        // Another holder takes over within seconds.
        assert!(begun.elapsed() < Duration::from_secs(80), "it is fired when it comes due");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // Nobody else fires it, nor does its node again.
    tokio::time::sleep(Duration::from_secs(5)).await;
    fired().await - before
}
