//! `atoll tail` under test: the real command against a node.

use std::process::Command;

use crate::binary::atoll_binary;
use crate::captured::Captured;
use crate::node::Node;

/// A running `atoll tail`. Dropping it kills the process.
pub struct TailSession {
    captured: Captured,
}

impl TailSession {
    /// Follows a worker of the first account, one JSON object for each invocation.
    pub fn start(node: &Node, worker: &str) -> Self {
        let mut command = Command::new(atoll_binary());
        command.args(["tail", worker, "--format", "json"]);
        command.env("ATOLL_API_URL", node.api().base_url());
        command.env("ATOLL_API_TOKEN", node.api().token());
        command.env("ATOLL_ACCOUNT_ID", node.api().account());
        Self { captured: Captured::spawn(&mut command) }
    }

    /// What the command has written so far.
    pub fn output(&self) -> String {
        self.captured.output()
    }
}
