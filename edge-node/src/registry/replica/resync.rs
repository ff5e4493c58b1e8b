//! Begins anew: makes the registry that the log leads to in a file beside this node's, and then puts it in
//! the place of what was there, all at once. Who is served meanwhile notices nothing.

use std::path::Path;
use std::sync::Arc;

use atoll_kv::log::{BlobHash, Delivery, Freshness, Identity, LogError, Position};
use futures_util::StreamExt;
use rusqlite::Connection;

use super::super::database::Database;
use super::super::{Inner, RegistryError, Snapshot, snapshot};
use super::apply::{ApplyError, Ready, fetch, insert_blobs, tidy};
use super::found::NotLaid;
use super::record::{COPY, Copy};
use super::{Replica, cluster, copy, position, set_position};

const SCRATCH_FILE: &str = "resync.sqlite";

/// Why the registry cannot begin anew now.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResyncError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error("the log has lost its beginning and holds no copy: restore the NATS servers' files")]
    NoBeginning,
    #[error(
        "the log now belongs to another cluster: restore the NATS servers' files, give this cluster another \
         prefix, or give this node an empty data directory"
    )]
    OtherCluster,
    #[error("the cluster cannot begin here: {0}")]
    NotLaid(#[from] NotLaid),
    #[error("the log changed meanwhile: {0}")]
    Interrupted(String),
    #[error("a task failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl ResyncError {
    /// Whether there is no log to begin from.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, Self::Log(LogError::Absent(_)))
    }

    /// Whether the cluster has not begun.
    pub(super) fn is_not_laid(&self) -> bool {
        matches!(self, Self::NotLaid(_))
    }

    /// Whether trying again cannot help.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::NotLaid(NotLaid::Never(_)))
    }
}

impl From<RegistryError> for ResyncError {
    fn from(error: RegistryError) -> Self {
        Self::Apply(error.into())
    }
}

/// Begins anew while the registry is served.
pub(super) async fn run(inner: &Arc<Inner>) -> Result<(), ResyncError> {
    let Some(replica) = &inner.replica else { return Ok(()) };
    let publish = |snapshot, applied| {
        inner.versions.invalidate_all();
        replica.status.send_modify(|status| {
            status.resyncs += 1;
            status.last = applied;
            status.fault = None;
        });
        replica.publish(inner, snapshot, applied);
    };
    replace(&inner.database, replica, publish).await
}

/// Replaces what the database holds by what the log leads to. `publish` gets that, and the last record that is in
/// it, before any other writer runs. The future blocks its thread for moments.
pub(super) async fn replace<R>(
    database: &Database,
    replica: &Replica,
    publish: impl FnOnce(Snapshot, u64) -> R,
) -> Result<R, ResyncError> {
    let path = database.path().with_file_name(SCRATCH_FILE);
    let (mut scratch, identity) = begin(&path, replica).await?;
    replay(&mut scratch, replica, &identity).await?;
    let known = database.read(|view| cluster(view))?;
    let found = cluster(&scratch)?;
    if let Some((known, _)) = known
        && found.is_none_or(|(found, _)| found != known)
    {
        return Err(ResyncError::OtherCluster);
    }
    let (modules, applied) = (wanted(&scratch)?, position(&scratch)?.sequence);
    drop(scratch);
    fetch_modules(modules, database, replica).await?;
    let published = {
        let mut writer = database.writer();
        let snapshot = swap(&mut writer, &path, &identity, applied)?;
        publish(snapshot, applied)
    };
    if let Err(error) = std::fs::remove_file(&path) {
        tracing::debug!(%error, "a file of a resync stays until the next one");
    }
    Ok(published)
}

/// The newest copy, or nothing where the log has its beginning.
async fn begin(path: &Path, replica: &Replica) -> Result<(Connection, Identity), ResyncError> {
    let state = replica.log.state().await?;
    let newest = replica.log.last_on(COPY.to_owned(), Freshness::Latest).await?;
    let Some(newest) = newest else {
        if state.first > 1 {
            return Err(ResyncError::NoBeginning);
        }
        let scratch = copy::create(path)?;
        set_position(&scratch, &state.identity, 0)?;
        return Ok((scratch, state.identity));
    };
    let told = Copy::of(&newest)?;
    let bytes = fetch(&*replica.blobs, told.hash()?).await?;
    drop(copy::create(path)?);
    std::fs::write(path, &bytes)
        .map_err(|source| RegistryError::File { path: path.to_owned(), source })?;
    let scratch = copy::open(path)?;
    set_position(&scratch, &state.identity, told.covers)?;
    Ok((scratch, state.identity))
}

/// Applies what the log holds after that.
async fn replay(
    scratch: &mut Connection,
    replica: &Replica,
    identity: &Identity,
) -> Result<(), ResyncError> {
    let sequence = position(scratch)?.sequence;
    let mut deliveries =
        replica.log.subscribe(Position { identity: Some(identity.clone()), sequence });
    while let Some(delivery) = deliveries.next().await {
        match delivery {
            Delivery::Record(record) => {
                let ready = Ready::of(&record, &*replica.blobs).await?;
                ready.apply(scratch, &replica.tables, |_| Ok(()))?;
            }
            Delivery::CaughtUp { .. } => return Ok(()),
            Delivery::Resumed => {}
            Delivery::Lost(lost) => return Err(ResyncError::Interrupted(lost.to_string())),
        }
    }
    Err(ResyncError::Interrupted("it was closed".to_owned()))
}

async fn fetch_modules(
    modules: Vec<BlobHash>,
    database: &Database,
    replica: &Replica,
) -> Result<(), ResyncError> {
    for hash in modules {
        if database.read(|view| super::apply::has_blob(view, &hash))? {
            continue;
        }
        let bytes = fetch(&*replica.blobs, hash).await?;
        insert_blobs(&database.writer(), &[(hash, bytes)])?;
    }
    Ok(())
}

fn wanted(scratch: &Connection) -> Result<Vec<BlobHash>, RegistryError> {
    let mut statement = scratch.prepare("SELECT DISTINCT sha256 FROM module")?;
    let rows = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
    let hash = |bytes: rusqlite::Result<Vec<u8>>| {
        let corrupt = || RegistryError::Corrupt { what: "a module's hash".to_owned() };
        BlobHash::from_slice(&bytes?).ok_or_else(corrupt)
    };
    rows.map(hash).collect()
}

fn swap(
    writer: &mut Connection,
    path: &Path,
    identity: &Identity,
    applied: u64,
) -> Result<Snapshot, ApplyError> {
    writer.execute("ATTACH ?1 AS scratch", [path.to_string_lossy()])?;
    let swapped = swap_attached(writer, identity, applied);
    writer.execute_batch("DETACH scratch")?;
    swapped
}

fn swap_attached(
    writer: &mut Connection,
    identity: &Identity,
    applied: u64,
) -> Result<Snapshot, ApplyError> {
    let transaction = writer.transaction()?;
    transaction.execute_batch("PRAGMA defer_foreign_keys = ON")?;
    copy::replace_tables(&transaction, "scratch", "main")?;
    set_position(&transaction, identity, applied)?;
    tidy(&transaction, true)?;
    let snapshot = snapshot::build(&transaction)?;
    transaction.commit()?;
    Ok(snapshot)
}
