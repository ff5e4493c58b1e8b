//! The command line.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::load::{self, LoadArgs};
use crate::machine::Machine;
use crate::questions;
use crate::report::Report;
use crate::run::{Plan, Run};
use crate::servers::{self, Kind, Site};

/// Benchmarks of atoll beside workerd, deno and bun, on one core each.
#[derive(Parser)]
#[command(name = "atoll-bench", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Every question, and the load generator's ceiling.
    All(RunArgs),
    /// Requests a second of a handler that returns a constant.
    Hello(RunArgs),
    /// Requests a second of a handler that builds a small JSON document.
    Json(RunArgs),
    /// Requests a second of a handler that reads one key.
    KvGet(RunArgs),
    /// Megabytes a second of a handler that streams.
    Stream(RunArgs),
    /// The load generator against a responder that does nothing.
    Ceiling(RunArgs),
    /// Makes load (the process that the benches start).
    #[command(hide = true)]
    Load(LoadArgs),
    /// Answers at an address (the process that the ceiling is measured against).
    #[command(hide = true)]
    Responder { address: SocketAddr },
}

#[derive(Args)]
struct RunArgs {
    /// How often each server is measured, in turn.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds of load before each measurement.
    #[arg(long, default_value_t = 2.0)]
    warmup_seconds: f64,
    /// Concurrent connections [default: the question's own]
    #[arg(long)]
    connections: Option<usize>,
    /// The core that servers are pinned to.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The core that the load generator is pinned to.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// The atoll binary [default: the one beside this binary]
    #[arg(long)]
    atoll: Option<PathBuf>,
    /// Measure the peers alone.
    #[arg(long)]
    skip_atoll: bool,
    /// The peers to measure.
    #[arg(long, value_delimiter = ',', default_values = ["workerd", "deno", "bun"])]
    peers: Vec<Kind>,
    /// Where the reports go [default: bench/results]
    #[arg(long)]
    results: Option<PathBuf>,
}

impl Cli {
    pub(crate) fn run(self) -> Result<(), String> {
        let (name, args) = match self.command {
            Command::All(args) => ("all", args),
            Command::Hello(args) => ("hello", args),
            Command::Json(args) => ("json", args),
            Command::KvGet(args) => ("kv-get", args),
            Command::Stream(args) => ("stream", args),
            Command::Ceiling(args) => ("ceiling", args),
            Command::Load(args) => return print_load(&args),
            Command::Responder { address } => {
                return servers::run_responder(address).map_err(|error| error.to_string());
            }
        };
        args.run(name)
    }
}

impl RunArgs {
    fn run(self, name: &str) -> Result<(), String> {
        let bench = Path::new(env!("CARGO_MANIFEST_DIR"));
        let results = self.results.clone().unwrap_or_else(|| bench.join("results"));
        let report = Run::new(self.plan(name, bench)?)?.measure()?;
        let report = Report::new(Machine::here(), report);
        print!("{}", report.table());
        for path in report.write(&results, name)? {
            println!("wrote {}", path.display());
        }
        Ok(())
    }

    fn plan(self, name: &str, bench: &Path) -> Result<Plan, String> {
        let atoll = match self.atoll {
            Some(path) => path,
            None => std::env::current_exe()
                .map_err(|error| format!("cannot find this binary: {error}"))?
                .with_file_name("atoll"),
        };
        let mut kinds = self.peers;
        kinds.retain(|&kind| kind != Kind::Atoll);
        if !self.skip_atoll {
            kinds.insert(0, Kind::Atoll);
        }
        Ok(Plan {
            site: Site { compare: bench.join("compare"), atoll, core: self.server_core },
            questions: questions::ALL
                .into_iter()
                .filter(|question| name == "all" || question.name == name)
                .collect(),
            kinds,
            rounds: self.rounds.max(1),
            window_ms: milliseconds(self.seconds),
            warmup_ms: milliseconds(self.warmup_seconds),
            connections: self.connections,
            load_core: self.load_core,
        })
    }
}

fn milliseconds(seconds: f64) -> u64 {
    (seconds * 1_000.0).round().max(1.0) as u64
}

fn print_load(args: &LoadArgs) -> Result<(), String> {
    let measurement = load::run(args).map_err(|error| error.to_string())?;
    let text = serde_json::to_string(&measurement).map_err(|error| error.to_string())?;
    println!("{text}");
    Ok(())
}
