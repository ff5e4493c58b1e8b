//! What serving reads of the node's state, wherever that state is kept: in this process or in the
//! supervisor. Serving never writes it.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::registry::{Registry, Snapshot, Version, VersionId};

/// The state cannot be read now.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct StateError(pub String);

/// Deployed workers and their versions, as the data plane reads them.
pub trait ServingState: Send + Sync {
    /// Follows what is deployed: the receiver sees the newest snapshot after every change.
    fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>>;

    /// A version with its modules and bindings. Never runs on the caller's thread for long.
    ///
    /// # Errors
    /// When the state cannot be read now.
    fn version(
        &self,
        id: &VersionId,
    ) -> BoxFuture<'static, Result<Option<Arc<Version>>, StateError>>;
}

impl ServingState for Registry {
    fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.subscribe()
    }

    fn version(
        &self,
        id: &VersionId,
    ) -> BoxFuture<'static, Result<Option<Arc<Version>>, StateError>> {
        let (registry, id) = (self.clone(), id.clone());
        Box::pin(async move {
            tokio::task::spawn_blocking(move || Self::version(&registry, &id))
                .await
                .map_err(|_| StateError("reading the version failed".to_owned()))?
                .map_err(|error| StateError(error.to_string()))
        })
    }
}
