//! Workers: named programs of an account. A worker owns versions and no code itself.

use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde_json::Value;

use super::database::{from_sql, to_sql};
use super::{
    AccountId, Missing, Registry, RegistryError, WorkerName, WorkerRef, from_json, now_ms,
    random_hex_id, to_json, versions,
};

/// A DNS label, because the name is one in `<worker>.<subdomain>.<domain>`.
const NAME_BYTES_MAX: usize = 63;
/// A worker's settings as JSON, in bytes.
const SETTINGS_BYTES_MAX: usize = 32 << 10;
/// Workers of one account.
const WORKERS_MAX: usize = 500;

/// A worker as the API shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Worker {
    /// Which worker.
    pub worker: WorkerRef,
    /// An id that survives as long as the worker does: 32 hexadecimal digits.
    pub tag: String,
    /// Where it answers without a route.
    pub subdomain: SubdomainSettings,
    /// Settings that need no new version (`observability`, `logpush`, `tags`, …), a JSON object.
    pub settings: Value,
    /// When it was made: milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When it last changed: milliseconds since the Unix epoch.
    pub modified_ms: u64,
}

/// Whether a worker answers under its account's subdomain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubdomainSettings {
    /// At `<worker>.<subdomain>.<domain>`.
    pub enabled: bool,
    /// Versions at hosts of their own.
    pub previews_enabled: bool,
}

impl Registry {
    /// The account's workers by name.
    ///
    /// # Errors
    /// Fails when the database does.
    pub fn workers(&self, account: &AccountId) -> Result<Vec<Worker>, RegistryError> {
        self.read(|view| {
            let mut statement =
                view.prepare_cached("SELECT * FROM worker WHERE account = ?1 ORDER BY name")?;
            let rows = statement.query_map([account.as_str()], parts)?;
            rows.map(|row| from_parts(row?)).collect()
        })
    }

    /// One worker.
    ///
    /// # Errors
    /// Fails when the worker does not exist.
    pub fn worker(&self, worker: &WorkerRef) -> Result<Worker, RegistryError> {
        let row = self.read(|view| {
            Ok(view
                .prepare_cached("SELECT * FROM worker WHERE account = ?1 AND name = ?2")?
                .query_row(params![worker.account.as_str(), worker.worker.as_str()], parts)
                .optional()?)
        })?;
        row.map(from_parts).transpose()?.ok_or_else(|| missing(worker))
    }

    /// Deletes a worker with its versions, deployments, routes and schedules.
    ///
    /// # Errors
    /// Fails when the worker does not exist.
    pub fn delete_worker(&self, worker: &WorkerRef) -> Result<(), RegistryError> {
        self.write(|transaction| {
            ensure_exists(transaction, worker)?;
            let key = params![worker.account.as_str(), worker.worker.as_str()];
            transaction.execute("DELETE FROM route WHERE account = ?1 AND worker = ?2", key)?;
            transaction.execute("DELETE FROM worker WHERE account = ?1 AND name = ?2", key)?;
            versions::delete_unused_blobs(transaction)
        })?;
        self.inner.versions.invalidate_all();
        Ok(())
    }

    /// Changes whether a worker answers under its account's subdomain.
    ///
    /// # Errors
    /// Fails when the worker does not exist.
    pub fn set_worker_subdomain(
        &self,
        worker: &WorkerRef,
        subdomain: SubdomainSettings,
    ) -> Result<(), RegistryError> {
        self.write(|transaction| {
            ensure_exists(transaction, worker)?;
            transaction.execute(
                "UPDATE worker SET workers_dev = ?3, previews = ?4, modified_ms = ?5
                 WHERE account = ?1 AND name = ?2",
                params![
                    worker.account.as_str(),
                    worker.worker.as_str(),
                    subdomain.enabled,
                    subdomain.previews_enabled,
                    to_sql(now_ms())
                ],
            )?;
            Ok(())
        })
    }

    /// Replaces the settings that need no new version.
    ///
    /// # Errors
    /// Fails when the worker does not exist or the settings are too large.
    pub fn set_worker_settings(
        &self,
        worker: &WorkerRef,
        settings: &Value,
    ) -> Result<(), RegistryError> {
        let text = to_json(settings);
        if text.len() > SETTINGS_BYTES_MAX {
            return Err(RegistryError::Invalid(format!(
                "a worker's settings have at most {SETTINGS_BYTES_MAX} bytes"
            )));
        }
        self.write(|transaction| {
            ensure_exists(transaction, worker)?;
            transaction.execute(
                "UPDATE worker SET settings = ?3, modified_ms = ?4
                 WHERE account = ?1 AND name = ?2",
                params![worker.account.as_str(), worker.worker.as_str(), text, to_sql(now_ms())],
            )?;
            Ok(())
        })
    }
}

pub(super) fn ensure_exists(
    view: &Transaction<'_>,
    worker: &WorkerRef,
) -> Result<(), RegistryError> {
    let exists: bool = view
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM worker WHERE account = ?1 AND name = ?2)")?
        .query_row(params![worker.account.as_str(), worker.worker.as_str()], |row| row.get(0))?;
    if exists { Ok(()) } else { Err(missing(worker)) }
}

/// Makes the worker unless it exists, and marks it as changed.
pub(super) fn upsert(
    transaction: &Transaction<'_>,
    worker: &WorkerRef,
) -> Result<(), RegistryError> {
    let (account, name) = (worker.account.as_str(), worker.worker.as_str());
    let now = to_sql(now_ms());
    let changed = transaction.execute(
        "UPDATE worker SET modified_ms = ?3 WHERE account = ?1 AND name = ?2",
        params![account, name, now],
    )?;
    if changed > 0 {
        return Ok(());
    }
    worker.worker.check()?;
    let count: i64 = transaction.query_row(
        "SELECT count(*) FROM worker WHERE account = ?1",
        [account],
        |row| row.get(0),
    )?;
    if count >= WORKERS_MAX as i64 {
        return Err(RegistryError::TooMany { what: "workers of an account", max: WORKERS_MAX });
    }
    transaction.execute(
        "INSERT INTO worker
             (account, name, tag, workers_dev, previews, settings, created_ms, modified_ms)
         VALUES (?1, ?2, ?3, 1, 0, '{}', ?4, ?4)",
        params![account, name, random_hex_id(), now],
    )?;
    Ok(())
}

impl WorkerName {
    /// Checks that this can be a worker's name.
    ///
    /// # Errors
    /// Fails when it is not 1 to 63 lower-case letters, digits, underscores or hyphens, or begins
    /// or ends with a hyphen.
    pub fn check(&self) -> Result<(), RegistryError> {
        let name = self.as_str();
        let allowed =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
        let fits = (1..=NAME_BYTES_MAX).contains(&name.len())
            && name.bytes().all(allowed)
            && !name.starts_with('-')
            && !name.ends_with('-');
        match fits {
            true => Ok(()),
            false => Err(RegistryError::Invalid(format!(
                "worker name {name:?} is not 1 to {NAME_BYTES_MAX} lower-case letters, digits, underscores or inner hyphens"
            ))),
        }
    }
}

fn missing(worker: &WorkerRef) -> RegistryError {
    RegistryError::NotFound { what: Missing::Worker(worker.worker.to_string()) }
}

/// A worker whose settings are still JSON.
fn parts(row: &Row<'_>) -> rusqlite::Result<(Worker, String)> {
    let worker = Worker {
        worker: WorkerRef {
            account: AccountId::new(row.get::<_, String>("account")?),
            worker: WorkerName::new(row.get::<_, String>("name")?),
        },
        tag: row.get("tag")?,
        subdomain: SubdomainSettings {
            enabled: row.get("workers_dev")?,
            previews_enabled: row.get("previews")?,
        },
        settings: Value::Null,
        created_ms: from_sql(row.get("created_ms")?),
        modified_ms: from_sql(row.get("modified_ms")?),
    };
    Ok((worker, row.get("settings")?))
}

fn from_parts((worker, settings): (Worker, String)) -> Result<Worker, RegistryError> {
    Ok(Worker { settings: from_json("a worker's settings", &settings)?, ..worker })
}
