//! Runs workers in V8 isolates. Knows no HTTP server, no routes, no KV engine.

mod outcome;

pub use outcome::{Exception, LogLevel, LogLine, Outcome};
