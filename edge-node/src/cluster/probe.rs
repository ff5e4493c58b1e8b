//! Asks every other node once a second whether it answers, over the connections that requests take, and measures
//! how long that takes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use atoll_router::{PeerLink, PeerNode, PeerPool, PeerTls, no_peer_body};
use http::Request;
use http_body_util::BodyExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Cluster;
use crate::dispatch::Neighbourhood;

/// Where a node answers that it is there.
pub(crate) const PING_PATH: &str = "/ping";

/// How often each node is asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long it may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// How long a host's addresses are used before they are looked up again.
const LOOKUP_LIFE: Duration = Duration::from_secs(30);
/// Nodes that are asked at once.
const PROBES_MAX: usize = 128;

/// What is known of the way to a node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Way {
    /// Where it listens for nodes.
    pub(crate) address: SocketAddr,
    /// The usual time from a question to its answer, in microseconds; none until there was an answer.
    pub(crate) rtt_us: Option<u64>,
    /// Questions without an answer since the last one with.
    pub(crate) failures: u32,
}

impl Way {
    /// Takes a measurement in: the newest counts a quarter, so that one slow answer moves no request.
    fn note(&mut self, answered: Option<Duration>) {
        let Some(took) = answered else {
            self.failures = self.failures.saturating_add(1);
            return;
        };
        self.failures = 0;
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.rtt_us =
            Some(self.rtt_us.map_or(took, |before| (before * 3).saturating_add(took) / 4));
    }
}

/// Looks a host up, now and then.
#[derive(Default)]
struct Lookups(HashMap<String, (Instant, SocketAddr)>);

impl Lookups {
    async fn address(&mut self, peer: &str) -> Option<SocketAddr> {
        let now = Instant::now();
        if let Some((at, address)) = self.0.get(peer)
            && now.saturating_duration_since(*at) < LOOKUP_LIFE
        {
            return Some(*address);
        }
        let found = timeout(ANSWER_MAX, tokio::net::lookup_host(peer)).await.ok()?.ok()?.next();
        match found {
            Some(address) => {
                self.0.insert(peer.to_owned(), (now, address));
                Some(address)
            }
            // What was found before may still be right.
            None => self.0.get(peer).map(|(_, address)| *address),
        }
    }

    fn keep(&mut self, peers: &[(Arc<str>, String)]) {
        self.0.retain(|known, _| peers.iter().any(|(_, peer)| peer == known));
    }
}

/// Asks all nodes, for ever.
pub(super) async fn probe_all(
    cluster: Cluster,
    tls: Arc<ArcSwap<PeerTls>>,
    met: watch::Sender<Arc<Neighbourhood>>,
) {
    let pool = Arc::new(PeerPool::new(tls, PeerLink::Network));
    let mut lookups = Lookups::default();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let others = cluster.peers().others_that_listen(&cluster.config().name);
        lookups.keep(&others);
        pool.keep(|node| others.iter().any(|(name, _)| *name == node.name));
        let mut asked = JoinSet::new();
        for (name, peer) in others.into_iter().take(PROBES_MAX) {
            let Some(address) = lookups.address(&peer).await else {
                tracing::debug!(node = &*name, peer, "the address of a node cannot be looked up");
                continue;
            };
            let known = cluster.peers().has_way(&name);
            let (pool, node) = (pool.clone(), PeerNode { name, address });
            asked.spawn(async move {
                // The first question opens a connection, and so says nothing of the way.
                let mut answered = ask(&pool, &node).await;
                if !known && answered.is_some() {
                    answered = ask(&pool, &node).await;
                }
                (node, answered)
            });
        }
        while let Some(answered) = asked.join_next().await {
            let Ok((node, answered)) = answered else { continue };
            cluster.peers().note_way(&node, |way| way.note(answered));
            if answered.is_none() {
                // Nobody waits with it for the slow ones.
                publish(&cluster, &met);
            }
        }
        publish(&cluster, &met);
    }
}

/// Tells those who serve what is known of the other nodes, if it has changed.
fn publish(cluster: &Cluster, met: &watch::Sender<Arc<Neighbourhood>>) {
    let now = cluster.neighbourhood();
    met.send_if_modified(|known| {
        let changed = **known != now;
        *known = Arc::new(now);
        changed
    });
}

/// How long a node takes to answer, if it does.
async fn ask(pool: &PeerPool, node: &PeerNode) -> Option<Duration> {
    let request = Request::get(format!("http://node{PING_PATH}"));
    let request = request.body(no_peer_body()).expect("the request is well formed");
    let answered = async {
        let begun = Instant::now();
        let response = pool.send(node, request).await.ok()?;
        let took = begun.elapsed();
        let whole = response.into_body().collect().await.ok()?.to_bytes();
        whole.is_empty().then_some(took)
    };
    timeout(ANSWER_MAX, answered).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_answer_says_little_and_silence_counts() {
        let mut way = Way { address: "127.0.0.1:1".parse().unwrap(), rtt_us: None, failures: 0 };
        way.note(None);
        assert_eq!((way.rtt_us, way.failures), (None, 1));
        way.note(Some(Duration::from_millis(10)));
        assert_eq!((way.rtt_us, way.failures), (Some(10_000), 0));
        way.note(Some(Duration::from_millis(50)));
        assert_eq!(way.rtt_us, Some(20_000));
        way.note(None);
        way.note(None);
        assert_eq!((way.rtt_us, way.failures), (Some(20_000), 2));
    }
}
