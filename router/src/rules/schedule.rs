//! A rule's shares over time, and who has which bucket at a moment.

use super::allotment::{Allotment, OUT, Owner, Shares, Transition};
use super::murmur3::BUCKETS;

/// The shares that a rule asks for: one point for good, or several with straight lines between them. Times do
/// not decrease; two points of one time are a jump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan(Box<[Point]>);

/// The shares at a time, in milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) at_ms: u64,
    pub(super) shares: Shares,
}

impl Plan {
    /// # Panics
    /// Panics without a point.
    pub(super) fn new(points: Vec<Point>) -> Self {
        assert!(!points.is_empty(), "a plan has a point");
        Self(points.into())
    }

    /// Whether one variant has everything, always.
    pub(super) fn is_constant(&self) -> bool {
        self.0.len() == 1 && Allotment::fresh(&self.0[0].shares).sole().is_some()
    }

    fn shares(&self, now_ms: u64) -> Shares {
        let past = self.0.partition_point(|point| point.at_ms <= now_ms);
        match (past.checked_sub(1).map(|at| &self.0[at]), self.0.get(past)) {
            (Some(from), Some(to)) => {
                Shares::between(&from.shares, &to.shares, fraction(from.at_ms, to.at_ms, now_ms))
            }
            (Some(only), None) | (None, Some(only)) => only.shares.clone(),
            (None, None) => unreachable!("a plan has a point"),
        }
    }
}

/// Who had which bucket before the rules last changed, and when that was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Past {
    pub(super) as_of_ms: u64,
    pub(super) allotment: Allotment,
}

/// Who has which bucket, at any time.
#[derive(Clone, Debug)]
pub(super) struct Schedule(Box<[Step]>);

#[derive(Clone, Debug)]
struct Step {
    at_ms: u64,
    allotment: Allotment,
    /// To the next step, which begins then.
    onward: Option<(u64, Transition)>,
}

/// Who has which bucket at one moment.
pub(super) enum Moment<'s> {
    /// All of them are one owner's.
    Whole(Owner),
    Split(&'s Allotment),
    Moving(&'s Transition, f64),
}

impl Moment<'_> {
    pub(super) fn owner(&self, bucket: u16) -> Owner {
        match self {
            Self::Whole(owner) => *owner,
            Self::Split(allotment) => allotment.owner(bucket),
            Self::Moving(transition, fraction) => transition.owner(bucket, *fraction),
        }
    }
}

impl Schedule {
    /// From what was, by as few moves as can be, to what is planned.
    pub(super) fn new(plan: &Plan, past: Option<&Past>) -> Self {
        let first = match past {
            Some(past) => (past.as_of_ms, past.allotment.changed(&plan.shares(past.as_of_ms))),
            None => (plan.0[0].at_ms, Allotment::fresh(&plan.0[0].shares)),
        };
        let begun = match past {
            Some(past) => plan.0.partition_point(|point| point.at_ms <= past.as_of_ms),
            None => 1,
        };
        let mut steps = vec![Step { at_ms: first.0, allotment: first.1, onward: None }];
        for point in &plan.0[begun..] {
            let last = steps.last_mut().expect("the first step is there");
            let allotment = last.allotment.changed(&point.shares);
            last.onward = Some((point.at_ms, Transition::new(&last.allotment, &allotment)));
            steps.push(Step { at_ms: point.at_ms, allotment, onward: None });
        }
        Self(steps.into())
    }

    /// Whether it changes with time.
    pub(super) fn moves(&self) -> bool {
        self.0.len() > 1
    }

    pub(super) fn at(&self, now_ms: u64) -> Moment<'_> {
        let past = self.0.partition_point(|step| step.at_ms <= now_ms);
        let step = &self.0[past.saturating_sub(1)];
        match &step.onward {
            Some((end, transition)) if past > 0 => {
                Moment::Moving(transition, fraction(step.at_ms, *end, now_ms))
            }
            _ => match step.allotment.sole() {
                Some(owner) => Moment::Whole(owner),
                None => Moment::Split(&step.allotment),
            },
        }
    }

    /// Who has which bucket then, as the past of rules to come.
    pub(super) fn past(&self, now_ms: u64) -> Past {
        let allotment = match self.at(now_ms) {
            Moment::Whole(owner) => {
                Allotment::of_ranges([(owner, 0, BUCKETS)]).expect("the whole range is a range")
            }
            Moment::Split(allotment) => allotment.clone(),
            Moment::Moving(transition, fraction) => transition.allotment(fraction),
        };
        Past { as_of_ms: now_ms, allotment }
    }

    /// How many of the buckets each of `count` variants has then.
    pub(super) fn counts(&self, now_ms: u64, count: usize) -> Vec<u16> {
        let mut counts = vec![0; count];
        for (start, run) in self.past(now_ms).allotment.runs() {
            if run.owner != OUT {
                counts[usize::from(run.owner)] += run.end - start;
            }
        }
        counts
    }
}

fn fraction(from_ms: u64, to_ms: u64, now_ms: u64) -> f64 {
    let (passed, whole) = (now_ms.saturating_sub(from_ms), to_ms.saturating_sub(from_ms));
    if whole == 0 { 1.0 } else { (passed as f64 / whole as f64).clamp(0.0, 1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(points: &[(u64, &[f64], f64)]) -> Plan {
        let point = |(at_ms, weights, percent): &(u64, &[f64], f64)| Point {
            at_ms: *at_ms,
            shares: Shares::new(weights, *percent),
        };
        Plan::new(points.iter().map(point).collect())
    }

    #[test]
    fn a_ramp_is_followed_point_by_point() {
        let ramp = plan(&[
            (100, &[1.0], 0.0),
            (200, &[1.0], 10.0),
            (200, &[1.0], 50.0),
            (400, &[1.0], 100.0),
        ]);
        let schedule = Schedule::new(&ramp, None);
        for (now_ms, expected) in [
            (0, 0),
            (100, 0),
            (150, 500),
            (199, 990),
            (200, 5_000),
            (300, 7_500),
            (400, 10_000),
            (900, 10_000),
        ] {
            assert_eq!(schedule.counts(now_ms, 1), [expected], "at {now_ms}");
        }
        assert!(matches!(schedule.at(400), Moment::Whole(0)));
    }

    #[test]
    fn a_change_in_the_middle_of_a_ramp_moves_as_few_as_can_be() {
        let ramp = plan(&[(0, &[1.0, 1.0], 0.0), (100, &[1.0, 1.0], 100.0)]);
        let before = Schedule::new(&ramp, None);
        // At 40 of 100 each variant has 20 %. From now on the second one alone grows.
        let changed = plan(&[(0, &[20.0, 20.0], 40.0), (100, &[20.0, 80.0], 100.0)]);
        let after = Schedule::new(&changed, Some(&before.past(40)));
        let (was, is, last) = (before.at(40), after.at(40), after.at(100));
        let shared = |now_ms| after.counts(now_ms, 2);
        assert_eq!(shared(100), [2_000, 8_000]);
        for bucket in 0..BUCKETS {
            let owner = was.owner(bucket);
            if owner == 0 {
                assert_eq!(last.owner(bucket), 0, "bucket {bucket} left the first variant");
            }
            if owner == 1 {
                assert_eq!((is.owner(bucket), last.owner(bucket)), (1, 1), "bucket {bucket}");
            }
        }
    }
}
