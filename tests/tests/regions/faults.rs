//! One fault after another, under requests that may not be executed twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use atoll_tests::{Link, Reply, Request, eventually_within};
use http::Method;
use serde_json::json;
use tokio::task::JoinSet;

use super::world::{ASIA, EU, US, World};

/// How long the cluster may take to be as before.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long each fault lasts.
const FAULT: Duration = Duration::from_secs(6);

const WORKERS: [&str; 3] = ["pinned", "preferred", "allowed"];

/// A request whose id is recorded when it is executed.
struct Sent {
    id: String,
    worker: &'static str,
    method: Method,
    /// Status, code of the page, and who served, if there was an answer.
    answer: Option<(u16, String, String)>,
}

/// Clients that send until they are told to stop.
pub(super) struct Clients {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Vec<Sent>>,
}

fn numbered(
    request: &Request,
    worker: &'static str,
    method: Method,
    id: String,
) -> (Sent, Request) {
    let sent = Sent { id, worker, method: method.clone(), answer: None };
    (sent, request.clone().method(method))
}

fn read(reply: &Reply) -> (u16, String, String) {
    let text = if reply.status == 200 { String::new() } else { reply.text() };
    (reply.status.as_u16(), text, reply.header("atoll-decision").to_owned())
}

impl Clients {
    /// Sends from both regions whose nodes stay, to all workers.
    pub(super) fn start<W>(world: &World<W>) -> Self {
        let (stop, numbers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for worker in WORKERS {
            for from in [US, ASIA] {
                for method in [Method::POST, Method::GET] {
                    let (stop, numbers) = (stop.clone(), numbers.clone());
                    let id = move || format!("{from}-{}", numbers.fetch_add(1, Ordering::Relaxed));
                    let node = world.node(from).addresses();
                    let ask = move |id: &str| {
                        let path = format!("/?id={id}&wait=20");
                        Request::to(node.clone(), &format!("{worker}.demo.localhost"), &path)
                            .header("atoll-explain", "1")
                    };
                    tasks.spawn(async move {
                        let mut all = Vec::new();
                        while !stop.load(Ordering::Relaxed) {
                            let id = id();
                            let (mut sent, request) =
                                numbered(&ask(&id), worker, method.clone(), id);
                            let body = if method == Method::POST { "a body" } else { "" };
                            sent.answer = request.body(body).send().await.ok().as_ref().map(read);
                            all.push(sent);
                            tokio::time::sleep(Duration::from_millis(10)).await;
                        }
                        all
                    });
                }
            }
        }
        Self { stop, tasks }
    }

    async fn finish(self) -> Vec<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await.into_iter().flatten().collect()
    }
}

/// What may come of a request of each worker, and how often it may have been executed then.
fn check(sent: &Sent, executed: usize) {
    let Sent { id, worker, method, answer } = sent;
    let Some((status, text, decision)) = answer else {
        panic!("{worker} {id}: the node that stayed did not answer");
    };
    let told =
        format!("{method} {worker} {id}: {status}, executed {executed} times, {decision} {text}");
    if method == Method::POST {
        assert!(executed <= 1, "{told}");
    }
    match status {
        200 => assert!(executed >= 1, "{told}"),
        // Nobody has begun with it, and nobody is asked to serve what it may not.
        503 if *worker != "preferred" => {
            assert!(executed == 0 && text.contains("1201"), "{told}");
        }
        502 => assert!(text.contains("1202"), "{told}"),
        _ => panic!("{told}"),
    }
    let served = |region: &str| decision.contains(&format!("served=\"node-{region}\""));
    match *worker {
        "pinned" => assert!(!served(US) && !served(ASIA), "{told}"),
        "allowed" => assert!(!served(ASIA), "{told}"),
        _ => {}
    }
}

pub(super) async fn healed<W>(world: &World<W>) {
    eventually_within(PATIENCE, "it is as before", async || {
        for (worker, from) in [("pinned", US), ("pinned", ASIA), ("preferred", ASIA)] {
            (world.served(worker, from).await == EU).then_some(())?;
        }
        Some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_done_twice_while_nodes_fail() {
    let mut world = World::start().await;
    world.deploy("pinned", &json!({ "pin": "eu" })).await;
    world.deploy("preferred", &json!({ "prefer": ["eu", "us"] })).await;
    world.deploy("allowed", &json!({ "allow": ["eu", "us"] })).await;
    world.all_know_each_other().await;
    healed(&world).await;
    let clients = Clients::start(&world);
    for fault in ["killed", "stopped", "silent", "cut", "slow", "restarted"] {
        println!("{fault}");
        match fault {
            "killed" => {
                world.node_mut(EU).kill9();
                tokio::time::sleep(FAULT).await;
                let refused = world.ask("pinned", US).send().await.unwrap();
                assert_eq!(refused.status, 503, "{}", refused.text());
                assert_eq!(world.served("preferred", US).await, US);
                assert_eq!(world.served("preferred", ASIA).await, US);
                assert_eq!(world.served("allowed", ASIA).await, US);
                world.node_mut(EU).restart().await;
            }
            "stopped" => {
                world.node(EU).signal_all("STOP");
                tokio::time::sleep(FAULT).await;
                world.node(EU).signal_all("CONT");
            }
            "silent" => {
                world.link(EU, Link::Silent);
                tokio::time::sleep(FAULT).await;
            }
            "cut" => {
                world.link(EU, Link::Cut);
                tokio::time::sleep(FAULT).await;
                assert_eq!(world.ask("pinned", ASIA).send().await.unwrap().status, 503);
                assert_eq!(world.served("preferred", ASIA).await, US);
            }
            "slow" => {
                world.link(EU, Link::Slow(Duration::from_millis(400)));
                tokio::time::sleep(FAULT).await;
                assert_eq!(world.served("pinned", US).await, EU, "slow is not gone");
            }
            _ => {
                // Drained: what it has is finished, and the rest goes elsewhere.
                world.node(EU).terminate();
                tokio::time::sleep(FAULT).await;
                world.node_mut(EU).restart().await;
            }
        }
        world.heal(EU);
        healed(&world).await;
    }
    judge(clients, &world).await;
}

/// Ends the clients, and holds what they were told against what was executed, and where.
pub(super) async fn judge<W>(clients: Clients, world: &World<W>) {
    let sent = clients.finish().await;
    let mut executed = HashMap::<String, usize>::new();
    for path in world.recorded() {
        let id = path.trim_start_matches("/done/").to_owned();
        *executed.entry(id).or_default() += 1;
    }
    let answered = |status: u16| {
        let with = |sent: &&Sent| sent.answer.as_ref().is_some_and(|answer| answer.0 == status);
        sent.iter().filter(with).count()
    };
    println!(
        "{} requests: {} answered, {} refused, {} of unknown fate",
        sent.len(),
        answered(200),
        answered(503),
        answered(502)
    );
    for one in &sent {
        check(one, executed.get(&one.id).copied().unwrap_or(0));
    }
    assert!(answered(200) > 100 && answered(503) > 0, "the faults were seen, and most was served");
    for (region, worker) in [(US, "pinned"), (ASIA, "pinned"), (ASIA, "allowed")] {
        let counted = world.node(region).metrics().await.unwrap().outcomes(Some(worker));
        assert!(counted.is_empty(), "{worker} ran in {region}: {counted:?}");
    }
}
