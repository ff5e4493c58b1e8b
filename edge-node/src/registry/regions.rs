//! Where workers may run: one document each, among the worker's settings, so that it holds for every version.

use atoll_router::regions::RegionRules;
use rusqlite::{Transaction, params};
use serde_json::Value;

use super::{
    AccountId, Registry, RegistryError, WorkerName, WorkerRef, WorkerRegions, now_ms, to_json,
    workers,
};

/// Its name among a worker's settings.
const KEY: &str = "regions";

impl Registry {
    /// Where the worker may run; anywhere unless it says so.
    ///
    /// # Errors
    /// Fails when the worker does not exist.
    pub fn regions(&self, worker: &WorkerRef) -> Result<RegionRules, RegistryError> {
        let settings = self.worker(worker)?.settings;
        let stored = settings.get(KEY).cloned().unwrap_or(Value::Object(Default::default()));
        serde_json::from_value(stored)
            .map_err(|_| RegistryError::Corrupt { what: "a worker's regions".to_owned() })
    }

    /// Says where the worker may run from now on, in place of what it said before.
    ///
    /// # Errors
    /// Fails when the worker does not exist, or the regions contradict each other.
    pub fn set_regions(
        &self,
        worker: &WorkerRef,
        regions: &RegionRules,
    ) -> Result<(), RegistryError> {
        regions.check().map_err(|error| RegistryError::Invalid(error.to_string()))?;
        let change = match regions.is_empty() {
            true => {
                "UPDATE worker SET settings = json_remove(settings, '$.regions'),
                     modified_ms = ?3 WHERE account = ?1 AND name = ?2 AND ?4 IS NOT NULL"
            }
            false => {
                "UPDATE worker SET settings = json_set(settings, '$.regions', json(?4)),
                      modified_ms = ?3 WHERE account = ?1 AND name = ?2"
            }
        };
        let (document, now) = (to_json(regions), super::database::to_sql(now_ms()));
        self.write(|transaction| {
            workers::ensure_exists(transaction, worker)?;
            let (account, name) = (worker.account.as_str(), worker.worker.as_str());
            transaction.execute(change, params![account, name, now, document])?;
            Ok(())
        })
    }
}

/// Every worker that says something of regions, for the snapshot.
pub(super) fn all(view: &Transaction<'_>) -> Result<Vec<WorkerRegions>, RegistryError> {
    let mut statement = view.prepare_cached(
        "SELECT account, name, json_extract(settings, '$.regions') AS regions FROM worker
         WHERE regions IS NOT NULL ORDER BY account, name",
    )?;
    let rows = statement.query_map([], |row| {
        let worker = WorkerRef {
            account: AccountId::new(row.get::<_, String>(0)?),
            worker: WorkerName::new(row.get::<_, String>(1)?),
        };
        Ok(WorkerRegions { worker, document: row.get(2)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::{Deploy, test_version};

    #[test]
    fn regions_are_kept_apart_from_other_settings() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(dir.path()).unwrap();
        let account = registry.create_account("a", None).unwrap().id;
        let worker = WorkerRef { account: account.clone(), worker: WorkerName::new("w") };
        let rules = |json| serde_json::from_value::<RegionRules>(json).unwrap();
        let pinned = rules(json!({ "pin": "eu" }));
        assert!(registry.set_regions(&worker, &pinned).is_err(), "there is no such worker");
        let version = test_version(&account, "w", "", Vec::new());
        registry.add_version(version, Deploy::Now).unwrap();
        registry.set_worker_settings(&worker, &json!({ "logpush": true })).unwrap();
        registry.set_regions(&worker, &pinned).unwrap();
        assert_eq!(registry.regions(&worker).unwrap(), pinned);
        let document = r#"{"pin":"eu"}"#.to_owned();
        let expected = WorkerRegions { worker: worker.clone(), document };
        assert_eq!(registry.snapshot().regions, [expected]);
        let wrong = rules(json!({ "pin": "eu", "allow": ["us"] }));
        let told = registry.set_regions(&worker, &wrong).unwrap_err().to_string();
        assert!(told.contains("pin stands alone"), "{told}");
        registry.set_regions(&worker, &RegionRules::default()).unwrap();
        assert_eq!(registry.worker(&worker).unwrap().settings, json!({ "logpush": true }));
        assert!(registry.snapshot().regions.is_empty());
    }
}
