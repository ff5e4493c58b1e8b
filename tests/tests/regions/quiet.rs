//! Where requests are served, and what goes along with them, while nothing fails.

use std::time::Duration;

use atoll_tests::{Protocol, StreamedBody, eventually, next_chunk};
use bytes::Bytes;
use http::Method;
use serde_json::json;

use super::world::{ASIA, EU, US, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_served_where_their_worker_may_run() {
    let world = World::start().await;
    world.deploy("anywhere", &json!({})).await;
    world.deploy("pinned", &json!({ "pin": "eu" })).await;
    world.deploy("preferred", &json!({ "prefer": ["eu", "us"] })).await;
    world.deploy("allowed", &json!({ "allow": ["eu", "us"] })).await;
    world.deploy("nowhere", &json!({ "pin": "mars" })).await;
    world.all_know_each_other().await;
    for (worker, from, served) in [
        ("pinned", "eu", "eu"),
        ("pinned", "us", "eu"),
        ("pinned", "asia", "eu"),
        ("preferred", "us", "eu"),
        ("preferred", "asia", "eu"),
        ("preferred", "eu", "eu"),
        ("allowed", "us", "us"),
        ("allowed", "eu", "eu"),
        // The way to us is shorter.
        ("allowed", "asia", "us"),
    ] {
        assert_eq!(world.served(worker, from).await, served, "{worker} from {from}");
    }
    let plain = world.ask("anywhere", "us").send().await.unwrap();
    assert_eq!((plain.status.as_u16(), plain.header("atoll-decision")), (200, ""));

    let refused = world.ask("nowhere", "us").send().await.unwrap();
    assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (503, "1"));
    assert!(refused.text().contains("1201"), "{}", refused.text());

    // It is one invocation, on the node that serves.
    eventually("the node that served has counted", async || {
        let counted = world.node(EU).metrics().await.ok()?.outcomes(Some("pinned"));
        (counted.get("ok") == Some(&3)).then_some(())
    })
    .await;
    for node in [US, ASIA] {
        let counted = world.node(node).metrics().await.unwrap().outcomes(Some("pinned"));
        assert!(counted.is_empty(), "{node}: {counted:?}");
    }
    let to_eu = [("node", "node-eu"), ("outcome", "answered")];
    eventually("the node that passed them on has counted", async || {
        let sent = world.node(US).metrics().await.ok()?;
        (sent.sum("atoll_forwarded_requests_total", &to_eu) >= 2.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_far_away_knows_the_client_as_one_nearby_does() {
    let world = World::start().await;
    world.deploy("pinned", &json!({ "pin": "eu" })).await;
    world.all_know_each_other().await;
    let ask = world.ask("pinned", "us").over(Protocol::Https2);
    let ask = ask.header("cf-connecting-ip", "1.2.3.4").header("atoll-carried", "forged");
    let told = ask.header("x-own", "kept").send().await.unwrap().json();
    let cf = &told["cf"];
    for (key, expected) in [
        ("colo", "us"),
        // Only the node that the client came to has this network.
        ("country", "JP"),
        ("city", "Kyoto"),
        ("httpProtocol", "HTTP/2"),
        ("tlsVersion", "TLSv1.3"),
    ] {
        assert_eq!(cf[key], expected, "{key} in {cf}");
    }
    let headers = &told["headers"];
    for (name, expected) in [
        ("host", "pinned.demo.localhost"),
        ("cf-connecting-ip", "127.0.0.1"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("cf-ipcountry", "JP"),
        ("x-own", "kept"),
    ] {
        assert_eq!(headers[name], expected, "{name} in {headers}");
    }
    assert!(headers.get("atoll-carried").is_none(), "{headers}");
    assert!(told["url"].as_str().unwrap().starts_with("https://pinned.demo.localhost/"));
    // Nobody but a node says such things: here a client says them to the node that serves.
    let forged = world.ask("pinned", "eu").header("atoll-carried", "forged").send().await.unwrap();
    assert_eq!(forged.json()["cf"]["colo"], "eu");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_stream_both_ways() {
    let world = World::start().await;
    world.deploy("pinned", &json!({ "pin": "eu" })).await;
    world.all_know_each_other().await;
    let long: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let echo = |from| world.ask_path("pinned", from, "/echo").method(Method::POST);
    let whole = echo("us").post(long.clone()).await.unwrap();
    assert_eq!((whole.status.as_u16(), whole.body == long), (200, true));
    // What is sent comes back before the rest is sent.
    let (sender, body) = StreamedBody::channel();
    let mut answer = echo("us").open_with(body).await.unwrap();
    for word in ["one", "two", "three"] {
        sender.send(Bytes::from(word)).await.unwrap();
        assert_eq!(next_chunk(answer.body_mut()).await.unwrap().unwrap(), word);
    }
    drop(sender);
    assert_eq!(next_chunk(answer.body_mut()).await.unwrap(), None);
    // A client that reads nothing holds the worker back, and one that leaves ends it.
    let endless = world.ask_path("pinned", "us", "/endless");
    let mut answer = endless.open().await.unwrap();
    next_chunk(answer.body_mut()).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(answer);
    eventually("the worker is told", async || {
        let counted = world.node("eu").metrics().await.ok()?.outcomes(Some("pinned"));
        counted.get("canceled").copied().filter(|count| *count == 1)
    })
    .await;
    let written = world.recorded().iter().filter(|path| path.starts_with("/chunk")).count();
    assert!(written < 100, "{written} times 1 MB were taken from a worker that nobody read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regions_are_set_by_projects_and_commands() {
    let world = World::start().await;
    world.deploy("w", &json!({})).await;
    world.all_know_each_other().await;
    let node = world.node("us");
    let set =
        node.atoll(&["regions", "set", "--allow", "eu,us", "--prefer", "eu", "--name", "w"]).await;
    assert!(set.success, "{}", set.stderr);
    assert!(set.stdout.contains("allow eu us, prefer eu\tnode-eu node-us"), "{}", set.stdout);
    eventually("it holds", async || (world.served("w", "us").await == EU).then_some(())).await;
    let gone = node.atoll(&["regions", "delete", "--name", "w"]).await;
    assert!(gone.success, "{}", gone.stderr);
    eventually("it holds no more", async || {
        let plain = world.ask("w", "us").send().await.ok()?;
        plain.header("atoll-decision").is_empty().then_some(())
    })
    .await;
    let wrong = node.atoll(&["regions", "set", "--pin", US, "--allow", "eu", "--name", "w"]).await;
    assert!(wrong.stderr.contains("pin stands alone"), "{}", wrong.stderr);
}
