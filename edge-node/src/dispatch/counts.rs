//! What happens to instances, and what threads are doing, for the metrics.

use std::sync::Arc;

use atoll_isolate::Memory;

use super::replicas::{BackThread, Placement};
use crate::observe::{Count, Metrics};

/// What happened to instances in this process.
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
    /// Calls that another serving process answered, their worker's home.
    pub(super) sent_home: Count,
}

impl Counts {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            loads: metrics.counter("isolate_loads", "Instances loaded"),
            evictions: metrics
                .counter("isolate_evictions", "Idle instances dropped to make room for others"),
            promotions: metrics.counter(
                "isolate_promotions",
                "Instances given to versions on a front thread, where they are called often",
            ),
            demotions: metrics.counter(
                "isolate_demotions",
                "Versions sent back to the back threads for running long on a front thread",
            ),
            handed: metrics.counter("calls_handed_over", "Calls handed to a back thread"),
            sent_home: metrics.counter(
                "calls_sent_home",
                "Calls answered by another serving process, the home of a worker that has few",
            ),
        }
    }
}

impl Placement {
    /// Shows what is there now.
    pub(super) fn show(self: &Arc<Self>, metrics: &Metrics, memory: &Memory) {
        let placement = self.clone();
        let help = "What calls lately waited for the most delayed back thread";
        metrics.add_gauge("queue_delay_us", help, move || {
            let most = placement.backs().iter().map(BackThread::delay).max().unwrap_or_default();
            i64::try_from(most.as_micros()).unwrap_or(i64::MAX)
        });
        let add = |name, help, value: fn(&Memory) -> usize| {
            let memory = memory.clone();
            let value = move || i64::try_from(value(&memory)).unwrap_or(i64::MAX);
            metrics.add_gauge(name, help, value);
        };
        add("isolate_memory_bytes", "Memory that isolates hold", Memory::used);
        add("isolate_memory_bytes_max", "Memory that isolates may hold", Memory::max);
        add("isolate_heap_bytes", "Memory that JS heaps hold", Memory::heap_used);
        add("isolate_heap_bytes_max", "Memory that JS heaps may hold", Memory::heap_max);
        add("isolate_code_bytes", "Memory that compiled code holds", Memory::code_used);
        add("isolate_code_bytes_max", "Memory that compiled code may hold", Memory::code_max);
    }
}
