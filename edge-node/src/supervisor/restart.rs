//! When a process that ended is started again: at once, unless it ends again and again.

use std::time::Duration;

/// A serving process that lived this long ended for a reason of its own.
const GOOD_LIFE: Duration = Duration::from_secs(1);

/// Short lives in a row after which there are pauses.
const SHORT_LIVES_FREE: u32 = 3;

/// The first pause; each further short life doubles it.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How often in a row a process lived only for a short time.
#[derive(Debug)]
pub(crate) struct Restarts {
    good_life: Duration,
    short_lives: u32,
}

impl Default for Restarts {
    fn default() -> Self {
        Self::with_good_life(GOOD_LIFE)
    }
}

impl Restarts {
    /// For processes that must live so long to have lived well.
    pub(crate) fn with_good_life(good_life: Duration) -> Self {
        Self { good_life, short_lives: 0 }
    }

    /// How long to wait before the next start, after a life of this length.
    pub(crate) fn pause_after(&mut self, life: Duration) -> Duration {
        if life >= self.good_life {
            self.short_lives = 0;
            return Duration::ZERO;
        }
        self.short_lives = self.short_lives.saturating_add(1);
        match self.short_lives.checked_sub(SHORT_LIVES_FREE + 1) {
            None => Duration::ZERO,
            Some(over) => PAUSE_MIN.saturating_mul(1 << over.min(16)).min(PAUSE_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_repeated_short_lives_are_followed_by_pauses() {
        let mut restarts = Restarts::default();
        let mut check = |life_s: u64, expected_ms: u64| {
            let pause = restarts.pause_after(Duration::from_secs(life_s));
            assert_eq!(pause, Duration::from_millis(expected_ms));
        };
        for expected in [0, 0, 0, 100, 200, 400] {
            check(0, expected);
        }
        for _ in 0..100 {
            check(60, 0);
        }
        for expected in [0, 0, 0, 100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
            check(0, expected);
        }
    }
}
