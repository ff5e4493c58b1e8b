//! What a variant must keep to beside its control, and what is remembered of one that did not.

use serde::{Deserialize, Serialize};

/// How much worse than the control a variant may be before it is taken back.
#[derive(Clone, Debug, PartialEq)]
pub struct Guardrail {
    /// The most by which its share of failed requests may exceed the control's, in percentage points.
    pub error_points_max: Option<f64>,
    /// The most by which its 99th percentile of latency may exceed the control's, in milliseconds.
    pub p99_ms_max: Option<f64>,
    /// The requests that both must have had before anything is concluded.
    pub requests_min: u64,
}

/// That a variant was taken back, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollBack {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// For people.
    pub why: String,
}
