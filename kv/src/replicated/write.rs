//! The write path: a record is appended to its key's log, and once the log has it, applied here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::ready;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, TryAcquireError};
use tokio::time::Instant;

use super::agree::Agreement;
use super::{Inner, ReplicatedStore, record};
use crate::entry::Entry;
use crate::error::KvError;
use crate::key::{Key, NamespaceId};
use crate::log::{Append, BlobError, LogError};
use crate::sqlite::{Blob, ReplicaRecord, ShardState, Step, What};
use crate::store::KvFuture;

/// The unit in which bytes of writes are counted.
pub(super) const KIB: usize = 1024;
/// The pause before a replica whose queue is full is tried again.
const QUEUE_PAUSE: Duration = Duration::from_millis(5);

/// A place among the writes under way.
struct Place {
    inner: Arc<Inner>,
    _write: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl ReplicatedStore {
    /// Writes entries, or deletes where there is none. A later one of a key replaces an earlier.
    pub(super) fn write(
        &self,
        namespace: &NamespaceId,
        writes: Vec<(Key, Option<Entry>)>,
    ) -> KvFuture<()> {
        let bytes = writes.iter().map(|(key, entry)| {
            key.as_str().len() + entry.as_ref().map_or(0, |entry| entry.value.len())
        });
        let namespace = namespace.clone();
        self.run(bytes.sum(), |inner| async move {
            inner.write_all(&namespace, last_of_each(writes)).await
        })
    }

    pub(super) fn drop_everywhere(&self, namespace: &NamespaceId) -> KvFuture<()> {
        let namespace = namespace.clone();
        self.run(0, |inner| async move { inner.drop_namespace(&namespace).await })
    }

    /// Does a write on a task of its own, so that it is under way from the call on and done even if
    /// nobody waits for it.
    fn run<W>(&self, bytes: usize, write: impl FnOnce(Arc<Inner>) -> W) -> KvFuture<()>
    where
        W: Future<Output = Result<(), KvError>> + Send + 'static,
    {
        let place = match self.enter(bytes) {
            Ok(place) => place,
            Err(refusal) => return ready(Err(refusal)).boxed(),
        };
        let write = write(place.inner.clone());
        let task = self.inner().runtime.spawn(async move {
            let result = write.await;
            place.inner.count(&result);
            drop(place);
            result
        });
        task.map(|done| done.unwrap_or(Err(KvError::Closed))).boxed()
    }

    fn enter(&self, bytes: usize) -> Result<Place, KvError> {
        let inner = self.shared();
        if *inner.closed.borrow() {
            return Err(KvError::Closed);
        }
        let refusal = |_: TryAcquireError| KvError::Overloaded;
        let write = inner.writes.clone().try_acquire_owned().map_err(refusal)?;
        // One that is larger than all the room there is takes all of it.
        let kib = bytes.div_ceil(KIB).min(inner.options.write_bytes_max / KIB);
        let kib = u32::try_from(kib).unwrap_or(u32::MAX);
        let bytes = inner.write_kib.clone().try_acquire_many_owned(kib).map_err(refusal)?;
        Ok(Place { inner, _write: write, _bytes: bytes })
    }
}

impl Inner {
    async fn write_all(
        &self,
        namespace: &NamespaceId,
        writes: Vec<(Key, Option<Entry>)>,
    ) -> Result<(), KvError> {
        let appends = writes.into_iter().map(|(key, entry)| self.write_key(namespace, key, entry));
        let results = stream::iter(appends).buffer_unordered(self.options.bulk_appends_max);
        // The others are finished also if one fails.
        together(results.collect().await)
    }

    async fn write_key(
        &self,
        namespace: &NamespaceId,
        key: Key,
        entry: Option<Entry>,
    ) -> Result<(), KvError> {
        let shard = record::shard_of(namespace, &key, self.options.shards);
        let before = self.shard(shard).await?;
        let absence = self.options.absence_max;
        let (append, what) = match entry {
            Some(entry) => {
                let blob = self.store_value(shard, &entry).await?;
                let now_s = self.sqlite.now_s();
                let append = record::put(namespace, &key, &entry, blob, now_s, absence);
                (append, What::Put { key, entry, blob })
            }
            None => (record::delete(namespace, &key, absence), What::Delete(key)),
        };
        let sequence = self.append(shard, &before, append).await?;
        let record = ReplicaRecord { sequence, namespace: namespace.clone(), what };
        self.apply_own(shard, before.incarnation, record).await
    }

    /// Appends to a shard's log, `before` being the shard's state from before the call.
    async fn append(
        &self,
        shard: u16,
        before: &ShardState,
        append: Append,
    ) -> Result<u64, KvError> {
        let appended = self.logs[usize::from(shard)].append(append).await;
        let sequence = appended.map_err(log_error)?;
        if sequence > before.high {
            return Ok(sequence);
        }
        // Sequences grow: this is another log, or one that lost its tail, and the follower does not
        // know yet.
        Err(KvError::OutcomeUnknown("the log was replaced meanwhile".into()))
    }

    /// Puts a large value where its record can name it.
    async fn store_value(&self, shard: u16, entry: &Entry) -> Result<Option<Blob>, KvError> {
        let log = &self.logs[usize::from(shard)];
        let inline_max = self.options.inline_bytes_max.min(log.payload_bytes_max());
        if entry.value.len() <= inline_max {
            return Ok(None);
        }
        let stored = self.blobs.put(entry.value.clone()).await;
        let hash = stored.map_err(|error| match error {
            // However the value fared, nothing names it yet.
            BlobError::Log(LogError::Unavailable(why) | LogError::OutcomeUnknown(why)) => {
                KvError::Unavailable(why.to_string().into())
            }
            error => {
                KvError::Storage { action: "store a large value".into(), cause: Arc::new(error) }
            }
        })?;
        Ok(Some(Blob { hash, size: entry.value.len() as u64 }))
    }

    /// The shard's state; waits until it follows a log.
    async fn shard(&self, shard: u16) -> Result<ShardState, KvError> {
        let deadline = Instant::now() + self.options.write_timeout;
        let mut begun = self.begun.subscribe();
        loop {
            if let Agreement::Other(why) = &*self.agreement.borrow() {
                return Err(KvError::Unavailable(why.to_string().into()));
            }
            let state = self.sqlite.shard(shard);
            if state.identity.is_some() {
                return Ok(state);
            }
            if tokio::time::timeout_at(deadline, begun.changed()).await.is_err() {
                return Err(KvError::Unavailable("the log was never reached".into()));
            }
        }
    }

    /// Shows on this node what the log has acknowledged.
    async fn apply_own(
        &self,
        shard: u16,
        incarnation: u64,
        record: ReplicaRecord,
    ) -> Result<(), KvError> {
        let deadline = Instant::now() + self.options.write_timeout;
        loop {
            let step = Step::Own { shard, incarnation, record: record.clone() };
            match self.sqlite.replicate(step).await {
                Ok(()) => break,
                Err(KvError::Overloaded) if Instant::now() < deadline => {
                    tokio::time::sleep(QUEUE_PAUSE).await;
                }
                Err(KvError::Overloaded) => {
                    let why = "the log has it, this node is too busy to show it yet";
                    return Err(KvError::OutcomeUnknown(why.into()));
                }
                Err(error) => return Err(error),
            }
        }
        if self.sqlite.shard(shard).incarnation == incarnation {
            return Ok(());
        }
        Err(KvError::OutcomeUnknown("the log was replaced meanwhile".into()))
    }

    async fn drop_namespace(&self, namespace: &NamespaceId) -> Result<(), KvError> {
        let drops = (0..self.options.shards).map(|shard| self.drop_in(shard, namespace));
        let results = stream::iter(drops).buffer_unordered(usize::from(self.options.shards));
        together(results.collect().await)
    }

    /// Marks the namespace as dropped in one shard, then frees what the log holds of it. Until that
    /// is done the mark stays for ever; after it, as long as a node may be away.
    async fn drop_in(&self, shard: u16, namespace: &NamespaceId) -> Result<(), KvError> {
        let before = self.shard(shard).await?;
        let log = &self.logs[usize::from(shard)];
        let sequence = self.append(shard, &before, record::dropped(namespace, None)).await?;
        let what = What::Drop { before: sequence };
        let record = ReplicaRecord { sequence, namespace: namespace.clone(), what };
        self.apply_own(shard, before.incarnation, record).await?;
        let freed = match log.purge(record::all_keys(namespace), sequence).await {
            Ok(()) => {
                let mark = record::dropped(namespace, Some((sequence, self.options.absence_max)));
                log.append(mark).await.map(|_| ())
            }
            Err(error) => Err(error),
        };
        if let Err(error) = freed {
            // Every replica keeps to the mark all the same.
            tracing::warn!(%namespace, shard, %error, "a dropped namespace still fills its log");
        }
        Ok(())
    }

    fn count(&self, result: &Result<(), KvError>) {
        match result {
            Err(KvError::Unavailable(_)) => self.counters.writes_unavailable.add(1),
            Err(KvError::OutcomeUnknown(_)) => self.counters.writes_unknown.add(1),
            _ => {}
        }
    }
}

/// What came of several writes: the first failure, which says that nothing was written only if that is so of
/// all.
fn together(results: Vec<Result<(), KvError>>) -> Result<(), KvError> {
    let none = results.iter().all(|result| matches!(result, Err(KvError::Unavailable(_))));
    let first = results.into_iter().find(Result::is_err).unwrap_or(Ok(()));
    match first {
        Err(KvError::Unavailable(why)) if !none => {
            Err(KvError::OutcomeUnknown(format!("a part of it was not: {why}").into()))
        }
        first => first,
    }
}

/// Appends of one key may overtake each other: only the last one counts anyway.
fn last_of_each(writes: Vec<(Key, Option<Entry>)>) -> Vec<(Key, Option<Entry>)> {
    if writes.len() < 2 {
        return writes;
    }
    writes.into_iter().collect::<HashMap<_, _>>().into_iter().collect()
}

fn log_error(error: LogError) -> KvError {
    match error {
        LogError::Unavailable(why) => KvError::Unavailable(why.to_string().into()),
        LogError::OutcomeUnknown(why) => KvError::OutcomeUnknown(why.to_string().into()),
        LogError::Closed => KvError::Closed,
        error => KvError::Storage { action: "append to the log".into(), cause: Arc::new(error) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_was_written_only_if_no_part_was() {
        let refused = || Err(KvError::Unavailable("no server".into()));
        assert!(matches!(together(vec![refused(), refused()]), Err(KvError::Unavailable(_))));
        assert!(matches!(together(vec![Ok(()), refused()]), Err(KvError::OutcomeUnknown(_))));
        assert!(together(vec![Ok(()), Ok(())]).is_ok());
    }
}
