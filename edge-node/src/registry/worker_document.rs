//! Documents among a worker's settings, one for each thing that it says something of, so that they hold for every
//! version.

use rusqlite::params;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Registry, RegistryError, WorkerRef, database, now_ms, to_json, workers};

impl Registry {
    /// A worker's document; none unless it has one.
    pub(super) fn worker_document<T: DeserializeOwned>(
        &self,
        worker: &WorkerRef,
        key: &str,
    ) -> Result<Option<T>, RegistryError> {
        let settings = self.worker(worker)?.settings;
        let Some(stored) = settings.get(key) else { return Ok(None) };
        let read = serde_json::from_value(stored.clone());
        read.map(Some).map_err(|_| RegistryError::Corrupt { what: format!("a worker's {key}") })
    }

    /// Replaces a worker's document, or removes it.
    pub(super) fn set_worker_document(
        &self,
        worker: &WorkerRef,
        key: &str,
        document: Option<&impl Serialize>,
    ) -> Result<(), RegistryError> {
        let change = match document {
            None => {
                "UPDATE worker SET settings = json_remove(settings, ?5),
                     modified_ms = ?3 WHERE account = ?1 AND name = ?2 AND ?4 IS NOT NULL"
            }
            Some(_) => {
                "UPDATE worker SET settings = json_set(settings, ?5, json(?4)),
                      modified_ms = ?3 WHERE account = ?1 AND name = ?2"
            }
        };
        let (text, now) = (to_json(&document), database::to_sql(now_ms()));
        self.write(|transaction| {
            workers::ensure_exists(transaction, worker)?;
            let (account, name) = (worker.account.as_str(), worker.worker.as_str());
            transaction.execute(change, params![account, name, now, text, path(key)])?;
            Ok(())
        })
    }
}

/// Where a document is among the settings, as SQLite's functions for JSON want it.
pub(super) fn path(key: &str) -> String {
    format!("$.{key}")
}
