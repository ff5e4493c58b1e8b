//! What placement does, counted for the metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::replicas::{BackThread, Placement};
use crate::observe::Metrics;

/// One number that grows.
#[derive(Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn value(&self) -> i64 {
        i64::try_from(self.0.load(Ordering::Relaxed)).unwrap_or(i64::MAX)
    }
}

/// What happened to instances in this process.
#[derive(Default)]
pub(super) struct Counts {
    /// Instances loaded: cold starts and further replicas.
    pub(super) loads: Count,
    /// Idle instances dropped to make room.
    pub(super) evictions: Count,
    /// Instances that versions got on a front thread.
    pub(super) promotions: Count,
    /// Versions sent back for a long slice on a front thread.
    pub(super) demotions: Count,
    /// Calls handed to a back thread.
    pub(super) handed: Count,
}

impl Placement {
    /// Shows the counts.
    pub(super) fn show(self: &Arc<Self>, metrics: &Metrics) {
        let add = |name, help, value: fn(&Self) -> i64| {
            let placement = self.clone();
            metrics.add_gauge(name, help, move || value(&placement));
        };
        add("isolate_loads", "Instances loaded", |all| all.counts.loads.value());
        add("isolate_evictions", "Idle instances dropped to make room", |all| {
            all.counts.evictions.value()
        });
        add("isolate_promotions", "Versions given an instance on a front thread", |all| {
            all.counts.promotions.value()
        });
        add("isolate_demotions", "Versions sent back to the back threads", |all| {
            all.counts.demotions.value()
        });
        add("calls_handed_over", "Calls handed to a back thread", |all| all.counts.handed.value());
        add("queue_delay_us", "What calls lately waited for the most delayed back thread", |all| {
            let delays = all.backs().iter().map(BackThread::delay);
            delays.max().map_or(0, |most| i64::try_from(most.as_micros()).unwrap_or(i64::MAX))
        });
    }
}
