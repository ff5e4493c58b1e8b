//! A latency histogram with logarithmic buckets: constant memory, about 1.5 % of error.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Each power of two of nanoseconds is split into this many buckets.
const SUB_BUCKETS: usize = 64;
const SUB_BITS: u32 = SUB_BUCKETS.trailing_zeros();
const BUCKETS: usize = (u64::BITS as usize) * SUB_BUCKETS;

/// Counts of latencies by bucket. As JSON it is the list of its buckets that are not empty.
#[derive(Clone, Serialize, Deserialize)]
#[serde(into = "Vec<(usize, u64)>", from = "Vec<(usize, u64)>")]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
    }

    /// Adds what another has recorded.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The latency that `fraction` (0 to 1) of the records do not exceed; zero without records.
    pub(crate) fn quantile(&self, fraction: f64) -> Duration {
        let rank = ((self.total as f64) * fraction).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank && *count > 0 {
                return Duration::from_nanos(lower_bound(index));
            }
        }
        Duration::ZERO
    }

    /// As `quantile`, in milliseconds.
    pub(crate) fn quantile_ms(&self, fraction: f64) -> f64 {
        self.quantile(fraction).as_secs_f64() * 1_000.0
    }
}

impl From<Histogram> for Vec<(usize, u64)> {
    fn from(histogram: Histogram) -> Self {
        let counts = histogram.counts.into_iter().enumerate();
        counts.filter(|(_, count)| *count > 0).collect()
    }
}

impl From<Vec<(usize, u64)>> for Histogram {
    fn from(buckets: Vec<(usize, u64)>) -> Self {
        let mut histogram = Self::new();
        for (index, count) in buckets {
            if let Some(bucket) = histogram.counts.get_mut(index) {
                *bucket += count;
                histogram.total += count;
            }
        }
        histogram
    }
}

fn bucket(nanos: u64) -> usize {
    let magnitude = u64::BITS - nanos.leading_zeros();
    if magnitude <= SUB_BITS {
        return nanos as usize;
    }
    let shift = magnitude - SUB_BITS - 1;
    let sub = (nanos >> shift) as usize - SUB_BUCKETS;
    (shift as usize + 1) * SUB_BUCKETS + sub
}

fn lower_bound(index: usize) -> u64 {
    if index < SUB_BUCKETS {
        return index as u64;
    }
    let shift = index / SUB_BUCKETS - 1;
    ((index % SUB_BUCKETS + SUB_BUCKETS) as u64) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_value_within_its_precision() {
        for nanos in [0, 1, 63, 64, 65, 127, 128, 1_000, 123_456, 15_000_000, u64::MAX >> 1] {
            let low = lower_bound(bucket(nanos));
            assert!(low <= nanos, "{nanos} lies below its bucket {low}");
            assert!(nanos - low <= nanos / SUB_BUCKETS as u64, "{nanos} lies far above {low}");
        }
    }

    #[test]
    fn quantiles_follow_the_records() {
        let mut histogram = Histogram::new();
        for micros in 1..=1_000 {
            histogram.record(Duration::from_micros(micros));
        }
        for (fraction, expected) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1_000.0)] {
            let micros = histogram.quantile(fraction).as_nanos() as f64 / 1_000.0;
            let error = (micros - expected).abs() / expected;
            assert!(error < 0.02, "quantile {fraction} is {micros}, not {expected}");
        }
    }

    #[test]
    fn a_histogram_survives_json_and_merging() {
        let mut histogram = Histogram::new();
        for millis in [1, 2, 3] {
            histogram.record(Duration::from_millis(millis));
        }
        let json = serde_json::to_string(&histogram).unwrap();
        let mut read: Histogram = serde_json::from_str(&json).unwrap();
        assert_eq!(read.quantile(0.5), histogram.quantile(0.5));
        read.merge(&histogram);
        assert_eq!((read.total(), read.quantile(1.0)), (6, histogram.quantile(1.0)));
    }
}
