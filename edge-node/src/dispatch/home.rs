//! Which serving process is a worker's home. Calls of a worker that has few go there, whichever process they came to:
//! one isolate serves them all.

use std::hash::{Hash, Hasher};

use rustc_hash::FxHasher;

use super::splitmix::{STEP, mixed};
use crate::registry::WorkerRef;

/// The home of a worker among the processes that run, by their places: the one that weighs most for it (rendezvous
/// hashing; Thaler and Ravishankar 1998). When a process ends or comes back, the homes of others' workers stay.
pub(crate) fn home_of(
    worker: &WorkerRef,
    running: impl IntoIterator<Item = usize>,
) -> Option<usize> {
    let mut hasher = FxHasher::default();
    worker.hash(&mut hasher);
    let hash = hasher.finish();
    running.into_iter().max_by_key(|place| weight(hash, *place as u64))
}

fn weight(hash: u64, place: u64) -> u64 {
    mixed(hash.wrapping_add(place.wrapping_add(1).wrapping_mul(STEP)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{AccountId, WorkerName};

    fn workers(count: usize) -> impl Iterator<Item = WorkerRef> {
        let named = |index| WorkerRef {
            account: AccountId::new("a"),
            worker: WorkerName::new(format!("w{index}")),
        };
        (0..count).map(named)
    }

    #[test]
    fn homes_are_spread_evenly() {
        let mut homes = [0; 4];
        workers(4_000).for_each(|worker| homes[home_of(&worker, 0..4).unwrap()] += 1);
        assert!(homes.iter().all(|count| (850..1_150).contains(count)), "{homes:?}");
        assert_eq!(workers(1).map(|worker| home_of(&worker, [])).next(), Some(None));
    }

    #[test]
    fn a_process_that_ends_moves_its_own_workers_alone() {
        for worker in workers(1_000) {
            let (all, rest) = (home_of(&worker, 0..4), home_of(&worker, [0, 1, 3]));
            assert!(all == rest || all == Some(2), "{all:?} {rest:?}");
        }
    }
}
