//! What does a worker's client notice of a neighbour that misbehaves?

use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;

use super::{CALL_WITHIN_MS, Findings, Stage, Summary, Tenant, calls, ms, one_line, settle};
use crate::api;
use crate::calls::{Neighbour, Pace};
use crate::plot::{self, Bar, Panel, Scale};
use crate::results::Grid;
use crate::servers::{Fleet, Kind, callees};

const HEADINGS: [&str; 7] =
    ["neighbour", "server", "p50 ms", "p99 ms", "max ms", "unanswered", "of calls"];
/// The files in `compare/neighbours`, and what they do.
const NEIGHBOURS: [(&str, &str); 6] = [
    ("cpu_hog", "computes 400 ms a request"),
    ("endless_loop", "loops for ever"),
    ("heap_growth", "grows its heap for ever"),
    ("promise_flood", "never leaves the microtask queue"),
    ("timer_flood", "sets ten thousand timers again and again"),
    ("header_flood", "answers with a megabyte of headers"),
];
const ALONE: &str = "none";
const LIGHT: &str = "light";
const NEIGHBOUR: &str = "neighbour";
const LIGHT_HANDLER: &str = "handlers/hello.mjs";
const LIGHT_ANSWER: &str = "hello, world\n";
/// Connections that the neighbour is called on, without a pause.
const CONNECTIONS: usize = 4;
/// How long the neighbour is called before the light worker.
const LEAD_MS: u64 = 1_000;
/// What one request to the neighbour that computes shall cost, and the rounds that tell how many
/// rounds that is.
const HOG: Duration = Duration::from_millis(400);
const TRIAL_ROUNDS: f64 = 1e8;

/// How long.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Calls a second of the light worker.
    #[arg(long, default_value_t = Self::default().per_second)]
    per_second: f64,
    /// Seconds of calls beside each neighbour.
    #[arg(long, default_value_t = Self::default().seconds)]
    seconds: f64,
}

impl Default for Args {
    fn default() -> Self {
        Self { per_second: 100.0, seconds: 10.0 }
    }
}

/// The light worker's latencies beside one neighbour.
#[derive(Serialize)]
struct Beside {
    neighbour: &'static str,
    server: Kind,
    latency: Summary,
    errors: u64,
    first_error: Option<String>,
    /// What became of the server, when it did not survive.
    died: Option<String>,
}

/// Asks it of each server with each neighbour, a fresh server each time.
pub(crate) fn ask(stage: &Stage, args: &Args) -> Result<Findings, String> {
    let mut all = Vec::new();
    for neighbour in std::iter::once(ALONE).chain(NEIGHBOURS.map(|(name, _)| name)) {
        for &kind in &stage.kinds {
            eprintln!("fairness: {} beside {neighbour}", kind.name());
            all.push(measure(stage, args, kind, neighbour)?);
        }
    }
    let panels = all.chunk_by(|one, other| one.neighbour == other.neighbour).map(Beside::panel);
    Ok(Findings {
        name: "fairness",
        title: "A light worker beside a neighbour that misbehaves",
        grid: Grid {
            headings: &HEADINGS,
            numbers: 2..HEADINGS.len(),
            rows: all.iter().map(Beside::cells).collect(),
        },
        notes: notes(args, &all),
        plot: plot::bars(&panels.collect::<Vec<_>>()),
        measured: json!(all),
    })
}

fn measure(
    stage: &Stage,
    args: &Args,
    kind: Kind,
    neighbour: &'static str,
) -> Result<Beside, String> {
    let mut tenants = vec![tenant(stage, LIGHT, LIGHT_HANDLER)?];
    if neighbour != ALONE {
        tenants.push(tenant(stage, NEIGHBOUR, &format!("neighbours/{neighbour}.mjs"))?);
    }
    let mut fleet = Fleet::start(&stage.site, kind, &tenants, "")?;
    settle();
    let mut plan = calls(&fleet, &tenants, Pace::PerSecond(args.per_second));
    if let Some(disturbing) = plan.callees.get(1) {
        let host = disturbing.host.clone();
        let rounds = if neighbour == "cpu_hog" { hog_rounds(&fleet, &host)? } else { 0 };
        plan.neighbour = Some(Neighbour {
            target: fleet.address(),
            host,
            path: format!("/{rounds}"),
            connections: CONNECTIONS,
            lead_ms: LEAD_MS,
        });
    }
    warm(&fleet, &tenants[0])?;
    plan.order = vec![0; (args.per_second * args.seconds) as usize];
    let seen = stage.make(&plan)?;
    Ok(Beside {
        neighbour,
        server: kind,
        latency: Summary::of(&seen.latencies[0]),
        errors: seen.errors,
        first_error: seen.first_error,
        died: fleet.check_alive().err(),
    })
}

fn tenant(stage: &Stage, name: &str, file: &str) -> Result<Tenant, String> {
    let path = stage.site.compare.join(file);
    let source = std::fs::read_to_string(&path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let (name, answer) = (name.to_owned(), LIGHT_ANSWER.to_owned());
    Ok(Tenant { account: name.clone(), name, source, answer })
}

/// The light worker's first call is another question's.
fn warm(fleet: &Fleet<'_>, light: &Tenant) -> Result<(), String> {
    for callee in callees(std::slice::from_ref(light)) {
        api::request(fleet.address(), "GET /", &[("host", &callee.host)], b"")?;
    }
    Ok(())
}

/// How many rounds take as long on this machine as a request to the hog shall.
fn hog_rounds(fleet: &Fleet<'_>, host: &str) -> Result<u64, String> {
    let line = format!("GET /{TRIAL_ROUNDS:.0}");
    let mut took = Duration::ZERO;
    // The first call also loads the worker and compiles it.
    for _ in 0..2 {
        let begin = Instant::now();
        let response = api::request(fleet.address(), &line, &[("host", host)], b"")?;
        if response.status != 200 {
            return Err(format!("{line}: status {}", response.status));
        }
        took = begin.elapsed();
    }
    Ok((TRIAL_ROUNDS * HOG.as_secs_f64() / took.as_secs_f64()) as u64)
}

fn notes(args: &Args, all: &[Beside]) -> Vec<String> {
    let described: Vec<String> =
        NEIGHBOURS.iter().map(|(name, what)| format!("*{name}* {what}")).collect();
    let mut notes = vec![format!(
        "A worker that answers a constant is called {} times a second for {} s, whatever the \
         server does; latency counts from the moment that a call was due. On {CONNECTIONS} other \
         connections a neighbour on the same server is called without a pause. An unanswered call \
         (none within {} s, or a wrong answer) counts with {} s. A fresh server, pinned to one \
         core, for each row; the load generator on another. workerd enforces no limit.",
        args.per_second,
        args.seconds,
        CALL_WITHIN_MS / 1_000,
        CALL_WITHIN_MS / 1_000,
    )];
    notes.push(format!("Neighbours: {}.", described.join("; ")));
    for Beside { neighbour, server, first_error, died, .. } in all {
        if let Some(error) = first_error {
            notes.push(format!("{} beside {neighbour}: first error: {error}", server.name()));
        }
        if let Some(death) = died {
            let death = one_line(death);
            notes.push(format!(
                "{} beside {neighbour}: the server died: {death:.300}",
                server.name()
            ));
        }
    }
    notes
}

impl Beside {
    fn cells(&self) -> Vec<String> {
        vec![
            self.neighbour.to_owned(),
            self.server.name().to_owned(),
            ms(self.latency.p50_ms),
            ms(self.latency.p99_ms),
            ms(self.latency.max_ms),
            self.errors.to_string(),
            self.latency.calls.to_string(),
        ]
    }

    fn panel(beside: &[Self]) -> Panel {
        let bar = |one: &Self| Bar {
            label: one.server.name().to_owned(),
            value: one.latency.p99_ms,
            text: match one.errors {
                0 => format!("{} ms", ms(one.latency.p99_ms)),
                errors => format!(
                    "{} ms, {errors} of {} unanswered",
                    ms(one.latency.p99_ms),
                    one.latency.calls
                ),
            },
            ours: one.server == Kind::Atoll,
        };
        Panel {
            title: format!("neighbour: {}, p99 (logarithmic)", beside[0].neighbour),
            scale: Scale::Logarithmic,
            bars: beside.iter().map(bar).collect(),
        }
    }
}
