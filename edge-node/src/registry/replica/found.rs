//! How a cluster begins: its id is drawn, everything else that it needs is made, then the log of its registry,
//! and last the record that says that it has begun. Once that record is there nobody makes any of it again: what
//! is gone then was lost, and is to be restored.

use std::path::Path;

use atoll_kv::log::{Absent, LogEngine};
use futures_util::future::BoxFuture;

use super::super::database::Database;
use super::super::{RegistryError, private_file, random_hex_id};
use super::resync::{self, ResyncError};
use super::{BLOBS, CLUSTER_DIR, LOG, Replica, blobs, changes, cluster};

/// The id of the cluster that this node begins, from before it does: who is interrupted goes on with it.
const ID_FILE: &str = "begins";

/// What is made before the registry of a cluster.
pub(crate) trait Foundation: Send + Sync {
    /// Makes everything of the cluster but its registry, or says why not. Doing it again changes nothing.
    fn lay(&self, cluster: String) -> BoxFuture<'_, Result<(), NotLaid>>;
}

/// Why a cluster does not begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotLaid {
    /// It must not: trying again cannot help.
    #[error("{0}")]
    Never(String),
    /// It may in a moment, or another node begins it.
    #[error("{0}")]
    NotNow(String),
}

/// For a cluster that is a registry and nothing else.
#[cfg(test)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoFoundation;

#[cfg(test)]
impl Foundation for NoFoundation {
    fn lay(&self, _cluster: String) -> BoxFuture<'_, Result<(), NotLaid>> {
        Box::pin(async { Ok(()) })
    }
}

/// The id of the cluster that this node begins, if it is the one.
pub(super) fn id(dir: &Path) -> Result<String, RegistryError> {
    let path = dir.join(CLUSTER_DIR).join(ID_FILE);
    let bytes = private_file::read_or_create(&path, || random_hex_id().into_bytes())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Takes over the registry that the cluster has. Where it has none, it makes what a cluster needs first.
pub(super) async fn take_over(
    dir: &Path,
    database: &Database,
    replica: &Replica,
    engine: &dyn LogEngine,
    foundation: &dyn Foundation,
) -> Result<u64, ResyncError> {
    let taken = match resync::replace(database, replica, |_, applied| applied).await {
        Ok(applied) => Some(applied),
        Err(error) if error.is_absence() => None,
        Err(error) => return Err(error),
    };
    if let Some(applied) = taken
        && database.read(|view| cluster(view))?.is_some()
    {
        return Ok(applied);
    }
    foundation.lay(id(dir)?).await?;
    engine.log(BLOBS, blobs(&replica.options, Absent::Create)).state().await?;
    engine.log(LOG, changes(&replica.options, Absent::Create)).state().await?;
    resync::replace(database, replica, |_, applied| applied).await
}
