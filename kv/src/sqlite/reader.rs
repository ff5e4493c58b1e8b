//! The read statements, and the threads that run them on connections of their own.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row};

use super::Shared;
use super::namespaces::NamespaceRow;
use super::replica::Blob;
use super::schema::{number, storage};
use crate::entry::{Entry, is_expired};
use crate::error::KvError;
use crate::key::Key;
use crate::limits::BULK_GET_BYTES_MAX;
use crate::list::{KeyInfo, ListPage, ListQuery, encode_cursor};
use crate::log::BlobHash;

/// Rows that one page looks at, expired ones included. Past it the page ends short, so that a
/// reader is never held by a namespace full of keys that wait for the sweep.
const LIST_ROWS_MAX: i64 = 10_000;

/// A byte that no UTF-8 text begins with: every key lies before it.
const AFTER_ALL_KEYS: u8 = 0xff;

const FIND: &str = "
SELECT value.bytes, entry.metadata, entry.expiration, entry.blob, entry.value_bytes
FROM entry JOIN value ON value.id = entry.value
WHERE entry.namespace = ?1 AND entry.key = ?2 AND entry.hidden = 0";

pub(super) const SCAN: &str = "
SELECT key, metadata, expiration FROM entry
WHERE namespace = ?1 AND key >= ?2 AND key < ?3 AND hidden = 0 ORDER BY key LIMIT ?4";

/// All that a namespace holds, values included, from one key on.
const DUMP: &str = "
SELECT value.bytes, entry.metadata, entry.expiration, entry.blob, entry.value_bytes, entry.key
FROM entry JOIN value ON value.id = entry.value
WHERE entry.namespace = ?1 AND entry.key > ?2 AND entry.hidden = 0 ORDER BY entry.key LIMIT ?3";

/// A read, sent to whichever thread is free.
pub(super) type ReadJob = Box<dyn FnOnce(&Connection) + Send>;

/// Runs reads until the queue is closed and empty.
pub(super) fn run(connection: &Connection, shared: &Shared) {
    while let Some(job) = shared.reads.pop() {
        job(connection);
    }
}

/// What a row holds.
#[derive(Debug, Clone)]
pub(crate) enum Stored {
    /// All of an entry.
    Here(Entry),
    /// An entry without its value, which lies in the blob store.
    Away(Entry, Blob),
}

impl Stored {
    pub(super) fn entry(&self) -> &Entry {
        match self {
            Self::Here(entry) | Self::Away(entry, _) => entry,
        }
    }

    /// The bytes of its value, wherever it lies.
    pub(crate) fn value_bytes(&self) -> u64 {
        match self {
            Self::Here(entry) => entry.value.len() as u64,
            Self::Away(_, blob) => blob.size,
        }
    }

    /// The entry of a store whose values are all here.
    pub(super) fn here(self) -> Result<Entry, KvError> {
        match self {
            Self::Here(entry) => Ok(entry),
            Self::Away(..) => Err(KvError::ValueAway("this store has no blob store".into())),
        }
    }
}

/// Reads a key from the database into the cache.
pub(super) fn load(
    connection: &Connection,
    shared: &Shared,
    namespace: NamespaceRow,
    key: &Key,
) -> Result<Option<Stored>, KvError> {
    let cache_key = (namespace, key.clone());
    let ticket = shared.cache.ticket(&cache_key);
    let found = find(connection, namespace, key).map_err(storage("read a key"))?;
    match &found {
        None => shared.cache.fill(cache_key, None, ticket),
        Some(Stored::Here(entry)) => shared.cache.fill(cache_key, Some(entry.clone()), ticket),
        Some(Stored::Away(..)) => {}
    }
    Ok(found.filter(|stored| shared.is_live(stored.entry())))
}

/// Reads keys as `load` does, up to the bytes that a bulk read may return beside `bytes`.
pub(super) fn load_many(
    connection: &Connection,
    shared: &Shared,
    namespace: NamespaceRow,
    keys: &[(usize, Key)],
    mut bytes: u64,
) -> Result<Vec<(usize, Option<Stored>)>, KvError> {
    let mut found = Vec::with_capacity(keys.len());
    for (index, key) in keys {
        let entry = load(connection, shared, namespace, key)?;
        bytes += entry.as_ref().map_or(0, Stored::value_bytes);
        if bytes > BULK_GET_BYTES_MAX as u64 {
            return Err(KvError::BulkGetTooLarge);
        }
        found.push((*index, entry));
    }
    Ok(found)
}

/// Reads one page of keys.
pub(super) fn list(
    connection: &Connection,
    namespace: NamespaceRow,
    query: &ListQuery,
    now_s: u64,
) -> Result<ListPage, KvError> {
    scan(connection, namespace, query, now_s).map_err(storage("list keys"))
}

fn find(
    connection: &Connection,
    namespace: NamespaceRow,
    key: &Key,
) -> rusqlite::Result<Option<Stored>> {
    let mut statement = connection.prepare_cached(FIND)?;
    statement.query_row((namespace.0, key.as_str().as_bytes()), to_stored).optional()
}

/// The row of `FIND` or `DUMP`. A value in the blob store is here as well if it has all its bytes.
fn to_stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    let entry = Entry {
        value: Bytes::copy_from_slice(row.get_ref(0)?.as_blob()?),
        metadata: row.get(1)?,
        expiration: row.get::<_, Option<i64>>(2)?.map(number),
    };
    let size = number(row.get(4)?);
    if size == entry.value.len() as u64 {
        return Ok(Stored::Here(entry));
    }
    let hash = row.get_ref(3)?.as_blob_or_null()?.and_then(BlobHash::from_slice);
    Ok(match hash {
        Some(hash) => Stored::Away(entry, Blob { hash, size }),
        None => Stored::Here(entry),
    })
}

/// Reads what a namespace holds after a key, expired keys included, in the order of keys.
pub(super) fn dump(
    connection: &Connection,
    namespace: NamespaceRow,
    after: &str,
    limit: i64,
) -> rusqlite::Result<Vec<(Key, Stored)>> {
    let mut statement = connection.prepare_cached(DUMP)?;
    let rows = statement.query_map((namespace.0, after.as_bytes(), limit), |row| {
        let name = std::str::from_utf8(row.get_ref(5)?.as_blob()?)
            .map_err(|error| rusqlite::Error::Utf8Error(5, error))?;
        Ok((Key::parse(name).ok(), to_stored(row)?))
    })?;
    // Every row's key was checked when it was written.
    rows.filter_map(|row| match row {
        Ok((key, stored)) => key.map(|key| Ok((key, stored))),
        Err(error) => Some(Err(error)),
    })
    .collect()
}

/// The values in the blob store that rows name, hidden ones included.
pub(super) fn blobs(connection: &Connection) -> rusqlite::Result<HashSet<BlobHash>> {
    let mut statement = connection.prepare("SELECT blob FROM entry WHERE blob IS NOT NULL")?;
    let rows =
        statement.query_map((), |row| Ok(BlobHash::from_slice(row.get_ref(0)?.as_blob()?)))?;
    rows.filter_map(Result::transpose).collect()
}

fn scan(
    connection: &Connection,
    namespace: NamespaceRow,
    query: &ListQuery,
    now_s: u64,
) -> rusqlite::Result<ListPage> {
    let (from, to) = range(query);
    let mut statement = connection.prepare_cached(SCAN)?;
    let mut rows = statement.query((namespace.0, from, to, LIST_ROWS_MAX + 1))?;
    let mut keys = Vec::new();
    let mut last: Option<Arc<str>> = None;
    let mut seen = 0;
    while let Some(row) = rows.next()? {
        let expiration = row.get::<_, Option<i64>>(2)?.map(number);
        let live = !is_expired(expiration, now_s);
        if live && keys.len() == query.limit {
            let cursor = keys.last().map(|key: &KeyInfo| encode_cursor(&key.name));
            return Ok(ListPage { keys, list_complete: false, cursor });
        }
        if seen == LIST_ROWS_MAX {
            let cursor = last.as_deref().map(encode_cursor);
            return Ok(ListPage { keys, list_complete: false, cursor });
        }
        seen += 1;
        let name: Arc<str> = name(row)?.into();
        last = Some(name.clone());
        if live {
            keys.push(KeyInfo { name, expiration, metadata: row.get(1)? });
        }
    }
    Ok(ListPage { keys, list_complete: true, cursor: None })
}

fn name<'row>(row: &'row Row<'_>) -> rusqlite::Result<&'row str> {
    std::str::from_utf8(row.get_ref(0)?.as_blob()?)
        .map_err(|error| rusqlite::Error::Utf8Error(0, error))
}

/// The first key of a scan, and the bound before which it ends.
fn range(query: &ListQuery) -> (Vec<u8>, Vec<u8>) {
    let prefix = query.prefix.as_bytes();
    let mut from = prefix.to_vec();
    if let Some(after) = query.after.as_ref().map(|key| key.as_str().as_bytes())
        && after >= prefix
    {
        // The least string that follows a key is the key and a zero byte.
        from = [after, &[0]].concat();
    }
    let mut to = prefix.to_vec();
    match to.last_mut() {
        // A byte of UTF-8 is at most 0xf4.
        Some(byte) => *byte += 1,
        None => to.push(AFTER_ALL_KEYS),
    }
    (from, to)
}
