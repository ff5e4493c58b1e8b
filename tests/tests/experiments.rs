//! The promise: what comes of rules is counted once for each unit, compared with the control, kept over restarts, and
//! a variant that breaks its guardrail is taken back for good.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use atoll_kv::contract::nats::NatsServers;
use atoll_tests::{Node, NodeOptions, Script, SharedNode};
use http::Method;
use serde_json::{Value, json};

/// Two serving processes, so that nothing depends on who answers.
static NODE: SharedNode =
    SharedNode::new(|| NodeOptions { processes: Some(2), ..NodeOptions::default() });

/// Fails for the variant `bad`, and tells what `/buy` says.
const SHOP: &str = "export default { fetch(request, env, ctx) { \
    const url = new URL(request.url); \
    const variant = ctx.experiments.page?.variant; \
    if (url.pathname === '/buy') ctx.track('spent', Number(url.searchParams.get('spent') ?? 1)); \
    if (variant === 'bad') return new Response('bad', { status: 500 }); \
    return new Response(variant ?? 'none'); } };";

/// How long results may take to be there.
const KEPT_MAX: Duration = Duration::from_secs(60);

async fn set(node: &Node, worker: &str, document: Value) {
    let path = node.api().in_account(&format!("/workers/scripts/{worker}/rules"));
    node.api().call(Method::PUT, &path, &document).await.unwrap();
}

async fn results(node: &Node, worker: &str) -> Value {
    let path = node.api().in_account(&format!("/workers/scripts/{worker}/rules/results"));
    node.api().call(Method::GET, &path, &Value::Null).await.unwrap()["experiments"][0].clone()
}

/// The results, once they are as they should be.
async fn eventually(node: &Node, worker: &str, fit: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let found = results(node, worker).await;
        if fit(&found) {
            return found;
        }
        assert!(begun.elapsed() < KEPT_MAX, "{found:#}");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

async fn visit(node: &Node, worker: &str, path: &str, unit: &str) -> String {
    let cookie = format!("atoll_id={unit}");
    let reply = node.request(worker, path).header("cookie", &cookie).send().await.unwrap();
    String::from_utf8_lossy(&reply.body).into_owned()
}

fn units(results: &Value) -> (u64, u64) {
    let of = |place: usize| results["variants"][place]["units"].as_u64().unwrap_or(0);
    (of(0), of(1))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_count_once_and_outcomes_are_theirs() {
    let node = &*NODE.node().await;
    node.deploy("shop", &Script::module(SHOP)).await;
    let variants = json!([{ "name": "old" }, { "name": "new" }]);
    set(
        node,
        "shop",
        json!({ "rule": [
        { "name": "page", "when": { "path": "/" }, "variants": variants },
    ] }),
    )
    .await;
    let mut expected = [(0, 0.0), (0, 0.0)];
    for number in 0..60_u32 {
        let unit = format!("unit-{number}");
        let place = usize::from(atoll_router::rules::bucket("page", &unit) >= 5_000);
        for _ in 0..3 {
            assert_eq!(visit(node, "shop", "/", &unit).await, ["old", "new"][place]);
        }
        expected[place].0 += 1;
        if number % 3 == 0 {
            // The rule does not hold there: the unit is known from the page.
            visit(node, "shop", "/buy?spent=2.5", &unit).await;
            visit(node, "shop", "/buy?spent=2.5", &unit).await;
            expected[place].1 += 1.0;
        }
    }
    // Who has seen nothing is in no experiment.
    visit(node, "shop", "/buy", "stranger").await;
    let all = (expected[0].0, expected[1].0);
    let bought = expected[0].1 + expected[1].1;
    let found = eventually(node, "shop", |found| {
        let each = found["metrics"][0]["variants"].as_array();
        let converted = each.into_iter().flatten().map(|v| v["converted"].as_f64().unwrap());
        units(found) == all && converted.sum::<f64>() == bought
    })
    .await;
    assert_eq!(found["metrics"][0]["name"], "spent");
    let new = &found["metrics"][0]["variants"][1];
    assert_eq!(new["sum"].as_f64().unwrap(), expected[1].1 * 5.0);
    let difference = new["conversion"]["difference"].as_f64().unwrap();
    let low = new["conversion"]["low"].as_f64().unwrap();
    assert!(low < difference && found["sample_ratio"]["mismatch"] == false, "{found:#}");
    assert_eq!(
        found["variants"][0]["requests"].as_u64().unwrap(),
        u64::from(expected[0].0 as u32) * 3
    );

    let status = node.atoll(&["rules", "status", "shop"]).await;
    assert!(status.success && !status.stdout.contains('\u{1b}'), "{status:?}");
    for part in [
        "page\n",
        "old (control)\t50.00 %",
        "█",
        "spent\tdid it, points\tnew\t",
        "spent\tmean\t",
        "●",
    ] {
        assert!(status.stdout.contains(part), "{part}: {}", status.stdout);
    }
    let json = node.atoll(&["--json", "rules", "status", "shop"]).await;
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["experiments"][0]["rule"], "page");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_variant_that_breaks_its_guardrail_is_taken_back_for_good() {
    let node = &*NODE.node().await;
    node.deploy("guarded", &Script::module(SHOP)).await;
    let document = json!({ "rule": [{
        "name": "page",
        "variants": [{ "name": "good" }, { "name": "bad" }],
        "guardrail": { "error_rate": 5, "requests": 40 },
    }] });
    set(node, "guarded", document.clone()).await;
    let bad: Vec<String> = (0..400)
        .map(|number| format!("u{number}"))
        .filter(|unit| atoll_router::rules::bucket("page", unit) >= 5_000)
        .collect();
    for number in 0..120 {
        visit(node, "guarded", "/", &format!("u{number}")).await;
    }
    let taken = |found: &Value| !found["variants"][1]["rolled_back"].is_null();
    let found = eventually(node, "guarded", taken).await;
    let why = found["variants"][1]["rolled_back"]["why"].as_str().unwrap();
    assert!(why.starts_with("100.00 % of "), "{why}");
    let begun = Instant::now();
    while visit(node, "guarded", "/", &bad[0]).await != "good" {
        assert!(begun.elapsed() < KEPT_MAX, "the variant is given all the same");
    }
    // Neither a deploy nor the same rules again bring it back.
    set(node, "guarded", document).await;
    assert_eq!(visit(node, "guarded", "/", &bad[1]).await, "good");
    let status = node.atoll(&["rules", "status", "guarded"]).await;
    assert!(status.stdout.contains("bad was taken back: 100.00 % of"), "{}", status.stdout);
    assert!(node.atoll(&["rules", "enable", "page", "--name", "guarded"]).await.success);
    assert_eq!(visit(node, "guarded", "/", &bad[2]).await, "bad");
}

fn of_cluster(servers: &NatsServers, name: &str, key: Option<Vec<u8>>) -> NodeOptions {
    let config = format!(
        "[cluster]\nnats = [{:?}]\nname = {name:?}\nregion = \"r\"\nshards = 4\nreplicas = 1\n",
        servers.url(0)
    );
    NodeOptions { threads: 1, processes: Some(1), config, key, ..NodeOptions::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_a_cluster_have_the_same_results_and_one_takes_back() {
    let servers = NatsServers::start(1);
    let a = Node::start(of_cluster(&servers, "a", None)).await;
    let key = std::fs::read(a.data_dir().join("node.key")).unwrap();
    let b = Node::start(of_cluster(&servers, "b", Some(key))).await;
    a.deploy("shop", &Script::module(SHOP)).await;
    let variants = json!([{ "name": "old" }, { "name": "bad" }]);
    set(
        &a,
        "shop",
        json!({ "rule": [
        { "name": "page", "when": { "path": "/" }, "variants": variants,
          "guardrail": { "error_rate": 5, "requests": 30 } },
    ] }),
    )
    .await;
    eventually(&b, "shop", |found| found["rule"] == "page").await;
    let all: Vec<String> = (0..40).map(|number| format!("unit-{number}")).collect();
    for unit in &all {
        // Some units come to both nodes.
        visit(&a, "shop", "/", unit).await;
        visit(&b, "shop", "/", &all[0]).await;
    }
    visit(&b, "shop", "/buy?spent=3", &all[1]).await;
    let bad = all.iter().filter(|u| atoll_router::rules::bucket("page", u) >= 5_000).count() as u64;
    let expected = (all.len() as u64 - bad, bad);
    for node in [&a, &b] {
        let known = |found: &Value| {
            let told = found["metrics"][0]["variants"].as_array();
            let sums = told.into_iter().flatten().map(|variant| variant["sum"].as_f64().unwrap());
            units(found) == expected && sums.sum::<f64>() == 3.0
        };
        eventually(node, "shop", known).await;
    }
    for unit in &all {
        visit(&b, "shop", "/", unit).await;
    }
    let taken = |found: &Value| !found["variants"][1]["rolled_back"].is_null();
    let by_a = eventually(&a, "shop", taken).await;
    let by_b = eventually(&b, "shop", taken).await;
    assert_eq!(by_a["variants"][1]["rolled_back"], by_b["variants"][1]["rolled_back"]);
    let said =
        [&a, &b].map(|node| node.output().matches("a guardrail took a variant back").count());
    assert_eq!(said.iter().sum::<usize>(), 1, "{said:?}");
}
