//! The registry's SQLite file: its connections, durability and migrations.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::{RegistryError, touched};

/// One SQL script per schema version, oldest first.
const MIGRATIONS: [&str; 4] = [
    include_str!("schema.sql"),
    include_str!("certificates.sql"),
    include_str!("rules.sql"),
    include_str!("acme.sql"),
];
const BUSY_MS_MAX: u64 = 5_000;
/// Reading connections kept open; more are opened and closed when more read at once.
const READERS_IDLE_MAX: usize = 4;
const STATEMENTS_CACHED_MAX: usize = 64;

/// One writing connection and a few reading ones.
pub(super) struct Database {
    path: PathBuf,
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
}

impl Database {
    /// Opens or creates the file and brings its schema up to date.
    pub(super) fn open(path: PathBuf) -> Result<Self, RegistryError> {
        let mut writer = Connection::open(&path)?;
        prepare(&writer)?;
        writer.pragma_update(None, "journal_mode", "WAL")?;
        // A deployment that was acknowledged survives a power cut.
        writer.pragma_update(None, "synchronous", "FULL")?;
        writer.pragma_update(None, "foreign_keys", "ON")?;
        migrate(&mut writer)?;
        writer.pragma_update(None, "temp_store", "MEMORY")?;
        touched::watch(&writer)?;
        Ok(Self { path, writer: Mutex::new(writer), readers: Mutex::new(Vec::new()) })
    }

    /// Runs `change` in one transaction; it is durable when this returns. `publish` gets the
    /// result after the commit and before any other writer runs.
    pub(super) fn write<T, R>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, RegistryError>,
        publish: impl FnOnce(T) -> R,
    ) -> Result<R, RegistryError> {
        let mut writer = self.writer();
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = change(&transaction)?;
        transaction.commit()?;
        Ok(publish(value))
    }

    /// The writing connection, which nobody else has until it is given back.
    pub(super) fn writer(&self) -> MutexGuard<'_, Connection> {
        // A panic inside a transaction rolls it back, so a poisoned lock guards sound data.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the file is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `query` on one consistent view of the last committed state.
    pub(super) fn read<T>(
        &self,
        query: impl FnOnce(&Transaction<'_>) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let mut reader = match self.idle_reader() {
            Some(reader) => reader,
            None => open_reader(&self.path)?,
        };
        let result = reader.transaction().map_err(Into::into).and_then(|view| query(&view));
        let mut idle = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < READERS_IDLE_MAX {
            idle.push(reader);
        }
        result
    }

    fn idle_reader(&self) -> Option<Connection> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

fn open_reader(path: &Path) -> Result<Connection, RegistryError> {
    let reader = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    prepare(&reader)?;
    Ok(reader)
}

fn prepare(connection: &Connection) -> Result<(), RegistryError> {
    connection.busy_timeout(std::time::Duration::from_millis(BUSY_MS_MAX))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED_MAX);
    Ok(())
}

/// The newest schema that this release knows.
pub(super) const SCHEMA: i64 = MIGRATIONS.len() as i64;

/// Brings a file's schema up to date.
pub(super) fn migrate(writer: &mut Connection) -> Result<(), RegistryError> {
    let known = SCHEMA;
    let found: i64 = writer.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(found)
        .ok()
        .filter(|done| *done <= MIGRATIONS.len())
        .ok_or(RegistryError::SchemaTooNew { found, known })?;
    for (index, script) in MIGRATIONS.iter().enumerate().skip(done) {
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Exclusive)?;
        transaction.execute_batch(script)?;
        transaction.pragma_update(None, "user_version", index as i64 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

/// A count or a time as SQLite stores it. Values past `i64::MAX` do not occur.
pub(super) fn to_sql(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The inverse of `to_sql`.
pub(super) fn from_sql(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
