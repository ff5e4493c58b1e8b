//! The one thread that changes the database. It commits what is queued as one transaction, so that
//! concurrent writes share the wait for the disk, and acknowledges only what is on it.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::oneshot;

use super::Shared;
use super::apply::{Applier, Effects};
use super::queue::{Batch, Bounds};
use super::replica::{self, Step};
use super::schema::storage;
use super::sweep::Swept;
use crate::entry::Entry;
use crate::epochs::Epochs;
use crate::error::KvError;
use crate::key::{Key, NamespaceId};

/// What one transaction carries, at most: more would make the first of a batch wait too long.
const TRANSACTION: Bounds = Bounds { items_max: 1024, bytes_max: 16 * 1024 * 1024 };
/// The pause between two steps of a sweep that has more to do, which leaves room for writes.
const SWEEP_PAUSE: Duration = Duration::from_millis(20);

/// A change of the database, already checked.
pub(super) enum Change {
    Put(NamespaceId, Vec<(Key, Entry)>),
    Delete(NamespaceId, Vec<Key>),
    Drop(NamespaceId),
    Sweep,
    Replica(Step),
}

/// A change and who waits for it.
pub(super) struct Write {
    pub(super) change: Change,
    pub(super) reply: oneshot::Sender<Result<(), KvError>>,
}

pub(super) struct Writer {
    pub(super) connection: Connection,
    /// Released when the writer ends, after its connection.
    pub(super) lock: File,
    pub(super) shared: Arc<Shared>,
    pub(super) sweep_interval: Duration,
    pub(super) epochs: Option<Arc<Epochs>>,
}

impl Writer {
    /// Commits writes until the queue is closed and empty, and sweeps in between.
    pub(super) fn run(mut self) {
        let mut next_sweep = Instant::now() + self.sweep_interval;
        loop {
            match self.shared.writes.pop_batch(TRANSACTION, next_sweep) {
                Batch::Items(writes) => self.commit(writes),
                Batch::Idle => {}
                Batch::Closed => break,
            }
            if Instant::now() >= next_sweep {
                let pause = if self.sweep().more { SWEEP_PAUSE } else { self.sweep_interval };
                next_sweep = Instant::now() + pause;
            }
        }
        self.finish();
    }

    fn commit(&mut self, writes: Vec<Write>) {
        let (changes, replies): (Vec<_>, Vec<_>) =
            writes.into_iter().map(|write| (write.change, write.reply)).unzip();
        let answer = self.transact(changes).map(|_| ());
        if answer.is_ok() {
            self.shared.counters.committed(replies.len() as u64);
        }
        for reply in replies {
            // The caller may have left; the write is done all the same.
            let _ = reply.send(answer.clone());
        }
    }

    fn sweep(&mut self) -> Swept {
        self.transact(vec![Change::Sweep]).unwrap_or_default()
    }

    /// Applies changes in one transaction and shows them to readers once it is durable.
    fn transact(&mut self, changes: Vec<Change>) -> Result<Swept, KvError> {
        let result = self.try_transact(changes);
        match &result {
            Ok(swept) => self.shared.counters.swept.add(swept.rows),
            Err(error) => {
                self.shared.counters.commits_failed.add(1);
                tracing::error!(%error, "key-value transaction failed");
            }
        }
        result
    }

    fn try_transact(&mut self, changes: Vec<Change>) -> Result<Swept, KvError> {
        let shared = &*self.shared;
        let epochs = self.epochs.as_deref();
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(storage("begin a transaction"))?;
        let mut effects = Effects::default();
        for change in changes {
            let mut applier = Applier { transaction: &transaction, shared, epochs, effects };
            applier.apply(change).map_err(storage("write"))?;
            effects = applier.effects;
        }
        replica::save(&transaction, &effects.shards).map_err(storage("write a checkpoint"))?;
        for key in effects.slots.keys() {
            shared.cache.begin_write(key);
        }
        let turn = || epochs.map_or(Ok(()), |epochs| epochs.turn(&effects.touched));
        let committed = turn()
            .map_err(storage("tell other processes of a write"))
            .and_then(|()| transaction.commit().map_err(storage("commit")));
        if committed.is_ok() {
            shared.namespaces.publish(effects.namespaces);
            shared.shards.publish(effects.shards);
        }
        for (key, slot) in effects.slots {
            shared.cache.end_write(key, committed.is_ok().then_some(slot).flatten());
        }
        if let Err(error) = turn() {
            // Other processes go on to see a write under way and keep nothing.
            tracing::error!(%error, "cannot tell other processes that a write has ended");
        }
        committed.map(|()| effects.swept)
    }

    /// Leaves one tidy file behind. The log is durable as it is, so a failure loses nothing.
    fn finish(self) {
        let checkpoint = self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
        if let Err(error) = checkpoint {
            tracing::warn!(%error, "cannot fold the key-value log into the database");
        }
        drop(self.connection);
        drop(self.lock);
    }
}
