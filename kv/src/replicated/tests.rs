//! Tests of the engine itself, beside the contract that it shares.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::clock::ManualClock;
use crate::contract::{START_S, Subject, key, namespace};
use crate::log::{FakeLog, FakeLogs, LogError, SqliteLogs};
use crate::sqlite::SqliteOptions;

mod over_fakes {
    use super::*;

    async fn open(clock: Arc<ManualClock>) -> Subject {
        let logs = FakeLogs::with_clock(clock.clone());
        subject(&logs, clock, Box::new(()))
    }

    crate::kv_contract!(open);
}

mod over_sqlite {
    use super::*;

    async fn open(clock: Arc<ManualClock>) -> Subject {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("logs.sqlite");
        let logs = SqliteLogs::open_with_clock(path, clock.clone()).unwrap();
        subject(&logs, clock, Box::new(place))
    }

    crate::kv_contract!(open);
}

fn subject(
    engine: &dyn LogEngine,
    clock: Arc<ManualClock>,
    keep: Box<dyn std::any::Any + Send>,
) -> Subject {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("kv.sqlite");
    let store = ReplicatedStore::open(engine, path, options(clock.clone())).unwrap();
    Subject { store: Arc::new(store), clock, keep: Box::new((place, keep)) }
}

fn options(clock: Arc<ManualClock>) -> ReplicatedOptions {
    ReplicatedOptions {
        sqlite: SqliteOptions { clock, ..SqliteOptions::default() },
        rollback_pause: Duration::from_millis(1),
        check_interval: Duration::from_millis(50),
        ..ReplicatedOptions::default()
    }
}

/// Nodes on one set of logs, each with a directory of its own that outlives its store.
struct Cluster {
    clock: Arc<ManualClock>,
    logs: FakeLogs,
    places: Vec<TempDir>,
}

impl Cluster {
    fn new(nodes: usize) -> Self {
        let clock = Arc::new(ManualClock::new(START_S));
        let logs = FakeLogs::with_clock(clock.clone());
        let places = (0..nodes).map(|_| tempfile::tempdir().unwrap()).collect();
        Self { clock, logs, places }
    }

    fn options(&self) -> ReplicatedOptions {
        ReplicatedOptions { shards: 1, ..options(self.clock.clone()) }
    }

    async fn open(&self, node: usize) -> ReplicatedStore {
        let path = self.places[node].path().join("kv.sqlite");
        ReplicatedStore::open(&self.logs, path, self.options()).unwrap()
    }

    /// The one log of a cluster with one shard.
    fn log(&self) -> FakeLog {
        self.logs.fake("kv.0", log_options(&self.options(), false))
    }
}

async fn put(store: &ReplicatedStore, name: &str, value: &str) -> Result<(), KvError> {
    let value = value.to_owned().into();
    store.put(&namespace(1), &key(name), value, PutOptions::default()).await
}

async fn text(store: &ReplicatedStore, name: &str) -> Option<String> {
    let entry = store.get(&namespace(1), &key(name)).await.unwrap()?;
    Some(String::from_utf8(entry.value.to_vec()).unwrap())
}

/// Waits until a store has caught up, or does what is asked of it in another way.
async fn until(store: &ReplicatedStore, wanted: impl FnMut(&Health) -> bool) {
    store.health().wait_for(wanted).await.unwrap();
}

async fn connected(store: &ReplicatedStore) {
    until(store, |health| *health == Health::Connected).await;
}

/// Waits until a key reads as expected.
async fn shows(store: &ReplicatedStore, name: &str, expected: Option<&str>) {
    while text(store, name).await.as_deref() != expected {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_write_shows_here_at_once_and_elsewhere_soon() {
    let cluster = Cluster::new(2);
    let (here, there) = (cluster.open(0).await, cluster.open(1).await);
    put(&here, "a", "1").await.unwrap();
    assert_eq!(text(&here, "a").await.as_deref(), Some("1"));
    shows(&there, "a", Some("1")).await;
    there.delete(&namespace(1), &key("a")).await.unwrap();
    assert_eq!(text(&there, "a").await, None);
    shows(&here, "a", None).await;
}

/// A node that comes back has what it had before it hears from the log, and then the rest.
#[tokio::test]
async fn a_node_catches_up_from_its_checkpoint() {
    let cluster = Cluster::new(2);
    let here = cluster.open(0).await;
    let there = cluster.open(1).await;
    put(&here, "a", "1").await.unwrap();
    shows(&there, "a", Some("1")).await;
    connected(&there).await;
    there.close().await;
    drop(there);
    put(&here, "a", "2").await.unwrap();
    put(&here, "b", "2").await.unwrap();
    cluster.log().hold_deliveries();
    let there = cluster.open(1).await;
    assert_eq!(text(&there, "a").await.as_deref(), Some("1"));
    cluster.log().release();
    shows(&there, "b", Some("2")).await;
    assert_eq!(text(&there, "a").await.as_deref(), Some("2"));
    connected(&there).await;
    assert_eq!(there.stats().resyncs, 0);
}

#[tokio::test]
async fn an_unreachable_log_refuses_writes_and_leaves_reads() {
    let cluster = Cluster::new(1);
    let store = cluster.open(0).await;
    put(&store, "a", "1").await.unwrap();
    connected(&store).await;
    cluster.log().disconnect();
    until(&store, |health| matches!(health, Health::Disconnected { .. })).await;
    let refused = put(&store, "a", "2").await.unwrap_err();
    assert!(matches!(refused, KvError::Unavailable(_)), "{refused}");
    assert_eq!(text(&store, "a").await.as_deref(), Some("1"));
    cluster.log().reconnect();
    connected(&store).await;
    put(&store, "a", "3").await.unwrap();
    assert_eq!(store.stats().writes_unavailable, 1);
}

/// What was written and not acknowledged shows once the log delivers it.
#[tokio::test]
async fn a_lost_acknowledgement_is_told_as_unknown() {
    let cluster = Cluster::new(1);
    let store = cluster.open(0).await;
    put(&store, "a", "1").await.unwrap();
    cluster.log().lose_acks(1);
    let unknown = put(&store, "a", "2").await.unwrap_err();
    assert!(matches!(unknown, KvError::OutcomeUnknown(_)), "{unknown}");
    shows(&store, "a", Some("2")).await;
}

/// A node deletes a key while the log still has older records of it to deliver.
#[tokio::test]
async fn a_deleted_key_does_not_come_back_from_the_queue() {
    let cluster = Cluster::new(2);
    let (here, there) = (cluster.open(0).await, cluster.open(1).await);
    put(&here, "z", "0").await.unwrap();
    shows(&there, "z", Some("0")).await;
    cluster.log().hold_deliveries();
    put(&here, "a", "1").await.unwrap();
    put(&here, "b", "1").await.unwrap();
    there.delete(&namespace(1), &key("a")).await.unwrap();
    there.drop_namespace(&namespace(1)).await.unwrap();
    put(&there, "c", "2").await.unwrap();
    cluster.log().release();
    cluster.log().repeat(100);
    shows(&here, "c", Some("2")).await;
    connected(&there).await;
    for name in ["a", "b", "z"] {
        assert_eq!(text(&there, name).await, None, "{name}");
        shows(&here, name, None).await;
    }
    assert_eq!(text(&there, "c").await.as_deref(), Some("2"));
}

/// A value too large for a record is fetched when it is read, and only once.
#[tokio::test]
async fn a_large_value_comes_when_it_is_read() {
    let cluster = Cluster::new(2);
    let (here, there) = (cluster.open(0).await, cluster.open(1).await);
    let large: Bytes = vec![7; 2_000_000].into();
    let plain = PutOptions::default();
    here.put(&namespace(1), &key("large"), large.clone(), plain).await.unwrap();
    put(&here, "after", "1").await.unwrap();
    shows(&there, "after", Some("1")).await;
    let listed = there.list(&namespace(1), ListOptions::default()).await.unwrap();
    assert_eq!(listed.keys.len(), 2);
    assert_eq!((here.stats().fetches, there.stats().fetches), (0, 0));
    for _ in 0..2 {
        for store in [&here, &there] {
            let found = store.get(&namespace(1), &key("large")).await.unwrap().unwrap();
            assert!(found.value == large);
        }
    }
    assert_eq!((here.stats().fetches, there.stats().fetches), (0, 1));
}

/// A node was away for so long that the log forgot what was deleted meanwhile.
#[tokio::test]
async fn a_node_that_was_away_too_long_forgets_what_was_deleted() {
    let cluster = Cluster::new(2);
    let (here, there) = (cluster.open(0).await, cluster.open(1).await);
    for name in ["a", "b", "c"] {
        put(&here, name, "1").await.unwrap();
    }
    shows(&there, "c", Some("1")).await;
    connected(&there).await;
    there.close().await;
    drop(there);
    here.delete(&namespace(1), &key("a")).await.unwrap();
    put(&here, "b", "2").await.unwrap();
    cluster.clock.advance(8 * 86_400);
    assert_eq!(cluster.log().records().len(), 2, "the tombstone is gone");
    let there = cluster.open(1).await;
    shows(&there, "a", None).await;
    connected(&there).await;
    assert_eq!(text(&there, "b").await.as_deref(), Some("2"));
    assert_eq!(text(&there, "c").await.as_deref(), Some("1"));
    assert_eq!(there.stats().resyncs, 1);
}

/// The log lost its last records, and grew again before anyone looked.
#[tokio::test]
async fn a_log_that_lost_its_tail_is_followed() {
    for grown in [0, 1, 5] {
        let cluster = Cluster::new(2);
        let (here, there) = (cluster.open(0).await, cluster.open(1).await);
        put(&here, "kept", "1").await.unwrap();
        put(&here, "lost", "1").await.unwrap();
        shows(&there, "lost", Some("1")).await;
        connected(&there).await;
        there.close().await;
        drop(there);
        cluster.log().roll_back(1);
        cluster.clock.advance(1);
        for number in 0..grown {
            cluster
                .log()
                .append(record::put(
                    &namespace(1),
                    &key(&format!("new-{number}")),
                    &Entry { value: "2".into(), metadata: None, expiration: None },
                    None,
                    START_S,
                    Duration::from_secs(100),
                ))
                .await
                .unwrap();
        }
        let there = cluster.open(1).await;
        shows(&there, "lost", None).await;
        connected(&there).await;
        assert_eq!(text(&there, "kept").await.as_deref(), Some("1"));
        for number in 0..grown {
            assert_eq!(text(&there, &format!("new-{number}")).await.as_deref(), Some("2"));
        }
    }
}

/// Another log took the name. Reads go on from the old state until the new one is there.
#[tokio::test]
async fn a_replaced_log_is_followed() {
    let cluster = Cluster::new(1);
    let store = cluster.open(0).await;
    put(&store, "old", "1").await.unwrap();
    connected(&store).await;
    cluster.log().hold_deliveries();
    cluster.log().replace();
    let unknown = put(&store, "gone", "2").await.unwrap_err();
    assert!(matches!(unknown, KvError::OutcomeUnknown(_)), "{unknown}");
    assert_eq!(text(&store, "old").await.as_deref(), Some("1"));
    cluster.log().release();
    shows(&store, "old", None).await;
    shows(&store, "gone", Some("2")).await;
    put(&store, "new", "1").await.unwrap();
    assert_eq!(text(&store, "new").await.as_deref(), Some("1"));
}

/// An exported store can be imported elsewhere, and both have one checksum.
#[tokio::test]
async fn what_is_exported_can_be_imported() {
    let (from, to) = (Cluster::new(1), Cluster::new(1));
    let (from, to) = (from.open(0).await, to.open(0).await);
    let metadata = Some("{\"a\": 1}".into());
    let rich = PutOptions { metadata, expiration_ttl: Some(1000), expiration: None };
    from.put(&namespace(2), &key("rich"), "v".into(), rich).await.unwrap();
    let large = vec![1; 1_000_000].into();
    from.put(&namespace(1), &key("large"), large, PutOptions::default()).await.unwrap();
    for number in 0..600 {
        put(&from, &number.to_string(), "v").await.unwrap();
    }
    let mut export = from.export();
    while let Some(Exported { namespace, key, entry }) = export.next().await.unwrap() {
        assert_eq!(import(&to, &namespace, vec![(key, entry)], START_S).await.unwrap(), 1);
    }
    let mut copy = to.export();
    while copy.next().await.unwrap().is_some() {}
    assert_eq!(export.checksum().1, 602);
    assert_eq!(copy.checksum(), export.checksum());
}

/// Two nodes that spread keys in different ways would not find each other's.
#[tokio::test]
async fn a_node_of_another_number_of_shards_is_refused() {
    let cluster = Cluster::new(2);
    let here = cluster.open(0).await;
    put(&here, "a", "1").await.unwrap();
    let path = cluster.places[1].path().join("kv.sqlite");
    let other = ReplicatedOptions { shards: 2, ..cluster.options() };
    let there = ReplicatedStore::open(&cluster.logs, path, other).unwrap();
    let refused = put(&there, "a", "2").await.unwrap_err();
    assert!(matches!(refused, KvError::Unavailable(_)), "{refused}");
    assert_eq!(*there.health().borrow(), Health::Starting);
}

/// Servers that had lost everything looked like new ones: a new node made the logs anew, and every other node
/// emptied its replica. Now logs say whose they are, and only whoever begins a cluster makes them.
#[tokio::test]
async fn another_clusters_logs_take_nothing_away() {
    let cluster = Cluster::new(3);
    let of = |id: &str| ReplicatedOptions { cluster: Some(id.into()), ..cluster.options() };
    let open = |node: usize, id: &str| {
        let path = cluster.places[node].path().join("kv.sqlite");
        ReplicatedStore::open(&cluster.logs, path, of(id)).unwrap()
    };
    let nobodys = ReplicatedStore::verify(&cluster.logs, "one", 1).await.unwrap_err();
    assert!(nobodys.to_string().contains("not this cluster's"), "{nobodys}");
    ReplicatedStore::found(&cluster.logs, "one", 1).await.unwrap();
    ReplicatedStore::found(&cluster.logs, "one", 1).await.unwrap();
    let rival = ReplicatedStore::found(&cluster.logs, "two", 1).await.unwrap_err();
    assert!(matches!(rival, LogError::Refused(_)), "{rival}");
    ReplicatedStore::verify(&cluster.logs, "one", 1).await.unwrap();
    let uneven = ReplicatedStore::verify(&cluster.logs, "one", 2).await.unwrap_err();
    assert!(uneven.to_string().contains("another number of shards"), "{uneven}");

    let (runs, sleeps) = (open(0, "one"), open(1, "one"));
    put(&runs, "a", "1").await.unwrap();
    shows(&sleeps, "a", Some("1")).await;
    sleeps.close().await;
    drop(sleeps);
    // The servers lose all, and another cluster begins on them.
    for name in ["kv.0", META, BLOBS] {
        cluster.logs.fake(name, LogOptions::default()).replace();
    }
    ReplicatedStore::found(&cluster.logs, "two", 1).await.unwrap();
    let other = open(2, "two");
    put(&other, "b", "2").await.unwrap();
    let woken = open(1, "one");
    for store in [&runs, &woken] {
        while store.stats().fault.is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let refused = put(store, "c", "3").await.unwrap_err();
        assert!(refused.to_string().contains("not this cluster's"), "{refused}");
        assert_eq!(text(store, "a").await.as_deref(), Some("1"));
        assert_eq!(text(store, "b").await, None);
    }
    assert_eq!(text(&other, "c").await, None);
}

/// Values that no key names go, but not while somebody may be about to name them.
#[tokio::test]
async fn unnamed_values_are_collected_when_they_are_old() {
    let cluster = Cluster::new(1);
    let store = cluster.open(0).await;
    let blobs = cluster.logs.log("kv-blobs", log_options(&cluster.options(), false));
    let large = |byte: u8| Bytes::from(vec![byte; 600_000]);
    for byte in [1, 2] {
        let key = key("large");
        store.put(&namespace(1), &key, large(byte), PutOptions::default()).await.unwrap();
    }
    connected(&store).await;
    let blobs = LogBlobs::new(blobs);
    assert_eq!(blobs.list().await.unwrap().len(), 2);
    // The fake's clock stands years before the machine's: every blob is old.
    assert_eq!(store.collect_blobs().await.unwrap(), 1);
    assert_eq!(blobs.list().await.unwrap(), [crate::log::BlobHash::of(&large(2))]);
}

/// What came from another node makes other processes' caches of this node forget the key.
#[tokio::test]
async fn what_the_log_delivers_turns_epochs() {
    let cluster = Cluster::new(2);
    let here = cluster.open(0).await;
    let epochs = Arc::new(crate::Epochs::new().unwrap());
    let mut options = cluster.options();
    options.sqlite.epochs = Some(epochs.clone());
    let path = cluster.places[1].path().join("kv.sqlite");
    let there = ReplicatedStore::open(&cluster.logs, path, options).unwrap();
    put(&here, "a", "1").await.unwrap();
    shows(&there, "a", Some("1")).await;
    connected(&there).await;
    let reader = crate::EpochReader::new(epochs.read_only().unwrap()).unwrap();
    let before = loop {
        // A write may still be under way.
        if let Some(epoch) = reader.epoch(&namespace(1), &key("a")) {
            break epoch;
        }
        tokio::task::yield_now().await;
    };
    assert!(reader.is_current(before));
    put(&here, "a", "2").await.unwrap();
    shows(&there, "a", Some("2")).await;
    assert!(!reader.is_current(before));
}
