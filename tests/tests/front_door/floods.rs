//! Floods over HTTP/2: cheap for the one who sends, expensive for whoever believes that clients mean well. Each
//! runs beside ordinary clients, who are served all the while by processes that neither grow nor die.

use atoll_tests::{Node, NodeOptions, Process, Protocol, Script};

use crate::frames::*;
use crate::neighbour::{Neighbours, serving};
use crate::wire::deploy_door;

/// Frames of one flood. A node that is not on its guard takes them all.
const FLOOD: usize = 200_000;

struct Attacked {
    node: Node,
    processes: Vec<Process>,
}

impl Attacked {
    async fn start() -> Self {
        let node = Node::start(NodeOptions::default()).await;
        deploy_door(&node).await;
        let slow = "export default { async fetch() { await scheduler.wait(60000); } };";
        node.deploy("slow", &Script::module(slow)).await;
        let big = "const chunk = new Uint8Array(65536);\n\
                   export default { fetch(request) {\n\
                     let left = new URL(request.url).pathname === '/' ? 16 : 256;\n\
                     const pull = (c) => { c.enqueue(chunk.slice()); if (--left === 0) c.close(); };\n\
                     return new Response(new ReadableStream({ pull }, { highWaterMark: 0 }));\n\
                   } };";
        node.deploy("big", &Script::module(big)).await;
        // What loading takes is not the attacker's doing.
        for protocol in [Protocol::Http1, Protocol::Http2, Protocol::Https2] {
            for _ in 0..8 {
                let reply = node.request("door", "/").over(protocol).send().await.unwrap();
                assert_eq!(reply.status, 200);
                assert_eq!(
                    node.request("big", "/").over(protocol).send().await.unwrap().status,
                    200
                );
            }
        }
        let processes = serving(&node);
        Self { node, processes }
    }

    /// Attacks beside neighbours.
    async fn by<T>(&self, attack: impl AsyncFnOnce(&Node) -> T) -> T {
        let neighbours = Neighbours::beside(&self.node).await;
        let outcome = attack(&self.node).await;
        neighbours.unharmed(&self.node, &self.processes).await;
        outcome
    }
}

/// Floods a connection with one kind of frame and wants it ended.
async fn is_cut(attacked: &Attacked, name: &str, opening: &[u8], flood: &[u8]) {
    let (sent, ended) = attacked
        .by(async |node| {
            let mut http2 = Http2::open(node).await;
            http2.send(opening).await;
            (http2.flood(flood, FLOOD).await, http2.ends().await)
        })
        .await;
    println!("{name:40} ended after {sent} frames at most");
    assert!(ended, "{name}: all {sent} frames are taken, and the connection goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_without_a_purpose_end_the_connection() {
    let attacked = Attacked::start().await;
    let ping = frame(PING, 0, 0, &[1; 8]);
    let dependency = [0, 0, 0, 1, 16];
    for (name, opening, flood) in [
        ("pings", vec![], ping),
        ("answers to pings", vec![], frame(PING, ACK, 0, &[1; 8])),
        ("settings", vec![], frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])),
        ("empty settings", vec![], frame(SETTINGS, 0, 0, &[])),
        ("answers to settings", vec![], frame(SETTINGS, ACK, 0, &[])),
        ("priorities of idle streams", vec![], frame(PRIORITY, 0, 101, &dependency)),
        ("priorities of an open stream", post(1), frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 16])),
        ("window updates", vec![], frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("window updates of a stream", post(1), frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
        ("frames of unknown types", vec![], frame(0xbe, 0, 0, b"grease")),
        ("empty data", post(1), frame(DATA, 0, 1, &[])),
        ("data of padding alone", post(1), frame(DATA, 8, 1, &[3, 0, 0, 0])),
        (
            "empty continuations",
            frame(HEADERS, END_STREAM, 1, &fields(&GET)),
            frame(CONTINUATION, 0, 1, &[]),
        ),
        ("resets of a closed stream", get(1), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])),
    ] {
        is_cut(&attacked, name, &opening, &flood).await;
    }
}

/// CVE-2024-27316 and its kin: header fields without end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_without_end_end_the_connection() {
    let attacked = Attacked::start().await;
    let field = fields(&[("x", &"y".repeat(4_000))]);
    let opening = frame(HEADERS, END_STREAM, 1, &fields(&GET));
    is_cut(&attacked, "continuations", &opening, &frame(CONTINUATION, 0, 1, &field)).await;
    let tiny = frame(CONTINUATION, 0, 1, &fields(&[("x", "")]));
    is_cut(&attacked, "tiny continuations", &opening, &tiny).await;
    // A field of 4,000 bytes goes into the table, and each byte that follows names it once more.
    let mut bomb = fields(&GET);
    bomb.push(0x40);
    literal(&mut bomb, b"x");
    literal(&mut bomb, &[b'y'; 4_000]);
    bomb.extend(std::iter::repeat_n(0xbe, 12_000));
    let outcome = attacked
        .by(async |node| {
            let mut http2 = Http2::open(node).await;
            for stream in (1..200).step_by(2) {
                http2.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &bomb)).await;
            }
            http2.outcome(1).await
        })
        .await;
    println!("{:40} {outcome:?}", "a bomb of 48 MB in 16 KB");
    assert!(
        !matches!(&outcome, Outcome::Answered(body) if !body.is_empty() && !body.starts_with("error")),
        "{outcome:?}"
    );
    assert_eq!(
        attacked
            .node
            .metrics()
            .await
            .unwrap()
            .sum("atoll_invocations_total", &[("worker", "slow")]),
        0.0
    );
}

/// CVE-2023-44487: requests that are taken back at once, so that no limit of open streams is reached.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_taken_back_end_the_connection() {
    let attacked = Attacked::start().await;
    // All at once: most are reset before the node has looked at them.
    let streams = attacked
        .by(async |node| {
            let mut http2 = Http2::open(node).await;
            let mut streams = 0;
            for stream in (1..100_000).step_by(2) {
                let cancel = frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
                if !http2.send(&[get(stream), cancel].concat()).await {
                    break;
                }
                streams += 1;
            }
            streams
        })
        .await;
    println!("{:40} cut after {streams} requests", "rapid reset");
    assert!(streams < 50_000, "all are taken");
    // One after the other: each is with the worker when it is reset.
    let rounds = attacked
        .by(async |node| {
            let mut http2 = Http2::open(node).await;
            let mut slow = GET;
            slow[2].1 = "slow.demo.localhost";
            let mut rounds = 0;
            for stream in (1..8_000).step_by(2) {
                let open = frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields(&slow));
                if !http2.send(&open).await {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                http2.send(&frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])).await;
                rounds += 1;
            }
            rounds
        })
        .await;
    println!("{:40} cut after {rounds} requests", "slow reset");
    assert!(rounds < 4_000, "all are taken");
}

/// CVE-2025-8671: the node is made to reset streams itself, by frames that break the rules of one stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_the_node_must_reset_end_the_connection() {
    let attacked = Attacked::start().await;
    for (name, fault) in [
        ("a window update of nothing", (WINDOW_UPDATE, vec![0; 4])),
        ("a window beyond its limit", (WINDOW_UPDATE, vec![0x7f, 0xff, 0xff, 0xff])),
        ("data after the end", (DATA, b"x".to_vec())),
        ("headers after the end", (HEADERS, fields(&[("x", "y")]))),
        ("a dependency on itself", (PRIORITY, vec![])),
    ] {
        let (streams, ended) = attacked
            .by(async |node| {
                let mut http2 = Http2::open(node).await;
                let mut streams = 0;
                for stream in (1_u32..40_000).step_by(2) {
                    let payload = match fault.0 {
                        PRIORITY => [&stream.to_be_bytes()[..], &[16]].concat(),
                        _ => fault.1.clone(),
                    };
                    let flags = if fault.0 == HEADERS { END_HEADERS } else { 0 };
                    let fault = frame(fault.0, flags, stream, &payload);
                    let two = if name.contains("beyond") { fault.repeat(2) } else { fault };
                    if !http2.send(&[get(stream), two].concat()).await {
                        break;
                    }
                    streams += 1;
                }
                (streams, http2.ends().await)
            })
            .await;
        println!("{name:40} ended after {streams} requests at most");
        assert!(ended, "{name}: all are taken, and the connection goes on");
    }
}

/// Windows by which a client makes the node hold what it does not take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responses_that_nobody_takes_are_not_held() {
    let attacked = Attacked::start().await;
    let mut big = GET;
    big[2].1 = "big.demo.localhost";
    // To hold what they ask for would take 1 GiB.
    big[3].1 = "/more";
    for (name, settings) in [
        ("no window", [(4_u16, 0_u32)]),
        ("a window of one byte", [(4, 1)]),
        ("a whole window", [(4, 0x7fff_ffff)]),
    ] {
        let outcomes = attacked
            .by(async |node| {
                let mut connections = Vec::new();
                for _ in 0..2 {
                    let mut http2 = Http2::open_with(node, &settings).await;
                    let open =
                        |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields(&big));
                    http2.send(&(0..32).flat_map(|at| open(2 * at + 1)).collect::<Vec<_>>()).await;
                    connections.push(http2);
                }
                connections[0].rest().await;
                // One byte at a time, and the window up and down, which is work for the node.
                for http2 in &mut connections {
                    let nudge = frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]);
                    http2.send(&nudge.repeat(100)).await;
                    let wide = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 9]);
                    let narrow = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
                    http2.send(&[wide, narrow].concat().repeat(100)).await;
                }
                connections[0].rest().await;
                connections.len()
            })
            .await;
        println!("{name:40} {outcomes} connections");
    }
}

/// More connections than a process likes to have, each with something under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_do_nothing_cost_little() {
    let attacked = Attacked::start().await;
    attacked
        .by(async |node| {
            let mut open = Vec::new();
            for _ in 0..500 {
                let mut http2 = Http2::open(node).await;
                http2.send(&post(1)).await;
                open.push(http2);
            }
            open[0].rest().await;
            drop(open);
        })
        .await;
    assert_eq!(attacked.node.request("door", "/").send().await.unwrap().status, 200);
}
