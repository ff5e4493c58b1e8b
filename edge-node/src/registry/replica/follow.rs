//! Follows the log: applies what other nodes appended, and begins anew where that cannot go on.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use atoll_kv::log::{BlobHash, Deliveries, Delivery, Lost, Record};
use bytes::Bytes;
use futures_util::StreamExt;

use super::super::{Inner, RegistryError, snapshot};
use super::apply::{ApplyError, Ready, fetch, has_blob, insert_blobs, tidy};
use super::{Replica, position, resync};

/// The pause before the log is followed again after something failed.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Why following is interrupted.
enum Break {
    /// The registry is gone.
    Over,
    /// From where it is it cannot go on.
    Resync(String),
    /// It may go on in a moment.
    Retry(String),
}

impl Replica {
    /// Begins to follow the log, until the registry is dropped.
    pub(super) fn follow(&self, inner: &Arc<Inner>) {
        let follower = self.runtime.spawn(run(Arc::downgrade(inner)));
        // It is called once.
        let _ = self.follower.set(follower.abort_handle());
    }
}

async fn run(weak: Weak<Inner>) {
    loop {
        match session(&weak).await {
            Break::Over => return,
            Break::Retry(why) => {
                tracing::warn!(why, "the registry does not follow the cluster's log now");
                if !note_fault(&weak, why) {
                    return;
                }
            }
            Break::Resync(why) => {
                tracing::warn!(why, "the registry begins anew from the cluster's log");
                let Some(inner) = weak.upgrade() else { return };
                match resync::run(&inner).await {
                    Ok(()) => continue,
                    Err(error) => {
                        tracing::error!(%error, "the registry cannot begin anew");
                        note_fault(&weak, error.to_string());
                    }
                }
            }
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Says in the status why records are not applied; false when the registry is gone.
fn note_fault(weak: &Weak<Inner>, why: String) -> bool {
    let Some(inner) = weak.upgrade() else { return false };
    if let Some(replica) = &inner.replica {
        replica.status.send_modify(|status| status.fault = Some(why));
    }
    true
}

/// Follows from where the file is until something comes between.
async fn session(weak: &Weak<Inner>) -> Break {
    let mut deliveries: Deliveries = {
        let Some(inner) = weak.upgrade() else { return Break::Over };
        let Some(replica) = &inner.replica else { return Break::Over };
        let at = match inner.database.read(|view| position(view)) {
            Ok(at) => at,
            Err(error) => return Break::Retry(error.to_string()),
        };
        replica.log.subscribe(at)
    };
    while let Some(delivery) = deliveries.next().await {
        let Some(inner) = weak.upgrade() else { return Break::Over };
        let Some(replica) = &inner.replica else { return Break::Over };
        match delivery {
            Delivery::Record(record) => match apply(&inner, replica, record).await {
                Ok(()) => {}
                Err(error @ (ApplyError::Gap | ApplyError::Diverged(_))) => {
                    return Break::Resync(error.to_string());
                }
                Err(error) => return Break::Retry(error.to_string()),
            },
            Delivery::CaughtUp { last, asked } => {
                if let Some(broken) = caught_up(replica, last, asked) {
                    return broken;
                }
            }
            Delivery::Resumed => tracing::debug!("the registry follows the cluster's log"),
            Delivery::Lost(Lost::Closed(why)) => return Break::Retry(why),
            Delivery::Lost(lost) => return Break::Resync(lost.to_string()),
        }
    }
    Break::Retry("the log was closed".to_owned())
}

fn caught_up(replica: &Replica, last: u64, asked: Instant) -> Option<Break> {
    let mut behind = false;
    replica.status.send_modify(|status| {
        behind = status.applied < last;
        status.last = status.last.max(last);
        if !behind {
            status.caught_up = Some(asked);
            status.fault = None;
        }
    });
    // Nothing more will come before the log's end, so what is missing was dropped.
    behind.then(|| Break::Resync("the log has dropped records that are missing here".to_owned()))
}

async fn apply(inner: &Arc<Inner>, replica: &Replica, record: Record) -> Result<(), ApplyError> {
    if record.sequence <= replica.status.borrow().applied {
        return Ok(());
    }
    let ready = Ready::of(&record, &*replica.blobs).await?;
    let blobs = missing(inner, replica, ready.blobs(&replica.tables)).await?;
    let owner = inner.clone();
    tokio::task::spawn_blocking(move || apply_blocking(&owner, &ready, &blobs))
        .await
        .map_err(|error| ApplyError::Fetch(error.to_string()))?
}

/// Fetches the modules that are not here yet.
pub(super) async fn missing(
    inner: &Arc<Inner>,
    replica: &Replica,
    hashes: Vec<BlobHash>,
) -> Result<Vec<(BlobHash, Bytes)>, ApplyError> {
    let missing: Vec<BlobHash> = inner.database.read(|view| {
        let absent = |hash: &BlobHash| Ok((!has_blob(view, hash)?).then_some(*hash));
        hashes
            .iter()
            .filter_map(|hash| absent(hash).transpose())
            .collect::<Result<_, RegistryError>>()
    })?;
    let mut blobs = Vec::with_capacity(missing.len());
    for hash in missing {
        blobs.push((hash, fetch(&*replica.blobs, hash).await?));
    }
    Ok(blobs)
}

fn apply_blocking(
    inner: &Inner,
    ready: &Ready,
    blobs: &[(BlobHash, Bytes)],
) -> Result<(), ApplyError> {
    let Some(replica) = &inner.replica else { return Ok(()) };
    let mut writer = inner.database.writer();
    let deletes = ready.deletes_versions();
    let before = inner.published.borrow().clone();
    let snapshot = ready.apply(&mut writer, &replica.tables, |transaction| {
        insert_blobs(transaction, blobs)?;
        tidy(transaction, deletes)?;
        Ok(snapshot::next(transaction, &before)?)
    })?;
    if let Some(snapshot) = snapshot {
        if deletes {
            inner.versions.invalidate_all();
        }
        replica.publish(inner, snapshot, ready.sequence);
    }
    Ok(())
}
