//! How many instances the process may hold, and which idle one makes room for another.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use atoll_isolate::Memory;
use tokio::sync::Notify;

/// What a new instance needs, in bytes, with room to grow a little.
const INSTANCE_BYTES: usize = 8 << 20;

/// Of so many instances that were not called for the longest time, the cheapest to load again goes first.
const EQUALLY_OLD: usize = 8;

/// How the memory of the process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pressure {
    /// There is enough.
    Low,
    /// Idle instances should go.
    High,
    /// Not even one more instance fits.
    Full,
}

impl Pressure {
    /// What a budget says.
    pub(super) fn of(memory: &Memory) -> Self {
        if !memory.fits(INSTANCE_BYTES) {
            Self::Full
        } else if memory.pressed() {
            Self::High
        } else {
            Self::Low
        }
    }
}

/// Room for the instances of one process.
pub(super) struct Room {
    taken: AtomicUsize,
    max: usize,
    measure: Box<dyn Fn() -> Pressure + Send + Sync>,
    /// Threads that have an idle instance are asked to drop one.
    wanted: Notify,
}

/// One instance's place, while it lives.
pub(super) struct Place(Arc<Room>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Room {
    /// Room for `max` instances, as far as the memory allows that `measure` looks at.
    pub(super) fn new(
        max: usize,
        measure: impl Fn() -> Pressure + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (taken, measure) = (AtomicUsize::new(0), Box::new(measure));
        Arc::new(Self { taken, max, measure, wanted: Notify::new() })
    }

    pub(super) fn pressure(&self) -> Pressure {
        (self.measure)()
    }

    /// Takes a place, if one is left.
    pub(super) fn take(self: &Arc<Self>) -> Option<Place> {
        // Counted first and looked at then: threads that do this at once never take too many.
        let place = Place(self.clone());
        (self.taken.fetch_add(1, Ordering::Relaxed) < self.max).then_some(place)
    }

    /// Asks every thread for an idle instance.
    pub(super) fn ask(&self) {
        self.wanted.notify_waiters();
    }

    /// Waits until a thread asks.
    pub(super) async fn asked(&self) {
        self.wanted.notified().await;
    }
}

/// An idle instance, as a candidate for eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Idle<K> {
    pub(super) key: K,
    /// When it was called last; a larger number is later.
    pub(super) used: u64,
    /// What loading it took.
    pub(super) cost: Duration,
    /// Another instance of its version takes its calls.
    pub(super) superseded: bool,
}

/// Chooses the instance that goes: one that nobody calls any more before one that is merely idle.
pub(super) fn victim<K>(mut idle: Vec<Idle<K>>) -> Option<K> {
    if idle.iter().any(|idle| idle.superseded) {
        idle.retain(|idle| idle.superseded);
    }
    if idle.len() > EQUALLY_OLD {
        idle.select_nth_unstable_by_key(EQUALLY_OLD - 1, |idle| idle.used);
        idle.truncate(EQUALLY_OLD);
    }
    let cheapest = idle.into_iter().min_by_key(|idle| (idle.cost, idle.used))?;
    Some(cheapest.key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn of_the_oldest_the_cheapest_goes() {
        let idle =
            |key, used, ms| Idle { key, used, cost: Duration::from_millis(ms), superseded: false };
        let old = (0..EQUALLY_OLD as u64).map(|n| idle(n, n, 10 + n));
        let recent = [idle(98, 98, 0), idle(99, 99, 0)];
        assert_eq!(victim(recent.into_iter().chain(old).collect()), Some(0));
        assert_eq!(victim(vec![idle(1, 1, 5), idle(2, 2, 5), idle(3, 3, 1)]), Some(3));
        assert_eq!(victim(vec![idle(1, 2, 5), idle(2, 1, 5)]), Some(2), "the older of equals");
        let superseded = Idle { superseded: true, ..idle(3, 9, 99) };
        assert_eq!(victim(vec![idle(1, 1, 5), superseded, idle(2, 2, 1)]), Some(3));
        assert_eq!(victim(Vec::<Idle<u64>>::new()), None);
    }

    #[test]
    fn no_more_places_are_taken_than_there_are() {
        let room = Room::new(2, || Pressure::Low);
        let places: Vec<Place> = (0..5).filter_map(|_| room.take()).collect();
        assert_eq!((places.len(), room.taken.load(Ordering::Relaxed)), (2, 2));
        drop(places);
        assert!(room.take().is_some());
    }

    proptest! {
        #[test]
        fn what_was_just_used_stays(
            costs in proptest::collection::vec(0_u64..50, 1..60),
        ) {
            let idle = costs.iter().enumerate().map(|(n, ms)| Idle {
                key: n,
                used: n as u64,
                cost: Duration::from_millis(*ms),
                superseded: false,
            });
            let gone = victim(idle.collect()).unwrap();
            prop_assert!(gone < EQUALLY_OLD.min(costs.len()));
        }
    }
}
