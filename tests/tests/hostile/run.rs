//! Runs cases: deploys each, calls it, and compares what came of it with what is documented, while
//! a neighbour on the same thread is called all the time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use atoll_tests::{
    ApiError, Failure, Metrics, Node, NodeOptions, POLL, Process, Script, StreamedBody, next_chunk,
};
use bytes::Bytes;
use http::Method;
use tokio::sync::Mutex;

use crate::case::{Case, End, Outcome, Visit};
use crate::neighbour::{Calls, Neighbour};
use crate::world::World;

/// CPU time that a script may use beyond its limit, in milliseconds: what of the runtime's own code and V8's takes
/// no interrupt. Not optimised, that code takes a few times as long.
pub(crate) const OVER_MS: u64 = if cfg!(debug_assertions) { 300 } else { 50 };

/// By how much a neighbour's p99 may exceed its baseline, where that is asserted.
const P99_OVER_MAX: Duration = Duration::from_millis(50);
/// How long an invocation may take to be counted after its client has its answer.
const COUNTED_MAX: Duration = Duration::from_secs(10);
/// How long a neighbour is watched for its baseline, and beside each case where p99 is asserted.
const WATCHED: Duration = Duration::from_secs(2);
/// How long a case may take with all that is checked of it.
const CASE_MAX: Duration = Duration::from_secs(20);
/// A message of a thrown error that visitors must not see.
const SECRET: &str = "on purpose";

const NODE: &str = "startup_cpu_ms_max = 200\nwall_ms_max = 2000\nwait_until_ms_max = 1000\n\
    memory_bytes_max = 67108864\nsubrequests_max = 50\n\
    [outbound]\nallow = ['127.0.0.1/32']\n";

/// One family at a time, so that a neighbour suffers from one case alone.
static TURN: Mutex<()> = Mutex::const_new(());

/// What one case came to.
#[derive(Default)]
struct Row {
    name: String,
    seen: String,
    cpu: Duration,
    calls: Calls,
    fault: Option<String>,
}

/// What a client met with.
struct Met {
    /// 0 when the connection broke off without a head.
    status: u16,
    code: u64,
    text: String,
}

/// Runs every case of a file on one node, whose limit of CPU time is given in milliseconds, and by how much
/// the time charged may exceed it.
///
/// # Panics
/// Panics with the names of the cases that do not end as they must.
pub(crate) async fn family(name: &str, cpu_ms: u64, over_ms: u64, file: &str) {
    let _turn = TURN.lock().await;
    let asserted = std::env::var_os("ATOLL_HOSTILE_P99").is_some();
    let chosen = std::env::var("ATOLL_HOSTILE_CASE").ok();
    let config = format!("[limits]\ncpu_ms = {cpu_ms}\ncpu_ms_max = {cpu_ms}\n{NODE}");
    let options =
        NodeOptions { threads: 1, processes: Some(1), ..NodeOptions::with_config(&config) };
    let mut node = Node::start(options.clone()).await;
    let mut world = World::new(&node).await;
    let mut neighbour = Neighbour::start(&node).await;
    tokio::time::sleep(WATCHED).await;
    let baseline = neighbour.calls().await.p99();
    print_head(name, baseline);
    let mut faults = Vec::new();
    for case in Case::all(file) {
        if chosen.as_ref().is_some_and(|part| !case.name.contains(part.as_str())) {
            continue;
        }
        let processes = serving(&node);
        let running = run(&node, &world, &case, &neighbour, asserted);
        let mut row = tokio::time::timeout(CASE_MAX, running).await.unwrap_or_else(|_| {
            let fault = Some(format!("it is not over within {CASE_MAX:?}"));
            Row { name: case.name.clone(), fault, ..Row::default() }
        });
        let died = serving(&node) != processes;
        if row.fault.is_none() && row.cpu > Duration::from_millis(cpu_ms + over_ms) {
            row.fault =
                Some(format!("it ends {} with {} ms of CPU", row.seen, row.cpu.as_millis()));
        }
        if died {
            row.fault = Some(format!("a process of the node died: {}", last_words(&node.output())));
        }
        if died || row.fault.is_some() {
            // Whatever is left of it must not be the next case's fault.
            node = Node::start(options.clone()).await;
            world = World::new(&node).await;
            neighbour = Neighbour::start(&node).await;
        }
        if row.fault.is_none() && !row.calls.faults.is_empty() {
            let (count, first) = (row.calls.faults.len(), &row.calls.faults[0]);
            row.fault = Some(format!("{count} of the neighbour's calls failed: {first}"));
        }
        if asserted && row.fault.is_none() && row.calls.p99() > baseline + P99_OVER_MAX {
            let metrics = node.metrics().await;
            let moved = |name| metrics.as_ref().map_or(f64::NAN, |all| all.sum(name, &[]));
            row.fault = Some(format!(
                "the neighbour waited ({} promotions and {} demotions so far)",
                moved("atoll_isolate_promotions_total"),
                moved("atoll_isolate_demotions_total"),
            ));
        }
        row.fault = match (case.failing, row.fault) {
            (Some(_), None) => Some("it passes: remove its mark".to_owned()),
            (Some(why), Some(fault)) => {
                println!("known failing: {}: {why}: {fault}", row.name);
                None
            }
            (None, fault) => fault,
        };
        print(&row, baseline);
        faults.extend(row.fault.map(|fault| format!("{}: {fault}", row.name)));
    }
    assert!(faults.is_empty(), "{name}:\n{}", faults.join("\n"));
}

/// Runs one case, and again for as long as the neighbour must be watched.
async fn run(node: &Node, world: &World, case: &Case, neighbour: &Neighbour, watch: bool) -> Row {
    let begun = Instant::now();
    let mut row = Row { name: case.name.clone(), calls: neighbour.calls().await, ..Row::default() };
    let worker = case.name.to_lowercase();
    let script = world.bind(case.script(), &worker);
    if let Some(says) = &case.refused {
        "refused".clone_into(&mut row.seen);
        row.fault = refused(node, &worker, &script, says).await.err();
    } else if let Err(error) = deploy(node, &worker, &script).await {
        row.fault = Some(format!("the upload is refused: {error}"));
    } else {
        let mut sent = 0;
        while sent == 0 || (watch && row.fault.is_none() && begun.elapsed() < WATCHED) {
            sent += 1;
            match misbehave(node, case, &worker, sent).await {
                Ok((seen, cpu)) => (row.seen, row.cpu) = (seen, row.cpu.max(cpu)),
                Err(fault) => row.fault = Some(fault.to_string()),
            }
        }
    }
    row.calls = neighbour.calls().await;
    row
}

async fn deploy(node: &Node, worker: &str, script: &Script) -> Result<(), ApiError> {
    node.api().upload(worker, script).await?;
    node.api().enable_subdomain(worker).await
}

async fn refused(node: &Node, worker: &str, script: &Script, says: &str) -> Result<(), String> {
    match node.api().upload(worker, script).await {
        Ok(_) => Err("the upload is accepted".to_owned()),
        Err(error) if error.code == Some(10021) && error.text.contains(says) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Calls a case for the `sent`th time and checks what comes of it; then its good path.
async fn misbehave(
    node: &Node,
    case: &Case,
    worker: &str,
    sent: u64,
) -> Result<(String, Duration), Failure> {
    let before = node.metrics().await?;
    let charged = |metrics: &Metrics| {
        let of = |part: &str| {
            metrics.sum(&format!("atoll_invocation_cpu_seconds_{part}"), &[("worker", worker)])
        };
        (of("sum"), of("count"))
    };
    let known = before.outcomes(Some(worker));
    let met = visit(node, worker, case.visit).await?;
    // The good paths of earlier rounds are counted as well.
    let (outcomes, after) = counted(node, worker, &known, sent + sent - 1).await?;
    let ((cpu_before, calls_before), (cpu, calls)) = (charged(&before), charged(&after));
    // A limit holds for each call: of those that a case makes of itself the mean is looked at.
    let calls = if case.many { (calls - calls_before).max(1.0) } else { 1.0 };
    let cpu = Duration::try_from_secs_f64((cpu - cpu_before) / calls).unwrap_or_default();
    let seen = format!("{} {}", outcomes.join(" "), met.status);
    let fits = |end: &End| {
        // A body that fails before its first piece takes the head with it.
        let broken = end.late && met.status == 0;
        let page = if end.late { (200, 0) } else { end.outcome.page() };
        (case.many || outcomes.iter().any(|outcome| outcome == end.outcome.label()))
            && (broken || page == (met.status, met.code))
    };
    if !case.ends.iter().any(fits) {
        return Err(format!("ends {seen} {}: {:.300}", met.code, met.text).into());
    }
    let survives = case.ends.contains(&End { outcome: Outcome::Ok, late: false });
    if survives && met.status == 200 && outcomes == ["ok"] && met.text != "survived" {
        return Err(format!("answers {:.300}", met.text).into());
    }
    if met.text.contains(SECRET) {
        return Err(format!("visitors see the message: {:.300}", met.text).into());
    }
    let resting = sent > 1;
    let reply = node.request(worker, "/ok").send().await?;
    if !resting && (reply.status != 200 || reply.text() != "ok") {
        return Err(format!(
            "ends {seen}, then its good path: {} {:.300}",
            reply.status,
            reply.text()
        )
        .into());
    }
    Ok((seen, cpu))
}

/// Waits until so many invocations of a worker are counted; the outcomes that came since, and all counts then.
async fn counted(
    node: &Node,
    worker: &str,
    known: &BTreeMap<String, u64>,
    total: u64,
) -> Result<(Vec<String>, Metrics), Failure> {
    let give_up = Instant::now() + COUNTED_MAX;
    loop {
        let metrics = node.metrics().await?;
        let outcomes = metrics.outcomes(Some(worker));
        if outcomes.values().sum::<u64>() >= total {
            // Calls that a case makes of itself end as well.
            let news =
                outcomes.into_iter().filter(|(outcome, count)| known.get(outcome) != Some(count));
            return Ok((news.map(|(outcome, _)| outcome).collect(), metrics));
        }
        if Instant::now() > give_up {
            return Err(format!("not counted in time: {outcomes:?}").into());
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn visit(node: &Node, worker: &str, visit: Visit) -> Result<Met, Failure> {
    let request = node.request(worker, "/").header("accept", "application/json");
    let (request, body) = match visit {
        Visit::Post(bytes) => (request.method(Method::POST).body(vec![b'p'; bytes]), None),
        Visit::Half(bytes) => {
            let request = request.method(Method::POST).header("content-length", &bytes.to_string());
            let (sender, body) = StreamedBody::channel();
            sender.send(Bytes::from(vec![b'h'; bytes / 2])).await?;
            (request, Some((sender, body)))
        }
        _ => (request, None),
    };
    let opened = match body {
        Some((_sender, body)) => request.open_with(body).await,
        None => request.open().await,
    };
    let Ok(response) = opened else {
        return Ok(Met { status: 0, code: 0, text: "the connection breaks off".to_owned() });
    };
    let pieces = match visit {
        Visit::Leave(pieces) => pieces,
        Visit::Idle(duration) => {
            tokio::time::sleep(duration).await;
            0
        }
        _ => usize::MAX,
    };
    Ok(met(response, pieces).await)
}

/// Takes so many pieces of a response. That it breaks off is a way to end, too.
async fn met(response: http::Response<hyper::body::Incoming>, pieces: usize) -> Met {
    let (head, mut body) = response.into_parts();
    let mut text = Vec::new();
    for _ in 0..pieces {
        match next_chunk(&mut body).await {
            Ok(Some(bytes)) if text.len() < 4_096 => text.extend_from_slice(&bytes),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => break,
        }
    }
    let page: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let code = page["error"]["code"].as_u64().unwrap_or_default();
    Met { status: head.status.as_u16(), code, text: String::from_utf8_lossy(&text).into_owned() }
}

/// The processes that must not die of a script.
fn serving(node: &Node) -> Vec<Process> {
    node.processes().into_iter().filter(|process| process.serves()).collect()
}

/// What a process said when it died.
fn last_words(output: &str) -> String {
    let fatal = |line: &&str| line.contains("panicked at") || line.to_lowercase().contains("fatal");
    let words: Vec<&str> = output.lines().skip_while(|line| !fatal(line)).take(2).collect();
    words.join(" ")
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn print_head(family: &str, baseline: Duration) {
    println!("\n{family}: the neighbour's p99 alone is {:.1} ms", ms(baseline));
    println!("{:<44} {:<20} {:>8} {:>12}  fault", "case", "ends", "cpu ms", "p99 delta ms");
}

fn print(row: &Row, baseline: Duration) {
    let delta = ms(row.calls.p99()) - ms(baseline);
    let fault = row.fault.as_deref().unwrap_or_default().lines().next().unwrap_or_default();
    println!("{:<44} {:<20} {:>8.1} {delta:>+12.1}  {fault:.160}", row.name, row.seen, ms(row.cpu));
}
