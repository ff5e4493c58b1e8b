//! Why a node does not start.

use std::net::SocketAddr;
use std::path::PathBuf;

use atoll_router::{BindError, GeoError, TlsError};

use crate::dispatch::ThreadError;
use crate::geo::GeoFileError;
use crate::registry::RegistryError;

/// A node could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The registry cannot be used.
    #[error("cannot open the registry: {0}")]
    Registry(#[from] RegistryError),
    /// The connection to the cluster's servers cannot be begun.
    #[error("cannot join the cluster: {0}")]
    Nats(#[from] atoll_kv::log::NatsError),
    /// The KV store cannot be used.
    #[error("cannot open the key-value store {path}: {source}", path = path.display())]
    Kv {
        /// The file.
        path: PathBuf,
        /// Why.
        source: atoll_kv::KvError,
    },
    /// The cluster's registry is there, and its key-value store is not.
    #[error("cannot begin with the cluster's key-value store: {0}")]
    KvLogs(atoll_kv::log::LogError),
    /// The results of experiments cannot be kept.
    #[error("{0}")]
    Experiments(String),
    /// A database of places cannot be used.
    #[error("{0}")]
    Geo(String),
    /// Certificates for other nodes cannot be made.
    #[error(transparent)]
    Peer(#[from] atoll_router::PeerTlsError),
    /// The registry belongs to no cluster yet, though the node has joined.
    #[error("the cluster has not begun: start the node again once NATS can be reached")]
    NoCluster,
    /// A listener for workers cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The admin listener cannot be bound.
    #[error(
        "cannot listen on {address} for the API: {source}: choose another address with --admin"
    )]
    Admin {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The listener for debuggers cannot be bound.
    #[error(
        "cannot listen on {address} for debuggers: {source}: choose another address with --inspect"
    )]
    Inspect {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A thread cannot be started.
    #[error(transparent)]
    Thread(#[from] ThreadError),
    /// V8, a file or a socket.
    #[error("cannot start the node: {0}")]
    Io(#[from] std::io::Error),
    /// The root token is gone or not valid.
    #[error("{path} holds no valid token: restore it, or start with an empty data directory", path = path.display())]
    RootToken {
        /// The file.
        path: PathBuf,
    },
    /// There are too many threads for the processes.
    #[error(
        "{threads} threads are too many for {processes} processes, which have at most {per_process_max} each: give --processes a higher number"
    )]
    Threads {
        /// Asked for.
        threads: usize,
        /// Asked for.
        processes: usize,
        /// The limit of one process.
        per_process_max: usize,
    },
    /// A serving process does not start.
    #[error("a serving process does not start, see the log: {0}")]
    Process(String),
}

impl From<GeoFileError> for NodeError {
    fn from(error: GeoFileError) -> Self {
        Self::Geo(error.to_string())
    }
}

impl From<GeoError> for NodeError {
    fn from(error: GeoError) -> Self {
        Self::Geo(error.to_string())
    }
}
