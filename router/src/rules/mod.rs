//! Rules: what becomes of a request before any code of a worker runs. Compiled once, then evaluated without I/O,
//! without a clock of its own, and without an isolate.
//!
//! A [`RuleSet`] is made of a document (docs/rules.md has its shape) and of what the node adds to it, an
//! [`Overlay`]. Evaluating a [`Visit`] leads to a [`Decision`], and that to [`Effects`]. Whoever asks carries
//! them out: nothing here answers a request.

mod action;
mod allotment;
mod condition;
mod decision;
mod device;
mod error;
mod facts;
mod guardrail;
mod instant;
mod language;
mod murmur3;
mod parse;
mod preview;
mod rule;
mod rule_set;
mod schedule;
mod script;
mod template;
#[cfg(test)]
mod tests;
mod visit;

pub use action::{Effects, HeaderChange, PathEffect, Picked};
pub use decision::{Assigned, Decision, LeftOut, Outcome, Reason, Trace};
pub use error::{RuleProblem, RulesError, Step};
pub use facts::UNIT_COOKIE;
pub use guardrail::{Guardrail, RollBack};
pub use instant::parse_instant;
pub use murmur3::{BUCKETS, bucket, unit_hash};
pub use parse::{LAYERS_MAX, RULES_MAX, VARIANTS_MAX};
pub use preview::{EXPLAIN, PREVIEW, PREVIEW_TOKEN};
pub use rule::{Preview, Rule, State, Variant};
pub use rule_set::{Overlay, RuleHistory, RuleSet};
pub use script::{SCRIPT, Scripted};
pub use visit::Visit;
