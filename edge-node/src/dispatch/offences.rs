//! What versions were condemned for of late, for the whole process: a version that goes over its limits
//! again and again rests before it gets another instance, on whichever thread.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atoll_isolate::Outcome;
use rustc_hash::FxHashMap;

use crate::registry::VersionId;

/// Condemnations in a row after which a version rests before it gets a new instance.
const OFFENCES_FREE: u32 = 3;

/// The first rest; each further offence doubles it.
const REST_MIN: Duration = Duration::from_millis(250);

/// The longest rest.
const REST_MAX: Duration = Duration::from_secs(10);

/// Good behaviour after which offences are forgotten.
const OFFENCES_FORGOTTEN: Duration = Duration::from_secs(30);

/// How often a version was condemned of late.
struct Record {
    count: u32,
    last: Instant,
    outcome: Outcome,
}

impl Record {
    fn rest(&self) -> Duration {
        match self.count.checked_sub(OFFENCES_FREE) {
            None => Duration::ZERO,
            Some(over) => REST_MIN.saturating_mul(1 << over.min(16)).min(REST_MAX),
        }
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) > OFFENCES_FORGOTTEN
    }
}

/// The offences of every version. Looked at only where an instance is to be loaded.
#[derive(Default)]
pub(super) struct Offences {
    records: Mutex<FxHashMap<VersionId, Record>>,
}

impl Offences {
    /// Notes that an instance of the version was condemned.
    pub(super) fn note(&self, version: &VersionId, outcome: Outcome, now: Instant) {
        let mut records = self.locked();
        let new = Record { count: 0, last: now, outcome };
        let known = records.entry(version.clone()).or_insert(new);
        let count = if known.is_forgotten(now) { 0 } else { known.count };
        *known = Record { count: count.saturating_add(1), last: now, outcome };
    }

    /// The outcome for which the version rests, if it does.
    pub(super) fn resting(&self, version: &VersionId, now: Instant) -> Option<Outcome> {
        let records = self.locked();
        let known = records.get(version)?;
        (now.saturating_duration_since(known.last) < known.rest()).then_some(known.outcome)
    }

    /// Drops what is forgotten.
    pub(super) fn sweep(&self, now: Instant) {
        self.locked().retain(|_, known| !known.is_forgotten(now));
    }

    fn locked(&self) -> MutexGuard<'_, FxHashMap<VersionId, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_grow_with_offences_and_are_forgotten() {
        let offences = Offences::default();
        let version = VersionId::new("v");
        let mut now = Instant::now();
        for rest_ms in [0, 0, 250, 500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000] {
            offences.note(&version, Outcome::ExceededCpu, now);
            let resting = |after: u64| {
                offences.resting(&version, now + Duration::from_millis(after)).is_some()
            };
            assert_eq!(resting(0), rest_ms > 0, "{rest_ms}");
            assert!(rest_ms == 0 || resting(rest_ms - 1), "{rest_ms}");
            assert!(!resting(rest_ms), "{rest_ms}");
            now += Duration::from_millis(rest_ms);
        }
        now += OFFENCES_FORGOTTEN + Duration::from_secs(1);
        offences.note(&version, Outcome::ExceededMemory, now);
        assert_eq!(offences.resting(&version, now), None);
        offences.sweep(now + OFFENCES_FORGOTTEN + Duration::from_secs(1));
        assert!(offences.locked().is_empty());
    }
}
