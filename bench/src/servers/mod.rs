//! The servers under test: how each is found, started with a question's handler, and known to be
//! ready.

mod atoll;
mod cluster;
mod fleet;
mod front_doors;
mod peers;
mod redis;
mod responder;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::Serialize;

use crate::api;
use crate::process::Pinned;
use crate::questions::Question;

pub(crate) use atoll::{PageNode, StoreNode, deploy_store};
pub(crate) use cluster::{Cluster, Member};
pub(crate) use fleet::{Fleet, callees};
pub(crate) use front_doors::{Door, FrontDoor, Identity, Page};
pub(crate) use redis::Redis;
pub(crate) use responder::{ANSWER as RESPONDER_ANSWER, run as run_responder};

/// How long a server may take until it gives the right answer.
const READY_WITHIN: Duration = Duration::from_secs(30);
const READY_POLL: Duration = Duration::from_millis(20);

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Atoll,
    Workerd,
    Deno,
    Bun,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Atoll => "atoll",
            Self::Workerd => "workerd",
            Self::Deno => "deno",
            Self::Bun => "bun",
        }
    }

    /// Whether one process of it hosts many workers apart from each other.
    pub(crate) fn hosts_many(self) -> bool {
        matches!(self, Self::Atoll | Self::Workerd)
    }
}

/// Where things lie, and the core that servers run on.
#[derive(Clone)]
pub(crate) struct Site {
    /// The directory `bench/compare`.
    pub(crate) compare: PathBuf,
    /// The `atoll` binary.
    pub(crate) atoll: PathBuf,
    /// Serving processes of a node, of one thread each.
    pub(crate) processes: usize,
    pub(crate) core: usize,
}

/// A running server that has given the right answer.
pub(crate) struct Server {
    process: Pinned,
    pub(crate) address: SocketAddr,
    /// The Host header that reaches the handler.
    pub(crate) host: String,
    // Removed after the process has ended: fields are dropped in order.
    _state: tempfile::TempDir,
}

impl Site {
    /// Starts a server of `kind` with the question's handler and waits for its right answer.
    pub(crate) fn start(&self, kind: Kind, question: &Question) -> Result<Server, String> {
        let explain = |error| format!("{} on {}: {error}", kind.name(), question.name);
        let state = tempfile::tempdir().map_err(|error| explain(error.to_string()))?;
        let mut server = match kind {
            Kind::Atoll => atoll::start(self, question, state),
            Kind::Workerd | Kind::Deno | Kind::Bun => peers::start(self, kind, question, state),
        }
        .map_err(explain)?;
        server.await_answer(question).map_err(explain)?;
        Ok(server)
    }

    /// Starts the built-in responder, the fastest server that the generator can be tried against.
    pub(crate) fn start_responder(&self) -> Result<Server, String> {
        let state = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut server = responder::start(self, state)?;
        server.await_ready(|body| body == RESPONDER_ANSWER)?;
        Ok(server)
    }

    /// A file that the question's handler lies in.
    fn handler(&self, question: &Question) -> PathBuf {
        self.compare.join("handlers").join(question.handler).with_extension("mjs")
    }
}

impl Server {
    fn new(process: Pinned, address: SocketAddr, host: &str, state: tempfile::TempDir) -> Self {
        Self { process, address, host: host.to_owned(), _state: state }
    }

    fn await_answer(&mut self, question: &Question) -> Result<(), String> {
        self.await_ready(|body| question.answer.is(body))
    }

    fn await_ready(&mut self, right: impl Fn(&[u8]) -> bool) -> Result<(), String> {
        let give_up = Instant::now() + READY_WITHIN;
        loop {
            let seen = match api::request(self.address, "GET /", &[("host", &self.host)], b"") {
                Ok(response) if response.status == 200 && right(&response.body) => return Ok(()),
                Ok(response) => format!(
                    "status {} and {} bytes: {:.200}",
                    response.status,
                    response.body_bytes,
                    String::from_utf8_lossy(&response.body)
                ),
                Err(error) => error,
            };
            self.process.check_alive()?;
            if Instant::now() > give_up {
                return Err(format!(
                    "no right answer within {READY_WITHIN:?}; the last was: {seen}\n{}",
                    self.process.tail()
                ));
            }
            std::thread::sleep(READY_POLL);
        }
    }
}

/// A port that was free a moment ago, for servers that cannot say which one they took.
fn free_port() -> Result<SocketAddr, String> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(|error| format!("no free port: {error}"))
}

/// An error that names what is missing and the command that brings it.
fn require(path: &Path, remedy: &str) -> Result<(), String> {
    if path.exists() {
        return Ok(());
    }
    Err(format!("{} is missing; run `{remedy}`", path.display()))
}

/// What the server calls its version.
pub(crate) fn version(site: &Site, kind: Kind) -> Result<String, String> {
    match kind {
        Kind::Atoll => Ok("this commit".to_owned()),
        Kind::Workerd | Kind::Deno | Kind::Bun => peers::version(&site.compare, kind),
    }
}
