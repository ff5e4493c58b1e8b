//! Who is left out for a while: whoever failed several times in a row, for a time that grows each time.

use std::time::Duration;

/// How long nothing is sent there the first time; it doubles with every further time.
const EJECTION_MIN: Duration = Duration::from_secs(1);
/// How long after an ejection has ended it makes the next one longer.
const MEMORY: Duration = Duration::from_secs(300);

/// When somebody is left out, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Failures in a row after which nothing is sent there for a while.
    pub failures: u32,
    /// How long that is at most.
    pub time_max: Duration,
}

impl Default for Ejection {
    fn default() -> Self {
        Self { failures: 3, time_max: Duration::from_secs(10) }
    }
}

/// What is known of one node or origin by what became of requests to it. Times are those of any clock that goes
/// forward, since one beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlier {
    in_a_row: u32,
    /// Ejections that are remembered.
    ejections: u32,
    until: Duration,
}

impl Outlier {
    /// Whether nothing is sent there now.
    pub fn is_ejected(&self, now: Duration) -> bool {
        self.ejected_for(now).is_some()
    }

    /// For how long nothing is sent there yet, if it is left out now.
    pub fn ejected_for(&self, now: Duration) -> Option<Duration> {
        self.until.checked_sub(now).filter(|left| !left.is_zero())
    }

    /// Notes an answer, whatever it was.
    pub fn answered(&mut self) {
        self.in_a_row = 0;
    }

    /// Notes that there was none; gives for how long nothing is sent there from now on, if that begins now.
    pub fn failed(&mut self, now: Duration, ejection: Ejection) -> Option<Duration> {
        if self.is_ejected(now) {
            // It was on its way before the ejection: it says nothing new.
            return None;
        }
        if now > self.until + MEMORY {
            self.ejections = 0;
        }
        self.in_a_row += 1;
        if self.in_a_row < ejection.failures {
            return None;
        }
        // After its time it is tried again, and the next failure ejects it at once.
        self.in_a_row = ejection.failures.saturating_sub(1);
        let time = EJECTION_MIN.saturating_mul(1 << self.ejections.min(16)).min(ejection.time_max);
        self.ejections = self.ejections.saturating_add(1);
        self.until = now + time;
        Some(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn failed(node: &mut Outlier, now: Duration) -> Option<Duration> {
        node.failed(now, Ejection::default())
    }

    #[test]
    fn failures_in_a_row_eject_for_ever_longer() {
        let mut node = Outlier::default();
        assert_eq!((failed(&mut node, s(1)), failed(&mut node, s(1))), (None, None));
        node.answered();
        assert_eq!((failed(&mut node, s(1)), failed(&mut node, s(1))), (None, None));
        assert_eq!(failed(&mut node, s(1)), Some(s(1)));
        assert!(node.is_ejected(s(1)) && !node.is_ejected(s(2)));
        assert_eq!((node.ejected_for(s(1)), node.ejected_for(s(2))), (Some(s(1)), None));
        assert_eq!(failed(&mut node, s(1)), None, "what was under way counts no more");
        let mut now = s(2);
        for expected in [2, 4, 8, 10, 10] {
            assert_eq!(failed(&mut node, now), Some(s(expected)));
            now += s(expected);
        }
    }

    #[test]
    fn an_answer_ends_the_row_and_time_the_memory() {
        let mut node = Outlier::default();
        assert_eq!([(); 3].map(|()| failed(&mut node, s(0))), [None, None, Some(s(1))]);
        node.answered();
        assert_eq!(failed(&mut node, s(2)), None);
        failed(&mut node, s(2));
        assert_eq!(failed(&mut node, s(2)), Some(s(2)));
        node.answered();
        assert_eq!([(); 3].map(|()| failed(&mut node, s(1_000))), [None, None, Some(s(1))]);
    }
}
