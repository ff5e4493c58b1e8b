//! Nodes in this process: the one place where the command line meets [`crate::node`].

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::broadcast;

use super::api::Api;
use super::args::ServeArgs;
use super::client::Client;
use super::error::CliError;
use crate::report::InvocationReport;

/// What a node for development or demonstration is told.
#[derive(Clone, Debug)]
pub(crate) struct LocalNodeOptions {
    pub(crate) data_dir: PathBuf,
    pub(crate) http_port: u16,
    pub(crate) https_port: u16,
    pub(crate) inspect: Option<SocketAddr>,
}

/// A running node.
pub(crate) struct LocalNode {}

/// `atoll serve`: runs a node until it is told to stop.
pub(crate) fn serve(args: ServeArgs) -> Result<(), CliError> {
    let _ = args;
    Err(unavailable())
}

impl LocalNode {
    pub(crate) async fn start(options: LocalNodeOptions) -> Result<Self, CliError> {
        let _ = (options.data_dir, options.http_port, options.https_port, options.inspect);
        Err(unavailable())
    }

    /// A client of the node's own API.
    pub(crate) fn api(&self) -> Api {
        Api { client: Client::new("", ""), account: String::new() }
    }

    pub(crate) fn reports(&self) -> broadcast::Receiver<Arc<InvocationReport>> {
        broadcast::channel(1).1
    }

    pub(crate) async fn drain(self) {}
}

fn unavailable() -> CliError {
    CliError::Failed("this build has no node".into())
}

/// The port itself when it is free, else 0, which lets the system choose.
pub(crate) fn free_port(port: u16) -> u16 {
    match std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => port,
        Err(_) => 0,
    }
}
