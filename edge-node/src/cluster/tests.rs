//! Nodes that share logs in memory, and the real clock: a new holder looks back, so that a line of every minute
//! is due at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_kv::log::{FakeLogs, LogEngine, LogLeases, LogOptions, Retention};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::run_cluster_crons;
use crate::dispatch::Job;
use crate::registry::{AccountId, Schedule, Snapshot, WorkerName, WorkerRef};

/// How often each due time was fired, in milliseconds since the Unix epoch.
type Fired = Arc<Mutex<BTreeMap<u64, usize>>>;

fn snapshot(created_ms: u64) -> watch::Sender<Arc<Snapshot>> {
    let worker = WorkerRef { account: AccountId::new("a"), worker: WorkerName::new("w") };
    let line = Schedule { worker, cron: "* * * * *".into(), created_ms };
    watch::Sender::new(Arc::new(Snapshot {
        schedules: vec![Arc::new(line)].into(),
        ..Snapshot::default()
    }))
}

fn node(
    name: &str,
    logs: &Arc<FakeLogs>,
    snapshots: &watch::Sender<Arc<Snapshot>>,
    leave: &watch::Sender<bool>,
    fired: &Fired,
) -> JoinHandle<()> {
    let options = LogOptions { retention: Retention::LastPerSubject, ..LogOptions::default() };
    let leases = Arc::new(LogLeases::new(logs.log("leases", options)));
    let (logs, name, fired) = (logs.clone(), name.to_owned(), fired.clone());
    let (snapshots, leave) = (snapshots.subscribe(), leave.subscribe());
    let fire = move |job| {
        let Job::Scheduled { scheduled_ms, .. } = job;
        *fired.lock().unwrap().entry(scheduled_ms).or_default() += 1;
        true
    };
    tokio::spawn(async move {
        run_cluster_crons(&*logs, leases, name, snapshots, leave, fire).await;
    })
}

async fn until_fired(fired: &Fired) {
    let some = async {
        while fired.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), some).await.expect("a line is fired in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_is_fired_once_by_whoever_holds_the_lease() {
    let (logs, fired) = (Arc::new(FakeLogs::new()), Fired::default());
    let snapshots = snapshot(0);
    let (leave, stays) = (watch::Sender::new(false), watch::Sender::new(false));
    let first = node("first", &logs, &snapshots, &leave, &fired);
    until_fired(&fired).await;
    let second = node("second", &logs, &snapshots, &stays, &fired);
    // It ends without a word, so its lease runs out, and the second looks back at what the first has fired.
    first.abort();
    let options = LogOptions { retention: Retention::LastPerSubject, ..LogOptions::default() };
    let leases = logs.fake("leases", options);
    let taken_over = async {
        while !leases.records().iter().any(|record| &record.payload[..] == b"second") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), taken_over).await.expect("the lease runs out");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let counts = fired.lock().unwrap().clone();
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    second.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_due_while_nobody_could_claim_is_fired_late() {
    let (logs, fired) = (Arc::new(FakeLogs::new()), Fired::default());
    let (snapshots, leave) = (snapshot(0), watch::Sender::new(false));
    let claims = logs.fake("crons", LogOptions::default());
    claims.disconnect();
    let node = node("a", &logs, &snapshots, &leave, &fired);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(fired.lock().unwrap().is_empty());
    claims.reconnect();
    until_fired(&fired).await;
    leave.send_replace(true);
    node.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_was_made_since_is_not_fired_late() {
    let (logs, fired) = (Arc::new(FakeLogs::new()), Fired::default());
    let (snapshots, leave) = (snapshot(u64::MAX), watch::Sender::new(false));
    let node = node("a", &logs, &snapshots, &leave, &fired);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(fired.lock().unwrap().is_empty());
    node.abort();
}
