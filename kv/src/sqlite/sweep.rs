//! Removes rows that no read can see any more: expired keys and the keys of dropped namespaces.

use rusqlite::{Connection, OptionalExtension, Row};

use super::schema::integer;

/// Rows that one step removes, at most.
const ROWS_MAX: i64 = 256;
/// Bytes of values after which a step ends: freeing a large value walks all its pages.
const BYTES_MAX: i64 = 16 * 1024 * 1024;

/// In a replica a row stays until its shard's checkpoint has passed it: until then an older record
/// of its key may still come, which only the row tells to be old.
const EXPIRED: &str = "
SELECT namespace, key, value_bytes FROM entry
WHERE expiration <= ?1
    AND sequence <= coalesce((SELECT sequence FROM shard WHERE shard.id = entry.shard), 0)
ORDER BY expiration LIMIT ?2";

const DROPPED: &str = "SELECT id FROM namespace WHERE name IS NULL LIMIT 1";

const OF_DROPPED: &str = "
SELECT namespace, key, value_bytes FROM entry WHERE namespace = ?1 LIMIT ?2";

/// What one step did.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Swept {
    pub(super) rows: u64,
    /// Whether there may be more to remove.
    pub(super) more: bool,
}

struct Doomed {
    namespace: i64,
    key: Vec<u8>,
    bytes: i64,
}

/// Removes a bounded number of rows within the caller's transaction.
pub(super) fn step(connection: &Connection, now_s: u64) -> rusqlite::Result<Swept> {
    let mut expired = connection.prepare_cached(EXPIRED)?;
    let doomed = expired.query_map((integer(now_s), ROWS_MAX), to_doomed)?;
    let swept = remove(connection, doomed)?;
    if swept.rows > 0 {
        return Ok(Swept { more: true, ..swept });
    }
    let mut dropped = connection.prepare_cached(DROPPED)?;
    let Some(namespace) = dropped.query_row((), |row| row.get::<_, i64>(0)).optional()? else {
        return Ok(swept);
    };
    let mut rest = connection.prepare_cached(OF_DROPPED)?;
    let swept = remove(connection, rest.query_map((namespace, ROWS_MAX), to_doomed)?)?;
    if swept.rows == 0 {
        connection.execute("DELETE FROM namespace WHERE id = ?1", (namespace,))?;
    }
    Ok(Swept { more: true, ..swept })
}

fn to_doomed(row: &Row<'_>) -> rusqlite::Result<Doomed> {
    Ok(Doomed { namespace: row.get(0)?, key: row.get(1)?, bytes: row.get(2)? })
}

fn remove(
    connection: &Connection,
    doomed: impl Iterator<Item = rusqlite::Result<Doomed>>,
) -> rusqlite::Result<Swept> {
    let mut bytes = 0;
    // Gathered first: deleting beneath an open scan is undefined in what the scan then sees.
    let mut batch = Vec::new();
    for row in doomed {
        let row = row?;
        bytes += row.bytes;
        batch.push(row);
        if bytes >= BYTES_MAX {
            break;
        }
    }
    let mut delete =
        connection.prepare_cached("DELETE FROM entry WHERE namespace = ?1 AND key = ?2")?;
    for row in &batch {
        delete.execute((row.namespace, &row.key))?;
    }
    Ok(Swept { rows: batch.len() as u64, more: false })
}
