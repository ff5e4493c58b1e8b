//! How a node changes the registry of a cluster: the log takes the change first, and only as the next one
//! after what this node has applied.

use std::time::Duration;

use atoll_kv::log::{Append, BlobError, Expect, LogError};
use bytes::Bytes;
use rusqlite::{Transaction, TransactionBehavior};
use tokio::time::timeout;

use super::super::database::{SCHEMA, from_sql};
use super::super::{Inner, RegistryError, Snapshot, snapshot};
use super::record::{BODY, CHANGE, Change};
use super::{Replica, copy, position, rows, set_applied};

/// How often a change is made anew because another node's came first.
const TRIES_MAX: usize = 16;
/// How long the log may be out of reach until changes are refused without waiting for it.
const CUT_OFF_MAX: Duration = Duration::from_secs(2);
/// Bytes of a record's headers and envelope, which the log counts too.
const ENVELOPE_BYTES_MAX: usize = 1024;

/// How one try ended.
enum Try<T> {
    Done(T),
    /// Another node's change came first.
    Behind,
}

impl Replica {
    /// Makes one change in the log and here, then publishes the snapshot that it leads to. Must run where it
    /// may block.
    pub(in super::super) fn write<T>(
        &self,
        inner: &Inner,
        change: impl Fn(&Transaction<'_>) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        for _ in 0..TRIES_MAX {
            self.ensure_writable()?;
            match self.attempt(inner, &change)? {
                Try::Done(value) => return Ok(value),
                Try::Behind => self.catch_up()?,
            }
        }
        Err(RegistryError::Contended)
    }

    /// Stores modules where all nodes find them. Must run where it may block.
    pub(in super::super) fn upload(
        &self,
        modules: impl Iterator<Item = Bytes>,
    ) -> Result<(), RegistryError> {
        self.ensure_writable()?;
        modules.into_iter().try_for_each(|bytes| {
            self.runtime.block_on(self.blobs.put(bytes)).map(drop).map_err(not_stored)
        })
    }

    fn ensure_writable(&self) -> Result<(), RegistryError> {
        if self.is_cut_off(CUT_OFF_MAX) {
            return Err(RegistryError::Unavailable("NATS cannot be reached".to_owned()));
        }
        match &self.status.borrow().fault {
            Some(fault) => Err(RegistryError::Unavailable(fault.clone())),
            None => Ok(()),
        }
    }

    fn attempt<T>(
        &self,
        inner: &Inner,
        change: &impl Fn(&Transaction<'_>) -> Result<T, RegistryError>,
    ) -> Result<Try<T>, RegistryError> {
        let mut writer = inner.database.writer();
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let previous = position(&transaction)?.sequence;
        rows::forget(&transaction)?;
        let value = change(&transaction)?;
        transaction.execute("UPDATE node SET revision = revision + 1", [])?;
        let taken = rows::take(&transaction)?;
        let snapshot = snapshot::next(&transaction, &inner.published.borrow().clone())?;
        for hash in &taken.new_blobs {
            let bytes: Vec<u8> = transaction.query_row(
                "SELECT bytes FROM blob WHERE sha256 = ?1",
                [hash],
                |row| row.get(0),
            )?;
            self.runtime.block_on(self.blobs.put(bytes.into())).map_err(not_stored)?;
        }
        let told =
            Change { schema: SCHEMA, previous, revision: snapshot.revision, rows: taken.rows };
        match self.append(&told) {
            Ok(sequence) => {
                set_applied(&transaction, sequence)?;
                transaction.commit()?;
                self.publish(inner, snapshot, sequence);
                drop(writer);
                copy::consider(inner, self, sequence);
                Ok(Try::Done(value))
            }
            Err(LogError::Conflict) => Ok(Try::Behind),
            Err(error) => Err(refused(error)),
        }
    }

    fn append(&self, change: &Change) -> Result<u64, LogError> {
        let body = Bytes::from(change.encode());
        let fits = self.log.payload_bytes_max().saturating_sub(ENVELOPE_BYTES_MAX);
        let append = if body.len() <= fits {
            Append::new(CHANGE, body)
        } else {
            let hash =
                self.runtime.block_on(self.blobs.put(body)).map_err(|error| match error {
                    BlobError::Log(error) => before_append(error),
                    other => LogError::Refused(other.to_string().into()),
                })?;
            Append::new(CHANGE, Bytes::new()).header(BODY, hash.to_string())
        };
        self.runtime.block_on(self.log.append(append.expect(Expect::LastInLog(change.previous))))
    }

    /// Shows everybody a state that is committed.
    pub(super) fn publish(&self, inner: &Inner, snapshot: Snapshot, sequence: u64) {
        inner.published.send_replace(std::sync::Arc::new(snapshot));
        self.note_applied(sequence);
    }

    /// Waits until the follower has applied all that the log has now.
    fn catch_up(&self) -> Result<(), RegistryError> {
        let wait = async {
            let last = self.log.state().await.map_err(refused)?.last;
            let mut status = self.status.subscribe();
            // Whoever holds `self` holds the sender.
            let _ = status.wait_for(|status| status.applied >= last).await;
            Ok(())
        };
        match self.runtime.block_on(async { timeout(self.options.append_timeout, wait).await }) {
            Ok(result) => result,
            Err(_) => Err(RegistryError::Unavailable(
                "this node is behind the other nodes and does not catch up".to_owned(),
            )),
        }
    }
}

/// The revision that the connection's registry has.
pub(super) fn revision(transaction: &Transaction<'_>) -> Result<u64, RegistryError> {
    let revision = transaction.query_row("SELECT revision FROM node", [], |row| row.get(0))?;
    Ok(from_sql(revision))
}

/// What a failure means before the change was appended: nothing refers to a blob yet.
fn before_append(error: LogError) -> LogError {
    match error {
        LogError::OutcomeUnknown(why) => LogError::Unavailable(why),
        other => other,
    }
}

fn not_stored(error: BlobError) -> RegistryError {
    match error {
        BlobError::Log(error) => refused(before_append(error)),
        other => RegistryError::Unavailable(other.to_string()),
    }
}

fn refused(error: LogError) -> RegistryError {
    match error {
        error if error.is_ambiguous() => RegistryError::OutcomeUnknown(error.to_string()),
        error => RegistryError::Unavailable(error.to_string()),
    }
}
