//! Registries of several nodes over one log that fails on demand.

use std::fmt::Debug;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_kv::log::{FakeLog, FakeLogs, LogOptions};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tempfile::TempDir;
use tokio::runtime::Handle;

use super::record::Value;
use super::rows::TABLES;
use super::*;
use crate::registry::tests::version;
use crate::registry::{AccountId, Binding, Deploy, Snapshot, VersionId, WorkerName, WorkerRef};

const WAIT_MAX: Duration = Duration::from_secs(20);

/// Nodes of one cluster: their directories and the log.
struct Cluster {
    logs: Arc<FakeLogs>,
    dirs: Vec<TempDir>,
    copy_records: u64,
}

impl Cluster {
    /// Directories for so many nodes; all but the first have the first one's key once it has joined.
    fn new(nodes: usize) -> Self {
        let dirs = (0..nodes).map(|_| tempfile::tempdir().unwrap()).collect();
        Self { logs: Arc::new(FakeLogs::new()), dirs, copy_records: 1_000 }
    }

    fn dir(&self, node: usize) -> &Path {
        self.dirs[node].path()
    }

    fn log(&self) -> FakeLog {
        self.logs.fake(LOG, LogOptions::default())
    }

    async fn try_join(&self, node: usize) -> Result<Registry, RegistryError> {
        let options = JoinOptions {
            name: format!("n{node}"),
            join_timeout: Duration::from_millis(300),
            append_timeout: Duration::from_millis(500),
            copy_records: self.copy_records,
            ..JoinOptions::default()
        };
        let (dir, logs, runtime) =
            (self.dir(node).to_owned(), self.logs.clone(), Handle::current());
        blocking(move || Registry::join(&dir, &*logs, &NoFoundation, options, runtime)).await
    }

    async fn join(&self, node: usize) -> Registry {
        let key = self.dir(node).join("node.key");
        if node > 0 && !key.exists() {
            std::fs::copy(self.dir(0).join("node.key"), key).unwrap();
        }
        self.try_join(node).await.unwrap()
    }
}

/// Runs what blocks, as the API does.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// Deploys a worker with two modules.
async fn deploy(registry: &Registry, name: &str, code: &str) -> Result<VersionId, RegistryError> {
    let (registry, name, code) = (registry.clone(), name.to_owned(), code.to_owned());
    blocking(move || {
        let account = registry.first_account();
        let made = registry.add_version(version(&account, &name, &code, vec![]), Deploy::Now)?;
        Ok(made.id.clone())
    })
    .await
}

impl Registry {
    fn first_account(&self) -> AccountId {
        self.snapshot().subdomains[0].0.clone()
    }

    /// Every replicated row.
    fn dump(&self) -> Vec<(String, Vec<Value>)> {
        let mut rows = Vec::new();
        self.read(|view| {
            for table in TABLES {
                let mut statement = view.prepare(&format!("SELECT * FROM {table}"))?;
                let columns = statement.column_count();
                let mut found = statement.query([])?;
                while let Some(row) = found.next()? {
                    let values = (0..columns).map(|n| Value::read(row.get_ref(n)?));
                    rows.push((table.to_owned(), values.collect::<Result<_, _>>()?));
                }
            }
            Ok(())
        })
        .unwrap();
        rows
    }

    fn blobs(&self) -> i64 {
        let count = "SELECT count(*) FROM blob";
        self.read(|view| Ok(view.query_row(count, [], |row| row.get(0))?)).unwrap()
    }
}

async fn until<T: Clone + Debug>(mut watched: watch::Receiver<T>, holds: impl FnMut(&T) -> bool) {
    let held = tokio::time::timeout(WAIT_MAX, watched.wait_for(holds)).await;
    held.expect("it holds in time").expect("the registry is there");
}

/// Waits until one registry has all that another has, and compares them.
async fn converge(one: &Registry, other: &Registry) {
    let revision = one.snapshot().revision;
    until(other.subscribe(), |snapshot: &Arc<Snapshot>| snapshot.revision == revision).await;
    assert_eq!(one.dump(), other.dump());
    assert_eq!(one.blobs(), other.blobs());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_changes_all_nodes_have() {
    let cluster = Cluster::new(3);
    let a = cluster.join(0).await;
    let early = deploy(&a, "early", "1").await.unwrap();
    let b = cluster.join(1).await;
    converge(&b, &a).await;
    assert_eq!(b.version(&early).unwrap().unwrap().modules[0].bytes, Bytes::from_static(b"1"));
    let late = deploy(&a, "late", "2").await.unwrap();
    converge(&a, &b).await;
    assert_eq!(b.version(&late).unwrap().unwrap().modules.len(), 2);

    let account = a.first_account();
    let worker = WorkerRef { account: account.clone(), worker: WorkerName::new("late") };
    let (b2, target) = (b.clone(), worker.clone());
    blocking(move || {
        b2.replace_routes(&target, &["example.com/*".into()]).unwrap();
        b2.replace_schedules(&target, &["* * * * *".into()]).unwrap();
        b2.set_rules(&target, &serde_json::json!({ "rule": [{ "name": "r" }] })).unwrap();
        b2.switch_rule(&target, "r", crate::registry::Switch::Off).unwrap();
        let namespace = b2.create_namespace(&account, "t").unwrap();
        b2.rename_namespace(&account, &namespace.id, "u").unwrap();
        let route = b2.add_route(&account, "other.com/*", None).unwrap();
        b2.update_route(&account, &route.id, "another.com/*", None).unwrap();
    })
    .await;
    converge(&b, &a).await;
    assert_eq!(a.snapshot().routes.len(), 2);
    assert!(a.snapshot().rules[0].overlay.contains("switched_off\":[\"r\""));
    // What goes by foreign keys goes everywhere.
    let a2 = a.clone();
    blocking(move || a2.delete_worker(&worker).unwrap()).await;
    converge(&a, &b).await;
    assert!(b.version(&late).unwrap().is_none());
    let c = cluster.join(2).await;
    converge(&c, &a).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_has_a_token_of_its_own() {
    let cluster = Cluster::new(2);
    let a = cluster.join(0).await;
    let b = cluster.join(1).await;
    converge(&b, &a).await;
    let text = |node| std::fs::read_to_string(cluster.dir(node).join("root.token")).unwrap();
    assert_ne!(text(0), text(1));
    for token in [text(0), text(1)] {
        let of_a = a.authenticate(&token).unwrap().unwrap();
        assert_eq!(b.authenticate(&token).unwrap().unwrap(), of_a);
    }
    // A node that begins anew under its name leaves no second token.
    drop(b);
    std::fs::remove_dir_all(cluster.dir(1).join(CLUSTER_DIR)).unwrap();
    let lost = text(1);
    std::fs::remove_file(cluster.dir(1).join("root.token")).unwrap();
    let b = cluster.join(1).await;
    converge(&b, &a).await;
    assert!(a.authenticate(&lost).unwrap().is_none());
    assert!(a.authenticate(&text(1)).unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_change_it_at_once_all_succeed() {
    let cluster = Cluster::new(2);
    let (a, b) = (cluster.join(0).await, cluster.join(1).await);
    let rounds = |registry: Registry, name: &'static str| async move {
        for n in 0..10 {
            deploy(&registry, name, &n.to_string()).await.unwrap();
        }
    };
    tokio::join!(rounds(a.clone(), "x"), rounds(b.clone(), "y"));
    let last = cluster.log().records().last().unwrap().sequence;
    for registry in [&a, &b] {
        until(registry.replica_status().unwrap(), |status| status.applied == last).await;
    }
    converge(&a, &b).await;
    for name in ["x", "y"] {
        let worker = WorkerRef { account: a.first_account(), worker: WorkerName::new(name) };
        assert_eq!(a.versions(&worker).unwrap().len(), 10);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_behind_refuses_and_then_catches_up() {
    let cluster = Cluster::new(2);
    let (a, b) = (cluster.join(0).await, cluster.join(1).await);
    converge(&b, &a).await;
    cluster.log().hold_deliveries();
    deploy(&a, "w", "1").await.unwrap();
    let refused = deploy(&b, "v", "1").await;
    assert!(matches!(refused, Err(RegistryError::Unavailable(_))), "{refused:?}");
    cluster.log().release();
    converge(&a, &b).await;
    deploy(&b, "v", "1").await.unwrap();
    converge(&b, &a).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_acknowledgement_is_said_to_be_unknown() {
    let cluster = Cluster::new(1);
    let a = cluster.join(0).await;
    let revision = a.snapshot().revision;
    cluster.log().lose_acks(1);
    let unknown = deploy(&a, "w", "1").await;
    assert!(matches!(unknown, Err(RegistryError::OutcomeUnknown(_))), "{unknown:?}");
    // It was written, so it comes like everybody else's.
    until(a.subscribe(), |snapshot: &Arc<Snapshot>| snapshot.revision == revision + 1).await;
    assert_eq!(a.snapshot().workers.len(), 1);
    cluster.log().refuse_appends(1);
    let refused = deploy(&a, "v", "1").await;
    assert!(matches!(refused, Err(RegistryError::Unavailable(_))), "{refused:?}");
    assert_eq!(a.snapshot().workers.len(), 1);
    deploy(&a, "v", "1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_starts_from_its_disk_and_catches_up_later() {
    let cluster = Cluster::new(2);
    let (a, b) = (cluster.join(0).await, cluster.join(1).await);
    deploy(&a, "w", "1").await.unwrap();
    converge(&a, &b).await;
    drop(b);
    deploy(&a, "missed", "2").await.unwrap();
    cluster.log().disconnect();
    let b = cluster.join(1).await;
    assert_eq!(b.snapshot().workers.len(), 1);
    assert!(b.replica_status().unwrap().borrow().caught_up.is_none());
    let refused = deploy(&b, "v", "1").await;
    assert!(matches!(refused, Err(RegistryError::Unavailable(_))), "{refused:?}");
    cluster.log().reconnect();
    converge(&a, &b).await;
    until(b.replica_status().unwrap(), |status| status.caught_up.is_some()).await;
    deploy(&b, "v", "1").await.unwrap();
    converge(&b, &a).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_start_needs_the_log() {
    let cluster = Cluster::new(1);
    cluster.log().disconnect();
    let refused = cluster.try_join(0).await.err().unwrap();
    assert!(refused.to_string().contains("the very first start"), "{refused}");
    cluster.log().reconnect();
    cluster.join(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_another_key_is_refused() {
    let cluster = Cluster::new(3);
    let a = cluster.join(0).await;
    let refused = cluster.try_join(1).await.err().unwrap();
    assert!(refused.to_string().contains("copy node.key"), "{refused}");
    assert!(!cluster.dir(1).join("node.key").exists(), "no key is made that would be wrong");
    std::fs::write(cluster.dir(2).join("node.key"), [7; 32]).unwrap();
    let refused = cluster.try_join(2).await.err().unwrap();
    assert!(refused.to_string().contains("copy node.key"), "{refused}");
    let b = cluster.join(1).await;
    converge(&b, &a).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_nodes_and_clusters_do_not_share_directories() {
    let cluster = Cluster::new(2);
    let single = Registry::open(cluster.dir(0)).unwrap();
    single.bootstrap().unwrap();
    drop(single);
    let refused = cluster.try_join(0).await.err().unwrap();
    assert!(refused.to_string().contains("state of a single node"), "{refused}");
    drop(cluster.try_join(1).await.unwrap());
    let refused = Registry::open(cluster.dir(1)).err().unwrap();
    assert!(refused.to_string().contains("belongs to a node of a cluster"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_records_go_and_whoever_missed_them_begins_from_a_copy() {
    let cluster = Cluster { copy_records: 5, ..Cluster::new(3) };
    let (a, b) = (cluster.join(0).await, cluster.join(1).await);
    converge(&b, &a).await;
    drop(b);
    let first = |log: FakeLog| log.records()[0].sequence;
    for n in 0..12 {
        deploy(&a, "w", &n.to_string()).await.unwrap();
    }
    let purged = tokio::time::timeout(WAIT_MAX, async {
        while first(cluster.log()) < 10 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    purged.await.expect("the log drops what a copy covers");
    let copies = cluster.log().records().iter().filter(|record| record.subject == "copy").count();
    assert!((1..=2).contains(&copies), "the newest, and one that was made meanwhile: {copies}");
    let b = cluster.join(1).await;
    converge(&a, &b).await;
    assert_eq!(b.replica_status().unwrap().borrow().resyncs, 1);
    let c = cluster.join(2).await;
    converge(&c, &a).await;
    deploy(&c, "v", "1").await.unwrap();
    converge(&c, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_lost_its_tail_is_followed_back() {
    let cluster = Cluster::new(2);
    let (a, b) = (cluster.join(0).await, cluster.join(1).await);
    deploy(&a, "kept", "1").await.unwrap();
    deploy(&a, "lost", "2").await.unwrap();
    converge(&a, &b).await;
    cluster.log().roll_back(1);
    for registry in [&a, &b] {
        until(registry.subscribe(), |snapshot: &Arc<Snapshot>| snapshot.workers.len() == 1).await;
    }
    deploy(&b, "new", "3").await.unwrap();
    converge(&b, &a).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_clusters_log_takes_nothing_away() {
    let cluster = Cluster::new(2);
    let a = cluster.join(0).await;
    deploy(&a, "w", "1").await.unwrap();
    cluster.log().replace();
    until(a.replica_status().unwrap(), |status| status.fault.is_some()).await;
    assert_eq!(a.snapshot().workers.len(), 1);
    let refused = deploy(&a, "v", "1").await;
    assert!(matches!(refused, Err(RegistryError::Unavailable(_))), "{refused:?}");
}

/// What else a cluster needs, made or refused.
struct Told {
    laid: Mutex<Vec<String>>,
    refuses: AtomicBool,
}

impl Foundation for Told {
    fn lay(&self, cluster: String) -> BoxFuture<'_, Result<(), NotLaid>> {
        self.laid.lock().unwrap().push(cluster);
        let refuses = self.refuses.load(Ordering::Relaxed);
        let result =
            if refuses { Err(NotLaid::Never("its nodes are there".to_owned())) } else { Ok(()) };
        Box::pin(async move { result })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_begins_once_and_whole() {
    let cluster = Cluster::new(2);
    let told = Arc::new(Told { laid: Default::default(), refuses: true.into() });
    let join = async |node: usize| {
        let options = JoinOptions {
            name: format!("n{node}"),
            join_timeout: Duration::ZERO,
            ..JoinOptions::default()
        };
        let (dir, logs, told) = (cluster.dir(node).to_owned(), cluster.logs.clone(), told.clone());
        let runtime = Handle::current();
        blocking(move || Registry::join(&dir, &*logs, &*told, options, runtime)).await
    };
    let refused = join(0).await.err().unwrap().to_string();
    assert!(refused.contains("cannot begin here: its nodes are there"), "{refused}");
    assert_eq!(cluster.log().appends(), 0, "no cluster has begun");
    told.refuses.store(false, Ordering::Relaxed);
    let a = join(0).await.unwrap();
    std::fs::copy(cluster.dir(0).join("node.key"), cluster.dir(1).join("node.key")).unwrap();
    let b = join(1).await.unwrap();
    // Whoever is interrupted goes on with the same id, which is the cluster's; others make nothing.
    let id = a.cluster_id().unwrap().unwrap();
    assert_eq!(*told.laid.lock().unwrap(), [id.clone(), id.clone()]);
    assert_eq!(b.cluster_id().unwrap(), Some(id));
    drop(b);
    drop(join(1).await.unwrap());
    assert_eq!(told.laid.lock().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_too_large_for_a_record_arrives() {
    let cluster = Cluster::new(2);
    let (a, b) = (cluster.join(0).await, cluster.join(1).await);
    let registry = a.clone();
    blocking(move || {
        let account = registry.first_account();
        let text = "x".repeat(3 << 20);
        let large = vec![Binding::PlainText { name: "T".into(), text }];
        registry.add_version(version(&account, "w", "1", large), Deploy::Now).unwrap();
    })
    .await;
    converge(&a, &b).await;
}

/// Three nodes change the registry while the log fails, repeats itself and ends subscriptions, and nodes come and
/// go. What was acknowledged is there at the end, on all of them alike.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_faults_leave_all_nodes_alike() {
    use rand::{Rng, SeedableRng};
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let cluster = Cluster { copy_records: 7, ..Cluster::new(3) };
    let mut nodes = Vec::new();
    for node in 0..3 {
        nodes.push(cluster.join(node).await);
    }
    let (mut acked, mut unknown) = (0, 0);
    for step in 0..80 {
        let log = cluster.log();
        match random.random_range(0..10) {
            0 => log.refuse_appends(1),
            1 => log.lose_acks(1),
            2 => log.gap(),
            3 => log.repeat(random.random_range(1..4)),
            4 => {
                let node = random.random_range(0..3);
                nodes.remove(node);
                nodes.insert(node, cluster.join(node).await);
            }
            5 => {
                log.disconnect();
                tokio::time::sleep(Duration::from_millis(3)).await;
                log.reconnect();
            }
            _ => {}
        }
        let node = &nodes[random.random_range(0..3)];
        match deploy(node, &format!("w{}", random.random_range(0..4)), &step.to_string()).await {
            Ok(_) => acked += 1,
            Err(RegistryError::OutcomeUnknown(_)) => unknown += 1,
            Err(RegistryError::Unavailable(_) | RegistryError::Contended) => {}
            Err(error) => panic!("step {step}: {error}"),
        }
    }
    // What is left of a fault goes to this one.
    loop {
        match deploy(&nodes[0], "last", "1").await {
            Ok(_) => break,
            Err(RegistryError::OutcomeUnknown(_)) => unknown += 1,
            Err(_) => {}
        }
    }
    let last = cluster.log().records().last().unwrap().sequence;
    for node in &nodes {
        until(node.replica_status().unwrap(), |status| status.applied >= last).await;
    }
    for node in &nodes[1..] {
        assert_eq!(nodes[0].dump(), node.dump());
        assert_eq!(nodes[0].blobs(), node.blobs());
    }
    let mut versions = 0;
    for worker in nodes[0].snapshot().workers.iter() {
        versions += nodes[0].versions(&worker.worker).unwrap().len();
    }
    assert!(
        (acked + 1..=acked + 1 + unknown).contains(&versions),
        "{versions} of {acked}, {unknown}"
    );
}
