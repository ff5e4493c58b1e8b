//! A queue between callers and the engine's threads, bounded in items and bytes. It refuses what
//! does not fit at once: nobody waits to get in.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::error::KvError;

/// How much a queue holds, or how much one batch takes from it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) items_max: usize,
    pub(super) bytes_max: usize,
}

/// What a batch taker got.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Batch<T> {
    /// At least one item, in order of arrival.
    Items(Vec<T>),
    /// The moment came and no item with it.
    Idle,
    /// The queue is closed and empty.
    Closed,
}

pub(super) struct Queue<T> {
    bounds: Bounds,
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    items: VecDeque<(usize, T)>,
    bytes: usize,
    closed: bool,
}

impl<T> Queue<T> {
    pub(super) fn new(bounds: Bounds) -> Self {
        let state = State { items: VecDeque::new(), bytes: 0, closed: false };
        Self { bounds, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Adds an item of `bytes`. One that is larger than the whole queue fits into an empty one.
    pub(super) fn push(&self, item: T, bytes: usize) -> Result<(), KvError> {
        let mut state = self.lock();
        if state.closed {
            return Err(KvError::Closed);
        }
        let fits = state.items.len() < self.bounds.items_max
            && state.bytes.saturating_add(bytes) <= self.bounds.bytes_max;
        if !fits && !state.items.is_empty() {
            return Err(KvError::Overloaded);
        }
        state.items.push_back((bytes, item));
        state.bytes += bytes;
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Waits for an item; none once the queue is closed and empty.
    pub(super) fn pop(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(item) = state.take() {
                return Some(item);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for an item until `deadline`, then takes as many as there are within `bounds`.
    pub(super) fn pop_batch(&self, bounds: Bounds, deadline: Instant) -> Batch<T> {
        let mut state = self.lock();
        while state.items.is_empty() {
            if state.closed {
                return Batch::Closed;
            }
            let wait = deadline.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                return Batch::Idle;
            }
            let woken = self.changed.wait_timeout(state, wait);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        let mut items = Vec::new();
        let mut bytes = 0;
        while let Some((next, _)) = state.items.front() {
            let fits = items.len() < bounds.items_max && bytes + next <= bounds.bytes_max;
            if !fits && !items.is_empty() {
                break;
            }
            bytes += next;
            items.extend(state.take());
        }
        Batch::Items(items)
    }

    /// Refuses further items. Those inside are still handed out.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Refuses further items and drops those inside, for when nobody is left to take them.
    pub(super) fn abandon(&self) {
        self.close();
        let items = std::mem::take(&mut self.lock().items);
        drop(items);
    }

    pub(super) fn len(&self) -> usize {
        self.lock().items.len()
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // The state is whole between any two statements under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn take(&mut self) -> Option<T> {
        let (bytes, item) = self.items.pop_front()?;
        self.bytes -= bytes;
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: Bounds = Bounds { items_max: 4, bytes_max: 100 };

    #[test]
    fn what_does_not_fit_is_refused() {
        let check = |sizes: &[usize], last: usize, fits: bool| {
            let queue = Queue::new(QUEUE);
            for size in sizes {
                queue.push((), *size).unwrap();
            }
            assert_eq!(queue.push((), last).is_ok(), fits, "{last} after {sizes:?}");
        };
        check(&[], 1000, true);
        check(&[50], 50, true);
        check(&[50], 51, false);
        check(&[1000], 0, false);
        check(&[0, 0, 0], 0, true);
        check(&[0, 0, 0, 0], 0, false);
    }

    #[test]
    fn batches_keep_order_and_bounds() {
        let queue = Queue::new(QUEUE);
        for (item, bytes) in [(1, 30), (2, 30), (3, 30), (4, 10)] {
            queue.push(item, bytes).unwrap();
        }
        queue.close();
        let bounds = Bounds { items_max: 3, bytes_max: 60 };
        let take = || queue.pop_batch(bounds, Instant::now());
        assert_eq!(take(), Batch::Items(vec![1, 2]));
        assert_eq!(take(), Batch::Items(vec![3, 4]));
        assert_eq!(take(), Batch::Closed);
        assert!(matches!(queue.push(5, 0), Err(KvError::Closed)));
    }

    #[test]
    fn an_idle_queue_says_so() {
        let queue = Queue::<()>::new(QUEUE);
        assert_eq!(queue.pop_batch(QUEUE, Instant::now()), Batch::Idle);
    }
}
