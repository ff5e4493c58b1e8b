//! Three servers, three nodes, and a proxy on each way from a node to a server.

use std::time::Duration;

use atoll_kv::contract::nats::NatsServers;
use atoll_tests::{FaultProxy, Link, Node, NodeOptions, Script, eventually_within, fixture};
use http::Method;
use serde_json::{Value, json};

use super::PATIENCE;

/// How many servers, and how many nodes.
const COUNT: usize = 3;
pub(crate) const SHARDS: usize = 4;
/// How long a node may be away: the least that there is.
pub(crate) const ABSENCE: Duration = Duration::from_secs(30);
/// The worker that reads and writes for clients.
pub(crate) const WORKER: &str = "kv";
/// Keys that are there from the beginning, so that a copy of everything takes a while.
pub(crate) const FILLED_KEYS: usize = 20_000;
/// Keys of one bulk write.
const BULK_KEYS: usize = 10_000;

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    /// What each node's data directory is called in histories.
    pub(crate) replicas: Vec<usize>,
    pub(crate) servers: NatsServers,
    /// The namespace that clients use.
    pub(crate) namespace: String,
    /// The namespace of many keys that only faults change.
    pub(crate) filled: String,
    /// For each node its ways to the servers.
    links: Vec<Vec<FaultProxy>>,
    replicas_made: usize,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let servers = NatsServers::start(COUNT);
        let mut links = Vec::new();
        for _ in 0..COUNT {
            let mut of_node = Vec::new();
            for server in 0..COUNT {
                of_node.push(FaultProxy::start(servers.address(server)).await);
            }
            links.push(of_node);
        }
        let mut cluster = Self {
            nodes: Vec::new(),
            replicas: (0..COUNT).collect(),
            servers,
            namespace: String::new(),
            filled: String::new(),
            links,
            replicas_made: COUNT,
        };
        for index in 0..COUNT {
            let key =
                cluster.nodes.first().map(|node| std::fs::read(node.data_dir().join("node.key")));
            let key = key.transpose().unwrap();
            let config = cluster.config(index);
            let options = NodeOptions {
                threads: 1,
                processes: Some(1),
                config,
                key,
                ..NodeOptions::default()
            };
            cluster.nodes.push(Node::start(options).await);
        }
        cluster.fill().await;
        cluster
    }

    /// A node's configuration.
    pub(crate) fn config(&self, index: usize) -> String {
        let address = |link: &FaultProxy| format!("nats://{}", link.address());
        let nats: Vec<_> = self.links[index].iter().map(address).collect();
        format!(
            "[cluster]\nnats = {nats:?}\nname = \"n{index}\"\nshards = {SHARDS}\n\
             replicas = {COUNT}\nstale_ms_max = 10000\nabsence_s_max = {}\n",
            ABSENCE.as_secs()
        )
    }

    /// Deploys the worker and writes the keys that are there from the beginning.
    async fn fill(&mut self) {
        let api = self.nodes[0].api();
        self.namespace = api.create_namespace("load").await;
        self.filled = api.create_namespace("filled").await;
        let script = Script::module(fixture("kv.js")).bind_kv("KV", &self.namespace);
        self.nodes[0].deploy(WORKER, &script).await;
        let bulk = api.in_account(&format!("/storage/kv/namespaces/{}/bulk", self.filled));
        for first in (0..FILLED_KEYS).step_by(BULK_KEYS) {
            let keys = first..first + BULK_KEYS;
            let pairs: Vec<_> = keys.map(|n| json!({ "key": filled(n), "value": "-" })).collect();
            api.call(Method::PUT, &bulk, &Value::Array(pairs)).await.unwrap();
        }
        self.all_list(FILLED_KEYS).await;
    }

    /// Waits until all nodes list that many of the keys that were there from the beginning.
    pub(crate) async fn all_list(&self, keys: usize) {
        eventually_within(PATIENCE, "all nodes list the same", async || {
            for node in &self.nodes {
                let names = node.api().kv_names(&self.filled).await.ok()?;
                (names.len() == keys).then_some(())?;
            }
            Some(())
        })
        .await;
    }

    /// Changes a node's ways to all servers.
    pub(crate) fn link(&self, node: usize, link: Link) {
        self.links[node].iter().for_each(|way| way.set(link));
    }

    /// What the replica is called that is made next.
    pub(crate) fn next_replica(&self) -> usize {
        self.replicas_made
    }

    /// Forgets all that an ended node had, and starts another in its place.
    pub(crate) async fn replace(&mut self, node: usize) {
        self.nodes[node].wipe();
        self.replicas[node] = self.replicas_made;
        self.replicas_made += 1;
        self.nodes[node].restart_in_place_unready().await;
    }

    /// What a node says of its KV replica: `current`, `resyncing-4`.
    pub(crate) async fn kv_state(&self, node: usize) -> String {
        let (_, text) = self.nodes[node].admin_text("/healthz").await;
        let line = text.lines().find_map(|line| line.strip_prefix("kv: state="));
        line.and_then(|line| line.split(' ').next()).unwrap_or_default().to_owned()
    }
}

/// One of the keys that are there from the beginning.
pub(crate) fn filled(number: usize) -> String {
    format!("filled-{number:06}")
}
