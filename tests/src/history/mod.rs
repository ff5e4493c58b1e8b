//! What clients did to a key-value store of several nodes, recorded from outside, and whether that keeps
//! the promises of `docs/consistency.md`.
//!
//! Whoever calls a node says so before ([`History::begin`]) and says what came of it after
//! ([`Begun::end`]). [`check`] then needs nothing but that record and what the nodes hold at the end: it
//! knows no log, no sequences and no node's word for anything. Every value must be written once, so that
//! a read tells which write it saw.

mod check;
mod order;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub use check::{Case, Violation, check};

/// A replica: what one data directory holds. A node that starts anew with an empty one is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Replica(pub usize);

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// To store a value, which no other put of the history has.
    Put(String),
    /// To delete the key.
    Delete,
    /// To read the key.
    Get,
}

/// What the client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The write is acknowledged.
    Written,
    /// The key has this value, or none.
    Read(Option<String>),
    /// Nothing was written, or nothing read.
    Failed,
    /// A write may have been done, or may yet be.
    Unknown,
}

/// One call of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Whom it went to.
    pub replica: Replica,
    /// Which key.
    pub key: String,
    /// What was asked.
    pub action: Action,
    /// When, in nanoseconds since the history began.
    pub invoked_ns: u64,
    /// When the answer was there.
    pub completed_ns: u64,
    /// What the answer was.
    pub outcome: Outcome,
}

/// All that a replica held when nobody wrote any more and all had caught up: values by key.
#[derive(Clone, Debug)]
pub struct Holding {
    /// Whose it is.
    pub replica: Replica,
    /// What it holds.
    pub values: BTreeMap<String, String>,
}

/// A record of operations that clients share.
#[derive(Clone)]
pub struct History {
    begun: Instant,
    operations: Arc<Mutex<Vec<Operation>>>,
}

impl Default for History {
    fn default() -> Self {
        Self { begun: Instant::now(), operations: Arc::default() }
    }
}

impl History {
    /// Notes that an operation is about to be sent.
    pub fn begin(&self, replica: Replica, key: &str, action: Action) -> Begun {
        let now = self.now_ns();
        let operation = Operation {
            replica,
            key: key.to_owned(),
            action,
            invoked_ns: now,
            completed_ns: now,
            outcome: Outcome::Unknown,
        };
        Begun { history: self.clone(), operation: Some(operation) }
    }

    /// What was recorded so far, in the order of completion.
    pub fn operations(&self) -> Vec<Operation> {
        self.lock().clone()
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Operation>> {
        // A panic between two statements leaves a list that is still whole.
        self.operations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An operation under way. One that is dropped without an end has an unknown outcome.
pub struct Begun {
    history: History,
    operation: Option<Operation>,
}

impl Begun {
    /// Notes what came of it, now.
    pub fn end(mut self, outcome: Outcome) {
        self.record(outcome);
    }

    fn record(&mut self, outcome: Outcome) {
        if let Some(mut operation) = self.operation.take() {
            operation.completed_ns = self.history.now_ns();
            operation.outcome = outcome;
            self.history.lock().push(operation);
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.record(Outcome::Unknown);
    }
}
