//! Collects the garbage of instances that rest, a few in a sweep: V8 looks at an isolate's own limits, and leaves 8 MiB and
//! more in each of thousands.

use std::cell::Cell;
use std::cmp::Reverse;
use std::time::Duration;

use atoll_isolate::Instance;

/// How long an instance is not called before it gives back what memory it can.
const SHRINK_IDLE: Duration = Duration::from_secs(30);

/// Instances of one thread that do so in one sweep: each takes some milliseconds.
const SHRINKS_PER_SWEEP: usize = 16;

/// What an instance that is called now and then may gain before that is collected, in bytes.
const GROWN_BYTES_MAX: usize = 4 << 20;

/// The heap up to which that is done, in bytes. To collect a large one takes tens of milliseconds, for which others would
/// wait: that is V8's to decide.
const HEAP_BYTES_MAX: usize = 16 << 20;

/// Instances of one thread whose garbage is collected so in one sweep: each takes a millisecond or two.
const COLLECTS_PER_SWEEP: usize = 4;

/// Instances whose garbage is worth collecting in a sweep.
#[derive(Default)]
pub(super) struct Garbage {
    shrinks: Vec<Instance>,
    grown: Vec<Instance>,
}

impl Garbage {
    /// Looks at an instance that has nothing in flight. `shrunk` says whether it has given back what it can since its last
    /// call.
    pub(super) fn look(&mut self, instance: &Instance, rested: Duration, shrunk: &Cell<bool>) {
        if rested > SHRINK_IDLE {
            if !shrunk.get() && self.shrinks.len() < SHRINKS_PER_SWEEP {
                shrunk.set(true);
                self.shrinks.push(instance.clone());
            }
        } else if instance.grown_bytes() > GROWN_BYTES_MAX
            && instance.memory().heap <= HEAP_BYTES_MAX
        {
            self.grown.push(instance.clone());
        }
    }

    /// Collects it, of those that have gained most first. Others run between two of them.
    pub(super) async fn collect(mut self) {
        for instance in &self.shrinks {
            instance.shrink();
            tokio::task::yield_now().await;
        }
        self.grown.sort_unstable_by_key(|instance| Reverse(instance.grown_bytes()));
        for instance in self.grown.iter().take(COLLECTS_PER_SWEEP) {
            instance.collect();
            tokio::task::yield_now().await;
        }
    }
}
