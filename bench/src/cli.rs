//! The command line.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::cluster::{self, Place};
use crate::hosting::{self, Findings, Stage};
use crate::load::{self, LoadArgs};
use crate::machine::Machine;
use crate::report::Report;
use crate::run::{Plan, Run};
use crate::servers::{self, Kind, Site};
use crate::{calls, kv, questions, rules, tls};

/// Benchmarks of atoll beside workerd, deno and bun, on one core each.
#[derive(Parser)]
#[command(name = "atoll-bench", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Every question about one worker, and the load generator's ceiling.
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
    /// Every question about many workers: density, cold-start, fairness and spread.
    Hosting(HostingArgs<NoArgs>),
    /// Memory and first calls of many different workers on one server.
    Density(HostingArgs<hosting::DensityArgs>),
    /// The distribution of first calls.
    ColdStart(HostingArgs<hosting::ColdStartArgs>),
    /// Latencies of a light worker beside a neighbour that misbehaves.
    Fairness(HostingArgs<hosting::FairnessArgs>),
    /// Requests a second of many workers against one.
    Spread(HostingArgs<hosting::SpreadArgs>),
    /// Gets and puts of the key-value store, beside Redis and the engines underneath.
    Kv(StoreArgs<kv::Args>),
    /// What rules cost in front of a page: requests a second with and without them, in turn.
    Rules(StoreArgs<rules::Args>),
    /// TLS handshakes, and requests by HTTP/1.1, 2 and 3, beside nginx and Caddy.
    Tls(StoreArgs<tls::Args>),
    /// How soon changes are on all nodes of a cluster, and what many keys cost there.
    Cluster(StoreArgs<cluster::Args>),
    /// Makes load on a store (a process that the benches start).
    #[command(hide = true)]
    KvLoad,
    /// Makes load on a front door (a process that the benches start).
    #[command(hide = true)]
    TlsLoad,
    /// Makes load (the process that the benches start).
    #[command(hide = true)]
    Load(LoadArgs),
    /// Makes the calls that standard input describes (a process that the benches start).
    #[command(hide = true)]
    Calls,
    /// Answers at an address (the process that the ceiling is measured against).
    #[command(hide = true)]
    Responder { address: SocketAddr },
}

/// Where everything runs.
#[derive(Args)]
struct PlaceArgs {
    /// The core that servers are pinned to.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The core that the load generator is pinned to.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// The atoll binary [default: the one beside this binary]
    #[arg(long)]
    atoll: Option<PathBuf>,
    /// Where the reports go [default: bench/results]
    #[arg(long)]
    results: Option<PathBuf>,
}

/// What every question about workers needs.
#[derive(Args)]
struct SiteArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Serving processes of a node, of one thread each, where atoll has the option.
    #[arg(long, default_value_t = 1)]
    processes: usize,
    /// Measure the peers alone.
    #[arg(long)]
    skip_atoll: bool,
    /// The peers to measure.
    #[arg(long, value_delimiter = ',', default_values = ["workerd", "deno", "bun"])]
    peers: Vec<Kind>,
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
    #[command(flatten)]
    site: SiteArgs,
}

#[derive(Args)]
struct HostingArgs<T: Args> {
    /// The configuration of a node that evicts: a line of TOML with `{bytes}` or `{isolates}`.
    #[arg(long, default_value = "memory.process_bytes_max = {bytes}")]
    budget_config: String,
    #[command(flatten)]
    question: T,
    #[command(flatten)]
    site: SiteArgs,
}

#[derive(Args)]
struct NoArgs {}

#[derive(Args)]
struct StoreArgs<T: Args> {
    #[command(flatten)]
    question: T,
    #[command(flatten)]
    place: PlaceArgs,
}

impl Cli {
    pub(crate) fn run(self) -> Result<(), String> {
        match self.command {
            Command::All(args) => args.run("all"),
            Command::Hello(args) => args.run("hello"),
            Command::Json(args) => args.run("json"),
            Command::KvGet(args) => args.run("kv-get"),
            Command::Stream(args) => args.run("stream"),
            Command::Ceiling(args) => args.run("ceiling"),
            Command::Hosting(args) => args.ask(&[
                |stage, _| hosting::density(stage, &Default::default()),
                |stage, _| hosting::cold_start(stage, &Default::default()),
                |stage, _| hosting::fairness(stage, &Default::default()),
                |stage, _| hosting::spread(stage, &Default::default()),
            ]),
            Command::Density(args) => args.ask(&[hosting::density]),
            Command::ColdStart(args) => args.ask(&[hosting::cold_start]),
            Command::Fairness(args) => args.ask(&[hosting::fairness]),
            Command::Spread(args) => args.ask(&[hosting::spread]),
            Command::Kv(args) => args.ask(kv::ask),
            Command::Rules(args) => args.ask(rules::ask),
            Command::Tls(args) => args.ask(tls::ask),
            Command::Cluster(args) => args.ask(cluster::ask),
            Command::KvLoad => print(kv::run_load(from_input()?)),
            Command::TlsLoad => print(tls::run_load(from_input()?)),
            Command::Load(args) => print(load::run(&args)),
            Command::Calls => print(calls::run(from_input()?)),
            Command::Responder { address } => {
                servers::run_responder(address).map_err(|error| error.to_string())
            }
        }
    }
}

impl PlaceArgs {
    fn site(&self, processes: usize) -> Result<Site, String> {
        let atoll = match &self.atoll {
            // A server may run in a directory of its own.
            Some(path) => std::path::absolute(path),
            None => std::env::current_exe().map(|this| this.with_file_name("atoll")),
        };
        Ok(Site {
            compare: bench_dir().join("compare"),
            atoll: atoll.map_err(|error| format!("cannot find atoll: {error}"))?,
            processes: processes.max(1),
            core: self.server_core,
        })
    }

    fn results(&self) -> PathBuf {
        self.results.clone().unwrap_or_else(|| bench_dir().join("results"))
    }
}

impl SiteArgs {
    fn site(&self) -> Result<Site, String> {
        self.place.site(self.processes)
    }

    fn kinds(&self) -> Vec<Kind> {
        let mut kinds = self.peers.clone();
        kinds.retain(|&kind| kind != Kind::Atoll);
        if !self.skip_atoll {
            kinds.insert(0, Kind::Atoll);
        }
        kinds
    }

    fn results(&self) -> PathBuf {
        self.place.results()
    }
}

impl<T: Args> StoreArgs<T> {
    fn ask(self, question: fn(&Place, &T) -> Result<Findings, String>) -> Result<(), String> {
        let place = Place { site: self.place.site(1)?, load_core: self.place.load_core };
        let findings = question(&place, &self.question)?;
        print!("{}", findings.text());
        let versions = ["atoll this commit".to_owned()];
        for path in findings.write(&self.place.results(), &Machine::here(), &versions)? {
            println!("wrote {}", path.display());
        }
        Ok(())
    }
}

impl RunArgs {
    fn run(self, name: &str) -> Result<(), String> {
        let results = self.site.results();
        let report = Run::new(self.plan(name)?)?.measure()?;
        let report = Report::new(Machine::here(), report);
        print!("{}", report.table());
        for path in report.write(&results, name)? {
            println!("wrote {}", path.display());
        }
        Ok(())
    }

    fn plan(self, name: &str) -> Result<Plan, String> {
        Ok(Plan {
            site: self.site.site()?,
            questions: questions::ALL
                .into_iter()
                .filter(|question| name == "all" || question.name == name)
                .collect(),
            kinds: self.site.kinds(),
            rounds: self.rounds.max(1),
            window_ms: milliseconds(self.seconds),
            warmup_ms: milliseconds(self.warmup_seconds),
            connections: self.connections,
            load_core: self.site.place.load_core,
        })
    }
}

/// Asks one question.
type Ask<T> = fn(&Stage, &T) -> Result<Findings, String>;

impl<T: Args> HostingArgs<T> {
    /// Asks each question and writes its answer down before the next.
    fn ask(self, questions: &[Ask<T>]) -> Result<(), String> {
        let mut kinds = self.site.kinds();
        kinds.retain(|kind| kind.hosts_many());
        let stage = Stage {
            site: self.site.site()?,
            kinds,
            load_core: self.site.place.load_core,
            budget_config: self.budget_config,
        };
        let versions = stage.kinds.iter().map(|&kind| {
            let version = servers::version(&stage.site, kind)?;
            Ok(format!("{} {version}", kind.name()))
        });
        let versions = versions.collect::<Result<Vec<_>, String>>()?;
        let mut unanswered = 0;
        for question in questions {
            // What one question did to a server does not keep the others from being asked.
            let findings = match question(&stage, &self.question) {
                Ok(findings) => findings,
                Err(error) => {
                    eprintln!("not measured: {error}");
                    unanswered += 1;
                    continue;
                }
            };
            print!("{}", findings.text());
            for path in findings.write(&self.site.results(), &Machine::here(), &versions)? {
                println!("wrote {}", path.display());
            }
        }
        match unanswered {
            0 => Ok(()),
            count => Err(format!("{count} of {} questions were not answered", questions.len())),
        }
    }
}

fn bench_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn milliseconds(seconds: f64) -> u64 {
    (seconds * 1_000.0).round().max(1.0) as u64
}

/// What the process that asked describes.
fn from_input<T: serde::de::DeserializeOwned>() -> Result<T, String> {
    serde_json::from_reader(std::io::stdin().lock())
        .map_err(|error| format!("what to do is unreadable: {error}"))
}

/// Prints a measurement for the process that asked for it.
fn print(measurement: std::io::Result<impl serde::Serialize>) -> Result<(), String> {
    let measurement = measurement.map_err(|error| error.to_string())?;
    let text = serde_json::to_string(&measurement).map_err(|error| error.to_string())?;
    println!("{text}");
    Ok(())
}
