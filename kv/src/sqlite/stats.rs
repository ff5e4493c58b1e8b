//! What a store counts about itself.

use crate::counter::Counter;

/// Upper bounds of the batch size histogram, one for each power of two; the last has none.
pub const BATCH_SIZE_BOUNDS: [u64; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

/// Figures of a store at one moment. Counters grow from zero at open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SqliteStats {
    /// Keys in the memory cache, known-absent ones included. Approximate.
    pub cache_entries: u64,
    /// What they weigh, in bytes. Approximate.
    pub cache_bytes: u64,
    /// Keys answered from memory.
    pub cache_hits: u64,
    /// Keys that had to be read from the database.
    pub cache_misses: u64,
    /// Transactions that were made durable.
    pub commits: u64,
    /// Transactions that failed and were undone.
    pub commits_failed: u64,
    /// Writes made durable, a bulk write counting once.
    pub writes: u64,
    /// Commits by how many writes they carried: one count per bound of `BATCH_SIZE_BOUNDS`.
    pub batch_sizes: [u64; BATCH_SIZE_BOUNDS.len()],
    /// Expired or dropped rows removed.
    pub swept: u64,
    /// Operations refused because a queue was full.
    pub overloaded: u64,
    /// Writes that wait for the writer.
    pub write_queue: u64,
    /// Reads that wait for a reader.
    pub read_queue: u64,
}

/// The counters behind `SqliteStats`.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) cache_hits: Counter,
    pub(super) cache_misses: Counter,
    pub(super) commits: Counter,
    pub(super) commits_failed: Counter,
    pub(super) writes: Counter,
    pub(super) swept: Counter,
    pub(super) overloaded: Counter,
    batch_sizes: [Counter; BATCH_SIZE_BOUNDS.len()],
}

impl Counters {
    /// Counts a commit of `writes`.
    pub(super) fn committed(&self, writes: u64) {
        self.commits.add(1);
        self.writes.add(writes);
        let last = BATCH_SIZE_BOUNDS.len() - 1;
        let index = BATCH_SIZE_BOUNDS.partition_point(|bound| *bound < writes).min(last);
        self.batch_sizes[index].add(1);
    }

    /// The counters' part of the figures.
    pub(super) fn read(&self) -> SqliteStats {
        SqliteStats {
            cache_hits: self.cache_hits.read(),
            cache_misses: self.cache_misses.read(),
            commits: self.commits.read(),
            commits_failed: self.commits_failed.read(),
            writes: self.writes.read(),
            batch_sizes: self.batch_sizes.each_ref().map(Counter::read),
            swept: self.swept.read(),
            overloaded: self.overloaded.read(),
            ..SqliteStats::default()
        }
    }
}
