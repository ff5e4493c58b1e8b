//! How a replicated store uses its logs and its machine.

use std::time::Duration;

use crate::sqlite::SqliteOptions;

/// How old the kept moment at which nothing was missing may grow while nothing else is to be written.
const CAUGHT_UP_KEPT_MAX: Duration = Duration::from_secs(600);

/// How a `ReplicatedStore` uses its logs and its machine. All nodes of a cluster agree on `shards`
/// and `absence_max`.
#[derive(Clone)]
pub struct ReplicatedOptions {
    /// How the replica uses the machine. Its epochs are told of every change, wherever it was made.
    pub sqlite: SqliteOptions,
    /// The cluster whose logs they must be, which `ReplicatedStore::found` made: then none is made here, and what another cluster
    /// left is not followed. Without it logs are made where they never were, and any are followed.
    pub cluster: Option<String>,
    /// Logs that the keys are spread over.
    pub shards: u16,
    /// How long a write may take until it is refused or its outcome called unknown. A value in the
    /// blob store takes that for each of its parts.
    pub write_timeout: Duration,
    /// Writes under way, at most; a bulk write counts once.
    pub writes_max: usize,
    /// Bytes of the writes under way, at most; one larger write still fits alone.
    pub write_bytes_max: usize,
    /// Appends of one bulk write that are under way at once.
    pub bulk_appends_max: usize,
    /// From how many bytes on a value lies in the blob store, and its record names it.
    pub inline_bytes_max: usize,
    /// Values that are fetched from the blob store at once.
    pub fetches_max: usize,
    /// How long a node may be away and still catch up from its checkpoint. Deletes are remembered
    /// that long, and a seventh of it is kept as a reserve for clocks that differ.
    pub absence_max: Duration,
    /// How often a shard asks whether it has everything; also how exact `staleness` is.
    pub check_interval: Duration,
    /// The pause before a log that seems to have lost its tail is asked again. It counts as rolled
    /// back when three leaders in a row say so.
    pub rollback_pause: Duration,
    /// Records that are applied in one step, at most.
    pub apply_records_max: usize,
}

impl Default for ReplicatedOptions {
    fn default() -> Self {
        Self {
            sqlite: SqliteOptions::default(),
            cluster: None,
            shards: 16,
            write_timeout: Duration::from_secs(5),
            writes_max: 4096,
            write_bytes_max: 256 * 1024 * 1024,
            bulk_appends_max: 256,
            inline_bytes_max: 512 * 1024,
            fetches_max: 8,
            absence_max: Duration::from_secs(7 * 86_400),
            check_interval: Duration::from_secs(5),
            rollback_pause: Duration::from_secs(5),
            apply_records_max: 2048,
        }
    }
}

impl ReplicatedOptions {
    /// How long a shard may have been away before its checkpoint is not enough.
    pub(super) fn absence_trusted(&self) -> Duration {
        self.absence_max - self.absence_max / 7
    }

    /// How old the kept moment at which nothing was missing may grow: what is not kept counts as absence.
    pub(super) fn caught_up_kept_max(&self) -> Duration {
        CAUGHT_UP_KEPT_MAX.min(self.absence_trusted() / 4)
    }
}
