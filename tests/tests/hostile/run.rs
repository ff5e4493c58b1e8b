//! Runs cases: deploys each, calls it, and compares what came of it with what is documented, while
//! a neighbour on the same thread is called all the time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use atoll_tests::{Failure, Node, NodeOptions, POLL, Reply, StreamedBody, next_chunk};
use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::sync::Mutex;

use crate::case::{Case, End, Outcome, Visit};
use crate::neighbour::{Calls, Neighbour};
use crate::world::World;

/// CPU time of one invocation, and of a start.
const CPU_MS: u64 = 200;
/// What the CPU charged may exceed its limit by.
const CPU_OVER_MAX: Duration = Duration::from_millis(50);
/// By how much a neighbour's p99 may exceed its baseline, where that is asserted.
const P99_OVER_MAX: Duration = Duration::from_millis(50);
/// How long an invocation may take to be counted after its client has its answer.
const COUNTED_MAX: Duration = Duration::from_secs(10);
/// How long a neighbour is watched for its baseline, and beside each case where p99 is asserted.
const WATCHED: Duration = Duration::from_secs(2);
/// A message of a thrown error that visitors must not see.
const SECRET: &str = "on purpose";

const NODE: &str = "[limits]\ncpu_ms = 200\ncpu_ms_max = 200\nstartup_cpu_ms_max = 200\n\
    wall_ms_max = 2000\nwait_until_ms_max = 500\nheap_bytes_max = 67108864\n\
    subrequests_max = 50\n\
    [outbound]\nallow = ['127.0.0.1/32']\n";

/// One family at a time, so that a neighbour suffers from one case alone.
static TURN: Mutex<()> = Mutex::const_new(());

/// What one case came to.
struct Row {
    name: String,
    seen: String,
    cpu: Duration,
    calls: Calls,
    fault: Option<String>,
}

/// What a client met with.
struct Met {
    status: StatusCode,
    code: u64,
    text: String,
}

/// Runs every case of a file on one node.
///
/// # Panics
/// Panics with the names of the cases that do not end as they must.
pub(crate) async fn family(name: &str, file: &str) {
    let _turn = TURN.lock().await;
    let asserted = std::env::var_os("ATOLL_HOSTILE_P99").is_some();
    let chosen = std::env::var("ATOLL_HOSTILE_CASE").ok();
    let options = NodeOptions { threads: 1, ..NodeOptions::with_config(NODE) };
    let mut node = Node::start(options).await;
    let mut world = World::new(&node).await;
    let mut neighbour = Neighbour::start(&node).await;
    tokio::time::sleep(WATCHED).await;
    let baseline = neighbour.calls().await.p99();
    let mut rows = Vec::new();
    for case in Case::all(file) {
        if chosen.as_ref().is_some_and(|part| !case.name.contains(part.as_str())) {
            continue;
        }
        let processes = node.processes();
        let mut row = run(&node, &world, &case, &neighbour, asserted).await;
        if node.processes() != processes {
            row.fault = Some(format!("a process of the node died ({})", row.seen));
            node.restart().await;
            world = World::new(&node).await;
            neighbour = Neighbour::start(&node).await;
        }
        if row.fault.is_none() && !row.calls.faults.is_empty() {
            let (count, first) = (row.calls.faults.len(), &row.calls.faults[0]);
            row.fault = Some(format!("{count} of the neighbour's calls failed: {first}"));
        }
        if asserted && row.fault.is_none() && row.calls.p99() > baseline + P99_OVER_MAX {
            row.fault = Some("the neighbour waited".to_owned());
        }
        row.fault = match (case.failing, row.fault) {
            (Some(_), None) => Some("it passes: remove its mark".to_owned()),
            (Some(why), Some(fault)) => {
                println!("known failing: {}: {why}: {fault}", row.name);
                None
            }
            (None, fault) => fault,
        };
        rows.push(row);
    }
    print(name, baseline, &rows);
    let faults = rows.iter().filter_map(|row| Some(format!("{}: {}", row.name, row.fault.as_ref()?)));
    let faults: Vec<String> = faults.collect();
    assert!(faults.is_empty(), "{name}:\n{}", faults.join("\n"));
}

/// Runs one case, and again for as long as the neighbour must be watched.
async fn run(node: &Node, world: &World, case: &Case, neighbour: &Neighbour, watch: bool) -> Row {
    let begun = Instant::now();
    let mut row = Row {
        name: case.name.clone(),
        seen: String::new(),
        cpu: Duration::ZERO,
        calls: neighbour.calls().await,
        fault: None,
    };
    let worker = format!("w-{}", case.name);
    let script = world.bind(case.script(), &worker);
    if let Some(says) = &case.refused {
        "refused".clone_into(&mut row.seen);
        row.fault = refused(node, &worker, &script, says).await.err();
    } else {
        node.deploy(&worker, &script).await;
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

async fn refused(
    node: &Node,
    worker: &str,
    script: &atoll_tests::Script,
    says: &str,
) -> Result<(), String> {
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
    let cpu_of = |metrics: &atoll_tests::Metrics| {
        let labels = [("worker", worker)];
        Duration::from_secs_f64(metrics.sum("atoll_invocation_cpu_seconds_sum", &labels))
    };
    let known = before.outcomes(Some(worker));
    let met = visit(node, worker, case.visit).await?;
    // The good paths of earlier rounds are counted as well.
    let (outcome, cpu) = counted(node, worker, &known, sent + sent - 1, &cpu_of).await?;
    let cpu = cpu.saturating_sub(cpu_of(&before));
    let seen = format!("{outcome} {}", met.status.as_u16());
    let fits = |end: &End| {
        let page = if end.late { (200, 0) } else { end.outcome.page() };
        end.outcome.label() == outcome && page == (met.status.as_u16(), met.code)
    };
    if !case.ends.iter().any(fits) {
        return Err(format!("ends {seen} {}: {:.300}", met.code, met.text).into());
    }
    let survives = case.ends.contains(&End { outcome: Outcome::Ok, late: false });
    if survives && outcome == "ok" && met.text != "survived" {
        return Err(format!("answers {:.300}", met.text).into());
    }
    if met.text.contains(SECRET) {
        return Err(format!("visitors see the message: {:.300}", met.text).into());
    }
    if cpu > Duration::from_millis(CPU_MS) + CPU_OVER_MAX {
        return Err(format!("ends {seen} with {} ms of CPU", cpu.as_millis()).into());
    }
    let resting = sent > 1;
    let reply = node.request(worker, "/ok").send().await?;
    if !resting && (reply.status != 200 || reply.text() != "ok") {
        return Err(format!("ends {seen}, then its good path: {} {:.300}", reply.status, reply.text()).into());
    }
    Ok((seen, cpu))
}

/// Waits until so many invocations of a worker are counted; the outcome that came last.
async fn counted(
    node: &Node,
    worker: &str,
    known: &BTreeMap<String, u64>,
    total: u64,
    cpu_of: &impl Fn(&atoll_tests::Metrics) -> Duration,
) -> Result<(String, Duration), Failure> {
    let give_up = Instant::now() + COUNTED_MAX;
    loop {
        let metrics = node.metrics().await?;
        let outcomes = metrics.outcomes(Some(worker));
        if outcomes.values().sum::<u64>() >= total {
            let news = outcomes.iter().filter(|(outcome, count)| known.get(*outcome) != Some(count));
            // Calls that a case makes of itself end as well; the worst says how it ended.
            let worst = news.map(|(outcome, _)| outcome.clone()).max_by_key(|outcome| outcome != "ok");
            return Ok((worst.unwrap_or_default(), cpu_of(&metrics)));
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
    match (visit, body) {
        (_, Some((_sender, body))) => met(request.open_with(body).await?, usize::MAX).await,
        (Visit::Leave(pieces), None) => met(request.open().await?, pieces).await,
        (Visit::Idle(duration), None) => {
            let response = request.open().await?;
            tokio::time::sleep(duration).await;
            met(response, 0).await
        }
        (_, None) => met(request.open().await?, usize::MAX).await,
    }
}

/// Takes so many pieces of a response. That it breaks off is a way to end, too.
async fn met(response: http::Response<hyper::body::Incoming>, pieces: usize) -> Result<Met, Failure> {
    let (head, mut body) = response.into_parts();
    let mut text = Vec::new();
    for _ in 0..pieces {
        match next_chunk(&mut body).await {
            Ok(Some(bytes)) if text.len() < 4_096 => text.extend_from_slice(&bytes),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => break,
        }
    }
    let reply = Reply { status: head.status, version: head.version, headers: head.headers, body: text.into() };
    let page: serde_json::Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let code = page["error"]["code"].as_u64().unwrap_or_default();
    Ok(Met { status: reply.status, code, text: reply.text() })
}

fn print(name: &str, baseline: Duration, rows: &[Row]) {
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    println!("\n{name}: the neighbour's p99 alone is {:.1} ms", ms(baseline));
    println!("{:<40} {:<20} {:>8} {:>12}  fault", "case", "ends", "cpu ms", "p99 delta ms");
    for row in rows {
        let delta = ms(row.calls.p99()) - ms(baseline);
        let fault = row.fault.as_deref().unwrap_or_default();
        println!("{:<40} {:<20} {:>8.1} {delta:>+12.1}  {fault:.120}", row.name, row.seen, ms(row.cpu));
    }
}
