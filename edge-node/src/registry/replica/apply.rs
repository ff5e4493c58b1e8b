//! Applies one record of the log to a registry's file.

use atoll_kv::log::{BlobHash, BlobStore, Record};
use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, params};

use super::super::database::SCHEMA;
use super::super::{RegistryError, versions};
use super::record::{Change, Copy, RowKind, Told};
use super::rows::{self, Tables};
use super::{position, set_applied};

/// Tables whose rows hold on to modules.
const HOLDERS: [&str; 2] = ["module", "version"];

/// Why a record is not applied.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApplyError {
    /// Records before it are missing here.
    #[error("records of the log are missing here")]
    Gap,
    /// What is here is not what the record was written upon.
    #[error("this node's registry differs from the log: {0}")]
    Diverged(String),
    /// This release does not understand it, or the disk fails.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Something that it refers to cannot be had now.
    #[error("what the log refers to cannot be fetched: {0}")]
    Fetch(String),
}

impl From<rusqlite::Error> for ApplyError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::ConstraintViolation) => Self::Diverged(error.to_string()),
            _ => Self::Registry(error.into()),
        }
    }
}

/// A record, and what it needs.
pub(super) struct Ready {
    pub(super) sequence: u64,
    what: What,
}

enum What {
    Change(Change),
    Copy(Copy),
}

impl Ready {
    /// Reads a record, and fetches the change itself where it lies elsewhere.
    pub(super) async fn of(record: &Record, blobs: &dyn BlobStore) -> Result<Self, ApplyError> {
        let what = match Told::by(record)? {
            Told::Change(change) => What::Change(change),
            Told::Copy(copy) => What::Copy(copy),
            Told::Elsewhere(hash) => What::Change(Change::decode(&fetch(blobs, hash).await?)?),
        };
        match &what {
            What::Change(Change { schema, .. }) | What::Copy(Copy { schema, .. })
                if *schema > SCHEMA =>
            {
                Err(RegistryError::SchemaTooNew { found: *schema, known: SCHEMA }.into())
            }
            _ => Ok(Self { sequence: record.sequence, what }),
        }
    }

    /// The modules that it refers to.
    pub(super) fn blobs(&self, tables: &Tables) -> Vec<BlobHash> {
        match &self.what {
            What::Change(change) => tables.blobs(&change.rows),
            What::Copy(_) => Vec::new(),
        }
    }

    /// Whether versions go by it.
    pub(super) fn deletes_versions(&self) -> bool {
        match &self.what {
            What::Change(change) => change
                .rows
                .iter()
                .any(|row| row.kind == RowKind::Delete && HOLDERS.contains(&&*row.table)),
            What::Copy(_) => false,
        }
    }

    /// Applies it in a transaction, in which `finish` may do more. Nothing happens when it is applied already.
    pub(super) fn apply<T>(
        &self,
        connection: &mut Connection,
        tables: &Tables,
        finish: impl FnOnce(&Transaction<'_>) -> Result<T, ApplyError>,
    ) -> Result<Option<T>, ApplyError> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let applied = position(&transaction)?.sequence;
        if applied >= self.sequence {
            return Ok(None);
        }
        match &self.what {
            What::Change(change) if change.previous != applied => return Err(ApplyError::Gap),
            What::Copy(copy) if copy.covers > applied => return Err(ApplyError::Gap),
            What::Change(change) => change_rows(&transaction, tables, change)?,
            What::Copy(_) => {}
        }
        set_applied(&transaction, self.sequence)?;
        let value = finish(&transaction)?;
        transaction.commit()?;
        Ok(Some(value))
    }
}

fn change_rows(
    transaction: &Transaction<'_>,
    tables: &Tables,
    change: &Change,
) -> Result<(), ApplyError> {
    let before = super::write::revision(transaction)?;
    if change.revision != before + 1 {
        let why = format!("revision {} follows {before}", change.revision);
        return Err(ApplyError::Diverged(why));
    }
    match tables.apply(transaction, &change.rows) {
        Err(RegistryError::Storage(error)) => Err(error.into()),
        applied => Ok(applied?),
    }
}

/// Stores modules that were fetched.
pub(super) fn insert_blobs(
    connection: &Connection,
    blobs: &[(BlobHash, Bytes)],
) -> Result<(), RegistryError> {
    for (hash, bytes) in blobs {
        connection.execute(
            "INSERT INTO main.blob (sha256, bytes) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            params![hash.as_bytes(), &bytes[..]],
        )?;
    }
    Ok(())
}

/// Leaves nothing of what only this node's transactions need.
pub(super) fn tidy(transaction: &Transaction<'_>, modules: bool) -> Result<(), RegistryError> {
    rows::forget(transaction)?;
    if modules { versions::delete_unused_blobs(transaction) } else { Ok(()) }
}

/// Whether the file has a module.
pub(super) fn has_blob(view: &Transaction<'_>, hash: &BlobHash) -> Result<bool, RegistryError> {
    Ok(view
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM blob WHERE sha256 = ?1)")?
        .query_row([hash.as_bytes()], |row| row.get(0))?)
}

/// Fetches a blob, whose hash the store checks.
pub(super) async fn fetch(blobs: &dyn BlobStore, hash: BlobHash) -> Result<Bytes, ApplyError> {
    blobs.get(hash).await.map_err(|error| ApplyError::Fetch(error.to_string()))
}
