//! How many isolates fit on this machine, and what stops them?

use std::time::Duration;

use serde::Serialize;

use super::{Stage, calls, megabytes, settle, tenants};
use crate::calls::Pace;
use crate::footprint::{Held, kilobytes};
use crate::servers::{Fleet, Kind};

/// Workers deployed and called before the limits are looked at again.
const BATCH: usize = 500;
/// Connections that first calls are made on, for each serving process: which one gets a connection is chance, and
/// with many they all get about as much.
const CONNECTIONS: usize = 16;
/// A node's metrics are up to date after this long: its processes report each second.
const METRICS_WITHIN: Duration = Duration::from_millis(1_500);
/// The part of the machine's memory, and of a process's mappings, that is used at most.
const USED_MAX: f64 = 0.9;
const MAPPINGS_MAX: f64 = 0.95;
/// With less than this part of a batch left loaded, the node is full.
const KEPT_MIN: f64 = 0.5;

/// How far it came.
#[derive(Serialize)]
pub(super) struct Filled {
    wanted: usize,
    called: usize,
    isolates: f64,
    processes: usize,
    growth: Held,
    errors: u64,
    /// What ended it, in a sentence.
    stopped_by: String,
}

/// Deploys and calls workers until `wanted` isolates are loaded or something forbids more.
pub(super) fn measure(stage: &Stage, wanted: usize) -> Result<Filled, String> {
    // What the machine has is looked at here: that one process got more than its part must not end it.
    let config = format!("memory.process_bytes_max = {}", memory().total_bytes);
    let mut fleet = Fleet::start(&stage.site, Kind::Atoll, &[], &config)?;
    settle();
    let before = fleet.footprint()?;
    let mut filled = Filled {
        wanted,
        called: 0,
        isolates: 0.0,
        processes: before.processes(),
        growth: Held::default(),
        errors: 0,
        stopped_by: String::new(),
    };
    let mappings_max = mappings_limit();
    let connections = CONNECTIONS * stage.site.processes;
    loop {
        let batch = tenants::small_apis(filled.called, filled.called + BATCH);
        if let Err(error) = fleet.deploy(&batch) {
            filled.stopped_by = format!("a deployment failed: {error}");
            break;
        }
        let seen = stage.make(&calls(&fleet, &batch, Pace::BackToBack(connections)))?;
        if let Err(error) = fleet.check_alive() {
            filled.stopped_by = format!("the node died: {error}");
            break;
        }
        std::thread::sleep(METRICS_WITHIN);
        let live = fleet.isolates_live()?.unwrap_or((filled.called + BATCH) as f64);
        let loaded = live - filled.isolates;
        let now = fleet.footprint()?;
        filled.called += BATCH;
        filled.isolates = live;
        filled.growth = now.since(&before);
        filled.errors += seen.errors;
        eprintln!("density: {live:.0} isolates loaded");
        let mappings = now.mappings_max();
        filled.stopped_by = if let Some(error) = seen.first_error {
            format!("calls failed: {error}")
        } else if live >= wanted as f64 {
            "nothing: all that were wanted are loaded".to_owned()
        } else if memory().used_share > USED_MAX {
            format!("memory: {:.0} % of the machine's is used", memory().used_share * 100.0)
        } else if mappings as f64 > mappings_max as f64 * MAPPINGS_MAX {
            format!("vm.max_map_count: a process has {mappings} mappings of {mappings_max} allowed")
        } else if loaded < BATCH as f64 * KEPT_MIN {
            "the node's own limits: it evicts".to_owned()
        } else {
            continue;
        };
        break;
    }
    Ok(filled)
}

impl Filled {
    pub(super) fn sentence(&self) -> String {
        format!(
            "Of {} wanted isolates {:.0} were loaded (processes: {}; workers called: {}; errors: {}), \
             {} MB and {:.1} mappings each. Stopped by {}.",
            self.wanted,
            self.isolates,
            self.processes,
            self.called,
            self.errors,
            megabytes(self.growth.pss_bytes as f64 / self.isolates.max(1.0)),
            self.growth.mappings as f64 / self.isolates.max(1.0),
            self.stopped_by,
        )
    }
}

fn mappings_limit() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
    text.trim().parse().unwrap_or(u64::MAX)
}

/// The machine's memory.
struct Memory {
    total_bytes: u64,
    /// The part of it that is not available.
    used_share: f64,
}

fn memory() -> Memory {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = kilobytes(&text, "MemTotal:").max(1);
    let available = kilobytes(&text, "MemAvailable:");
    Memory { total_bytes: total * 1024, used_share: 1.0 - available as f64 / total as f64 }
}
