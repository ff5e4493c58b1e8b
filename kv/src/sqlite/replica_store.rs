//! What a replicated store asks of the SQLite store that is its replica.

use std::collections::HashSet;
use std::path::Path;

use futures_util::FutureExt;
use futures_util::future::ready;

use super::replica::{ReplicaRecord, ShardState, Step, What};
use super::schema::{Role, storage};
use super::writer::Change;
use super::{SqliteOptions, SqliteStore, Stored, reader};
use crate::error::KvError;
use crate::key::{Key, NamespaceId};
use crate::log::BlobHash;
use crate::store::KvFuture;

/// What a record takes in a queue beside its key and its value, by estimate.
const RECORD_BYTES: usize = 128;

impl SqliteStore {
    /// Opens a store as the replica of `shards` logs.
    pub(crate) fn open_replica(
        path: &Path,
        options: SqliteOptions,
        shards: u16,
    ) -> Result<Self, KvError> {
        Self::open_as(path, options, Role::Replica(shards))
    }

    /// How far a shard has come, by what is committed.
    pub(crate) fn shard(&self, shard: u16) -> ShardState {
        self.0.shared.shards.find(shard)
    }

    /// Changes the replica. The store's queue refuses what it cannot hold.
    pub(crate) fn replicate(&self, step: Step) -> KvFuture<()> {
        let bytes = match &step {
            Step::Follow { records, .. } => records.iter().map(ReplicaRecord::bytes).sum(),
            Step::Own { record, .. } => record.bytes(),
            Step::Keep { value, .. } => value.len(),
            Step::Begin { .. } | Step::End { .. } => 0,
        };
        self.write(Change::Replica(step), bytes)
    }

    /// Reads a key, its value where it is here.
    pub(crate) fn find(&self, namespace: &NamespaceId, key: &Key) -> KvFuture<Option<Stored>> {
        self.look(namespace, key)
    }

    /// Reads keys as `find` does.
    pub(crate) fn find_many(
        &self,
        namespace: &NamespaceId,
        keys: Vec<Key>,
    ) -> KvFuture<Vec<Option<Stored>>> {
        self.look_many(namespace, keys)
    }

    /// All namespaces that were ever written, in the order of their ids.
    pub(crate) fn namespaces(&self) -> Vec<NamespaceId> {
        self.0.shared.namespaces.all()
    }

    /// Reads what a namespace holds after a key, expired keys included. The empty text comes before
    /// all keys.
    pub(crate) fn dump(
        &self,
        namespace: &NamespaceId,
        after: String,
        limit: i64,
    ) -> KvFuture<Vec<(Key, Stored)>> {
        let Some(namespace) = self.0.shared.namespaces.find(namespace) else {
            return ready(Ok(Vec::new())).boxed();
        };
        self.read(move |connection, _| {
            reader::dump(connection, namespace, &after, limit).map_err(storage("read all keys"))
        })
    }

    /// The values in the blob store that some key names.
    pub(crate) fn blobs(&self) -> KvFuture<HashSet<BlobHash>> {
        self.read(|connection, _| {
            reader::blobs(connection).map_err(storage("read names of values"))
        })
    }

    /// What decides whether a key is expired.
    pub(crate) fn now_s(&self) -> u64 {
        self.0.shared.clock.now_s()
    }
}

impl ReplicaRecord {
    fn bytes(&self) -> usize {
        RECORD_BYTES
            + match &self.what {
                What::Put { key, entry, .. } => key.as_str().len() + entry.value.len(),
                What::Delete(key) => key.as_str().len(),
                What::Drop { .. } => 0,
            }
    }
}
