//! The embedded engine: one SQLite file, one thread that writes with group commit, some that read,
//! and a memory cache before them. It refuses work it cannot queue, and waits for nothing else.

mod apply;
mod cache;
mod namespaces;
mod queue;
mod reader;
mod replica;
mod replica_store;
mod schema;
mod stats;
mod sweep;
#[cfg(test)]
mod tests;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::ready;
use rusqlite::Connection;
use tokio::sync::{oneshot, watch};

pub(crate) use reader::Stored;
pub(crate) use replica::{Blob, ReplicaRecord, Resync, ShardState, Step, What};
pub use stats::{BATCH_SIZE_BOUNDS, SqliteStats};

use crate::clock::{Clock, SystemClock};
use crate::entry::{BulkWrite, Entry, PutOptions, check_bulk_count};
use crate::epochs::Epochs;
use crate::error::KvError;
use crate::key::{Key, NamespaceId};
use crate::limits::BULK_GET_BYTES_MAX;
use crate::list::{ListOptions, ListPage};
use crate::store::{KvFuture, KvStore, check_get_many};
use cache::Cache;
use namespaces::Namespaces;
use queue::{Bounds, Queue};
use reader::ReadJob;
use replica::Shards;
use schema::{Role, storage};
use writer::{Change, Write, Writer};

/// How a `SqliteStore` uses the machine.
#[derive(Clone)]
pub struct SqliteOptions {
    /// What the memory cache weighs at most, in bytes.
    pub cache_bytes_max: u64,
    /// Threads that read, each with a connection; at least one.
    pub readers: usize,
    /// Reads that wait for a reader, at most.
    pub read_queue_max: usize,
    /// Writes that wait for the writer, at most.
    pub write_queue_max: usize,
    /// Bytes of the writes that wait, at most; one larger write still fits alone.
    pub write_queue_bytes_max: usize,
    /// The pause between two looks for rows to sweep.
    pub sweep_interval: Duration,
    /// What decides whether a key is expired.
    pub clock: Arc<dyn Clock>,
    /// Where to tell the caches of other processes what changes; this store alone turns it.
    pub epochs: Option<Arc<Epochs>>,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            cache_bytes_max: 64 * 1024 * 1024,
            readers: 2,
            read_queue_max: 8192,
            write_queue_max: 8192,
            write_queue_bytes_max: 256 * 1024 * 1024,
            sweep_interval: Duration::from_secs(1),
            clock: Arc::new(SystemClock),
            epochs: None,
        }
    }
}

/// A durable store in one SQLite file, which it holds alone. Clones share it.
///
/// Dropping the last clone stores what is queued and blocks until that is done; `close` does the
/// same without blocking. All namespaces' ids are kept in memory.
#[derive(Clone)]
pub struct SqliteStore(Arc<Handle>);

/// What callers and the engine's threads share.
struct Shared {
    cache: Cache,
    clock: Arc<dyn Clock>,
    counters: stats::Counters,
    namespaces: Namespaces,
    /// Empty but in a replica.
    shards: Shards,
    reads: Queue<ReadJob>,
    writes: Queue<Write>,
    /// Threads that have not ended.
    threads: watch::Sender<usize>,
}

struct Handle {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl SqliteStore {
    /// Opens or creates the database at `path`; beside it lie SQLite's log and a lock file.
    /// Blocks, for as long as recovering the log takes.
    ///
    /// # Errors
    /// `InUse`, `SchemaTooNew`, `WrongRole` if it is a replica, or `Storage`.
    pub fn open(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self, KvError> {
        Self::open_as(path.as_ref(), options, Role::Alone)
    }

    fn open_as(path: &Path, options: SqliteOptions, role: Role) -> Result<Self, KvError> {
        let lock = schema::lock(path)?;
        let connection = schema::open_writer(path, role)?;
        let readers = (0..options.readers.max(1))
            .map(|_| schema::open_reader(path))
            .collect::<Result<Vec<_>, _>>()?;
        let write_bounds =
            Bounds { items_max: options.write_queue_max, bytes_max: options.write_queue_bytes_max };
        let read_bounds = Bounds { items_max: options.read_queue_max, bytes_max: usize::MAX };
        let shared = Arc::new(Shared {
            cache: Cache::new(options.cache_bytes_max),
            clock: options.clock,
            counters: stats::Counters::default(),
            namespaces: Namespaces::new(schema::load_namespaces(&connection)?),
            shards: Shards::new(replica::load(&connection).map_err(storage("load checkpoints"))?),
            reads: Queue::new(read_bounds),
            writes: Queue::new(write_bounds),
            threads: watch::Sender::new(0),
        });
        // From here on a failure drops the handle, which ends the threads already begun.
        let mut handle = Handle { shared: shared.clone(), threads: Vec::new() };
        let sweep_interval = options.sweep_interval;
        let writer = Writer { connection, lock, shared, sweep_interval, epochs: options.epochs };
        handle.spawn("kv-writer".into(), move |_| writer.run())?;
        for (index, connection) in readers.into_iter().enumerate() {
            let run = move |shared: &Shared| reader::run(&connection, shared);
            handle.spawn(format!("kv-reader-{index}"), run)?;
        }
        Ok(Self(Arc::new(handle)))
    }

    /// Refuses further operations, stores what is queued, and ends when the file is closed.
    pub async fn close(&self) {
        self.0.shared.close();
        let mut threads = self.0.shared.threads.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        let _ = threads.wait_for(|running| *running == 0).await;
    }

    /// Removes a bounded number of rows that no read can see any more. The store does this by
    /// itself when it is idle; `SqliteStats::swept` tells how many.
    pub fn sweep(&self) -> KvFuture<()> {
        self.write(Change::Sweep, 0)
    }

    /// Figures for metrics.
    pub fn stats(&self) -> SqliteStats {
        let shared = &self.0.shared;
        SqliteStats {
            cache_entries: shared.cache.entries(),
            cache_bytes: shared.cache.bytes(),
            write_queue: shared.writes.len() as u64,
            read_queue: shared.reads.len() as u64,
            ..shared.counters.read()
        }
    }

    fn write(&self, change: Change, bytes: usize) -> KvFuture<()> {
        let (reply, answer) = oneshot::channel();
        match self.0.shared.writes.push(Write { change, reply }, bytes) {
            Ok(()) => answered(answer),
            Err(refusal) => self.refuse(refusal),
        }
    }

    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection, &Shared) -> Result<T, KvError> + Send + 'static,
    ) -> KvFuture<T> {
        let (reply, answer) = oneshot::channel();
        let shared = self.0.shared.clone();
        let job = move |connection: &Connection| {
            // Nobody waits for the answer of a dropped future.
            if !reply.is_closed() {
                let _ = reply.send(read(connection, &shared));
            }
        };
        match self.0.shared.reads.push(Box::new(job), 0) {
            Ok(()) => answered(answer),
            Err(refusal) => self.refuse(refusal),
        }
    }

    fn refuse<T: Send + 'static>(&self, refusal: KvError) -> KvFuture<T> {
        if matches!(refusal, KvError::Overloaded) {
            self.0.shared.counters.overloaded.add(1);
        }
        ready(Err(refusal)).boxed()
    }

    fn put_entries(&self, namespace: &NamespaceId, pairs: Vec<(Key, Entry)>) -> KvFuture<()> {
        let bytes = pairs.iter().map(|(key, entry)| key.as_str().len() + entry.value.len()).sum();
        self.write(Change::Put(namespace.clone(), pairs), bytes)
    }

    fn delete_keys(&self, namespace: &NamespaceId, keys: Vec<Key>) -> KvFuture<()> {
        let bytes = keys.iter().map(|key| key.as_str().len()).sum();
        self.write(Change::Delete(namespace.clone(), keys), bytes)
    }

    /// Reads a key, its value where it is here.
    fn look(&self, namespace: &NamespaceId, key: &Key) -> KvFuture<Option<Stored>> {
        let Some(namespace) = self.0.shared.namespaces.find(namespace) else {
            return ready(Ok(None)).boxed();
        };
        let cache_key = (namespace, key.clone());
        match self.0.shared.recall(&cache_key) {
            Some(entry) => ready(Ok(entry.map(Stored::Here))).boxed(),
            None => self.read(move |connection, shared| {
                reader::load(connection, shared, namespace, &cache_key.1)
            }),
        }
    }

    /// Reads keys as `look` does; their number was checked.
    fn look_many(&self, namespace: &NamespaceId, keys: Vec<Key>) -> KvFuture<Vec<Option<Stored>>> {
        let mut entries = vec![None; keys.len()];
        let Some(namespace) = self.0.shared.namespaces.find(namespace) else {
            return ready(Ok(entries)).boxed();
        };
        let mut missing = Vec::new();
        let mut bytes = 0;
        for (index, key) in keys.into_iter().enumerate() {
            let cache_key = (namespace, key);
            match self.0.shared.recall(&cache_key) {
                Some(entry) => {
                    entries[index] = entry.map(Stored::Here);
                    bytes += entries[index].as_ref().map_or(0, Stored::value_bytes);
                }
                None => missing.push((index, cache_key.1)),
            }
        }
        if bytes > BULK_GET_BYTES_MAX as u64 {
            return ready(Err(KvError::BulkGetTooLarge)).boxed();
        }
        if missing.is_empty() {
            return ready(Ok(entries)).boxed();
        }
        self.read(move |connection, shared| {
            let loaded = reader::load_many(connection, shared, namespace, &missing, bytes)?;
            for (index, entry) in loaded {
                entries[index] = entry;
            }
            Ok(entries)
        })
    }
}

impl KvStore for SqliteStore {
    fn get(&self, namespace: &NamespaceId, key: &Key) -> KvFuture<Option<Entry>> {
        let found = self.look(namespace, key);
        found.map(|found| found?.map(Stored::here).transpose()).boxed()
    }

    fn get_many(&self, namespace: &NamespaceId, keys: Vec<Key>) -> KvFuture<Vec<Option<Entry>>> {
        if let Err(fault) = check_get_many(&keys) {
            return ready(Err(fault)).boxed();
        }
        let here = |stored: Option<Stored>| stored.map(Stored::here).transpose();
        let found = self.look_many(namespace, keys);
        found.map(move |found| found?.into_iter().map(here).collect()).boxed()
    }

    fn put(
        &self,
        namespace: &NamespaceId,
        key: &Key,
        value: Bytes,
        options: PutOptions,
    ) -> KvFuture<()> {
        match Entry::from_put(value, options, self.0.shared.clock.now_s()) {
            Ok(entry) => self.put_entries(namespace, vec![(key.clone(), entry)]),
            Err(fault) => ready(Err(fault)).boxed(),
        }
    }

    fn delete(&self, namespace: &NamespaceId, key: &Key) -> KvFuture<()> {
        self.delete_keys(namespace, vec![key.clone()])
    }

    fn write_bulk(&self, namespace: &NamespaceId, writes: Vec<BulkWrite>) -> KvFuture<()> {
        match Entry::from_bulk(writes, self.0.shared.clock.now_s()) {
            Ok(pairs) => self.put_entries(namespace, pairs),
            Err(fault) => ready(Err(fault)).boxed(),
        }
    }

    fn delete_bulk(&self, namespace: &NamespaceId, keys: Vec<Key>) -> KvFuture<()> {
        match check_bulk_count(keys.len()) {
            Ok(()) => self.delete_keys(namespace, keys),
            Err(fault) => ready(Err(fault)).boxed(),
        }
    }

    fn list(&self, namespace: &NamespaceId, options: ListOptions) -> KvFuture<ListPage> {
        let query = match options.check() {
            Ok(query) => query,
            Err(fault) => return ready(Err(fault)).boxed(),
        };
        let Some(namespace) = self.0.shared.namespaces.find(namespace) else {
            let empty = ListPage { keys: Vec::new(), list_complete: true, cursor: None };
            return ready(Ok(empty)).boxed();
        };
        self.read(move |connection, shared| {
            reader::list(connection, namespace, &query, shared.clock.now_s())
        })
    }

    fn drop_namespace(&self, namespace: &NamespaceId) -> KvFuture<()> {
        self.write(Change::Drop(namespace.clone()), 0)
    }
}

impl Shared {
    /// What memory knows of a key: its entry, that it has none, or nothing.
    fn recall(&self, key: &cache::CacheKey) -> Option<Option<Entry>> {
        let found = self.cache.find(key);
        let counter =
            if found.is_some() { &self.counters.cache_hits } else { &self.counters.cache_misses };
        counter.add(1);
        found.map(|entry| self.unexpired(entry))
    }

    fn unexpired(&self, entry: Option<Entry>) -> Option<Entry> {
        entry.filter(|entry| self.is_live(entry))
    }

    fn is_live(&self, entry: &Entry) -> bool {
        // The clock is asked only for entries that expire at all.
        entry.expiration.is_none() || !entry.is_expired(self.clock.now_s())
    }

    fn close(&self) {
        self.writes.close();
        self.reads.close();
    }
}

impl Handle {
    fn spawn(
        &mut self,
        name: String,
        run: impl FnOnce(&Shared) + Send + 'static,
    ) -> Result<(), KvError> {
        let running = Running::new(self.shared.clone());
        let thread = thread::Builder::new()
            .name(name)
            .spawn(move || {
                // Taken whole, so that it outlives `run` and what `run` owns.
                let running = running;
                run(&running.0);
            })
            .map_err(storage("start a thread"))?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// Counts a thread as running. A thread that panics closes the store: callers then get an error
/// instead of an answer that never comes.
struct Running(Arc<Shared>);

impl Running {
    fn new(shared: Arc<Shared>) -> Self {
        shared.threads.send_modify(|running| *running += 1);
        Self(shared)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.reads.abandon();
            self.0.writes.abandon();
        }
        self.0.threads.send_modify(|running| *running -= 1);
    }
}

fn answered<T: Send + 'static>(answer: oneshot::Receiver<Result<T, KvError>>) -> KvFuture<T> {
    answer.map(|answer| answer.unwrap_or(Err(KvError::Closed))).boxed()
}
