//! Where workers may run: one document each, among the worker's settings, so that it holds for every version.

use atoll_router::regions::RegionRules;

use super::{Registry, RegistryError, WorkerRef};

/// Its name among a worker's settings.
pub(super) const KEY: &str = "regions";

impl Registry {
    /// Where the worker may run; anywhere unless it says so.
    ///
    /// # Errors
    /// Fails when the worker does not exist.
    pub fn regions(&self, worker: &WorkerRef) -> Result<RegionRules, RegistryError> {
        Ok(self.worker_document(worker, KEY)?.unwrap_or_default())
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
        self.set_worker_document(worker, KEY, (!regions.is_empty()).then_some(regions))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::registry::{Deploy, WorkerDocument, WorkerName, test_version};

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
        let expected = WorkerDocument { worker: worker.clone(), document };
        assert_eq!(*registry.snapshot().regions, [Arc::new(expected)]);
        let wrong = rules(json!({ "pin": "eu", "allow": ["us"] }));
        let told = registry.set_regions(&worker, &wrong).unwrap_err().to_string();
        assert!(told.contains("pin stands alone"), "{told}");
        registry.set_regions(&worker, &RegionRules::default()).unwrap();
        assert_eq!(registry.worker(&worker).unwrap().settings, json!({ "logpush": true }));
        assert!(registry.snapshot().regions.is_empty());
    }
}
