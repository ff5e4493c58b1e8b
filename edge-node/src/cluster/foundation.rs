//! What is made before a cluster's registry: the logs of its key-value store. It is refused where nodes are there
//! already: servers that have lost everything look like new ones.

use std::time::Duration;

use atoll_kv::ReplicatedStore;
use atoll_kv::log::{LogError, NatsConnection, NatsError};
use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::presence::SUBJECT;
use crate::registry::{Foundation, NotLaid};

/// How long other nodes may take to be found: where nobody listens, the servers say so at once.
const LISTENERS_WAIT: Duration = Duration::from_millis(500);

/// Begins a cluster on NATS servers.
pub(crate) struct NatsFoundation {
    pub(crate) connection: NatsConnection,
    pub(crate) shards: u16,
}

impl Foundation for NatsFoundation {
    fn lay(&self, cluster: String) -> BoxFuture<'_, Result<(), NotLaid>> {
        Box::pin(async move {
            // Nodes listen to each other on it, and take no notice of an empty message.
            match self.connection.request(SUBJECT, Bytes::new(), LISTENERS_WAIT).await {
                Err(NatsError::NoResponders(_)) => {}
                Ok(_) | Err(NatsError::TimedOut(_)) => {
                    return Err(NotLaid::Never(
                        "its nodes are there, but its streams are not on the NATS servers: restore the \
                         servers' files, or give this node another prefix"
                            .to_owned(),
                    ));
                }
                Err(error) => return Err(NotLaid::NotNow(error.to_string())),
            }
            let founded = ReplicatedStore::found(&self.connection, &cluster, self.shards).await;
            founded.map_err(|error| match error {
                // Another node may be about to begin the cluster.
                LogError::Refused(why) => NotLaid::NotNow(why.to_string()),
                error => NotLaid::NotNow(error.to_string()),
            })
        })
    }
}
