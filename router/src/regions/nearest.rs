//! Which of several nodes gets a request: one of the nearest, and of two of these the less busy one.

/// A usual round trip above this, in microseconds, makes a node too slow to be preferred.
pub const RTT_US_MAX: u64 = 1_000_000;

/// Round trips that differ by less than this, in microseconds, are as good as equal.
const RTT_US_EQUAL: u64 = 1_000;

/// A node that could get the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Near {
    /// The usual time from a question to its answer, in microseconds.
    pub rtt_us: u64,
    /// Requests under way there, as far as is known.
    pub load: u64,
}

/// The place of the node that gets it; none when there are none. Those whose round trip is up to a quarter, or a
/// millisecond, above the shortest are equally near. `draw` gives a number below its argument: two of the near
/// ones are drawn, so that not everybody runs to the one that was idle a second ago.
pub fn nearest(nodes: &[Near], mut draw: impl FnMut(usize) -> usize) -> Option<usize> {
    let best = nodes.iter().map(|node| node.rtt_us).min()?;
    let limit = best.saturating_add((best / 4).max(RTT_US_EQUAL));
    let near: Vec<usize> = (0..nodes.len()).filter(|at| nodes[*at].rtt_us <= limit).collect();
    let first = draw(near.len()) % near.len();
    if near.len() == 1 {
        return Some(near[0]);
    }
    let step = 1 + draw(near.len() - 1) % (near.len() - 1);
    let (first, second) = (near[first], near[(first + step) % near.len()]);
    let busy = |at: usize| (nodes[at].load, nodes[at].rtt_us);
    Some(if busy(second) < busy(first) { second } else { first })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(rtt_us: u64, load: u64) -> Near {
        Near { rtt_us, load }
    }

    /// Everyone that some draw gives.
    fn chosen(nodes: &[Near]) -> Vec<usize> {
        let mut all = Vec::new();
        for a in 0..nodes.len() {
            for b in 0..nodes.len() {
                let mut draws = [a, b].into_iter();
                all.extend(nearest(nodes, |_| draws.next().unwrap()));
            }
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    #[test]
    fn the_near_get_it_and_of_two_the_idle_one() {
        assert_eq!(nearest(&[], |_| 0), None);
        assert_eq!(chosen(&[node(50_000, 0), node(9_000, 900), node(200_000, 0)]), [1]);
        assert_eq!(chosen(&[node(9_000, 900), node(9_900, 3)]), [1]);
        assert_eq!(chosen(&[node(300, 5), node(1_200, 5), node(4_000, 0)]), [0]);
        assert_eq!(chosen(&[node(100_000, 9), node(120_000, 1), node(120_000, 1)]), [1, 2]);
    }

    #[test]
    fn the_busiest_of_three_gets_nothing() {
        let nodes = [node(1_000, 100), node(1_000, 1), node(1_000, 2)];
        assert!(!chosen(&nodes).contains(&0));
    }
}
