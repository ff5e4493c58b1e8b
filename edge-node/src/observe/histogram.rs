//! A histogram of durations that threads count into without a lock and that processes can add up.

use std::sync::atomic::{AtomicU64, Ordering};

use atoll_isolate::Places;
use prometheus_client::encoding::{MetricEncoder, NoLabelSet};
use serde::{Deserialize, Serialize};

/// What was counted, bucket by bucket; the last bucket has no bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HistogramCounts {
    buckets: Vec<u64>,
    sum_us: u64,
}

impl HistogramCounts {
    pub(super) fn is_empty(&self) -> bool {
        self.buckets.iter().all(|count| *count == 0)
    }
}

/// Counts of durations by upper bound.
pub(super) struct Histogram {
    bounds_us: &'static [u64],
    buckets: Box<[AtomicU64]>,
    sum_us: AtomicU64,
}

impl Histogram {
    /// Makes an empty one with these upper bounds, in rising order.
    pub(super) fn new(bounds_us: &'static [u64]) -> Self {
        let buckets = (0..=bounds_us.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds_us, buckets, sum_us: AtomicU64::new(0) }
    }

    pub(super) fn observe(&self, value_us: u64) {
        let at = self.bounds_us.partition_point(|bound| *bound < value_us);
        self.buckets[at].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(value_us, Ordering::Relaxed);
    }

    /// Adds where short durations are counted.
    pub(super) fn add_places(&self, places: &mut Places) {
        places.value(&self.buckets[0]);
    }

    /// Takes out what was counted.
    pub(super) fn drain(&self) -> HistogramCounts {
        HistogramCounts {
            buckets: self.buckets.iter().map(|count| count.swap(0, Ordering::Relaxed)).collect(),
            sum_us: self.sum_us.swap(0, Ordering::Relaxed),
        }
    }

    /// Adds what another process counted.
    pub(super) fn add(&self, counts: &HistogramCounts) {
        for (bucket, count) in self.buckets.iter().zip(&counts.buckets) {
            bucket.fetch_add(*count, Ordering::Relaxed);
        }
        self.sum_us.fetch_add(counts.sum_us, Ordering::Relaxed);
    }

    pub(super) fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let bounds = self.bounds_us.iter().map(|bound| *bound as f64 / 1e6);
        let counts = self.buckets.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.chain([f64::MAX]).zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_below_their_bound_and_add_up() {
        let histogram = Histogram::new(&[10, 20]);
        for value in [0, 10, 11, 20, 21, u64::from(u32::MAX)] {
            histogram.observe(value);
        }
        let counts = histogram.drain();
        assert_eq!(counts.buckets, [2, 2, 2]);
        assert_eq!(histogram.drain(), HistogramCounts { buckets: vec![0; 3], sum_us: 0 });
        histogram.add(&counts);
        histogram.add(&counts);
        assert_eq!(histogram.drain().buckets, [4, 4, 4]);
        // What another process says may be anything.
        histogram.add(&HistogramCounts { buckets: vec![1; 9], sum_us: 1 });
        assert_eq!(histogram.drain().buckets, [1, 1, 1]);
    }
}
