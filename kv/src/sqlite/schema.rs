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

/// The version of `SCHEMA` and the steps after it, kept in the file's `user_version`.
const SCHEMA_VERSION: i64 = 2;

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

/// From version 1 to 2: what a replica of a log needs to know. In a store that is no replica, all
/// of it keeps its default and `shard` is empty.
///
/// `shard`, `era` and `sequence` say which record made a row and in which era of its shard; a resync
/// begins an era. A hidden row was found by a resync below the checkpoint and shows at its end.
/// `blob` is the hash of a value that lies in the blob store; here it is empty or complete.
/// `tombstone` and `dropped` remember what this node deleted beyond its checkpoint, against older
/// records that are still to come.
const TO_VERSION_2: &str = "
ALTER TABLE entry ADD COLUMN shard INTEGER NOT NULL DEFAULT 0;
ALTER TABLE entry ADD COLUMN era INTEGER NOT NULL DEFAULT 0;
ALTER TABLE entry ADD COLUMN sequence INTEGER NOT NULL DEFAULT 0;
ALTER TABLE entry ADD COLUMN hidden INTEGER NOT NULL DEFAULT 0;
ALTER TABLE entry ADD COLUMN blob BLOB;
CREATE TABLE shard (
    id INTEGER PRIMARY KEY,
    identity TEXT,
    sequence INTEGER NOT NULL,
    time_ms INTEGER NOT NULL,
    high INTEGER NOT NULL,
    era INTEGER NOT NULL,
    incarnation INTEGER NOT NULL,
    resync INTEGER NOT NULL,
    resync_from INTEGER NOT NULL,
    caught_up_s INTEGER NOT NULL
) STRICT;
CREATE TABLE tombstone (
    shard INTEGER NOT NULL,
    namespace INTEGER NOT NULL,
    key BLOB NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (shard, namespace, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE dropped (
    shard INTEGER NOT NULL,
    namespace INTEGER NOT NULL,
    before INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (shard, namespace)
) STRICT, WITHOUT ROWID;
";

/// A replica's commits need not wait for the disk: what a power cut takes back, the log still has,
/// and the checkpoint goes back with it.
const REPLICA_PRAGMAS: &str = "PRAGMA synchronous = NORMAL;";

/// What a file is used for. One that was used for one thing cannot be taken for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// A store of its own.
    Alone,
    /// A replica of this many logs.
    Replica(u16),
}

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
pub(super) fn open_writer(path: &Path, role: Role) -> Result<Connection, KvError> {
    let failed = storage("open the database");
    let mut connection = Connection::open(path).map_err(&failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(&failed)?;
    let found = version(&connection).map_err(&failed)?;
    if found > SCHEMA_VERSION {
        return Err(KvError::SchemaTooNew { found, supported: SCHEMA_VERSION });
    }
    connection.execute_batch(WRITER_PRAGMAS).map_err(&failed)?;
    if found < SCHEMA_VERSION {
        migrate(&mut connection, found).map_err(storage("create the tables"))?;
    }
    let fits = take_role(&mut connection, role).map_err(&failed)?;
    if !fits {
        return Err(KvError::WrongRole { path: path.to_owned() });
    }
    if role != Role::Alone {
        connection.execute_batch(REPLICA_PRAGMAS).map_err(&failed)?;
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

fn migrate(connection: &mut Connection, found: i64) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    if found == 0 {
        transaction.execute_batch(SCHEMA)?;
    }
    transaction.execute_batch(TO_VERSION_2)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()
}

/// Makes a new file what it is to be; false if it was used for something else.
fn take_role(connection: &mut Connection, role: Role) -> rusqlite::Result<bool> {
    let count = |query: &str| connection.query_row(query, (), |row| row.get::<_, i64>(0));
    let shards = count("SELECT count(*) FROM shard")?;
    let Role::Replica(wanted) = role else { return Ok(shards == 0) };
    if shards == i64::from(wanted) {
        return Ok(true);
    }
    if shards > 0 || count("SELECT count(*) FROM namespace")? > 0 {
        return Ok(false);
    }
    let transaction = connection.transaction()?;
    for shard in 0..wanted {
        transaction
            .execute("INSERT INTO shard VALUES (?1, NULL, 0, 0, 0, 0, 0, 0, 0, 0)", (shard,))?;
    }
    transaction.commit()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an acknowledgement means rests on these two settings.
    #[test]
    fn the_writer_waits_for_the_disk() {
        let place = tempfile::tempdir().unwrap();
        let connection = open_writer(&place.path().join("kv.sqlite"), Role::Alone).unwrap();
        let check = |pragma: &str, expected: &str| {
            let read = format!("SELECT CAST({pragma} AS TEXT) FROM pragma_{pragma}");
            let found: String = connection.query_row(&read, (), |row| row.get(0)).unwrap();
            assert_eq!(found, expected, "{pragma}");
        };
        check("journal_mode", "wal");
        check("synchronous", "2");
    }

    /// A file that version 1 of this store wrote opens with what it holds.
    #[test]
    fn a_file_of_version_1_opens() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("kv.sqlite");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch(SCHEMA).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        let rows = "
            INSERT INTO namespace (name) VALUES ('00000000000000000000000000000001');
            INSERT INTO value (bytes) VALUES (x'76');
            INSERT INTO entry VALUES (1, x'61', 1, 1, NULL, 'null');";
        connection.execute_batch(rows).unwrap();
        drop(connection);
        let connection = open_writer(&path, Role::Alone).unwrap();
        let read = "SELECT key, metadata, sequence, blob FROM entry";
        let found = connection.query_row(read, (), |row| {
            Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?))
        });
        assert_eq!(found.unwrap(), (b"a".to_vec(), "null".to_owned(), 0));
        drop(connection);
        assert!(matches!(open_writer(&path, Role::Replica(16)), Err(KvError::WrongRole { .. })));
    }

    #[test]
    fn a_replica_stays_one() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("kv.sqlite");
        drop(open_writer(&path, Role::Replica(16)).unwrap());
        drop(open_writer(&path, Role::Replica(16)).unwrap());
        for role in [Role::Alone, Role::Replica(8)] {
            assert!(matches!(open_writer(&path, role), Err(KvError::WrongRole { .. })));
        }
    }
}
