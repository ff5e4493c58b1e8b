//! `atoll dev` under test: the real command on a copied project.

use std::net::SocketAddr;
use std::process::{Command, ExitStatus};

use tokio_tungstenite::tungstenite;

use crate::binary::atoll_binary;
use crate::captured::Captured;
use crate::client::{Protocol, Request};
use crate::node::Addresses;
use crate::project::Project;
use crate::websocket::WebSocket;

/// A running `atoll dev`. Dropping it kills the process.
pub struct DevSession {
    captured: Captured,
    host: String,
    addresses: Addresses,
}

impl DevSession {
    /// Starts it on free ports and waits for the worker's URL.
    ///
    /// # Panics
    /// Panics when no URL is printed in time.
    pub async fn start(project: &Project) -> Self {
        let mut command = Command::new(atoll_binary());
        command.arg("dev").arg(project.path()).args(["--port", "0", "--https-port", "0"]);
        let mut captured = Captured::spawn(&mut command);
        let (host, port) = captured.line("the worker's URL is printed", worker_url).await;
        let http = SocketAddr::from(([127, 0, 0, 1], port));
        let addresses = Addresses { http, https: http, admin: http, namespace: None };
        Self { captured, host, addresses }
    }

    /// A GET of the worker.
    pub fn request(&self, path: &str) -> Request {
        Request::new(self.addresses.clone(), &self.host, path)
    }

    /// A WebSocket to the worker.
    ///
    /// # Errors
    /// Fails when the worker answers with something else.
    pub async fn websocket(&self, path: &str) -> Result<WebSocket, tungstenite::Error> {
        WebSocket::connect_to(self.addresses.clone(), &self.host, path, Protocol::Http1, "").await
    }

    /// What the command has written so far.
    pub fn output(&self) -> String {
        self.captured.output()
    }

    /// Ctrl-C, then the status that it ends with.
    pub async fn interrupt(&mut self) -> ExitStatus {
        self.captured.signal("INT");
        self.captured.exit_status().await
    }
}

/// The host and port of a line that shows `http://<host>:<port>`.
fn worker_url(line: &str) -> Option<(String, u16)> {
    let (_, url) = line.split_once("http://")?;
    let authority = url.split(['/', ' ']).next()?;
    let (host, port) = authority.split_once(':')?;
    host.ends_with(".localhost").then_some(())?;
    Some((host.to_owned(), port.parse().ok()?))
}
