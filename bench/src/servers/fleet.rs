//! A server with many workers behind it, none of which is loaded before its first call.
//!
//! For atoll they are deployed through the REST API. For workerd they are loaded on demand by its
//! worker loader (an experimental binding), from a worker that knows all sources and picks one by
//! the host: the only way in which it does not load all of them at its start.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use serde_json::{Map, Value};

use super::{Kind, READY_POLL, READY_WITHIN, Site, atoll, free_port, peers};
use crate::api;
use crate::calls::Callee;
use crate::footprint::Footprint;
use crate::hosting::Tenant;
use crate::process::Pinned;
use crate::progress;

const DOMAIN: &str = "localhost";
const WORKERD_CONFIG: &str = r#"using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [(name = "main", worker = (
    modules = [
      (name = "loader.mjs", esModule = embed "loader.mjs"),
      (name = "workers.json", json = embed "workers.json"),
    ],
    bindings = [(name = "LOADER", workerLoader = (id = "bench"))],
    compatibilityDate = "2026-11-01",
  ))],
  sockets = [(name = "http", http = (), service = "main")],
);
"#;

/// A running server of many workers; ended when dropped.
pub(crate) struct Fleet<'a> {
    site: &'a Site,
    kind: Kind,
    config: String,
    running: Running,
    // Removed after the process has ended: fields are dropped in order.
    state: tempfile::TempDir,
}

struct Running {
    process: Pinned,
    address: SocketAddr,
    /// The node's, when it is one.
    admin: Option<SocketAddr>,
}

impl<'a> Fleet<'a> {
    /// Starts a server that has the tenants. `config` is for atoll alone.
    pub(crate) fn start(
        site: &'a Site,
        kind: Kind,
        tenants: &[Tenant],
        config: &str,
    ) -> Result<Self, String> {
        let state = tempfile::tempdir().map_err(|error| error.to_string())?;
        let begin = || match kind {
            Kind::Atoll => start_atoll(site, state.path(), config),
            Kind::Workerd => {
                write_workers(site, state.path(), tenants)?;
                start_workerd(site, state.path())
            }
            Kind::Deno | Kind::Bun => Err("it hosts one program a process".to_owned()),
        };
        let running = begin().map_err(|error| format!("{}: {error}", kind.name()))?;
        let fleet = Self { site, kind, config: config.to_owned(), running, state };
        if kind == Kind::Atoll {
            fleet.deploy(tenants)?;
        }
        Ok(fleet)
    }

    /// Deploys further workers to a node, into accounts that it makes for them.
    pub(crate) fn deploy(&self, tenants: &[Tenant]) -> Result<(), String> {
        let Some(admin) = self.running.admin else {
            return Err("only a node takes further workers".to_owned());
        };
        let bar = progress::bar(tenants.len());
        bar.set_message("workers deployed");
        let mut root = atoll::api(admin, self.state.path())?;
        for tenants in tenants.chunk_by(|one, other| one.account == other.account) {
            let workers: Vec<_> = tenants
                .iter()
                .map(|tenant| (tenant.name.as_str(), tenant.source.as_str()))
                .collect();
            let uploaded = root
                .create_account(&tenants[0].account)
                .and_then(|api| api.upload_all(&workers, || bar.inc(1)));
            uploaded.map_err(|error| format!("deploying: {error}"))?;
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Ends the server and starts it anew: nothing is loaded then.
    pub(crate) fn restart(&mut self) -> Result<(), String> {
        self.running.process.end();
        self.running = match self.kind {
            Kind::Atoll => start_atoll(self.site, self.state.path(), &self.config)?,
            _ => start_workerd(self.site, self.state.path())?,
        };
        Ok(())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.running.address
    }

    pub(crate) fn footprint(&mut self) -> Result<Footprint, String> {
        self.check_alive()?;
        Footprint::of_tree(self.running.process.id())
    }

    /// An error when the server has ended by itself.
    pub(crate) fn check_alive(&mut self) -> Result<(), String> {
        let alive = self.running.process.check_alive();
        alive.map_err(|error| format!("{}: {error}", self.kind.name()))
    }

    /// The sum of a node's metrics that `name` picks; nothing for a peer and for a metric that
    /// this node has not.
    pub(crate) fn metric(&self, name: impl Fn(&str) -> bool) -> Result<Option<f64>, String> {
        let Some(admin) = self.running.admin else { return Ok(None) };
        let response = api::request(admin, "GET /metrics", &[("host", "localhost")], b"")?;
        Ok(sum(&String::from_utf8_lossy(&response.body), name))
    }

    /// Isolates that a node has loaded.
    pub(crate) fn isolates_live(&self) -> Result<Option<f64>, String> {
        self.metric(|name| name == "atoll_isolates_live")
    }

    /// Isolates that a node has evicted.
    pub(crate) fn evictions(&self) -> Result<Option<f64>, String> {
        self.metric(|name| name.contains("evict") && !name.ends_with("_created"))
    }
}

/// The tenants as they are called, on every kind of server alike.
pub(crate) fn callees(tenants: &[Tenant]) -> Vec<Callee> {
    let callee = |tenant: &Tenant| Callee {
        host: format!("{}.{}.{DOMAIN}", tenant.name, tenant.account),
        answer: tenant.answer.clone(),
    };
    tenants.iter().map(callee).collect()
}

fn start_atoll(site: &Site, dir: &Path, config: &str) -> Result<Running, String> {
    let node = atoll::Node::start(site, dir, config)?;
    Ok(Running { process: node.process, address: node.http, admin: Some(node.admin) })
}

fn write_workers(site: &Site, dir: &Path, tenants: &[Tenant]) -> Result<(), String> {
    let sources: Map<String, Value> = tenants
        .iter()
        .map(|tenant| (tenant.name.clone(), Value::String(tenant.source.clone())))
        .collect();
    let write = || {
        std::fs::write(dir.join("workerd.capnp"), WORKERD_CONFIG)?;
        std::fs::write(dir.join("workers.json"), Value::Object(sources).to_string())?;
        std::fs::copy(site.compare.join("loader.mjs"), dir.join("loader.mjs"))
    };
    let written = write().map_err(|error: std::io::Error| error.to_string());
    written.map(drop).map_err(|error| format!("cannot write its configuration: {error}"))
}

fn start_workerd(site: &Site, dir: &Path) -> Result<Running, String> {
    let address = free_port()?;
    let mut command = peers::command(site, Kind::Workerd)?;
    command.current_dir(dir).args(["serve", "--experimental", "workerd.capnp", "config"]);
    command.arg("--socket-addr").arg(format!("http={address}"));
    let mut process = Pinned::start(command, dir)?;
    let give_up = Instant::now() + READY_WITHIN;
    // The loading worker itself answers for a host that it knows no worker of.
    while api::request(address, "GET /", &[("host", "nobody")], b"").is_err() {
        process.check_alive()?;
        if Instant::now() > give_up {
            return Err(format!("no answer within {READY_WITHIN:?}:\n{}", process.tail()));
        }
        std::thread::sleep(READY_POLL);
    }
    Ok(Running { process, address, admin: None })
}

/// Adds up the samples whose metric's name `name` picks; nothing when it picks none.
fn sum(metrics: &str, name: impl Fn(&str) -> bool) -> Option<f64> {
    let values = metrics.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (metric, value) = line.rsplit_once(' ')?;
        let metric = metric.split('{').next().unwrap_or(metric);
        name(metric).then(|| value.parse::<f64>().ok()).flatten()
    });
    values.reduce(|one, other| one + other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_added_up_over_their_labels() {
        let text = "# HELP a_evictions Gone.\na_evictions_total{why=\"x y\"} 2\n\
                    a_evictions_total{why=\"z\"} 3\na_live 7\n# EOF\n";
        for (part, expected) in [("evict", Some(5.0)), ("live", Some(7.0)), ("none", None)] {
            assert_eq!(sum(text, |name| name.contains(part)), expected, "{part}");
        }
    }
}
