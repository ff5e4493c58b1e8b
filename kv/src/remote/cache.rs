//! Entries that a `RemoteStore` has read, each good for one epoch of its key.

use crate::epochs::{Epoch, EpochReader};
use crate::key::{Key, NamespaceId};
use crate::weight::{Slot, fits, weight};

type CacheKey = (NamespaceId, Key);

pub(super) struct Cache {
    slots: moka::sync::Cache<CacheKey, (Epoch, Slot)>,
    epochs: EpochReader,
    bytes_max: u64,
}

impl Cache {
    pub(super) fn new(epochs: EpochReader, bytes_max: u64) -> Self {
        let slots = moka::sync::Cache::builder()
            .max_capacity(bytes_max)
            .weigher(|(_, key): &CacheKey, (_, slot): &(Epoch, Slot)| weight(key, slot))
            .build();
        Self { slots, epochs, bytes_max }
    }

    /// What the key is known to hold now.
    pub(super) fn find(&self, namespace: &NamespaceId, key: &Key) -> Option<Slot> {
        let (epoch, slot) = self.slots.get(&(namespace.clone(), key.clone()))?;
        self.epochs.is_current(epoch).then_some(slot)
    }

    /// Begins a load. Must be taken before the peer is asked; none while a write is under way.
    pub(super) fn epoch(&self, namespace: &NamespaceId, key: &Key) -> Option<Epoch> {
        self.epochs.epoch(namespace, key)
    }

    /// Keeps what a load found. If a write came between, the epoch is over and nobody finds it.
    pub(super) fn fill(&self, namespace: NamespaceId, key: Key, epoch: Epoch, slot: Slot) {
        if fits(&slot, self.bytes_max) {
            self.slots.insert((namespace, key), (epoch, slot));
        }
    }

    pub(super) fn entries(&self) -> u64 {
        self.slots.entry_count()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.slots.weighted_size()
    }
}
