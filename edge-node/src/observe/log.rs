//! Sets up the node's own log, on standard error.

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

/// Starts logging for the whole process.
///
/// # Errors
/// Fails when the level cannot be parsed or logging was started before.
pub fn init_log(config: &LogConfig) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(&config.level)
        .map_err(|e| LogError::Level { level: config.level.clone(), why: e.to_string() })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|_| LogError::Twice)
}
