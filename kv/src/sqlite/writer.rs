//! The one thread that changes the database. It commits what is queued as one transaction, so that
//! concurrent writes share the wait for the disk, and acknowledges only what is on it.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

use super::Shared;
use super::cache::CacheKey;
use super::namespaces::{NamespaceChanges, NamespaceRow};
use super::queue::{Batch, Bounds};
use super::schema::{integer, storage};
use super::sweep::{self, Swept};
use crate::entry::Entry;
use crate::epochs::{Epochs, Touched};
use crate::error::KvError;
use crate::key::{Key, NamespaceId};
use crate::weight::Slot;

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

/// What a transaction will have changed once it is committed.
#[derive(Default)]
struct Effects {
    namespaces: NamespaceChanges,
    /// The last slot of each key: earlier ones of the same transaction are never visible.
    slots: HashMap<CacheKey, Slot>,
    /// The same keys for the caches of other processes.
    touched: Touched,
    swept: Swept,
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
            apply(&transaction, shared, epochs, change, &mut effects).map_err(storage("write"))?;
        }
        for key in effects.slots.keys() {
            shared.cache.begin_write(key);
        }
        let turn = || epochs.map_or(Ok(()), |epochs| epochs.turn(&effects.touched));
        let committed = turn()
            .map_err(storage("tell other processes of a write"))
            .and_then(|()| transaction.commit().map_err(storage("commit")));
        if committed.is_ok() {
            shared.namespaces.publish(effects.namespaces);
        }
        for (key, slot) in effects.slots {
            shared.cache.end_write(key, committed.is_ok().then_some(slot));
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

fn apply(
    transaction: &Transaction<'_>,
    shared: &Shared,
    epochs: Option<&Epochs>,
    change: Change,
    effects: &mut Effects,
) -> rusqlite::Result<()> {
    let find = |id: &NamespaceId, effects: &Effects| {
        let changed = effects.namespaces.get(id).copied();
        changed.unwrap_or_else(|| shared.namespaces.find(id))
    };
    let touch = |id: &NamespaceId, key: &Key, touched: &mut Touched| {
        if let Some(epochs) = epochs {
            epochs.touch(touched, id, key);
        }
    };
    match change {
        Change::Put(id, pairs) => {
            let namespace = match find(&id, effects) {
                Some(namespace) => namespace,
                None => {
                    let namespace = create_namespace(transaction, &id)?;
                    effects.namespaces.insert(id.clone(), Some(namespace));
                    namespace
                }
            };
            for (key, entry) in pairs {
                touch(&id, &key, &mut effects.touched);
                put(transaction, namespace, &key, &entry)?;
                effects.slots.insert((namespace, key), Some(entry));
            }
        }
        Change::Delete(id, keys) => {
            let Some(namespace) = find(&id, effects) else { return Ok(()) };
            for key in keys {
                touch(&id, &key, &mut effects.touched);
                delete(transaction, namespace, &key)?;
                effects.slots.insert((namespace, key), None);
            }
        }
        Change::Drop(id) => {
            let Some(namespace) = find(&id, effects) else { return Ok(()) };
            let drop = "UPDATE namespace SET name = NULL WHERE id = ?1";
            transaction.prepare_cached(drop)?.execute((namespace.0,))?;
            effects.namespaces.insert(id, None);
            effects.touched.touch_all();
        }
        Change::Sweep => effects.swept = sweep::step(transaction, shared.clock.now_s())?,
    }
    Ok(())
}

fn create_namespace(
    transaction: &Transaction<'_>,
    id: &NamespaceId,
) -> rusqlite::Result<NamespaceRow> {
    let insert = "INSERT INTO namespace (name) VALUES (?1)";
    transaction.prepare_cached(insert)?.insert((id.as_str(),)).map(NamespaceRow)
}

fn put(
    transaction: &Transaction<'_>,
    namespace: NamespaceRow,
    key: &Key,
    entry: &Entry,
) -> rusqlite::Result<()> {
    let key = key.as_str().as_bytes();
    let bytes = entry.value.as_ref();
    let find = "SELECT value FROM entry WHERE namespace = ?1 AND key = ?2";
    let stored: Option<i64> = transaction
        .prepare_cached(find)?
        .query_row((namespace.0, key), |row| row.get(0))
        .optional()?;
    let value = match stored {
        Some(value) => {
            let replace = "UPDATE value SET bytes = ?2 WHERE id = ?1";
            transaction.prepare_cached(replace)?.execute((value, bytes))?;
            value
        }
        None => {
            let insert = "INSERT INTO value (bytes) VALUES (?1)";
            transaction.prepare_cached(insert)?.insert((bytes,))?
        }
    };
    let upsert = "
        INSERT INTO entry (namespace, key, value, value_bytes, expiration, metadata)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6)
        ON CONFLICT DO UPDATE SET value_bytes = ?4, expiration = ?5, metadata = ?6";
    transaction.prepare_cached(upsert)?.execute((
        namespace.0,
        key,
        value,
        integer(bytes.len() as u64),
        entry.expiration.map(integer),
        entry.metadata.as_deref(),
    ))?;
    Ok(())
}

fn delete(
    transaction: &Transaction<'_>,
    namespace: NamespaceRow,
    key: &Key,
) -> rusqlite::Result<()> {
    let delete = "DELETE FROM entry WHERE namespace = ?1 AND key = ?2";
    transaction.prepare_cached(delete)?.execute((namespace.0, key.as_str().as_bytes()))?;
    Ok(())
}
