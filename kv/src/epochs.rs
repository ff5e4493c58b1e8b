//! The epoch file: how the one process that writes tells all that cache that an entry is old,
//! without sending a message.
//!
//! It is a file in memory that holds a counter for each slot of keys. The writer makes a slot's
//! counter odd before it commits a change of one of its keys, and even again before it
//! acknowledges the change. A cached entry carries the even counter that its reader saw before it
//! asked for the entry, and is good only while the counter is still the same. So from the commit
//! on nobody finds the old entry in a cache while others already find the new one, and an entry
//! that was read while a write was under way is never found again.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{MemfdFlags, Mode, SealFlags};

use crate::key::{Key, NamespaceId};

/// Counters in the file: enough that writes seldom cost other keys their cached entries, few enough
/// that all of them can be written at once.
const SLOTS: usize = 65_536;
const COUNTER_BYTES: usize = 8;
/// Before the counters: the seed of the hash that spreads keys over slots, and the hash of nothing,
/// which shows a reader whether it computes the same hash.
const HEADER_BYTES: usize = 16;
/// From this many changed slots on, one write of the whole file is cheaper than one for each.
const SINGLE_WRITES_MAX: usize = 64;

/// The writer's side of an epoch file. It belongs to one store: two writers would hide each other's
/// changes.
#[derive(Debug)]
pub struct Epochs {
    file: File,
    hash: SlotHash,
    counters: Mutex<Vec<u64>>,
}

/// The readers' side of an epoch file, in this process or another.
#[derive(Debug)]
pub struct EpochReader {
    file: File,
    hash: SlotHash,
}

/// The slots that a batch of writes changes.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    slots: HashSet<usize>,
    all: bool,
}

/// A slot's counter at the moment when a reader began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Epoch {
    slot: u32,
    counter: u64,
}

/// Spreads keys over slots by a seed that tenants do not know, so that none can aim at the slots of
/// another's keys.
#[derive(Debug, Clone, Copy)]
struct SlotHash {
    seed: u64,
}

impl Epochs {
    /// Makes an epoch file.
    ///
    /// # Errors
    /// Those of `memfd_create` and of writing 512 KiB of memory.
    pub fn new() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(rustix::fs::memfd_create("kv-epochs", flags)?);
        // Another process of the same user opens it for reading only, whatever descriptor it has.
        rustix::fs::fchmod(&file, Mode::RUSR)?;
        let hash = SlotHash { seed: RandomState::new().hash_one(0) };
        let epochs = Self { file, hash, counters: Mutex::new(vec![0; SLOTS]) };
        // All memory is taken here: no later write can fail for want of it.
        epochs.file.write_all_at(&hash.seed.to_le_bytes(), 0)?;
        epochs.file.write_all_at(&hash.proof().to_le_bytes(), COUNTER_BYTES as u64)?;
        epochs.file.write_all_at(&[0; SLOTS * COUNTER_BYTES], HEADER_BYTES as u64)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&epochs.file, seals)?;
        Ok(epochs)
    }

    /// Opens a descriptor that can only read, to be given to another process.
    ///
    /// # Errors
    /// Those of opening the file again through `/proc`.
    pub fn read_only(&self) -> io::Result<OwnedFd> {
        Ok(File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))?.into())
    }

    /// Marks a key as changed by the batch.
    pub(crate) fn touch(&self, touched: &mut Touched, namespace: &NamespaceId, key: &Key) {
        touched.slots.insert(self.hash.slot(namespace, key));
    }

    /// Counts the slots on: from even to odd before a commit, from odd to even after it. Where the
    /// file cannot be written the counters here go on all the same, so that the second call is
    /// always the first one's pair.
    pub(crate) fn turn(&self, touched: &Touched) -> io::Result<()> {
        // Numbers that a panic left behind are still numbers.
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        if touched.all {
            counters.iter_mut().for_each(|counter| *counter += 1);
        } else {
            touched.slots.iter().for_each(|slot| counters[*slot] += 1);
        }
        if touched.all || touched.slots.len() > SINGLE_WRITES_MAX {
            let bytes: Vec<u8> =
                counters.iter().flat_map(|counter| counter.to_le_bytes()).collect();
            return self.file.write_all_at(&bytes, HEADER_BYTES as u64);
        }
        // One failure must not leave the other slots as they were.
        let written = touched
            .slots
            .iter()
            .map(|slot| self.file.write_all_at(&counters[*slot].to_le_bytes(), position(*slot)));
        written.fold(Ok(()), Result::and)
    }
}

impl EpochReader {
    /// Reads an epoch file through a descriptor that `Epochs::read_only` made.
    ///
    /// # Errors
    /// If it cannot be read, or was made by a program that spreads keys in another way.
    pub fn new(file: OwnedFd) -> io::Result<Self> {
        let file = File::from(file);
        let hash = SlotHash { seed: read_counter(&file, 0)? };
        if read_counter(&file, COUNTER_BYTES as u64)? != hash.proof() {
            let text = "the epoch file is of another version, restart all processes of the node";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(Self { file, hash })
    }

    /// The epoch of a key, taken before the key is read; none while a write is under way.
    pub(crate) fn epoch(&self, namespace: &NamespaceId, key: &Key) -> Option<Epoch> {
        let slot = self.hash.slot(namespace, key);
        let counter = read_counter(&self.file, position(slot)).ok()?;
        let slot = u32::try_from(slot).expect("there are fewer slots than 32 bits count");
        counter.is_multiple_of(2).then_some(Epoch { slot, counter })
    }

    /// Whether no write of the slot has begun since.
    pub(crate) fn is_current(&self, epoch: Epoch) -> bool {
        let counter = read_counter(&self.file, position(epoch.slot as usize));
        counter.is_ok_and(|counter| counter == epoch.counter)
    }
}

impl Touched {
    /// Marks every key as changed.
    pub(crate) fn touch_all(&mut self) {
        self.all = true;
    }
}

impl SlotHash {
    fn slot(self, namespace: &NamespaceId, key: &Key) -> usize {
        let mut hasher = self.hasher();
        namespace.hash(&mut hasher);
        key.hash(&mut hasher);
        hasher.finish() as usize % SLOTS
    }

    fn proof(self) -> u64 {
        self.hasher().finish()
    }

    fn hasher(self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        self.seed.hash(&mut hasher);
        hasher
    }
}

fn position(slot: usize) -> u64 {
    (HEADER_BYTES + slot * COUNTER_BYTES) as u64
}

fn read_counter(file: &File, position: u64) -> io::Result<u64> {
    let mut bytes = [0; COUNTER_BYTES];
    file.read_exact_at(&mut bytes, position)?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{key, namespace};

    fn reader(epochs: &Epochs) -> EpochReader {
        EpochReader::new(epochs.read_only().unwrap()).unwrap()
    }

    #[test]
    fn an_epoch_ends_when_a_write_begins() {
        let epochs = Epochs::new().unwrap();
        let reader = reader(&epochs);
        let mut touched = Touched::default();
        epochs.touch(&mut touched, &namespace(1), &key("a"));
        let old = reader.epoch(&namespace(1), &key("a")).unwrap();
        assert!(reader.is_current(old));
        epochs.turn(&touched).unwrap();
        assert!(!reader.is_current(old));
        assert_eq!(reader.epoch(&namespace(1), &key("a")), None, "a write is under way");
        epochs.turn(&touched).unwrap();
        assert!(!reader.is_current(old));
        assert!(reader.is_current(reader.epoch(&namespace(1), &key("a")).unwrap()));
    }

    #[test]
    fn few_and_many_and_all_slots_turn_alike() {
        let epochs = Epochs::new().unwrap();
        let reader = reader(&epochs);
        let names: Vec<_> = (0..1000).map(|number| key(&number.to_string())).collect();
        let read = || -> Vec<_> {
            names.iter().map(|key| reader.epoch(&namespace(1), key).unwrap()).collect()
        };
        for count in [1, SINGLE_WRITES_MAX, 900] {
            let before = read();
            let mut touched = Touched::default();
            for key in &names[..count] {
                epochs.touch(&mut touched, &namespace(1), key);
            }
            epochs.turn(&touched).unwrap();
            epochs.turn(&touched).unwrap();
            for (index, (old, new)) in before.iter().zip(read()).enumerate() {
                let turned = touched.slots.contains(&(old.slot as usize));
                assert_eq!(*old != new, turned, "{index} of {count}");
            }
        }
        let before = read();
        let mut touched = Touched::default();
        touched.touch_all();
        epochs.turn(&touched).unwrap();
        epochs.turn(&touched).unwrap();
        assert!(before.iter().zip(read()).all(|(old, new)| *old != new));
    }

    #[test]
    fn a_reader_cannot_write() {
        let epochs = Epochs::new().unwrap();
        let file = File::from(epochs.read_only().unwrap());
        assert!(file.write_all_at(&[1], 0).is_err());
        assert!(file.set_len(0).is_err());
        assert!(epochs.file.set_len(0).is_err(), "readers could be made to fail");
    }

    #[test]
    fn a_foreign_file_is_refused() {
        let file = rustix::fs::memfd_create("other", MemfdFlags::CLOEXEC).unwrap();
        assert!(EpochReader::new(file.try_clone().unwrap()).is_err(), "it is empty");
        File::from(file.try_clone().unwrap()).write_all_at(&[7; 64], 0).unwrap();
        assert!(EpochReader::new(file).is_err());
    }
}
