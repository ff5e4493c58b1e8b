//! Has all nodes of a cluster answer an authority's questions: by the registry, which they all follow.

use std::time::Duration;

use atoll_router::Challenge;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::blocking;
use super::error::AcmeError;
use crate::cluster::Cluster;
use crate::registry::{Registry, RegistryError};

/// How long it may take until an answer is in use everywhere.
const USE_WAIT_MAX: Duration = Duration::from_secs(10);

/// Puts answers where every node finds them, and takes them away again.
pub(super) struct Publisher {
    registry: Registry,
    /// The revision that everyone who serves on this node has in use.
    in_use: watch::Receiver<u64>,
    cluster: Option<Cluster>,
    /// The tokens of what is answered now.
    tokens: Vec<String>,
}

impl Publisher {
    pub(super) fn new(
        registry: Registry,
        in_use: watch::Receiver<u64>,
        cluster: Option<Cluster>,
    ) -> Self {
        Self { registry, in_use, cluster, tokens: Vec::new() }
    }

    /// Returns once the answer is in use on every thread of this node, and on the others that are there.
    pub(super) async fn publish(&mut self, challenge: Challenge) -> Result<(), AcmeError> {
        let registry = self.registry.clone();
        self.tokens.push(challenge.token.clone());
        let added = blocking(move || registry.add_acme_challenge(&challenge));
        let revision = added.await?;
        let deadline = Instant::now() + USE_WAIT_MAX;
        let used = self.in_use.wait_for(|in_use| *in_use >= revision);
        if timeout_at(deadline, used).await.is_err() {
            return Err(AcmeError::NotPublished(USE_WAIT_MAX));
        }
        if let Some(cluster) = &self.cluster
            && timeout_at(deadline, cluster.peers().all_serve(revision)).await.is_err()
        {
            tracing::warn!("some nodes do not answer the ACME authority yet");
        }
        Ok(())
    }

    /// Has nobody answer any more.
    pub(super) async fn withdraw(&mut self) {
        let (registry, tokens) = (self.registry.clone(), std::mem::take(&mut self.tokens));
        let removed = blocking::<_, RegistryError>(move || {
            tokens.iter().try_for_each(|token| registry.remove_acme_challenge(token))
        });
        if let Err(error) = removed.await {
            tracing::warn!(%error, "an answer to the ACME authority stays for a while");
        }
    }
}
