//! What is kept, read back in sums.

use rusqlite::{OptionalExtension, Transaction, params};

use super::super::batch::Served;
use super::super::latency::Latency;
use super::{Store, StoreError, sql, unsigned};
use crate::registry::WorkerRef;

/// What is kept of one experiment.
#[derive(Clone, Debug, Default)]
pub(in crate::experiments) struct Totals {
    pub(in crate::experiments) rule: String,
    pub(in crate::experiments) seed: String,
    pub(in crate::experiments) since_ms: u64,
    /// Of the units, one in two to the power of this is kept.
    pub(in crate::experiments) level: u32,
    pub(in crate::experiments) variants: Vec<VariantTotals>,
}

/// What is kept of one variant.
#[derive(Clone, Debug, Default)]
pub(in crate::experiments) struct VariantTotals {
    pub(in crate::experiments) name: String,
    /// Kept units that saw it first.
    pub(in crate::experiments) exposures: u64,
    /// Those of them that saw another one later.
    pub(in crate::experiments) moved: u64,
    /// How many it should have.
    pub(in crate::experiments) expected: f64,
    pub(in crate::experiments) served: Served,
    pub(in crate::experiments) metrics: Vec<MetricTotals>,
}

/// What the units of a variant that stayed with it did.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::experiments) struct MetricTotals {
    pub(in crate::experiments) name: String,
    /// Units that did it at least once.
    pub(in crate::experiments) units: u64,
    pub(in crate::experiments) times: u64,
    pub(in crate::experiments) sum: f64,
    pub(in crate::experiments) sum_of_squares: f64,
}

impl Store {
    /// Everything of a worker's experiments.
    pub(in crate::experiments) fn totals(
        &self,
        worker: &WorkerRef,
    ) -> Result<Vec<Totals>, StoreError> {
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
    pub(in crate::experiments) fn served_since(
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
    add_metrics(view, experiment, &mut found)?;
    Ok(found.into_iter().map(|(_, totals)| totals).collect())
}

/// Adds what units did to the variants that they saw.
fn add_metrics(
    view: &Transaction<'_>,
    experiment: i64,
    found: &mut [(i64, VariantTotals)],
) -> Result<(), StoreError> {
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
    Ok(())
}

/// Requests, errors and latencies, from three columns.
pub(super) fn served(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<Served> {
    let latency: Vec<u8> = row.get(first + 2)?;
    Ok(Served {
        requests: unsigned(row.get(first)?),
        errors: unsigned(row.get(first + 1)?),
        latency: serde_json::from_slice::<Latency>(&latency).unwrap_or_default(),
    })
}
