//! Which variant has which buckets, so that a change of weights moves as few units as can be: who grows keeps
//! all that it has, who shrinks gives up what is too much, and nothing else moves.

use super::murmur3::BUCKETS;

/// A variant's place in its rule, or [`OUT`].
pub(super) type Owner = u8;

/// Whose buckets are nobody's: their units take no part.
pub(super) const OUT: Owner = Owner::MAX;

/// How many buckets each variant has. What is left of [`BUCKETS`] is nobody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shares(Box<[u16]>);

impl Shares {
    /// Splits `percent` of all buckets by weights: the largest remainders get what rounding leaves.
    pub(super) fn new(weights: &[f64], percent: f64) -> Self {
        let sum: f64 = weights.iter().sum();
        let total = (percent / 100.0 * f64::from(BUCKETS)).round().clamp(0.0, f64::from(BUCKETS));
        let exact = |weight: &f64| if sum > 0.0 { total * weight / sum } else { 0.0 };
        let mut shares: Vec<u16> = weights.iter().map(|w| exact(w).floor() as u16).collect();
        let given: u16 = shares.iter().sum();
        let mut by_remainder: Vec<usize> =
            (0..weights.len()).filter(|n| weights[*n] > 0.0).collect();
        by_remainder.sort_by(|a, b| {
            let remainder = |n: &usize| exact(&weights[*n]).fract();
            remainder(b).total_cmp(&remainder(a)).then(a.cmp(b))
        });
        let left = usize::from((total as u16).saturating_sub(given));
        for place in by_remainder.into_iter().take(left) {
            shares[place] += 1;
        }
        Self(shares.into())
    }

    /// What lies between two, a fraction of the way.
    pub(super) fn between(from: &Self, to: &Self, fraction: f64) -> Self {
        let pairs = from.0.iter().zip(&to.0);
        let exact: Vec<f64> = pairs
            .map(|(from, to)| {
                let (from, to) = (f64::from(*from), f64::from(*to));
                from + (to - from) * fraction
            })
            .collect();
        let percent = exact.iter().sum::<f64>() / f64::from(BUCKETS) * 100.0;
        Self::new(&exact, percent)
    }

    fn of(&self, owner: Owner) -> u16 {
        match owner {
            OUT => BUCKETS - self.0.iter().sum::<u16>(),
            owner => self.0.get(usize::from(owner)).copied().unwrap_or(0),
        }
    }

    /// Every owner: the variants, then nobody.
    fn owners(&self) -> impl Iterator<Item = Owner> + use<> {
        (0..self.0.len() as Owner).chain([OUT])
    }
}

/// Buckets in a row that have one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The first bucket past it.
    pub(super) end: u16,
    pub(super) owner: Owner,
}

/// An owner for each bucket, as runs without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Allotment(Box<[Run]>);

impl Allotment {
    /// The variants one after the other from bucket 0, and nobody after them.
    pub(super) fn fresh(shares: &Shares) -> Self {
        let mut end = 0;
        Self::of(shares.owners().map(|owner| {
            end += shares.of(owner);
            Run { end, owner }
        }))
    }

    /// Everything is nobody's but what ranges name; none when they overlap or leave the buckets.
    pub(super) fn of_ranges(ranges: impl IntoIterator<Item = (Owner, u16, u16)>) -> Option<Self> {
        let mut ranges: Vec<_> = ranges.into_iter().collect();
        ranges.sort_unstable_by_key(|(_, from, _)| *from);
        let (mut runs, mut at) = (Vec::new(), 0);
        for (owner, from, to) in ranges {
            if from < at || to < from || to > BUCKETS {
                return None;
            }
            runs.push(Run { end: from, owner: OUT });
            runs.push(Run { end: to, owner });
            at = to;
        }
        runs.push(Run { end: BUCKETS, owner: OUT });
        Some(Self::of(runs))
    }

    /// Drops empty runs and joins neighbours.
    fn of(runs: impl IntoIterator<Item = Run>) -> Self {
        let mut joined: Vec<Run> = Vec::new();
        for run in runs {
            match joined.last_mut() {
                Some(last) if last.owner == run.owner => last.end = run.end,
                Some(last) if last.end == run.end => {}
                None if run.end == 0 => {}
                _ => joined.push(run),
            }
        }
        Self(joined.into())
    }

    /// Whose all buckets are.
    pub(super) fn sole(&self) -> Option<Owner> {
        match &*self.0 {
            [run] => Some(run.owner),
            _ => None,
        }
    }

    pub(super) fn owner(&self, bucket: u16) -> Owner {
        let at = self.0.partition_point(|run| run.end <= bucket);
        self.0.get(at).map_or(OUT, |run| run.owner)
    }

    /// The runs with their first buckets.
    pub(super) fn runs(&self) -> impl Iterator<Item = (u16, Run)> {
        let mut start = 0;
        self.0.iter().map(move |run| (std::mem::replace(&mut start, run.end), *run))
    }

    fn count(&self, owner: Owner) -> u16 {
        self.runs().filter(|(_, run)| run.owner == owner).map(|(start, run)| run.end - start).sum()
    }

    /// The same with other shares. Variants give up their highest buckets and nobody gives its lowest, so that
    /// what was taken back and given again comes to the same units.
    pub(super) fn changed(&self, shares: &Shares) -> Self {
        let mut owners = self.each();
        let excess = |owner| usize::from(self.count(owner).saturating_sub(shares.of(owner)));
        let mut freed: Vec<usize> = Vec::new();
        for owner in shares.owners() {
            let places = (0..owners.len()).filter(|at| owners[*at] == owner);
            match owner {
                OUT => freed.extend(places.take(excess(owner))),
                _ => freed.extend(places.rev().take(excess(owner))),
            }
        }
        freed.sort_unstable();
        let mut freed = freed.into_iter();
        for owner in shares.owners() {
            let wanted = shares.of(owner).saturating_sub(self.count(owner));
            freed.by_ref().take(usize::from(wanted)).for_each(|at| owners[at] = owner);
        }
        Self::of_each(&owners)
    }

    /// The owner of every bucket in turn.
    fn each(&self) -> Vec<Owner> {
        let runs = self.runs();
        runs.flat_map(|(start, run)| (start..run.end).map(move |_| run.owner)).collect()
    }

    fn of_each(owners: &[Owner]) -> Self {
        Self::of((1..).zip(owners).map(|(end, owner)| Run { end, owner: *owner }))
    }
}

/// Buckets in a row that go from one owner to another, or stay.
#[derive(Clone, Copy, Debug)]
struct Passage {
    start: u16,
    end: u16,
    from: Owner,
    to: Owner,
    /// The buckets between the same two owners: all of them, and those before this passage.
    among: u16,
    before: u16,
}

/// From one allotment to the next, bucket by bucket, so that at any time the shares lie in between.
#[derive(Clone, Debug)]
pub(super) struct Transition(Box<[Passage]>);

impl Transition {
    pub(super) fn new(from: &Allotment, to: &Allotment) -> Self {
        let mut ends: Vec<u16> = from.0.iter().chain(&to.0).map(|run| run.end).collect();
        ends.sort_unstable();
        ends.dedup();
        let mut passages: Vec<Passage> = Vec::new();
        let mut start = 0;
        for end in ends {
            let (from, to) = (from.owner(start), to.owner(start));
            let same = passages.iter().filter(|p| (p.from, p.to) == (from, to));
            let before = same.map(|p| p.end - p.start).sum();
            passages.push(Passage { start, end, from, to, among: 0, before });
            start = end;
        }
        for at in 0..passages.len() {
            let Passage { from, to, .. } = passages[at];
            let same = passages.iter().filter(|p| (p.from, p.to) == (from, to));
            passages[at].among = same.map(|p| p.end - p.start).sum();
        }
        Self(passages.into())
    }

    /// Whose a bucket is when a fraction of the way is done.
    pub(super) fn owner(&self, bucket: u16, fraction: f64) -> Owner {
        let at = self.0.partition_point(|passage| passage.end <= bucket);
        let Some(passage) = self.0.get(at) else { return OUT };
        let place = f64::from(passage.before + (bucket - passage.start)) + 0.5;
        let moved = place <= fraction * f64::from(passage.among);
        if moved { passage.to } else { passage.from }
    }

    /// Who has which bucket then.
    pub(super) fn allotment(&self, fraction: f64) -> Allotment {
        let owners: Vec<_> = (0..BUCKETS).map(|bucket| self.owner(bucket, fraction)).collect();
        Allotment::of_each(&owners)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shares(weights: &[f64], percent: f64) -> Vec<u16> {
        Shares::new(weights, percent).0.into()
    }

    #[test]
    fn shares_add_up() {
        for (weights, percent, expected) in [
            (&[1.0, 1.0][..], 100.0, &[5_000, 5_000][..]),
            (&[1.0, 1.0, 1.0], 100.0, &[3_334, 3_333, 3_333]),
            (&[90.0, 10.0], 10.0, &[900, 100]),
            (&[1.0], 0.01, &[1]),
            (&[0.0, 1.0, 0.0], 50.0, &[0, 5_000, 0]),
            (&[0.0], 100.0, &[0]),
            (&[], 100.0, &[]),
        ] {
            assert_eq!(shares(weights, percent), expected, "{weights:?} {percent}");
        }
    }

    #[test]
    fn what_is_taken_back_and_given_again_comes_to_the_same_units() {
        let half = Shares::new(&[1.0, 1.0], 50.0);
        let before = Allotment::fresh(&half);
        let after = before.changed(&Shares::new(&[1.0, 1.0], 20.0)).changed(&half);
        assert_eq!(after, before);
    }

    fn any_shares() -> impl Strategy<Value = Shares> {
        (proptest::collection::vec(0.0..10.0, 4), 0.0..100.0)
            .prop_map(|(weights, percent)| Shares::new(&weights, percent))
    }

    proptest! {
        #[test]
        fn a_change_moves_as_few_as_can_be(all in proptest::collection::vec(any_shares(), 2..6)) {
            let mut before = Allotment::fresh(&all[0]);
            for (old, new) in all.iter().zip(&all[1..]) {
                let after = before.changed(new);
                for owner in new.owners() {
                    prop_assert_eq!(after.count(owner), new.of(owner));
                }
                let least: u16 =
                    new.owners().map(|owner| new.of(owner).saturating_sub(old.of(owner))).sum();
                let mut moved = 0;
                for bucket in 0..BUCKETS {
                    let (was, is) = (before.owner(bucket), after.owner(bucket));
                    moved += u16::from(was != is);
                    // Whose share did not shrink keeps every unit.
                    prop_assert!(was == is || new.of(was) < old.of(was));
                }
                prop_assert_eq!(moved, least);
                before = after;
            }
        }

        #[test]
        fn a_transition_passes_every_share_between(
            from in any_shares(), to in any_shares(), at in 0.0..1.0_f64, later in 0.0..1.0_f64,
        ) {
            let (first, last) = (Allotment::fresh(&from), Allotment::fresh(&from).changed(&to));
            let transition = Transition::new(&first, &last);
            prop_assert_eq!(&transition.allotment(0.0), &first);
            prop_assert_eq!(&transition.allotment(1.0), &last);
            let (at, later) = (at.min(later), at.max(later));
            let between = transition.allotment(at);
            for owner in from.owners() {
                let (from, to) = (f64::from(from.of(owner)), f64::from(to.of(owner)));
                let wanted = from + (to - from) * at;
                // Each pair of owners rounds by itself.
                prop_assert!((f64::from(between.count(owner)) - wanted).abs() <= 3.0);
            }
            // Nobody moves more than once.
            for bucket in 0..BUCKETS {
                let owner = transition.owner(bucket, later);
                prop_assert!(owner == between.owner(bucket) || owner == last.owner(bucket));
            }
        }
    }
}
