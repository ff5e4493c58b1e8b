//! Nodes on one log with random faults, checked against what the log was given.
//!
//! Every value is written once, so a read tells which record it saw. For each node and key, what was
//! read and what was acknowledged there must be explained by positions in the log that never go
//! back. At the end, with all faults healed, every node holds what the log holds, and nothing else.
//!
//! A failure names its seed. Nodes' databases run on threads, so that a seed gives the same
//! operations and faults, and nearly the same interleaving.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::record;
use super::*;
use crate::clock::ManualClock;
use crate::contract::{START_S, key, namespace};
use crate::log::{FakeLog, FakeLogs, Record};
use crate::sqlite::{SqliteOptions, What};

/// Seeds that an ordinary run tries; the soak tries more.
const SEEDS: u64 = 24;
const SEEDS_OF_SOAK: u64 = 500;
const NODES: usize = 3;
const STEPS: usize = 220;
const KEYS: usize = 6;
/// Writes that wait for their acknowledgement at once, at most.
const PENDING_MAX: usize = 6;
const DAY_S: u64 = 86_400;
const CHECK_INTERVAL: Duration = Duration::from_millis(3);

type Place = (u8, String);

/// What happened on one node to one key, in order.
#[derive(Debug, Clone)]
enum Event {
    /// A read found this value, or none.
    Read(Option<String>),
    /// A put of this value was acknowledged.
    Put(String),
    /// A delete of the key, or of all keys, was acknowledged, whose record is one of these appends.
    Deleted { from: usize, to: usize },
}

/// A write that is under way.
struct Pending {
    node: usize,
    places: Vec<Place>,
    /// The value of a put.
    value: Option<String>,
    /// Appends that the log had seen when it began.
    from: usize,
    task: JoinHandle<Result<(), KvError>>,
}

/// Which faults a run has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Faults {
    /// Those that a log may show and still keep its promise.
    Allowed,
    /// Also a log that loses its tail or is replaced: then only the end counts.
    All,
}

struct Simulation {
    random: SmallRng,
    clock: Arc<ManualClock>,
    logs: FakeLogs,
    log: FakeLog,
    places: Vec<TempDir>,
    nodes: Vec<Option<ReplicatedStore>>,
    pending: Vec<Pending>,
    events: HashMap<(usize, Place), Vec<Event>>,
    values: u64,
}

#[test]
fn reads_never_go_back_and_nothing_acknowledged_is_lost() {
    run(0..SEEDS, Faults::Allowed);
}

#[test]
fn replicas_equal_the_log_whatever_it_lost() {
    run(0..SEEDS, Faults::All);
}

/// `cargo test --release -p atoll-kv --lib simulation -- --ignored`
#[test]
#[ignore = "takes minutes"]
fn soak() {
    run(SEEDS..SEEDS_OF_SOAK, Faults::Allowed);
    run(SEEDS..SEEDS_OF_SOAK, Faults::All);
}

fn run(seeds: std::ops::Range<u64>, faults: Faults) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for seed in seeds {
        let play = async {
            let mut simulation = Simulation::new(seed);
            for _ in 0..STEPS {
                simulation.step(faults).await;
            }
            simulation.finish().await;
            if faults == Faults::Allowed {
                simulation.check_events();
            }
        };
        let play = std::panic::AssertUnwindSafe(play);
        let result = runtime.block_on(futures_util::FutureExt::catch_unwind(play));
        assert!(result.is_ok(), "seed {seed} with {faults:?} fails");
    }
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let clock = Arc::new(ManualClock::new(START_S));
        let logs = FakeLogs::with_clock(clock.clone());
        let log = logs.fake("kv.0", log_options(&options(&clock), false));
        let places: Vec<_> = (0..NODES).map(|_| tempfile::tempdir().unwrap()).collect();
        let mut simulation = Self {
            random: SmallRng::seed_from_u64(seed),
            clock,
            logs,
            log,
            places,
            nodes: vec![None; NODES],
            pending: Vec::new(),
            events: HashMap::new(),
            values: 0,
        };
        for node in 0..NODES {
            simulation.open(node);
        }
        simulation
    }

    fn open(&mut self, node: usize) {
        let path = self.places[node].path().join("kv.sqlite");
        let store = ReplicatedStore::open(&self.logs, path, options(&self.clock)).unwrap();
        self.nodes[node] = Some(store);
    }

    async fn step(&mut self, faults: Faults) {
        self.collect(false).await;
        match self.random.random_range(0..100) {
            0..38 => self.write(),
            38..75 => self.read().await,
            75..80 => self.restart().await,
            80..97 => self.fault(),
            _ if faults == Faults::All => self.lose_records().await,
            _ => self.clock.advance(1),
        }
        if self.random.random_bool(0.3) {
            let pause = Duration::from_micros(self.random.random_range(0..3000));
            tokio::time::sleep(pause).await;
        }
    }

    fn fault(&mut self) {
        let count = self.random.random_range(1..4);
        match self.random.random_range(0..10) {
            0 => self.log.disconnect(),
            1 => self.log.refuse_appends(count),
            2 => self.log.lose_acks(count),
            3 => self.log.hold_acks(),
            4 => self.log.hold_deliveries(),
            5 => self.log.repeat(self.random.random_range(1..20)),
            6 => self.log.gap(),
            _ => self.heal(),
        }
    }

    fn heal(&self) {
        self.log.reconnect();
        self.log.release();
    }

    fn write(&mut self) {
        let node = self.random.random_range(0..NODES);
        let Some(store) = self.nodes[node].clone() else { return };
        if self.pending.len() == PENDING_MAX {
            return;
        }
        let (from, place) = (self.log.appends(), self.place());
        let (id, name) = (namespace(place.0), key(&place.1));
        self.values += 1;
        let value = self.values.to_string();
        let (places, value, done) = match self.random.random_range(0..10) {
            0..6 => {
                let put = store.put(&id, &name, value.clone().into(), PutOptions::default());
                (vec![place], Some(value), put)
            }
            6..9 => (vec![place], None, store.delete(&id, &name)),
            _ => {
                let all = (0..KEYS).map(|index| (place.0, index.to_string())).collect();
                (all, None, store.drop_namespace(&id))
            }
        };
        let task = tokio::spawn(done);
        self.pending.push(Pending { node, places, value, from, task });
    }

    /// Takes note of the writes that are done.
    async fn collect(&mut self, all: bool) {
        let mut rest = Vec::new();
        for pending in std::mem::take(&mut self.pending) {
            if !all && !pending.task.is_finished() {
                rest.push(pending);
                continue;
            }
            let acknowledged = pending.task.await.unwrap().is_ok();
            let to = self.log.appends();
            let event = match pending.value {
                _ if !acknowledged => continue,
                Some(value) => Event::Put(value),
                None => Event::Deleted { from: pending.from, to },
            };
            for place in pending.places {
                self.events.entry((pending.node, place)).or_default().push(event.clone());
            }
        }
        self.pending = rest;
    }

    async fn read(&mut self) {
        let node = self.random.random_range(0..NODES);
        let Some(store) = self.nodes[node].clone() else { return };
        let place = self.place();
        let found = store.get(&namespace(place.0), &key(&place.1)).await.unwrap();
        let value = found.map(|entry| String::from_utf8(entry.value.to_vec()).unwrap());
        self.events.entry((node, place)).or_default().push(Event::Read(value));
    }

    /// Closes a node or opens a closed one, sometimes after a week.
    async fn restart(&mut self) {
        let node = self.random.random_range(0..NODES);
        if self.nodes[node].is_none() {
            if self.random.random_bool(0.2) {
                // Day by day, so that no node takes a day's old news for today's: that is within the
                // reserve.
                for _ in 0..8 {
                    self.clock.advance(DAY_S);
                    tokio::time::sleep(2 * CHECK_INTERVAL).await;
                }
            }
            self.open(node);
            return;
        }
        // What is held would hold up the close for ever.
        self.heal();
        self.collect(true).await;
        let store = self.nodes[node].take().unwrap();
        store.close().await;
    }

    /// The log loses its tail or all while every node follows it. A node that is away meanwhile can
    /// fail to notice a lost tail, if the record at its checkpoint was lost and overwritten since:
    /// that is beyond the promise.
    async fn lose_records(&mut self) {
        self.open_all();
        self.settle().await;
        self.clock.advance(1);
        if self.random.random_bool(0.5) {
            self.log.roll_back(self.random.random_range(1..10));
        } else {
            self.log.replace();
        }
        self.settle().await;
    }

    fn open_all(&mut self) {
        for node in 0..NODES {
            if self.nodes[node].is_none() {
                self.open(node);
            }
        }
    }

    async fn settle(&mut self) {
        self.heal();
        self.collect(true).await;
        // A log that lost its tail and grew again can end where it ended before: what no node knows
        // yet tells those that have looked.
        self.values += 1;
        let (mark, value) = (key("mark"), Bytes::from(self.values.to_string()));
        let entry = Entry { value: value.clone(), metadata: None, expiration: None };
        let absence = options(&self.clock).absence_max;
        let append = record::put(&namespace(1), &mark, &entry, None, START_S, absence);
        self.log.refuse_appends(0);
        self.log.lose_acks(0);
        self.log.append(append).await.unwrap();
        for store in self.nodes.iter().flatten() {
            while store.get(&namespace(1), &mark).await.unwrap().is_none_or(|e| e.value != value) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            caught_up(store, &self.log).await;
        }
    }

    async fn finish(&mut self) {
        self.open_all();
        self.settle().await;
        let expected = contents(&self.log.records());
        for (node, store) in self.nodes.iter().flatten().enumerate() {
            let mut found = BTreeMap::new();
            let mut export = store.export();
            while let Some(Exported { namespace, key, entry }) = export.next().await.unwrap() {
                let value = String::from_utf8(entry.value.to_vec()).unwrap();
                found.insert((namespace, key), value);
            }
            assert_eq!(found, expected, "node {node} does not hold what the log holds");
            store.close().await;
        }
    }

    fn check_events(&self) {
        let history = self.log.history();
        for ((node, place), events) in &self.events {
            let states = states(&history, place);
            if let Err(problem) = explain(&states, &history, events) {
                panic!("node {node}, key {place:?}: {problem}\nof {events:?}\nin {states:?}");
            }
        }
    }

    fn place(&mut self) -> Place {
        let namespace = self.random.random_range(1..3);
        (namespace, self.random.random_range(0..KEYS).to_string())
    }
}

fn options(clock: &Arc<ManualClock>) -> ReplicatedOptions {
    ReplicatedOptions {
        sqlite: SqliteOptions { clock: clock.clone(), readers: 1, ..SqliteOptions::default() },
        shards: 1,
        rollback_pause: Duration::from_millis(1),
        check_interval: CHECK_INTERVAL,
        apply_records_max: 3,
        write_timeout: Duration::from_secs(2),
        ..ReplicatedOptions::default()
    }
}

/// Waits until a node has applied all that the log has, and no resync is under way.
async fn caught_up(store: &ReplicatedStore, log: &FakeLog) {
    loop {
        let wanted = log.state().await.unwrap();
        let state = store.inner().sqlite.shard(0);
        let same = state.identity.as_ref() == Some(&wanted.identity);
        if same && state.sequence == wanted.last && state.resync == Resync::None {
            let health = *store.health().borrow();
            if health == Health::Connected {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// What a log's records say of all keys.
fn contents(records: &[Record]) -> BTreeMap<(NamespaceId, Key), String> {
    let mut contents = BTreeMap::new();
    for record in records {
        let record = record::decode(record.clone()).unwrap();
        match record.what {
            What::Put { key, entry, .. } => {
                let value = String::from_utf8(entry.value.to_vec()).unwrap();
                contents.insert((record.namespace, key), (record.sequence, value));
            }
            What::Delete(key) => {
                contents.remove(&(record.namespace, key));
            }
            What::Drop { before } => contents.retain(|(namespace, _), (sequence, _)| {
                *namespace != record.namespace || *sequence >= before
            }),
        }
    }
    contents.into_iter().map(|(place, (_, value))| (place, value)).collect()
}

/// What a key held after each position of the log, from before the first.
fn states(history: &[Record], place: &Place) -> Vec<Option<String>> {
    let wanted = (namespace(place.0), key(&place.1));
    let mut state = None;
    let mut states = vec![None];
    for (index, record) in history.iter().enumerate() {
        let record = record::decode(record.clone()).unwrap();
        if record.namespace == wanted.0 {
            match record.what {
                What::Put { key, entry, .. } if key == wanted.1 => {
                    state = Some(String::from_utf8(entry.value.to_vec()).unwrap());
                }
                What::Delete(key) if key == wanted.1 => state = None,
                // The second mark of a drop repeats the first.
                What::Drop { before } if before == index as u64 + 1 => state = None,
                _ => {}
            }
        }
        states.push(state.clone());
    }
    states
}

/// Finds positions that explain what a node showed of a key and never go back.
fn explain(states: &[Option<String>], history: &[Record], events: &[Event]) -> Result<(), String> {
    let mut position = 0;
    for (number, event) in events.iter().enumerate() {
        let from = match event {
            Event::Read(_) => position,
            Event::Put(value) => {
                let at = states.iter().position(|state| state.as_ref() == Some(value));
                position.max(at.ok_or(format!("{value} was acknowledged and is lost"))?)
            }
            Event::Deleted { from, to } => {
                let deleted =
                    (*from..*to).find(|index| history[*index].header("Deleted").is_some());
                let at = deleted.ok_or("a delete was acknowledged and is lost")?;
                position.max(at + 1)
            }
        };
        position = match event {
            Event::Read(value) => {
                let later = states[from..].iter().position(|state| state == value);
                from + later.ok_or(format!("event {number} went back: {event:?}"))?
            }
            _ => from,
        };
    }
    Ok(())
}
