//! Sets up the node's own log, on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// The log could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The level is no filter.
    #[error(
        "log level {level:?} is not understood: use error, warn, info, debug, trace or a list such as info,atoll_edge_node=debug ({why})"
    )]
    Level {
        /// As configured.
        level: String,
        /// What the parser says.
        why: String,
    },
    /// A log is already set up in this process.
    #[error("the log is already set up")]
    Twice,
}

/// Libraries that stay silent unless they are named. What the client of NATS logs is told by whoever uses it, once
/// and in this program's words. Those of HTTP/2 and 3 warn of frames that they did not expect, as often as a stranger
/// sends them.
const SILENT: [&str; 3] = ["async_nats", "h2", "h3"];

fn filter(level: &str) -> String {
    let names = |target: &str| level.split(',').any(|part| part.trim().starts_with(target));
    let silenced = SILENT.iter().filter(|target| !names(target));
    silenced.fold(level.to_owned(), |level, target| format!("{level},{target}=off"))
}

/// Starts logging for the whole process.
///
/// # Errors
/// Fails when the level cannot be parsed or logging was started before.
pub fn init_log(config: &LogConfig) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(filter(&config.level))
        .map_err(|e| LogError::Level { level: config.level.clone(), why: e.to_string() })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match config.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|_| LogError::Twice)
}
