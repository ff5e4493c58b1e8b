//! Recently used entries in memory, kept coherent with the database.
//!
//! A reader that loads an entry may be overtaken by a write before it stores the entry here. Each
//! key therefore belongs to a stripe with a version: a reader takes a ticket before it reads, and
//! its fill is refused if a write of the stripe was under way or ended meanwhile. A write takes
//! its keys out before it commits, so that from the commit on nobody finds the old entry here
//! while others already find the new one in the database.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::namespaces::NamespaceRow;
use crate::entry::Entry;
use crate::key::Key;
use crate::weight::{Slot, fits, weight};

/// Versions are kept per stripe of keys: a collision costs a refused fill, nothing else.
const STRIPES: usize = 256;
pub(super) type CacheKey = (NamespaceRow, Key);

/// Proof of when a reader began; none while a write is under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticket(Option<u64>);

pub(super) struct Cache {
    slots: moka::sync::Cache<CacheKey, Slot>,
    stripes: Vec<Mutex<Stripe>>,
    hasher: RandomState,
    bytes_max: u64,
}

#[derive(Default)]
struct Stripe {
    /// Grows with every write that ended.
    version: u64,
    /// Writes between `begin_write` and `end_write`.
    under_way: u32,
}

impl Cache {
    pub(super) fn new(bytes_max: u64) -> Self {
        let slots = moka::sync::Cache::builder()
            .max_capacity(bytes_max)
            .weigher(|(_, key): &CacheKey, slot| weight(key, slot))
            .build();
        Self {
            slots,
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            bytes_max,
        }
    }

    pub(super) fn find(&self, key: &CacheKey) -> Option<Slot> {
        self.slots.get(key)
    }

    /// Begins a load. Must be taken before the database is read.
    pub(super) fn ticket(&self, key: &CacheKey) -> Ticket {
        let stripe = self.stripe(key);
        Ticket((stripe.under_way == 0).then_some(stripe.version))
    }

    /// Keeps what a load found, unless a write came between.
    pub(super) fn fill(&self, key: CacheKey, slot: Slot, ticket: Ticket) {
        let stripe = self.stripe(&key);
        let current = stripe.under_way == 0 && ticket.0 == Some(stripe.version);
        if current && fits(&slot, self.bytes_max) {
            self.slots.insert(key, slot);
        }
    }

    /// Takes a key out before the write of it is committed.
    pub(super) fn begin_write(&self, key: &CacheKey) {
        let mut stripe = self.stripe(key);
        stripe.under_way += 1;
        self.slots.invalidate(key);
    }

    /// Ends a write begun before: with what is stored now, or nothing if it failed.
    pub(super) fn end_write(&self, key: CacheKey, stored: Option<Slot>) {
        let mut stripe = self.stripe(&key);
        stripe.under_way -= 1;
        stripe.version += 1;
        if let Some(slot) = stored.filter(|slot| fits(slot, self.bytes_max)) {
            self.slots.insert(key, slot.map(detached));
        }
    }

    pub(super) fn entries(&self) -> u64 {
        self.slots.entry_count()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.slots.weighted_size()
    }

    fn stripe(&self, key: &CacheKey) -> MutexGuard<'_, Stripe> {
        let index = self.hasher.hash_one(key) as usize % STRIPES;
        // Nothing panics under the lock between the two halves of a change.
        self.stripes[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Copies a value out of the caller's buffer, which may be a whole bulk request: a small entry
/// must not keep that alive.
fn detached(entry: Entry) -> Entry {
    Entry { value: Bytes::copy_from_slice(&entry.value), ..entry }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> CacheKey {
        (NamespaceRow(1), Key::parse(name).unwrap())
    }

    fn slot(value: &str) -> Slot {
        Some(Entry {
            value: Bytes::copy_from_slice(value.as_bytes()),
            metadata: None,
            expiration: None,
        })
    }

    #[test]
    fn a_fill_is_kept_when_nothing_came_between() {
        let cache = Cache::new(1 << 20);
        let ticket = cache.ticket(&key("a"));
        cache.fill(key("a"), slot("old"), ticket);
        assert_eq!(cache.find(&key("a")), Some(slot("old")));
        let ticket = cache.ticket(&key("gone"));
        cache.fill(key("gone"), None, ticket);
        assert_eq!(cache.find(&key("gone")), Some(None));
    }

    /// A reader loads the old entry from the database, a write commits and ends, and only then
    /// does the reader come to fill. At whatever moment of the write the reader began, the cache
    /// must not hold the old entry afterwards.
    #[test]
    fn a_fill_overtaken_by_a_write_is_refused() {
        for reader_begins in 0..2 {
            for reader_fills in reader_begins..3 {
                let cache = Cache::new(1 << 20);
                let mut ticket = None;
                for step in 0..3 {
                    if step == reader_begins {
                        ticket = Some(cache.ticket(&key("a")));
                    }
                    if step == 1 {
                        cache.end_write(key("a"), Some(slot("new")));
                    }
                    if step == reader_fills {
                        cache.fill(key("a"), slot("old"), ticket.unwrap());
                    }
                    if step == 0 {
                        cache.begin_write(&key("a"));
                    }
                }
                let found = cache.find(&key("a"));
                if reader_begins == 0 || reader_fills == 1 {
                    assert_ne!(found, Some(slot("old")), "{reader_begins} {reader_fills}");
                }
            }
        }
    }

    #[test]
    fn a_write_hides_the_old_entry_before_it_commits() {
        let cache = Cache::new(1 << 20);
        let ticket = cache.ticket(&key("a"));
        cache.fill(key("a"), slot("old"), ticket);
        cache.begin_write(&key("a"));
        assert_eq!(cache.find(&key("a")), None);
        cache.end_write(key("a"), None);
        assert_eq!(cache.find(&key("a")), None, "a failed write leaves nothing behind");
    }

    #[test]
    fn large_values_are_not_kept() {
        let cache = Cache::new(1600);
        for (bytes, kept) in [(100, true), (101, false)] {
            let name = key(&bytes.to_string());
            cache.begin_write(&name);
            cache.end_write(name.clone(), Some(slot(&"x".repeat(bytes))));
            assert_eq!(cache.find(&name).is_some(), kept, "{bytes}");
        }
    }

    #[test]
    fn the_cache_stays_within_its_bound() {
        let cache = Cache::new(100_000);
        for number in 0..1000 {
            let name = key(&number.to_string());
            let ticket = cache.ticket(&name);
            cache.fill(name, slot(&"x".repeat(1000)), ticket);
        }
        cache.slots.run_pending_tasks();
        assert!((50_000..=100_000).contains(&cache.bytes()), "{}", cache.bytes());
        assert!((50..=100).contains(&cache.entries()), "{}", cache.entries());
    }
}
