//! What an entry costs a memory cache, and which entries one keeps.

use crate::entry::Entry;
use crate::key::Key;

/// What is known of a key: its entry, or that there is none.
pub(crate) type Slot = Option<Entry>;

/// A value larger than this part of a cache is not kept: it would displace too much else.
const VALUE_FRACTION: u64 = 16;
/// What the cache itself needs for an entry, by estimate.
const OVERHEAD_BYTES: usize = 160;

/// Whether a cache of `cache_bytes_max` keeps the slot.
pub(crate) fn fits(slot: &Slot, cache_bytes_max: u64) -> bool {
    let bytes = slot.as_ref().map_or(0, |entry| entry.value.len() as u64);
    bytes <= cache_bytes_max / VALUE_FRACTION
}

/// Bytes that a key and its slot take in a cache, by estimate.
pub(crate) fn weight(key: &Key, slot: &Slot) -> u32 {
    let entry = slot.as_ref().map_or(0, |entry| {
        entry.value.len() + entry.metadata.as_ref().map_or(0, |metadata| metadata.len())
    });
    u32::try_from(OVERHEAD_BYTES + key.as_str().len() + entry).unwrap_or(u32::MAX)
}
