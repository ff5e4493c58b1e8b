//! Questions about many workers on one server, asked of atoll and workerd in one run: each deploys
//! its workers, calls them one by one or all together, and writes down what it found.

mod budget;
mod cold_start;
mod density;
mod fairness;
mod fill;
mod findings;
mod random;
mod spread;
mod tenants;

use std::time::Duration;

use serde::Serialize;

use crate::calls::{Calls, Pace, Seen};
use crate::generator;
use crate::histogram::Histogram;
use crate::servers::{Fleet, Kind, Site, callees};

pub(crate) use cold_start::{Args as ColdStartArgs, ask as cold_start};
pub(crate) use density::{Args as DensityArgs, ask as density};
pub(crate) use fairness::{Args as FairnessArgs, ask as fairness};
pub(crate) use findings::Findings;
pub(crate) use spread::{Args as SpreadArgs, ask as spread};
pub(crate) use tenants::Tenant;

/// How long a server is left alone before its memory is read or its first call made, so that
/// what it does off the request path is done.
const SETTLE: Duration = Duration::from_secs(3);
/// A call that has no answer by then has failed.
const CALL_WITHIN_MS: u64 = 10_000;

/// Where questions are asked.
pub(crate) struct Stage {
    pub(crate) site: Site,
    /// The servers that host many workers.
    pub(crate) kinds: Vec<Kind>,
    pub(crate) load_core: usize,
    /// The configuration of a node that holds `{isolates}` small isolates, or `{bytes}` of them.
    pub(crate) budget_config: String,
}

impl Stage {
    /// Makes calls in a process of its own, on its own core.
    fn make(&self, calls: &Calls) -> Result<Seen, String> {
        let input = serde_json::to_vec(calls).map_err(|error| error.to_string())?;
        generator::measure(Some(self.load_core), "calls", [], &input)
    }

    /// Measures each server in turn. A peer that does not survive it becomes a note; our own failure is one.
    fn each<T>(
        &self,
        measure: impl Fn(Kind) -> Result<T, String>,
    ) -> Result<(Vec<T>, Vec<String>), String> {
        let (mut all, mut notes) = (Vec::new(), Vec::new());
        for &kind in &self.kinds {
            match measure(kind) {
                Ok(one) => all.push(one),
                Err(error) if kind != Kind::Atoll => {
                    notes.push(format!("{}: not measured, {}", kind.name(), one_line(&error)));
                }
                Err(error) => return Err(error),
            }
        }
        Ok((all, notes))
    }

    /// Whether atoll is among the servers.
    fn has_atoll(&self) -> bool {
        self.kinds.contains(&Kind::Atoll)
    }
}

/// Calls to each of the tenants in turn, once.
fn calls(fleet: &Fleet<'_>, tenants: &[Tenant], pace: Pace) -> Calls {
    Calls {
        target: fleet.address(),
        callees: callees(tenants),
        order: (0..tenants.len()).collect(),
        unrecorded: 0,
        pace,
        times: 1,
        within_ms: CALL_WITHIN_MS,
        neighbour: None,
    }
}

fn settle() {
    std::thread::sleep(SETTLE);
}

/// The figures of a histogram that are written down.
#[derive(Clone, Copy, Serialize)]
struct Summary {
    calls: u64,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

impl Summary {
    fn of(latencies: &Histogram) -> Self {
        Self {
            calls: latencies.total(),
            p50_ms: latencies.quantile_ms(0.5),
            p90_ms: latencies.quantile_ms(0.9),
            p99_ms: latencies.quantile_ms(0.99),
            max_ms: latencies.quantile_ms(1.0),
        }
    }
}

/// Milliseconds with as many digits as they deserve.
fn ms(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

fn megabytes(bytes: f64) -> String {
    format!("{:.2}", bytes / 1e6)
}

/// A message of several lines as part of a sentence.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A sentence about it, if there was one.
fn first_error(error: &Option<String>) -> String {
    error.as_ref().map_or_else(String::new, |error| format!(" First error: {}.", one_line(error)))
}
