//! How an invocation ends, and what it leaves in the log.

use serde::{Deserialize, Serialize};

/// How an invocation ended: exactly one per invocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The handler ran to its end.
    Ok,
    /// The handler threw, rejected, or returned what is no response.
    Exception,
    /// The CPU limit was reached.
    ExceededCpu,
    /// The memory limit was reached.
    ExceededMemory,
    /// The wall-time limit was reached, or the handler's promise can never settle.
    ExceededWall,
    /// The client left before the response was complete.
    Canceled,
    /// The node refused the work for want of capacity.
    Overloaded,
    /// The worker, or its account, was called too often.
    RateLimited,
    /// The node itself failed.
    Internal,
}

impl Outcome {
    /// The name in logs and metrics (`exceeded-cpu`).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Exception => "exception",
            Self::ExceededCpu => "exceeded-cpu",
            Self::ExceededMemory => "exceeded-memory",
            Self::ExceededWall => "exceeded-wall",
            Self::Canceled => "canceled",
            Self::Overloaded => "overloaded",
            Self::RateLimited => "rate-limited",
            Self::Internal => "internal",
        }
    }
}

/// The severity of a console line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// `console.debug`
    Debug,
    /// `console.info`
    Info,
    /// `console.log`
    Log,
    /// `console.warn`
    Warn,
    /// `console.error`
    Error,
}

/// One console line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// The severity.
    pub level: LogLevel,
    /// The arguments, formatted and joined by spaces.
    pub message: String,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
}

/// An uncaught exception.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exception {
    /// The error's class name (`TypeError`).
    pub name: String,
    /// The error's message.
    pub message: String,
    /// The stack, positions mapped back to the source where a source map is known.
    pub stack: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
}
