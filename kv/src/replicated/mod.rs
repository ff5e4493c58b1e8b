//! The replicated engine: every node holds all keys in a SQLite store of its own, fed by ordered
//! logs that all nodes share. Reads never leave the node. A write is acknowledged when its log has
//! it and this node shows it.
//!
//! Values above `ReplicatedOptions::inline_bytes_max` are lazy: a replica holds their name, metadata
//! and size at once, fetches the value from the blob store when it is first read here, and keeps it
//! then.
//!
//! It knows no NATS: `LogEngine` is what it stands on. It keeps no consensus of its own.

mod agree;
mod blobs;
mod export;
mod follow;
mod health;
mod options;
mod record;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod write;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::ready;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

pub use export::{Export, Exported, import};
pub use health::{Health, ReplicatedStats};
pub use options::ReplicatedOptions;

use crate::entry::{BulkWrite, Entry, PutOptions, check_bulk_count};
use crate::error::KvError;
use crate::key::{Key, NamespaceId};
use crate::list::{ListOptions, ListPage};
use crate::log::{
    Absent, BlobStore, ChangeLog, Connectivity, LogBlobs, LogEngine, LogOptions, Retention,
};
use crate::sqlite::{Resync, SqliteStore};
use crate::store::{KvFuture, KvStore, check_get_many};
use agree::Agreement;
use health::{Counters, ShardHealth, Status};

/// Shards that a store may have, at most: each is a log, and each log costs its servers.
const SHARDS_MAX: u16 = 256;
/// The log of large values.
const BLOBS: &str = "kv-blobs";
/// The log of what all nodes agree on.
const META: &str = "kv-meta";

/// A store of which every node holds a replica. Clones share it.
///
/// On one node, what was acknowledged is read from then on, and the reads of a key never go back in
/// time, restarts included as long as the disk keeps what it took. From another node a write is seen
/// when its record came there. Two writes of one key are ordered by their log, for all nodes alike.
///
/// Dropping the last clone ends it, as `close` does, without waiting for writes under way.
#[derive(Clone)]
pub struct ReplicatedStore(Arc<Owner>);

/// Ends the followers with the last clone of the store.
struct Owner(Arc<Inner>);

/// What the store's tasks share.
struct Inner {
    sqlite: SqliteStore,
    logs: Vec<Arc<dyn ChangeLog>>,
    blobs: Arc<dyn BlobStore>,
    options: ReplicatedOptions,
    status: Status,
    counters: Counters,
    writes: Arc<Semaphore>,
    /// Room for the bytes of writes, in units of 1 KiB.
    write_kib: Arc<Semaphore>,
    fetches: Semaphore,
    closed: watch::Sender<bool>,
    meta: Arc<dyn ChangeLog>,
    agreement: watch::Sender<Agreement>,
    /// Told whenever a shard has found its log.
    begun: watch::Sender<()>,
    runtime: Handle,
}

impl ReplicatedStore {
    /// Opens or creates this node's replica at `path` and begins to follow the logs `kv.<shard>` of
    /// the engine, large values being in `kv-blobs`. In `kv-meta` stands how many shards there are, and whose
    /// the logs are: a node that has it otherwise follows nothing and says so in its log and `stats`.
    /// It does not wait for them: `health` tells when the replica is current. Blocks, for
    /// as long as recovering the file takes.
    ///
    /// # Errors
    /// Those of `SqliteStore::open`; `WrongRole` also for a file that was not a replica of
    /// `options.shards`.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn open(
        engine: &dyn LogEngine,
        path: impl AsRef<Path>,
        mut options: ReplicatedOptions,
    ) -> Result<Self, KvError> {
        options.shards = options.shards.clamp(1, SHARDS_MAX);
        let shards = options.shards;
        let sqlite = SqliteStore::open_replica(path.as_ref(), options.sqlite.clone(), shards)?;
        let logs: Vec<_> = (0..shards)
            .map(|shard| {
                let known = sqlite.shard(shard).identity.is_some();
                engine.log(&log_name(shard), log_options(&options, known))
            })
            .collect();
        let blobs = engine.log(BLOBS, log_options(&options, false));
        let meta = engine.log(META, log_options(&options, false));
        let status = Status::new(shard_health(&sqlite, shards), logs[0].connectivity());
        let inner = Arc::new(Inner {
            logs,
            blobs: Arc::new(LogBlobs::new(blobs)),
            status,
            counters: Counters::default(),
            writes: Arc::new(Semaphore::new(options.writes_max)),
            write_kib: Arc::new(Semaphore::new(options.write_bytes_max / write::KIB)),
            fetches: Semaphore::new(options.fetches_max.max(1)),
            closed: watch::Sender::new(false),
            meta,
            agreement: watch::Sender::new(Agreement::Unknown),
            begun: watch::Sender::new(()),
            runtime: Handle::current(),
            sqlite,
            options,
        });
        for shard in 0..shards {
            inner.runtime.spawn(follow::run(inner.clone(), shard));
        }
        inner.runtime.spawn(agree::run(inner.clone()));
        inner.runtime.spawn(watch_connectivity(inner.clone()));
        Ok(Self(Arc::new(Owner(inner))))
    }

    /// Whether the replica is current, for readiness: a store that starts, is cut off for long or
    /// resyncs answers with what it had.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.inner().status.watch()
    }

    /// How long ago the shard that is furthest behind is known to have had everything.
    pub fn staleness(&self) -> Duration {
        let now = Instant::now();
        let shards = self.inner().status.read();
        let ages = shards.iter().map(|shard| now.saturating_duration_since(shard.caught_up));
        ages.max().unwrap_or_default()
    }

    /// Figures for metrics.
    pub fn stats(&self) -> ReplicatedStats {
        let inner = self.inner();
        let counters = &inner.counters;
        let behind = |(shard, health): (usize, &ShardHealth)| {
            let shard = u16::try_from(shard).unwrap_or(u16::MAX);
            health.last.saturating_sub(inner.sqlite.shard(shard).sequence)
        };
        ReplicatedStats {
            sqlite: inner.sqlite.stats(),
            staleness: self.staleness(),
            lag: inner.status.read().iter().enumerate().map(behind).collect(),
            resyncs: counters.resyncs.read(),
            reconnects: counters.reconnects.read(),
            pending: (inner.options.writes_max - inner.writes.available_permits()) as u64,
            records: counters.records.read(),
            records_unknown: counters.records_unknown.read(),
            writes_unavailable: counters.writes_unavailable.read(),
            writes_unknown: counters.writes_unknown.read(),
            fault: inner.fault(),
            fetches: counters.fetches.read(),
        }
    }

    /// Refuses further operations, finishes the writes that are under way, and closes the file.
    pub async fn close(&self) {
        let inner = self.inner();
        inner.closed.send_replace(true);
        let all = u32::try_from(inner.options.writes_max).unwrap_or(u32::MAX);
        // Nobody closes the semaphore; its permits are back when no write is under way.
        let _all = inner.writes.acquire_many(all).await;
        inner.sqlite.close().await;
    }

    /// Reads everything that the replica holds, in the order of namespaces and keys.
    pub fn export(&self) -> Export {
        Export::new(self.0.0.clone())
    }

    /// Removes large values that no key names any more and that were put more than 24 hours ago, and
    /// returns how many. For one node of a cluster, now and then.
    ///
    /// # Errors
    /// `Unavailable` where this node is not current, and those of the blob store.
    pub async fn collect_blobs(&self) -> Result<usize, KvError> {
        self.inner().collect_blobs().await
    }

    fn inner(&self) -> &Inner {
        &self.0.0
    }

    fn shared(&self) -> Arc<Inner> {
        self.0.0.clone()
    }
}

impl Inner {
    /// Why some log is not followed now.
    fn fault(&self) -> Option<Arc<str>> {
        match &*self.agreement.borrow() {
            Agreement::Other(why) => Some(why.clone()),
            _ => self.status.read().into_iter().find_map(|shard| shard.fault),
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.closed.send_replace(true);
    }
}

impl KvStore for ReplicatedStore {
    fn get(&self, namespace: &NamespaceId, key: &Key) -> KvFuture<Option<Entry>> {
        let found = self.inner().sqlite.find(namespace, key);
        let (inner, namespace, key) = (self.shared(), namespace.clone(), key.clone());
        async move {
            match found.await? {
                Some(stored) => inner.complete(&namespace, &key, stored).await,
                None => Ok(None),
            }
        }
        .boxed()
    }

    fn get_many(&self, namespace: &NamespaceId, keys: Vec<Key>) -> KvFuture<Vec<Option<Entry>>> {
        if let Err(fault) = check_get_many(&keys) {
            return ready(Err(fault)).boxed();
        }
        let found = self.inner().sqlite.find_many(namespace, keys.clone());
        let (inner, namespace) = (self.shared(), namespace.clone());
        async move {
            let mut entries = Vec::with_capacity(keys.len());
            for (stored, key) in found.await?.into_iter().zip(&keys) {
                entries.push(match stored {
                    Some(stored) => inner.complete(&namespace, key, stored).await?,
                    None => None,
                });
            }
            Ok(entries)
        }
        .boxed()
    }

    fn put(
        &self,
        namespace: &NamespaceId,
        key: &Key,
        value: Bytes,
        options: PutOptions,
    ) -> KvFuture<()> {
        match Entry::from_put(value, options, self.inner().sqlite.now_s()) {
            Ok(entry) => self.write(namespace, vec![(key.clone(), Some(entry))]),
            Err(fault) => ready(Err(fault)).boxed(),
        }
    }

    fn delete(&self, namespace: &NamespaceId, key: &Key) -> KvFuture<()> {
        self.write(namespace, vec![(key.clone(), None)])
    }

    fn write_bulk(&self, namespace: &NamespaceId, writes: Vec<BulkWrite>) -> KvFuture<()> {
        match Entry::from_bulk(writes, self.inner().sqlite.now_s()) {
            Ok(pairs) => {
                let pairs = pairs.into_iter().map(|(key, entry)| (key, Some(entry)));
                self.write(namespace, pairs.collect())
            }
            Err(fault) => ready(Err(fault)).boxed(),
        }
    }

    fn delete_bulk(&self, namespace: &NamespaceId, keys: Vec<Key>) -> KvFuture<()> {
        match check_bulk_count(keys.len()) {
            Ok(()) => self.write(namespace, keys.into_iter().map(|key| (key, None)).collect()),
            Err(fault) => ready(Err(fault)).boxed(),
        }
    }

    fn list(&self, namespace: &NamespaceId, options: ListOptions) -> KvFuture<ListPage> {
        self.inner().sqlite.list(namespace, options)
    }

    fn drop_namespace(&self, namespace: &NamespaceId) -> KvFuture<()> {
        self.drop_everywhere(namespace)
    }
}

fn log_name(shard: u16) -> String {
    format!("kv.{shard}")
}

/// A log that the replica followed before is not made anew where it is gone, nor is any of a cluster that has
/// begun.
fn log_options(options: &ReplicatedOptions, known: bool) -> LogOptions {
    LogOptions {
        retention: Retention::LastPerSubject,
        absent: if known || options.cluster.is_some() { Absent::Wait } else { Absent::Create },
        append_timeout: options.write_timeout,
        check_interval: options.check_interval,
        ..LogOptions::default()
    }
}

/// What the file says of when each shard had everything.
fn shard_health(sqlite: &SqliteStore, shards: u16) -> Vec<ShardHealth> {
    let (now, now_s) = (Instant::now(), sqlite.now_s());
    let health = |shard| {
        let state = sqlite.shard(shard);
        let age = Duration::from_secs(now_s.saturating_sub(state.caught_up_s));
        ShardHealth {
            // A machine that was started since has no earlier moment.
            caught_up: now.checked_sub(age).unwrap_or(now),
            started: false,
            resyncing: state.resync != Resync::None,
            last: state.sequence,
            fault: None,
        }
    };
    (0..shards).map(health).collect()
}

async fn watch_connectivity(inner: Arc<Inner>) {
    let mut connectivity: watch::Receiver<Connectivity> = inner.logs[0].connectivity();
    let mut closed = inner.closed.subscribe();
    loop {
        inner.status.publish();
        tokio::select! {
            changed = connectivity.changed() => if changed.is_err() { break },
            _ = closed.wait_for(|closed| *closed) => break,
        }
    }
}
