//! Cron lines of workers.

use rusqlite::params;

use super::database::{from_sql, to_sql};
use super::{Registry, RegistryError, WorkerRef, now_ms, workers};

/// A cron line with its age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSchedule {
    /// Five fields, UTC.
    pub cron: String,
    /// When it was made: milliseconds since the Unix epoch.
    pub created_ms: u64,
}

impl Registry {
    /// The worker's cron lines, as they were given.
    ///
    /// # Errors
    /// Fails when the worker does not exist.
    pub fn schedules(&self, worker: &WorkerRef) -> Result<Vec<StoredSchedule>, RegistryError> {
        self.read(|view| {
            workers::ensure_exists(view, worker)?;
            let mut statement = view.prepare_cached(
                "SELECT cron, created_ms FROM schedule WHERE account = ?1 AND worker = ?2
                 ORDER BY position",
            )?;
            let rows = statement
                .query_map(params![worker.account.as_str(), worker.worker.as_str()], |row| {
                    Ok(StoredSchedule { cron: row.get(0)?, created_ms: from_sql(row.get(1)?) })
                })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// Replaces the worker's cron lines. The caller has checked their syntax.
    ///
    /// # Errors
    /// Fails when the worker does not exist.
    pub fn replace_schedules(
        &self,
        worker: &WorkerRef,
        crons: &[String],
    ) -> Result<(), RegistryError> {
        self.write(|transaction| {
            workers::ensure_exists(transaction, worker)?;
            let (account, name) = (worker.account.as_str(), worker.worker.as_str());
            transaction.execute(
                "DELETE FROM schedule WHERE account = ?1 AND worker = ?2",
                params![account, name],
            )?;
            let created_ms = to_sql(now_ms());
            for (position, cron) in crons.iter().enumerate() {
                transaction.execute(
                    "INSERT INTO schedule (account, worker, position, cron, created_ms)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![account, name, position as i64, cron, created_ms],
                )?;
            }
            Ok(())
        })
    }
}
