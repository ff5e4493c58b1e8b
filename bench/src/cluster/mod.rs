//! How soon is a change on all nodes of a cluster, and what do a million keys cost there?

mod deploys;
mod million;
mod visibility;
mod watch;

use serde_json::json;

use crate::histogram::Histogram;
use crate::hosting::Findings;
use crate::plot::{self, Curve};
use crate::results::Grid;
use crate::servers::{Cluster, Site, deploy_store};

const HEADINGS: [&str; 6] = ["what", "times", "p50 ms", "p90 ms", "p99 ms", "max ms"];

/// Where stores are measured.
pub(crate) struct Place {
    pub(crate) site: Site,
    pub(crate) load_core: usize,
}

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Puts whose way to the other nodes is watched.
    #[arg(long, default_value_t = 1_000)]
    puts: usize,
    /// Puts a second.
    #[arg(long, default_value_t = 50.0)]
    per_second: f64,
    /// Deploys that are watched.
    #[arg(long, default_value_t = 60)]
    deploys: usize,
    /// Keys of a namespace that is listed and copied by a new node; 0 leaves that out.
    #[arg(long, default_value_t = 0)]
    keys: usize,
}

/// A distribution of times.
struct Times {
    what: String,
    histogram: Histogram,
}

/// Starts a cluster and asks it everything.
pub(crate) fn ask(place: &Place, args: &Args) -> Result<Findings, String> {
    let mut cluster = Cluster::start(&place.site)?;
    let (host, namespace) = deploy_store(&place.site, &mut cluster.nodes()[0].api()?)?;
    let mut notes = vec![
        "Three nodes, three NATS servers with `sync_interval: always` and what watches them share all cores of \
         this machine. Nodes are asked through HTTP, again and again, with a pause of 0.2 ms. A deploy is live when each \
         node has answered by it, which includes the new version's first call there."
            .to_owned(),
    ];
    let mut times = visibility::measure(&cluster, host, args.puts, args.per_second)?;
    times.extend(deploys::measure(&cluster, args.deploys)?);
    let plotted: Vec<_> =
        times.iter().map(|one| Curve { label: &one.what, latencies: &one.histogram }).collect();
    let plot = plot::curves("Until a change is seen", &plotted);
    let mut measured = json!({ "puts_per_second": args.per_second });
    if args.keys > 0 {
        let million = million::measure(&mut cluster, &namespace, args.keys)?;
        notes.extend(million.sentences());
        times.extend(million.times());
        measured["keys"] = json!(million);
    }
    measured["times"] =
        times.iter().map(|one| json!({ "what": one.what, "histogram": one.histogram })).collect();
    Ok(Findings {
        name: "cluster",
        title: "A cluster of three nodes",
        grid: Grid {
            headings: &HEADINGS,
            numbers: 1..HEADINGS.len(),
            rows: times.iter().map(Times::cells).collect(),
        },
        notes,
        plot,
        measured,
    })
}

impl Times {
    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.what.clone(), self.histogram.total().to_string()];
        cells.extend(
            [0.5, 0.9, 0.99, 1.0].map(|part| format!("{:.2}", self.histogram.quantile_ms(part))),
        );
        cells
    }
}
