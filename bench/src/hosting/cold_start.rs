//! How long does the first call of a worker take, as a distribution, by what the server has at
//! hand?

use serde::Serialize;
use serde_json::json;

use super::{Findings, Stage, Summary, Tenant, budget, calls, ms, one_line, settle, tenants};
use crate::calls::{Pace, Seen};
use crate::histogram::Histogram;
use crate::plot::{self, Curve};
use crate::results::Grid;
use crate::servers::{Fleet, Kind};

const HEADINGS: [&str; 8] =
    ["case", "calls", "p50 ms", "p90 ms", "p99 ms", "max ms", "warm p50 ms", "errors"];
/// Workers called before those that are measured, so that no spare isolate is left.
const DRAINING: usize = 64;
/// The part of the workers that the budget of the node that evicts has room for.
const BUDGET_PART: usize = 4;

/// How many first calls.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Workers called in each round.
    #[arg(long, default_value_t = Self::default().workers)]
    workers: usize,
    /// Rounds, each with a fresh server.
    #[arg(long, default_value_t = Self::default().rounds)]
    rounds: usize,
    /// First calls a second, when they are paced.
    #[arg(long, default_value_t = Self::default().per_second)]
    per_second: f64,
}

impl Default for Args {
    fn default() -> Self {
        Self { workers: 100, rounds: 3, per_second: 20.0 }
    }
}

/// What a server has at hand when the call comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    /// Nothing is loaded, and there is time between the calls.
    Paced,
    /// Nothing is loaded, and other workers' first calls came just before.
    BackToBack,
    /// The worker was loaded, and evicted since.
    Evicted,
}

const CASES: [(Kind, Case, &str); 5] = [
    (Kind::Atoll, Case::Paced, "atoll, spare isolates at hand"),
    (Kind::Atoll, Case::BackToBack, "atoll, back to back, spares used up"),
    (Kind::Atoll, Case::Evicted, "atoll, evicted and called again"),
    (Kind::Workerd, Case::Paced, "workerd"),
    (Kind::Workerd, Case::BackToBack, "workerd, back to back"),
];

/// One case's first calls of all rounds.
struct Cold {
    label: &'static str,
    first: Histogram,
    warm: Histogram,
    errors: u64,
    first_error: Option<String>,
    evictions: f64,
}

#[derive(Serialize)]
struct Written<'a> {
    case: &'a str,
    first: Summary,
    warm: Summary,
    errors: u64,
    first_error: &'a Option<String>,
    /// Buckets that hold latencies, and how many; see the source for their bounds.
    latencies: &'a Histogram,
}

/// Asks it for each case, in turn, round by round.
pub(crate) fn ask(stage: &Stage, args: &Args) -> Result<Findings, String> {
    let tenants = tenants::small_apis(0, args.workers.max(1) + DRAINING);
    let cases: Vec<_> = CASES.into_iter().filter(|(kind, ..)| stage.kinds.contains(kind)).collect();
    let mut cold: Vec<_> = cases.iter().map(|(_, _, label)| Cold::new(label)).collect();
    let mut notes = vec![format!(
        "{} small APIs a round, {} rounds with a fresh server each; paced calls come {} a second; \
         back to back means on one connection, after {DRAINING} first calls of other workers. \
         *Warm* is the second call, at once after. workerd loads each worker on demand by its \
         worker loader; it keeps no spares and evicts nothing.",
        args.workers, args.rounds, args.per_second,
    )];
    for round in 0..args.rounds.max(1) {
        for (&(kind, case, label), cold) in cases.iter().zip(&mut cold) {
            eprintln!("cold-start: {label}, round {}", round + 1);
            if let Err(error) = measure(stage, args, kind, case, &tenants, cold) {
                let error = one_line(&error);
                notes.push(format!("{label}, round {}: not measured, {error}", round + 1));
            }
        }
    }
    cold.retain(|cold| cold.first.total() > 0);
    for Cold { label, evictions, first_error, .. } in &cold {
        if *evictions > 0.0 {
            notes.push(format!("{label}: {evictions:.0} evictions"));
        }
        if let Some(error) = first_error {
            notes.push(format!("{label}: {}", one_line(error)));
        }
    }
    let curves = cold.iter().map(|cold| Curve { label: cold.label, latencies: &cold.first });
    let curves: Vec<_> = curves.collect();
    Ok(Findings {
        name: "cold-start",
        title: "First calls of workers",
        plot: plot::curves("share of first calls answered within a time", &curves),
        grid: Grid {
            headings: &HEADINGS,
            numbers: 1..HEADINGS.len(),
            rows: cold.iter().map(Cold::cells).collect(),
        },
        notes,
        measured: json!(cold.iter().map(Cold::written).collect::<Vec<_>>()),
    })
}

fn measure(
    stage: &Stage,
    args: &Args,
    kind: Kind,
    case: Case,
    tenants: &[Tenant],
    cold: &mut Cold,
) -> Result<(), String> {
    let config = match case {
        Case::Evicted => budget::config(stage, args.workers / BUDGET_PART),
        Case::Paced | Case::BackToBack => String::new(),
    };
    let mut fleet = Fleet::start(&stage.site, kind, tenants, &config)?;
    fleet.restart()?;
    settle();
    let paced = Pace::PerSecond(args.per_second);
    let measured: Vec<usize> = (DRAINING..tenants.len()).collect();
    let mut plan = calls(&fleet, tenants, paced);
    plan.times = 2;
    match case {
        Case::Paced => plan.order.clone_from(&measured),
        Case::BackToBack => {
            plan.pace = Pace::BackToBack(1);
            plan.unrecorded = DRAINING;
            // A second call between two first ones would be time to make a spare.
            plan.times = 1;
        }
        Case::Evicted => {
            // The least recently used goes first, so in this order none is still there.
            plan.order = measured.repeat(2);
            plan.unrecorded = measured.len();
        }
    }
    let seen = stage.make(&plan)?;
    if case == Case::Evicted {
        let evictions = fleet.evictions()?.unwrap_or_default();
        if evictions < measured.len() as f64 {
            return Err(format!("only {evictions} isolates were evicted"));
        }
        cold.evictions += evictions;
    }
    cold.add(&seen);
    Ok(())
}

impl Cold {
    fn new(label: &'static str) -> Self {
        Self {
            label,
            first: Histogram::new(),
            warm: Histogram::new(),
            errors: 0,
            first_error: None,
            evictions: 0.0,
        }
    }

    fn add(&mut self, seen: &Seen) {
        self.first.merge(&seen.latencies[0]);
        if let Some(warm) = seen.latencies.get(1) {
            self.warm.merge(warm);
        }
        self.errors += seen.errors;
        if self.first_error.is_none() {
            self.first_error.clone_from(&seen.first_error);
        }
    }

    fn cells(&self) -> Vec<String> {
        let first = Summary::of(&self.first);
        let warm = match self.warm.total() {
            0 => String::new(),
            _ => ms(self.warm.quantile_ms(0.5)),
        };
        vec![
            self.label.to_owned(),
            first.calls.to_string(),
            ms(first.p50_ms),
            ms(first.p90_ms),
            ms(first.p99_ms),
            ms(first.max_ms),
            warm,
            self.errors.to_string(),
        ]
    }

    fn written(&self) -> Written<'_> {
        Written {
            case: self.label,
            first: Summary::of(&self.first),
            warm: Summary::of(&self.warm),
            errors: self.errors,
            first_error: &self.first_error,
            latencies: &self.first,
        }
    }
}
