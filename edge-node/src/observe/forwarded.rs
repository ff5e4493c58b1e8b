//! Counts of the requests that this node sent to others, by node and what became of them.

use std::sync::Arc;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use serde::{Deserialize, Serialize};

use super::labelled::{Counts, Delta, Event, Label, Labelled, fits};

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

impl Event for ForwardOutcome {
    fn place(self) -> usize {
        self as usize
    }
}

/// Counts of one node.
pub(crate) type Forwarded = Counts<ForwardOutcome, { OUTCOMES.len() }>;

/// A node, by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct NodeLabel(String);

impl Label for NodeLabel {
    const LABELLED_MAX: usize = NODES_LABELLED_MAX;

    fn other() -> Self {
        Self(OTHER.to_owned())
    }

    fn fits(&self) -> bool {
        fits(&self.0, NAME_BYTES_MAX)
    }
}

/// Counts of all nodes.
pub(super) type ForwardedByNode = Labelled<NodeLabel, ForwardOutcome, { OUTCOMES.len() }>;

/// What was counted since it was last asked, as it travels.
pub(super) type ForwardedDelta = Delta<NodeLabel>;

impl ForwardedByNode {
    /// The counts of a node.
    pub(super) fn of_node(&self, node: &str) -> Arc<Forwarded> {
        self.of(NodeLabel(node.to_owned()))
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
            for outcome in OUTCOMES {
                let labels = [("node", node.0.as_str()), ("outcome", outcome.as_str())];
                family
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, _, f64>(&counts.of(outcome), None)?;
            }
        }
        Ok(())
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
