//! The harness of the system tests: it starts the real `atoll` binary, deploys fixtures to it and
//! talks to it as a client does. It knows the public interface and nothing behind it.
//!
//! A test takes a node of its own with [`Node::start`], or one that the tests of a file share with
//! [`SharedNode`]. Every wait is bounded, every process is ended by its id, and what a node wrote
//! is shown when a test fails.

#![forbid(unsafe_code)]

mod acme;
mod api;
mod binary;
mod captured;
mod client;
mod clock;
mod cluster;
mod dev;
mod echo;
mod hex;
mod history;
mod http3;
mod metrics;
mod netns;
mod network;
mod node;
mod origin;
mod ports;
mod process;
mod project;
mod proxy;
mod script;
mod shared;
mod tail;
mod tls;
mod websocket;

pub use acme::{AcmeOptions, AcmeServer, Door};
pub use api::{Api, ApiError};
pub use binary::atoll_binary;
pub use client::{
    KeepAlive, Protocol, Reply, Request, RequestBody, StreamedBody, connect_tls, next_chunk,
    trusting_config,
};
pub use clock::{POLL, WAIT_MAX, eventually, eventually_within};
pub use cluster::{ClusterNode, ClusterPlace, ClusterSession, all_ended};
pub use dev::DevSession;
pub use echo::{Digest, Seed};
pub use history::{
    Action, Begun, Case, History, Holding, Operation, Outcome, Replica, Violation, check,
};
pub use metrics::Metrics;
pub use netns::Namespace;
pub use network::{Network, Way};
pub use node::{Addresses, Node, NodeOptions, ServingProcess};
pub use origin::{Answer, Origin};
pub use ports::free_port;
pub use process::Process;
pub use project::{CommandOutput, Project, country_database};
pub use proxy::{FaultProxy, Link};
pub use script::{ModuleType, Script, fixture, fixture_bytes, fixture_path};
pub use shared::{NodeGuard, SharedNode};
pub use tail::TailSession;
pub use tls::{Authority, Issued, Session, TlsClient};
pub use websocket::{EchoServer, WebSocket, Wire};

/// A runtime error that a test reports by its text.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
