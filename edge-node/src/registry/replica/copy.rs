//! Copies of the whole registry in the blob store, without modules: what a new node begins with, and what
//! lets the log drop old records.

use std::path::Path;
use std::sync::{Arc, Weak};

use atoll_kv::log::{Append, BlobError, Expect, Freshness, LogError};
use rusqlite::Connection;

use super::super::database::{self, SCHEMA};
use super::super::{Inner, RegistryError};
use super::record::{CHANGE, COPY, Copy};
use super::rows::TABLES;
use super::{Replica, position};

const COPY_FILE: &str = "copy.sqlite";

/// Why there is no new copy.
#[derive(Debug, thiserror::Error)]
enum CopyError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("making it did not end: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Has a copy made when this node's last change makes it its turn.
pub(super) fn consider(inner: &Inner, replica: &Replica, sequence: u64) {
    if sequence.is_multiple_of(replica.options.copy_records)
        && let Some(inner) = inner.this.get()
    {
        replica.runtime.spawn(make_or_warn(inner.clone()));
    }
}

async fn make_or_warn(weak: Weak<Inner>) {
    let Some(inner) = weak.upgrade() else { return };
    match make(inner).await {
        Ok(covers) => tracing::debug!(covers, "the registry is copied for new nodes"),
        // Somebody else's will come, or this node's next.
        Err(error) => tracing::warn!(%error, "the registry is not copied for new nodes now"),
    }
}

/// Makes a copy, tells of it, and drops what it covers from the log.
async fn make(inner: Arc<Inner>) -> Result<u64, CopyError> {
    let Some(replica) = &inner.replica else { return Ok(0) };
    let _alone = replica.copying.lock().await;
    let before = replica.log.last_on(COPY.to_owned(), Freshness::Latest).await?;
    let owner = inner.clone();
    let (bytes, covers) =
        tokio::task::spawn_blocking(move || read_whole(owner.database.path())).await??;
    let blob = replica.blobs.put(bytes.into()).await?;
    let told = Copy { blob: blob.to_string(), covers, schema: SCHEMA };
    let payload = serde_json::to_vec(&told).expect("a copy's record is plain data");
    let expect = Expect::LastOnSubject(before.as_ref().map_or(0, |record| record.sequence));
    replica.log.append(Append::new(COPY, payload).expect(expect)).await?;
    // Records after what it covers stay, those of earlier copies too: the next change was appended upon one.
    replica.log.purge(CHANGE.to_owned(), covers + 1).await?;
    replica.log.purge(COPY.to_owned(), covers + 1).await?;
    let old = before.as_ref().and_then(|record| Copy::of(record).ok()?.hash().ok());
    if let Some(old) = old.filter(|old| *old != blob) {
        replica.blobs.remove(old).await?;
    }
    Ok(covers)
}

/// The bytes of a file with all replicated tables as they are now, and the last record that they cover.
fn read_whole(database: &Path) -> Result<(Vec<u8>, u64), RegistryError> {
    let path = database.with_file_name(COPY_FILE);
    let failed = |source| RegistryError::File { path: path.clone(), source };
    drop(create(&path)?);
    let connection = Connection::open(database)?;
    connection.execute_batch("PRAGMA foreign_keys = OFF")?;
    connection.execute("ATTACH ?1 AS other", [path.to_string_lossy()])?;
    connection.execute_batch("BEGIN")?;
    replace_tables(&connection, "main", "other")?;
    let covers = position(&connection)?.sequence;
    connection.execute_batch(
        "UPDATE other.replica SET (identity, applied) = (SELECT identity, applied FROM main.replica);
         COMMIT;
         DETACH other;",
    )?;
    drop(connection);
    let bytes = std::fs::read(&path).map_err(failed)?;
    std::fs::remove_file(&path).map_err(failed)?;
    Ok((bytes, covers))
}

/// An empty registry in a file of its own, in place of what was there.
pub(super) fn create(path: &Path) -> Result<Connection, RegistryError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(RegistryError::File { path: path.to_owned(), source })
        }
        _ => open(path),
    }
}

/// Opens a registry's file that nobody serves by.
pub(super) fn open(path: &Path) -> Result<Connection, RegistryError> {
    let mut connection = Connection::open(path)?;
    connection.execute_batch("PRAGMA foreign_keys = OFF; PRAGMA synchronous = OFF;")?;
    database::migrate(&mut connection)?;
    connection.execute_batch(include_str!("schema.sql"))?;
    Ok(connection)
}

/// Puts the replicated tables of one schema of a connection into the place of another's.
pub(super) fn replace_tables(
    connection: &Connection,
    from: &str,
    to: &str,
) -> Result<(), RegistryError> {
    for table in TABLES.iter().rev() {
        connection.execute(&format!("DELETE FROM {to}.{table}"), [])?;
    }
    for table in TABLES {
        let columns = columns(connection, from, table)?;
        connection.execute(
            &format!("INSERT INTO {to}.{table} ({columns}) SELECT {columns} FROM {from}.{table}"),
            [],
        )?;
    }
    Ok(())
}

fn columns(connection: &Connection, schema: &str, table: &str) -> Result<String, RegistryError> {
    let mut statement =
        connection.prepare_cached("SELECT name FROM pragma_table_info(?1, ?2) ORDER BY cid")?;
    let columns = statement.query_map([table, schema], |row| row.get::<_, String>(0))?;
    let columns: Vec<_> = columns.collect::<Result<_, _>>()?;
    Ok(columns.iter().map(|column| format!("\"{column}\"")).collect::<Vec<_>>().join(", "))
}
