//! What do a get and a put of the key-value store cost, on one node and in a cluster, beside Redis and beside
//! the engines underneath?

mod client;
mod load;
mod plan;
mod resp;
mod subjects;

use serde::Serialize;
use serde_json::json;

use crate::cluster::Place;
use crate::generator;
use crate::hosting::Findings;
use crate::plot::{self, Bar, Panel, Scale};
use crate::results::Grid;

pub(crate) use load::run as run_load;
pub(crate) use plan::{Operation, Plan, Seen, Target};

use subjects::{Subject, Subjects};

const HEADINGS: [&str; 9] =
    ["what", "store", "ops/s", "p50 ms", "p99 ms", "max ms", "to Redis", "to its engine", "errors"];
/// Operations before the measured ones, in milliseconds.
const WARMUP_MS: u64 = 300;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// Keys of the small values; larger ones have fewer.
    #[arg(long, default_value_t = 1_000)]
    keys: usize,
}

/// A size of values, how many keys have it, and with how many clients it is measured.
struct Size {
    name: &'static str,
    bytes: usize,
    keys_part: usize,
    clients: &'static [usize],
}

const SIZES: [Size; 3] = [
    Size { name: "100 B", bytes: 100, keys_part: 1, clients: &[1, 64] },
    Size { name: "10 KB", bytes: 10_000, keys_part: 1, clients: &[1, 64] },
    Size { name: "1 MB", bytes: 1_000_000, keys_part: 40, clients: &[1] },
];

/// One store under one load.
#[derive(Serialize)]
struct Measured {
    what: String,
    store: Subject,
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    errors: u64,
    first_error: Option<String>,
}

/// Measures everything, store beside store.
pub(crate) fn ask(place: &Place, args: &Args) -> Result<Findings, String> {
    let mut measured = Vec::new();
    let mut notes = vec![COMPARED.to_owned()];
    for group in subjects::GROUPS {
        let subjects = Subjects::start(&place.site, group)?;
        notes.extend(subjects.notes());
        for size in &SIZES {
            measure_size(place, args, &subjects, size, &mut measured)?;
        }
    }
    let rows = measured.iter().map(|one| one.cells(&measured)).collect();
    let failed = measured.iter().filter_map(|one| {
        let error = one.first_error.as_ref()?;
        Some(format!("{} of {}: first error: {error}.", one.what, one.store.name()))
    });
    notes.extend(failed);
    Ok(Findings {
        name: "kv",
        title: "Get and put of the key-value store",
        grid: Grid { headings: &HEADINGS, numbers: 2..HEADINGS.len(), rows },
        notes,
        plot: plot::bars(&panels(&measured)),
        measured: json!({ "seconds": args.seconds, "keys": args.keys, "measurements": measured }),
    })
}

/// What the paths are, plainly.
const COMPARED: &str = "**The paths differ.** *atoll* is called as its users call it: HTTP/1.1 to a worker, which calls `env.KV` in \
     its isolate. A put goes from the serving process to the node's writer and is answered when it is synced to disk \
     (one node) or when three servers that sync have acknowledged it (cluster); a get is answered by the node that \
     is asked. *redis* is called by its own protocol: one server, `appendonly yes`, `appendfsync always`. *sqlite \
     (engine)* is the `kv` crate's store inside the generator's own process, without any network. *jetstream \
     (engine)* is NATS's client against three servers with `sync_interval: always`, 16 streams of three replicas: a \
     publish that is acknowledged, and a direct get, which any replica may answer. Ratios are of operations a \
     second; those to an engine say what the rest of the path costs.";

fn measure_size(
    place: &Place,
    args: &Args,
    subjects: &Subjects,
    size: &Size,
    measured: &mut Vec<Measured>,
) -> Result<(), String> {
    let mut plan = Plan {
        target: Target::Sqlite { directory: std::path::PathBuf::new() },
        operation: Operation::Fill,
        value_bytes: size.bytes,
        keys: (args.keys / size.keys_part).max(1),
        clients: 1,
        warmup_ms: WARMUP_MS,
        window_ms: (args.seconds * 1e3) as u64,
    };
    for subject in subjects.all() {
        let seen = make(place, subjects, subject, &mut plan)?;
        if let Some(error) = seen.first_error {
            return Err(format!("{} cannot be filled: {error}", subject.name()));
        }
    }
    for operation in [Operation::Get, Operation::Put] {
        for &clients in size.clients {
            (plan.operation, plan.clients) = (operation, clients);
            let plural = if clients == 1 { "client" } else { "clients" };
            let what = format!("{} {}, {clients} {plural}", operation.name(), size.name);
            for subject in subjects.all() {
                eprintln!("kv: {what}: {}", subject.name());
                let seen = make(place, subjects, subject, &mut plan)?;
                measured.push(Measured::of(&what, subject, seen));
            }
        }
    }
    Ok(())
}

fn make(
    place: &Place,
    subjects: &Subjects,
    subject: Subject,
    plan: &mut Plan,
) -> Result<Seen, String> {
    plan.target = subjects.target(subject)?;
    let input = serde_json::to_vec(plan).map_err(|error| error.to_string())?;
    let core = subject.is_pinned().then_some(place.load_core);
    generator::measure(core, "kv-load", [], &input)
}

impl Measured {
    fn of(what: &str, store: Subject, seen: Seen) -> Self {
        let Seen { latencies, per_second, errors, first_error } = seen;
        Self {
            what: what.to_owned(),
            store,
            per_second,
            p50_ms: latencies.quantile_ms(0.5),
            p99_ms: latencies.quantile_ms(0.99),
            max_ms: latencies.quantile_ms(1.0),
            errors,
            first_error,
        }
    }

    fn cells(&self, all: &[Self]) -> Vec<String> {
        let ratio = |other: Option<Subject>| {
            let other = all.iter().find(|one| Some(one.store) == other && one.what == self.what);
            other.filter(|other| other.store != self.store && other.per_second > 0.0).map_or_else(
                || "-".to_owned(),
                |other| significant(self.per_second / other.per_second),
            )
        };
        vec![
            self.what.clone(),
            self.store.name().to_owned(),
            format!("{:.0}", self.per_second),
            milliseconds(self.p50_ms),
            milliseconds(self.p99_ms),
            milliseconds(self.max_ms),
            ratio(Some(Subject::Redis)),
            ratio(self.store.engine()),
            self.errors.to_string(),
        ]
    }
}

fn panels(measured: &[Measured]) -> Vec<Panel> {
    let mut titles: Vec<&str> = Vec::new();
    for one in measured {
        if !titles.contains(&one.what.as_str()) {
            titles.push(&one.what);
        }
    }
    let bar = |one: &Measured| Bar {
        label: one.store.name().to_owned(),
        value: one.per_second,
        text: format!(
            "{:.0}/s (p50 {}, p99 {} ms)",
            one.per_second,
            milliseconds(one.p50_ms),
            milliseconds(one.p99_ms)
        ),
        ours: one.store.engine().is_some(),
    };
    let panel = |title: &str| Panel {
        title: format!("{title}: operations a second, logarithmic"),
        scale: Scale::Logarithmic,
        bars: measured.iter().filter(|one| one.what == title).map(bar).collect(),
    };
    titles.into_iter().map(panel).collect()
}

/// With as many digits as it deserves.
fn milliseconds(value: f64) -> String {
    match value {
        0.1.. => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn significant(ratio: f64) -> String {
    match ratio {
        10.0.. => format!("{ratio:.0}"),
        1.0.. => format!("{ratio:.1}"),
        _ => format!("{ratio:.3}"),
    }
}
