//! A node of one thread, with workers deployed through the REST API as a user's would be.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::json;

use super::{READY_POLL, READY_WITHIN, Server, Site, require};
use crate::api::Api;
use crate::process::{Pinned, on_core};
use crate::questions::Question;

/// The node's state, in the server's directory.
pub(super) const DATA: &str = "data";
const WORKER: &str = "bench";
const HOST: &str = "bench.demo.localhost";

/// A running node.
pub(super) struct Node {
    pub(super) process: Pinned,
    pub(super) http: SocketAddr,
    pub(super) https: SocketAddr,
    pub(super) admin: SocketAddr,
}

impl Node {
    /// Starts a node with its state in `dir`, where it goes on with what an earlier one has left.
    /// `config` is the text of its configuration file.
    pub(super) fn start(site: &Site, dir: &Path, config: &str) -> Result<Self, String> {
        Self::start_by(on_core(site.core, &site.atoll), site, dir, config)
    }

    /// The same by a command that chooses the core.
    pub(super) fn start_by(
        mut command: Command,
        site: &Site,
        dir: &Path,
        config: &str,
    ) -> Result<Self, String> {
        require(&site.atoll, "cargo build --release")?;
        let file = dir.join("config.toml");
        std::fs::write(&file, config)
            .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
        command.arg("serve").arg("--config").arg(&file).arg("--data").arg(dir.join(DATA));
        for listener in ["--http", "--https", "--admin"] {
            command.args([listener, "127.0.0.1:0"]);
        }
        command.args(["--domain", "localhost", "--threads", &site.processes.to_string()]);
        if has_processes(&site.atoll)? {
            command.args(["--processes", &site.processes.to_string()]);
        } else if site.processes > 1 {
            return Err("this atoll has no option --processes; leave it out".to_owned());
        }
        let mut process = Pinned::start(command, dir)?;
        let [http, https, admin] = addresses(&mut process)?;
        Ok(Self { process, http, https, admin })
    }
}

/// The REST API of the node with its state in `dir`, as the account that every new node has.
pub(super) fn api(admin: SocketAddr, dir: &Path) -> Result<Api, String> {
    let token = std::fs::read_to_string(dir.join(DATA).join("root.token"))
        .map_err(|error| format!("no token: {error}"))?;
    Api::connect(admin, token.trim().to_owned())
}

/// Whether `atoll serve` can be told how many serving processes to start.
fn has_processes(atoll: &Path) -> Result<bool, String> {
    let output = Command::new(atoll)
        .args(["serve", "--help"])
        .output()
        .map_err(|error| format!("cannot start {}: {error}", atoll.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).contains("--processes"))
}

/// A node of its own with a worker over a KV namespace.
pub(crate) struct StoreNode {
    _node: Node,
    pub(crate) address: SocketAddr,
    pub(crate) host: &'static str,
    // Removed after the process has ended: fields are dropped in order.
    _state: tempfile::TempDir,
}

impl StoreNode {
    pub(crate) fn start(site: &Site) -> Result<Self, String> {
        let state = tempfile::tempdir().map_err(|error| error.to_string())?;
        let node = Node::start(site, state.path(), "")?;
        deploy_store(site, &mut api(node.admin, state.path())?)?;
        let address = node.http;
        Ok(Self { _node: node, address, host: HOST, _state: state })
    }
}

/// A node of its own with pages behind it.
pub(crate) struct PageNode {
    node: Node,
    pub(crate) address: SocketAddr,
    // Removed after the process has ended: fields are dropped in order.
    _state: tempfile::TempDir,
}

impl PageNode {
    /// Starts a node with workers, each with its source and rules where there are some. They may reach servers on
    /// this machine. Answers the hosts that they are reached at.
    pub(crate) fn start(
        site: &Site,
        workers: &[(&str, &str, Option<serde_json::Value>)],
    ) -> Result<(Self, Vec<String>), String> {
        let state = tempfile::tempdir().map_err(|error| error.to_string())?;
        let reach = "[outbound]\nallow = [\"127.0.0.0/8\"]\n";
        let node = Node::start(site, state.path(), reach)?;
        let mut api = api(node.admin, state.path())?;
        for (worker, source, rules) in workers {
            api.upload(worker, source, json!([]))?;
            if let Some(rules) = rules {
                api.set_rules(worker, rules)?;
            }
        }
        let hosts = workers.iter().map(|(worker, ..)| format!("{worker}.demo.localhost")).collect();
        let address = node.http;
        Ok((Self { node, address, _state: state }, hosts))
    }

    /// The node's process, the root of its tree.
    pub(crate) fn id(&self) -> u32 {
        self.node.process.id()
    }
}

/// Deploys a worker that gets and puts keys of a namespace; answers the host at which it is reached, and the
/// namespace's id.
pub(crate) fn deploy_store(site: &Site, api: &mut Api) -> Result<(&'static str, String), String> {
    let source = std::fs::read_to_string(site.compare.join("handlers/kv_store.mjs"))
        .map_err(|error| format!("no handler: {error}"))?;
    let id = api.namespace_with("first", "value")?;
    let bindings = json!([{ "type": "kv_namespace", "name": "KV", "namespace_id": id }]);
    api.upload(WORKER, &source, bindings)?;
    Ok((HOST, id))
}

pub(super) fn start(
    site: &Site,
    question: &Question,
    state: tempfile::TempDir,
) -> Result<Server, String> {
    let node = Node::start(site, state.path(), "")?;
    let mut api = api(node.admin, state.path())?;
    let bindings = match question.kv_pair {
        Some((key, value)) => {
            let id = api.namespace_with(key, value)?;
            json!([{ "type": "kv_namespace", "name": "KV", "namespace_id": id }])
        }
        None => json!([]),
    };
    let source = std::fs::read_to_string(site.handler(question))
        .map_err(|error| format!("no handler: {error}"))?;
    api.upload(WORKER, &source, bindings)?;
    Ok(Server::new(node.process, node.http, HOST, state))
}

/// Waits for the line that names the listeners' addresses.
fn addresses(process: &mut Pinned) -> Result<[SocketAddr; 3], String> {
    let give_up = Instant::now() + READY_WITHIN;
    while Instant::now() < give_up {
        let output = process.output();
        if let Some(addresses) = output.lines().find_map(listening) {
            return Ok(addresses);
        }
        process.check_alive()?;
        std::thread::sleep(READY_POLL);
    }
    Err(format!("it named no addresses within {READY_WITHIN:?}:\n{}", process.tail()))
}

fn listening(line: &str) -> Option<[SocketAddr; 3]> {
    let (_, fields) = line.split_once("listening ")?;
    let field = |name: &str| {
        let value = fields.split_whitespace().find_map(|field| field.strip_prefix(name))?;
        value.parse().ok()
    };
    Some([field("http=")?, field("https=")?, field("admin=")?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listening_line_is_read_wherever_it_stands() {
        let line = "INFO listening http=127.0.0.1:80 https=127.0.0.1:443 admin=127.0.0.1:99";
        let expected = ["127.0.0.1:80", "127.0.0.1:443", "127.0.0.1:99"];
        let expected = expected.map(|address| address.parse().unwrap());
        assert_eq!(listening(line), Some(expected));
        assert_eq!(listening("listening http=somewhere"), None);
    }
}
