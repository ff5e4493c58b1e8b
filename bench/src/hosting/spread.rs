//! What is left of a server's throughput when the load is spread over many workers?

use serde::Serialize;
use serde_json::json;

use super::{Findings, Stage, Tenant, calls, settle, tenants};
use crate::calls::Pace;
use crate::load::LoadArgs;
use crate::plot::{self, Bar, Panel, Scale};
use crate::report::median;
use crate::results::Grid;
use crate::servers::{Fleet, Kind, callees};
use crate::window::{Measurement, Span};

const HEADINGS: [&str; 6] = ["server", "workers", "requests/s", "p99 ms", "errors", "ratio"];
const HANDLER: &str = "handlers/hello.mjs";
const ANSWER: &str = "hello, world\n";
/// Connections that each worker's first call is made on.
const FIRST_CONNECTIONS: usize = 4;

/// How wide.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Workers that the load is spread over.
    #[arg(long, default_value_t = Self::default().workers)]
    workers: usize,
    /// Concurrent connections.
    #[arg(long, default_value_t = Self::default().connections)]
    connections: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = Self::default().seconds)]
    seconds: f64,
    /// Seconds of load before each measurement: a node moves workers to the threads that accept one by one.
    #[arg(long, default_value_t = Self::default().warmup_seconds)]
    warmup_seconds: f64,
    /// How often one worker and all are measured, in turn.
    #[arg(long, default_value_t = Self::default().rounds)]
    rounds: usize,
}

impl Default for Args {
    fn default() -> Self {
        Self { workers: 1_000, connections: 64, seconds: 5.0, warmup_seconds: 30.0, rounds: 3 }
    }
}

#[derive(Serialize)]
struct Spread {
    server: Kind,
    workers: usize,
    one: Vec<Measurement>,
    all: Vec<Measurement>,
    /// Requests a second of all workers over those of one: medians.
    ratio: f64,
    /// Of the calls that loaded the workers.
    first_call_errors: u64,
}

/// Asks it of each server.
pub(crate) fn ask(stage: &Stage, args: &Args) -> Result<Findings, String> {
    let path = stage.site.compare.join(HANDLER);
    let source = std::fs::read_to_string(&path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let tenants = tenants::copies(args.workers.max(1), &source, ANSWER);
    let (spread, not_measured) = stage.each(|kind| measure(stage, args, kind, &tenants))?;
    let mut notes = notes(args, &spread);
    notes.extend(not_measured);
    Ok(Findings {
        name: "spread",
        title: "Throughput of many workers against one",
        grid: Grid {
            headings: &HEADINGS,
            numbers: 1..HEADINGS.len(),
            rows: spread.iter().flat_map(Spread::rows).collect(),
        },
        notes,
        plot: plot::bars(&spread.iter().map(Spread::panel).collect::<Vec<_>>()),
        measured: json!(spread),
    })
}

fn measure(stage: &Stage, args: &Args, kind: Kind, tenants: &[Tenant]) -> Result<Spread, String> {
    eprintln!("spread: {} workers on {}", tenants.len(), kind.name());
    let mut fleet = Fleet::start(&stage.site, kind, tenants, "")?;
    fleet.restart()?;
    settle();
    let first = stage.make(&calls(&fleet, tenants, Pace::BackToBack(FIRST_CONNECTIONS)))?;
    let hosts: Vec<String> = callees(tenants).into_iter().map(|callee| callee.host).collect();
    let load = |hosts: &[String]| {
        let load = LoadArgs {
            target: fleet.address(),
            host: hosts.to_vec(),
            visitors: 0,
            connections: args.connections,
            body_bytes: ANSWER.len() as u64,
            span: Span {
                warmup_ms: (args.warmup_seconds * 1e3) as u64,
                window_ms: (args.seconds * 1e3).max(1.0) as u64,
                server_core: stage.site.core,
                load_core: stage.load_core,
                server: None,
            },
        };
        load.measure()
    };
    let (mut one, mut all) = (Vec::new(), Vec::new());
    for _ in 0..args.rounds.max(1) {
        one.push(load(&hosts[..1])?);
        all.push(load(&hosts)?);
    }
    let rate = |rounds: &[Measurement]| median(rounds, |round| round.requests_per_second);
    Ok(Spread {
        server: kind,
        workers: tenants.len(),
        ratio: rate(&all) / rate(&one),
        one,
        all,
        first_call_errors: first.errors,
    })
}

fn notes(args: &Args, spread: &[Spread]) -> Vec<String> {
    let mut notes: Vec<String> = spread
        .iter()
        .map(|one| {
            format!(
                "**{}: with {} workers {:.2} of the throughput of one.**",
                one.server.name(),
                one.workers,
                one.ratio
            )
        })
        .collect();
    notes.push(format!(
        "The hello handler in workers that differ in a comment alone, each called once before; \
         {} connections, on which each request takes the next worker; medians of {} rounds of {} s \
         after {} s of warm-up; the server on one core, the load generator on another. workerd's \
         workers were loaded by its worker loader, so each of its requests, to one worker or to \
         many, passes through the worker that loads: compare its ratio, not its requests a second.",
        args.connections, args.rounds, args.seconds, args.warmup_seconds,
    ));
    for one in spread {
        let rounds = one.one.iter().chain(&one.all);
        if let Some(error) = rounds.into_iter().find_map(|round| round.first_error.as_ref()) {
            notes.push(format!("{}: {error}", one.server.name()));
        }
        if one.first_call_errors > 0 {
            notes.push(format!(
                "{}: {} first calls failed",
                one.server.name(),
                one.first_call_errors
            ));
        }
    }
    notes
}

impl Spread {
    fn sides(&self) -> [(usize, &[Measurement]); 2] {
        [(1, &self.one), (self.workers, &self.all)]
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let rate = |rounds: &[Measurement]| median(rounds, |round| round.requests_per_second);
        let row = |(workers, rounds): (usize, &[Measurement])| {
            vec![
                self.server.name().to_owned(),
                workers.to_string(),
                format!("{:.0}", rate(rounds)),
                format!("{:.2}", median(rounds, |round| round.p99_us) / 1e3),
                rounds.iter().map(|round| round.errors).sum::<u64>().to_string(),
                format!("{:.2}", rate(rounds) / rate(&self.one)),
            ]
        };
        self.sides().map(row).into()
    }

    fn panel(&self) -> Panel {
        let bar = |(workers, rounds): (usize, &[Measurement])| {
            let value = median(rounds, |round| round.requests_per_second);
            Bar {
                label: if workers == 1 { "1 worker".into() } else { format!("{workers} workers") },
                value,
                text: format!("{value:.0}"),
                ours: self.server == Kind::Atoll,
            }
        };
        Panel {
            title: format!("{}, requests/s on one core", self.server.name()),
            scale: Scale::Linear,
            bars: self.sides().map(bar).into(),
        }
    }
}
