//! What one isolate and one invocation may use.

use std::time::Duration;

/// Limits of an instance and of each invocation in it.
#[derive(Clone, Debug)]
pub struct Limits {
    /// CPU time of start-up (compiling and running the script's top level).
    pub startup_cpu: Duration,
    /// CPU time of one invocation.
    pub cpu: Duration,
    /// Wall time until the handler has answered.
    pub wall: Duration,
    /// CPU time of a `rule` handler.
    pub rule_cpu: Duration,
    /// Wall time until a `rule` handler has decided.
    pub rule_wall: Duration,
    /// Wall time of `waitUntil` work after the response is complete or the client has left.
    pub wait_until: Duration,
    /// V8 heap, `ArrayBuffer` contents and WebAssembly memories together, in bytes.
    pub memory_bytes_max: usize,
    /// Subrequests of one invocation: fetches and KV operations.
    pub subrequests_max: u32,
    /// Connections to the internet that one invocation has open at once.
    pub connections_max: usize,
    /// Console output of one invocation, in bytes.
    pub log_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            startup_cpu: Duration::from_secs(1),
            cpu: Duration::from_secs(30),
            wall: Duration::from_secs(60),
            rule_cpu: Duration::from_millis(5),
            rule_wall: Duration::from_millis(50),
            wait_until: Duration::from_secs(30),
            memory_bytes_max: 128 << 20,
            subrequests_max: 1_000,
            connections_max: 6,
            log_bytes_max: 256 << 10,
        }
    }
}

/// The most that all JS heaps of a process may be granted, in bytes. They share a cage of 4 GiB, and a third
/// of it must stay free for what an isolate holds for a moment while it is being ended.
pub const HEAPS_BYTES_CEILING: usize = (4 << 30) / 3 * 2;
