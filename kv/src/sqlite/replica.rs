//! A store as a replica of logs: which record made each row, how far each shard has come, and what
//! a resync changes. It trusts that a shard's records come in order; it does not know who sends
//! them.
//!
//! Rows are applied only if they are newer, so that a node's own acknowledged writes and what the
//! log delivers can come in any order. Two things make that more than a comparison of sequences.
//! What this node deleted itself ahead of the checkpoint leaves a tombstone until the checkpoint
//! has passed it. And a resync begins an *era*: rows that it does not meet belong to an earlier era
//! at its end, and go.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use rusqlite::{Connection, OptionalExtension, Transaction};

use super::apply::{Applier, Origin, delete, put};
use super::namespaces::NamespaceRow;
use super::schema::{integer, number};
use crate::entry::Entry;
use crate::key::{Key, NamespaceId};
use crate::log::{BlobHash, Identity};

/// Keys up to which other processes are told each one; past it they forget all.
const TOUCHED_MAX: usize = 10_000;

/// How far a shard has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ShardState {
    /// The log that it follows; none before the first resync.
    pub(crate) identity: Option<Identity>,
    /// The checkpoint: every record up to here was applied.
    pub(crate) sequence: u64,
    /// When the log took the record at the checkpoint; 0 if that is not known.
    pub(crate) time_ms: u64,
    /// The highest sequence of this node's own writes and of the checkpoint.
    pub(crate) high: u64,
    /// Counts resyncs.
    pub(crate) era: u64,
    /// Counts resyncs after which sequences mean something else.
    pub(crate) incarnation: u64,
    /// The resync that is under way.
    pub(crate) resync: Resync,
    /// The checkpoint when it began, if sequences still compare.
    pub(crate) resync_from: u64,
    /// A moment at which nothing was missing, in seconds since the epoch: the log still holds the
    /// tombstones of all that was deleted since.
    pub(crate) caught_up_s: u64,
}

/// A resync that is under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Resync {
    /// None.
    #[default]
    None,
    /// Of the same log: sequences of rows that were there before still compare.
    Same,
    /// Of another log, or of one that lost its tail: they do not.
    Other,
}

/// A record of a log, as rows need it.
#[derive(Debug, Clone)]
pub(crate) struct ReplicaRecord {
    pub(crate) sequence: u64,
    pub(crate) namespace: NamespaceId,
    pub(crate) what: What,
}

/// What a record says.
#[derive(Debug, Clone)]
pub(crate) enum What {
    /// A key has a value. A value in the blob store may be empty in the entry.
    Put { key: Key, entry: Entry, blob: Option<Blob> },
    /// A key has none.
    Delete(Key),
    /// Every key of the namespace in this shard whose record lies below `before` has none.
    Drop { before: u64 },
}

/// A value in the blob store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) hash: BlobHash,
    pub(crate) size: u64,
}

/// A change of a replica.
pub(crate) enum Step {
    /// What the log delivered, and how far that is.
    Follow {
        shard: u16,
        records: Vec<ReplicaRecord>,
        sequence: u64,
        time_ms: u64,
        caught_up_s: Option<u64>,
    },
    /// A write of this node that the log has acknowledged.
    Own { shard: u16, incarnation: u64, record: ReplicaRecord },
    /// A resync begins.
    Begin { shard: u16, resync: Resync, identity: Identity, now_s: u64 },
    /// A resync has met all that the log holds.
    End { shard: u16 },
    /// A value came from the blob store.
    Keep { namespace: NamespaceId, key: Key, hash: BlobHash, value: bytes::Bytes },
}

/// The shards' states as they are committed.
pub(super) struct Shards(RwLock<Vec<ShardState>>);

/// What a row says of its record.
struct Row {
    era: u64,
    sequence: u64,
    hidden: bool,
}

impl Shards {
    pub(super) fn new(states: Vec<ShardState>) -> Self {
        Self(RwLock::new(states))
    }

    /// A shard's state.
    pub(super) fn find(&self, shard: u16) -> ShardState {
        // A list that a panic left behind is still a list.
        let states = self.0.read().unwrap_or_else(PoisonError::into_inner);
        states.get(usize::from(shard)).cloned().unwrap_or_default()
    }

    pub(super) fn publish(&self, changes: HashMap<u16, ShardState>) {
        if changes.is_empty() {
            return;
        }
        let mut states = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (shard, state) in changes {
            if let Some(found) = states.get_mut(usize::from(shard)) {
                *found = state;
            }
        }
    }
}

/// Reads the shards' states.
pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<ShardState>> {
    let find = "
        SELECT identity, sequence, time_ms, high, era, incarnation, resync, resync_from, caught_up_s
        FROM shard ORDER BY id";
    let mut statement = connection.prepare(find)?;
    let rows = statement.query_map((), |row| {
        let identity: Option<String> = row.get(0)?;
        let count = |index| row.get::<_, i64>(index).map(number);
        Ok(ShardState {
            identity: identity.map(|text| Identity(text.into())),
            sequence: count(1)?,
            time_ms: count(2)?,
            high: count(3)?,
            era: count(4)?,
            incarnation: count(5)?,
            resync: match count(6)? {
                0 => Resync::None,
                1 => Resync::Same,
                _ => Resync::Other,
            },
            resync_from: count(7)?,
            caught_up_s: count(8)?,
        })
    })?;
    rows.collect()
}

/// Writes the states of the shards that a transaction changed.
pub(super) fn save(
    transaction: &Transaction<'_>,
    changes: &HashMap<u16, ShardState>,
) -> rusqlite::Result<()> {
    let update = "
        UPDATE shard SET identity = ?2, sequence = ?3, time_ms = ?4, high = ?5, era = ?6,
            incarnation = ?7, resync = ?8, resync_from = ?9, caught_up_s = ?10
        WHERE id = ?1";
    for (shard, state) in changes {
        transaction.prepare_cached(update)?.execute((
            shard,
            state.identity.as_ref().map(|identity| &*identity.0),
            integer(state.sequence),
            integer(state.time_ms),
            integer(state.high),
            integer(state.era),
            integer(state.incarnation),
            state.resync as i64,
            integer(state.resync_from),
            integer(state.caught_up_s),
        ))?;
    }
    Ok(())
}

impl Applier<'_> {
    pub(super) fn replicate(&mut self, step: Step) -> rusqlite::Result<()> {
        match step {
            Step::Follow { shard, records, sequence, time_ms, caught_up_s } => {
                let mut state = self.shard(shard);
                for record in records {
                    self.record(shard, &state, record, false)?;
                }
                if state.high > state.sequence {
                    self.forget_tombstones(shard, sequence)?;
                }
                if sequence > state.sequence {
                    (state.sequence, state.time_ms) = (sequence, time_ms);
                }
                state.high = state.high.max(sequence);
                // While a resync goes on, what counts is when it began.
                if let Some(now_s) = caught_up_s.filter(|_| state.resync == Resync::None) {
                    state.caught_up_s = now_s;
                }
                self.effects.shards.insert(shard, state);
            }
            Step::Own { shard, incarnation, record } => {
                let mut state = self.shard(shard);
                // A write that another log acknowledged says nothing about this one. And a late
                // acknowledgement is old news: the log delivered the record, and perhaps what
                // replaced it.
                let passed = state.sequence.max(state.resync_from);
                if state.incarnation == incarnation && record.sequence > passed {
                    state.high = state.high.max(record.sequence);
                    self.record(shard, &state, record, true)?;
                    self.effects.shards.insert(shard, state);
                }
            }
            Step::Begin { shard, resync, identity, now_s } => {
                let state = self.begin(shard, resync, identity, now_s)?;
                self.effects.shards.insert(shard, state);
            }
            Step::End { shard } => self.end(shard)?,
            Step::Keep { namespace, key, hash, value } => {
                self.keep(&namespace, key, hash, value)?;
            }
        }
        Ok(())
    }

    fn shard(&self, shard: u16) -> ShardState {
        let changed = self.effects.shards.get(&shard).cloned();
        changed.unwrap_or_else(|| self.shared.shards.find(shard))
    }

    fn record(
        &mut self,
        shard: u16,
        state: &ShardState,
        record: ReplicaRecord,
        own: bool,
    ) -> rusqlite::Result<()> {
        let namespace = self.namespace(&record.namespace)?;
        let sequence = record.sequence;
        match record.what {
            What::Put { key, entry, blob } => {
                let row = self.newer_row(shard, state, namespace, &key, sequence)?;
                let Some(row) = row else { return Ok(()) };
                // Below the checkpoint an absent key may just as well have been deleted since.
                let hidden = state.resync == Resync::Same
                    && row.is_none_or(|row| row.hidden)
                    && !own
                    && sequence <= state.resync_from;
                let origin = Origin { shard, era: state.era, sequence, hidden };
                let found = blob.as_ref().map(|blob| (&blob.hash.as_bytes()[..], blob.size));
                put(self.transaction, namespace, &key, &entry, found, origin)?;
                self.touch(&record.namespace, &key);
                let away = blob.is_some_and(|blob| blob.size != entry.value.len() as u64);
                // Only a node's own writes are likely to be read here at once.
                let slot = (own && !away).then_some(Some(entry));
                self.effects.slots.insert((namespace, key), slot);
            }
            What::Delete(key) => {
                let row = self.newer_row(shard, state, namespace, &key, sequence)?;
                let Some(row) = row else { return Ok(()) };
                if row.is_some() {
                    delete(self.transaction, namespace, key.as_str().as_bytes())?;
                }
                if own && sequence > state.sequence {
                    let insert = "INSERT OR REPLACE INTO tombstone VALUES (?1, ?2, ?3, ?4)";
                    let bytes = key.as_str().as_bytes();
                    let row = (shard, namespace.0, bytes, integer(sequence));
                    self.transaction.prepare_cached(insert)?.execute(row)?;
                }
                self.touch(&record.namespace, &key);
                self.effects.slots.insert((namespace, key), own.then_some(None));
            }
            What::Drop { before } => {
                self.drop_namespace(shard, state, &record.namespace, namespace, before)?;
                if own && sequence > state.sequence {
                    let insert = "
                        INSERT INTO dropped VALUES (?1, ?2, ?3, ?4)
                        ON CONFLICT DO UPDATE SET before = max(before, ?3),
                            sequence = max(sequence, ?4)";
                    let row = (shard, namespace.0, integer(before), integer(sequence));
                    self.transaction.prepare_cached(insert)?.execute(row)?;
                }
            }
        }
        Ok(())
    }

    /// The row that a record is to replace, if the record is newer: `Some(None)` if there is none.
    /// A record that a resync meets again takes its row into the new era.
    fn newer_row(
        &self,
        shard: u16,
        state: &ShardState,
        namespace: NamespaceRow,
        key: &Key,
        sequence: u64,
    ) -> rusqlite::Result<Option<Option<Row>>> {
        let bytes = key.as_str().as_bytes();
        let find = "SELECT era, sequence, hidden FROM entry WHERE namespace = ?1 AND key = ?2";
        let mut statement = self.transaction.prepare_cached(find)?;
        let row = statement
            .query_row((namespace.0, bytes), |row| {
                let (era, sequence) = (number(row.get(0)?), number(row.get(1)?));
                Ok(Row { era, sequence, hidden: row.get(2)? })
            })
            .optional()?;
        match &row {
            Some(row) if row.era < state.era && state.resync == Resync::Other => {}
            Some(row) if row.sequence == sequence && row.era < state.era => {
                let renew = "UPDATE entry SET era = ?3 WHERE namespace = ?1 AND key = ?2";
                let renewed = (namespace.0, bytes, integer(state.era));
                self.transaction.prepare_cached(renew)?.execute(renewed)?;
                return Ok(None);
            }
            Some(row) if row.sequence >= sequence => return Ok(None),
            _ => {}
        }
        // Nothing was deleted ahead of the checkpoint where no write went ahead of it.
        if state.high > state.sequence && self.was_deleted(shard, namespace, bytes, sequence)? {
            return Ok(None);
        }
        Ok(Some(row))
    }

    /// Whether this node knows of a later deletion of the key.
    fn was_deleted(
        &self,
        shard: u16,
        namespace: NamespaceRow,
        key: &[u8],
        sequence: u64,
    ) -> rusqlite::Result<bool> {
        let find = "
            SELECT 1 FROM tombstone
            WHERE shard = ?1 AND namespace = ?2 AND key = ?3 AND sequence >= ?4
            UNION ALL
            SELECT 1 FROM dropped WHERE shard = ?1 AND namespace = ?2 AND before > ?4";
        let mut statement = self.transaction.prepare_cached(find)?;
        statement.exists((shard, namespace.0, key, integer(sequence)))
    }

    fn forget_tombstones(&self, shard: u16, up_to: u64) -> rusqlite::Result<()> {
        for delete in [
            "DELETE FROM tombstone WHERE shard = ?1 AND sequence <= ?2",
            "DELETE FROM dropped WHERE shard = ?1 AND sequence <= ?2",
        ] {
            self.transaction.prepare_cached(delete)?.execute((shard, integer(up_to)))?;
        }
        Ok(())
    }

    fn drop_namespace(
        &mut self,
        shard: u16,
        state: &ShardState,
        id: &NamespaceId,
        namespace: NamespaceRow,
        before: u64,
    ) -> rusqlite::Result<()> {
        let incomparable = state.resync == Resync::Other;
        let find = "
            SELECT namespace, key FROM entry
            WHERE namespace = ?1 AND shard = ?2 AND (sequence < ?3 OR (?4 AND era < ?5))";
        let which = (namespace.0, shard, integer(before), incomparable, integer(state.era));
        let doomed = self.keys(find, which)?;
        self.remove(doomed, Some(id))
    }

    fn begin(
        &mut self,
        shard: u16,
        resync: Resync,
        identity: Identity,
        now_s: u64,
    ) -> rusqlite::Result<ShardState> {
        let before = self.shard(shard);
        let comparable = resync == Resync::Same;
        // A resync that begins anew within one of another log stays one of another log.
        let resync = if before.resync == Resync::Other { Resync::Other } else { resync };
        if !comparable {
            self.forget_tombstones(shard, u64::MAX)?;
        }
        Ok(ShardState {
            identity: Some(identity),
            sequence: 0,
            time_ms: 0,
            high: if comparable { before.high } else { 0 },
            era: before.era + 1,
            incarnation: before.incarnation + u64::from(!comparable),
            resync,
            // Sequences of the log before say nothing about this one.
            resync_from: if comparable { before.sequence.max(before.resync_from) } else { 0 },
            caught_up_s: now_s,
        })
    }

    /// Removes what the resync did not meet, and shows what it met and could not be sure of.
    fn end(&mut self, shard: u16) -> rusqlite::Result<()> {
        let mut state = self.shard(shard);
        // In a replica's first era there is nothing older.
        if state.era > 1 {
            let unmet = "SELECT namespace, key FROM entry WHERE shard = ?1 AND era < ?2";
            let unmet = self.keys(unmet, (shard, integer(state.era)))?;
            self.remove(unmet, None)?;
            let hidden = "SELECT namespace, key FROM entry WHERE shard = ?1 AND hidden = 1";
            let shown = self.keys(hidden, (shard,))?;
            if !shown.is_empty() {
                let show = "UPDATE entry SET hidden = 0 WHERE shard = ?1 AND hidden = 1";
                self.transaction.prepare_cached(show)?.execute((shard,))?;
                self.effects.touched.touch_all();
                self.effects.slots.extend(shown.into_iter().map(|key| (key, None)));
            }
        }
        state.resync = Resync::None;
        state.resync_from = 0;
        self.effects.shards.insert(shard, state);
        Ok(())
    }

    fn keys(
        &self,
        find: &str,
        which: impl rusqlite::Params,
    ) -> rusqlite::Result<Vec<(NamespaceRow, Key)>> {
        let mut statement = self.transaction.prepare_cached(find)?;
        let rows = statement.query_map(which, |row| {
            let name = row.get_ref(1)?.as_blob()?;
            let name =
                std::str::from_utf8(name).map_err(|error| rusqlite::Error::Utf8Error(1, error))?;
            Ok((NamespaceRow(row.get(0)?), Key::parse(name).ok()))
        })?;
        // Every row's key was checked when it was written.
        rows.filter_map(|row| match row {
            Ok((namespace, key)) => key.map(|key| Ok((namespace, key))),
            Err(error) => Some(Err(error)),
        })
        .collect()
    }

    fn remove(
        &mut self,
        doomed: Vec<(NamespaceRow, Key)>,
        id: Option<&NamespaceId>,
    ) -> rusqlite::Result<()> {
        match id {
            Some(id) if doomed.len() <= TOUCHED_MAX => {
                for (_, key) in &doomed {
                    self.touch(id, key);
                }
            }
            _ if doomed.is_empty() => {}
            _ => self.effects.touched.touch_all(),
        }
        for (namespace, key) in doomed {
            delete(self.transaction, namespace, key.as_str().as_bytes())?;
            self.effects.slots.insert((namespace, key), None);
        }
        Ok(())
    }

    /// Keeps a value that was fetched, unless the key has another one by now.
    fn keep(
        &mut self,
        id: &NamespaceId,
        key: Key,
        hash: BlobHash,
        value: bytes::Bytes,
    ) -> rusqlite::Result<()> {
        let Some(namespace) = self.find_namespace(id) else { return Ok(()) };
        let store = "
            UPDATE value SET bytes = ?4 WHERE id =
                (SELECT value FROM entry WHERE namespace = ?1 AND key = ?2 AND blob = ?3)";
        let hash = &hash.as_bytes()[..];
        let row = (namespace.0, key.as_str().as_bytes(), hash, value.as_ref());
        self.transaction.prepare_cached(store)?.execute(row)?;
        // What readers keep of the key stays true: its value did not change.
        Ok(())
    }
}
