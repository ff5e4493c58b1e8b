//! What a serving process saw since it last told, as it travels.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::latency::Latency;
use crate::registry::WorkerRef;

/// Variants of one rule, those who got nothing among them.
const VARIANTS_MAX: usize = atoll_router::rules::VARIANTS_MAX + 1;
/// The longest name of a rule, a seed, a variant or a metric, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// The largest sum of one unit's values in one batch.
const SUM_MAX: f64 = 1e18;

/// What was seen of some experiments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Batch {
    /// When it was put together: milliseconds since the Unix epoch.
    pub(super) at_ms: u64,
    pub(super) seen: Vec<Seen>,
    /// Exposures and outcomes that found no room.
    pub(super) dropped: u64,
}

/// What was seen of one experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) worker: WorkerRef,
    pub(super) rule: String,
    pub(super) seed: String,
    /// The variants by name, with the buckets that each has now.
    pub(super) variants: Vec<(String, u16)>,
    /// By a variant's place, the hashes of units that saw it.
    pub(super) exposures: Vec<(u8, u64)>,
    pub(super) outcomes: Vec<Told>,
    /// By a variant's place.
    pub(super) served: Vec<(u8, Served)>,
}

/// What a unit did, by one metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) metric: String,
    /// The unit's hash.
    pub(super) unit: u64,
    pub(super) sum: f64,
    pub(super) times: u32,
}

/// How requests of one variant fared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Served {
    pub(super) requests: u64,
    /// Those that were answered with a status of 500 or more.
    pub(super) errors: u64,
    pub(super) latency: Latency,
}

impl Served {
    pub(super) fn merge(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.errors = self.errors.saturating_add(other.errors);
        self.latency.merge(&other.latency);
    }
}

impl Seen {
    /// The same experiment without anything seen of it.
    fn emptied(&self) -> Self {
        let (exposures, outcomes, served) = (Vec::new(), Vec::new(), Vec::new());
        let Self { worker, rule, seed, variants, .. } = self;
        let (worker, rule) = (worker.clone(), rule.clone());
        let (seed, variants) = (seed.clone(), variants.clone());
        Self { worker, rule, seed, variants, exposures, outcomes, served }
    }

    /// Whether it can be what a process saw. A process that runs tenants' code is not believed.
    fn is_sound(&self) -> bool {
        let named = |name: &str| !name.is_empty() && name.len() <= NAME_BYTES_MAX;
        let names: HashSet<&str> = self.variants.iter().map(|(name, _)| name.as_str()).collect();
        let known = |place: u8| usize::from(place) < self.variants.len();
        named(&self.rule)
            && named(&self.seed)
            && names.len() == self.variants.len()
            && (1..=VARIANTS_MAX).contains(&names.len())
            && names.iter().all(|name| named(name))
            && self.exposures.iter().all(|(place, _)| known(*place))
            && self.outcomes.iter().all(|told| named(&told.metric) && told.sum.abs() <= SUM_MAX)
            && self.served.iter().all(|(place, served)| {
                known(*place) && served.errors <= served.requests && served.latency.is_sound()
            })
    }
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.seen.is_empty() && self.dropped == 0
    }

    /// Keeps what a process can have seen, of rules that `there` says are there.
    pub(super) fn retain_sound(&mut self, there: impl Fn(&WorkerRef, &str) -> bool) {
        self.seen.retain(|seen| seen.is_sound() && there(&seen.worker, &seen.rule));
    }

    /// The same in parts of at most so many exposures and outcomes.
    pub(super) fn split(self, items_max: usize) -> Vec<Self> {
        let (at_ms, mut dropped) = (self.at_ms, self.dropped);
        let mut parts = Vec::new();
        for seen in self.seen {
            let (exposures, outcomes) = (seen.exposures.clone(), seen.outcomes.clone());
            let mut first = seen.emptied();
            first.served = seen.served.clone();
            let mut pieces = vec![first];
            pieces.extend(exposures.chunks(items_max).map(|chunk| {
                let mut piece = seen.emptied();
                piece.exposures = chunk.to_vec();
                piece
            }));
            pieces.extend(outcomes.chunks(items_max).map(|chunk| {
                let mut piece = seen.emptied();
                piece.outcomes = chunk.to_vec();
                piece
            }));
            let empty = seen.emptied();
            for piece in pieces.into_iter().filter(|piece| *piece != empty) {
                parts.push(Self {
                    at_ms,
                    seen: vec![piece],
                    dropped: std::mem::take(&mut dropped),
                });
            }
        }
        parts
    }
}
