//! The other nodes as one serving process knows them: what the supervisor says of them, and what became of the
//! requests that this process sent them. All threads of the process share it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use atoll_router::regions::{Near, RTT_US_MAX, nearest};
use atoll_router::{Ejection, Outlier, PeerNode};
use serde::{Deserialize, Serialize};

use crate::observe::{Forwarded, Metrics};

/// Requests of one process that are under way to one node.
pub(super) const IN_FLIGHT_PER_NODE_MAX: u64 = 2_048;

/// The same of WebSockets, which stay: as many as leave room for requests.
pub(super) const SOCKETS_PER_NODE_MAX: u64 = 1_024;

/// A node and its neighbours, as the supervisor knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Neighbourhood {
    /// This node's name.
    pub(crate) name: String,
    /// Where it says it is.
    pub(crate) region: String,
    /// Whether anybody may ask how a request was routed.
    pub(crate) explain: bool,
    /// The others that listen for nodes.
    pub(crate) nodes: Vec<Neighbour>,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Neighbour {
    /// Its name, which its certificate has.
    pub(crate) name: Arc<str>,
    /// Where it says it is.
    pub(crate) region: String,
    /// Where it listens for nodes.
    pub(crate) address: SocketAddr,
    /// The usual time from a question to its answer, in microseconds.
    pub(crate) rtt_us: u64,
    /// Invocations under way there.
    pub(crate) load: u64,
    /// Whether it answers the questions of whether it is there.
    pub(crate) answers: bool,
    /// Whether it says that it should be given requests.
    pub(crate) ready: bool,
}

/// How good a node has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fitness {
    /// It answers at once and is current: there is another way to serve the request.
    Good,
    /// It answers: there is no other way.
    Any,
}

/// What is to be sent to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    /// Of a WebSocket, which is under way until it is closed.
    Handshake,
}

/// What a process knows of the other nodes.
pub(crate) struct Neighbours {
    known: ArcSwap<Neighbourhood>,
    met: Mutex<HashMap<Arc<str>, Met>>,
    begun: Instant,
}

/// What became of requests to one node.
struct Met {
    outlier: Outlier,
    requests: Arc<AtomicU64>,
    sockets: Arc<AtomicU64>,
    counts: Arc<Forwarded>,
}

impl Met {
    fn under_way(&self) -> u64 {
        self.requests.load(Ordering::Relaxed) + self.sockets.load(Ordering::Relaxed)
    }

    fn under_way_of(&self, kind: Kind) -> &Arc<AtomicU64> {
        match kind {
            Kind::Request => &self.requests,
            Kind::Handshake => &self.sockets,
        }
    }

    fn has_room_for(&self, kind: Kind) -> bool {
        let max = match kind {
            Kind::Request => IN_FLIGHT_PER_NODE_MAX,
            Kind::Handshake => SOCKETS_PER_NODE_MAX,
        };
        self.under_way_of(kind).load(Ordering::Relaxed) < max
    }
}

/// A node that a request goes to, counted as under way while this lives.
pub(in super::super) struct Chosen {
    pub(super) node: PeerNode,
    pub(super) region: String,
    pub(super) counts: Arc<Forwarded>,
    under_way: Arc<AtomicU64>,
}

impl Drop for Chosen {
    fn drop(&mut self) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Neighbours {
    pub(crate) fn new(known: Neighbourhood) -> Self {
        Self { known: ArcSwap::from_pointee(known), met: Mutex::default(), begun: Instant::now() }
    }

    /// Takes over what the supervisor says now.
    pub(crate) fn replace(&self, known: Neighbourhood) {
        self.met().retain(|name, met| {
            known.nodes.iter().any(|node| node.name == *name) || met.under_way() > 0
        });
        self.known.store(Arc::new(known));
    }

    /// What the supervisor said last.
    pub(crate) fn known(&self) -> Arc<Neighbourhood> {
        self.known.load_full()
    }

    /// The node for the next attempt: the nearest of these regions that is fit, is not left out, and of which
    /// `but` does not say otherwise.
    pub(super) fn choose(
        &self,
        regions: &[String],
        kind: Kind,
        fitness: Fitness,
        metrics: &Metrics,
        but: impl Fn(&str) -> bool,
    ) -> Option<Chosen> {
        let (known, now) = (self.known.load(), self.begun.elapsed());
        let mut met = self.met();
        let fits = |node: &&Neighbour| {
            let good = node.ready && node.rtt_us <= RTT_US_MAX;
            regions.contains(&node.region)
                && node.answers
                && (good || fitness == Fitness::Any)
                && !but(&node.name)
                && met
                    .get(&node.name)
                    .is_none_or(|met| !met.outlier.is_ejected(now) && met.has_room_for(kind))
        };
        let fit: Vec<&Neighbour> = known.nodes.iter().filter(fits).collect();
        // Those that are good come before those that only answer.
        let good = |node: &&Neighbour| node.ready && node.rtt_us <= RTT_US_MAX;
        let any_good = fit.iter().any(good);
        let fit: Vec<&Neighbour> = fit.into_iter().filter(|node| !any_good || good(node)).collect();
        let near = |node: &&Neighbour| Near {
            rtt_us: node.rtt_us,
            load: node.load.saturating_add(met.get(&node.name).map_or(0, Met::under_way)),
        };
        let near: Vec<Near> = fit.iter().map(near).collect();
        let node = fit[nearest(&near, |below| rand::random_range(0..below))?];
        let met = met.entry(node.name.clone()).or_insert_with(|| Met {
            outlier: Outlier::default(),
            requests: Arc::default(),
            sockets: Arc::default(),
            counts: metrics.forwarded(&node.name),
        });
        let under_way = met.under_way_of(kind).clone();
        under_way.fetch_add(1, Ordering::Relaxed);
        Some(Chosen {
            node: PeerNode { name: node.name.clone(), address: node.address },
            region: node.region.clone(),
            counts: met.counts.clone(),
            under_way,
        })
    }

    /// Notes that a node answered a request, whatever it said.
    pub(super) fn answered(&self, node: &str) {
        if let Some(met) = self.met().get_mut(node) {
            met.outlier.answered();
        }
    }

    /// Notes that a node failed a request; for how long it gets no more, if that begins now.
    pub(super) fn failed(&self, node: &str) -> Option<Duration> {
        let now = self.begun.elapsed();
        let ejected = self.met().get_mut(node)?.outlier.failed(now, Ejection::default())?;
        tracing::warn!(
            node,
            ms = ejected.as_millis() as u64,
            "a node fails: it gets no requests for a while"
        );
        Some(ejected)
    }

    fn met(&self) -> MutexGuard<'_, HashMap<Arc<str>, Met>> {
        // The table is whole between any two statements under the lock.
        self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neighbour(name: &str, region: &str, rtt_us: u64) -> Neighbour {
        Neighbour {
            name: name.into(),
            region: region.to_owned(),
            address: "127.0.0.1:1".parse().unwrap(),
            rtt_us,
            load: 0,
            answers: true,
            ready: true,
        }
    }

    fn neighbours(nodes: Vec<Neighbour>) -> Neighbours {
        let (name, region) = ("a".to_owned(), "asia".to_owned());
        Neighbours::new(Neighbourhood { name, region, explain: false, nodes })
    }

    #[test]
    fn the_fit_and_near_are_chosen() {
        let (metrics, eu) = (Metrics::default(), ["eu".to_owned()]);
        let choose = |neighbours: &Neighbours, fitness, but: &str| {
            let chosen =
                neighbours.choose(&eu, Kind::Request, fitness, &metrics, |name| name == but);
            chosen.map(|chosen| chosen.node.name.to_string())
        };
        let far = neighbours(vec![
            neighbour("e1", "eu", 50_000),
            neighbour("e2", "eu", 9_000),
            neighbour("u1", "us", 100),
        ]);
        assert_eq!(choose(&far, Fitness::Good, "").as_deref(), Some("e2"));
        assert_eq!(choose(&far, Fitness::Good, "e2").as_deref(), Some("e1"));
        let slow = neighbours(vec![
            Neighbour { ready: false, ..neighbour("e1", "eu", 100) },
            neighbour("e2", "eu", 2 * RTT_US_MAX),
            Neighbour { answers: false, ..neighbour("e3", "eu", 100) },
        ]);
        assert_eq!(choose(&slow, Fitness::Good, ""), None);
        assert_eq!(choose(&slow, Fitness::Any, "").as_deref(), Some("e1"));
        assert_eq!(choose(&slow, Fitness::Any, "e1").as_deref(), Some("e2"));
        let good_first = neighbours(vec![
            Neighbour { ready: false, ..neighbour("e1", "eu", 100) },
            neighbour("e2", "eu", 90_000),
        ]);
        assert_eq!(choose(&good_first, Fitness::Any, "").as_deref(), Some("e2"));
    }

    #[test]
    fn who_fails_in_a_row_is_left_out_and_forgotten_with_its_node() {
        let (metrics, eu) = (Metrics::default(), ["eu".to_owned()]);
        let node = neighbour("e1", "eu", 100);
        let all = neighbours(vec![node.clone()]);
        let there = || all.choose(&eu, Kind::Request, Fitness::Any, &metrics, |_| false).is_some();
        assert!(there());
        assert_eq!((all.failed("e1"), all.failed("e1")), (None, None));
        assert!(there());
        assert_eq!(all.failed("e1"), Some(Duration::from_secs(1)));
        assert!(!there());
        all.replace(Neighbourhood::default());
        all.replace(Neighbourhood { nodes: vec![node], ..Neighbourhood::default() });
        assert!(there());
    }

    #[test]
    fn what_is_under_way_to_a_node_is_bounded() {
        let (metrics, eu) = (Metrics::default(), ["eu".to_owned()]);
        let all = neighbours(vec![neighbour("e1", "eu", 100)]);
        let mut all_under_way = Vec::new();
        let choose = |kind| all.choose(&eu, kind, Fitness::Any, &metrics, |_| false);
        for (kind, max) in
            [(Kind::Handshake, SOCKETS_PER_NODE_MAX), (Kind::Request, IN_FLIGHT_PER_NODE_MAX)]
        {
            let mut under_way: Vec<_> = (0..max).map_while(|_| choose(kind)).collect();
            assert_eq!(under_way.len() as u64, max, "{kind:?}");
            assert!(choose(kind).is_none(), "{kind:?}");
            under_way.pop();
            assert!(choose(kind).is_some(), "{kind:?}");
            // What is under way of the one leaves the other its room.
            all_under_way.append(&mut under_way);
        }
    }
}
