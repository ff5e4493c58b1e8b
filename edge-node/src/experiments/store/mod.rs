//! What is kept of experiments: one row for each unit that saw a variant, in an SQLite file of the node. Of an
//! experiment with too many units a fair part is kept, drawn by their hashes, the same on every node.

mod apply;
mod read;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::batch::Batch;
use apply::{Applying, halve};
pub(super) use read::{MetricTotals, Totals, VariantTotals};

/// What stays, at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct StoreLimits {
    /// Units of one experiment; of more, half are kept, again and again.
    pub(super) units_max: u64,
    /// Units of all experiments.
    pub(super) units_all_max: u64,
    /// Experiments of the node; the one that nothing was heard of for longest goes.
    pub(super) experiments_max: u64,
    /// Metrics of one experiment; what more there are is left out.
    pub(super) metrics_max: u64,
    /// Minutes whose requests are kept apart, for guardrails.
    pub(super) minutes_max: u64,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            units_max: 200_000,
            units_all_max: 5_000_000,
            experiments_max: 2_000,
            metrics_max: 50,
            minutes_max: 60,
        }
    }
}

/// The store cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the results of experiments cannot be kept: {0}")]
pub(crate) struct StoreError(#[from] rusqlite::Error);

/// The file with what is kept.
pub(super) struct Store {
    connection: Mutex<Connection>,
    limits: StoreLimits,
}

/// Where in which log what is applied stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) identity: String,
    pub(super) sequence: u64,
}

/// A row of `experiment`.
struct Row {
    id: i64,
    level: u32,
}

impl Store {
    pub(super) fn open(path: &Path, limits: StoreLimits) -> Result<Self, StoreError> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // What a power cut takes are results of the last moment.
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "foreign_keys", "ON")?;
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version == 0 {
            connection.execute_batch(&format!(
                "BEGIN; {} PRAGMA user_version = 1; COMMIT;",
                include_str!("schema.sql")
            ))?;
        }
        Ok(Self { connection: Mutex::new(connection), limits })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic inside a transaction rolls it back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what was seen, and remembers how far in the log it stands.
    pub(super) fn apply(&self, batch: &Batch, at: Option<&Applied>) -> Result<(), StoreError> {
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        let mut dropped = batch.dropped;
        for seen in &batch.seen {
            dropped += Applying { view: &transaction, limits: self.limits, now_ms: batch.at_ms }
                .seen(seen)?;
        }
        if dropped > 0 {
            transaction.execute("UPDATE dropped SET count = count + ?1", [sql(dropped)])?;
        }
        self.bound(&transaction)?;
        if let Some(at) = at {
            note_position(&transaction, at)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Remembers how far in the log the store stands.
    pub(super) fn stand_at(&self, at: &Applied) -> Result<(), StoreError> {
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        note_position(&transaction, at)?;
        transaction.commit()?;
        Ok(())
    }

    /// How far in which log the store stands.
    pub(super) fn position(&self) -> Result<Option<Applied>, StoreError> {
        let connection = self.connection();
        let found = connection
            .query_row("SELECT identity, sequence FROM position", [], |row| {
                Ok(Applied { identity: row.get(0)?, sequence: unsigned(row.get(1)?) })
            })
            .optional()?;
        Ok(found)
    }

    /// What was left out so far, for want of room.
    pub(super) fn dropped(&self) -> Result<u64, StoreError> {
        let count =
            self.connection().query_row("SELECT count FROM dropped", [], |row| row.get(0))?;
        Ok(unsigned(count))
    }

    /// Keeps no more experiments and units than there may be.
    fn bound(&self, view: &Transaction<'_>) -> Result<(), StoreError> {
        let count = |sql: &str| -> rusqlite::Result<u64> {
            view.prepare_cached(sql)?.query_row([], |row| row.get(0)).map(unsigned)
        };
        let experiments = count("SELECT COUNT(*) FROM experiment")?;
        for _ in self.limits.experiments_max..experiments {
            view.execute(
                "DELETE FROM experiment WHERE id = (SELECT id FROM experiment ORDER BY last_ms LIMIT 1)",
                [],
            )?;
        }
        while count("SELECT COALESCE(SUM(units), 0) FROM experiment")? > self.limits.units_all_max {
            let largest = view
                .prepare_cached("SELECT id, level FROM experiment ORDER BY units DESC LIMIT 1")?
                .query_row([], |row| Ok(Row { id: row.get(0)?, level: row.get(1)? }))?;
            halve(view, &largest)?;
        }
        Ok(())
    }
}

fn note_position(view: &Transaction<'_>, at: &Applied) -> rusqlite::Result<()> {
    view.execute("DELETE FROM position", [])?;
    let row = params![at.identity, sql(at.sequence)];
    view.execute("INSERT INTO position (identity, sequence) VALUES (?1, ?2)", row)?;
    Ok(())
}

fn sql(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
