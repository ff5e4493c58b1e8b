//! Tests of the engine itself, beside the contract that it shares.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::clock::ManualClock;
use crate::contract::{START_S, Subject, key, namespace};

mod cached {
    use super::*;

    async fn open(clock: Arc<ManualClock>) -> Subject {
        subject(SqliteOptions { clock: clock.clone(), ..SqliteOptions::default() }, clock)
    }

    crate::kv_contract!(open);
}

mod uncached {
    use super::*;

    async fn open(clock: Arc<ManualClock>) -> Subject {
        let options = SqliteOptions {
            cache_bytes_max: 0,
            readers: 1,
            clock: clock.clone(),
            ..SqliteOptions::default()
        };
        subject(options, clock)
    }

    crate::kv_contract!(open);
}

fn subject(options: SqliteOptions, clock: Arc<ManualClock>) -> Subject {
    let place = Place::new();
    let store = Arc::new(place.open(options));
    Subject { store, clock, keep: Box::new(place) }
}

/// A directory for one database.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("kv.sqlite")
    }

    fn open(&self, options: SqliteOptions) -> SqliteStore {
        SqliteStore::open(self.path(), options).unwrap()
    }

    /// A second connection, as a backup or a shell would have one.
    fn connect(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    fn count(&self, table: &str) -> i64 {
        let count = format!("SELECT count(*) FROM {table}");
        self.connect().query_row(&count, (), |row| row.get(0)).unwrap()
    }
}

/// A store whose clock stands and whose sweep comes only when called.
fn by_hand() -> (SqliteOptions, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(START_S));
    let sweep_interval = Duration::from_secs(3600);
    (SqliteOptions { clock: clock.clone(), sweep_interval, ..SqliteOptions::default() }, clock)
}

fn put(store: &SqliteStore, name: &str) -> KvFuture<()> {
    store.put(&namespace(1), &key(name), "v".into(), PutOptions::default())
}

fn pairs(names: impl Iterator<Item = String>, options: &PutOptions) -> Vec<BulkWrite> {
    let pair =
        |name: String| BulkWrite { key: key(&name), value: "v".into(), options: options.clone() };
    names.map(pair).collect()
}

async fn count_listed(store: &SqliteStore) -> usize {
    let mut cursor = None;
    let mut keys = 0;
    loop {
        let options = ListOptions { cursor, ..ListOptions::default() };
        let page = store.list(&namespace(1), options).await.unwrap();
        keys += page.keys.len();
        cursor = page.cursor;
        if page.list_complete {
            return keys;
        }
    }
}

#[tokio::test]
async fn a_cached_key_is_ready_at_once() {
    let place = Place::new();
    let store = place.open(SqliteOptions::default());
    put(&store, "a").await.unwrap();
    let now = |name: &str| store.get(&namespace(1), &key(name)).now_or_never();
    assert!(now("a").unwrap().unwrap().is_some());
    assert!(store.get(&namespace(1), &key("absent")).await.unwrap().is_none());
    assert!(now("absent").unwrap().unwrap().is_none());
    let many = store.get_many(&namespace(1), vec![key("a"), key("absent")]).now_or_never();
    assert_eq!(many.unwrap().unwrap().len(), 2);
    let stats = store.stats();
    assert_eq!((stats.cache_hits, stats.cache_misses), (4, 1));
}

#[tokio::test]
async fn a_reopened_store_has_what_was_acknowledged() {
    let place = Place::new();
    let store = place.open(SqliteOptions::default());
    put(&store, "a").await.unwrap();
    let queued: Vec<_> = (0..100).map(|n| put(&store, &n.to_string())).collect();
    store.close().await;
    for queued in queued {
        queued.await.unwrap();
    }
    assert!(matches!(put(&store, "b").await, Err(KvError::Closed)));
    let listing = store.list(&namespace(1), ListOptions::default()).await;
    assert!(matches!(listing, Err(KvError::Closed)));

    let store = place.open(SqliteOptions::default());
    assert_eq!(count_listed(&store).await, 101);
    drop(put(&store, "last"));
    drop(store);
    let store = place.open(SqliteOptions::default());
    assert!(store.get(&namespace(1), &key("last")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_database_has_one_store() {
    let place = Place::new();
    let store = place.open(SqliteOptions::default());
    let second = SqliteStore::open(place.path(), SqliteOptions::default());
    assert!(matches!(second.err(), Some(KvError::InUse { .. })));
    store.close().await;
    place.open(SqliteOptions::default());
}

#[tokio::test]
async fn a_newer_database_is_refused() {
    let place = Place::new();
    drop(place.open(SqliteOptions::default()));
    place.connect().pragma_update(None, "user_version", 7).unwrap();
    let error = SqliteStore::open(place.path(), SqliteOptions::default()).err().unwrap();
    assert!(matches!(error, KvError::SchemaTooNew { found: 7, supported: 2 }), "{error}");
}

#[test]
fn what_is_no_database_is_refused() {
    let place = Place::new();
    std::fs::write(place.path(), "not a database, and long enough to be looked at".repeat(99))
        .unwrap();
    let error = SqliteStore::open(place.path(), SqliteOptions::default()).err().unwrap();
    assert!(matches!(error, KvError::Storage { .. }), "{error}");
    let nowhere = place.path().join("missing").join("kv.sqlite");
    assert!(SqliteStore::open(nowhere, SqliteOptions::default()).is_err());
}

/// While another program holds the database's write lock, the writer can only wait. What is queued
/// meanwhile fills the queue, the rest is refused, and all that was taken is one commit.
#[tokio::test]
async fn queued_writes_share_a_commit_and_a_full_queue_refuses() {
    let place = Place::new();
    let (options, _) = by_hand();
    let store = place.open(SqliteOptions { write_queue_max: 50, ..options });
    put(&store, "first").await.unwrap();
    let before = store.stats();

    let blocker = place.connect();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let stuck = put(&store, "stuck");
    while store.stats().write_queue > 0 {
        tokio::task::yield_now().await;
    }
    let queued: Vec<_> = (0..50).map(|n| put(&store, &n.to_string())).collect();
    assert!(matches!(put(&store, "refused").await, Err(KvError::Overloaded)));
    blocker.execute_batch("ROLLBACK").unwrap();

    stuck.await.unwrap();
    assert!(join_all(queued).await.into_iter().all(|result| result.is_ok()));
    let after = store.stats();
    assert_eq!(after.commits - before.commits, 2);
    assert_eq!(after.writes - before.writes, 51);
    assert_eq!(after.overloaded, 1);
    let sizes = [("1", 0), ("64", 6)].map(|(_, index)| after.batch_sizes[index]);
    assert_eq!(sizes, [2, 1]);
    assert_eq!(count_listed(&store).await, 52);
}

/// A failed transaction is told to every caller in it, leaves the cache empty rather than wrong,
/// and does not stop the writer.
#[tokio::test]
async fn a_failed_commit_is_told_and_undone() {
    let place = Place::new();
    let (options, _) = by_hand();
    let store = place.open(options);
    put(&store, "a").await.unwrap();
    let fail = "CREATE TRIGGER fail BEFORE INSERT ON value BEGIN SELECT RAISE(ABORT, 'full'); END";
    place.connect().execute_batch(fail).unwrap();
    let results = join_all([put(&store, "b"), put(&store, "c")]).await;
    for result in results {
        let error = result.unwrap_err();
        assert_eq!((error.status(), error.to_string().as_str()), (500, "cannot write: full"));
    }
    place.connect().execute_batch("DROP TRIGGER fail").unwrap();
    assert!(store.get(&namespace(1), &key("b")).await.unwrap().is_none());
    put(&store, "b").await.unwrap();
    assert_eq!(count_listed(&store).await, 2);
    assert!(store.stats().commits_failed > 0);
}

#[tokio::test]
async fn a_sweep_removes_expired_rows_step_by_step() {
    let place = Place::new();
    let (options, clock) = by_hand();
    let store = place.open(options);
    let expiring = PutOptions { expiration_ttl: Some(60), ..PutOptions::default() };
    let writes = pairs((0..600).map(|n| n.to_string()), &expiring);
    store.write_bulk(&namespace(1), writes).await.unwrap();
    put(&store, "stays").await.unwrap();
    store.sweep().await.unwrap();
    assert_eq!(place.count("entry"), 601);
    clock.advance(60);
    // Overwritten in time: no longer expired when the sweep comes.
    put(&store, "0").await.unwrap();
    store.sweep().await.unwrap();
    assert_eq!(place.count("entry"), 601 - 256);
    while store.stats().swept < 599 {
        store.sweep().await.unwrap();
    }
    assert_eq!((place.count("entry"), place.count("value")), (2, 2));
    assert_eq!(count_listed(&store).await, 2);
}

#[tokio::test]
async fn a_sweep_empties_dropped_namespaces() {
    let place = Place::new();
    let (options, _) = by_hand();
    let store = place.open(options);
    let writes = pairs((0..300).map(|n| n.to_string()), &PutOptions::default());
    store.write_bulk(&namespace(1), writes).await.unwrap();
    store.drop_namespace(&namespace(1)).await.unwrap();
    put(&store, "new").await.unwrap();
    assert_eq!(count_listed(&store).await, 1);
    while place.count("namespace") > 1 {
        store.sweep().await.unwrap();
    }
    assert_eq!((place.count("entry"), place.count("value")), (1, 1));
    assert_eq!(count_listed(&store).await, 1);
}

/// A page looks at a bounded number of rows even if all of them are expired.
#[tokio::test]
async fn a_page_of_expired_keys_ends_short() {
    let place = Place::new();
    let (options, clock) = by_hand();
    let store = place.open(options);
    let expiring = PutOptions { expiration_ttl: Some(60), ..PutOptions::default() };
    let writes = pairs((0..10_000).map(|n| format!("{n:05}")), &expiring);
    store.write_bulk(&namespace(1), writes).await.unwrap();
    put(&store, "z").await.unwrap();
    clock.advance(60);
    let page = store.list(&namespace(1), ListOptions::default()).await.unwrap();
    assert_eq!((page.keys.len(), page.list_complete), (0, false));
    assert_eq!(count_listed(&store).await, 1);
}

#[tokio::test]
async fn a_hundred_thousand_keys_are_listed_by_range_scans() {
    let place = Place::new();
    let store = place.open(SqliteOptions::default());
    for thousands in 0..10 {
        let names = (0..10_000).map(|n| format!("key/{:06}", n * 10 + thousands));
        let writes = pairs(names, &PutOptions::default());
        store.write_bulk(&namespace(1), writes).await.unwrap();
    }
    assert_eq!(count_listed(&store).await, 100_000);
    let plan: Vec<String> = place
        .connect()
        .prepare(&format!("EXPLAIN QUERY PLAN {}", reader::SCAN))
        .unwrap()
        .query_map((1, "a", "b", 10), |row| row.get("detail"))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(plan, ["SEARCH entry USING PRIMARY KEY (namespace=? AND key>? AND key<?)"]);
}
