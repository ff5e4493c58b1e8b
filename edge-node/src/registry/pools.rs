//! Workers' origin pools: one list each, among the worker's settings, so that it holds for every version.

use atoll_router::origins::{OriginPool, check_pools};

use super::{Registry, RegistryError, WorkerRef, to_json};

/// Their name among a worker's settings.
pub(super) const KEY: &str = "pools";
/// Bytes of all pools of one worker, as JSON.
const POOLS_BYTES_MAX: usize = 16 << 10;

impl Registry {
    /// A worker's origin pools.
    ///
    /// # Errors
    /// Fails when the worker does not exist.
    pub fn pools(&self, worker: &WorkerRef) -> Result<Vec<OriginPool>, RegistryError> {
        Ok(self.worker_document(worker, KEY)?.unwrap_or_default())
    }

    /// Gives the worker these pools in place of those that it had.
    ///
    /// # Errors
    /// Fails when the worker does not exist, or the pools cannot be acted upon.
    pub fn set_pools(&self, worker: &WorkerRef, pools: &[OriginPool]) -> Result<(), RegistryError> {
        check_pools(pools).map_err(|error| RegistryError::Invalid(error.to_string()))?;
        if to_json(&pools).len() > POOLS_BYTES_MAX {
            return Err(RegistryError::Invalid(format!(
                "a worker's pools have at most {POOLS_BYTES_MAX} bytes as JSON"
            )));
        }
        self.set_worker_document(worker, KEY, (!pools.is_empty()).then_some(&pools))
    }
}
