//! Do workers that a memory budget has no room for come and go without an error?

use serde::Serialize;

use super::random::Random;
use super::{Stage, Summary, Tenant, calls, first_error, ms, one_line, settle};
use crate::calls::Pace;
use crate::histogram::Histogram;
use crate::servers::{Fleet, Kind};

/// What a small worker's isolate is charged with, of a budget that is kept below its end.
const CHARGED_BYTES: usize = 2 << 20;
/// What an isolate may hold by default, in bytes.
const ISOLATE_BYTES_MAX: usize = 128 << 20;
const SEED: u64 = 300;
/// Every worker is called so often, in another order each time.
const PASSES: usize = 2;

/// What happened on a node whose budget is too small for all its workers.
#[derive(Serialize)]
pub(super) struct Budgeted {
    config: String,
    workers: usize,
    latency: Summary,
    errors: u64,
    first_error: Option<String>,
    evictions: Option<f64>,
    isolates_live: Option<f64>,
    /// Why nothing was measured.
    refused: Option<String>,
}

/// The configuration of a node that fits about so many small isolates. No isolate may hold more than all.
pub(super) fn config(stage: &Stage, isolates: usize) -> String {
    let bytes = isolates * CHARGED_BYTES;
    let text = stage.budget_config.replace("{isolates}", &isolates.to_string());
    let text = text.replace("{bytes}", &bytes.to_string());
    format!("{text}\nlimits.memory_bytes_max = {}\n", bytes.min(ISOLATE_BYTES_MAX))
}

/// Calls all tenants in random order.
pub(super) fn measure(
    stage: &Stage,
    isolates: usize,
    tenants: &[Tenant],
) -> Result<Budgeted, String> {
    eprintln!("density: a budget that fits {isolates} of {} workers", tenants.len());
    let config = config(stage, isolates);
    let fleet = match Fleet::start(&stage.site, Kind::Atoll, tenants, &config) {
        Ok(fleet) => fleet,
        Err(error) => return Ok(Budgeted::refused(config, tenants.len(), error)),
    };
    settle();
    let mut random = Random::new(SEED);
    let mut plan = calls(&fleet, tenants, Pace::BackToBack(1));
    plan.order = (0..PASSES).flat_map(|_| random.shuffled(tenants.len())).collect();
    let seen = stage.make(&plan)?;
    Ok(Budgeted {
        config,
        workers: tenants.len(),
        latency: Summary::of(&seen.latencies[0]),
        errors: seen.errors,
        first_error: seen.first_error,
        evictions: fleet.evictions()?,
        isolates_live: fleet.isolates_live()?,
        refused: None,
    })
}

impl Budgeted {
    fn refused(config: String, workers: usize, error: String) -> Self {
        let latency = Summary::of(&Histogram::new());
        let (first_error, evictions, isolates_live) = (None, None, None);
        let refused = Some(error);
        Self { config, workers, latency, errors: 0, first_error, evictions, isolates_live, refused }
    }

    pub(super) fn sentence(&self) -> String {
        if let Some(error) = &self.refused {
            return format!("With `{}`: not measured, {}", one_line(&self.config), one_line(error));
        }
        let count = |value: Option<f64>| {
            value.map_or_else(|| "an unknown number of".to_owned(), |value| format!("{value:.0}"))
        };
        format!(
            "With `{}` all {} workers were called {PASSES} times in random order, back to back: {} \
             errors, {} evictions, {} isolates live at the end; p50 {} ms, p99 {} ms.{}",
            one_line(&self.config),
            self.workers,
            self.errors,
            count(self.evictions),
            count(self.isolates_live),
            ms(self.latency.p50_ms),
            ms(self.latency.p99_ms),
            first_error(&self.first_error),
        )
    }
}
