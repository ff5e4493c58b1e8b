//! Acknowledged writes outlive servers and nodes that are killed.
//!
//! Servers are real processes that end without warning under load; acknowledgements are recorded
//! here, outside of them. A node in mid-resync is a child of this program, killed again and again.
//! A kill leaves the system's page cache intact: what a power cut leaves rests on the servers'
//! `sync_interval: always`, and is not tested.

#![allow(clippy::unwrap_used, reason = "a test's own functions are tests too")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_kv::contract::nats::NatsServers;
use atoll_kv::log::{NatsConnection, NatsOptions};
use atoll_kv::{
    BulkWrite, Exported, Health, Key, KvStore, NamespaceId, PutOptions, ReplicatedOptions,
    ReplicatedStore,
};
use tokio::task::JoinHandle;

/// Tasks that write.
const WRITERS: usize = 12;
/// Keys of one writer, each written again and again.
const KEYS: usize = 20;
/// How long a node may take to become current before a test fails rather than hangs.
const PATIENCE: Duration = Duration::from_secs(120);
/// Names the servers to the child.
const SERVERS: &str = "ATOLL_KV_KILL_SERVERS";
/// Names its directory to the child; the child's part is skipped without it.
const DIRECTORY: &str = "ATOLL_KV_KILL_DIRECTORY";

/// The newest round of each key that was acknowledged.
type Acknowledged = Arc<Mutex<BTreeMap<String, u64>>>;

fn namespace() -> NamespaceId {
    NamespaceId::parse("00000000000000000000000000000001").unwrap()
}

fn options() -> ReplicatedOptions {
    ReplicatedOptions {
        shards: 4,
        write_timeout: Duration::from_secs(20),
        check_interval: Duration::from_millis(250),
        rollback_pause: Duration::from_millis(500),
        ..ReplicatedOptions::default()
    }
}

async fn open(options_of: NatsOptions, directory: &Path) -> ReplicatedStore {
    let connection = NatsConnection::connect(options_of).await.unwrap();
    ReplicatedStore::open(&connection, directory.join("kv.sqlite"), options()).unwrap()
}

async fn connected(store: &ReplicatedStore) {
    let mut health = store.health();
    let wait = health.wait_for(|health| *health == Health::Connected);
    tokio::time::timeout(PATIENCE, wait).await.expect("a node becomes current").unwrap();
}

async fn contents(store: &ReplicatedStore) -> BTreeMap<String, Vec<u8>> {
    let mut contents = BTreeMap::new();
    let mut export = store.export();
    while let Some(Exported { key, entry, .. }) = export.next().await.unwrap() {
        contents.insert(key.as_str().to_owned(), entry.value.to_vec());
    }
    contents
}

/// Writers that go on until told, and what was acknowledged to them.
struct Load {
    acknowledged: Acknowledged,
    count: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(store: &ReplicatedStore, acknowledged: &Acknowledged) -> Self {
        let (over, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..WRITERS)
            .map(|writer| {
                let (store, over, count) = (store.clone(), over.clone(), count.clone());
                let acknowledged = acknowledged.clone();
                tokio::spawn(async move {
                    let mut index = 0;
                    while !over.load(Ordering::SeqCst) {
                        let name = format!("{writer}-{}", index % KEYS);
                        write_once(&store, &name, &acknowledged).await;
                        count.fetch_add(1, Ordering::SeqCst);
                        index += 1;
                    }
                })
            })
            .collect();
        Self { acknowledged: acknowledged.clone(), count, over, tasks }
    }

    /// Waits until that many writes more have ended.
    async fn more(&self, writes: usize) {
        let wanted = self.count.load(Ordering::SeqCst) + writes;
        while self.count.load(Ordering::SeqCst) < wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn end(self) {
        self.over.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
        assert!(!self.acknowledged.lock().unwrap().is_empty());
    }
}

/// Writes the next round of a key. A round that failed may be stored all the same: the next one is
/// higher.
async fn write_once(store: &ReplicatedStore, name: &str, acknowledged: &Acknowledged) {
    static ROUNDS: AtomicUsize = AtomicUsize::new(1);
    let round = ROUNDS.fetch_add(1, Ordering::SeqCst) as u64;
    let key = Key::parse(name).unwrap();
    let value = round.to_string().into();
    if store.put(&namespace(), &key, value, PutOptions::default()).await.is_ok() {
        acknowledged.lock().unwrap().insert(name.to_owned(), round);
        let entry = store.get(&namespace(), &key).await.unwrap();
        let found = entry.map_or(0, |entry| parse(&entry.value));
        assert!(found >= round, "{name}: {round} was acknowledged, {found} is read");
    }
}

fn parse(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

/// A node that was never there before finds every acknowledged write, and all nodes hold the same.
async fn check(servers: &NatsServers, stores: &[&ReplicatedStore], acknowledged: &Acknowledged) {
    let place = tempfile::tempdir().unwrap();
    let fresh = open(servers.options("kill"), place.path()).await;
    connected(&fresh).await;
    let found = contents(&fresh).await;
    for (name, round) in acknowledged.lock().unwrap().iter() {
        let stored = found.get(name).map_or(0, |value| parse(value));
        assert!(stored >= *round, "{name}: {round} was acknowledged, {stored} is stored");
    }
    for store in stores {
        let same = async {
            while contents(store).await != found {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, same).await.expect("all nodes come to hold the same");
    }
    fresh.close().await;
}

/// All servers end at once, without warning, under load.
async fn kill_all(servers: &mut NatsServers, rounds: usize) {
    let places = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let here = open(servers.options("kill"), places[0].path()).await;
    let there = open(servers.options("kill"), places[1].path()).await;
    let acknowledged = Acknowledged::default();
    for round in 0..rounds {
        let load = Load::start(&here, &acknowledged);
        load.more(100 + 37 * round % 300).await;
        for index in 0..servers.count() {
            servers.kill(index);
        }
        for index in 0..servers.count() {
            servers.restart_unwaited(index);
        }
        servers.wait_all();
        load.more(100).await;
        load.end().await;
        check(servers, &[&here, &there], &acknowledged).await;
    }
    for store in [here, there] {
        assert_eq!(store.stats().resyncs, u64::from(options().shards), "only its first ones");
        store.close().await;
    }
}

/// One server after another ends without warning, and with it whatever it led.
async fn kill_each(servers: &mut NatsServers, rounds: usize) {
    let places = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let here = open(servers.options("kill"), places[0].path()).await;
    let there = open(servers.options("kill"), places[1].path()).await;
    let acknowledged = Acknowledged::default();
    for round in 0..rounds {
        let load = Load::start(&here, &acknowledged);
        load.more(200).await;
        let index = round % servers.count();
        servers.kill(index);
        load.more(200).await;
        servers.restart(index);
        load.more(100).await;
        load.end().await;
        check(servers, &[&here, &there], &acknowledged).await;
    }
    here.close().await;
    there.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_outlive_a_killed_server() {
    kill_all(&mut NatsServers::start(1), 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_outlive_a_killed_leader() {
    kill_each(&mut NatsServers::start(3), 1).await;
}

/// `cargo test --release -p atoll-kv --test nats_kill -- --ignored --test-threads 1`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes many minutes"]
async fn soak_of_killed_leaders() {
    kill_each(&mut NatsServers::start(3), 50).await;
}

/// `cargo test --release -p atoll-kv --test nats_kill -- --ignored --test-threads 1`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes many minutes"]
async fn soak_of_killed_clusters() {
    kill_all(&mut NatsServers::start(3), 50).await;
}

/// `cargo test --release -p atoll-kv --test nats_kill -- --ignored --test-threads 1`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes many minutes"]
async fn soak_of_killed_resyncs() {
    kill_resyncing(50, 20_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_killed_in_mid_resync_resumes() {
    kill_resyncing(4, 3_000).await;
}

/// A node that holds another log's keys resyncs, and is killed again and again while it does.
async fn kill_resyncing(kills: usize, keys: usize) {
    let place = tempfile::tempdir().unwrap();
    let node = place.path().join("node");
    std::fs::create_dir(&node).unwrap();
    let mut servers = NatsServers::start(1);
    let old = open(servers.options("kill"), &node).await;
    fill(&old, "old", keys / 4).await;
    old.close().await;
    // The cluster lost everything and begins anew; another node makes its logs.
    servers.kill(0);
    servers.wipe(0);
    servers.restart(0);
    let other = tempfile::tempdir().unwrap();
    let store = open(servers.options("kill"), other.path()).await;
    fill(&store, "new", keys).await;
    let expected = contents(&store).await;
    let mut resyncs = 0;
    for _ in 0..kills {
        let records = (keys / (kills + 1)) as u64;
        resyncs += run_child(&servers.url(0), &node, Some(records));
    }
    resyncs += run_child(&servers.url(0), &node, None);
    // A kill can come between the count and the commit of a resync's begin.
    let expected_max = u64::from(options().shards) + kills as u64;
    assert!(resyncs <= expected_max, "{resyncs} resyncs: it begins anew instead of going on");
    let node = open(servers.options("kill"), &node).await;
    connected(&node).await;
    assert!(contents(&node).await == expected);
    assert_eq!(node.stats().resyncs, 0);
}

async fn fill(store: &ReplicatedStore, prefix: &str, keys: usize) {
    for first in (0..keys).step_by(1000) {
        let write = |number: usize| BulkWrite {
            key: Key::parse(&format!("{prefix}-{number}")).unwrap(),
            value: number.to_string().into(),
            options: PutOptions::default(),
        };
        let writes = (first..keys.min(first + 1000)).map(write).collect();
        store.write_bulk(&namespace(), writes).await.unwrap();
    }
}

/// Runs a node in a process of its own until it has applied that many records, and kills it; or
/// until it is current. Returns how many resyncs it began.
fn run_child(server: &str, directory: &Path, records: Option<u64>) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_follows_until_killed", "--nocapture"])
        .env(SERVERS, server)
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut resyncs = 0;
    for line in lines {
        let line = line.unwrap();
        // The first one stands on the line on which the test harness says what it runs.
        let Some((_, counts)) = line.split_once("applied ") else { continue };
        let (applied, begun) = counts.split_once(" resyncs ").unwrap();
        resyncs = begun.parse().unwrap();
        if records.is_some_and(|records| applied.parse::<u64>().unwrap() >= records) {
            child.kill().unwrap();
            break;
        }
    }
    child.wait().unwrap();
    resyncs
}

#[test]
fn child_that_follows_until_killed() {
    let (Ok(server), Some(directory)) =
        (std::env::var(SERVERS), std::env::var_os(DIRECTORY).map(PathBuf::from))
    else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let servers =
            NatsOptions { urls: vec![server], prefix: "kill".into(), ..NatsOptions::default() };
        let connection = NatsConnection::connect(servers).await.unwrap();
        // Small steps, so that a kill finds one half done.
        let options = ReplicatedOptions { apply_records_max: 20, ..options() };
        let store =
            ReplicatedStore::open(&connection, directory.join("kv.sqlite"), options).unwrap();
        let health = store.health();
        loop {
            let stats = store.stats();
            println!("applied {} resyncs {}", stats.records, stats.resyncs);
            if *health.borrow() == Health::Connected {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        store.close().await;
    });
}
