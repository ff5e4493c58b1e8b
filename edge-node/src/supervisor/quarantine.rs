//! How long versions that bring serving processes down are kept away from them.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::registry::VersionId;

/// The first time; each further crash doubles it.
const TIME_MIN: Duration = Duration::from_secs(1);

/// The longest time.
const TIME_MAX: Duration = Duration::from_secs(300);

/// Good behaviour after its time after which a version's crashes are forgotten.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// Versions that are remembered. The one whose time ends first makes room for another.
const KNOWN_MAX: usize = 1_000;

struct Offender {
    crashes: u32,
    until: Instant,
}

/// Versions that crashed a process of late.
#[derive(Default)]
pub(super) struct Quarantine {
    known: HashMap<VersionId, Offender>,
}

impl Quarantine {
    /// Notes a crash. Gives for how long the version is kept away.
    pub(super) fn add(&mut self, version: VersionId, now: Instant) -> Duration {
        self.known.retain(|_, offender| now < offender.until + FORGOTTEN);
        if self.known.len() >= KNOWN_MAX && !self.known.contains_key(&version) {
            let first = self.known.iter().min_by_key(|(_, offender)| offender.until);
            if let Some(first) = first.map(|(version, _)| version.clone()) {
                self.known.remove(&first);
            }
        }
        let offender = self.known.entry(version).or_insert(Offender { crashes: 0, until: now });
        let time = TIME_MIN.saturating_mul(1 << offender.crashes.min(16)).min(TIME_MAX);
        offender.crashes = offender.crashes.saturating_add(1);
        offender.until = now + time;
        time
    }

    /// Versions that are kept away now.
    pub(super) fn versions(&self, now: Instant) -> Vec<VersionId> {
        let away = self.known.iter().filter(|(_, offender)| now < offender.until);
        away.map(|(version, _)| version.clone()).collect()
    }

    /// When the next version may run again.
    pub(super) fn next_release(&self, now: Instant) -> Option<Instant> {
        self.known.values().map(|offender| offender.until).filter(|until| now < *until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_double_and_are_forgotten() {
        let (mut quarantine, mut now) = (Quarantine::default(), Instant::now());
        let version = VersionId::new("v");
        for expected_s in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            let time = quarantine.add(version.clone(), now);
            assert_eq!(time, Duration::from_secs(expected_s));
            assert_eq!(quarantine.versions(now), vec![version.clone()]);
            assert_eq!(quarantine.next_release(now), Some(now + time));
            now += time;
            assert!(quarantine.versions(now).is_empty());
            assert_eq!(quarantine.next_release(now), None);
        }
        now += FORGOTTEN;
        assert_eq!(quarantine.add(version, now), TIME_MIN);
    }

    #[test]
    fn what_is_known_is_bounded() {
        let (mut quarantine, now) = (Quarantine::default(), Instant::now());
        for n in 0..KNOWN_MAX + 10 {
            quarantine.add(VersionId::new(n.to_string()), now);
        }
        assert_eq!(quarantine.versions(now).len(), KNOWN_MAX);
    }
}
