//! The same with every node in a network of its own, between which packets take their time, are lost and vanish:
//! connections behave as the kernel's TCP does between far places. NATS is in a fourth network.

use std::net::{Ipv4Addr, TcpListener};
use std::pin::pin;
use std::time::Duration;

use atoll_kv::contract::nats::{self, NatsServers};
use atoll_tests::{Network, Reply, Way, eventually_within};
use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::faults::{Clients, healed, judge};
use super::world::{ASIA, EU, Record, US, World, config, join, place};

/// How long packets take between two regions, in milliseconds: from `asia` it is twice as far to `eu` as to `us`.
const WAYS: [(&str, &str, u64); 3] = [(EU, US, 10), (US, ASIA, 40), (EU, ASIA, 80)];
/// The place of the NATS server, behind those of the nodes, and the way there from each.
const NATS: usize = 3;
const NATS_WAY: Way = Way::taking(Duration::from_millis(5));

/// Where nodes listen for each other, and the record for workers: each is alone in its network.
const PEER_PORT: u16 = 7443;
const RECORD_PORT: u16 = 9000;

/// How long it may take until a node has noticed what became of the ways.
const NOTICED: Duration = Duration::from_secs(40);

/// Workers and their regions.
const POLICIES: [(&str, &str); 3] =
    [("pinned", "pin eu"), ("preferred", "prefer eu us"), ("allowed", "allow eu us")];

fn as_usual(network: &Network) {
    for (one, other, delay_ms) in WAYS {
        network.set(place(one), place(other), Way::taking(Duration::from_millis(delay_ms)));
    }
    for region in [EU, US, ASIA] {
        network.set(place(region), NATS, NATS_WAY);
    }
}

impl World<Network> {
    /// The cluster; none where this process may make no networks, which is said.
    async fn apart() -> Option<Self> {
        let network = match Network::start(NATS + 1) {
            Ok(network) => network,
            Err(why) => {
                eprintln!("skipped: no network namespaces (root, iproute2, /dev/net/tun): {why}");
                return None;
            }
        };
        // It comes from the internet, which the networks do not reach.
        nats::program();
        let at = network.address(NATS).into();
        let servers = network.place(NATS).within(|| NatsServers::start_at(at, 1));
        as_usual(&network);
        let (mut nodes, mut record) = (Vec::new(), Record::default());
        for region in [EU, US, ASIA] {
            let namespace = network.place(place(region));
            let own = || TcpListener::bind((Ipv4Addr::LOCALHOST, RECORD_PORT));
            record.listen(namespace.within(own).unwrap());
            let peer = (network.address(place(region)), PEER_PORT).into();
            let config = config(&servers, region, peer, peer);
            join(&mut nodes, config, Some(namespace.clone())).await;
        }
        let world = Self { nodes, ways: network, record, _servers: servers };
        world.deploy("pinned", &json!({ "pin": "eu" })).await;
        world.deploy("preferred", &json!({ "prefer": ["eu", "us"] })).await;
        world.deploy("allowed", &json!({ "allow": ["eu", "us"] })).await;
        world.all_know_each_other().await;
        Some(world)
    }

    fn way(&self, one: &str, other: &str, way: Way) {
        self.ways.set(place(one), place(other), way);
    }

    /// Packets take so long between two regions.
    fn slow(&self, one: &str, other: &str, delay_ms: u64) {
        self.way(one, other, Way::taking(Duration::from_millis(delay_ms)));
    }

    /// All ways as they usually are.
    fn heal_all(&self) {
        as_usual(&self.ways);
    }

    /// Waits until each worker is served, from a region, in another; the empty one stands for a refusal. The answer
    /// must say so in its decision.
    async fn settles(&self, fault: &str, expected: &[(&str, &str, &str)]) {
        println!("{fault}");
        let settled = expected.iter().map(async |&(worker, from, served)| {
            let what = format!("{fault}: {worker} from {from} is served in {served:?}");
            eventually_within(NOTICED, &what, async || {
                let answer = self.ask(worker, from).send().await.unwrap();
                is_served(&answer, worker, from, served).then_some(())
            })
            .await;
        });
        join_all(settled).await;
    }

    /// The usual round trips from a region's node to two others, as its API has them, in microseconds.
    async fn round_trips(&self, from: &str, to: [&str; 2]) -> Option<[u64; 2]> {
        let told = self.node(from).api().call(Method::GET, "/nodes", &Value::Null).await.ok()?;
        let nodes = told["nodes"].as_array()?;
        let round_trip = |region: &str| {
            let node = nodes.iter().find(|node| node["region"] == *region)?;
            node["rtt_us"].as_u64()
        };
        Some([round_trip(to[0])?, round_trip(to[1])?])
    }

    /// Sends requests from `asia`, cuts the way to `eu` once all are executed there, for so long or until all are
    /// answered, and gives their answers.
    async fn cut_in_the_middle<const N: usize>(
        &self,
        requests: [(&str, &str, Method); N],
        cut_max: Duration,
    ) -> [Reply; N] {
        println!("eu and asia are cut in the middle");
        let answers = requests.clone().map(|(id, worker, method)| {
            let path = format!("/?id={id}&wait=2000");
            tokio::spawn(self.ask_path(worker, ASIA, &path).method(method).body("once").send())
        });
        eventually_within(NOTICED, "all have begun", async || {
            requests.iter().all(|(id, ..)| self.executed(id) == 1).then_some(())
        })
        .await;
        self.way(EU, ASIA, Way::Cut);
        let mut answers = pin!(join_all(answers));
        let early = timeout(cut_max, &mut answers).await;
        self.heal_all();
        let answers = match early {
            Ok(answers) => answers,
            Err(_) => answers.await,
        };
        healed(self).await;
        let answers = answers.into_iter().map(|answer| answer.unwrap().unwrap());
        answers.collect::<Vec<_>>().try_into().unwrap()
    }

    fn executed(&self, id: &str) -> usize {
        let path = format!("/done/{id}");
        self.recorded().iter().filter(|done| **done == path).count()
    }
}

/// Whether the answer is what it should be, and its decision begins as it must: who got it, and by which policy.
fn is_served(answer: &Reply, worker: &str, from: &str, served: &str) -> bool {
    let decision = answer.header("atoll-decision");
    let (_, policy) = POLICIES.iter().find(|(name, _)| *name == worker).unwrap();
    let begin = format!("policy={policy:?}, received=\"node-{from}\";region={from:?}, ");
    let rest = decision.strip_prefix(&begin).unwrap_or_else(|| panic!("{decision}"));
    if served.is_empty() {
        let refused = answer.status == 503 && answer.text().contains("1201");
        return refused && rest.starts_with("hops=0, ");
    }
    let hops = u8::from(served != from);
    let end = format!("served=\"node-{served}\";region={served:?}, hops={hops}, ");
    answer.status == 200 && rest.starts_with(&end)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn far_regions_serve_as_written_while_packets_vanish() {
    let Some(mut world) = World::apart().await else { return };
    nearest(&world).await;
    in_the_middle(&world).await;
    let clients = Clients::start(&world);
    killed(&mut world).await;
    cut(&world).await;
    cut_off(&world).await;
    slowed(&world).await;
    unsteady(&world).await;
    judge(clients, &world).await;
}

/// While nothing fails, distances are known, and requests go no further than they have to.
async fn nearest(world: &World<Network>) {
    for (from, near, far) in [(EU, US, ASIA), (US, EU, ASIA), (ASIA, US, EU)] {
        let there_and_back = |to: &str| {
            let between =
                |way: &&(&str, &str, u64)| [(way.0, way.1), (way.1, way.0)].contains(&(from, to));
            WAYS.iter().find(between).unwrap().2 * 2000
        };
        eventually_within(NOTICED, "near and far are known", async || {
            let told = world.round_trips(from, [near, far]).await?;
            assert!(told[0] >= there_and_back(near) && told[1] >= there_and_back(far), "{told:?}");
            (told[0] < told[1]).then_some(())
        })
        .await;
    }
    world
        .settles(
            "nothing fails",
            &[
                ("pinned", EU, EU),
                ("pinned", US, EU),
                ("pinned", ASIA, EU),
                ("preferred", EU, EU),
                ("preferred", US, EU),
                ("preferred", ASIA, EU),
                ("allowed", EU, EU),
                ("allowed", US, US),
                ("allowed", ASIA, US),
            ],
        )
        .await;
}

/// A way is cut while workers are at their requests: a gap is waited for, and then what may not be repeated is not.
async fn in_the_middle(world: &World<Network>) {
    let gap = [("gap", "pinned", Method::POST)];
    let [answer] = world.cut_in_the_middle(gap, Duration::from_secs(1)).await;
    assert_eq!((answer.status.as_u16(), world.executed("gap")), (200, 1), "{}", answer.text());

    let asked = [
        ("pinned-post", "pinned", Method::POST),
        ("preferred-post", "preferred", Method::POST),
        ("preferred-get", "preferred", Method::GET),
    ];
    let [pinned, post, get] = world.cut_in_the_middle(asked, NOTICED).await;
    for lost in [pinned, post] {
        assert!(lost.status == 502 && lost.text().contains("1202"), "{}", lost.text());
    }
    assert_eq!((world.executed("pinned-post"), world.executed("preferred-post")), (1, 1));
    let decision = get.header("atoll-decision");
    assert!(is_served(&get, "preferred", ASIA, US), "{decision} {}", get.text());
    assert!(decision.contains("failed=(\"node-eu\";outcome=lost"), "{decision}");
    assert_eq!(world.executed("preferred-get"), 2);
}

async fn killed(world: &mut World<Network>) {
    world.node_mut(EU).kill9();
    let elsewhere = [
        ("pinned", US, ""),
        ("pinned", ASIA, ""),
        ("preferred", US, US),
        ("preferred", ASIA, US),
        ("allowed", ASIA, US),
    ];
    world.settles("killed", &elsewhere).await;
    world.node_mut(EU).restart().await;
    healed(world).await;
}

/// Two regions do not see each other, and both see the third; then one sees none; then it sees the further one alone.
async fn cut(world: &World<Network>) {
    world.way(EU, ASIA, Way::Cut);
    let apart = [
        ("pinned", ASIA, ""),
        ("pinned", US, EU),
        ("preferred", ASIA, US),
        ("preferred", US, EU),
        ("allowed", ASIA, US),
    ];
    world.settles("eu and asia are cut", &apart).await;
    world.way(US, ASIA, Way::Cut);
    let alone = [("pinned", ASIA, ""), ("preferred", ASIA, ASIA), ("allowed", ASIA, "")];
    world.settles("us and asia are cut too", &alone).await;
    world.heal_all();
    world.way(US, ASIA, Way::Cut);
    let further = [("pinned", ASIA, EU), ("preferred", ASIA, EU), ("allowed", ASIA, EU)];
    world.settles("eu and asia are joined", &further).await;
    world.heal_all();
    world.settles("all are joined", &[("allowed", ASIA, US)]).await;
}

/// A region sees nobody, not even NATS, and serves its own clients.
async fn cut_off(world: &World<Network>) {
    for other in [US, ASIA] {
        world.way(EU, other, Way::Cut);
    }
    world.ways.set(place(EU), NATS, Way::Cut);
    let alone = [
        ("pinned", US, ""),
        ("pinned", ASIA, ""),
        ("preferred", ASIA, US),
        ("preferred", US, US),
        ("allowed", ASIA, US),
        ("pinned", EU, EU),
        ("preferred", EU, EU),
        ("allowed", EU, EU),
    ];
    world.settles("eu is cut off", &alone).await;
    world.heal_all();
    healed(world).await;
}

async fn slowed(world: &World<Network>) {
    // The nearest is another one now.
    world.slow(US, ASIA, 250);
    world.settles("us is further than eu", &[("allowed", ASIA, EU)]).await;
    world.heal_all();
    world.settles("us is near again", &[("allowed", ASIA, US)]).await;
    // Too far to be preferred, and still the only one for what is pinned.
    world.slow(EU, ASIA, 800);
    world.settles("eu is slow", &[("preferred", ASIA, US), ("pinned", ASIA, EU)]).await;
    // So far that it does not answer in time.
    world.slow(EU, ASIA, 4000);
    let beyond = [("preferred", ASIA, US), ("allowed", ASIA, US), ("pinned", US, EU)];
    world.settles("eu is out of reach", &beyond).await;
    world.heal_all();
    healed(world).await;
}

/// Ways that come and go, and lose packets, catch requests at every point.
async fn unsteady(world: &World<Network>) {
    println!("all ways are unsteady");
    for _ in 0..6 {
        for (one, other, delay_ms) in WAYS {
            let delay = Duration::from_millis(delay_ms);
            world.way(one, other, Way::Open { delay, lost_percent: 15 });
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
        for other in [ASIA, US] {
            world.way(EU, other, Way::Cut);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
    world.heal_all();
    healed(world).await;
}
