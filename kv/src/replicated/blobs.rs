//! Values that lie in the blob store until somebody reads them here.

use bytes::Bytes;

use super::{Health, Inner};
use crate::entry::Entry;
use crate::error::KvError;
use crate::key::{Key, NamespaceId};
use crate::log::BlobError;
use crate::sqlite::{Blob, Step, Stored};

/// Times that a read follows a key whose value was replaced while it was fetched.
const TRIES_MAX: usize = 4;

impl Inner {
    pub(super) async fn collect_blobs(&self) -> Result<usize, KvError> {
        let failed = |error: BlobError| KvError::Unavailable(error.to_string().into());
        // What is listed first was named before the replica is asked for names, or is young.
        let listed = self.blobs.list().await.map_err(failed)?;
        let health = *self.status.watch().borrow();
        if health != Health::Connected {
            return Err(KvError::Unavailable("this node is not current".into()));
        }
        let named = self.sqlite.blobs().await?;
        let mut removed = 0;
        for hash in listed.into_iter().filter(|hash| !named.contains(hash)) {
            removed += usize::from(self.blobs.remove_stale(hash).await.map_err(failed)?);
        }
        Ok(removed)
    }

    /// An entry with its value, fetched and kept if it was not here.
    pub(super) async fn complete(
        &self,
        namespace: &NamespaceId,
        key: &Key,
        mut stored: Stored,
    ) -> Result<Option<Entry>, KvError> {
        for _ in 0..TRIES_MAX {
            let (entry, blob) = match stored {
                Stored::Here(entry) => return Ok(Some(entry)),
                Stored::Away(entry, blob) => (entry, blob),
            };
            let failure = match self.fetch(blob).await {
                Ok(value) => {
                    self.keep(namespace, key, blob, value.clone()).await;
                    return Ok(Some(Entry { value, ..entry }));
                }
                Err(failure) => failure,
            };
            // A value that nobody names any more may be gone, and the key have another one.
            match self.sqlite.find(namespace, key).await? {
                None => return Ok(None),
                Some(Stored::Away(_, found)) if found == blob => return Err(failure),
                Some(newer) => stored = newer,
            }
        }
        Err(KvError::ValueAway("it was replaced again and again".into()))
    }

    async fn fetch(&self, blob: Blob) -> Result<Bytes, KvError> {
        let place = tokio::time::timeout(self.options.write_timeout, self.fetches.acquire()).await;
        let Ok(Ok(_place)) = place else {
            return Err(KvError::ValueAway("too many values are being fetched".into()));
        };
        self.counters.fetches.add(1);
        let fetched = self.blobs.get(blob.hash).await;
        let value = fetched.map_err(|error| KvError::ValueAway(error.to_string().into()))?;
        if value.len() as u64 != blob.size {
            return Err(KvError::ValueAway("it has another size than its record says".into()));
        }
        Ok(value)
    }

    /// Keeps a fetched value. Where that fails the next read fetches again.
    async fn keep(&self, namespace: &NamespaceId, key: &Key, blob: Blob, value: Bytes) {
        let (namespace, key, hash) = (namespace.clone(), key.clone(), blob.hash);
        let kept = self.sqlite.replicate(Step::Keep { namespace, key, hash, value }).await;
        if let Err(error) = kept {
            tracing::warn!(%error, "cannot keep a value that was fetched");
        }
    }
}
