//! What a node knows of the other nodes of its cluster: what each last told of itself, and when.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atoll_router::PeerNode;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::probe::Way;
use crate::dispatch::Neighbour;

/// Nodes that are remembered, at most.
const PEERS_MAX: usize = 1_000;
/// How long a node that tells nothing is remembered.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// A node that told something within this time counts as there.
const SEEN_MAX: Duration = Duration::from_secs(5);
/// Bytes of a name that another node gives itself.
const NAME_BYTES_MAX: usize = 64;

/// What a node tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeStatus {
    /// What it is called.
    pub(crate) name: String,
    /// This run of it.
    pub(crate) instance: String,
    /// Where it says it is.
    pub(crate) region: String,
    /// Its release.
    pub(crate) version: String,
    /// How long it runs, in seconds.
    pub(crate) up_s: u64,
    /// Whether it should be given requests.
    pub(crate) ready: bool,
    /// Whether it is about to end.
    pub(crate) leaving: bool,
    /// The registry's revision that all of its processes serve by.
    pub(crate) revision: u64,
    /// Records of the KV logs that it does not have, of the log where that is most.
    pub(crate) kv_lag: u64,
    /// How old its KV values may be, in milliseconds.
    pub(crate) kv_staleness_ms: u64,
    /// Records of the registry's log that it does not have.
    pub(crate) registry_lag: u64,
    /// Invocations under way.
    pub(crate) in_flight: i64,
    /// Invocations that ended in the last second.
    pub(crate) requests_per_s: u64,
    /// Where its workers are reached, if it was told.
    pub(crate) http: Option<String>,
    /// Where its API is reached, if it was told.
    pub(crate) admin: Option<String>,
    /// Where other nodes send it requests, as `HOST:PORT`, if they may.
    pub(crate) peer: Option<String>,
}

/// A node as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeRow {
    #[serde(flatten)]
    pub(crate) status: NodeStatus,
    /// Whether it is the node that answers.
    pub(crate) this: bool,
    /// How long ago it told that, in milliseconds.
    pub(crate) last_seen_ms: u64,
    /// How long it takes to answer this node, in microseconds, if it does.
    pub(crate) rtt_us: Option<u64>,
}

/// The nodes that this one has heard of, itself included. Clones share the table.
#[derive(Clone)]
pub(crate) struct Peers {
    nodes: Arc<Mutex<HashMap<String, (NodeStatus, Instant)>>>,
    /// The ways to those that listen for nodes, by name.
    ways: Arc<Mutex<HashMap<Arc<str>, Way>>>,
    /// Counts what was heard, for those who wait for something.
    heard: watch::Sender<u64>,
}

impl Default for Peers {
    fn default() -> Self {
        Self { nodes: Arc::default(), ways: Arc::default(), heard: watch::Sender::new(0) }
    }
}

impl Peers {
    /// Notes what a node tells of itself; whether it was taken in.
    pub(crate) fn note(&self, status: NodeStatus, now: Instant) -> bool {
        if status.name.is_empty() || status.name.len() > NAME_BYTES_MAX {
            return false;
        }
        let mut nodes = self.lock();
        let ways = self.ways();
        // While NATS is away nodes tell nothing, and answer all the same.
        let answers = |name: &str| ways.get(name).is_some_and(|way| way.failures == 0);
        nodes.retain(|name, (_, seen)| {
            now.saturating_duration_since(*seen) < FORGOTTEN_AFTER || answers(name)
        });
        drop(ways);
        if status.leaving {
            nodes.remove(&status.name);
        } else if nodes.len() < PEERS_MAX || nodes.contains_key(&status.name) {
            nodes.insert(status.name.clone(), (status, now));
        } else {
            return false;
        }
        drop(nodes);
        self.heard.send_modify(|heard| *heard += 1);
        true
    }

    /// Every node, by name.
    pub(crate) fn rows(&self, own: &str, now: Instant) -> Vec<NodeRow> {
        let (nodes, ways) = (self.lock(), self.ways());
        let answers = |way: &&Way| way.failures == 0;
        let row = |(status, seen): &(NodeStatus, Instant)| NodeRow {
            this: status.name == own,
            status: status.clone(),
            last_seen_ms: millis(now.saturating_duration_since(*seen)),
            rtt_us: ways.get(&*status.name).filter(answers).and_then(|way| way.rtt_us),
        };
        let mut rows: Vec<_> = nodes.values().map(row).collect();
        rows.sort_by(|a, b| a.status.name.cmp(&b.status.name));
        rows
    }

    /// Nodes that are there, and whether each serves by the revision or a later one.
    pub(crate) fn serving(&self, revision: u64, now: Instant) -> Vec<(String, bool)> {
        let nodes = self.lock();
        let there = nodes
            .values()
            .filter(|(_, seen)| now.saturating_duration_since(*seen) <= SEEN_MAX)
            .map(|(status, _)| (status.name.clone(), status.revision >= revision));
        let mut there: Vec<_> = there.collect();
        there.sort();
        there
    }

    /// Waits until every node that is there serves by the revision. It never ends by itself.
    pub(crate) async fn all_serve(&self, revision: u64) {
        let mut heard = self.heard.subscribe();
        loop {
            heard.borrow_and_update();
            if self.serving(revision, Instant::now()).iter().all(|(_, serves)| *serves) {
                return;
            }
            // A node that falls silent is waited for no longer than it counts as there.
            let _ = tokio::time::timeout(Duration::from_millis(500), heard.changed()).await;
        }
    }

    /// The other nodes that listen for nodes, and where they say they do.
    pub(super) fn others_that_listen(&self, own: &str) -> Vec<(Arc<str>, String)> {
        let nodes = self.lock();
        let others = nodes.values().map(|(status, _)| status).filter(|status| status.name != own);
        let mut others: Vec<_> = others
            .filter_map(|status| Some((Arc::from(&*status.name), status.peer.clone()?)))
            .collect();
        others.sort();
        others
    }

    /// The other nodes to which the way was measured.
    pub(super) fn neighbours(&self, own: &str) -> Vec<Neighbour> {
        let (nodes, ways) = (self.lock(), self.ways());
        let others = nodes.values().map(|(status, _)| status).filter(|status| status.name != own);
        let mut others: Vec<_> = others
            .filter_map(|status| {
                let (name, way) = ways.get_key_value(&*status.name)?;
                Some(Neighbour {
                    name: name.clone(),
                    region: status.region.clone(),
                    address: way.address,
                    rtt_us: way.rtt_us?,
                    load: u64::try_from(status.in_flight).unwrap_or(0),
                    answers: way.failures == 0,
                    ready: status.ready,
                })
            })
            .collect();
        others.sort_by(|a, b| a.name.cmp(&b.name));
        others
    }

    /// Whether the way to a node was measured.
    pub(super) fn has_way(&self, name: &str) -> bool {
        self.ways().get(name).is_some_and(|way| way.rtt_us.is_some())
    }

    /// Notes something of the way to a node, and forgets those to nodes that are not there any more.
    pub(super) fn note_way(&self, node: &PeerNode, note: impl FnOnce(&mut Way)) {
        let nodes = self.lock();
        let mut ways = self.ways();
        ways.retain(|name, _| nodes.contains_key(&**name));
        let new = Way { address: node.address, rtt_us: None, failures: 0 };
        let way = ways.entry(node.name.clone()).or_insert(new);
        if way.address != node.address {
            *way = new;
        }
        note(way);
    }

    fn ways(&self) -> MutexGuard<'_, HashMap<Arc<str>, Way>> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (NodeStatus, Instant)>> {
        // The table is whole between any two statements under the lock.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(name: &str, revision: u64) -> NodeStatus {
        NodeStatus { name: name.into(), revision, ..NodeStatus::default() }
    }

    #[test]
    fn nodes_that_fall_silent_are_not_waited_for_and_then_forgotten() {
        let (peers, begin) = (Peers::default(), Instant::now());
        let at = |s| begin + Duration::from_secs(s);
        assert!(peers.note(status("b", 7), at(0)));
        assert!(peers.note(status("a", 8), at(1)));
        let both = vec![("a".to_owned(), true), ("b".to_owned(), false)];
        assert_eq!(peers.serving(8, at(2)), both);
        assert_eq!(peers.serving(8, at(6)), vec![("a".to_owned(), true)]);
        let rows = peers.rows("a", at(6));
        let seen: Vec<_> =
            rows.iter().map(|row| (&*row.status.name, row.this, row.last_seen_ms)).collect();
        assert_eq!(seen, [("a", true, 5_000), ("b", false, 6_000)]);
        assert!(peers.note(status("a", 8), at(602)));
        assert_eq!(peers.rows("a", at(602)).len(), 1);
        peers.note(NodeStatus { leaving: true, ..status("a", 8) }, at(603));
        assert!(peers.rows("a", at(603)).is_empty());
    }

    #[test]
    fn the_table_is_bounded() {
        let (peers, now) = (Peers::default(), Instant::now());
        for n in 0..PEERS_MAX {
            assert!(peers.note(status(&n.to_string(), 0), now));
        }
        assert!(!peers.note(status("one more", 0), now));
        assert!(peers.note(status("7", 1), now));
        assert!(!peers.note(status(&"x".repeat(65), 0), now));
    }

    #[tokio::test(start_paused = true)]
    async fn a_revision_is_waited_for() {
        let peers = Peers::default();
        peers.note(status("a", 1), Instant::now());
        let waiting = tokio::spawn({
            let peers = peers.clone();
            async move { peers.all_serve(2).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        peers.note(status("a", 2), Instant::now());
        waiting.await.unwrap();
    }
}
