//! Everything that a replica holds, in one order, with a checksum; and the way back into a store.

use std::collections::VecDeque;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::Inner;
use crate::entry::{BulkWrite, Entry, PutOptions};
use crate::error::KvError;
use crate::key::{Key, NamespaceId};
use crate::limits::EXPIRATION_TTL_S_MIN;
use crate::sqlite::Stored;
use crate::store::KvStore;

/// Rows that are read at once, at most.
const PAGE_ROWS: i64 = 256;

/// A key with all that it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// The namespace.
    pub namespace: NamespaceId,
    /// The key.
    pub key: Key,
    /// What it holds.
    pub entry: Entry,
}

/// Reads a replica from its first key to its last. What changes meanwhile may be missed or be in:
/// each key is read at some moment between begin and end.
pub struct Export {
    inner: Arc<Inner>,
    namespaces: VecDeque<NamespaceId>,
    page: VecDeque<(Key, Stored)>,
    /// The last key of the page.
    after: String,
    checksum: Sha256,
    count: u64,
}

impl Export {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        let namespaces = inner.sqlite.namespaces().into();
        let checksum = Sha256::new();
        let after = String::new();
        Self { inner, namespaces, page: VecDeque::new(), after, checksum, count: 0 }
    }

    /// The next key that is not expired; none after the last. Values that are not on this node are
    /// fetched.
    ///
    /// # Errors
    /// Those of a read.
    pub async fn next(&mut self) -> Result<Option<Exported>, KvError> {
        while let Some(namespace) = self.namespaces.front().cloned() {
            if let Some((key, stored)) = self.page.pop_front() {
                if let Some(entry) = self.inner.complete(&namespace, &key, stored).await?
                    && !entry.is_expired(self.inner.sqlite.now_s())
                {
                    let exported = Exported { namespace, key, entry };
                    exported.hash_into(&mut self.checksum);
                    self.count += 1;
                    return Ok(Some(exported));
                }
                continue;
            }
            let dump = self.inner.sqlite.dump(&namespace, self.after.clone(), PAGE_ROWS);
            self.page = dump.await?.into();
            match self.page.back() {
                Some((key, _)) => key.as_str().clone_into(&mut self.after),
                None => {
                    self.namespaces.pop_front();
                    self.after.clear();
                }
            }
        }
        Ok(None)
    }

    /// The SHA-256 of all that was exported so far, and how many keys that are. Stores that hold the
    /// same have the same.
    pub fn checksum(&self) -> ([u8; 32], u64) {
        (self.checksum.clone().finalize().into(), self.count)
    }
}

impl Exported {
    /// Each part is led by its length, so that no two exports look alike.
    fn hash_into(&self, hash: &mut Sha256) {
        let metadata = self.entry.metadata.as_deref();
        let parts = [
            self.namespace.as_str().as_bytes(),
            self.key.as_str().as_bytes(),
            &self.entry.value,
            metadata.unwrap_or_default().as_bytes(),
        ];
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.update([u8::from(metadata.is_some())]);
        hash.update(self.entry.expiration.unwrap_or(0).to_be_bytes());
    }
}

/// Writes exported keys of one namespace into a store. Keys that expire sooner than a store takes
/// (`EXPIRATION_TTL_S_MIN`) are left out; returns how many were written.
///
/// # Errors
/// Those of a bulk write: at most 10,000 keys and 100 MiB.
pub async fn import(
    store: &dyn KvStore,
    namespace: &NamespaceId,
    keys: Vec<(Key, Entry)>,
    now_s: u64,
) -> Result<usize, KvError> {
    // A second's reserve: the store's own clock checks again.
    let soonest = now_s + EXPIRATION_TTL_S_MIN.unsigned_abs() + 1;
    let writes: Vec<_> = keys
        .into_iter()
        .filter(|(_, entry)| entry.expiration.is_none_or(|at| at >= soonest))
        .map(|(key, entry)| BulkWrite {
            key,
            value: entry.value,
            options: PutOptions {
                expiration: entry.expiration.map(|at| i64::try_from(at).unwrap_or(i64::MAX)),
                expiration_ttl: None,
                metadata: entry.metadata,
            },
        })
        .collect();
    let count = writes.len();
    store.write_bulk(namespace, writes).await?;
    Ok(count)
}
