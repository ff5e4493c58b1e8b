//! What the load generator of stores is told, and what it answers.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::histogram::Histogram;

/// What to do to which store, and for how long.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) target: Target,
    pub(crate) operation: Operation,
    pub(crate) value_bytes: usize,
    /// Keys that operations are spread over.
    pub(crate) keys: usize,
    /// Operations under way at once, each of a client with a connection of its own.
    pub(crate) clients: usize,
    pub(crate) warmup_ms: u64,
    pub(crate) window_ms: u64,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Operation {
    Get,
    Put,
    /// Each key is written once, and nothing is measured.
    Fill,
}

/// Where a store is, and what it speaks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Target {
    /// A worker over HTTP/1.1.
    Worker { address: SocketAddr, host: String },
    /// RESP.
    Redis { address: SocketAddr },
    /// Streams of NATS JetStream: a publish that is acknowledged, a direct get.
    JetStream { urls: Vec<String>, streams: usize },
    /// The embedded engine, in the generator's own process.
    Sqlite { directory: PathBuf },
}

/// What the generator saw.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) latencies: Histogram,
    pub(crate) per_second: f64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
}

impl Operation {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Fill => "fill",
        }
    }
}

/// The name of a key.
pub(crate) fn key(number: usize) -> String {
    format!("key-{number:07}")
}
