//! Counts of the requests that this node sent to others, by node and what became of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// Nodes with labels of their own; others share the label `other`.
const NODES_LABELLED_MAX: usize = 100;
/// Bytes of a node's name.
const NAME_BYTES_MAX: usize = 64;
/// The label of nodes that have none of their own.
const OTHER: &str = "other";

/// What became of one attempt to have another node serve a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ForwardOutcome {
    /// The node answered.
    Answered,
    /// Nothing was sent: the node could not be reached.
    Unreachable,
    /// The node said that it did not begin with it.
    Refused,
    /// There was no answer, and whether the node acted upon it is unknown.
    Lost,
    /// The client broke off.
    Canceled,
}

const OUTCOMES: [ForwardOutcome; 5] = [
    ForwardOutcome::Answered,
    ForwardOutcome::Unreachable,
    ForwardOutcome::Refused,
    ForwardOutcome::Lost,
    ForwardOutcome::Canceled,
];

impl ForwardOutcome {
    /// Its label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Lost => "lost",
            Self::Canceled => "canceled",
        }
    }
}

/// Counts of one node.
#[derive(Debug, Default)]
pub(crate) struct Forwarded([AtomicU64; OUTCOMES.len()]);

impl Forwarded {
    /// Counts one attempt.
    pub(crate) fn count(&self, outcome: ForwardOutcome) {
        self.0[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts of all nodes.
#[derive(Debug, Default)]
pub(super) struct ForwardedByNode(Mutex<BTreeMap<String, Arc<Forwarded>>>);

/// What was counted since it was last asked, as it travels.
pub(super) type ForwardedDelta = Vec<(String, Vec<u64>)>;

impl ForwardedByNode {
    /// The counts of a node.
    pub(super) fn of(&self, node: &str) -> Arc<Forwarded> {
        let mut nodes = self.lock();
        if let Some(known) = nodes.get(node) {
            return known.clone();
        }
        let fits = nodes.len() < NODES_LABELLED_MAX && node.len() <= NAME_BYTES_MAX;
        let label = if fits && !node.contains(char::is_control) { node } else { OTHER };
        nodes.entry(label.to_owned()).or_default().clone()
    }

    /// Takes out what was counted.
    pub(super) fn drain(&self) -> ForwardedDelta {
        let nodes = self.lock();
        let taken = nodes.iter().map(|(node, counts)| {
            let counts = counts.0.iter().map(|count| count.swap(0, Ordering::Relaxed));
            (node.clone(), counts.collect::<Vec<_>>())
        });
        taken.filter(|(_, counts)| counts.iter().any(|count| *count > 0)).collect()
    }

    /// Adds what another process counted.
    pub(super) fn add(&self, delta: ForwardedDelta) {
        for (node, counts) in delta.into_iter().take(NODES_LABELLED_MAX + 1) {
            let sums = self.of(&node);
            for (sum, count) in sums.0.iter().zip(counts) {
                sum.fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn encode(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        let nodes = self.lock();
        if nodes.is_empty() {
            return Ok(());
        }
        let help = "Requests that were sent to other nodes, by what became of them";
        let mut family =
            encoder.encode_descriptor("forwarded_requests", help, None, MetricType::Counter)?;
        for (node, counts) in &*nodes {
            for (outcome, count) in OUTCOMES.iter().zip(&counts.0) {
                let labels = [("node", node.as_str()), ("outcome", outcome.as_str())];
                let count = count.load(Ordering::Relaxed);
                family
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, _, f64>(&count, None)?;
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Forwarded>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Metrics;

    #[test]
    fn counts_travel_and_are_shown_with_bounded_labels() {
        let (own, sum) = (Metrics::default(), Arc::new(Metrics::default()));
        for n in 0..NODES_LABELLED_MAX + 5 {
            own.forwarded(&format!("n{n}")).count(ForwardOutcome::Lost);
        }
        own.forwarded("n1").count(ForwardOutcome::Answered);
        sum.add(1, own.drain());
        sum.add(1, own.drain());
        let text = sum.render();
        for line in [
            r#"atoll_forwarded_requests_total{node="n1",outcome="answered"} 1"#,
            r#"atoll_forwarded_requests_total{node="n1",outcome="lost"} 1"#,
            r#"atoll_forwarded_requests_total{node="other",outcome="lost"} 5"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}
