//! Logs in one SQLite file, for one process: what a node alone has in place of NATS. One thread
//! commits what is queued together; it refuses what it cannot queue.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior};
use tokio::sync::{oneshot, watch};

use super::change::{
    Append, ChangeLog, Connectivity, Deliveries, Delivery, Expect, Freshness, Identity, LogEngine,
    LogFuture, LogOptions, LogState, Lost, Position, Record, Retention,
};
use super::error::LogError;
use super::subject::matches;
use crate::clock::{Clock, SystemClock};

/// Operations that wait for the thread, at most.
const QUEUE_MAX: usize = 8192;
/// Operations of one transaction, at most.
const TRANSACTION_MAX: usize = 1024;
/// Bytes of a payload, at most.
const PAYLOAD_BYTES_MAX: usize = 960 * 1024;
/// Records that a subscription reads at once, at most.
const BATCH_MAX: i64 = 64;

const SCHEMA: &str = "
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS log (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    identity TEXT NOT NULL,
    last INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS record (
    log INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    subject TEXT NOT NULL,
    headers TEXT NOT NULL,
    payload BLOB NOT NULL,
    time_s INTEGER NOT NULL,
    expires_s INTEGER,
    PRIMARY KEY (log, sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS record_subject ON record (log, subject, sequence);
CREATE INDEX IF NOT EXISTS record_expires ON record (expires_s) WHERE expires_s IS NOT NULL;
CREATE TABLE IF NOT EXISTS seen (
    log INTEGER NOT NULL,
    id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    time_s INTEGER NOT NULL,
    PRIMARY KEY (log, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS seen_time ON seen (time_s);
";

const COLUMNS: &str = "SELECT sequence, subject, headers, payload, time_s FROM record";

/// Logs in one SQLite file, which this process alone opens. Clones share it.
#[derive(Clone)]
pub struct SqliteLogs(Arc<Shared>);

struct Shared {
    jobs: SyncSender<Job>,
    /// Counts transactions, to wake subscriptions.
    commits: watch::Receiver<u64>,
    connectivity: watch::Receiver<Connectivity>,
    // Held so that the receivers above never see their sender gone.
    _connected: watch::Sender<Connectivity>,
    clock: Arc<dyn Clock>,
}

struct SqliteLog {
    shared: Arc<Shared>,
    name: Arc<str>,
    options: LogOptions,
}

/// Runs within a transaction and returns what answers its caller after the commit.
type Job = Box<dyn FnOnce(&Connection) -> rusqlite::Result<Reply> + Send>;
type Reply = Box<dyn FnOnce(Result<(), LogError>) + Send>;

impl SqliteLogs {
    /// Opens or creates the file. Blocks for as long as recovering it takes.
    ///
    /// # Errors
    /// `Failed`, with SQLite's own words.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, LogError> {
        Self::open_with_clock(path, Arc::new(SystemClock))
    }

    /// Opens as `open` does, with the clock that decides when a record's time has come.
    ///
    /// # Errors
    /// `Failed`, with SQLite's own words.
    pub fn open_with_clock(
        path: impl AsRef<Path>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, LogError> {
        let connection = Connection::open(path).map_err(failed)?;
        connection.execute_batch(SCHEMA).map_err(failed)?;
        let (jobs, queue) = sync_channel(QUEUE_MAX);
        let (committed, commits) = watch::channel(0);
        let (connected, connectivity) = watch::channel(Connectivity::Connected);
        thread::Builder::new()
            .name("log-writer".into())
            .spawn(move || run(connection, &queue, &committed))
            .map_err(failed)?;
        Ok(Self(Arc::new(Shared { jobs, commits, connectivity, _connected: connected, clock })))
    }
}

impl LogEngine for SqliteLogs {
    fn log(&self, name: &str, options: LogOptions) -> Arc<dyn ChangeLog> {
        Arc::new(SqliteLog { shared: self.0.clone(), name: name.into(), options })
    }
}

/// Runs jobs until nobody can send any more.
fn run(mut connection: Connection, queue: &Receiver<Job>, committed: &watch::Sender<u64>) {
    while let Ok(first) = queue.recv() {
        let jobs = std::iter::once(first).chain(queue.try_iter().take(TRANSACTION_MAX - 1));
        let mut replies = Vec::new();
        let result = transact(&mut connection, jobs, &mut replies).map_err(|error| {
            tracing::error!(%error, "a log's transaction failed");
            failed(error)
        });
        committed.send_modify(|commits| *commits += 1);
        for reply in replies {
            reply(result.clone());
        }
    }
}

fn transact(
    connection: &mut Connection,
    jobs: impl Iterator<Item = Job>,
    replies: &mut Vec<Reply>,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for job in jobs {
        replies.push(job(&transaction)?);
    }
    transaction.commit()
}

impl Shared {
    /// Queues work on the file and waits for its commit.
    fn submit<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<Result<T, LogError>> + Send + 'static,
    ) -> LogFuture<T> {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let done = work(connection)?;
            Ok(Box::new(move |committed: Result<(), LogError>| {
                // Whoever asked may have left.
                let _ = sender.send(committed.and(done));
            }))
        });
        let sent = self.jobs.try_send(job);
        Box::pin(async move {
            sent.map_err(|refusal| match refusal {
                TrySendError::Full(_) => LogError::Unavailable("its queue is full".into()),
                TrySendError::Disconnected(_) => LogError::Closed,
            })?;
            // A job of a failed transaction is dropped with its sender.
            receiver.await.unwrap_or_else(|_| Err(LogError::Failed("transaction failed".into())))
        })
    }
}

impl ChangeLog for SqliteLog {
    fn state(&self) -> LogFuture<LogState> {
        let (name, now_s) = (self.name.clone(), self.shared.clock.now_s());
        self.shared.submit(move |connection| {
            let log = open(connection, &name)?;
            expire(connection, now_s)?;
            let first = "SELECT min(sequence) FROM record WHERE log = ?1";
            let first: Option<i64> =
                connection.prepare_cached(first)?.query_row((log.id,), |row| row.get(0))?;
            let last = unsigned(log.last);
            let first = first.map_or(last + 1, unsigned);
            Ok(Ok(LogState { identity: log.identity, first, last }))
        })
    }

    fn append(&self, append: Append) -> LogFuture<u64> {
        let bytes = append.payload.len();
        if bytes > PAYLOAD_BYTES_MAX {
            return Box::pin(async move { Err(LogError::TooLarge { bytes }) });
        }
        let (name, now_s) = (self.name.clone(), self.shared.clock.now_s());
        let (retention, window) = (self.options.retention, self.options.duplicate_window);
        self.shared.submit(move |connection| {
            let log = open(connection, &name)?;
            expire(connection, now_s)?;
            write(connection, &log, append, retention, now_s, window)
        })
    }

    fn subscribe(&self, after: Position) -> Deliveries {
        let mut commits = self.shared.commits.clone();
        commits.mark_changed();
        let feed = Feed {
            shared: self.shared.clone(),
            name: self.name.clone(),
            check_interval: self.options.check_interval,
            position: after,
            ready: Vec::new(),
            commits,
        };
        stream::unfold(Some(feed), |feed| async move {
            let mut feed = feed?;
            let delivery = feed.next().await;
            let over = matches!(delivery, Delivery::Lost(_));
            Some((delivery, (!over).then_some(feed)))
        })
        .boxed()
    }

    fn purge(&self, filter: String, before: u64) -> LogFuture<()> {
        let name = self.name.clone();
        self.shared.submit(move |connection| {
            let log = open(connection, &name)?;
            let find = "SELECT sequence, subject FROM record WHERE log = ?1 AND sequence < ?2";
            let mut statement = connection.prepare_cached(find)?;
            let rows = statement.query_map((log.id, signed(before)), |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
            })?;
            let mut doomed = Vec::new();
            for row in rows {
                let (sequence, subject) = row?;
                if matches(&filter, &subject) {
                    doomed.push(sequence);
                }
            }
            let delete = "DELETE FROM record WHERE log = ?1 AND sequence = ?2";
            let mut delete = connection.prepare_cached(delete)?;
            for sequence in doomed {
                delete.execute((log.id, sequence))?;
            }
            Ok(Ok(()))
        })
    }

    fn read(&self, sequence: u64) -> LogFuture<Option<Record>> {
        let (name, now_s) = (self.name.clone(), self.shared.clock.now_s());
        self.shared.submit(move |connection| {
            let log = open(connection, &name)?;
            expire(connection, now_s)?;
            let find = format!("{COLUMNS} WHERE log = ?1 AND sequence = ?2");
            let mut statement = connection.prepare_cached(&find)?;
            Ok(Ok(statement.query_row((log.id, signed(sequence)), to_record).optional()?))
        })
    }

    fn last_on(&self, subject: String, _: Freshness) -> LogFuture<Option<Record>> {
        let (name, now_s) = (self.name.clone(), self.shared.clock.now_s());
        self.shared.submit(move |connection| {
            let log = open(connection, &name)?;
            expire(connection, now_s)?;
            let find =
                format!("{COLUMNS} WHERE log = ?1 AND subject = ?2 ORDER BY sequence DESC LIMIT 1");
            let mut statement = connection.prepare_cached(&find)?;
            Ok(Ok(statement.query_row((log.id, subject), to_record).optional()?))
        })
    }

    fn subjects(&self, filter: String) -> LogFuture<Vec<String>> {
        let (name, now_s) = (self.name.clone(), self.shared.clock.now_s());
        self.shared.submit(move |connection| {
            let log = open(connection, &name)?;
            expire(connection, now_s)?;
            let find = "SELECT DISTINCT subject FROM record WHERE log = ?1";
            let mut statement = connection.prepare_cached(find)?;
            let all = statement.query_map((log.id,), |row| row.get::<_, String>(0))?;
            let all = all.collect::<rusqlite::Result<Vec<_>>>()?;
            Ok(Ok(all.into_iter().filter(|subject| matches(&filter, subject)).collect()))
        })
    }

    fn payload_bytes_max(&self) -> usize {
        PAYLOAD_BYTES_MAX
    }

    fn connectivity(&self) -> watch::Receiver<Connectivity> {
        self.shared.connectivity.clone()
    }
}

/// A subscription's place in a log.
struct Feed {
    shared: Arc<Shared>,
    name: Arc<str>,
    check_interval: Duration,
    position: Position,
    /// What was read and not yet delivered, the next one last.
    ready: Vec<Record>,
    commits: watch::Receiver<u64>,
}

impl Feed {
    async fn next(&mut self) -> Delivery {
        loop {
            if let Some(record) = self.ready.pop() {
                self.position.sequence = record.sequence;
                return Delivery::Record(record);
            }
            // Sleeping is for time alone: a file that nobody writes changes nothing else.
            let changed = tokio::time::timeout(self.check_interval, self.commits.changed()).await;
            if matches!(changed, Ok(Err(_))) {
                return Delivery::Lost(Lost::Closed("the file was closed".into()));
            }
            let asked = Instant::now();
            let (state, mut records) = match self.read().await {
                Ok(found) => found,
                Err(error) => return Delivery::Lost(Lost::Closed(error.to_string())),
            };
            match &self.position.identity {
                Some(identity) if *identity != state.identity => {
                    return Delivery::Lost(Lost::IdentityChanged(state.identity));
                }
                _ => self.position.identity = Some(state.identity),
            }
            if state.last < self.position.sequence {
                return Delivery::Lost(Lost::RolledBack { last: state.last });
            }
            if records.is_empty() {
                self.position.sequence = state.last;
                return Delivery::CaughtUp { last: state.last, asked };
            }
            records.reverse();
            self.ready = records;
            // There may be more than one batch.
            self.commits.mark_changed();
        }
    }

    async fn read(&self) -> Result<(LogState, Vec<Record>), LogError> {
        let (name, now_s) = (self.name.clone(), self.shared.clock.now_s());
        let after = signed(self.position.sequence);
        let read = self.shared.submit(move |connection| {
            let log = open(connection, &name)?;
            expire(connection, now_s)?;
            let find = format!(
                "{COLUMNS} WHERE log = ?1 AND sequence > ?2 ORDER BY sequence LIMIT {BATCH_MAX}"
            );
            let mut statement = connection.prepare_cached(&find)?;
            let rows = statement.query_map((log.id, after), to_record)?;
            let records = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            let state = LogState { identity: log.identity, first: 0, last: unsigned(log.last) };
            Ok(Ok((state, records)))
        });
        read.await
    }
}

/// A log's row.
struct Log {
    id: i64,
    identity: Identity,
    last: i64,
}

fn open(connection: &Connection, name: &str) -> rusqlite::Result<Log> {
    let find = "SELECT id, identity, last FROM log WHERE name = ?1";
    let mut statement = connection.prepare_cached(find)?;
    let found = statement
        .query_row((name,), |row| {
            let identity = Identity(row.get::<_, String>(1)?.into());
            Ok(Log { id: row.get(0)?, identity, last: row.get(2)? })
        })
        .optional()?;
    if let Some(log) = found {
        return Ok(log);
    }
    let identity = format!("{name}@{:032x}", rand::random::<u128>());
    let insert = "INSERT INTO log (name, identity, last) VALUES (?1, ?2, 0)";
    let id = connection.prepare_cached(insert)?.insert((name, &identity))?;
    Ok(Log { id, identity: Identity(identity.into()), last: 0 })
}

fn write(
    connection: &Connection,
    log: &Log,
    append: Append,
    retention: Retention,
    now_s: u64,
    window: Duration,
) -> rusqlite::Result<Result<u64, LogError>> {
    let since = signed(now_s.saturating_sub(window.as_secs()));
    connection.prepare_cached("DELETE FROM seen WHERE time_s < ?1")?.execute((since,))?;
    if let Some(id) = &append.id {
        let find = "SELECT sequence FROM seen WHERE log = ?1 AND id = ?2";
        let mut statement = connection.prepare_cached(find)?;
        let seen: Option<i64> = statement.query_row((log.id, id), |row| row.get(0)).optional()?;
        if let Some(sequence) = seen {
            return Ok(Ok(unsigned(sequence)));
        }
    }
    let holds = match append.expect {
        Expect::Any => true,
        Expect::LastInLog(last) => log.last == signed(last),
        Expect::LastOnSubject(last) => {
            last_sequence_on(connection, log, &append.subject)? == signed(last)
        }
    };
    if !holds {
        return Ok(Err(LogError::Conflict));
    }
    let sequence = log.last + 1;
    connection
        .prepare_cached("UPDATE log SET last = ?2 WHERE id = ?1")?
        .execute((log.id, sequence))?;
    if retention == Retention::LastPerSubject {
        connection
            .prepare_cached("DELETE FROM record WHERE log = ?1 AND subject = ?2")?
            .execute((log.id, &append.subject))?;
    }
    insert(connection, log, sequence, append, now_s)?;
    Ok(Ok(unsigned(sequence)))
}

fn insert(
    connection: &Connection,
    log: &Log,
    sequence: i64,
    append: Append,
    now_s: u64,
) -> rusqlite::Result<()> {
    let mut headers = append.headers;
    headers.sort_unstable();
    let headers = serde_json::to_string(&headers).expect("pairs of text are JSON");
    let insert = "
        INSERT INTO record (log, sequence, subject, headers, payload, time_s, expires_s)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let expires_s = append.ttl.map(|ttl| signed(now_s + ttl.as_secs().max(1)));
    connection.prepare_cached(insert)?.execute((
        log.id,
        sequence,
        append.subject,
        headers,
        append.payload.as_ref(),
        signed(now_s),
        expires_s,
    ))?;
    if let Some(id) = append.id {
        let remember = "INSERT INTO seen (log, id, sequence, time_s) VALUES (?1, ?2, ?3, ?4)";
        connection.prepare_cached(remember)?.execute((log.id, id, sequence, signed(now_s)))?;
    }
    Ok(())
}

fn last_sequence_on(connection: &Connection, log: &Log, subject: &str) -> rusqlite::Result<i64> {
    let find = "SELECT max(sequence) FROM record WHERE log = ?1 AND subject = ?2";
    let mut statement = connection.prepare_cached(find)?;
    let last: Option<i64> = statement.query_row((log.id, subject), |row| row.get(0))?;
    Ok(last.unwrap_or(0))
}

fn expire(connection: &Connection, now_s: u64) -> rusqlite::Result<()> {
    let delete = "DELETE FROM record WHERE expires_s <= ?1";
    connection.prepare_cached(delete)?.execute((signed(now_s),)).map(|_| ())
}

fn to_record(row: &Row<'_>) -> rusqlite::Result<Record> {
    let headers: String = row.get(2)?;
    Ok(Record {
        sequence: unsigned(row.get(0)?),
        subject: row.get(1)?,
        headers: serde_json::from_str(&headers).unwrap_or_default(),
        payload: Bytes::copy_from_slice(row.get_ref(3)?.as_blob()?),
        time_ms: unsigned(row.get(4)?) * 1000,
    })
}

fn failed(error: impl std::fmt::Display) -> LogError {
    LogError::Failed(error.to_string().into())
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    number.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::log::LogSubject;

    async fn open() -> LogSubject {
        let place = tempfile::tempdir().unwrap();
        let engine = SqliteLogs::open(place.path().join("logs.sqlite")).unwrap();
        LogSubject { engine: Arc::new(engine), keep: Box::new(place) }
    }

    crate::log_contract!(open);

    #[tokio::test]
    async fn a_log_outlives_its_process() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("logs.sqlite");
        let open = || SqliteLogs::open(&path).unwrap().log("a", LogOptions::default());
        let log = open();
        assert_eq!(log.append(Append::new("s", "x").id("once")).await.unwrap(), 1);
        let state = log.state().await.unwrap();
        drop(log);
        let log = open();
        assert_eq!(log.state().await.unwrap(), state);
        assert_eq!(log.append(Append::new("s", "x").id("once")).await.unwrap(), 1);
        assert_eq!(log.read(1).await.unwrap().unwrap().payload, "x");
    }
}
