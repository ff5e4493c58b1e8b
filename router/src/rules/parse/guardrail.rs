//! What variants are measured by.

use serde_json::Value;

use super::super::guardrail::Guardrail;
use super::super::rule_set::Overlay;
use super::Builder;
use super::reader::{Member, Reader, Walk, unknown};

/// Requests that both variants must have had, unless the guardrail says otherwise.
const REQUESTS_MIN: f64 = 500.0;
/// The fewest that a guardrail may ask for: less says nothing of a 99th percentile or a rate.
const REQUESTS_LEAST: f64 = 20.0;

impl Builder {
    /// The place of the variant that a rule calls its control; the first one unless it says so.
    pub(super) fn control(&mut self, members: &[Member<'_>], variants: &[&str]) -> usize {
        let control = self.reader.member(members, "control", |reader, value| {
            let name = reader.text(value)?;
            let place = variants.iter().position(|variant| *variant == name);
            if place.is_none() {
                reader.report(unknown("variant", &name, variants));
            }
            place
        });
        control.unwrap_or(0)
    }
}

impl Reader {
    /// `{ error_rate = 1.5, p99_ms = 100, requests = 500 }`.
    pub(super) fn guardrail(&mut self, value: &Value) -> Option<Guardrail> {
        let members = self.object(value, &["error_rate", "p99_ms", "requests"]);
        let error_points_max = self.member(&members, "error_rate", Self::percent);
        let p99_ms_max = self.member(&members, "p99_ms", |r, value| r.number(value, 0.0, 1e9));
        let requests = self.member(&members, "requests", |reader, value| {
            reader.number(value, REQUESTS_LEAST, 1e12)
        });
        if error_points_max.is_none() && p99_ms_max.is_none() {
            self.report(
                "a guardrail needs `error_rate` (percentage points over the control) or `p99_ms` \
                 (milliseconds over the control)",
            );
        }
        let requests_min = requests.unwrap_or(REQUESTS_MIN) as u64;
        Some(Guardrail { error_points_max, p99_ms_max, requests_min })
    }
}

/// A bit for each variant of a rule that was taken back.
pub(super) fn rolled_back(overlay: &Overlay, rule: &str, variants: &[&str]) -> u64 {
    let Some(taken) = overlay.rolled_back.get(rule) else { return 0 };
    let bit =
        |(place, name): (usize, &&str)| if taken.contains_key(*name) { 1 << place } else { 0 };
    variants.iter().take(super::VARIANTS_MAX).enumerate().map(bit).sum()
}
