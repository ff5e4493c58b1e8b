//! How many shards a cluster has: settled by its first node, and the same for all others. Nodes that
//! spread keys in different ways would not find each other's.

use std::sync::Arc;
use std::time::Duration;

use super::Inner;
use crate::log::{Append, ChangeLog, Expect, Freshness, LogError};

/// Where the number stands.
const SUBJECT: &str = "shards";
/// The pause before the log is asked again.
const PAUSE: Duration = Duration::from_millis(200);

/// Finds out whether this node agrees with its cluster, until the store is closed.
pub(super) async fn run(inner: Arc<Inner>, meta: Arc<dyn ChangeLog>) {
    let mut closed = inner.closed.subscribe();
    let agreed = tokio::select! {
        agreed = settle(inner.options.shards, &*meta) => agreed,
        _ = closed.wait_for(|closed| *closed) => return,
    };
    inner.agreed.send_replace(Some(agreed));
}

async fn settle(shards: u16, meta: &dyn ChangeLog) -> bool {
    loop {
        match ask(shards, meta).await {
            Ok(found) if found == shards.to_string() => return true,
            Ok(found) => {
                tracing::error!(
                    shards,
                    found,
                    "the cluster has another number of shards, configure this node alike"
                );
                return false;
            }
            Err(error) => tracing::debug!(%error, "cannot ask how many shards there are"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ask(shards: u16, meta: &dyn ChangeLog) -> Result<String, LogError> {
    if let Some(record) = meta.last_on(SUBJECT.into(), Freshness::Latest).await? {
        return Ok(String::from_utf8_lossy(&record.payload).into_owned());
    }
    let first = Append::new(SUBJECT, shards.to_string()).expect(Expect::LastOnSubject(0));
    meta.append(first).await.map(|_| shards.to_string())
}
