//! Nodes that share NATS servers, all on this machine and on whichever core is free.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use atoll_kv::contract::nats::NatsServers;

use super::atoll::{self, DATA, Node};
use super::{READY_POLL, Site};
use crate::api::{self, Api};
use crate::footprint::Footprint;

/// NATS servers, each of which keeps every record.
const SERVERS: usize = 3;
const NODES: usize = 3;
/// How long a node may take to have all that the others have.
const CURRENT_WITHIN: Duration = Duration::from_secs(300);

/// A running cluster; ended when dropped.
pub(crate) struct Cluster<'a> {
    site: &'a Site,
    nodes: Vec<Member>,
    servers: NatsServers,
}

/// A node of a cluster.
pub(crate) struct Member {
    node: Node,
    // Removed after the process has ended: fields are dropped in order.
    state: tempfile::TempDir,
}

impl<'a> Cluster<'a> {
    /// Starts servers and nodes, and waits until all nodes are ready.
    pub(crate) fn start(site: &'a Site) -> Result<Self, String> {
        let mut cluster = Self { site, nodes: Vec::new(), servers: NatsServers::start(SERVERS) };
        for _ in 0..NODES {
            cluster.add()?;
        }
        Ok(cluster)
    }

    /// Starts one node more, with nothing on its disk, and waits until it has everything; answers how long
    /// that took.
    pub(crate) fn add(&mut self) -> Result<Duration, String> {
        let state = tempfile::tempdir().map_err(|error| error.to_string())?;
        if let Some(first) = self.nodes.first() {
            let key = |dir: &std::path::Path| dir.join(DATA).join("node.key");
            std::fs::create_dir(state.path().join(DATA))
                .and_then(|()| std::fs::copy(key(first.state.path()), key(state.path())))
                .map_err(|error| format!("cannot copy the cluster's key: {error}"))?;
        }
        let begun = Instant::now();
        let config = self.config(self.nodes.len());
        let command = Command::new(&self.site.atoll);
        let node = Node::start_by(command, self.site, state.path(), &config)?;
        let mut member = Member { node, state };
        member.await_ready()?;
        self.nodes.push(member);
        Ok(begun.elapsed())
    }

    fn config(&self, index: usize) -> String {
        format!(
            "[cluster]\nnats = {:?}\nname = \"node-{index}\"\nreplicas = {SERVERS}\n",
            self.urls()
        )
    }

    /// The servers' URLs.
    pub(crate) fn urls(&self) -> Vec<String> {
        (0..self.servers.count()).map(|index| self.servers.url(index)).collect()
    }

    /// The nodes, in the order of their start.
    pub(crate) fn nodes(&self) -> &[Member] {
        &self.nodes
    }
}

impl Member {
    fn await_ready(&mut self) -> Result<(), String> {
        let give_up = Instant::now() + CURRENT_WITHIN;
        loop {
            let ready = api::request(self.node.admin, "GET /readyz", &[("host", "localhost")], b"");
            if ready.is_ok_and(|response| response.status == 200) {
                return Ok(());
            }
            self.node.process.check_alive()?;
            if Instant::now() > give_up {
                return Err(format!("not ready within {CURRENT_WITHIN:?}"));
            }
            std::thread::sleep(READY_POLL);
        }
    }

    /// Where its workers answer.
    pub(crate) fn http(&self) -> SocketAddr {
        self.node.http
    }

    /// Its REST API.
    pub(crate) fn api(&self) -> Result<Api, String> {
        atoll::api(self.node.admin, self.state.path())
    }

    /// What its processes hold.
    pub(crate) fn footprint(&self) -> Result<Footprint, String> {
        Footprint::of_tree(self.node.process.id())
    }

    /// The file with its KV values.
    pub(crate) fn database(&self) -> PathBuf {
        self.state.path().join(DATA).join("cluster").join("kv.sqlite")
    }
}
