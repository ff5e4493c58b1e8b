//! Takes back variants that fare worse than their guardrail lets them, on one node of a cluster at a time. It gives
//! nothing back: that is for people.

use std::sync::Arc;
use std::time::Duration;

use atoll_router::rules::{Guardrail, Overlay, Rule, RuleSet, State};
use tokio::sync::watch;

use super::batch::Served;
use super::keeper::Experiments;
use super::statistics::share_above;
use super::{NOBODY, StoreError};
use crate::registry::{Registry, Section, Snapshot, WorkerRef, WorkerRules, now_ms};

/// How often variants are looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// How far back a guardrail looks.
const WINDOW_MS: u64 = 60 * 60 * 1_000;
/// A higher rate of errors counts only if chance makes such a difference more seldom than this.
const CHANCE_MAX: f64 = 0.01;

/// Looks at every guardrail again and again while `holds` says that this node does so, until `leave`.
pub(crate) async fn watch_guardrails(
    experiments: Experiments,
    registry: Registry,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    holds: impl Fn() -> bool + Send,
    mut leave: watch::Receiver<bool>,
) {
    let mut guarded = Guarded::default();
    while !*leave.borrow() {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            // On a node by itself nobody says so.
            Ok(_) = leave.wait_for(|leave| *leave) => return,
        }
        let snapshot = snapshots.borrow().clone();
        guarded.compile(&snapshot);
        if guarded.sets.is_empty() || !holds() {
            continue;
        }
        let (sets, experiments, registry) =
            (guarded.sets.clone(), experiments.clone(), registry.clone());
        // It reads files, and a change of rules may wait for the cluster.
        let looked = tokio::task::spawn_blocking(move || {
            for (source, set) in &sets {
                look(&experiments, &registry, &source.worker, set);
            }
        });
        if looked.await.is_err() {
            tracing::error!("looking at guardrails failed");
        }
    }
}

/// The rules that have guardrails, compiled once for each change.
#[derive(Default)]
struct Guarded {
    source: Section<WorkerRules>,
    sets: Vec<(Arc<WorkerRules>, Arc<RuleSet>)>,
}

impl Guarded {
    fn compile(&mut self, snapshot: &Snapshot) {
        if self.source.is(&snapshot.rules) {
            return;
        }
        self.source = snapshot.rules.clone();
        let before = std::mem::take(&mut self.sets);
        let with_guardrail =
            snapshot.rules.iter().filter(|rules| rules.document.contains("\"guardrail\""));
        self.sets = with_guardrail
            .filter_map(|source| {
                if let Some((_, set)) = before.iter().find(|(known, _)| known == source) {
                    return Some((source.clone(), set.clone()));
                }
                let document = serde_json::from_str(&source.document).ok()?;
                let overlay = serde_json::from_str::<Overlay>(&source.overlay).ok()?;
                Some((source.clone(), Arc::new(RuleSet::parse(&document, overlay).ok()?)))
            })
            .collect();
    }
}

/// Takes back whatever variant of the worker's rules is worse than it may be.
fn look(experiments: &Experiments, registry: &Registry, worker: &WorkerRef, set: &RuleSet) {
    for rule in set.rules().iter().filter(|rule| rule.state() == State::On) {
        let Some(guardrail) = rule.guardrail() else { continue };
        let worse = match worse(experiments, worker, set, rule, guardrail) {
            Ok(worse) => worse,
            Err(error) => return tracing::warn!(%error, "guardrails cannot be looked at"),
        };
        for (variant, why) in worse {
            let (name, rule) = (worker.worker.as_str(), rule.name());
            match registry.roll_back(worker, rule, &variant, &why) {
                Ok(()) => tracing::warn!(
                    worker = name,
                    account = worker.account.as_str(),
                    rule,
                    variant,
                    why,
                    "a guardrail took a variant back: `atoll rules enable` gives it again"
                ),
                // It is looked at again in a moment.
                Err(error) => {
                    tracing::warn!(worker = name, rule, variant, %error, "a variant cannot be taken back now")
                }
            }
        }
    }
}

/// The variants that are worse than they may be, each with the reason.
fn worse(
    experiments: &Experiments,
    worker: &WorkerRef,
    set: &RuleSet,
    rule: &Rule,
    guardrail: &Guardrail,
) -> Result<Vec<(String, String)>, StoreError> {
    let anew = set.overlay().guarded_since_ms.get(rule.name()).copied().unwrap_or(0);
    let since_ms = anew.max(now_ms().saturating_sub(WINDOW_MS));
    let served = experiments.served_since(worker, rule.name(), rule.seed(), since_ms)?;
    let of = |name: &str| served.iter().find(|(known, _)| known == name).map(|(_, all)| all);
    let control = match rule.compares_with_nobody() {
        true => NOBODY,
        false => rule.variants()[rule.control()].name(),
    };
    let Some(control_served) = of(control) else { return Ok(Vec::new()) };
    let others = rule
        .variants()
        .iter()
        .enumerate()
        .filter(|(place, variant)| variant.name() != control && !rule.is_rolled_back(*place));
    let found = others.filter_map(|(_, variant)| {
        let why = verdict(guardrail, of(variant.name())?, control_served)?;
        Some((variant.name().to_owned(), why))
    });
    Ok(found.collect())
}

/// Why a variant is worse than it may be, if it is.
fn verdict(guardrail: &Guardrail, variant: &Served, control: &Served) -> Option<String> {
    if variant.requests.min(control.requests) < guardrail.requests_min {
        return None;
    }
    let (of_variant, of_control) = (variant.error_share(), control.error_share());
    if let Some(most) = guardrail.error_points_max {
        let points = (of_variant.rate() - of_control.rate()) * 100.0;
        if points > most && share_above(of_variant, of_control) < CHANCE_MAX {
            return Some(format!(
                "{:.2} % of {} requests failed, of the control {:.2} % of {}",
                of_variant.rate() * 100.0,
                variant.requests,
                of_control.rate() * 100.0,
                control.requests
            ));
        }
    }
    let most = guardrail.p99_ms_max?;
    let slowest = |served: &Served| served.latency.quantile_ms(0.99);
    let (own, by) = (slowest(variant)?, slowest(control)?);
    (own - by > most).then(|| format!("its p99 was {own:.1} ms, that of the control {by:.1} ms"))
}

#[cfg(test)]
mod tests {
    use super::super::latency::bucket;
    use super::*;

    fn served(requests: u64, errors: u64, micros: u64) -> Served {
        let mut served = Served { requests, errors, ..Served::default() };
        served.latency.add(bucket(micros), requests);
        served
    }

    #[test]
    fn a_variant_is_taken_back_only_for_a_difference_that_is_there() {
        let rail = |error_points_max, p99_ms_max| Guardrail {
            error_points_max,
            p99_ms_max,
            requests_min: 100,
        };
        let good = served(1_000, 1, 5_000);
        for (guardrail, variant, expected) in [
            (rail(Some(1.0), None), served(1_000, 1, 5_000), None),
            (rail(Some(1.0), None), served(99, 99, 5_000), None),
            // More than may be, and chance may have made it.
            (rail(Some(0.5), None), served(100, 1, 5_000), None),
            (rail(Some(1.0), None), served(1_000, 50, 5_000), Some("5.00 % of 1000")),
            (rail(Some(10.0), None), served(1_000, 50, 5_000), None),
            (rail(None, Some(20.0)), served(1_000, 50, 5_000), None),
            (rail(None, Some(20.0)), served(1_000, 0, 50_000), Some("its p99 was")),
        ] {
            let found = verdict(&guardrail, &variant, &good);
            match expected {
                None => assert_eq!(found, None),
                Some(text) => {
                    assert!(found.clone().unwrap_or_default().contains(text), "{found:?}")
                }
            }
        }
    }
}
