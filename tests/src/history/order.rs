//! What is known of the order of one key's writes: a partial order that only grows.

/// A partial order of things that are numbered from 0.
pub(super) struct Order {
    /// For each, the set of those that come after it: one bit each.
    after: Vec<Vec<u64>>,
}

impl Order {
    /// Nothing is known of any of `count` things.
    pub(super) fn new(count: usize) -> Self {
        Self { after: vec![vec![0; count.div_ceil(64)]; count] }
    }

    /// Whether `one` is known to come before `other`.
    pub(super) fn is_before(&self, one: usize, other: usize) -> bool {
        self.after[one][other / 64] >> (other % 64) & 1 == 1
    }

    /// Learns that `one` comes before `other`. Nothing is learned where the opposite is known already, or
    /// where both are the same.
    pub(super) fn learn(&mut self, one: usize, other: usize) {
        if one == other || self.is_before(one, other) || self.is_before(other, one) {
            return;
        }
        let mut gained = self.after[other].clone();
        gained[other / 64] |= 1 << (other % 64);
        for earlier in 0..self.after.len() {
            if earlier == one || self.is_before(earlier, one) {
                let words = self.after[earlier].iter_mut().zip(&gained);
                words.for_each(|(word, more)| *word |= more);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_learned_carries_over() {
        let mut order = Order::new(70);
        order.learn(0, 1);
        order.learn(68, 69);
        order.learn(1, 68);
        assert!(order.is_before(0, 69) && !order.is_before(69, 0));
        order.learn(69, 0);
        assert!(!order.is_before(69, 0), "a circle is not learned");
        assert!(!order.is_before(2, 3) && !order.is_before(3, 2));
    }
}
