//! What a replicated store says about itself: whether it is current, how far it is behind, and what
//! it counted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::counter::Counter;
use crate::log::Connectivity;
use crate::sqlite::SqliteStats;

/// Whether a replica is current.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Some shard has not caught up since the store was opened. Reads find what was there before.
    Starting,
    /// The logs can be reached and every shard follows its log.
    Connected,
    /// The logs cannot be reached. Reads go on, writes are refused.
    Disconnected {
        /// Since when.
        since: Instant,
    },
    /// Some shards compare all they hold with their logs. Reads go on from what was there before.
    Resyncing {
        /// How many.
        shards: usize,
    },
}

/// Figures of a `ReplicatedStore` at one moment. Counters grow from zero at open.
#[derive(Debug, Clone, Default)]
pub struct ReplicatedStats {
    /// The replica's own figures.
    pub sqlite: SqliteStats,
    /// How long ago the shard that is furthest behind is known to have had everything. At most
    /// `check_interval` and the time of a request while all is well.
    pub staleness: Duration,
    /// For each shard, sequences between its checkpoint and the end of its log when that was last
    /// asked.
    pub lag: Vec<u64>,
    /// Resyncs that were begun.
    pub resyncs: u64,
    /// Times that the logs' subscriptions came back.
    pub reconnects: u64,
    /// Writes under way.
    pub pending: u64,
    /// Records of the logs that were applied or were known.
    pub records: u64,
    /// Records that this version of the program could not read.
    pub records_unknown: u64,
    /// Writes refused because the log could not be reached.
    pub writes_unavailable: u64,
    /// Writes whose outcome is unknown.
    pub writes_unknown: u64,
    /// Values that were fetched from the blob store.
    pub fetches: u64,
    /// Why some log is not followed now.
    pub fault: Option<Arc<str>>,
}

/// The counters behind `ReplicatedStats`.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) resyncs: Counter,
    pub(super) reconnects: Counter,
    pub(super) records: Counter,
    pub(super) records_unknown: Counter,
    pub(super) writes_unavailable: Counter,
    pub(super) writes_unknown: Counter,
    pub(super) fetches: Counter,
}

/// What is known of one shard.
#[derive(Debug, Clone)]
pub(super) struct ShardHealth {
    /// When it is known to have had everything.
    pub(super) caught_up: Instant,
    /// Whether that was since the store was opened.
    pub(super) started: bool,
    pub(super) resyncing: bool,
    /// Where its log ended when that was last asked.
    pub(super) last: u64,
    /// Why it is not followed now.
    pub(super) fault: Option<Arc<str>>,
}

/// The health of all shards together.
pub(super) struct Status {
    shards: Mutex<Vec<ShardHealth>>,
    connectivity: watch::Receiver<Connectivity>,
    health: watch::Sender<Health>,
}

impl Status {
    pub(super) fn new(
        shards: Vec<ShardHealth>,
        connectivity: watch::Receiver<Connectivity>,
    ) -> Self {
        let status = Self {
            shards: Mutex::new(shards),
            connectivity,
            health: watch::Sender::new(Health::Starting),
        };
        status.publish();
        status
    }

    pub(super) fn watch(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Changes what is known of a shard, and tells whoever watches if that changes the whole.
    pub(super) fn change(&self, shard: u16, change: impl FnOnce(&mut ShardHealth)) {
        change(&mut self.lock()[usize::from(shard)]);
        self.publish();
    }

    pub(super) fn read(&self) -> Vec<ShardHealth> {
        self.lock().clone()
    }

    /// Looks at everything anew.
    pub(super) fn publish(&self) {
        let health = self.judge();
        self.health.send_if_modified(|found| {
            let changed = *found != health;
            *found = health;
            changed
        });
    }

    fn judge(&self) -> Health {
        if let Connectivity::Disconnected { since } = *self.connectivity.borrow() {
            return Health::Disconnected { since };
        }
        let shards = self.lock();
        match shards.iter().filter(|shard| shard.resyncing).count() {
            0 if shards.iter().all(|shard| shard.started) => Health::Connected,
            0 => Health::Starting,
            shards => Health::Resyncing { shards },
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ShardHealth>> {
        // The list is whole between any two statements under the lock.
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
