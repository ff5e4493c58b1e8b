//! How what was seen is taken in, within the store's bounds.

use rusqlite::{OptionalExtension, Transaction, params};

use super::super::batch::{Seen, Served, Told};
use super::read::served;
use super::{Row, StoreLimits, sql, unsigned};

/// One batch that is being taken in.
pub(super) struct Applying<'a> {
    pub(super) view: &'a Transaction<'a>,
    pub(super) limits: StoreLimits,
    pub(super) now_ms: u64,
}

impl Applying<'_> {
    /// Takes in what was seen of one experiment, and says how many outcomes found no room.
    pub(super) fn seen(&self, seen: &Seen) -> rusqlite::Result<u64> {
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
pub(super) fn halve(view: &Transaction<'_>, row: &Row) -> rusqlite::Result<u64> {
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
