//! The database file: who may open it, its tables, and how its connections are set up.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::namespaces::NamespaceRow;
use crate::error::KvError;
use crate::key::NamespaceId;

/// The version of `SCHEMA`, kept in the file's `user_version`.
const SCHEMA_VERSION: i64 = 1;

/// How long a connection waits for a lock that another program (a backup, a shell) holds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Values lie apart from the keys. With both in one row, a page of keys would have to step over
/// values of up to 25 MiB, a search tree would branch by what its rows weigh, and changing an
/// expiration would rewrite the value. So `entry` stays dense enough for range scans, and `value`
/// is only ever reached by its number; new values go to its end, next to each other.
///
/// Keys are blobs because their order is that of bytes, and because the end of a prefix's range
/// (its last byte plus one) need not be UTF-8. `AUTOINCREMENT` keeps a dropped namespace's number
/// from coming back. A namespace without a name is dropped and waits for the sweep.
const SCHEMA: &str = "
CREATE TABLE namespace (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT UNIQUE
) STRICT;
CREATE TABLE value (
    id INTEGER PRIMARY KEY,
    bytes BLOB NOT NULL
) STRICT;
CREATE TABLE entry (
    namespace INTEGER NOT NULL,
    key BLOB NOT NULL,
    value INTEGER NOT NULL,
    value_bytes INTEGER NOT NULL,
    expiration INTEGER,
    metadata TEXT,
    PRIMARY KEY (namespace, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX entry_expiration ON entry (expiration) WHERE expiration IS NOT NULL;
CREATE TRIGGER entry_delete AFTER DELETE ON entry BEGIN
    DELETE FROM value WHERE id = OLD.value;
END;
";

/// Settings of the writer's connection. FULL makes each commit wait for the disk: this is what an
/// acknowledgement promises. Checkpoints are rarer than SQLite's default, and a log that one large
/// write stretched is cut again.
const WRITER_PRAGMAS: &str = "
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA wal_autocheckpoint = 4000;
PRAGMA journal_size_limit = 67108864;
";

/// Makes a `KvError` of an engine's error while doing `action`.
pub(super) fn storage<E>(action: &'static str) -> impl Fn(E) -> KvError
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |cause| KvError::Storage { action: action.into(), cause: Arc::new(cause) }
}

/// Takes the database for this store alone, until the file is dropped: a second writer would make
/// the first one's cache lie.
pub(super) fn lock(path: &Path) -> Result<File, KvError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(name)
        .map_err(storage("create the lock file"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(KvError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(cause)) => Err(storage("lock the database")(cause)),
    }
}

/// Opens the writer's connection and creates the tables in a new file.
pub(super) fn open_writer(path: &Path) -> Result<Connection, KvError> {
    let failed = storage("open the database");
    let mut connection = Connection::open(path).map_err(&failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(&failed)?;
    let found = version(&connection).map_err(&failed)?;
    if found > SCHEMA_VERSION {
        return Err(KvError::SchemaTooNew { found, supported: SCHEMA_VERSION });
    }
    connection.execute_batch(WRITER_PRAGMAS).map_err(&failed)?;
    if found == 0 {
        create(&mut connection).map_err(storage("create the tables"))?;
    }
    Ok(connection)
}

/// Opens a connection that cannot write.
pub(super) fn open_reader(path: &Path) -> Result<Connection, KvError> {
    let failed = storage("open the database for reading");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(&failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(&failed)?;
    Ok(connection)
}

/// Reads the namespaces that are not dropped.
pub(super) fn load_namespaces(
    connection: &Connection,
) -> Result<HashMap<NamespaceId, NamespaceRow>, KvError> {
    let failed = storage("load the namespaces");
    let mut statement = connection
        .prepare("SELECT name, id FROM namespace WHERE name IS NOT NULL")
        .map_err(&failed)?;
    let rows = statement
        .query_map((), |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))
        .map_err(&failed)?;
    rows.map(|row| {
        let (name, id) = row.map_err(&failed)?;
        Ok((NamespaceId::parse(&name)?, NamespaceRow(id)))
    })
    .collect()
}

/// A count or a moment as SQLite's signed integer.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A count or a moment back from SQLite.
pub(super) fn number(integer: i64) -> u64 {
    integer.unsigned_abs()
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", (), |row| row.get(0))
}

fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(SCHEMA)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an acknowledgement means rests on these two settings.
    #[test]
    fn the_writer_waits_for_the_disk() {
        let place = tempfile::tempdir().unwrap();
        let connection = open_writer(&place.path().join("kv.sqlite")).unwrap();
        let check = |pragma: &str, expected: &str| {
            let read = format!("SELECT CAST({pragma} AS TEXT) FROM pragma_{pragma}");
            let found: String = connection.query_row(&read, (), |row| row.get(0)).unwrap();
            assert_eq!(found, expected, "{pragma}");
        };
        check("journal_mode", "wal");
        check("synchronous", "2");
    }
}
