//! The registry of a node in a cluster: one log orders the changes of all nodes, and every node has all of
//! them in a SQLite file of its own.
//!
//! A change runs in a transaction that is committed here only when the log has it, right after what this node
//! has applied. A follower applies what other nodes appended. Modules lie in a blob store under the hash of
//! their bytes. Who has missed records that the log has dropped begins anew from a copy of the registry, which
//! some node makes now and then. Nodes start from their disk: only the very first start needs the log.

mod apply;
mod copy;
mod follow;
mod found;
mod join;
mod record;
mod resync;
mod rows;
#[cfg(test)]
mod tests;
mod write;

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use atoll_kv::log::{
    Absent, BlobStore, ChangeLog, Connectivity, Identity, LogBlobs, LogEngine, LogOptions,
    Position, Retention,
};
use rusqlite::{Connection, params};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

#[cfg(test)]
pub(crate) use found::NoFoundation;
pub(crate) use found::{Foundation, NotLaid};
pub use join::JoinOptions;
pub(super) use join::refuse_cluster;
pub(crate) use record::Value;
pub(super) use rows::TABLES;

use super::database::{from_sql, to_sql};
use super::{Registry, RegistryError};
use rows::Tables;

/// The folder of everything that a cluster's node keeps, in the data directory.
pub(crate) const CLUSTER_DIR: &str = "cluster";
/// The log of changes.
const LOG: &str = "registry";
/// What the secret between nodes is derived for.
const PEER_SECRET: &[u8] = b"authority of nodes";
/// The log of modules and copies.
const BLOBS: &str = "modules";

/// What makes a registry one of many.
pub(super) struct Replica {
    log: Arc<dyn ChangeLog>,
    blobs: Arc<dyn BlobStore>,
    tables: Tables,
    status: watch::Sender<ReplicaStatus>,
    options: JoinOptions,
    runtime: Handle,
    follower: OnceLock<AbortHandle>,
    /// Held by whoever makes a copy: there is one file for it.
    copying: tokio::sync::Mutex<()>,
    /// Keeps other processes away from the files.
    _lock: File,
}

/// How a node's registry stands to the cluster's log.
#[derive(Clone, Debug, Default)]
pub struct ReplicaStatus {
    /// The last record that is applied here.
    pub applied: u64,
    /// Where the log ended when that was last heard of.
    pub last: u64,
    /// When the registry is known to have had everything; none before that was so since the start.
    pub caught_up: Option<Instant>,
    /// How often the registry was replaced as a whole.
    pub resyncs: u64,
    /// Why records cannot be applied now. Workers are served by what was there before.
    pub fault: Option<String>,
}

impl Registry {
    /// A secret that the nodes of the cluster have in common, and nobody else; none before the cluster has begun.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub(crate) fn peer_secret(&self) -> Result<Option<[u8; 32]>, RegistryError> {
        let cluster = self.read(|view| cluster(view))?;
        Ok(cluster.map(|(id, _)| self.inner.key.derive(&[PEER_SECRET, id.as_bytes()])))
    }

    /// How the registry stands to the cluster's log, when the node belongs to a cluster.
    pub fn replica_status(&self) -> Option<watch::Receiver<ReplicaStatus>> {
        self.inner.replica.as_ref().map(|replica| replica.status.subscribe())
    }
}

impl Replica {
    /// Prepares the database and opens the logs.
    fn open(
        connection: &Connection,
        engine: &dyn LogEngine,
        options: JoinOptions,
        runtime: Handle,
        lock: File,
    ) -> Result<Self, RegistryError> {
        connection.execute_batch(include_str!("schema.sql"))?;
        let tables = Tables::read(connection)?;
        tables.watch(connection)?;
        let position = position(connection)?;
        // A log that was followed once is waited for. Where it never was it is made by whoever begins the cluster,
        // and by nobody else: an empty one in place of one that was lost would lead nowhere.
        let absent = if position.identity.is_some() { Absent::Wait } else { Absent::Tell };
        let status = ReplicaStatus { applied: position.sequence, ..ReplicaStatus::default() };
        Ok(Self {
            log: engine.log(LOG, changes(&options, absent)),
            blobs: Arc::new(LogBlobs::new(engine.log(BLOBS, blobs(&options, Absent::Wait)))),
            tables,
            status: watch::Sender::new(status),
            options,
            runtime,
            follower: OnceLock::new(),
            copying: tokio::sync::Mutex::default(),
            _lock: lock,
        })
    }

    fn is_cut_off(&self, longer_than: Duration) -> bool {
        match *self.log.connectivity().borrow() {
            Connectivity::Connected => false,
            Connectivity::Disconnected { since } => since.elapsed() > longer_than,
        }
    }

    fn note_applied(&self, sequence: u64) {
        self.status.send_modify(|status| {
            status.applied = sequence;
            status.last = status.last.max(sequence);
        });
    }
}

fn changes(options: &JoinOptions, absent: Absent) -> LogOptions {
    LogOptions {
        absent,
        append_timeout: options.append_timeout,
        check_interval: options.check_interval,
        ..LogOptions::default()
    }
}

fn blobs(options: &JoinOptions, absent: Absent) -> LogOptions {
    LogOptions { retention: Retention::LastPerSubject, ..changes(options, absent) }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if let Some(follower) = self.follower.get() {
            follower.abort();
        }
    }
}

/// Which log the file follows, and how far it has applied it.
fn position(connection: &Connection) -> Result<Position, RegistryError> {
    Ok(connection.query_row("SELECT identity, applied FROM main.replica", [], |row| {
        let identity: Option<String> = row.get(0)?;
        Ok(Position {
            identity: identity.map(|identity| Identity(identity.into())),
            sequence: from_sql(row.get(1)?),
        })
    })?)
}

fn set_position(
    connection: &Connection,
    identity: &Identity,
    applied: u64,
) -> Result<(), RegistryError> {
    connection.execute(
        "UPDATE main.replica SET identity = ?1, applied = ?2",
        params![&*identity.0, to_sql(applied)],
    )?;
    Ok(())
}

fn set_applied(connection: &Connection, applied: u64) -> Result<(), RegistryError> {
    connection.execute("UPDATE main.replica SET applied = ?1", [to_sql(applied)])?;
    Ok(())
}

/// The cluster's id and the check of its key, once it has begun.
fn cluster(connection: &Connection) -> Result<Option<(String, Vec<u8>)>, RegistryError> {
    use rusqlite::OptionalExtension;
    let row = connection.query_row("SELECT id, key_check FROM main.cluster", [], |row| {
        Ok((row.get(0)?, row.get(1)?))
    });
    Ok(row.optional()?)
}

/// Where a cluster's registry lies in a data directory.
fn database_path(dir: &Path) -> std::path::PathBuf {
    dir.join(CLUSTER_DIR).join(super::DATABASE_FILE)
}
