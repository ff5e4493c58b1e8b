//! A store in memory that is too simple to be wrong: the oracle that the engines are tested
//! against. It is not durable and does not bound its memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::ready;

use crate::clock::Clock;
use crate::entry::{BulkWrite, Entry, PutOptions, check_bulk_count};
use crate::error::KvError;
use crate::key::{Key, NamespaceId};
use crate::limits::BULK_GET_BYTES_MAX;
use crate::list::{KeyInfo, ListOptions, ListPage, encode_cursor};
use crate::store::{KvFuture, KvStore, check_get_many};

type Entries = BTreeMap<(NamespaceId, Key), Entry>;

/// The naive store.
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    entries: Mutex<Entries>,
}

impl MemoryStore {
    /// Makes an empty store.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, entries: Mutex::default() }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // Nothing panics while it is held; if something does, the map is still a map.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, namespace: &NamespaceId, key: &Key) -> Option<Entry> {
        let now_s = self.clock.now_s();
        let entry = self.entries().get(&(namespace.clone(), key.clone())).cloned();
        entry.filter(|entry| !entry.is_expired(now_s))
    }

    fn read_many(
        &self,
        namespace: &NamespaceId,
        keys: &[Key],
    ) -> Result<Vec<Option<Entry>>, KvError> {
        check_get_many(keys)?;
        let found: Vec<_> = keys.iter().map(|key| self.read(namespace, key)).collect();
        let bytes: usize = found.iter().flatten().map(|entry| entry.value.len()).sum();
        if bytes > BULK_GET_BYTES_MAX { Err(KvError::BulkGetTooLarge) } else { Ok(found) }
    }

    fn write(&self, namespace: &NamespaceId, pairs: Vec<(Key, Entry)>) {
        for (key, entry) in pairs {
            self.entries().insert((namespace.clone(), key), entry);
        }
    }

    fn remove(&self, namespace: &NamespaceId, keys: Vec<Key>) -> Result<(), KvError> {
        check_bulk_count(keys.len())?;
        for key in keys {
            self.entries().remove(&(namespace.clone(), key));
        }
        Ok(())
    }

    fn page(&self, namespace: &NamespaceId, options: ListOptions) -> Result<ListPage, KvError> {
        let query = options.check()?;
        let now_s = self.clock.now_s();
        let entries = self.entries();
        let mut keys: Vec<KeyInfo> = entries
            .iter()
            .filter(|((of, key), entry)| {
                of == namespace
                    && key.as_str().starts_with(&query.prefix)
                    && query.after.as_ref().is_none_or(|after| key > after)
                    && !entry.is_expired(now_s)
            })
            .map(|((_, key), entry)| KeyInfo {
                name: key.as_str().into(),
                expiration: entry.expiration,
                metadata: entry.metadata.clone(),
            })
            .collect();
        let list_complete = keys.len() <= query.limit;
        keys.truncate(query.limit);
        let last = keys.last().filter(|_| !list_complete);
        let cursor = last.map(|key| encode_cursor(&key.name));
        Ok(ListPage { keys, list_complete, cursor })
    }
}

impl KvStore for MemoryStore {
    fn get(&self, namespace: &NamespaceId, key: &Key) -> KvFuture<Option<Entry>> {
        ready(Ok(self.read(namespace, key))).boxed()
    }

    fn get_many(&self, namespace: &NamespaceId, keys: Vec<Key>) -> KvFuture<Vec<Option<Entry>>> {
        ready(self.read_many(namespace, &keys)).boxed()
    }

    fn put(
        &self,
        namespace: &NamespaceId,
        key: &Key,
        value: Bytes,
        options: PutOptions,
    ) -> KvFuture<()> {
        let entry = Entry::from_put(value, options, self.clock.now_s());
        ready(entry.map(|entry| self.write(namespace, vec![(key.clone(), entry)]))).boxed()
    }

    fn delete(&self, namespace: &NamespaceId, key: &Key) -> KvFuture<()> {
        ready(self.remove(namespace, vec![key.clone()])).boxed()
    }

    fn write_bulk(&self, namespace: &NamespaceId, writes: Vec<BulkWrite>) -> KvFuture<()> {
        let pairs = Entry::from_bulk(writes, self.clock.now_s());
        ready(pairs.map(|pairs| self.write(namespace, pairs))).boxed()
    }

    fn delete_bulk(&self, namespace: &NamespaceId, keys: Vec<Key>) -> KvFuture<()> {
        ready(self.remove(namespace, keys)).boxed()
    }

    fn list(&self, namespace: &NamespaceId, options: ListOptions) -> KvFuture<ListPage> {
        ready(self.page(namespace, options)).boxed()
    }

    fn drop_namespace(&self, namespace: &NamespaceId) -> KvFuture<()> {
        self.entries().retain(|(of, _), _| of != namespace);
        ready(Ok(())).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::contract::Subject;

    async fn open(clock: Arc<ManualClock>) -> Subject {
        let store = Arc::new(MemoryStore::new(clock.clone()));
        Subject { store, clock, keep: Box::new(()) }
    }

    crate::kv_contract!(open);
}
