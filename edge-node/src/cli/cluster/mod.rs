//! `atoll cluster dev`: a whole cluster on this machine, for trying it out. Its servers and nodes are child
//! processes; nothing here runs workers or keeps state.

mod child;
mod dev;
mod plan;
mod program;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

pub(crate) use child::WithParentArgs;
pub(crate) use child::become_child;

use super::error::CliError;
use super::session::Session;

/// Where a cluster is kept unless told otherwise.
pub(crate) const DATA_DIR: &str = "atoll-cluster";
/// Nodes of one machine, at most.
const NODES_MAX: u16 = 16;

/// Commands of `atoll cluster`.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Start a whole cluster on this machine, for trying it out
    Dev(ClusterDevArgs),
}

/// Options of `atoll cluster dev`.
#[derive(Debug, Args)]
pub struct ClusterDevArgs {
    /// Nodes [default: as many as there were, else 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(NODES_MAX)))]
    pub nodes: Option<u16>,
    /// NATS servers, 1 or 3 [default: as many as there were, else 1]
    #[arg(long, value_name = "N", value_parser = ["1", "3"])]
    pub servers: Option<String>,
    /// Where the cluster is kept
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    pub data: PathBuf,
    /// The nodes' regions, in turn
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "eu,us,asia")]
    pub regions: Vec<String>,
    /// The first node's port for HTTP; the others follow, and where one is taken another is chosen
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// The first node's port for HTTPS
    #[arg(long, default_value_t = 8443)]
    pub https_port: u16,
    /// The first node's port for the API
    #[arg(long, default_value_t = super::local_node::ADMIN_PORT)]
    pub admin_port: u16,
    /// The first NATS server's port
    #[arg(long, default_value_t = 4222)]
    pub nats_port: u16,
    /// The NATS server's program [default: the one on the PATH, else one that pip installs]
    #[arg(long, value_name = "PATH")]
    pub nats_server: Option<PathBuf>,
}

/// Runs a command of `atoll cluster`.
pub(crate) async fn run(session: &Session, command: ClusterCommand) -> Result<(), CliError> {
    match command {
        ClusterCommand::Dev(args) => dev::run(session, args).await,
    }
}

/// The data directories of a cluster's nodes on this machine, in their order.
pub(crate) fn node_dirs(cluster: &Path) -> impl Iterator<Item = PathBuf> {
    (1..=NODES_MAX).map(|number| cluster.join(plan::node_name(number)))
}
