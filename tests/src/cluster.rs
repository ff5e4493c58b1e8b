//! `atoll cluster dev` under test: the real command in a folder of its own, with commands beside it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use tempfile::TempDir;

use crate::binary::atoll_binary;
use crate::captured::{Captured, send_signal};
use crate::client::Request;
use crate::clock::{WAIT_MAX, eventually};
use crate::node::Addresses;
use crate::process::Process;
use crate::project::{self, CommandOutput};

/// A node of the cluster, as the command shows it.
#[derive(Clone, Debug)]
pub struct ClusterNode {
    /// Its name.
    pub name: String,
    /// Its region.
    pub region: String,
    /// Its process when all was ready.
    pub pid: u32,
    port: u16,
}

/// A running `atoll cluster dev`. Dropping it kills the command, which its children notice.
pub struct ClusterSession {
    captured: Captured,
    /// The nodes, in their order.
    pub nodes: Vec<ClusterNode>,
}

/// A folder in which clusters run, and commands that find them by themselves.
pub struct ClusterPlace {
    dir: TempDir,
    nats_server: PathBuf,
}

impl ClusterPlace {
    /// An empty folder, and the program that servers are.
    ///
    /// # Panics
    /// Panics when there is no room for a folder.
    pub fn new(nats_server: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        Self { dir, nats_server: nats_server.to_owned() }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Starts a cluster of so many nodes on free ports, and waits until the command says that all are ready.
    ///
    /// # Panics
    /// Panics when it does not.
    pub async fn start(&self, nodes: usize, more: &[&str]) -> ClusterSession {
        let mut command = Command::new(atoll_binary());
        command.current_dir(self.path()).args(["cluster", "dev"]).args(more);
        command.arg("--nats-server").arg(&self.nats_server);
        for port in ["--port", "--https-port", "--admin-port", "--nats-port"] {
            command.args([port, "0"]);
        }
        let mut captured = Captured::spawn(&mut command);
        captured
            .line("the cluster is ready", |line| {
                line.contains("Ctrl-C stops everything").then_some(())
            })
            .await;
        let rows: Vec<_> = captured.output().lines().filter_map(row).collect();
        assert_eq!(rows.len(), nodes, "{}", captured.output());
        ClusterSession { captured, nodes: rows }
    }

    /// Runs `atoll ARGUMENTS...` in the folder, told nothing of any node.
    ///
    /// # Panics
    /// Panics when it cannot be started, or does not end.
    pub async fn atoll(&self, arguments: &[&str]) -> CommandOutput {
        let mut command = tokio::process::Command::new(atoll_binary());
        command.current_dir(self.path()).args(arguments);
        for name in ["ATOLL_API_URL", "ATOLL_API_TOKEN", "CLOUDFLARE_API_BASE_URL"] {
            command.env_remove(name);
        }
        // No contexts are saved there.
        command.env("XDG_CONFIG_HOME", self.path());
        project::finished(command).await
    }
}

impl ClusterSession {
    /// A GET of a worker on a node.
    pub fn request(&self, node: usize, worker: &str) -> Request {
        let http = SocketAddr::from(([127, 0, 0, 1], self.nodes[node].port));
        let addresses = Addresses { http, https: http, admin: http, namespace: None };
        Request::new(addresses, &format!("{worker}.demo.localhost"), "/")
    }

    /// What the command has written so far.
    pub fn output(&self) -> String {
        self.captured.output()
    }

    /// Ends a node's first process as a crash does.
    pub fn kill9(&self, node: usize) {
        send_signal(self.nodes[node].pid, "KILL");
    }

    /// Everything that the command has started, itself included.
    pub fn processes(&self) -> Vec<Process> {
        Process::tree(self.captured.id())
    }

    /// Ctrl-C, then the status that it ends with: nodes may take their time.
    pub async fn interrupt(&mut self) -> ExitStatus {
        self.captured.signal("INT");
        self.captured.exit_status_within(2 * WAIT_MAX).await
    }

    /// Ends the command itself, and waits until none of these processes is left.
    pub async fn kill9_command(mut self, processes: &[Process]) {
        self.captured.kill();
        all_ended(processes).await;
    }
}

/// Waits until none of the processes lives.
///
/// # Panics
/// Panics when one goes on living.
pub async fn all_ended(processes: &[Process]) {
    eventually("no process is left", async || {
        (!processes.iter().any(|process| process.lives())).then_some(())
    })
    .await;
}

/// A line of the table: name, region, workers, workers over TLS, API, process.
fn row(line: &str) -> Option<ClusterNode> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [name, region, http, _, _, pid] = fields[..] else { return None };
    let port = http.rsplit(':').next()?.parse().ok()?;
    Some(ClusterNode { name: name.into(), region: region.into(), port, pid: pid.parse().ok()? })
}
