//! Counts of events under labels: of so many labels at most, one process's added to another's.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is counted under each of its labels.
pub(crate) trait Event: Copy {
    /// Its place among the events, below the number of them.
    fn place(self) -> usize;
}

/// Under what is counted.
pub(super) trait Label: Clone + Ord {
    /// So many have counts of their own; the others share those of [`Label::other`].
    const LABELLED_MAX: usize;

    fn other() -> Self;

    /// Whether it can be shown as it is.
    fn fits(&self) -> bool;
}

/// Whether a text can be a label of so many bytes at most.
pub(super) fn fits(text: &str, bytes_max: usize) -> bool {
    text.len() <= bytes_max && !text.contains(char::is_control)
}

/// How often each of `N` events came.
#[derive(Debug)]
pub(crate) struct Counts<E, const N: usize>([AtomicU64; N], PhantomData<E>);

impl<E, const N: usize> Default for Counts<E, N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)), PhantomData)
    }
}

impl<E: Event, const N: usize> Counts<E, N> {
    /// Counts one more.
    pub(crate) fn count(&self, event: E) {
        self.0[event.place()].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn of(&self, event: E) -> u64 {
        self.0[event.place()].load(Ordering::Relaxed)
    }
}

/// Counts by label.
#[derive(Debug)]
pub(super) struct Labelled<L, E, const N: usize>(Mutex<BTreeMap<L, Arc<Counts<E, N>>>>);

/// What was counted since it was last asked, as it travels.
pub(super) type Delta<L> = Vec<(L, Vec<u64>)>;

impl<L, E, const N: usize> Default for Labelled<L, E, N> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<L: Label, E: Event, const N: usize> Labelled<L, E, N> {
    /// The counts under a label.
    pub(super) fn of(&self, label: L) -> Arc<Counts<E, N>> {
        let mut all = self.lock();
        if let Some(known) = all.get(&label) {
            return known.clone();
        }
        let fits = all.len() < L::LABELLED_MAX && label.fits();
        all.entry(if fits { label } else { L::other() }).or_default().clone()
    }

    /// Takes out what was counted.
    pub(super) fn drain(&self) -> Delta<L> {
        let all = self.lock();
        let taken = all.iter().map(|(label, counts)| {
            let counts = counts.0.iter().map(|count| count.swap(0, Ordering::Relaxed));
            (label.clone(), counts.collect::<Vec<_>>())
        });
        taken.filter(|(_, counts)| counts.iter().any(|count| *count > 0)).collect()
    }

    /// Adds what another process counted.
    pub(super) fn add(&self, delta: Delta<L>) {
        for (label, counts) in delta.into_iter().take(L::LABELLED_MAX + 1) {
            let sums = self.of(label);
            for (sum, count) in sums.0.iter().zip(counts) {
                sum.fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<L, Arc<Counts<E, N>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
