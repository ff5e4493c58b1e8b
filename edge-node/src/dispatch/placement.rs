//! Where a version runs: decisions from what was measured, without a clock, a thread or a table of their
//! own. `replicas.rs` keeps the measurements, `placer.rs` acts.

use std::time::{Duration, Instant};

/// A slice longer than this would be felt by every connection of a front thread.
pub(super) const SLICE_MAX: Duration = Duration::from_millis(10);

/// A script whose start-up executes longer than this in one go never starts on a front thread.
pub(super) const STARTUP_SLICE_MAX: Duration = Duration::from_millis(50);

/// Calls on one front thread, within [`CALLS_WINDOW`], that earn a version a replica there. As many in a row
/// must have run without a long slice.
pub(super) const CALLS_HOT: u32 = 20;

/// The time for those calls.
pub(super) const CALLS_WINDOW: Duration = Duration::from_secs(10);

/// How long a version stays away from front threads after its first long slice there; doubled by each more.
const BAR_MIN: Duration = Duration::from_secs(10);

/// The longest such time, and the good behaviour after which the next one is the shortest again.
const BAR_MAX: Duration = Duration::from_secs(600);

/// The delay from which on a version gets one more replica, if a thread is idle. About twice what it takes to
/// load one.
const GROW_DELAY: Duration = Duration::from_millis(10);

/// Back threads of one process: a set of them is a word.
pub(super) const BACK_THREADS_MAX: usize = 64;

/// A set of back threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ThreadSet(pub(super) u64);

impl ThreadSet {
    pub(super) fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    fn has(self, thread: usize) -> bool {
        self.0 & Self::bit(thread) != 0
    }

    pub(super) fn bit(thread: usize) -> u64 {
        1 << (thread % BACK_THREADS_MAX)
    }

    /// The `n`th of its threads, from 0.
    fn nth(self, n: usize) -> Option<usize> {
        (0..BACK_THREADS_MAX).filter(|thread| self.has(*thread)).nth(n)
    }

    fn all(count: usize) -> Self {
        Self(u64::MAX.checked_shr(64 - count.min(64) as u32).unwrap_or(0))
    }
}

/// What a back thread is doing, as seen from another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    /// For how long the slice under way has run.
    pub(super) running: Option<Duration>,
    /// Requests that wait for the thread or have just begun.
    pub(super) queued: u32,
    /// What these are expected to take.
    pub(super) queued_work: Duration,
    /// For how long it has begun none of them. What it does meanwhile need not be a slice: it may undo the coding of a
    /// long body, or drop an isolate.
    pub(super) held_up: Duration,
    /// What requests have waited for the thread of late, from being handed over to their first slice.
    pub(super) delay: Duration,
    /// Instances that live on the thread.
    pub(super) instances: usize,
}

impl Load {
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_none() && self.queued == 0
    }

    /// How long one more request would wait. What was measured counts only while something is in the way.
    pub(super) fn expected_delay(&self) -> Duration {
        if self.is_idle() {
            return Duration::ZERO;
        }
        let held_up = if self.queued > 0 { self.held_up } else { Duration::ZERO };
        self.delay.max(self.running.unwrap_or_default()).max(self.queued_work).max(held_up)
    }

    fn rank(&self) -> (Duration, u32, usize) {
        (self.expected_delay(), self.queued, self.instances)
    }
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// To a thread that has a replica.
    Replica(usize),
    /// To a thread that is to get one.
    New(usize),
}

/// Chooses among `count` back threads for a version that has replicas on those of `holders`. `draw(n)` gives
/// a number below `n`.
pub(super) fn choose(
    holders: ThreadSet,
    count: usize,
    load: impl Fn(usize) -> Load,
    mut draw: impl FnMut(usize) -> usize,
) -> Choice {
    let Some((best, expected)) = better_of_two(holders, &load, &mut draw) else {
        let any = better_of_two(ThreadSet::all(count), &load, &mut draw);
        return Choice::New(match any {
            Some((thread, Duration::ZERO)) => thread,
            // Both are held up. For how long nobody knows: a thread that is not beats any guess.
            busy => idle(holders, count, &load, &mut draw)
                .unwrap_or(busy.map(|(thread, _)| thread).unwrap_or_default()),
        });
    };
    if expected < GROW_DELAY || holders.len() >= replicas_max(count) {
        return Choice::Replica(best);
    }
    idle(holders, count, &load, &mut draw).map_or(Choice::Replica(best), Choice::New)
}

/// A thread outside of `holders` that has nothing to do, looked for from a random one on.
fn idle(
    holders: ThreadSet,
    count: usize,
    load: &impl Fn(usize) -> Load,
    draw: &mut impl FnMut(usize) -> usize,
) -> Option<usize> {
    let first = draw(count.max(1));
    (0..count)
        .map(|step| (first + step) % count)
        .find(|thread| !holders.has(*thread) && load(*thread).is_idle())
}

/// One version may not take every thread, where there are more than two.
fn replicas_max(threads: usize) -> usize {
    if threads > 2 { threads - 1 } else { threads }
}

/// Two drawn at random, and the better of them: the best of all would be everyone's choice at once.
fn better_of_two(
    set: ThreadSet,
    load: &impl Fn(usize) -> Load,
    draw: &mut impl FnMut(usize) -> usize,
) -> Option<(usize, Duration)> {
    let len = set.len();
    let one = set.nth(if len > 1 { draw(len) } else { 0 })?;
    let mut best = (one, load(one));
    if len > 1 {
        // Another than the first: drawn from those that are left.
        let rest = ThreadSet(set.0 & !ThreadSet::bit(one));
        if let Some(other) = rest.nth(draw(len - 1)) {
            let other = (other, load(other));
            if other.1.rank() < best.1.rank() {
                best = other;
            }
        }
    }
    Some((best.0, best.1.expected_delay()))
}

/// Counts a version's calls on one front thread.
#[derive(Debug)]
pub(super) struct CallRate {
    since: Instant,
    calls: u32,
}

impl CallRate {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, calls: 0 }
    }

    /// Counts one call. Whether there were [`CALLS_HOT`] within [`CALLS_WINDOW`].
    pub(super) fn call(&mut self, now: Instant) -> bool {
        if self.is_over(now) {
            *self = Self::new(now);
        }
        self.calls = self.calls.saturating_add(1);
        self.calls >= CALLS_HOT
    }

    /// Whether what it counted is too long ago to matter.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) > CALLS_WINDOW
    }
}

/// Keeps a version that ran long away from front threads, each time for longer.
#[derive(Debug, Default)]
pub(super) struct Bar {
    rest: Duration,
    until: Option<Instant>,
}

impl Bar {
    pub(super) fn demote(&mut self, now: Instant) {
        let forgotten =
            self.until.is_none_or(|until| now.saturating_duration_since(until) > BAR_MAX);
        self.rest = if forgotten { BAR_MIN } else { (self.rest * 2).min(BAR_MAX) };
        self.until = Some(now + self.rest);
    }

    pub(super) fn holds(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

/// A mean that follows what was measured last: a quarter of each new value.
pub(super) fn smoothed(old: u32, new: Duration) -> u32 {
    let new = u32::try_from(new.as_micros()).unwrap_or(u32::MAX);
    old - old / 4 + new / 4
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IDLE: Load = Load {
        running: None,
        queued: 0,
        queued_work: Duration::ZERO,
        held_up: Duration::from_secs(9),
        delay: Duration::from_secs(9),
        instances: 0,
    };

    fn running(ms: u64) -> Load {
        Load { running: Some(Duration::from_millis(ms)), delay: Duration::ZERO, ..IDLE }
    }

    fn behind(ms: u64) -> Load {
        let queued_work = Duration::from_millis(ms);
        Load { queued: 1, queued_work, delay: Duration::ZERO, held_up: Duration::ZERO, ..IDLE }
    }

    fn held_up(ms: u64) -> Load {
        Load { held_up: Duration::from_millis(ms), ..behind(0) }
    }

    fn chosen(holders: u64, loads: &[Load], draws: &[usize]) -> Choice {
        let mut draws = draws.iter().copied().cycle();
        let draw = |n: usize| draws.next().unwrap_or(0) % n;
        choose(ThreadSet(holders), loads.len(), |thread| loads[thread], draw)
    }

    #[test]
    fn a_request_goes_where_it_waits_least() {
        let crowded = Load { instances: 9, ..IDLE };
        let short = Load { delay: Duration::from_millis(1), ..behind(0) };
        for (what, holders, loads, draws, expected) in [
            ("cold: the less delayed of two", 0, vec![running(3), IDLE], vec![0], Choice::New(1)),
            ("cold: the emptier of equals", 0, vec![crowded, IDLE], vec![0], Choice::New(1)),
            (
                "cold: the one that is idle, if neither of two is",
                0,
                vec![running(1), running(2), IDLE],
                vec![0],
                Choice::New(2),
            ),
            ("cold: all are held up", 0, vec![running(9), running(3)], vec![0], Choice::New(1)),
            ("an idle replica", 0b01, vec![IDLE, IDLE], vec![0], Choice::Replica(0)),
            ("a short wait", 0b01, vec![short, IDLE], vec![0], Choice::Replica(0)),
            ("a long slice", 0b01, vec![running(10), IDLE], vec![0], Choice::New(1)),
            ("long work before it", 0b01, vec![behind(80), IDLE], vec![0], Choice::New(1)),
            ("nothing begun for long", 0b01, vec![held_up(10), IDLE], vec![0], Choice::New(1)),
            ("nobody idle", 0b01, vec![running(99), running(1)], vec![0], Choice::Replica(0)),
            ("both have one", 0b11, vec![running(99), running(1)], vec![0], Choice::Replica(1)),
            (
                "one thread is left to others",
                0b011,
                vec![running(99), running(99), IDLE],
                vec![0],
                Choice::Replica(0),
            ),
        ] {
            assert_eq!(chosen(holders, &loads, &draws), expected, "{what}");
        }
    }

    #[test]
    fn what_was_measured_counts_only_while_something_is_in_the_way() {
        assert_eq!(IDLE.expected_delay(), Duration::ZERO);
        let queued = Load { queued: 1, ..IDLE };
        assert_eq!(queued.expected_delay(), Duration::from_secs(9));
    }

    #[test]
    fn a_version_is_hot_after_enough_calls_in_time() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut rate = CallRate::new(start);
        assert!((1..u64::from(CALLS_HOT)).all(|n| !rate.call(at(n))));
        assert!(rate.call(at(9_000)));
        assert!(!rate.call(at(10_001)), "the window is over");
        let mut slow = CallRate::new(start);
        assert!(
            (0..200).all(|n| !slow.call(at(n * 600))),
            "17 calls in ten seconds are not enough"
        );
    }

    #[test]
    fn each_demotion_lasts_longer_until_it_is_forgotten() {
        let mut now = Instant::now();
        let mut bar = Bar::default();
        assert!(!bar.holds(now));
        for seconds in [10, 20, 40, 80, 160, 320, 600, 600] {
            bar.demote(now);
            assert!(bar.holds(now + Duration::from_secs(seconds - 1)));
            now += Duration::from_secs(seconds);
            assert!(!bar.holds(now), "{seconds}");
        }
        now += BAR_MAX + Duration::from_secs(1);
        bar.demote(now);
        assert!(!bar.holds(now + BAR_MIN));
    }

    #[test]
    fn a_mean_follows_what_it_is_told() {
        let mean = (0..40).fold(0, |mean, _| smoothed(mean, Duration::from_millis(8)));
        assert!((7_900..=8_000).contains(&mean), "{mean}");
        let mean = (0..60).fold(mean, |mean, _| smoothed(mean, Duration::ZERO));
        assert!(mean < 8, "{mean}");
        assert!(smoothed(u32::MAX, Duration::MAX) > u32::MAX / 2);
    }

    proptest! {
        #[test]
        fn a_choice_is_always_a_thread_that_exists(
            count in 1_usize..=BACK_THREADS_MAX,
            holders: u64,
            loads in proptest::collection::vec((0_u64..30, 0_u32..4), BACK_THREADS_MAX),
            draws in proptest::collection::vec(0_usize..1_000, 8),
        ) {
            let holders = ThreadSet(holders & ThreadSet::all(count).0);
            let load = |thread: usize| {
                let (ms, queued) = loads[thread];
                Load { running: (ms > 0).then(|| Duration::from_millis(ms)), queued, ..IDLE }
            };
            let mut next = draws.iter().copied().cycle();
            match choose(holders, count, load, |n| next.next().unwrap_or(0) % n) {
                Choice::Replica(thread) => prop_assert!(holders.has(thread)),
                Choice::New(thread) => {
                    prop_assert!(thread < count && !holders.has(thread));
                    prop_assert!(holders.len() < replicas_max(count) || holders.len() == 0);
                    prop_assert!(holders.len() == 0 || load(thread).is_idle());
                }
            }
        }
    }
}
