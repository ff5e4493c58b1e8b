//! How many different workers does one server hold, and what do their first calls cost?

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;

use super::random::Random;
use super::{
    Findings, Stage, Summary, budget, calls, fill, first_error, megabytes, ms, settle, tenants,
};
use crate::calls::{Pace, Seen};
use crate::footprint::Held;
use crate::plot::{self, Bar, Panel, Scale};
use crate::results::Grid;
use crate::servers::{Fleet, Kind};

const HEADINGS: [&str; 8] = [
    "server",
    "first ms, p50 / p99",
    "warm ms",
    "first, unpaced ms",
    "random ms",
    "MB an isolate, new / idle",
    "mappings",
    "errors",
];
const SEED: u64 = 3;

/// A node gives memory of idle isolates back after a while, some at a time. It is done when what their heaps
/// hold stays the same for so long.
const STILL: Duration = Duration::from_secs(40);
const STILL_CHECK: Duration = Duration::from_secs(2);

/// How dense.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Different workers on the server.
    #[arg(long, default_value_t = Self::default().workers)]
    workers: usize,
    /// First calls a second, when they are paced.
    #[arg(long, default_value_t = Self::default().first_per_second)]
    first_per_second: f64,
    /// Random calls a second, once all workers are loaded.
    #[arg(long, default_value_t = Self::default().per_second)]
    per_second: f64,
    /// Seconds to wait at most until idle isolates have given back what they can.
    #[arg(long, default_value_t = Self::default().rest_seconds)]
    rest_seconds: u64,
    /// Seconds of random calls.
    #[arg(long, default_value_t = Self::default().seconds)]
    seconds: f64,
    /// Also call all workers of a node whose memory budget fits about this many isolates; 0: do not.
    #[arg(long, default_value_t = Self::default().budget_isolates)]
    budget_isolates: usize,
    /// Also load this many isolates into a node, or as many as the machine allows; 0: do not.
    #[arg(long, default_value_t = Self::default().isolates)]
    isolates: usize,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            workers: 2_000,
            first_per_second: 50.0,
            per_second: 500.0,
            rest_seconds: 330,
            seconds: 20.0,
            budget_isolates: 300,
            isolates: 0,
        }
    }
}

#[derive(Serialize)]
struct Dense {
    server: Kind,
    /// Nothing loaded, first calls paced; and the second call, at once after.
    first: Summary,
    warm: Summary,
    /// Nothing loaded, first calls back to back on one connection.
    first_unpaced: Summary,
    random: Summary,
    errors: u64,
    first_error: Option<String>,
    /// Isolates loaded between the two looks at memory: from the node's metrics; for a peer, one
    /// a worker.
    isolates: f64,
    evictions: Option<f64>,
    /// The whole tree before the first call, and its growth until each worker was called.
    idle: Held,
    growth: Held,
    /// Its growth until the isolates had rested.
    rested: Held,
    processes: usize,
}

/// Asks it of each server, and of atoll with a budget and up to the machine's limits.
pub(crate) fn ask(stage: &Stage, args: &Args) -> Result<Findings, String> {
    let tenants = tenants::small_apis(0, args.workers.max(1));
    let (dense, not_measured) = stage.each(|kind| measure(stage, args, kind, &tenants))?;
    let mut notes = notes(args, &tenants, &dense);
    notes.extend(not_measured);
    let mut measured = json!({ "workers": tenants.len(), "servers": dense });
    if stage.has_atoll() && args.budget_isolates > 0 {
        let budgeted = budget::measure(stage, args.budget_isolates, &tenants)?;
        notes.push(budgeted.sentence());
        measured["budget"] = json!(budgeted);
    }
    if stage.has_atoll() && args.isolates > 0 {
        let filled = fill::measure(stage, args.isolates)?;
        notes.push(filled.sentence());
        measured["fill"] = json!(filled);
    }
    let rows = dense.iter().map(Dense::cells).collect();
    Ok(Findings {
        name: "density",
        title: "Many different workers on one server",
        grid: Grid { headings: &HEADINGS, numbers: 1..HEADINGS.len(), rows },
        notes,
        plot: plot::bars(&panels(&dense)),
        measured,
    })
}

fn measure(
    stage: &Stage,
    args: &Args,
    kind: Kind,
    tenants: &[tenants::Tenant],
) -> Result<Dense, String> {
    eprintln!("density: {} workers on {}", tenants.len(), kind.name());
    let mut fleet = Fleet::start(&stage.site, kind, tenants, "")?;
    // A node that has just taken so many workers is not what serves them later.
    fleet.restart()?;
    settle();
    let (before, live_before) = (fleet.footprint()?, fleet.isolates_live()?);
    let mut plan = calls(&fleet, tenants, Pace::PerSecond(args.first_per_second));
    plan.times = 2;
    let paced = stage.make(&plan)?;
    settle();
    let (after, live_after) = (fleet.footprint()?, fleet.isolates_live()?);
    let loaded = live_after.zip(live_before).map(|(after, before)| after - before);
    rest(&fleet, Duration::from_secs(args.rest_seconds))?;
    let rested = fleet.footprint()?;

    let mut random = Random::new(SEED);
    let mut plan = calls(&fleet, tenants, Pace::PerSecond(args.per_second));
    let count = (args.per_second * args.seconds) as usize;
    plan.order = (0..count).map(|_| random.below(tenants.len())).collect();
    let randomly = stage.make(&plan)?;
    let evictions = fleet.evictions()?;

    fleet.restart()?;
    settle();
    let unpaced = stage.make(&calls(&fleet, tenants, Pace::BackToBack(1)))?;
    let all = [&paced, &randomly, &unpaced];
    Ok(Dense {
        server: kind,
        first: Summary::of(&paced.latencies[0]),
        warm: Summary::of(&paced.latencies[1]),
        first_unpaced: Summary::of(&unpaced.latencies[0]),
        random: Summary::of(&randomly.latencies[0]),
        errors: all.iter().map(|seen| seen.errors).sum(),
        first_error: all.iter().find_map(|seen: &&Seen| seen.first_error.clone()),
        isolates: loaded.unwrap_or(tenants.len() as f64),
        evictions,
        idle: before.total(),
        growth: after.since(&before),
        rested: rested.since(&before),
        processes: after.processes(),
    })
}

/// Waits until a node's idle isolates have given memory back. Peers have nothing to wait for.
fn rest(fleet: &Fleet, longest: Duration) -> Result<(), String> {
    let heaps = || fleet.metric(|name| name == "atoll_isolate_heap_bytes");
    let began = Instant::now();
    let (mut held, mut since) = (heaps()?, Instant::now());
    while held.is_some() && since.elapsed() < STILL && began.elapsed() < longest {
        sleep(STILL_CHECK);
        let now = heaps()?;
        if now != held {
            (held, since) = (now, Instant::now());
        }
    }
    Ok(())
}

impl Dense {
    fn bytes_each(&self) -> f64 {
        self.growth.pss_bytes as f64 / self.isolates.max(1.0)
    }

    fn bytes_each_rested(&self) -> f64 {
        self.rested.pss_bytes as f64 / self.isolates.max(1.0)
    }

    fn cells(&self) -> Vec<String> {
        let pairs = [&self.first, &self.warm, &self.first_unpaced, &self.random];
        let mut cells = vec![self.server.name().to_owned()];
        cells.extend(
            pairs.iter().map(|summary| format!("{} / {}", ms(summary.p50_ms), ms(summary.p99_ms))),
        );
        cells.push(format!(
            "{} / {}",
            megabytes(self.bytes_each()),
            megabytes(self.bytes_each_rested())
        ));
        cells.push(format!("{:.1}", self.growth.mappings as f64 / self.isolates.max(1.0)));
        cells.push(self.errors.to_string());
        cells
    }

    fn bar(&self, value: f64, text: String) -> Bar {
        let label = self.server.name().to_owned();
        Bar { label, value, text, ours: self.server == Kind::Atoll }
    }
}

fn notes(args: &Args, tenants: &[tenants::Tenant], dense: &[Dense]) -> Vec<String> {
    let bytes: usize = tenants.iter().map(|tenant| tenant.source.len()).sum();
    let mut notes = vec![format!(
        "{} workers of {:.1} kB on average, no two alike, each a small API; server and load \
         generator on one core each. *First*: nothing loaded, {} first calls a second, so that \
         spare isolates can be made in between; *warm*: the second call, at once after; *unpaced*: \
         first calls back to back on one connection; *random*: {} calls a second for {} s. \
         workerd loads each worker on demand by its worker loader; its calls pass through the \
         worker that loads.",
        tenants.len(),
        bytes as f64 / tenants.len() as f64 / 1e3,
        args.first_per_second,
        args.per_second,
        args.seconds,
    )];
    for one in dense {
        notes.push(format!(
            "{}: a first call costs {} ms more than a warm one (p50). Its tree of processes ({}) grew \
             by {:.0} MB (Pss; {:.0} MB of private pages) for {:.0} isolates, from {:.0} MB. {}.{}",
            one.server.name(),
            ms(one.first.p50_ms - one.warm.p50_ms),
            one.processes,
            one.growth.pss_bytes as f64 / 1e6,
            one.growth.private_bytes as f64 / 1e6,
            one.isolates,
            one.idle.pss_bytes as f64 / 1e6,
            one.evictions.map_or_else(
                || "Evictions: not reported".to_owned(),
                |evictions| format!("Evictions: {evictions:.0}")
            ),
            first_error(&one.first_error),
        ));
    }
    if let [atoll, peer, ..] = dense {
        notes.insert(
            0,
            format!(
                "**A first call on {} takes {:.2} of {}'s (p50), an idle isolate {:.2} of its memory.**",
                atoll.server.name(),
                atoll.first.p50_ms / peer.first.p50_ms,
                peer.server.name(),
                atoll.bytes_each_rested() / peer.bytes_each_rested(),
            ),
        );
    }
    notes
}

fn panels(dense: &[Dense]) -> Vec<Panel> {
    let panel = |title: &str, bar: &dyn Fn(&Dense) -> Bar| Panel {
        title: title.to_owned(),
        scale: Scale::Linear,
        bars: dense.iter().map(bar).collect(),
    };
    let time = |pick: fn(&Dense) -> &Summary| {
        move |one: &Dense| {
            let Summary { p50_ms, p99_ms, .. } = *pick(one);
            one.bar(p50_ms, format!("{} ms (p99 {})", ms(p50_ms), ms(p99_ms)))
        }
    };
    vec![
        panel("first call, nothing loaded: p50", &time(|one| &one.first)),
        panel("first call, unpaced: p50", &time(|one| &one.first_unpaced)),
        panel("warm call: p50", &time(|one| &one.warm)),
        panel("memory of an idle isolate", &|one| {
            one.bar(one.bytes_each_rested(), format!("{} MB", megabytes(one.bytes_each_rested())))
        }),
    ]
}
