//! The promise: tenants' code runs in processes of its own. One that dies takes only its own requests
//! along, is back within a moment, names whose code it executed, and loses no acknowledged write.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use atoll_tests::{
    KeepAlive, Node, NodeOptions, Process, Protocol, Reply, Request, Script, ServingProcess,
    StreamedBody, TailSession, eventually, fixture, next_chunk,
};
use http::{Method, StatusCode};
use tokio::task::JoinSet;

/// Ends V8: an array of more elements than one may have, made where V8 checks that with an abort.
const ABORTS: &str = "'x'.repeat(2 ** 27 + 1).split('')";

/// Seconds of killing, unless `ATOLL_SOAK_S` says otherwise.
const KILLING_S: u64 = 6;
/// By how much memory may grow from one half of the killing to the other, beside a quarter.
const GROWTH_BYTES_MAX: u64 = 16 << 20;
/// Between two calls of which the first failed.
const PAUSE: Duration = Duration::from_millis(5);

fn two_processes() -> NodeOptions {
    NodeOptions { processes: Some(2), ..NodeOptions::default() }
}

fn hello() -> Script {
    Script::module("export default { fetch() { return new Response('hello') } }")
}

/// The serving processes, once so many are ready and none of them is one of `gone`.
async fn ready(node: &Node, count: usize, gone: &[u32]) -> Vec<ServingProcess> {
    eventually("the serving processes are ready", async || {
        let processes = node.serving_processes().await?;
        let ready = |process: &&ServingProcess| {
            process.state == "ready" && process.pid.is_some_and(|pid| !gone.contains(&pid))
        };
        (processes.iter().filter(ready).count() == count).then_some(processes)
    })
    .await
}

async fn metric(node: &Node, line_start: &str) -> Option<f64> {
    let reply = node.request_to_host("localhost", "/metrics").over(Protocol::Admin).send().await;
    let text = reply.ok()?.text();
    let line = text.lines().find(|line| line.starts_with(line_start))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Connections of a steady load, told apart by whether the process behind them was to survive.
async fn connections(node: &Node, count: usize) -> Vec<KeepAlive> {
    let mut connections = Vec::new();
    for _ in 0..count {
        connections.push(node.request("hello", "/").keep_alive().await.unwrap());
    }
    connections
}

/// Calls the bomb: the connection breaks, or where its home was another process than the connection's, there is a page that
/// says that the home is lost.
async fn brings_its_process_down(node: &Node) -> bool {
    match node.request("bomb", "/").send().await {
        Ok(reply) => reply.status == StatusCode::BAD_GATEWAY && reply.text().contains("1202"),
        Err(_) => true,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_aborts_the_engine_takes_only_its_process_along() {
    let node = Node::start(two_processes()).await;
    node.deploy("hello", &hello()).await;
    let source = format!("export default {{ fetch() {{ {ABORTS}; return new Response('?') }} }}");
    node.deploy("bomb", &Script::module(source)).await;
    let before = ready(&node, 2, &[]).await;
    let mut load = JoinSet::new();
    let stop = Arc::new(AtomicBool::new(false));
    for mut connection in connections(&node, 16).await {
        let stop = stop.clone();
        load.spawn(async move {
            let mut answered = 0;
            while !stop.load(Ordering::Relaxed) {
                match connection.get().await {
                    Ok(reply) => assert_eq!(reply.text(), "hello"),
                    Err(_) => return (answered, false),
                }
                answered += 1;
            }
            (answered, true)
        });
    }
    assert!(brings_its_process_down(&node).await, "the process dies under the request");
    // Connections that the dead process had taken from the backlog end with it; the ones after them do not.
    eventually("the service is whole again", async || {
        for _ in 0..20 {
            let reply = node.request("hello", "/").send().await.ok()?;
            assert_eq!(reply.text(), "hello");
        }
        Some(())
    })
    .await;
    let culprit = eventually("the log names the culprit", async || {
        let log = node.output();
        let line = log.lines().find(|line| line.contains("has crashed while it executed"))?;
        Some(line.to_owned())
    })
    .await;
    assert!(culprit.contains("worker=\"bomb\"") && culprit.contains("SIG"), "{culprit}");
    let after = ready(&node, 2, &[]).await;
    let same = before.iter().zip(&after).filter(|(old, new)| old.pid == new.pid).count();
    assert_eq!(same, 1, "{before:?} {after:?}");
    stop.store(true, Ordering::Relaxed);
    let outcomes = load.join_all().await;
    // The kernel spreads connections over the sockets of both processes.
    let kept = outcomes.iter().filter(|(answered, whole)| *whole && *answered > 0).count();
    let cut = outcomes.iter().filter(|(_, whole)| !whole).count();
    assert!(kept > 0 && kept + cut == 16, "{outcomes:?}");
    let crashes = format!(
        "atoll_process_crashes_total{{account=\"{}\",worker=\"bomb\"}}",
        node.api().account()
    );
    assert_eq!(metric(&node, &crashes).await, Some(1.0));
    assert_eq!(metric(&node, "atoll_process_restarts_total").await, Some(1.0));
    eventually("the version may run again", async || {
        brings_its_process_down(&node).await.then_some(())
    })
    .await;
    // Each crash keeps the version away for twice as long, so a call falls into such a time sooner or later.
    eventually("the version is refused for a while", async || {
        let reply = node.request("bomb", "/").send().await.ok()?;
        (reply.status == StatusCode::SERVICE_UNAVAILABLE && reply.text().contains("1102"))
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_upload_that_aborts_the_engine_is_refused() {
    let node = Node::start(two_processes()).await;
    let before = ready(&node, 2, &[]).await;
    let source = format!("{ABORTS}; export default {{ fetch() {{ return new Response('?') }} }}");
    let error = node.api().upload("bomb", &Script::module(source)).await.unwrap_err();
    assert!(error.text.contains("aborted the engine"), "{error}");
    node.deploy("hello", &hello()).await;
    assert_eq!(node.text("hello", "/").await, "hello");
    let after = ready(&node, 2, &[]).await;
    assert!(before.iter().zip(&after).all(|(old, new)| old.pid == new.pid));
}

#[tokio::test]
async fn metrics_of_all_processes_add_up_and_stay() {
    let node = Node::start(two_processes()).await;
    node.deploy("hello", &hello()).await;
    let script = Script::module("export default { fetch() { throw new Error('oh dear') } }");
    node.deploy("thrower", &script).await;
    const REQUESTS: usize = 40;
    for _ in 0..REQUESTS {
        assert_eq!(node.text("hello", "/").await, "hello");
    }
    assert_eq!(node.request("thrower", "/").send().await.unwrap().status, 500);
    let invocations = format!(
        "atoll_invocations_total{{account=\"{}\",worker=\"hello\",outcome=\"ok\"}}",
        node.api().account()
    );
    let counted = async || {
        eventually("every invocation is counted", async || {
            (metric(&node, &invocations).await? == REQUESTS as f64).then_some(())
        })
        .await;
    };
    counted().await;
    eventually("the log has what did not end well", async || {
        node.output().contains("oh dear").then_some(())
    })
    .await;
    for process in ready(&node, 2, &[]).await {
        node.kill_process(process.pid.unwrap(), "KILL");
        ready(&node, 2, &[process.pid.unwrap()]).await;
    }
    counted().await;
    assert_eq!(metric(&node, "atoll_process_restarts_total").await, Some(2.0));
}

#[tokio::test]
async fn a_deploy_and_a_tail_reach_every_process() {
    let node = Node::start(two_processes()).await;
    for version in ["v1", "v2", "v3"] {
        let source = format!(
            "export default {{ fetch(r) {{ console.log('at ' + r.url); return new Response('{version}') }} }}"
        );
        node.deploy("versioned", &Script::module(source)).await;
        // The kernel spreads connections over the processes.
        for _ in 0..20 {
            assert_eq!(node.text("versioned", "/").await, version);
        }
    }
    let tail = TailSession::start(&node, "versioned");
    eventually("the tail shows console lines", async || {
        node.text("versioned", "/first").await;
        tail.output().contains("/first").then_some(())
    })
    .await;
    for n in 0..20 {
        node.text("versioned", &format!("/then-{n}-")).await;
    }
    eventually("the tail shows what each process does", async || {
        let output = tail.output();
        (0..20).all(|n| output.contains(&format!("/then-{n}-"))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_process_that_does_not_answer_is_replaced() {
    let node = Node::start(two_processes()).await;
    node.deploy("hello", &hello()).await;
    let stuck = ready(&node, 2, &[]).await[0].pid.unwrap();
    node.kill_process(stuck, "STOP");
    ready(&node, 2, &[stuck]).await;
    for _ in 0..10 {
        assert_eq!(node.text("hello", "/").await, "hello");
    }
}

#[tokio::test]
async fn a_signal_to_all_processes_drains_the_node() {
    let mut node = Node::start(two_processes()).await;
    let script = Script::module(fixture("gate.js")).bind_text("VERSION", "v1");
    node.deploy("gate", &script).await;
    let (upload, body) = StreamedBody::channel();
    let request = node.request("gate", "/").method(Method::POST);
    let mut answer = request.open_with(body).await.unwrap().into_body();
    assert!(next_chunk(&mut answer).await.unwrap().is_some());
    for process in ready(&node, 2, &[]).await {
        node.kill_process(process.pid.unwrap(), "TERM");
        node.kill_process(process.pid.unwrap(), "INT");
    }
    node.terminate();
    drop(upload);
    assert_eq!(next_chunk(&mut answer).await.unwrap().unwrap(), "v1 end\n");
    assert_eq!(node.exit_status().await.code(), Some(0));
}

/// What is asked of the node while its processes are killed.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    /// Writes that were acknowledged.
    acked: AtomicUsize,
    /// Answers to what was asked, and others.
    right: AtomicUsize,
    wrong: AtomicUsize,
}

/// A writer through the KV binding: what was acknowledged must be there, whatever is killed meanwhile.
async fn write(request: Request, load: Arc<Load>, writer: usize) -> Vec<String> {
    let mut keys = Vec::new();
    let mut next = 0;
    while !load.stop.load(Ordering::Relaxed) {
        let key = format!("{writer}-{next}");
        next += 1;
        let put = serde_json::json!({ "op": "put", "key": key, "value": value_of(&key) });
        let reply = request.clone().post(put.to_string()).await;
        if reply.is_ok_and(|reply: Reply| reply.status == 200 && reply.json().get("ok").is_some()) {
            keys.push(key);
            load.acked.fetch_add(1, Ordering::Relaxed);
        } else {
            tokio::time::sleep(PAUSE).await;
        }
    }
    keys
}

fn value_of(key: &str) -> String {
    format!("the value of {key}")
}

/// Asks for something else each time: an answer must be to what was asked.
async fn ask(request: Request, load: Arc<Load>, asker: usize) {
    for next in 0.. {
        if load.stop.load(Ordering::Relaxed) {
            return;
        }
        let question = format!("question {next} of {asker}");
        match request.clone().post(question.clone()).await {
            Ok(reply) if reply.status == 200 => {
                let right = reply.json()["body"] == question.as_str();
                let count = if right { &load.right } else { &load.wrong };
                count.fetch_add(1, Ordering::Relaxed);
            }
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// The descriptors of each process of the node, by what it is for: the most of those that do the same.
fn descriptors(node: &Node) -> BTreeMap<&'static str, usize> {
    let mut most = BTreeMap::new();
    for process in node.processes() {
        let command = process.command();
        let kinds = ["serving-process", "check-process"];
        let kind = kinds.into_iter().find(|kind| command.contains(kind)).unwrap_or("supervisor");
        let count = most.entry(kind).or_default();
        *count = process.descriptors().max(*count);
    }
    most
}

/// The memory of a process that may have ended.
fn memory_of(node: &Node, id: u32) -> u64 {
    let process = node.processes().into_iter().find(|process| process.id() == id);
    process.map_or(0, Process::resident_bytes)
}

/// Kills each serving process in turn; what the memory of those that came instead was at the same age.
async fn kill_each(node: &Node, load: &Load, signals: [&str; 2]) -> Vec<u64> {
    let mut memory = Vec::new();
    for (place, signal) in signals.into_iter().enumerate() {
        let pid = ready(node, 2, &[]).await[place].pid.unwrap();
        let (acked, right) =
            (load.acked.load(Ordering::Relaxed), load.right.load(Ordering::Relaxed));
        node.kill_process(pid, signal);
        let next = ready(node, 2, &[pid]).await[place].pid.unwrap();
        eventually("the load goes on", async || {
            (load.acked.load(Ordering::Relaxed) > acked + 3
                && load.right.load(Ordering::Relaxed) > right + 3)
                .then_some(())
        })
        .await;
        // Dying seldom enough is what a restart without a pause supposes.
        tokio::time::sleep(Duration::from_millis(500)).await;
        memory.push(memory_of(node, next));
    }
    memory
}

/// The mean of each half of a series that may have no trend.
fn halves(series: &[u64]) -> (u64, u64) {
    let mean = |part: &[u64]| part.iter().sum::<u64>() / part.len().max(1) as u64;
    let (first, second) = series.split_at(series.len() / 2);
    (mean(first), mean(second))
}

/// Every process is killed again and again under load: the serving processes one by one, then the supervisor
/// with all of them, which comes back where it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_the_death_of_any_process() {
    let soak_s = std::env::var("ATOLL_SOAK_S").ok().and_then(|text| text.parse().ok());
    let mut node = Node::start(two_processes()).await;
    let namespace = node.api().create_namespace("durable").await;
    node.deploy("kv", &Script::module(fixture("kv.js")).bind_kv("KV", &namespace)).await;
    node.deploy("echo", &Script::module(fixture("echo.js"))).await;
    node.restart_in_place().await;
    ready(&node, 2, &[]).await;
    let before = descriptors(&node);
    let load = Arc::new(Load::default());
    let (mut writers, mut askers) = (JoinSet::new(), JoinSet::new());
    for number in 0..4 {
        writers.spawn(write(node.request("kv", "/"), load.clone(), number));
        askers.spawn(ask(node.request("echo", "/"), load.clone(), number));
    }
    let until = Instant::now() + Duration::from_secs(soak_s.unwrap_or(KILLING_S));
    let (mut supervisor, mut serving) = (Vec::new(), Vec::new());
    while supervisor.len() < 2 || Instant::now() < until {
        serving.extend(kill_each(&node, &load, ["KILL", "SEGV"]).await);
        let first = node.processes()[0];
        supervisor.push(first.resident_bytes());
        node.restart_in_place().await;
    }
    ready(&node, 2, &[]).await;
    load.stop.store(true, Ordering::Relaxed);
    askers.join_all().await;
    let keys = writers.join_all().await.concat();
    let (right, wrong) = (load.right.load(Ordering::Relaxed), load.wrong.load(Ordering::Relaxed));
    println!(
        "{} rounds, {} writes, {right} answers, {before:?} descriptors before and {:?} after, \
         bytes of the supervisor {supervisor:?} and of serving processes {serving:?}",
        supervisor.len(),
        keys.len(),
        descriptors(&node),
    );
    assert!(keys.len() > 10 && right > 10, "{} keys, {right} answers", keys.len());
    assert_eq!(wrong, 0, "answers to what somebody else asked");
    eventually("every process has as many descriptors as before", async || {
        let now = descriptors(&node);
        now.iter()
            .all(|(kind, count)| before.get(kind).is_none_or(|old| *count <= old + 4))
            .then_some(())
    })
    .await;
    for series in [supervisor, serving] {
        let (first, second) = halves(&series);
        assert!(second <= first + first / 4 + GROWTH_BYTES_MAX, "memory grows: {series:?}");
    }
    for key in &keys {
        let value = node.api().kv_get(&namespace, key).await;
        assert_eq!(value.as_deref(), Some(value_of(key).as_bytes()), "{key}");
    }
}
