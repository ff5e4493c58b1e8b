//! Conditions, compiled. Two values only: a condition over something that a request does not say is false, and
//! what negates it is true.

use regex::Regex;

use super::facts::{Fact, Facts};
use super::instant::Window;
use super::language::{accepts, within};
use super::murmur3::Seed;

/// What must be so of a request.
#[derive(Clone, Debug)]
pub(super) enum Condition {
    All(Box<[Condition]>),
    Any(Box<[Condition]>),
    Not(Box<Condition>),
    /// A fact that is a text.
    Text(Fact, Test),
    /// A fact that is a text or is not there.
    Exists(Fact, bool),
    /// The number of the client's network.
    Asn(Box<[u32]>),
    AsnExists(bool),
    AsnCompare(Order, f64),
    Eu(bool),
    /// The language that the client wants most is in one of these ranges.
    Language(Box<[Box<str>]>),
    /// The client takes one of these languages at all.
    Accepts(Box<[Box<str>]>),
    Time(Window),
    /// The unit's bucket lies in a range.
    Bucket {
        unit: usize,
        seed: Seed,
        from: u16,
        to: u16,
    },
}

/// What a text must be like. Operands of facts that fold are in lower case.
#[derive(Clone, Debug)]
pub(super) enum Test {
    Is(Box<str>),
    /// In order.
    In(Box<[Box<str>]>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    Contains(Box<str>),
    Matches(Regex),
    Compare(Order, f64),
}

/// How a number stands to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Order {
    fn holds(self, left: f64, right: f64) -> bool {
        match self {
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
        }
    }
}

impl Condition {
    /// The length of the path's start that is asked for, where every request must have it.
    pub(super) fn path_prefix(&self) -> Option<usize> {
        match self {
            Self::Text(Fact::Path, Test::Prefix(prefix)) => Some(prefix.len()),
            Self::All(conditions) => conditions.iter().find_map(Self::path_prefix),
            _ => None,
        }
    }

    pub(super) fn looks_at_place(&self) -> bool {
        match self {
            Self::All(conditions) | Self::Any(conditions) => {
                conditions.iter().any(Self::looks_at_place)
            }
            Self::Not(condition) => condition.looks_at_place(),
            Self::Text(fact, _) | Self::Exists(fact, _) => fact.is_of_place(),
            Self::Asn(_) | Self::AsnExists(_) | Self::AsnCompare(..) | Self::Eu(_) => true,
            Self::Language(_) | Self::Accepts(_) | Self::Time(_) | Self::Bucket { .. } => false,
        }
    }

    pub(super) fn looks_at_time(&self) -> bool {
        match self {
            Self::All(conditions) | Self::Any(conditions) => {
                conditions.iter().any(Self::looks_at_time)
            }
            Self::Not(condition) => condition.looks_at_time(),
            Self::Time(_) => true,
            Self::Text(..)
            | Self::Exists(..)
            | Self::Asn(_)
            | Self::AsnExists(_)
            | Self::AsnCompare(..)
            | Self::Eu(_)
            | Self::Language(_)
            | Self::Accepts(_)
            | Self::Bucket { .. } => false,
        }
    }

    pub(super) fn holds(&self, facts: &Facts<'_>) -> bool {
        let place = facts.visit.place;
        let asn = || place?.asn;
        match self {
            Self::All(conditions) => conditions.iter().all(|condition| condition.holds(facts)),
            Self::Any(conditions) => conditions.iter().any(|condition| condition.holds(facts)),
            Self::Not(condition) => !condition.holds(facts),
            Self::Text(fact, test) => {
                facts.text(*fact).is_some_and(|text| test.holds(text, fact.folds()))
            }
            Self::Exists(fact, wanted) => facts.exists(*fact) == *wanted,
            Self::Asn(numbers) => asn().is_some_and(|asn| numbers.contains(&asn)),
            Self::AsnExists(wanted) => asn().is_some() == *wanted,
            Self::AsnCompare(order, number) => {
                asn().is_some_and(|asn| order.holds(f64::from(asn), *number))
            }
            Self::Eu(wanted) => place.and_then(|place| place.is_eu) == Some(*wanted),
            Self::Language(ranges) => {
                facts.language().is_some_and(|tag| ranges.iter().any(|range| within(range, tag)))
            }
            Self::Accepts(ranges) => ranges.iter().any(|r| accepts(facts.visit.headers, r)),
            Self::Time(window) => window.holds(facts.visit.now_ms),
            Self::Bucket { unit, seed, from, to } => {
                (*from..*to).contains(&seed.bucket(facts.unit(*unit)))
            }
        }
    }
}

impl Test {
    fn holds(&self, text: &str, folds: bool) -> bool {
        match self {
            Self::Is(wanted) => equal(text, wanted, folds),
            Self::In(wanted) => {
                wanted.binary_search_by(|known| compare(known, text, folds)).is_ok()
            }
            Self::Prefix(prefix) => {
                text.get(..prefix.len()).is_some_and(|start| equal(start, prefix, folds))
            }
            Self::Suffix(suffix) => text
                .len()
                .checked_sub(suffix.len())
                .and_then(|at| text.get(at..))
                .is_some_and(|end| equal(end, suffix, folds)),
            Self::Contains(part) if folds => text.to_ascii_lowercase().contains(&**part),
            Self::Contains(part) => text.contains(&**part),
            Self::Matches(regex) => regex.is_match(text),
            Self::Compare(order, number) => {
                text.trim().parse().is_ok_and(|value: f64| order.holds(value, *number))
            }
        }
    }
}

fn equal(text: &str, operand: &str, folds: bool) -> bool {
    if folds { text.eq_ignore_ascii_case(operand) } else { text == operand }
}

/// How an operand stands to a text.
fn compare(operand: &str, text: &str, folds: bool) -> std::cmp::Ordering {
    if folds {
        operand.bytes().cmp(text.bytes().map(|byte| byte.to_ascii_lowercase()))
    } else {
        operand.cmp(text)
    }
}
