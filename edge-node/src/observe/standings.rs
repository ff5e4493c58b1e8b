//! How the origins of pools stand now, as each serving process knows them: beside the counts, which only grow.

use std::sync::{Mutex, PoisonError};

use atoll_router::origins::Standing;
use serde::{Deserialize, Serialize};

use crate::registry::WorkerRef;

/// Origins that one process tells of.
pub(crate) const STANDINGS_MAX: usize = 500;

/// How an origin of a worker's pool stands in one process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OriginStanding {
    pub(crate) worker: WorkerRef,
    /// The host that the pool is for.
    pub(crate) host: String,
    /// The origin's address.
    pub(crate) origin: String,
    pub(crate) standing: Standing,
}

type Ask = Box<dyn Fn() -> Vec<OriginStanding> + Send + Sync>;

/// Where a process's own are asked for.
#[derive(Default)]
pub(super) struct Standings(Mutex<Option<Ask>>);

impl Standings {
    pub(super) fn ask_by(&self, ask: Ask) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(ask);
    }

    /// What stands now.
    pub(super) fn own(&self) -> Vec<OriginStanding> {
        let ask = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ask.as_ref().map_or_else(Vec::new, |ask| ask())
    }
}
