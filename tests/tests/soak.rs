//! The promise: under load that is partly hostile, with deploys all the while, memory and
//! descriptors stay flat, and every request that goes in comes out as one outcome.
//!
//! Runs on demand: `cargo test --release -p atoll-tests --test soak -- --ignored --nocapture`, for
//! `ATOLL_SOAK_S` seconds (half an hour unless said otherwise).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use atoll_tests::{Node, NodeOptions, POLL, Process, Request, Script, next_chunk};

const WORKERS: usize = 200;
/// Every fifth worker is hostile.
const HOSTILE_EVERY: usize = 5;
const CLIENTS: u64 = 8;
/// The pause of a client between two requests.
const PAUSE: Duration = Duration::from_millis(40);
const DEPLOY_EVERY: Duration = Duration::from_secs(5);
const SAMPLE_EVERY: Duration = Duration::from_secs(10);
/// The shortest run whose growth says anything: before that, caches and pools are still filling.
const JUDGED_FROM: Duration = Duration::from_secs(600);
/// The growth over the judged part that counts as flat, as a share of the mean.
const GROWTH_MAX: f64 = 0.1;
/// What hostile workers may come to hold more meanwhile, in bytes: each of the eight that hoard up to its limit may have
/// another instance by then. How many there are is a matter of luck, and no growth of the node.
const HOARDED_MORE_MAX: f64 = 8.0 * 67_108_864.0;
/// How long counters may lag behind the last answer.
const COUNTED_MAX: Duration = Duration::from_secs(20);

const CONFIG: &str = "[limits]\ncpu_ms = 100\nwall_ms_max = 1000\nwait_until_ms_max = 500\n\
    memory_bytes_max = 67108864\n[log]\nlevel = 'error'";

/// What the handlers of good workers do.
const GOOD: [&str; 4] = [
    "return new Response('hello');",
    "return Response.json({ list: Array.from({ length: 100 }, (_, i) => ({ i })) });",
    "await env.KV.put('key-' + Math.floor(Math.random() * 100), 'v'.repeat(1_000)); return new Response(await env.KV.get('key-1'));",
    "return new Response(new ReadableStream({ async pull(c) { this.n = (this.n ?? 0) + 1; c.enqueue(new Uint8Array(10_000)); if (this.n > 5) c.close(); await scheduler.wait(1); } }));",
];

/// What the handlers of hostile workers do.
const HOSTILE: [&str; 10] = [
    "for (;;);",
    "for (;;) kept.push(new Array(1_000).fill({}).map(() => ({})));",
    "for (;;) kept.push(new Uint8Array(1 << 20).fill(1));",
    "throw new Error('on purpose');",
    "await new Promise(() => {});",
    "const f = () => f() + 1; f();",
    "for (;;) await null;",
    "return new Response(new ReadableStream({ pull() { throw new Error('on purpose'); } }));",
    "for (let i = 0; i < 100; i++) ctx.waitUntil(scheduler.wait(600_000)); return new Response('x');",
    "for (let i = 0; i < 1_000; i++) { setInterval(() => {}, 5); console.log('x'.repeat(500)); } return new Response('x');",
];

fn script(worker: usize, round: u64, namespace: &str) -> Script {
    let body = match worker % HOSTILE_EVERY {
        0 => HOSTILE[worker / HOSTILE_EVERY % HOSTILE.len()],
        _ => GOOD[worker % GOOD.len()],
    };
    Script::module(format!(
        "// Round {round}.\nconst kept = [];\n\
         export default {{ async fetch(request, env, ctx) {{ {body} }} }};"
    ))
    .bind_kv("KV", namespace)
}

fn name(worker: usize) -> String {
    format!("soak-{worker}")
}

/// Numbers that look random; the same for the same seed (Marsaglia's xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// What the clients sent and what they saw of it.
#[derive(Default)]
struct Counts {
    over: AtomicBool,
    /// Requests that were sent on a connection.
    sent: AtomicU64,
    /// Those that were answered with a head.
    answered: AtomicU64,
    /// Answers of good workers that were not 200.
    refused: AtomicU64,
}

async fn client(requests: Arc<Vec<Request>>, counts: Arc<Counts>, seed: u64) {
    let mut random = Random(seed);
    while !counts.over.load(Ordering::Relaxed) {
        let worker = random.below(WORKERS);
        let pieces = if random.below(20) == 0 { 1 } else { usize::MAX };
        counts.sent.fetch_add(1, Ordering::Relaxed);
        if let Ok(response) = requests[worker].clone().open().await {
            counts.answered.fetch_add(1, Ordering::Relaxed);
            if !worker.is_multiple_of(HOSTILE_EVERY) && response.status() != 200 {
                counts.refused.fetch_add(1, Ordering::Relaxed);
            }
            let mut body = response.into_body();
            for _ in 0..pieces {
                // A body that breaks off is one way for a hostile worker to end.
                if !matches!(next_chunk(&mut body).await, Ok(Some(_))) {
                    break;
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn deployer(node: &Node, namespace: &str, counts: &Counts) -> u64 {
    let mut random = Random(0x5eed);
    let mut deploys = 0;
    while !counts.over.load(Ordering::Relaxed) {
        let next = Instant::now() + DEPLOY_EVERY;
        let worker = random.below(WORKERS);
        deploys += 1;
        node.deploy(&name(worker), &script(worker, deploys, namespace)).await;
        while Instant::now() < next && !counts.over.load(Ordering::Relaxed) {
            tokio::time::sleep(POLL).await;
        }
    }
    deploys
}

/// What the operating system says of the whole tree at one moment.
struct Sample {
    at: Duration,
    memory_bytes: f64,
    /// What the instances of hostile workers hold of it.
    hostile_bytes: f64,
    descriptors: f64,
    serving: Vec<Process>,
}

async fn held_by_hostile(node: &Node) -> f64 {
    let metrics = node.metrics().await.unwrap();
    let held = |worker| metrics.sum("atoll_worker_memory_bytes", &[("worker", &name(worker))]);
    (0..WORKERS).step_by(HOSTILE_EVERY).map(held).sum()
}

async fn sampler(node: &Node, begun: Instant, length: Duration) -> Vec<Sample> {
    let every = SAMPLE_EVERY.min(length / 30);
    let mut samples = Vec::new();
    while begun.elapsed() < length {
        tokio::time::sleep(every).await;
        let hostile_bytes = held_by_hostile(node).await;
        let processes = node.processes();
        samples.push(Sample {
            hostile_bytes,
            at: begun.elapsed(),
            memory_bytes: processes.iter().map(|process| process.resident_bytes() as f64).sum(),
            descriptors: processes.iter().map(|process| process.descriptors() as f64).sum(),
            serving: processes.into_iter().filter(|process| process.serves()).collect(),
        });
    }
    samples
}

/// The growth over all samples by least squares, and their mean.
fn growth(samples: &[Sample], value: impl Fn(&Sample) -> f64) -> (f64, f64) {
    let count = samples.len() as f64;
    let at = |sample: &Sample| sample.at.as_secs_f64();
    let mean_at = samples.iter().map(at).sum::<f64>() / count;
    let mean = samples.iter().map(&value).sum::<f64>() / count;
    let covered = samples.iter().map(|s| (at(s) - mean_at) * (value(s) - mean)).sum::<f64>();
    let spread = samples.iter().map(|s| (at(s) - mean_at).powi(2)).sum::<f64>();
    let length = samples.last().map_or(0.0, at) - samples.first().map_or(0.0, at);
    (covered / spread.max(f64::MIN_POSITIVE) * length, mean)
}

fn plot(title: &str, samples: &[Sample], value: impl Fn(&Sample) -> f64) {
    const COLUMNS: usize = 60;
    const ROWS: usize = 8;
    let step = samples.len().div_ceil(COLUMNS);
    let columns: Vec<f64> =
        samples.chunks(step).map(|chunk| chunk.iter().map(&value).fold(0.0, f64::max)).collect();
    let top = columns.iter().copied().fold(0.0, f64::max);
    println!("\n{title}, up to {top:.0}");
    for row in (1..=ROWS).rev() {
        let filled = |value: &f64| *value >= top * (row as f64 - 0.5) / ROWS as f64;
        let line: String = columns.iter().map(|v| if filled(v) { '#' } else { ' ' }).collect();
        println!("{:>8.0} |{line}", top * row as f64 / ROWS as f64);
    }
}

/// Waits for the counters; the outcomes that they came to.
async fn counted(node: &Node, expected: u64) -> std::collections::BTreeMap<String, u64> {
    let give_up = Instant::now() + COUNTED_MAX;
    loop {
        let outcomes = node.metrics().await.unwrap().outcomes(None);
        if outcomes.values().sum::<u64>() >= expected || Instant::now() > give_up {
            return outcomes;
        }
        tokio::time::sleep(POLL).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes as long as it is told to"]
async fn memory_stays_flat_and_every_request_has_its_outcome() {
    let length = std::env::var("ATOLL_SOAK_S").ok().and_then(|text| text.parse().ok());
    let length = Duration::from_secs(length.unwrap_or(1_800));
    let node = Node::start(NodeOptions::with_config(CONFIG)).await;
    let namespace = node.api().create_namespace("soak").await;
    for worker in 0..WORKERS {
        node.deploy(&name(worker), &script(worker, 0, &namespace)).await;
    }
    let requests = (0..WORKERS).map(|worker| node.request(&name(worker), "/")).collect();
    let (requests, counts) = (Arc::new(requests), Arc::new(Counts::default()));
    let clients: Vec<_> = (1..=CLIENTS)
        .map(|seed| tokio::spawn(client(Arc::clone(&requests), Arc::clone(&counts), seed)))
        .collect();
    let sampling = async {
        let samples = sampler(&node, Instant::now(), length).await;
        counts.over.store(true, Ordering::Relaxed);
        samples
    };
    let (samples, deploys) = tokio::join!(sampling, deployer(&node, &namespace, &counts));
    for client in clients {
        client.await.unwrap();
    }

    let (sent, answered) =
        (counts.sent.load(Ordering::Relaxed), counts.answered.load(Ordering::Relaxed));
    let outcomes = counted(&node, sent).await;
    let ended: u64 = outcomes.values().sum();
    println!("{sent} requests sent, {answered} answered, {ended} ended: {outcomes:?}");
    println!(
        "{deploys} deploys, {} refusals of good workers",
        counts.refused.load(Ordering::Relaxed)
    );
    plot("MiB resident", &samples, |sample| sample.memory_bytes / f64::from(1 << 20));
    plot("MiB of it that hostile workers hold", &samples, |sample| {
        sample.hostile_bytes / f64::from(1 << 20)
    });
    plot("descriptors", &samples, |sample| sample.descriptors);
    let (first, last) = (samples.first().unwrap(), samples.last().unwrap());
    let died = first.serving.iter().filter(|process| !last.serving.contains(process)).count();
    assert_eq!(died, 0, "serving processes died");
    assert_eq!(ended, sent, "requests that went in and outcomes that came out differ");
    let settled = &samples[samples.len() / 3..];
    let (hoarded, _) = growth(settled, |sample| sample.hostile_bytes);
    println!("hostile workers: {:+.0} MiB over the last two thirds", hoarded / f64::from(1 << 20));
    assert!(length < JUDGED_FROM || hoarded < HOARDED_MORE_MAX, "what hostile workers hold grows");
    for (what, (grown, mean)) in [
        ("memory", growth(settled, |sample| sample.memory_bytes)),
        (
            "memory besides theirs",
            growth(settled, |sample| sample.memory_bytes - sample.hostile_bytes),
        ),
        ("descriptors", growth(settled, |sample| sample.descriptors)),
    ] {
        println!("{what}: {:+.1} % over the last two thirds", grown / mean * 100.0);
        assert!(
            length < JUDGED_FROM || grown < mean * GROWTH_MAX,
            "{what} grows: {grown} on {mean}"
        );
    }
}
