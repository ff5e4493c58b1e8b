//! What do rules cost in front of a page? A page that a worker holds, and one that a worker gets from upstream, each
//! without rules, behind one A/B rule, and behind a hundred, in turn on one node; and an evaluation of rules by itself.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Instant;

use atoll_router::Scheme;
use atoll_router::rules::{Overlay, RuleSet, Visit};
use http::{HeaderMap, HeaderValue, Method};
use serde::Serialize;
use serde_json::{Value, json};

use crate::cluster::Place;
use crate::hosting::Findings;
use crate::load::LoadArgs;
use crate::plot::{self, Bar, Panel, Scale};
use crate::progress;
use crate::report::median;
use crate::results::Grid;
use crate::servers::{PageNode, RESPONDER_ANSWER, Site};
use crate::window::{Measurement, Span};

const HEADINGS: [&str; 9] = [
    "page",
    "requests/s",
    "ratio",
    "least",
    "most",
    "CPU us/request",
    "CPU ratio",
    "p99 ms",
    "evaluation us",
];
/// The workers with what is in front of them.
const FRONTS: [Setup; 6] = [
    Setup { name: "held, no rule", worker: "held-0", page: Page::Held, rules: 0 },
    Setup { name: "held, one A/B rule", worker: "held-1", page: Page::Held, rules: 1 },
    Setup { name: "held, 100 rules", worker: "held-100", page: Page::Held, rules: 100 },
    Setup { name: "upstream, no rule", worker: "upstream-0", page: Page::Upstream, rules: 0 },
    Setup { name: "upstream, one A/B rule", worker: "upstream-1", page: Page::Upstream, rules: 1 },
    Setup { name: "upstream, 100 rules", worker: "upstream-100", page: Page::Upstream, rules: 100 },
];
/// Evaluations that are timed together.
const BATCH: u32 = 1_000;
const BATCHES: usize = 200;
/// Bytes of the page.
const PAGE_BYTES: usize = 2_048;

/// How long.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often the node is started anew: where its code and data come to lie makes a difference of some percent.
    #[arg(long, default_value_t = 9)]
    starts: usize,
    /// How often the pages are measured, in turn, at each start.
    #[arg(long, default_value_t = 4)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Seconds of load before each measurement.
    #[arg(long, default_value_t = 0.5)]
    warmup_seconds: f64,
    /// Concurrent connections.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Visitors that requests come from in turn, each with a cookie of its own.
    #[arg(long, default_value_t = 1_000)]
    visitors: usize,
}

/// Where a page comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Page {
    /// From the worker itself: the cheapest there is.
    Held,
    /// From a server that the worker asks each time.
    Upstream,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Setup {
    name: &'static str,
    worker: &'static str,
    page: Page,
    rules: usize,
}

#[derive(Serialize)]
struct Front {
    #[serde(flatten)]
    setup: Setup,
    rounds: Vec<Measurement>,
    /// In each round, requests a second over those of the page without rules.
    ratios: Vec<f64>,
    /// In each round, the server's CPU time a request over that of the page without rules.
    cpu_ratios: Vec<f64>,
    /// Microseconds of one evaluation, the median of batches; nothing without rules.
    evaluation_us: Option<f64>,
}

/// Asks it of a node.
pub(crate) fn ask(place: &Place, args: &Args) -> Result<Findings, String> {
    // Beside the load, so that the node has its core to itself.
    let upstream = Site { core: place.load_core, ..place.site.clone() }.start_responder()?;
    let sources = [Page::Held, Page::Upstream].map(|page| (page, source(page, upstream.address)));
    let source = |page| &*sources.iter().find(|(of, _)| *of == page).expect("both are there").1;
    let mut fronts = FRONTS.map(Front::new);
    let bar = progress::bar(args.starts.max(1));
    for start in 0..args.starts.max(1) {
        progress::step(&bar, &format!("start {}", start + 1));
        let mut order: Vec<usize> = (0..fronts.len()).collect();
        order.rotate_left(start % FRONTS.len());
        let worker = |at: &usize| {
            let Setup { worker, page, rules: count, .. } = FRONTS[*at];
            (worker, source(page), (count > 0).then(|| rules(count)))
        };
        let workers: Vec<_> = order.iter().map(worker).collect();
        let (node, hosts) = PageNode::start(&place.site, &workers)?;
        let mut turns: Vec<_> = order.into_iter().zip(hosts).collect();
        for _ in 0..args.rounds.max(1) {
            for (at, host) in &turns {
                let load = load(place, args, &node, host, FRONTS[*at].page.bytes());
                fronts[*at].rounds.push(load.measure()?);
            }
            // Whoever comes first in one round comes last in the next.
            turns.reverse();
        }
    }
    bar.finish_and_clear();
    for at in 0..fronts.len() {
        let page = fronts[at].setup.page;
        let plain = fronts.iter().find(|front| front.setup.page == page && front.setup.rules == 0);
        let plain = plain.expect("every page is there without rules").rounds.clone();
        let front = &mut fronts[at];
        front.ratios = ratios(&front.rounds, &plain, |round| round.requests_per_second);
        front.cpu_ratios = ratios(&front.rounds, &plain, cpu_us);
    }
    Ok(findings(args, &fronts))
}

/// The worker that has a page.
fn source(page: Page, upstream: SocketAddr) -> String {
    match page {
        Page::Held => {
            let html = html();
            format!(
                "const page = {html:?}; export default {{ fetch: () => new Response(page, {{ headers: {{ 'content-type': 'text/html' }} }}) }};"
            )
        }
        Page::Upstream => {
            format!("export default {{ fetch: () => fetch('http://{upstream}/') }};")
        }
    }
}

impl Page {
    fn bytes(self) -> usize {
        match self {
            Self::Held => html().len(),
            Self::Upstream => RESPONDER_ANSWER.len(),
        }
    }
}

fn cpu_us(round: &Measurement) -> f64 {
    round.server_cpu_us.unwrap_or(f64::NAN)
}

/// In each round, a figure over the same of the page without rules.
fn ratios(
    own: &[Measurement],
    plain: &[Measurement],
    figure: impl Fn(&Measurement) -> f64,
) -> Vec<f64> {
    own.iter().zip(plain).map(|(own, plain)| figure(own) / figure(plain)).collect()
}

fn load(place: &Place, args: &Args, node: &PageNode, host: &str, bytes: usize) -> LoadArgs {
    LoadArgs {
        target: node.address,
        host: vec![host.to_owned()],
        visitors: args.visitors,
        connections: args.connections,
        body_bytes: bytes as u64,
        span: Span {
            warmup_ms: (args.warmup_seconds * 1e3) as u64,
            window_ms: (args.seconds * 1e3).max(1.0) as u64,
            server_core: place.site.core,
            load_core: place.load_core,
            server: Some(node.id()),
        },
    }
}

fn html() -> String {
    let line = "<p>The same words for everybody, as a page has them.</p>";
    line.repeat(PAGE_BYTES.div_ceil(line.len()))
}

/// An A/B rule, after others that do not hold.
fn rules(count: usize) -> Value {
    let other = |n: usize| {
        json!({
            "name": format!("other-{n}"),
            "when": { "country": "DE", "path": { "prefix": format!("/shop-{n}") } },
            "redirect": "/elsewhere",
        })
    };
    let split = json!({
        "name": "page",
        "when": { "path": { "prefix": "/" } },
        "variants": [
            { "name": "a", "response_headers": { "x-variant": "a" } },
            { "name": "b", "response_headers": { "x-variant": "b" } },
        ],
    });
    let others = (1..count).map(other);
    json!({ "rule": others.chain([split]).collect::<Vec<_>>() })
}

/// Microseconds of one evaluation by itself: the median of batches.
fn evaluation_us(document: &Value) -> f64 {
    let set = RuleSet::parse(document, Overlay::default()).expect("the document is constant");
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("cookie", "theme=dark; atoll_id=0123456789abcdef0123456789abcdef"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64) Chrome/140.0"),
        ("accept-language", "de-AT,de;q=0.9,en;q=0.5"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let country = Some("DE".into());
    let place = atoll_router::Place { country, ..atoll_router::Place::default() };
    let visit = Visit {
        scheme: Scheme::Https,
        host: "shop.example",
        method: &Method::GET,
        path: "/",
        query: None,
        headers: &headers,
        place: Some(&place),
        now_ms: 1_795_701_600_000,
        fresh_unit: &String::new,
        trusted: false,
    };
    let batch = |_| {
        let begun = Instant::now();
        for _ in 0..BATCH {
            let decision = set.evaluate(black_box(&visit));
            black_box((set.effects(&decision), set.path(&decision, &visit)));
        }
        begun.elapsed().as_nanos() as f64 / f64::from(BATCH) / 1e3
    };
    let batches: Vec<f64> = (0..BATCHES).map(batch).collect();
    median(&batches, |us| *us)
}

fn findings(args: &Args, fronts: &[Front]) -> Findings {
    let notes = fronts.iter().filter(|front| front.setup.rules > 0).map(|front| {
        let ratio = median(&front.ratios, |ratio| *ratio);
        format!(
            "**{}: {:.3} of the requests a second that the page has without ({:.1} % less), and {:.3} of the CPU time \
             for each.**",
            front.setup.name,
            ratio,
            (1.0 - ratio) * 100.0,
            median(&front.cpu_ratios, |ratio| *ratio),
        )
    });
    let mut notes: Vec<String> = notes.collect();
    notes.push(format!(
        "A page of {} bytes that a worker holds, which costs as little as a page can, and one of {} bytes that a worker \
         fetches from a server beside the load. {} connections, {} visitors with a cookie each, so that every visitor's \
         exposure is counted; {} starts of the node with {} rounds each of {} s after {} s of warm-up, in turn, whoever \
         was first in a round last in the next. Of two like workers either can be some percent ahead in one start. \
         Ratios are of the same round: the median, the least and the most. CPU time is that of the node's processes, \
         the kernel's part included. The node on one core, the load on another. Of the hundred rules, 99 look at \
         country and path and do not hold, and the last is the A/B rule. An evaluation is measured by itself, with \
         what it decides filled in.",
        Page::Held.bytes(),
        Page::Upstream.bytes(),
        args.connections,
        args.visitors,
        args.starts,
        args.rounds,
        args.seconds,
        args.warmup_seconds,
    ));
    let errors = fronts.iter().flat_map(|front| &front.rounds);
    if let Some(error) = errors.into_iter().find_map(|round| round.first_error.as_ref()) {
        notes.push(format!("There were errors; the first: {error}"));
    }
    Findings {
        name: "rules",
        title: "Rules in front of a page",
        grid: Grid {
            headings: &HEADINGS,
            numbers: 1..HEADINGS.len(),
            rows: fronts.iter().map(Front::cells).collect(),
        },
        notes,
        plot: plot::bars(&[panel(fronts)]),
        measured: json!(fronts),
    }
}

impl Front {
    fn new(setup: Setup) -> Self {
        let evaluation_us = (setup.rules > 0).then(|| evaluation_us(&rules(setup.rules)));
        let (rounds, ratios, cpu_ratios) = (Vec::new(), Vec::new(), Vec::new());
        Self { setup, rounds, ratios, cpu_ratios, evaluation_us }
    }

    fn rate(&self) -> f64 {
        median(&self.rounds, |round| round.requests_per_second)
    }

    fn cells(&self) -> Vec<String> {
        let least = self.ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.ratios.iter().copied().fold(0.0, f64::max);
        vec![
            self.setup.name.to_owned(),
            format!("{:.0}", self.rate()),
            format!("{:.3}", median(&self.ratios, |ratio| *ratio)),
            format!("{least:.3}"),
            format!("{most:.3}"),
            format!("{:.2}", median(&self.rounds, cpu_us)),
            format!("{:.3}", median(&self.cpu_ratios, |ratio| *ratio)),
            format!("{:.2}", median(&self.rounds, |round| round.p99_us) / 1e3),
            self.evaluation_us.map_or_else(|| "-".to_owned(), |us| format!("{us:.2}")),
        ]
    }
}

fn panel(fronts: &[Front]) -> Panel {
    let bar = |front: &Front| Bar {
        label: front.setup.name.to_owned(),
        value: front.rate(),
        text: format!("{:.0}", front.rate()),
        ours: true,
    };
    Panel {
        title: "A page behind rules, requests/s on one core".to_owned(),
        scale: Scale::Linear,
        bars: fronts.iter().map(bar).collect(),
    }
}
