//! A histogram of latencies whose buckets grow with them: a quantile is off by 3 % at most.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Steps between a power of two and the next.
const STEPS: u64 = 16;

/// How many requests took how long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Latency(BTreeMap<u16, u64>);

impl Latency {
    /// Adds requests whose latency falls into a [`bucket`].
    pub(super) fn add(&mut self, bucket: u16, requests: u64) {
        let known = self.0.entry(bucket).or_default();
        *known = known.saturating_add(requests);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (bucket, count) in &other.0 {
            self.add(*bucket, *count);
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.0.values().fold(0, |all, count| all.saturating_add(*count))
    }

    /// Whether every bucket is one that a latency falls into.
    pub(super) fn is_sound(&self) -> bool {
        self.0.keys().all(|found| *found <= bucket(u64::MAX))
    }

    /// What this part of the requests did not exceed, in milliseconds; none without any.
    pub(super) fn quantile_ms(&self, part: f64) -> Option<f64> {
        let wanted = (self.count() as f64 * part).ceil().max(1.0) as u64;
        let mut passed = 0_u64;
        let found = self.0.iter().find(|(_, count)| {
            passed = passed.saturating_add(**count);
            passed >= wanted
        });
        found.map(|(bucket, _)| middle(*bucket) / 1_000.0)
    }
}

/// What a latency falls into.
pub(super) fn bucket(micros: u64) -> u16 {
    if micros < STEPS {
        return micros as u16;
    }
    let power = u64::from(63 - micros.leading_zeros());
    let step = (micros >> (power - 4)) - STEPS;
    u16::try_from((power - 3) * STEPS + step).expect("64 powers of 16 steps fit")
}

/// The middle of a bucket, in microseconds.
fn middle(bucket: u16) -> f64 {
    let bucket = u64::from(bucket);
    if bucket < STEPS {
        return bucket as f64;
    }
    let (power, step) = (bucket / STEPS + 3, bucket % STEPS);
    let width = (power as f64 - 4.0).exp2();
    (STEPS as f64 + step as f64 + 0.5) * width
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_near() {
        let mut latency = Latency::default();
        (1..=10_000).for_each(|micros| latency.add(bucket(micros), 1));
        for (part, expected) in [(0.5, 5.0), (0.9, 9.0), (0.99, 9.9), (1.0, 10.0)] {
            let found = latency.quantile_ms(part).unwrap();
            assert!((found / expected - 1.0).abs() < 0.035, "{part}: {found}");
        }
        assert_eq!(Latency::default().quantile_ms(0.5), None);
        for micros in [0, 15, 16, 17, 1_000, u64::MAX] {
            let mut one = Latency::default();
            one.add(bucket(micros), 1);
            let found = one.quantile_ms(0.99).unwrap() * 1_000.0;
            assert!((found - micros as f64).abs() <= micros as f64 * 0.035, "{micros}: {found}");
            assert!(one.is_sound());
        }
    }
}
