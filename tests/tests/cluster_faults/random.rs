//! Choices that a seed repeats.

use std::time::Duration;

/// Numbers that look random (Marsaglia's xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        // The generator stands still at zero, and near seeds begin alike.
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            random.next();
        }
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// From zero up to `limit`.
    pub(crate) fn time(&mut self, limit: Duration) -> Duration {
        limit.mul_f64(self.below(1_000) as f64 / 1_000.0)
    }
}
