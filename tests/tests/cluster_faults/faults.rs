//! What goes wrong, under load. Each fault heals what it did, and says in a few words what it was.

use std::time::{Duration, Instant};

use atoll_tests::{Link, Node, eventually_within};
use http::Method;
use serde_json::json;

use super::PATIENCE;
use super::cluster::{ABSENCE, Cluster, FILLED_KEYS, SHARDS, filled};
use super::load::Load;
use super::random::Random;

/// Writes on every node that show that it goes on.
const PROGRESS: usize = 10;
/// How long a write may take to be refused while no server is there: 5 seconds, and a loaded machine.
const REFUSED_WITHIN: Duration = Duration::from_secs(20);
/// How long a node that cannot know what it misses may be away and need no resync.
const SHORT_MAX: Duration = Duration::from_secs(8);
/// What is added to the time that deletions are remembered, for servers to forget them.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(4);
/// Keys that are deleted while nodes are away.
const DELETED_KEYS: usize = 100;
/// Times that a node is killed while it resyncs.
const KILLS: usize = 2;
/// How far a resync may go before the kill.
const INTO_RESYNC: Duration = Duration::from_millis(150);

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// kill -9 of the server that leads one of the logs.
    LeaderKilled,
    /// kill -9 of all servers at once.
    ServersKilled,
    /// kill -9 of a new node, again and again, while it copies everything.
    CopyKilled,
    /// kill -9 of a node's supervisor.
    SupervisorKilled,
    /// A node is cut off for a few seconds.
    ShortlyCut,
    /// A node is cut off, and another paused or ended, for longer than deletions are remembered; one of them
    /// is killed while it resyncs.
    Away,
}

impl Fault {
    pub(crate) const ALL: [Self; 6] = [
        Self::LeaderKilled,
        Self::ServersKilled,
        Self::CopyKilled,
        Self::SupervisorKilled,
        Self::ShortlyCut,
        Self::Away,
    ];

    pub(crate) async fn happen(
        self,
        cluster: &mut Cluster,
        load: &Load,
        random: &mut Random,
    ) -> String {
        match self {
            Self::LeaderKilled => kill_leader(cluster, load, random).await,
            Self::ServersKilled => kill_servers(cluster, load, random).await,
            Self::CopyKilled => kill_copying(cluster, load, random).await,
            Self::SupervisorKilled => kill_supervisor(cluster, load, random).await,
            Self::ShortlyCut => cut_shortly(cluster, load, random).await,
            Self::Away => stay_away(cluster, load, random).await,
        }
    }
}

async fn kill_leader(cluster: &mut Cluster, load: &Load, random: &mut Random) -> String {
    let log = format!("kv.{}", random.below(SHARDS));
    let servers = &cluster.servers;
    let leader = eventually_within(PATIENCE, "the log has a leader", async || {
        servers.leader("atoll", &log).await
    })
    .await;
    cluster.servers.kill(leader);
    let begun = Instant::now();
    load.progress(&[0, 1, 2], PROGRESS).await;
    let paused = begun.elapsed();
    cluster.servers.restart(leader);
    format!("server {leader} led {log}, {PROGRESS} writes on each node after {paused:.1?}")
}

async fn kill_servers(cluster: &mut Cluster, load: &Load, random: &mut Random) -> String {
    let count = cluster.servers.count();
    (0..count).for_each(|server| cluster.servers.kill(server));
    let refused =
        futures_util::future::join_all(cluster.nodes.iter().map(|node| refusal(cluster, node)));
    let slowest = refused.await.into_iter().max().unwrap_or_default();
    assert!(slowest < REFUSED_WITHIN, "a write was refused only after {slowest:?}");
    tokio::time::sleep(random.time(SHORT_MAX)).await;
    (0..count).for_each(|server| cluster.servers.restart_unwaited(server));
    cluster.servers.wait_all();
    load.progress(&[0, 1, 2], PROGRESS).await;
    format!("writes refused within {slowest:.1?}")
}

/// How long it takes until a node refuses a write. It must answer reads meanwhile.
async fn refusal(cluster: &Cluster, node: &Node) -> Duration {
    let key = filled(FILLED_KEYS - 1);
    // A write that was under way when the servers ended has an unknown outcome, a later one has none.
    eventually_within(PATIENCE, "a write is refused", async || {
        let read = node.api().kv_get(&cluster.filled, &key).await;
        assert_eq!(read.as_deref(), Some(&b"-"[..]), "reads go on");
        let begun = Instant::now();
        let put = node.api().try_kv_put(&cluster.filled, &key, "-").await;
        let refusal = put.expect_err("no server is there").to_string();
        refusal.contains("nothing was written").then(|| begun.elapsed())
    })
    .await
}

async fn kill_copying(cluster: &mut Cluster, load: &Load, random: &mut Random) -> String {
    let node = random.below(cluster.nodes.len());
    cluster.nodes[node].kill9();
    // Clients are told before anything answers at the node's place again.
    load.replaced(node, cluster.next_replica());
    cluster.replace(node).await;
    load.renew(node, cluster.nodes[node].api());
    let killed = kill_in_resync(cluster, node, random).await;
    load.progress(&[0, 1, 2], PROGRESS).await;
    format!("node {node}, {killed} of {KILLS} kills while it copied")
}

/// Kills a node that has just started as soon as it says that it resyncs, and starts it again. Answers how often
/// that was in time.
async fn kill_in_resync(cluster: &mut Cluster, node: usize, random: &mut Random) -> usize {
    let mut killed = 0;
    for _ in 0..KILLS {
        let state = eventually_within(PATIENCE, "a node begins to follow", async || {
            let state = cluster.kv_state(node).await;
            (state.starts_with("resyncing") || state == "current").then_some(state)
        })
        .await;
        if state == "current" {
            break;
        }
        tokio::time::sleep(random.time(INTO_RESYNC)).await;
        killed += usize::from(cluster.kv_state(node).await.starts_with("resyncing"));
        cluster.nodes[node].restart_in_place_unready().await;
    }
    killed
}

async fn kill_supervisor(cluster: &mut Cluster, load: &Load, random: &mut Random) -> String {
    let mut killed = Vec::new();
    for _ in 0..KILLS {
        let node = random.below(cluster.nodes.len());
        cluster.nodes[node].restart_in_place_unready().await;
        load.progress(&[node], PROGRESS).await;
        killed.push(node);
    }
    format!("nodes {killed:?}")
}

async fn cut_shortly(cluster: &mut Cluster, load: &Load, random: &mut Random) -> String {
    let node = random.below(cluster.nodes.len());
    let link = if random.below(2) == 0 { Link::Cut } else { Link::Silent };
    let length = random.time(SHORT_MAX);
    cluster.link(node, link);
    tokio::time::sleep(length).await;
    cluster.link(node, Link::Open);
    load.progress(&[0, 1, 2], PROGRESS).await;
    format!("node {node} {link:?} for {length:.1?}")
}

/// How the second node is away.
#[derive(Clone, Copy, Debug)]
enum How {
    Paused,
    Ended,
}

async fn stay_away(cluster: &mut Cluster, load: &Load, random: &mut Random) -> String {
    let here = random.below(cluster.nodes.len());
    let [cut, gone] = [1, 2].map(|step| (here + step) % cluster.nodes.len());
    let link = if random.below(2) == 0 { Link::Cut } else { Link::Silent };
    let how = if random.below(2) == 0 { How::Paused } else { How::Ended };
    cluster.link(cut, link);
    match how {
        How::Paused => cluster.nodes[gone].signal_all("STOP"),
        How::Ended => cluster.nodes[gone].kill9(),
    }
    // The servers forget that these were deleted before the two are back.
    let listed = cluster.nodes[here].api().kv_names(&cluster.filled).await.unwrap();
    let doomed: Vec<_> = listed.iter().take(DELETED_KEYS).collect();
    let api = cluster.nodes[here].api();
    let path = api.in_account(&format!("/storage/kv/namespaces/{}/bulk/delete", cluster.filled));
    api.call(Method::POST, &path, &json!(doomed)).await.unwrap();
    tokio::time::sleep(ABSENCE + FORGOTTEN_WITHIN).await;
    load.progress(&[here], PROGRESS).await;

    cluster.link(cut, Link::Open);
    match how {
        How::Paused => cluster.nodes[gone].signal_all("CONT"),
        How::Ended => cluster.nodes[gone].restart_in_place_unready().await,
    }
    let killed = match how {
        How::Paused => 0,
        How::Ended => kill_in_resync(cluster, gone, random).await,
    };
    load.progress(&[0, 1, 2], PROGRESS).await;
    cluster.all_list(listed.len() - doomed.len()).await;
    format!("node {cut} {link:?}, node {gone} {how:?}, {killed} kills while it resynced")
}
