//! What comes of what rules decide: who saw which variant, what they did then, and how requests fared. Serving
//! processes tally, the supervisor keeps, and all nodes of a cluster keep the same. It decides about no request.

mod batch;
mod guardrails;
mod keeper;
mod latency;
mod notes;
mod results;
mod statistics;
mod store;
mod tally;
#[cfg(test)]
mod tests;

pub(crate) use batch::Batch;
pub(crate) use guardrails::watch_guardrails;
pub(crate) use keeper::Experiments;
pub(crate) use store::StoreError;
pub(crate) use tally::{Exposure, Flush, Recorder, Tally};

/// What those are called who got nothing, where a rule's only variant is compared with them.
pub(crate) const NOBODY: &str = "nobody";
