//! A store that lives in another process: this one asks over a stream, remembers what it was
//! told, and learns from the epoch file when that is old. It refuses to wait for room, and a lost
//! stream fails what is under way: nothing is retried.

mod cache;
mod frame;
mod link;
mod message;
mod serve;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::ready;
use tokio::net::UnixStream;

pub use serve::{ServeOptions, serve_remote};

use crate::clock::{Clock, SystemClock};
use crate::counter::Counter;
use crate::entry::{BulkWrite, Entry, PutOptions, check_bulk_count};
use crate::epochs::EpochReader;
use crate::error::KvError;
use crate::key::{Key, NamespaceId};
use crate::list::{ListOptions, ListPage};
use crate::store::{KvFuture, KvStore, check_get_many};
use cache::Cache;
use frame::{LinkError, Values};
use link::Link;
use message::{Answer, Call, split_writes};

/// How a `RemoteStore` uses its process and its link.
pub struct RemoteOptions {
    /// Where the peer's store tells what changes. Without it nothing is kept in memory.
    pub epochs: Option<EpochReader>,
    /// What the memory cache weighs at most, in bytes.
    pub cache_bytes_max: u64,
    /// Operations that wait for their answer, at most.
    pub in_flight_max: usize,
    /// Bytes of requests that wait to be sent, at most; one larger still fits alone.
    pub queue_bytes_max: u32,
    /// What decides whether a key in memory is expired.
    pub clock: Arc<dyn Clock>,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        Self {
            epochs: None,
            cache_bytes_max: 64 * 1024 * 1024,
            in_flight_max: 4096,
            queue_bytes_max: 64 * 1024 * 1024,
            clock: Arc::new(SystemClock),
        }
    }
}

/// The store at the other end of a stream, where `serve_remote` answers. Clones share it.
///
/// Once the peer is gone every operation fails with `Closed`, those under way included. Dropping
/// the last clone ends the link after the answers to what is under way.
#[derive(Clone)]
pub struct RemoteStore(Arc<Remote>);

/// Figures of a `RemoteStore` at one moment. Counters grow from zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemoteStats {
    /// Keys in the memory cache, known-absent and outdated ones included. Approximate.
    pub cache_entries: u64,
    /// What they weigh, in bytes. Approximate.
    pub cache_bytes: u64,
    /// Keys answered from memory.
    pub cache_hits: u64,
    /// Keys that the peer was asked for.
    pub cache_misses: u64,
    /// Operations refused because too much was under way.
    pub overloaded: u64,
    /// Operations that wait for their answer.
    pub in_flight: u64,
}

struct Remote {
    link: Link,
    cache: Option<Cache>,
    clock: Arc<dyn Clock>,
    cache_hits: Counter,
    cache_misses: Counter,
    overloaded: Counter,
}

impl RemoteStore {
    /// Takes a stream whose other end is served. Its frames are moved by a task of the current
    /// runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(stream: UnixStream, options: RemoteOptions) -> Self {
        let cache_bytes_max = options.cache_bytes_max;
        Self(Arc::new(Remote {
            link: Link::new(stream, options.in_flight_max, options.queue_bytes_max),
            cache: options.epochs.map(|epochs| Cache::new(epochs, cache_bytes_max)),
            clock: options.clock,
            cache_hits: Counter::default(),
            cache_misses: Counter::default(),
            overloaded: Counter::default(),
        }))
    }

    /// Figures for metrics.
    pub fn stats(&self) -> RemoteStats {
        let remote = &*self.0;
        RemoteStats {
            cache_entries: remote.cache.as_ref().map_or(0, Cache::entries),
            cache_bytes: remote.cache.as_ref().map_or(0, Cache::bytes),
            cache_hits: remote.cache_hits.read(),
            cache_misses: remote.cache_misses.read(),
            overloaded: remote.overloaded.read(),
            in_flight: remote.link.in_flight() as u64,
        }
    }

    /// Sends a request, after its caller has checked that it breaks no limit.
    fn ask<T: Send + 'static>(
        &self,
        namespace: &NamespaceId,
        call: Call,
        values: Vec<Bytes>,
        take: impl FnOnce(Answer, Values) -> Result<T, LinkError> + Send + 'static,
    ) -> KvFuture<T> {
        let reply = match self.0.link.ask(namespace, call, values) {
            Ok(reply) => reply,
            Err(refusal) => {
                if matches!(refusal, KvError::Overloaded) {
                    self.0.overloaded.add(1);
                }
                return refused(refusal);
            }
        };
        let read = |(answer, values)| {
            take(answer, values).map_err(|error| KvError::Storage {
                action: "read the answer of another process".into(),
                cause: Arc::new(error),
            })
        };
        reply.map(|reply| reply.unwrap_or(Err(KvError::Closed)).and_then(read)).boxed()
    }

    /// What memory knows of a key: its entry, that it has none, or nothing.
    fn recall(&self, namespace: &NamespaceId, key: &Key) -> Option<Option<Entry>> {
        let remote = &*self.0;
        let found = remote.cache.as_ref().and_then(|cache| cache.find(namespace, key));
        let counter = if found.is_some() { &remote.cache_hits } else { &remote.cache_misses };
        counter.add(1);
        let unexpired = |entry: &Entry| {
            // The clock is asked only for entries that expire at all.
            entry.expiration.is_none() || !entry.is_expired(remote.clock.now_s())
        };
        found.map(|entry| entry.filter(unexpired))
    }

    /// Reads a key from the peer into the cache.
    fn load(&self, namespace: &NamespaceId, key: &Key) -> KvFuture<Option<Entry>> {
        let epoch = self.0.cache.as_ref().and_then(|cache| cache.epoch(namespace, key));
        let remote = self.0.clone();
        let (cached_namespace, cached_key) = (namespace.clone(), key.clone());
        self.ask(namespace, Call::Get(key.clone()), Vec::new(), move |answer, values| {
            let found = answer.into_found(values)?;
            if let (Some(cache), Some(epoch)) = (&remote.cache, epoch) {
                cache.fill(cached_namespace, cached_key, epoch, found.clone());
            }
            Ok(found)
        })
    }
}

/// Limits are checked here before anything is sent, so that no request is larger than a frame, and
/// once more by the peer, which does not trust this process.
impl KvStore for RemoteStore {
    fn get(&self, namespace: &NamespaceId, key: &Key) -> KvFuture<Option<Entry>> {
        match self.recall(namespace, key) {
            Some(entry) => ready(Ok(entry)).boxed(),
            None => self.load(namespace, key),
        }
    }

    fn get_many(&self, namespace: &NamespaceId, keys: Vec<Key>) -> KvFuture<Vec<Option<Entry>>> {
        match check_get_many(&keys) {
            Ok(()) => self.ask(namespace, Call::GetMany(keys), Vec::new(), Answer::into_found_many),
            Err(fault) => refused(fault),
        }
    }

    fn put(
        &self,
        namespace: &NamespaceId,
        key: &Key,
        value: Bytes,
        options: PutOptions,
    ) -> KvFuture<()> {
        match Entry::from_put(value.clone(), options.clone(), self.0.clock.now_s()) {
            Ok(_) => {
                let call = Call::Put(key.clone(), options);
                self.ask(namespace, call, vec![value], Answer::into_done)
            }
            Err(fault) => refused(fault),
        }
    }

    fn delete(&self, namespace: &NamespaceId, key: &Key) -> KvFuture<()> {
        self.ask(namespace, Call::Delete(key.clone()), Vec::new(), Answer::into_done)
    }

    fn write_bulk(&self, namespace: &NamespaceId, writes: Vec<BulkWrite>) -> KvFuture<()> {
        match Entry::from_bulk(writes.clone(), self.0.clock.now_s()) {
            Ok(_) => {
                let (pairs, values) = split_writes(writes);
                self.ask(namespace, Call::WriteBulk(pairs), values, Answer::into_done)
            }
            Err(fault) => refused(fault),
        }
    }

    fn delete_bulk(&self, namespace: &NamespaceId, keys: Vec<Key>) -> KvFuture<()> {
        match check_bulk_count(keys.len()) {
            Ok(()) => self.ask(namespace, Call::DeleteBulk(keys), Vec::new(), Answer::into_done),
            Err(fault) => refused(fault),
        }
    }

    fn list(&self, namespace: &NamespaceId, options: ListOptions) -> KvFuture<ListPage> {
        match options.clone().check() {
            Ok(_) => self.ask(namespace, Call::List(options), Vec::new(), Answer::into_page),
            Err(fault) => refused(fault),
        }
    }

    fn drop_namespace(&self, namespace: &NamespaceId) -> KvFuture<()> {
        self.ask(namespace, Call::DropNamespace, Vec::new(), Answer::into_done)
    }
}

fn refused<T: Send + 'static>(refusal: KvError) -> KvFuture<T> {
    ready(Err(refusal)).boxed()
}
