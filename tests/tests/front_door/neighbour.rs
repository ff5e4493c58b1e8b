//! An ordinary client, who must not notice what others do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use atoll_tests::{Node, Process, Protocol};
use tokio::task::JoinSet;

/// What all processes of a node may hold more than before: a debug build's allocator gives little back.
const MEMORY_BYTES_MAX: u64 = 128 << 20;

/// Clients that ask over and over until they are told to stop.
pub(crate) struct Neighbours {
    over: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    asking: JoinSet<()>,
    before: u64,
}

impl Neighbours {
    /// Lets one client ask on a connection that it keeps, and others on new connections of each protocol.
    pub(crate) async fn beside(node: &Node) -> Self {
        let (over, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut asking = JoinSet::new();
        let mut kept = node.request("door", "/kept").keep_alive().await.unwrap();
        let (done, count) = (over.clone(), served.clone());
        asking.spawn(async move {
            while !done.load(Ordering::Relaxed) {
                assert_eq!(kept.get().await.unwrap().status, 200);
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        for protocol in [Protocol::Http1, Protocol::Http2, Protocol::Https2] {
            let request = node.request("door", "/new").over(protocol);
            let (done, count) = (over.clone(), served.clone());
            asking.spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let reply = request.clone().send().await;
                    let reply = reply.unwrap_or_else(|error| panic!("{protocol:?}: {error}"));
                    assert_eq!(reply.status, 200, "{protocol:?}");
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self { over, served, asking, before: node.memory_rss_bytes() }
    }

    /// Stops them: all must have been served without one failure meanwhile, by a node that has not grown and
    /// still has its processes.
    pub(crate) async fn unharmed(mut self, node: &Node, processes: &[Process]) {
        // A flood may be over before anybody has asked once.
        for _ in 0..3 {
            assert!(!node.text("door", "/after").await.is_empty());
        }
        self.over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.asking.join_next().await {
            ended.expect("a neighbour was served");
        }
        assert!(self.served.load(Ordering::Relaxed) > 0, "the neighbours were served");
        let more = node.memory_rss_bytes().saturating_sub(self.before);
        println!(
            "{} served beside it; {} MiB more",
            self.served.load(Ordering::Relaxed),
            more >> 20
        );
        assert!(more < MEMORY_BYTES_MAX, "the node holds {} MiB more", more >> 20);
        assert_eq!(serving(node), processes, "no process has died");
    }
}

/// The node's serving processes.
pub(crate) fn serving(node: &Node) -> Vec<Process> {
    node.processes().into_iter().filter(|process| process.serves()).collect()
}
