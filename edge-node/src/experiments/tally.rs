//! What one serving process sees of experiments: put together where requests are answered, told once a second.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_router::rules::{Assigned, BUCKETS, Decision, LeftOut, Reason, Rule, RuleSet};
use rustc_hash::{FxHashMap, FxHashSet};

use super::NOBODY;
use super::batch::{Batch, Seen, Served, Told};
use super::latency::bucket;
use super::notes::{Fared, Note, Notes};
use crate::registry::{WorkerRef, now_ms};

/// Exposures of one worker's units that wait to be told, and outcomes.
const PENDING_MAX: usize = 20_000;
/// Exposures that one worker's rules remember, so as not to tell them again.
const REMEMBERED_MAX: usize = 65_536;
/// The same of all workers in the process.
const REMEMBERED_ALL_MAX: usize = 1_000_000;
/// Exposures and outcomes that are told at once, before the others wait for the next time.
const TOLD_MAX: usize = 60_000;
/// As so many of them counts what is told of the requests of a variant.
const SERVED_COUNTS: usize = 8;

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flush {
    /// Exposures, and outcomes that have waited for two ticks: their units' exposures, seen by any process of the
    /// node, are told before them.
    Tick,
    /// Everything: the process ends.
    Last,
}

/// Whether it has been noted who sees what by a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exposure {
    /// It is noted along with how the request fares, which is cheaper.
    ToBeNoted,
    /// The request waited for something.
    Noted,
}

/// All tallies of one process.
#[derive(Clone, Default)]
pub(crate) struct Recorder(Arc<Tallies>);

#[derive(Default)]
struct Tallies {
    each: Mutex<Vec<Arc<Tally>>>,
    remembered: Arc<AtomicUsize>,
}

/// What is seen of one worker's rules.
pub(crate) struct Tally {
    worker: WorkerRef,
    set: Arc<RuleSet>,
    notes: Notes,
    pending: Mutex<Pending>,
    remembered: Arc<AtomicUsize>,
}

struct Pending {
    /// A key for each rule and unit.
    remembered: FxHashSet<u64>,
    /// By a rule's place; empty for rules that compare nothing.
    rules: FxHashMap<usize, PendingRule>,
    /// How requests fared, by rule and variant: how many fared so.
    fared: FxHashMap<(u16, u8, Fared), u64>,
    exposures: usize,
    outcomes: usize,
    dropped: u64,
}

/// The sum of values and how many there were, by metric and unit.
type Outcomes = FxHashMap<(Box<str>, u64), (f64, u32)>;
/// One of them.
type Outcome = ((Box<str>, u64), (f64, u32));

#[derive(Default)]
struct PendingRule {
    exposures: Vec<(u8, u64)>,
    /// Of this tick, the one before, and the one before that.
    outcomes: [Outcomes; 3],
    served: FxHashMap<u8, Served>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counts stay sound whoever panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    /// Begins to tally for a worker's rules, if they compare anything.
    pub(crate) fn tally(&self, worker: &WorkerRef, set: &Arc<RuleSet>) -> Option<Arc<Tally>> {
        if !set.rules().iter().any(Rule::is_experiment) {
            return None;
        }
        let pending = Pending {
            remembered: FxHashSet::default(),
            rules: FxHashMap::default(),
            fared: FxHashMap::default(),
            exposures: 0,
            outcomes: 0,
            dropped: 0,
        };
        let tally = Arc::new(Tally {
            worker: worker.clone(),
            set: set.clone(),
            notes: Notes::default(),
            pending: Mutex::new(pending),
            remembered: self.0.remembered.clone(),
        });
        lock(&self.0.each).push(tally.clone());
        Some(tally)
    }

    /// Takes what is to be told now.
    pub(crate) fn flush(&self, flush: Flush) -> Batch {
        let now_ms = now_ms();
        let mut batch = Batch { at_ms: now_ms, ..Batch::default() };
        let mut told = 0;
        lock(&self.0.each).retain(|tally| {
            if flush == Flush::Last || told < TOLD_MAX {
                told += tally.flush(flush, now_ms, &mut batch);
            }
            // Nobody uses rules that were replaced.
            Arc::strong_count(tally) > 1 || !tally.is_empty()
        });
        batch
    }
}

impl Tally {
    /// Notes who sees what by a decision.
    pub(crate) fn exposed(&self, decision: &Decision) {
        self.take(decision, |note| note.unit.is_some().then_some(note));
    }

    /// Notes how the request fared that a decision was made about.
    pub(crate) fn served(
        &self,
        decision: &Decision,
        exposure: Exposure,
        status: u16,
        latency: Duration,
    ) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let fared = Some(Fared { is_error: status >= 500, latency: bucket(micros) });
        self.take(decision, |note| match exposure {
            Exposure::ToBeNoted => Some(Note { fared, ..note }),
            Exposure::Noted => Some(Note { unit: None, fared, ..note }),
        });
    }

    /// Hands out what experiments gave by a decision, and to which units as far as these were drawn for.
    fn exposures(&self, decision: &Decision, mut each: impl FnMut(Note)) {
        let mut note = |rule: usize, variant: usize, unit| {
            if self.set.rules()[rule].is_experiment() {
                let rule = u16::try_from(rule).expect("a set has at most 1,000 rules");
                let variant = u8::try_from(variant).expect("a rule has at most 64 variants");
                each(Note { rule, variant, unit, fared: None });
            }
        };
        for Assigned { rule, variant, reason, unit } in &decision.assigned {
            if !matches!(reason, Reason::Preview | Reason::RolledBack) {
                note(*rule, *variant, *unit);
            }
        }
        for LeftOut { rule, unit } in &decision.left_out {
            // After its variants come those who got nothing.
            note(*rule, 1, Some(*unit));
        }
    }

    fn take(&self, decision: &Decision, fit: impl Fn(Note) -> Option<Note>) {
        // Many rules hold for few requests: others wait for no lock.
        if decision.assigned.is_empty() && decision.left_out.is_empty() {
            return;
        }
        let put = |waiting: &mut Vec<Note>| {
            self.exposures(decision, |note| waiting.extend(fit(note)));
        };
        if let Some(notes) = self.notes.take(put) {
            lock(&self.pending).work_off(&notes, &self.remembered);
        }
    }

    fn is_empty(&self) -> bool {
        self.notes.is_empty() && lock(&self.pending).is_empty()
    }

    /// Notes what the units of a request did.
    pub(crate) fn tracked(&self, decision: &Decision, metric: &str, value: f64) {
        let mut pending = None;
        for (place, rule) in self.set.rules().iter().enumerate() {
            let given = self.set.given(decision, place);
            if !rule.is_experiment() || given.is_some_and(|a| a.reason == Reason::Preview) {
                continue;
            }
            let unit = given.and_then(|given| given.unit);
            let Some(unit) = unit.or_else(|| self.set.unit_of(decision, place)) else { continue };
            let pending = pending.get_or_insert_with(|| lock(&self.pending));
            pending.tracked(place, metric, unit, value);
        }
    }

    /// Moves what is to be told into the batch, and says how much that is.
    fn flush(&self, flush: Flush, now_ms: u64, batch: &mut Batch) -> usize {
        let notes = self.notes.drain();
        let mut pending = lock(&self.pending);
        pending.work_off(&notes, &self.remembered);
        pending.sum_up();
        batch.dropped += std::mem::take(&mut pending.dropped);
        let mut told = 0;
        let mut outcomes = 0;
        pending.rules.retain(|place, rule| {
            let seen = self.seen(*place, rule, flush, now_ms);
            outcomes += seen.outcomes.len();
            told += seen.exposures.len() + seen.outcomes.len();
            told += seen.served.len() * SERVED_COUNTS;
            if !(seen.exposures.is_empty() && seen.outcomes.is_empty() && seen.served.is_empty()) {
                batch.seen.push(seen);
            }
            rule.outcomes.iter().any(|outcomes| !outcomes.is_empty())
        });
        pending.exposures = 0;
        pending.outcomes = pending.outcomes.saturating_sub(outcomes);
        told
    }

    fn seen(&self, place: usize, pending: &mut PendingRule, flush: Flush, now_ms: u64) -> Seen {
        let rule = &self.set.rules()[place];
        let mut buckets = rule.buckets(now_ms);
        for (place, buckets) in buckets.iter_mut().enumerate() {
            // Its units see nothing of it, so none is expected.
            if rule.is_rolled_back(place) {
                *buckets = 0;
            }
        }
        let names = rule.variants().iter().map(|variant| variant.name().to_owned());
        let mut variants: Vec<_> = names.zip(buckets.iter().copied()).collect();
        if rule.compares_with_nobody() {
            let given: u16 = rule.buckets(now_ms).iter().sum();
            variants.push((NOBODY.to_owned(), BUCKETS.saturating_sub(given)));
        }
        let mut outcomes = pending.ripe();
        if flush == Flush::Last {
            outcomes.extend(pending.ripe());
            outcomes.extend(pending.ripe());
        }
        let told = |((metric, unit), (sum, times)): Outcome| Told {
            metric: metric.into(),
            unit,
            sum,
            times,
        };
        Seen {
            worker: self.worker.clone(),
            rule: rule.name().to_owned(),
            seed: rule.seed().to_owned(),
            variants,
            exposures: std::mem::take(&mut pending.exposures),
            outcomes: outcomes.into_iter().map(told).collect(),
            served: pending.served.drain().collect(),
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let held = lock(&self.pending).remembered.len();
        self.remembered.fetch_sub(held, Ordering::Relaxed);
    }
}

impl PendingRule {
    /// Takes the outcomes that have waited longest, and lets the others wait one tick less.
    fn ripe(&mut self) -> Vec<Outcome> {
        self.outcomes.rotate_right(1);
        // The oldest ones are in front now.
        self.outcomes[0].drain().collect()
    }
}

/// One number for a rule and a unit: every request looks for one, and half the bytes are half the misses.
fn key(rule: usize, unit: u64) -> u64 {
    // 2^64 over the golden ratio sets rules apart.
    unit ^ (rule as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Pending {
    fn work_off(&mut self, notes: &[Note], all: &AtomicUsize) {
        for Note { rule, variant, unit, fared } in notes {
            if let Some(unit) = unit {
                self.exposed(usize::from(*rule), *variant, *unit, all);
            }
            if let Some(fared) = fared {
                *self.fared.entry((*rule, *variant, *fared)).or_default() += 1;
            }
        }
    }

    /// Puts together by variant how requests fared.
    fn sum_up(&mut self) {
        for ((rule, variant, fared), requests) in self.fared.drain() {
            let rule = self.rules.entry(usize::from(rule)).or_default();
            let served = rule.served.entry(variant).or_default();
            served.requests += requests;
            served.errors += if fared.is_error { requests } else { 0 };
            served.latency.add(fared.latency, requests);
        }
    }

    fn exposed(&mut self, rule: usize, variant: u8, unit: u64, all: &AtomicUsize) {
        let key = key(rule, unit);
        if self.remembered.contains(&key) {
            return;
        }
        if self.exposures >= PENDING_MAX {
            self.dropped += 1;
            return;
        }
        if self.remembered.len() >= REMEMBERED_MAX
            || all.load(Ordering::Relaxed) >= REMEMBERED_ALL_MAX
        {
            // They are told again, and the supervisor knows them.
            all.fetch_sub(self.remembered.len(), Ordering::Relaxed);
            self.remembered.clear();
        }
        all.fetch_add(1, Ordering::Relaxed);
        self.remembered.insert(key);
        self.exposures += 1;
        self.rules.entry(rule).or_default().exposures.push((variant, unit));
    }

    fn tracked(&mut self, rule: usize, metric: &str, unit: u64, value: f64) {
        let full = self.outcomes >= PENDING_MAX;
        let now = &mut self.rules.entry(rule).or_default().outcomes[0];
        let key = (Box::from(metric), unit);
        if full && !now.contains_key(&key) {
            self.dropped += 1;
            return;
        }
        let (sum, times) = now.entry(key).or_insert_with(|| {
            self.outcomes += 1;
            (0.0, 0)
        });
        *sum += value;
        *times = times.saturating_add(1);
    }

    fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.fared.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use atoll_router::rules::{Overlay, unit_hash};
    use serde_json::json;

    use super::super::notes::NOTES_MAX;
    use super::*;
    use crate::registry::{AccountId, WorkerName};

    fn tally(rules: serde_json::Value) -> (Recorder, Arc<Tally>) {
        let set = Arc::new(RuleSet::parse(&json!({ "rule": rules }), Overlay::default()).unwrap());
        let worker = WorkerRef { account: AccountId::new("a"), worker: WorkerName::new("w") };
        let recorder = Recorder::default();
        let tally = recorder.tally(&worker, &set).expect("something is compared");
        (recorder, tally)
    }

    fn split(rule: usize, variant: usize, unit: &str) -> Decision {
        let assigned =
            Assigned { rule, variant, reason: Reason::Split, unit: Some(unit_hash(unit)) };
        let units = [Some(unit_hash(unit))].into();
        Decision { assigned: [assigned].into_iter().collect(), units, ..Decision::default() }
    }

    #[test]
    fn a_unit_is_told_once_and_its_outcomes_after_it() {
        let variants = json!([{ "name": "a" }, { "name": "b" }]);
        let (recorder, tally) = tally(json!([{ "name": "page", "variants": variants }]));
        let decision = split(0, 1, "ada");
        for _ in 0..3 {
            tally.exposed(&decision);
            tally.tracked(&decision, "bought", 2.0);
            tally.served(&decision, Exposure::Noted, 200, Duration::from_millis(3));
        }
        let first = recorder.flush(Flush::Tick);
        let seen = &first.seen[0];
        assert_eq!(seen.variants, [("a".to_owned(), 5_000), ("b".to_owned(), 5_000)]);
        assert_eq!(seen.exposures, [(1, unit_hash("ada"))]);
        assert!(seen.outcomes.is_empty());
        assert_eq!((seen.served[0].0, seen.served[0].1.requests), (1, 3));
        assert!(recorder.flush(Flush::Tick).is_empty());
        let third = recorder.flush(Flush::Tick);
        let told = &third.seen[0].outcomes[0];
        assert_eq!((told.metric.as_str(), told.sum, told.times), ("bought", 6.0, 3));
        assert!(recorder.flush(Flush::Tick).is_empty());
        tally.tracked(&decision, "bought", 1.0);
        assert_eq!(recorder.flush(Flush::Last).seen[0].outcomes.len(), 1);
    }

    #[test]
    fn who_gets_nothing_is_compared_with_an_only_variant() {
        let (recorder, tally) = tally(json!([{ "name": "new", "percent": 10 }]));
        let left_out = vec![LeftOut { rule: 0, unit: unit_hash("ada") }];
        let decision = Decision { left_out, ..Decision::default() };
        tally.exposed(&decision);
        tally.served(&decision, Exposure::Noted, 503, Duration::ZERO);
        let batch = recorder.flush(Flush::Tick);
        let seen = &batch.seen[0];
        assert_eq!(seen.variants[1], (NOBODY.to_owned(), 9_000));
        assert_eq!(seen.exposures[0].0, 1);
        assert_eq!(seen.served[0].1.errors, 1);
    }

    #[test]
    fn what_is_told_has_the_notes_that_wait_and_those_that_do_not() {
        let variants = json!([{ "name": "a" }, { "name": "b" }]);
        let (recorder, tally) = tally(json!([{ "name": "page", "variants": variants }]));
        for unit in 0..NOTES_MAX {
            let decision = split(0, unit % 2, &unit.to_string());
            tally.exposed(&decision);
            let status = if unit % 8 == 1 { 500 } else { 499 };
            tally.served(&decision, Exposure::Noted, status, Duration::from_millis(unit as u64));
        }
        tally.served(&split(0, 1, "0"), Exposure::ToBeNoted, 200, Duration::ZERO);
        drop(tally);
        let batch = recorder.flush(Flush::Tick);
        let seen = &batch.seen[0];
        assert_eq!(seen.exposures.len(), NOTES_MAX);
        let mut served = seen.served.clone();
        served.sort_unstable_by_key(|(variant, _)| *variant);
        let found = served.iter().map(|(variant, s)| (*variant, s.requests, s.errors));
        let half = NOTES_MAX as u64 / 2;
        assert_eq!(found.collect::<Vec<_>>(), [(0, half, 0), (1, half + 1, half / 4)]);
        assert!(served.iter().all(|(_, s)| s.latency.count() == s.requests));
        assert!(recorder.flush(Flush::Tick).is_empty());
    }

    #[test]
    fn who_sees_what_is_noted_before_a_request_waits_or_with_how_it_fares() {
        let variants = json!([{ "name": "a" }, { "name": "b" }]);
        let (recorder, tally) = tally(json!([{ "name": "page", "variants": variants }]));
        let waits = split(0, 0, "ada");
        tally.exposed(&waits);
        assert_eq!(recorder.flush(Flush::Tick).seen[0].exposures, [(0, unit_hash("ada"))]);
        tally.served(&waits, Exposure::Noted, 200, Duration::ZERO);
        assert!(recorder.flush(Flush::Tick).seen[0].exposures.is_empty());
        tally.served(&split(0, 1, "bob"), Exposure::ToBeNoted, 200, Duration::ZERO);
        let batch = recorder.flush(Flush::Tick);
        assert_eq!(batch.seen[0].exposures, [(1, unit_hash("bob"))]);
        assert_eq!(batch.seen[0].served[0].1.requests, 1);
        let mut asked_for = split(0, 1, "eve");
        (asked_for.assigned[0].reason, asked_for.assigned[0].unit) = (Reason::Preview, None);
        tally.served(&asked_for, Exposure::ToBeNoted, 200, Duration::ZERO);
        assert!(recorder.flush(Flush::Tick).is_empty());
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let variants = json!([{ "name": "a" }, { "name": "b" }]);
        let (recorder, tally) = tally(json!([{ "name": "page", "variants": variants }]));
        for unit in 0..PENDING_MAX + 7 {
            tally.exposed(&split(0, 0, &unit.to_string()));
        }
        let batch = recorder.flush(Flush::Tick);
        assert_eq!((batch.seen[0].exposures.len(), batch.dropped), (PENDING_MAX, 7));
    }
}
