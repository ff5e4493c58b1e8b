//! A queue in which keys take turns: who queues much waits for their own, not others for them.

use std::collections::VecDeque;
use std::hash::Hash;

use rustc_hash::FxHashMap;

/// Items by key. Each key gives one item a turn, its oldest. The owner bounds what is in it.
pub(super) struct FairQueue<K, T> {
    waiting: FxHashMap<K, VecDeque<T>>,
    turns: VecDeque<K>,
}

impl<K, T> Default for FairQueue<K, T> {
    fn default() -> Self {
        Self { waiting: FxHashMap::default(), turns: VecDeque::new() }
    }
}

impl<K: Clone + Eq + Hash, T> FairQueue<K, T> {
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    pub(super) fn push(&mut self, key: &K, item: T) {
        if let Some(waiting) = self.waiting.get_mut(key) {
            waiting.push_back(item);
        } else {
            self.waiting.insert(key.clone(), VecDeque::from([item]));
            self.turns.push_back(key.clone());
        }
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let key = self.turns.pop_front()?;
        let waiting = self.waiting.get_mut(&key)?;
        let item = waiting.pop_front();
        if waiting.is_empty() {
            self.waiting.remove(&key);
        } else {
            self.turns.push_back(key);
        }
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_take_turns_and_keep_their_own_order() {
        let mut queue = FairQueue::default();
        for (key, item) in [('a', 1), ('a', 2), ('a', 3), ('b', 4), ('c', 5), ('b', 6)] {
            queue.push(&key, item);
        }
        let order: Vec<i32> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, [1, 4, 5, 2, 6, 3]);
        assert!(queue.is_empty() && queue.waiting.is_empty());
        queue.push(&'a', 7);
        assert_eq!((queue.pop(), queue.pop()), (Some(7), None));
    }
}
