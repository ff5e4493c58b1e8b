//! Nodes that this process runs: the one place where the command line meets [`crate::node`] and
//! [`crate::supervisor`].

use std::io::Write;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use ipnet::IpNet;
use tokio::sync::{broadcast, watch};

use super::api::Api;
use super::args::{ArchiveArgs, ServeArgs};
use super::client::Client;
use super::environment::Environment;
use super::error::CliError;
use super::{restart, stop};
use crate::config::{ClusterConfig, LimitsConfig, LogConfig, NodeConfig, OutboundConfig};
use crate::node::kept::Kept;
use crate::node::{ConsoleLine, Node};
use crate::observe::{Listener, init_log};
use crate::supervisor::Supervisor;

/// Where a node on this machine serves its API unless told otherwise.
pub(crate) const ADMIN_PORT: u16 = 8787;

/// How long an invocation may take while it may be debugged: a day, as people step through it.
const DEBUGGED_MS_MAX: u64 = 24 * 3_600_000;

/// What a node for development or demonstration is told.
#[derive(Clone, Debug)]
pub(crate) struct LocalNodeOptions {
    pub(crate) data_dir: PathBuf,
    pub(crate) http_port: u16,
    pub(crate) https_port: u16,
    /// Where the API listens; 0 lets the system choose.
    pub(crate) admin_port: u16,
    /// Where debuggers may attach.
    pub(crate) inspect: Option<SocketAddr>,
    /// Networks that workers may reach beside public ones.
    pub(crate) reach: Vec<IpNet>,
}

/// A running node.
pub(crate) struct LocalNode(Node);

/// `atoll serve`: runs a node until it is told to stop.
pub(crate) fn serve(args: ServeArgs, environment: &Environment) -> Result<(), CliError> {
    let ServeArgs { check, take_over, .. } = args;
    let config = configured(args)?;
    if check {
        return Ok(());
    }
    let failed = |error: &dyn std::fmt::Display| CliError::Failed(error.to_string());
    init_log(&config.log).map_err(|error| failed(&error))?;
    let runtime = tokio::runtime::Runtime::new().map_err(|error| failed(&error))?;
    runtime.block_on(async {
        // Before anything that takes time: without it the signal would end the program.
        let mut restart = restart::listen().map_err(|error| failed(&error))?;
        let kept = match take_over {
            true => Kept::receive().await.map_err(|error| failed(&error))?,
            false => Kept::default(),
        };
        let node = Supervisor::start(config, environment.of_children.clone(), kept)
            .await
            .map_err(|error| failed(&error))?;
        let (http, https, admin) = (node.http_addr(), node.https_addr(), node.admin_addr());
        // Whoever starts a node reads this line for its ports; that nobody does is no reason to stop.
        let mut stdout = std::io::stdout();
        let _ = writeln!(stdout, "listening http={http} https={https} admin={admin}");
        let _ = stdout.flush();
        loop {
            tokio::select! {
                () = stop::asked() => {
                    tracing::info!("draining");
                    node.drain().await;
                    return Ok(());
                }
                _ = restart.recv() => match restart::check(&environment.command_line).await {
                    Ok(()) => break,
                    Err(error) => tracing::error!(error, "the node is not restarted, and goes on"),
                },
            }
        }
        tracing::info!("restarting: connections wait until accepted work is done");
        let kept = node.drain_but_listen().await;
        Err(failed(&restart::replace(&environment.command_line, kept).await))
    })
}

/// The configuration of a node whose state is exported or imported.
pub(crate) fn configured_for_archive(args: &ArchiveArgs) -> Result<NodeConfig, CliError> {
    let ArchiveArgs { file: _, config, data, nats, name } = args.clone();
    configured(ServeArgs { config, data, nats, name, ..ServeArgs::default() })
}

fn configured(args: ServeArgs) -> Result<NodeConfig, CliError> {
    let mut config = match &args.config {
        Some(path) => {
            NodeConfig::read(path).map_err(|error| CliError::Failed(error.to_string()))?
        }
        None => NodeConfig::default(),
    };
    let ServeArgs {
        config: _,
        data,
        http,
        https,
        admin,
        domain,
        threads,
        processes,
        nats,
        name,
        region,
        peer,
        check: _,
        take_over: _,
    } = args;
    config.data_dir = data.unwrap_or(config.data_dir);
    config.http = http.unwrap_or(config.http);
    config.https = https.unwrap_or(config.https);
    config.admin = admin.unwrap_or(config.admin);
    config.domain = domain.unwrap_or(config.domain);
    config.threads = threads.or(config.threads);
    config.processes = processes.or(config.processes);
    config.cluster = clustered(config.cluster, nats, name, region, peer)?;
    Ok(config)
}

/// The cluster that the file and the options lead to, if they lead to one.
fn clustered(
    file: Option<ClusterConfig>,
    nats: Vec<String>,
    name: Option<String>,
    region: Option<String>,
    peer: Option<SocketAddr>,
) -> Result<Option<ClusterConfig>, CliError> {
    if file.is_none() && nats.is_empty() {
        return match name.or(region).is_some() || peer.is_some() {
            false => Ok(None),
            true => Err(CliError::Usage(
                "--name, --region and --peer are of a cluster's node: say which with --nats"
                    .to_owned(),
            )),
        };
    }
    let mut cluster = file.unwrap_or_default();
    if !nats.is_empty() {
        cluster.nats = nats;
    }
    cluster.name = name.unwrap_or(cluster.name);
    cluster.region = region.unwrap_or(cluster.region);
    cluster.peer = peer.or(cluster.peer);
    cluster.check().map_err(CliError::Usage)?;
    Ok(Some(cluster))
}

impl LocalNode {
    pub(crate) async fn start(options: LocalNodeOptions) -> Result<Self, CliError> {
        let LocalNodeOptions { data_dir, http_port, https_port, admin_port, inspect, reach } =
            options;
        let local = |port| SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, port));
        let config = NodeConfig {
            data_dir,
            http: local(http_port),
            https: local(https_port),
            admin: local(admin_port),
            inspect,
            development: true,
            threads: inspect.map(|_| NonZeroUsize::MIN),
            limits: inspect.map_or_else(LimitsConfig::default, |_| debugged_limits()),
            outbound: OutboundConfig { allow: reach },
            log: LogConfig { level: "warn".to_owned(), ..LogConfig::default() },
            ..NodeConfig::default()
        };
        // The log of a process that runs a second node goes on as it was set up first.
        let _ = init_log(&config.log);
        Node::start(config).await.map(Self).map_err(|error| CliError::Failed(error.to_string()))
    }

    /// A client of the node's own API.
    pub(crate) fn api(&self) -> Api {
        let base = format!("http://{}", self.0.admin_addr());
        let client = Client::new(&base, self.0.root_token());
        Api { client, account: self.0.account_id().to_string() }
    }

    /// Every finished invocation.
    pub(crate) fn reports(&self) -> Listener {
        self.0.reports()
    }

    /// Console lines as they are written.
    pub(crate) fn console(&self) -> broadcast::Receiver<ConsoleLine> {
        self.0.console()
    }

    /// Where debuggers may attach, when they may.
    pub(crate) fn debugger(&self) -> Option<watch::Receiver<Option<String>>> {
        self.0.debugger()
    }

    pub(crate) async fn drain(self) {
        self.0.drain().await;
    }
}

/// Wall time goes on at a breakpoint, CPU time does not.
fn debugged_limits() -> LimitsConfig {
    LimitsConfig {
        wall_ms_max: DEBUGGED_MS_MAX,
        wait_until_ms_max: DEBUGGED_MS_MAX,
        ..LimitsConfig::default()
    }
}

/// The port itself when it is free, else 0, which lets the system choose.
pub(crate) fn free_port(port: u16) -> u16 {
    match std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => port,
        Err(_) => 0,
    }
}
