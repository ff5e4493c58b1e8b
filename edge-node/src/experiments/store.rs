//! What is kept of experiments: one row for each unit that saw a variant, in an SQLite file of the node. Of an
//! experiment with too many units a fair part is kept, drawn by their hashes, the same on every node.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::batch::{Batch, Seen, Served, Told};
use super::latency::Latency;
use crate::registry::WorkerRef;

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

/// What is kept of one experiment.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    pub(super) rule: String,
    pub(super) seed: String,
    pub(super) since_ms: u64,
    /// Of the units, one in two to the power of this is kept.
    pub(super) level: u32,
    pub(super) variants: Vec<VariantTotals>,
}

/// What is kept of one variant.
#[derive(Clone, Debug, Default)]
pub(super) struct VariantTotals {
    pub(super) name: String,
    /// Kept units that saw it first.
    pub(super) exposures: u64,
    /// Those of them that saw another one later.
    pub(super) moved: u64,
    /// How many it should have.
    pub(super) expected: f64,
    pub(super) served: Served,
    pub(super) metrics: Vec<MetricTotals>,
}

/// What the units of a variant that stayed with it did.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct MetricTotals {
    pub(super) name: String,
    /// Units that did it at least once.
    pub(super) units: u64,
    pub(super) times: u64,
    pub(super) sum: f64,
    pub(super) sum_of_squares: f64,
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

    /// Everything of a worker's experiments.
    pub(super) fn totals(&self, worker: &WorkerRef) -> Result<Vec<Totals>, StoreError> {
        let mut connection = self.connection();
        let view = connection.transaction()?;
        let mut statement = view.prepare_cached(
            "SELECT id, rule, seed, level, since_ms FROM experiment
             WHERE account = ?1 AND worker = ?2 ORDER BY id",
        )?;
        let found =
            statement.query_map([worker.account.as_str(), worker.worker.as_str()], |row| {
                let totals = Totals {
                    rule: row.get(1)?,
                    seed: row.get(2)?,
                    level: row.get(3)?,
                    since_ms: unsigned(row.get(4)?),
                    variants: Vec::new(),
                };
                Ok((row.get::<_, i64>(0)?, totals))
            })?;
        let found: Vec<_> = found.collect::<Result<_, _>>()?;
        let filled = found.into_iter().map(|(id, mut totals)| {
            totals.variants = variants(&view, id)?;
            Ok(totals)
        });
        filled.collect()
    }

    /// How the variants of an experiment fared since a time, as far as minutes are kept.
    pub(super) fn served_since(
        &self,
        worker: &WorkerRef,
        rule: &str,
        seed: &str,
        since_ms: u64,
    ) -> Result<Vec<(String, Served)>, StoreError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT v.name, s.requests, s.errors, s.latency FROM experiment e
             JOIN variant v ON v.experiment = e.id JOIN served s ON s.variant = v.id
             WHERE e.account = ?1 AND e.worker = ?2 AND e.rule = ?3 AND e.seed = ?4
               AND s.minute > 0 AND s.minute >= ?5 ORDER BY v.id",
        )?;
        let (account, name) = (worker.account.as_str(), worker.worker.as_str());
        // A minute that had begun before is left out.
        let from = sql(since_ms.div_ceil(60_000));
        let rows = statement.query_map(params![account, name, rule, seed, from], |row| {
            Ok((row.get::<_, String>(0)?, served(row, 1)?))
        })?;
        let mut all: Vec<(String, Served)> = Vec::new();
        for row in rows {
            let (name, part) = row?;
            match all.iter_mut().find(|(known, _)| *known == name) {
                Some((_, whole)) => whole.merge(&part),
                None => all.push((name, part)),
            }
        }
        Ok(all)
    }
}

fn note_position(view: &Transaction<'_>, at: &Applied) -> rusqlite::Result<()> {
    view.execute("DELETE FROM position", [])?;
    let row = params![at.identity, sql(at.sequence)];
    view.execute("INSERT INTO position (identity, sequence) VALUES (?1, ?2)", row)?;
    Ok(())
}

/// One batch that is being taken in.
struct Applying<'a> {
    view: &'a Transaction<'a>,
    limits: StoreLimits,
    now_ms: u64,
}

impl Applying<'_> {
    /// Takes in what was seen of one experiment, and says how many outcomes found no room.
    fn seen(&self, seen: &Seen) -> rusqlite::Result<u64> {
        let mut row = self.experiment(seen)?;
        let ids: Vec<i64> = seen
            .variants
            .iter()
            .map(|(name, _)| self.variant(row.id, name))
            .collect::<Result<_, _>>()?;
        let fresh = self.exposures(&row, &ids, &seen.exposures)?;
        self.expect(&ids, &seen.variants, fresh)?;
        let units: i64 = self
            .view
            .prepare_cached(
                "UPDATE experiment SET units = units + ?2, last_ms = ?3 WHERE id = ?1 RETURNING units",
            )?
            .query_row(params![row.id, sql(fresh), sql(self.now_ms)], |row| row.get(0))?;
        let mut units = unsigned(units);
        while units > self.limits.units_max {
            units = halve(self.view, &row)?;
            row.level += 1;
        }
        for (place, served) in &seen.served {
            self.served(ids[usize::from(*place)], served)?;
        }
        self.outcomes(&row, &seen.outcomes)
    }

    fn experiment(&self, seen: &Seen) -> rusqlite::Result<Row> {
        let (account, worker) = (seen.worker.account.as_str(), seen.worker.worker.as_str());
        self.view
            .prepare_cached(
                "INSERT INTO experiment (account, worker, rule, seed, since_ms, last_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?5)
                 ON CONFLICT DO UPDATE SET last_ms = excluded.last_ms RETURNING id, level",
            )?
            .query_row(params![account, worker, seen.rule, seen.seed, sql(self.now_ms)], |row| {
                Ok(Row { id: row.get(0)?, level: row.get(1)? })
            })
    }

    fn variant(&self, experiment: i64, name: &str) -> rusqlite::Result<i64> {
        self.view
            .prepare_cached(
                "INSERT INTO variant (experiment, name) VALUES (?1, ?2)
                 ON CONFLICT DO UPDATE SET name = excluded.name RETURNING id",
            )?
            .query_row(params![experiment, name], |row| row.get(0))
    }

    /// Notes who saw what, and says how many had not seen anything.
    fn exposures(&self, row: &Row, ids: &[i64], seen: &[(u8, u64)]) -> rusqlite::Result<u64> {
        let mut add = self.view.prepare_cached(
            "INSERT INTO exposure (experiment, unit, variant) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        )?;
        let mut moved = self.view.prepare_cached(
            "UPDATE exposure SET moved = 1 WHERE experiment = ?1 AND unit = ?2 AND variant <> ?3 AND moved = 0",
        )?;
        let mut fresh = 0;
        for (place, unit) in seen.iter().filter(|(_, unit)| is_kept(*unit, row.level)) {
            let values = params![row.id, *unit as i64, ids[usize::from(*place)]];
            match add.execute(values)? {
                0 => drop(moved.execute(values)?),
                _ => fresh += 1,
            }
        }
        Ok(fresh)
    }

    /// Shares units that came now out as the variants' shares are now: what should be seen of each.
    fn expect(&self, ids: &[i64], variants: &[(String, u16)], fresh: u64) -> rusqlite::Result<()> {
        let all: f64 = variants.iter().map(|(_, buckets)| f64::from(*buckets)).sum();
        if fresh == 0 || all == 0.0 {
            return Ok(());
        }
        let mut add = self
            .view
            .prepare_cached("UPDATE variant SET expected = expected + ?2 WHERE id = ?1")?;
        for (id, (_, buckets)) in ids.iter().zip(variants) {
            add.execute(params![id, fresh as f64 * f64::from(*buckets) / all])?;
        }
        Ok(())
    }

    /// Adds requests to the whole and to their minute.
    fn served(&self, variant: i64, more: &Served) -> rusqlite::Result<()> {
        let minute = self.now_ms / 60_000;
        for minute in [0, minute] {
            let known = self
                .view
                .prepare_cached(
                    "SELECT requests, errors, latency FROM served WHERE variant = ?1 AND minute = ?2",
                )?
                .query_row(params![variant, sql(minute)], |row| served(row, 0))
                .optional()?;
            let mut all = known.unwrap_or_default();
            all.merge(more);
            let latency = serde_json::to_vec(&all.latency).expect("a histogram is plain data");
            self.view
                .prepare_cached(
                    "INSERT OR REPLACE INTO served (variant, minute, requests, errors, latency)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![
                    variant,
                    sql(minute),
                    sql(all.requests),
                    sql(all.errors),
                    latency
                ])?;
        }
        let oldest = sql(minute.saturating_sub(self.limits.minutes_max));
        self.view
            .prepare_cached("DELETE FROM served WHERE variant = ?1 AND minute > 0 AND minute < ?2")?
            .execute(params![variant, oldest])?;
        Ok(())
    }

    /// Adds what units did that have seen something.
    fn outcomes(&self, row: &Row, told: &[Told]) -> rusqlite::Result<u64> {
        let mut exposed = self
            .view
            .prepare_cached("SELECT 1 FROM exposure WHERE experiment = ?1 AND unit = ?2")?;
        let mut add = self.view.prepare_cached(
            "INSERT INTO outcome (experiment, metric, unit, sum, times) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO UPDATE SET sum = sum + excluded.sum, times = times + excluded.times",
        )?;
        let mut dropped = 0;
        for told in told.iter().filter(|told| is_kept(told.unit, row.level)) {
            let unit = told.unit as i64;
            if !exposed.exists(params![row.id, unit])? {
                continue;
            }
            match self.metric(row.id, &told.metric)? {
                Some(metric) => {
                    add.execute(params![row.id, metric, unit, told.sum, told.times])?;
                }
                None => dropped += 1,
            }
        }
        Ok(dropped)
    }

    /// The id of a metric, unless there are too many.
    fn metric(&self, experiment: i64, name: &str) -> rusqlite::Result<Option<i64>> {
        let known = self
            .view
            .prepare_cached("SELECT id FROM metric WHERE experiment = ?1 AND name = ?2")?
            .query_row(params![experiment, name], |row| row.get(0))
            .optional()?;
        if known.is_some() {
            return Ok(known);
        }
        self.view
            .prepare_cached(
                "INSERT INTO metric (experiment, name) SELECT ?1, ?2
                 WHERE (SELECT COUNT(*) FROM metric WHERE experiment = ?1) < ?3 RETURNING id",
            )?
            .query_row(params![experiment, name, sql(self.limits.metrics_max)], |row| row.get(0))
            .optional()
    }
}

/// Whether a unit belongs to the part that is kept.
fn is_kept(unit: u64, level: u32) -> bool {
    unit.trailing_zeros() >= level
}

/// Keeps half of the units, by one more bit of their hashes, and says how many are left.
fn halve(view: &Transaction<'_>, row: &Row) -> rusqlite::Result<u64> {
    let level = row.level + 1;
    let mask = ((1_u64 << level.min(63)) - 1) as i64;
    for table in ["exposure", "outcome"] {
        let gone = format!("DELETE FROM {table} WHERE experiment = ?1 AND (unit & ?2) <> 0");
        view.execute(&gone, params![row.id, mask])?;
    }
    let before: i64 =
        view.query_row("SELECT units FROM experiment WHERE id = ?1", [row.id], |row| row.get(0))?;
    let left: i64 =
        view.query_row("SELECT COUNT(*) FROM exposure WHERE experiment = ?1", [row.id], |row| {
            row.get(0)
        })?;
    view.execute(
        "UPDATE experiment SET units = ?2, level = ?3 WHERE id = ?1",
        params![row.id, left, level],
    )?;
    let kept = left as f64 / (before as f64).max(1.0);
    view.execute(
        "UPDATE variant SET expected = expected * ?2 WHERE experiment = ?1",
        params![row.id, kept],
    )?;
    Ok(unsigned(left))
}

fn variants(view: &Transaction<'_>, experiment: i64) -> Result<Vec<VariantTotals>, StoreError> {
    let mut statement = view.prepare_cached(
        "SELECT v.id, v.name, v.expected, COUNT(e.unit), COALESCE(SUM(e.moved), 0) FROM variant v
         LEFT JOIN exposure e ON e.experiment = v.experiment AND e.variant = v.id
         WHERE v.experiment = ?1 GROUP BY v.id ORDER BY v.id",
    )?;
    let rows = statement.query_map([experiment], |row| {
        let totals = VariantTotals {
            name: row.get(1)?,
            expected: row.get(2)?,
            exposures: unsigned(row.get(3)?),
            moved: unsigned(row.get(4)?),
            ..VariantTotals::default()
        };
        Ok((row.get::<_, i64>(0)?, totals))
    })?;
    let mut found: Vec<_> = rows.collect::<Result<_, _>>()?;
    for (id, totals) in &mut found {
        let whole = view
            .prepare_cached(
                "SELECT requests, errors, latency FROM served WHERE variant = ?1 AND minute = 0",
            )?
            .query_row([*id], |row| served(row, 0))
            .optional()?;
        totals.served = whole.unwrap_or_default();
    }
    let mut statement = view.prepare_cached(
        "SELECT e.variant, m.name, COUNT(*), SUM(o.times), SUM(o.sum), SUM(o.sum * o.sum) FROM outcome o
         JOIN exposure e ON e.experiment = o.experiment AND e.unit = o.unit AND e.moved = 0
         JOIN metric m ON m.id = o.metric
         WHERE o.experiment = ?1 GROUP BY e.variant, m.id ORDER BY m.id",
    )?;
    let rows = statement.query_map([experiment], |row| {
        let totals = MetricTotals {
            name: row.get(1)?,
            units: unsigned(row.get(2)?),
            times: unsigned(row.get(3)?),
            sum: row.get(4)?,
            sum_of_squares: row.get(5)?,
        };
        Ok((row.get::<_, i64>(0)?, totals))
    })?;
    for row in rows {
        let (variant, metric) = row?;
        if let Some((_, totals)) = found.iter_mut().find(|(id, _)| *id == variant) {
            totals.metrics.push(metric);
        }
    }
    Ok(found.into_iter().map(|(_, totals)| totals).collect())
}

/// Requests, errors and latencies, from three columns.
fn served(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<Served> {
    let latency: Vec<u8> = row.get(first + 2)?;
    Ok(Served {
        requests: unsigned(row.get(first)?),
        errors: unsigned(row.get(first + 1)?),
        latency: serde_json::from_slice::<Latency>(&latency).unwrap_or_default(),
    })
}

fn sql(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
