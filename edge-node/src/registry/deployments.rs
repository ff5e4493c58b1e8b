//! Deployments: which versions of a worker serve. History is kept, the newest counts.

use std::collections::BTreeMap;

use rusqlite::{Row, Transaction, params};
use uuid::Uuid;

use super::database::{from_sql, to_sql};
use super::{
    Deployment, Missing, Registry, RegistryError, VersionId, WorkerRef, from_json, now_ms, to_json,
    workers,
};

/// Deployments of a worker that are kept and listed.
const DEPLOYMENTS_KEPT_MAX: usize = 100;
const VERSIONS_PER_DEPLOYMENT_MAX: usize = 2;
const PERCENT_TOLERANCE: f64 = 1e-6;

impl Registry {
    /// The worker's deployments, newest first.
    ///
    /// # Errors
    /// Fails when the worker does not exist.
    pub fn deployments(&self, worker: &WorkerRef) -> Result<Vec<Deployment>, RegistryError> {
        self.read(|view| {
            workers::ensure_exists(view, worker)?;
            list(view, worker)
        })
    }

    /// Deploys versions of the worker with percentages that add up to 100.
    ///
    /// # Errors
    /// Fails when a version is not the worker's, or the percentages are unfit.
    pub fn deploy(
        &self,
        worker: &WorkerRef,
        versions: Vec<(VersionId, f64)>,
        annotations: BTreeMap<String, String>,
    ) -> Result<Deployment, RegistryError> {
        self.write(|transaction| {
            workers::ensure_exists(transaction, worker)?;
            insert(transaction, worker, versions.clone(), annotations.clone())
        })
    }
}

pub(super) fn insert(
    transaction: &Transaction<'_>,
    worker: &WorkerRef,
    versions: Vec<(VersionId, f64)>,
    annotations: BTreeMap<String, String>,
) -> Result<Deployment, RegistryError> {
    check(transaction, worker, &versions)?;
    let deployment =
        Deployment { id: Uuid::new_v4().to_string(), created_ms: now_ms(), versions, annotations };
    transaction.execute(
        "INSERT INTO deployment (id, account, worker, versions, annotations, created_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            deployment.id,
            worker.account.as_str(),
            worker.worker.as_str(),
            to_json(&deployment.versions),
            to_json(&deployment.annotations),
            to_sql(deployment.created_ms)
        ],
    )?;
    transaction.execute(
        "DELETE FROM deployment WHERE account = ?1 AND worker = ?2 AND sequence NOT IN (
             SELECT sequence FROM deployment WHERE account = ?1 AND worker = ?2
             ORDER BY sequence DESC LIMIT ?3)",
        params![worker.account.as_str(), worker.worker.as_str(), DEPLOYMENTS_KEPT_MAX as i64],
    )?;
    Ok(deployment)
}

/// Whether the worker's newest deployment has the version.
pub(super) fn is_serving(
    view: &Transaction<'_>,
    worker: &WorkerRef,
    version: &VersionId,
) -> Result<bool, RegistryError> {
    let newest = list(view, worker)?.into_iter().next();
    Ok(newest.is_some_and(|newest| newest.versions.iter().any(|(id, _)| id == version)))
}

fn check(
    view: &Transaction<'_>,
    worker: &WorkerRef,
    versions: &[(VersionId, f64)],
) -> Result<(), RegistryError> {
    let invalid = |why: String| Err(RegistryError::Invalid(why));
    if versions.is_empty() || versions.len() > VERSIONS_PER_DEPLOYMENT_MAX {
        return invalid(format!("a deployment has 1 to {VERSIONS_PER_DEPLOYMENT_MAX} versions"));
    }
    let sum: f64 = versions.iter().map(|(_, percentage)| percentage).sum();
    let in_range = versions.iter().all(|(_, percentage)| (0.0..=100.0).contains(percentage));
    if !in_range || (sum - 100.0).abs() > PERCENT_TOLERANCE {
        return invalid(format!("the percentages of a deployment add up to 100, not {sum}"));
    }
    if versions.len() == 2 && versions[0].0 == versions[1].0 {
        return invalid(format!("version {} is named twice", versions[0].0));
    }
    for (id, _) in versions {
        let known: bool = view.query_row(
            "SELECT EXISTS (
                 SELECT 1 FROM version WHERE id = ?1 AND account = ?2 AND worker = ?3)",
            params![id.as_str(), worker.account.as_str(), worker.worker.as_str()],
            |row| row.get(0),
        )?;
        if !known {
            return Err(RegistryError::NotFound { what: Missing::Version(id.to_string()) });
        }
    }
    Ok(())
}

fn list(view: &Transaction<'_>, worker: &WorkerRef) -> Result<Vec<Deployment>, RegistryError> {
    let mut statement = view.prepare_cached(
        "SELECT * FROM deployment WHERE account = ?1 AND worker = ?2 ORDER BY sequence DESC",
    )?;
    let rows = statement
        .query_map(params![worker.account.as_str(), worker.worker.as_str()], Stored::from_row)?;
    rows.map(|row| row?.parse()).collect()
}

/// A row whose JSON columns are still text.
pub(super) struct Stored {
    id: String,
    created_ms: u64,
    versions: String,
    annotations: String,
}

impl Stored {
    pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            created_ms: from_sql(row.get("created_ms")?),
            versions: row.get("versions")?,
            annotations: row.get("annotations")?,
        })
    }

    pub(super) fn parse(self) -> Result<Deployment, RegistryError> {
        Ok(Deployment {
            id: self.id,
            created_ms: self.created_ms,
            versions: from_json("a deployment's versions", &self.versions)?,
            annotations: from_json("a deployment's annotations", &self.annotations)?,
        })
    }
}
