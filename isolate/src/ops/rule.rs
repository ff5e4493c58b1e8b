//! Ops about rules: what a script decides about a request, and what comes of what was decided.

use deno_core::{OpState, op2};
use deno_error::JsErrorBox;

use super::{ended, invocations};
use crate::invocation::Answer;

/// The longest decision, in bytes of JSON.
const DECISION_BYTES_MAX: usize = 32 << 10;

/// Outcomes that one invocation may tell.
const TRACKED_MAX: u32 = 100;

/// The largest value, either way: sums of squares stay exact enough.
const VALUE_MAX: f64 = 1e12;

/// The longest name of a metric, in bytes.
const METRIC_BYTES_MAX: usize = 64;

/// A script has decided; an empty text says that it has not.
#[op2(fast)]
pub(crate) fn op_rule_decided(
    state: &mut OpState,
    #[smi] key: u32,
    #[string] decision: String,
) -> Result<(), JsErrorBox> {
    if decision.len() > DECISION_BYTES_MAX {
        return Err(JsErrorBox::type_error(format!(
            "the decision has more than {DECISION_BYTES_MAX} bytes as JSON"
        )));
    }
    invocations(state).answer(key, Answer::Decision(decision));
    Ok(())
}

/// An outcome of what was decided about the request.
#[op2(fast)]
pub(crate) fn op_track(
    state: &mut OpState,
    #[smi] key: u32,
    #[string] metric: &str,
    value: f64,
) -> Result<(), JsErrorBox> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if metric.is_empty() || metric.len() > METRIC_BYTES_MAX || !metric.bytes().all(allowed) {
        return Err(JsErrorBox::type_error(format!(
            "a metric is called by 1 to {METRIC_BYTES_MAX} letters, digits, \"-\", \"_\" or \".\""
        )));
    }
    if !value.is_finite() || value.abs() > VALUE_MAX {
        return Err(JsErrorBox::type_error(format!(
            "the value of metric \"{metric}\" is no number from -1e12 to 1e12"
        )));
    }
    let told = invocations(state).with(key, |invocation| {
        if invocation.tracked >= TRACKED_MAX {
            return Err(JsErrorBox::range_error(format!(
                "one invocation may call track {TRACKED_MAX} times: add values up first"
            )));
        }
        invocation.tracked += 1;
        if let Some(facts) = invocation.request.as_ref().and_then(|r| r.facts.as_ref()) {
            facts.track(metric, value);
        }
        Ok(())
    });
    told.unwrap_or_else(|| Err(ended()))
}
