//! What a change does to the tables within a transaction, and what has to be told once it is
//! committed.

use std::collections::HashMap;

use rusqlite::{OptionalExtension, Transaction};

use super::Shared;
use super::cache::CacheKey;
use super::namespaces::{NamespaceChanges, NamespaceRow};
use super::replica::ShardState;
use super::schema::integer;
use super::sweep::{self, Swept};
use super::writer::Change;
use crate::entry::Entry;
use crate::epochs::{Epochs, Touched};
use crate::key::{Key, NamespaceId};
use crate::weight::Slot;

/// What a transaction will have changed once it is committed.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) namespaces: NamespaceChanges,
    /// The last slot of each key, or none where the cache is to forget it: earlier ones of the same
    /// transaction are never visible.
    pub(super) slots: HashMap<CacheKey, Option<Slot>>,
    /// The same keys for the caches of other processes.
    pub(super) touched: Touched,
    pub(super) swept: Swept,
    /// The shards of a replica whose state changes.
    pub(super) shards: HashMap<u16, ShardState>,
}

/// Where a row comes from; all zero in a store of its own.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Origin {
    pub(super) shard: u16,
    pub(super) era: u64,
    pub(super) sequence: u64,
    pub(super) hidden: bool,
}

/// Applies changes within one transaction.
pub(super) struct Applier<'a> {
    pub(super) transaction: &'a Transaction<'a>,
    pub(super) shared: &'a Shared,
    pub(super) epochs: Option<&'a Epochs>,
    pub(super) effects: Effects,
}

impl Applier<'_> {
    pub(super) fn apply(&mut self, change: Change) -> rusqlite::Result<()> {
        match change {
            Change::Put(id, pairs) => {
                let namespace = self.namespace(&id)?;
                for (key, entry) in pairs {
                    self.touch(&id, &key);
                    let origin = Origin::default();
                    put(self.transaction, namespace, &key, &entry, None, origin)?;
                    self.effects.slots.insert((namespace, key), Some(Some(entry)));
                }
            }
            Change::Delete(id, keys) => {
                let Some(namespace) = self.find_namespace(&id) else { return Ok(()) };
                for key in keys {
                    self.touch(&id, &key);
                    delete(self.transaction, namespace, key.as_str().as_bytes())?;
                    self.effects.slots.insert((namespace, key), Some(None));
                }
            }
            Change::Drop(id) => {
                let Some(namespace) = self.find_namespace(&id) else { return Ok(()) };
                let drop = "UPDATE namespace SET name = NULL WHERE id = ?1";
                self.transaction.prepare_cached(drop)?.execute((namespace.0,))?;
                self.effects.namespaces.insert(id, None);
                self.effects.touched.touch_all();
            }
            Change::Sweep => {
                self.effects.swept = sweep::step(self.transaction, self.shared.clock.now_s())?;
            }
            Change::Replica(step) => self.replicate(step)?,
        }
        Ok(())
    }

    pub(super) fn find_namespace(&self, id: &NamespaceId) -> Option<NamespaceRow> {
        let changed = self.effects.namespaces.get(id).copied();
        changed.unwrap_or_else(|| self.shared.namespaces.find(id))
    }

    /// A namespace's number; it exists from here on.
    pub(super) fn namespace(&mut self, id: &NamespaceId) -> rusqlite::Result<NamespaceRow> {
        if let Some(namespace) = self.find_namespace(id) {
            return Ok(namespace);
        }
        let insert = "INSERT INTO namespace (name) VALUES (?1)";
        let row = self.transaction.prepare_cached(insert)?.insert((id.as_str(),))?;
        self.effects.namespaces.insert(id.clone(), Some(NamespaceRow(row)));
        Ok(NamespaceRow(row))
    }

    pub(super) fn touch(&mut self, id: &NamespaceId, key: &Key) {
        if let Some(epochs) = self.epochs {
            epochs.touch(&mut self.effects.touched, id, key);
        }
    }
}

/// Writes a row and its value. A `blob` is the hash and the size of a value that also lies in the
/// blob store; the entry's own value is then either empty or complete.
pub(super) fn put(
    transaction: &Transaction<'_>,
    namespace: NamespaceRow,
    key: &Key,
    entry: &Entry,
    blob: Option<(&[u8], u64)>,
    origin: Origin,
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
        INSERT INTO entry (namespace, key, value, value_bytes, expiration, metadata,
            shard, era, sequence, hidden, blob)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
        ON CONFLICT DO UPDATE SET value_bytes = ?4, expiration = ?5, metadata = ?6,
            shard = ?7, era = ?8, sequence = ?9, hidden = ?10, blob = ?11";
    transaction.prepare_cached(upsert)?.execute((
        namespace.0,
        key,
        value,
        integer(blob.map_or(bytes.len() as u64, |(_, size)| size)),
        entry.expiration.map(integer),
        entry.metadata.as_deref(),
        origin.shard,
        integer(origin.era),
        integer(origin.sequence),
        origin.hidden,
        blob.map(|(hash, _)| hash),
    ))?;
    Ok(())
}

pub(super) fn delete(
    transaction: &Transaction<'_>,
    namespace: NamespaceRow,
    key: &[u8],
) -> rusqlite::Result<()> {
    let delete = "DELETE FROM entry WHERE namespace = ?1 AND key = ?2";
    transaction.prepare_cached(delete)?.execute((namespace.0, key))?;
    Ok(())
}
