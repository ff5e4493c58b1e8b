//! What is known of a pool's origins: what became of requests to them, and of checks.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::document::{HealthCheck, OriginPool};
use super::steering::{Vantage, steer};
use crate::outlier::Outlier;

/// Of a measured time the newest counts an eighth.
const SMOOTHING: u64 = 8;

/// The origins of one pool. Times are those of any clock that goes forward, since one beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolState {
    origins: Vec<OriginState>,
}

/// One origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OriginState {
    outlier: Outlier,
    checked: Checked,
    /// Requests under way, until their responses' bodies have ended.
    pub(super) in_flight: u64,
    /// The usual time until a response's head, in microseconds.
    pub(super) head_us: Option<u64>,
}

/// What checks say of an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checked {
    /// It is well, or nobody asks. So many checks in a row have failed.
    Well(u32),
    /// It is not well. So many checks in a row have passed.
    Ill(u32),
}

impl Default for Checked {
    fn default() -> Self {
        Self::Well(0)
    }
}

/// What became of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// The origin answered as it should.
    Passed,
    /// It did not, or not in time.
    Failed,
}

/// An origin is given requests from now on, or is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Requests failed in a row: it gets none for so long.
    Ejected(Duration),
    /// Checks failed in a row: it gets none until checks pass.
    Ill,
    /// Checks pass again.
    Well,
}

/// How an origin stands now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Whether it is given requests.
    pub condition: Condition,
    /// Requests under way, until their responses' bodies have ended.
    pub in_flight: u64,
    /// The usual time until a response's head, in microseconds, once there was one.
    pub head_us: Option<u64>,
}

/// Whether an origin is given requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// It is.
    Up,
    /// Requests failed: it gets none for so long yet.
    Ejected(Duration),
    /// Checks fail: it gets none until they pass.
    Ill,
}

impl OriginState {
    fn standing(&self, now: Duration) -> Standing {
        let Self { in_flight, head_us, .. } = *self;
        Standing { condition: self.condition(now), in_flight, head_us }
    }

    fn condition(&self, now: Duration) -> Condition {
        match (self.checked, self.outlier.ejected_for(now)) {
            (Checked::Ill(_), _) => Condition::Ill,
            (Checked::Well(_), Some(left)) => Condition::Ejected(left),
            (Checked::Well(_), None) => Condition::Up,
        }
    }

    fn is_up(&self, now: Duration) -> bool {
        self.condition(now) == Condition::Up
    }
}

impl PoolState {
    /// Knows nothing bad of anyone.
    pub fn new(pool: &OriginPool) -> Self {
        Self { origins: vec![OriginState::default(); pool.origins.len()] }
    }

    /// The origin for the next attempt of a request, counted as under way there until [`PoolState::ended`]; none when
    /// all were tried. When no untried one is up, those that are not are tried: it may be the checks that are wrong.
    /// `draw` gives a number below its argument.
    pub fn begin(
        &mut self,
        pool: &OriginPool,
        vantage: &Vantage<'_>,
        tried: &[usize],
        now: Duration,
        mut draw: impl FnMut(u64) -> u64,
    ) -> Option<usize> {
        let untried = || (0..self.origins.len()).filter(|at| !tried.contains(at));
        let mut fit: Vec<usize> = untried().filter(|at| self.origins[*at].is_up(now)).collect();
        if fit.is_empty() {
            fit = untried().collect();
        }
        if fit.is_empty() {
            return None;
        }
        let at = steer(pool, &self.origins, &fit, vantage, &mut draw);
        self.origins[at].in_flight += 1;
        Some(at)
    }

    /// Notes that a request is over, with its response's body.
    pub fn ended(&mut self, at: usize) {
        let origin = &mut self.origins[at];
        origin.in_flight = origin.in_flight.saturating_sub(1);
    }

    /// Notes a response whose head took so long.
    pub fn answered(&mut self, at: usize, took: Duration) {
        let origin = &mut self.origins[at];
        origin.outlier.answered();
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let mixed = |before: u64| before - before / SMOOTHING + took / SMOOTHING;
        origin.head_us = Some(origin.head_us.map_or(took, mixed));
    }

    /// Notes that there was no response, or one that tells of a failure.
    pub fn failed(&mut self, pool: &OriginPool, at: usize, now: Duration) -> Option<Change> {
        self.origins[at].outlier.failed(now, pool.ejection()).map(Change::Ejected)
    }

    /// Notes what became of a check.
    pub fn checked(
        &mut self,
        health: &HealthCheck,
        at: usize,
        outcome: CheckOutcome,
    ) -> Option<Change> {
        let checked = &mut self.origins[at].checked;
        let (next, change) = match (*checked, outcome) {
            (Checked::Well(_), CheckOutcome::Passed) => (Checked::Well(0), None),
            (Checked::Well(failed), CheckOutcome::Failed) if failed + 1 >= health.unhealthy => {
                (Checked::Ill(0), Some(Change::Ill))
            }
            (Checked::Well(failed), CheckOutcome::Failed) => (Checked::Well(failed + 1), None),
            (Checked::Ill(_), CheckOutcome::Failed) => (Checked::Ill(0), None),
            (Checked::Ill(passed), CheckOutcome::Passed) if passed + 1 >= health.healthy => {
                (Checked::Well(0), Some(Change::Well))
            }
            (Checked::Ill(passed), CheckOutcome::Passed) => (Checked::Ill(passed + 1), None),
        };
        *checked = next;
        change
    }

    /// How each origin stands, in the pool's order.
    pub fn standings(&self, now: Duration) -> Vec<Standing> {
        self.origins.iter().map(|origin| origin.standing(now)).collect()
    }

    /// Forgets what checks said: nobody asks any more.
    pub fn forget_checks(&mut self) {
        for origin in &mut self.origins {
            origin.checked = Checked::default();
        }
    }
}
