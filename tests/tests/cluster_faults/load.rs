//! Clients that write, delete and read a few keys on all nodes at once, and record what they see.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_tests::{
    Action, Api, Failure, History, Outcome, Replica, Reply, Request, eventually_within,
};
use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::PATIENCE;
use super::cluster::{Cluster, WORKER};
use super::random::Random;

/// Keys of a round: few, so that nodes write the same ones.
const KEYS: usize = 12;
/// Clients of each node: every other one goes through a worker.
const CLIENTS: usize = 4;
/// The pause of a client between two operations.
const PAUSE: Duration = Duration::from_millis(15);
/// The pause after a node was not there.
const ABSENT_PAUSE: Duration = Duration::from_millis(200);
/// A client gives up on an answer then.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// One put of so many has a value that lies in the blob store.
const LARGE_ONE_OF: u64 = 128;
/// More than a record holds.
const LARGE_BYTES: usize = 600 << 10;
/// What the answer to a write says when nothing was written.
const REFUSED: &str = "nothing was written";

/// Each node's API: a node that has lost its data has another token.
type Apis = Arc<Vec<Mutex<Api>>>;

/// Clients at work.
pub(crate) struct Load {
    acknowledged: Arc<Vec<AtomicUsize>>,
    over: Arc<AtomicBool>,
    replicas: Arc<Vec<AtomicUsize>>,
    apis: Apis,
    tasks: Vec<JoinHandle<()>>,
}

struct Client {
    node: usize,
    replicas: Arc<Vec<AtomicUsize>>,
    acknowledged: Arc<Vec<AtomicUsize>>,
    history: History,
    apis: Apis,
    namespace: String,
    /// The request that reaches the worker, for clients that go through it.
    worker: Option<Request>,
    prefix: String,
    random: Random,
}

/// What the names of a round's keys begin with.
pub(crate) fn prefix(round: u64) -> String {
    format!("r{round}-")
}

/// A value of its own for each put, which tells its number and how it must go on.
fn value(number: u64) -> String {
    let bytes = match number % LARGE_ONE_OF {
        0 => LARGE_BYTES,
        rest => 16 + rest as usize * 8,
    };
    let mut value = format!("v{number}.");
    value.extend(std::iter::repeat_n('x', bytes));
    value
}

/// The name by which histories know a value, or what is wrong with it.
pub(crate) fn known(found: &str) -> String {
    let (name, _) = found.split_once('.').unwrap_or((found, ""));
    let number = name.strip_prefix('v').and_then(|number| number.parse().ok());
    match number {
        Some(number) if value(number) == found => name.to_owned(),
        _ => format!("{} bytes that are no value: {:.40}", found.len(), found),
    }
}

impl Load {
    pub(crate) fn start(cluster: &Cluster, history: &History, round: u64, seed: u64) -> Self {
        let counts = |of: &dyn Fn(usize) -> usize| {
            let counts = (0..cluster.nodes.len()).map(|node| AtomicUsize::new(of(node)));
            Arc::new(counts.collect::<Vec<_>>())
        };
        let acknowledged = counts(&|_| 0);
        let replicas = counts(&|node| cluster.replicas[node]);
        let apis = cluster.nodes.iter().map(|node| Mutex::new(node.api().clone()));
        let apis: Apis = Arc::new(apis.collect());
        let over = Arc::new(AtomicBool::new(false));
        let clients = (0..cluster.nodes.len() * CLIENTS).map(|index| {
            let node = index % cluster.nodes.len();
            let through_worker = index / cluster.nodes.len() % 2 == 1;
            Client {
                node,
                replicas: replicas.clone(),
                acknowledged: acknowledged.clone(),
                history: history.clone(),
                apis: apis.clone(),
                namespace: cluster.namespace.clone(),
                worker: through_worker.then(|| cluster.nodes[node].request(WORKER, "/")),
                prefix: prefix(round),
                random: Random::new(seed + index as u64),
            }
        });
        let run = |client: Client| tokio::spawn(client.run(over.clone()));
        let tasks = clients.map(run).collect();
        Self { acknowledged, over, replicas, apis, tasks }
    }

    /// Waits until each of these nodes has acknowledged so many writes more.
    pub(crate) async fn progress(&self, nodes: &[usize], writes: usize) {
        let count = |node: usize| self.acknowledged[node].load(Ordering::SeqCst);
        let wanted: Vec<_> = nodes.iter().map(|node| count(*node) + writes).collect();
        eventually_within(
            PATIENCE,
            &format!("nodes {nodes:?} acknowledge {writes} writes"),
            async || {
                nodes
                    .iter()
                    .zip(&wanted)
                    .all(|(node, wanted)| count(*node) >= *wanted)
                    .then_some(())
            },
        )
        .await;
    }

    /// Says that what answers as a node is another replica now. Nothing may answer at the moment.
    pub(crate) fn replaced(&self, node: usize, replica: usize) {
        self.replicas[node].store(replica, Ordering::SeqCst);
    }

    /// Gives the clients of a node its new API.
    pub(crate) fn renew(&self, node: usize, api: &Api) {
        *self.apis[node].lock().unwrap() = api.clone();
    }

    pub(crate) async fn end(self) {
        self.over.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

impl Client {
    async fn run(mut self, over: Arc<AtomicBool>) {
        while !over.load(Ordering::SeqCst) {
            let absent = self.operate().await;
            tokio::time::sleep(if absent { ABSENT_PAUSE } else { PAUSE }).await;
        }
    }

    /// Does one operation; true if the node was not there.
    async fn operate(&mut self) -> bool {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let key = format!("{}{}", self.prefix, self.random.below(KEYS));
        let (action, body) = match self.random.below(10) {
            0..5 => (Action::Get, String::new()),
            5 | 6 => (Action::Delete, String::new()),
            _ => {
                let number = NUMBERS.fetch_add(1, Ordering::SeqCst);
                (Action::Put(format!("v{number}")), value(number))
            }
        };
        let replica = Replica(self.replicas[self.node].load(Ordering::SeqCst));
        let request = self.request(&action, &key, body);
        let begun = self.history.begin(replica, &key, action.clone());
        let answer = tokio::time::timeout(ANSWER_MAX, request.send()).await;
        let answer = answer.unwrap_or_else(|_| Err("no answer".into()));
        let absent = answer.as_ref().is_err_and(is_absent);
        let outcome = match answer {
            Err(_) if absent => Outcome::Failed,
            Err(_) => Outcome::Unknown,
            Ok(reply) => self.outcome(&action, &reply),
        };
        let written = outcome == Outcome::Written;
        begun.end(outcome);
        self.acknowledged[self.node].fetch_add(usize::from(written), Ordering::SeqCst);
        absent
    }

    fn request(&self, action: &Action, key: &str, body: String) -> Request {
        let Some(worker) = &self.worker else {
            let method = match action {
                Action::Put(_) => Method::PUT,
                Action::Delete => Method::DELETE,
                Action::Get => Method::GET,
            };
            let api = self.apis[self.node].lock().unwrap();
            return api.kv_request(method, &self.namespace, key).body(body);
        };
        let operation = match action {
            Action::Put(_) => json!({ "op": "put", "key": key, "value": body }),
            Action::Delete => json!({ "op": "delete", "key": key }),
            Action::Get => json!({ "op": "get", "key": key }),
        };
        worker.clone().method(Method::POST).body(operation.to_string())
    }

    /// What an answer says, of the worker or of the API.
    fn outcome(&self, action: &Action, reply: &Reply) -> Outcome {
        let json = || serde_json::from_slice::<Value>(&reply.body).unwrap_or(Value::Null);
        let is_read = *action == Action::Get;
        let done = match &self.worker {
            Some(_) if reply.status == 200 => {
                let answer = json();
                answer.get("ok").map(|ok| ok.as_str().map(known))
            }
            None if reply.status == 200 && is_read => Some(Some(known(&reply.text()))),
            None if reply.status == 200 => Some(None),
            None if is_read && json()["errors"][0]["code"] == KEY_NOT_FOUND => Some(None),
            _ => None,
        };
        match done {
            Some(found) if is_read => Outcome::Read(found),
            Some(_) => Outcome::Written,
            None if is_read || reply.text().contains(REFUSED) => Outcome::Failed,
            None => Outcome::Unknown,
        }
    }
}

/// The API's code for a key that is not there.
const KEY_NOT_FOUND: u64 = 10_009;

/// Whether nobody listened, so that nothing can have been done.
fn is_absent(error: &Failure) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}
