//! The seam between the API and the isolates: does a script start?

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::registry::Version;

/// Starts scripts before they are accepted.
pub trait ScriptCheck: Send + Sync {
    /// Evaluates the version's top level under the start-up limits and finds its handlers.
    fn check<'a>(&'a self, version: &'a Version) -> BoxFuture<'a, Result<CheckReport, CheckError>>;
}

/// A script that starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// The handlers that it exports (`fetch`, `scheduled`).
    pub handlers: Vec<String>,
    /// How long its start took, in milliseconds.
    pub startup_ms: u64,
}

/// A script that does not start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}{}", stack.as_ref().map(|stack| format!("\n{stack}")).unwrap_or_default())]
pub struct CheckError {
    /// What went wrong, with the position where one is known.
    pub message: String,
    /// The stack of an uncaught exception.
    pub stack: Option<String>,
}
