//! The checker. For each key it goes through all that happened in the order of time and collects what must
//! be true of the order in which the key's writes took effect:
//!
//! - a write comes after whatever was acknowledged or read, on any replica, before it was asked for;
//! - what a replica reads comes no earlier than what it acknowledged or read before;
//! - what a replica holds at the end comes no earlier than anything that was acknowledged or read anywhere.
//!
//! A read for which the opposite is known already breaks a promise. Writes whose outcome is unknown take
//! effect at any time after they were asked for, or never. Every violation is real; a key's absence can have
//! several explanations, and is held against a replica only if none of them is possible.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use super::order::Order;
use super::{Action, Holding, Operation, Outcome, Replica};

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// A write that was acknowledged, or read once, is missing at the end.
    Lost(Case),
    /// A key has a value from before a deletion that was acknowledged, or that the replica knew.
    Reappeared(Case),
    /// A replica does not show what it acknowledged itself.
    OwnWriteUnread(Case),
    /// A replica read something older than before.
    WentBack(Case),
    /// A write was read that had been refused.
    RefusedWriteRead(Case),
    /// A value was read that nobody had asked to write by then.
    Phantom(Case),
    /// Replicas hold different values at the end.
    Disagreement {
        /// Of which key.
        key: String,
        /// Who holds what.
        values: Vec<(Replica, Option<String>)>,
    },
}

/// Where a promise was broken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Case {
    /// By whom.
    pub replica: Replica,
    /// The key.
    pub key: String,
    /// What was read or held; none for an absent key.
    pub found: Option<String>,
    /// What it must not be older than; none for a deletion, or where there is no such thing.
    pub known: Option<String>,
    /// When the read was answered; none at the end of the history.
    pub at_ns: Option<u64>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(case) => write!(f, "a write is lost: {case}"),
            Self::Reappeared(case) => write!(f, "a deleted key is back: {case}"),
            Self::OwnWriteUnread(case) => write!(f, "a replica's own write is not read: {case}"),
            Self::WentBack(case) => write!(f, "a read went back: {case}"),
            Self::RefusedWriteRead(case) => write!(f, "a refused write is read: {case}"),
            Self::Phantom(case) => write!(f, "nobody wrote what is read: {case}"),
            Self::Disagreement { key, values } => {
                write!(f, "replicas disagree on {key}: {values:?}")
            }
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { replica: Replica(replica), key, found, known, at_ns } = self;
        write!(f, "replica {replica} has {found:?} for {key}, known is {known:?}, ")?;
        match at_ns {
            Some(at) => write!(f, "at {} us", at / 1_000),
            None => write!(f, "at the end"),
        }
    }
}

/// Looks for broken promises in what was recorded, and in what replicas held at the end. All replicas that
/// are given must have caught up, and no operation may be under way. A record to check while operations go
/// on has no `holdings`.
pub fn check(operations: &[Operation], holdings: &[Holding]) -> Vec<Violation> {
    let mut by_key: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        by_key.entry(&operation.key).or_default().push(operation);
    }
    // Keys that only the holdings have are nobody's.
    for key in holdings.iter().flat_map(|holding| holding.values.keys()) {
        by_key.entry(key).or_default();
    }
    let mut violations = Vec::new();
    for (key, operations) in by_key {
        let mut checker = KeyChecker::new(key, &operations);
        checker.follow(&operations);
        checker.finish(holdings);
        violations.append(&mut checker.violations);
    }
    violations
}

/// How something is known of a replica.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Acknowledged,
    Read,
}

/// The newest writes that are known: none of them is known to come before another.
#[derive(Clone, Default)]
struct Frontier(Vec<(usize, Known)>);

impl Frontier {
    fn add(&mut self, write: usize, known: Known, order: &Order) {
        if self.0.iter().any(|(other, _)| order.is_before(write, *other)) {
            return;
        }
        self.0.retain(|(other, _)| !order.is_before(*other, write));
        match self.0.iter_mut().find(|(other, _)| *other == write) {
            // What a replica acknowledged stays its own write when it is read.
            Some((_, found)) if known == Known::Acknowledged => *found = known,
            Some(_) => {}
            None => self.0.push((write, known)),
        }
    }
}

/// A write that may have taken effect.
struct Write {
    /// The value; none for a deletion.
    value: Option<String>,
    invoked_ns: u64,
    refused: bool,
}

struct KeyChecker<'a> {
    key: &'a str,
    writes: Vec<Write>,
    /// The write of each value.
    of_value: HashMap<String, usize>,
    /// The write of each operation that is one.
    of_operation: Vec<Option<usize>>,
    order: Order,
    everyone: Frontier,
    replicas: HashMap<Replica, Frontier>,
    violations: Vec<Violation>,
}

/// What happens at a moment. At one moment what begins comes first: it may have been a little sooner.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    Begin(usize),
    End(usize),
}

impl<'a> KeyChecker<'a> {
    fn new(key: &'a str, operations: &[&Operation]) -> Self {
        let (mut writes, mut of_value) = (Vec::new(), HashMap::new());
        let mut of_operation = Vec::with_capacity(operations.len());
        for operation in operations {
            let value = match &operation.action {
                Action::Put(value) => Some(value.clone()),
                Action::Delete => None,
                Action::Get => {
                    of_operation.push(None);
                    continue;
                }
            };
            of_operation.push(Some(writes.len()));
            if let Some(value) = &value {
                of_value.insert(value.clone(), writes.len());
            }
            writes.push(Write {
                value,
                invoked_ns: operation.invoked_ns,
                refused: operation.outcome == Outcome::Failed,
            });
        }
        Self {
            key,
            order: Order::new(writes.len()),
            writes,
            of_value,
            of_operation,
            everyone: Frontier::default(),
            replicas: HashMap::new(),
            violations: Vec::new(),
        }
    }

    fn follow(&mut self, operations: &[&Operation]) {
        let mut moments = Vec::with_capacity(2 * operations.len());
        for (index, operation) in operations.iter().enumerate() {
            moments.push((operation.invoked_ns, Moment::Begin(index)));
            moments.push((operation.completed_ns, Moment::End(index)));
        }
        moments.sort_unstable();
        let mut known_at_begin: HashMap<usize, Frontier> = HashMap::new();
        for (_, moment) in moments {
            match moment {
                Moment::Begin(index) => match self.of_operation[index] {
                    Some(write) => self.begin_write(write),
                    None => {
                        let known = self.replicas.get(&operations[index].replica).cloned();
                        known_at_begin.insert(index, known.unwrap_or_default());
                    }
                },
                Moment::End(index) => {
                    let operation = operations[index];
                    match (&operation.outcome, self.of_operation[index]) {
                        (Outcome::Written, Some(write)) => {
                            self.learn_of(operation.replica, write, Known::Acknowledged);
                        }
                        (Outcome::Read(found), None) => {
                            let known = known_at_begin.remove(&index).unwrap_or_default();
                            let at = Some(operation.completed_ns);
                            self.read(operation.replica, found.as_deref(), &known, at);
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    /// Everything that is known by now lies before a write that is only asked for.
    fn begin_write(&mut self, write: usize) {
        for (known, _) in &self.everyone.0 {
            self.order.learn(*known, write);
        }
    }

    fn learn_of(&mut self, replica: Replica, write: usize, known: Known) {
        self.everyone.add(write, known, &self.order);
        self.replicas.entry(replica).or_default().add(write, known, &self.order);
    }

    fn read(
        &mut self,
        replica: Replica,
        found: Option<&str>,
        known: &Frontier,
        at_ns: Option<u64>,
    ) {
        let case = |known: Option<&Write>| Case {
            replica,
            key: self.key.to_owned(),
            found: found.map(str::to_owned),
            known: known.and_then(|write| write.value.clone()),
            at_ns,
        };
        let Some(value) = found else { return self.read_absence(replica, known, at_ns) };
        let write = self.of_value.get(value).copied();
        let begun = |write: &usize| at_ns.is_none_or(|at| self.writes[*write].invoked_ns <= at);
        let Some(write) = write.filter(begun) else {
            let violation = Violation::Phantom(case(None));
            return self.violations.push(violation);
        };
        if self.writes[write].refused {
            let violation = Violation::RefusedWriteRead(case(None));
            return self.violations.push(violation);
        }
        let newer = known.0.iter().find(|(newer, _)| self.order.is_before(write, *newer));
        if let Some((newer, how)) = newer {
            let case = case(Some(&self.writes[*newer]));
            let violation = match (&self.writes[*newer].value, at_ns, how) {
                (None, _, _) => Violation::Reappeared(case),
                (Some(_), None, _) => Violation::Lost(case),
                (Some(_), Some(_), Known::Acknowledged) => Violation::OwnWriteUnread(case),
                (Some(_), Some(_), Known::Read) => Violation::WentBack(case),
            };
            return self.violations.push(violation);
        }
        self.settle(replica, write, known);
    }

    /// A key is absent because nobody wrote it yet, or by any deletion that is not known to be older than
    /// what was known.
    fn read_absence(&mut self, replica: Replica, known: &Frontier, at_ns: Option<u64>) {
        if known.0.is_empty() {
            return;
        }
        let possible: Vec<usize> = (0..self.writes.len())
            .filter(|write| {
                let Write { value, invoked_ns, refused } = &self.writes[*write];
                value.is_none()
                    && !refused
                    && at_ns.is_none_or(|at| *invoked_ns <= at)
                    && !known.0.iter().any(|(newer, _)| self.order.is_before(*write, *newer))
            })
            .collect();
        match possible[..] {
            [] => {
                let (newer, how) = known.0[0];
                let case = Case {
                    replica,
                    key: self.key.to_owned(),
                    found: None,
                    known: self.writes[newer].value.clone(),
                    at_ns,
                };
                self.violations.push(match (at_ns, how) {
                    (None, _) => Violation::Lost(case),
                    (Some(_), Known::Acknowledged) => Violation::OwnWriteUnread(case),
                    (Some(_), Known::Read) => Violation::WentBack(case),
                });
            }
            [deletion] => self.settle(replica, deletion, known),
            // It was the oldest of them, or one that came later still.
            _ => {
                let oldest = possible.iter().find(|oldest| {
                    let later = |other| self.order.is_before(**oldest, other);
                    possible.iter().all(|other| other == *oldest || later(*other))
                });
                if let Some(oldest) = oldest {
                    self.learn_of(replica, *oldest, Known::Read);
                }
            }
        }
    }

    /// A replica has shown this write: it comes after all that was known there.
    fn settle(&mut self, replica: Replica, write: usize, known: &Frontier) {
        for (older, _) in &known.0 {
            self.order.learn(*older, write);
        }
        self.learn_of(replica, write, Known::Read);
    }

    fn finish(&mut self, holdings: &[Holding]) {
        let held = |holding: &Holding| (holding.replica, holding.values.get(self.key).cloned());
        let values: Vec<_> = holdings.iter().map(held).collect();
        let everyone = self.everyone.clone();
        for (replica, value) in &values {
            self.read(*replica, value.as_deref(), &everyone, None);
        }
        let different: BTreeSet<_> = values.iter().map(|(_, value)| value).collect();
        if different.len() > 1 {
            self.violations.push(Violation::Disagreement { key: self.key.to_owned(), values });
        }
    }
}
