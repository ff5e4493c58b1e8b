//! The promise: rules decide about requests before any code runs, alike for the same client every time, and those
//! who may not force a variant cannot.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use atoll_tests::{Node, NodeOptions, Protocol, Reply, Script, SharedNode};
use http::Method;
use serde_json::{Value, json};

/// Two serving processes, so that nothing depends on who answers.
static NODE: SharedNode = SharedNode::new(|| {
    let networks = "[[geo.networks]]\ncidr = \"127.0.9.0/24\"\ncountry = \"AT\"\n";
    NodeOptions { processes: Some(2), ..NodeOptions::with_config(networks) }
});

/// Tells what it sees of the request and of what was decided.
const TELL: &str = "export default { fetch: (request, env, ctx) => Response.json({ \
    name: NAME, url: request.url, plan: request.headers.get('x-plan'), \
    token: request.headers.get('atoll-preview-token'), \
    page: env.FLAGS.getStringDetails('page', 'none'), on: env.FLAGS.getBooleanValue('all', false), \
    missing: env.FLAGS.getNumberDetails('missing', 7), wrong: env.FLAGS.getNumberDetails('page', 7), \
    variables: env.FLAGS.variables, experiments: ctx.experiments, keys: Object.keys(env), \
  }, { headers: { 'x-worker': NAME, 'x-old': '1' } }) };";

fn tell(name: &str) -> Script {
    Script::module(TELL.replace("NAME", &format!("'{name}'")))
}

async fn set(node: &Node, worker: &str, document: Value) -> Value {
    let path = node.api().in_account(&format!("/workers/scripts/{worker}/rules"));
    node.api().call(Method::PUT, &path, &document).await.unwrap()
}

async fn get(node: &Node, worker: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    let request = node.request(worker, path);
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(name, value));
    request.send().await.unwrap()
}

/// The value of the client's automatic id that a response sets.
fn id_of(reply: &Reply) -> Option<&str> {
    let cookie = reply.header("set-cookie").split(';').next().unwrap_or_default();
    cookie.strip_prefix("atoll_id=")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_gets_an_id_and_keeps_its_variant() {
    let node = &*NODE.node().await;
    node.deploy("sticky", &tell("sticky")).await;
    set(
        node,
        "sticky",
        json!({ "rule": [
        { "name": "page", "variants": [{ "name": "a" }, { "name": "b" }] },
    ] }),
    )
    .await;
    let mut counts = BTreeMap::<String, u32>::new();
    for _ in 0..40 {
        let first = get(node, "sticky", "/", &[]).await;
        let id = id_of(&first).expect("a new client gets an id").to_owned();
        assert_eq!(id.len(), 32);
        let cookie = first.header("set-cookie");
        assert!(cookie.ends_with("; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax"), "{cookie}");
        let variant = first.json()["page"]["variant"].as_str().unwrap().to_owned();
        let expected = if atoll_router::rules::bucket("page", &id) < 5_000 { "a" } else { "b" };
        assert_eq!(variant, expected, "{id}");
        for _ in 0..3 {
            let again = get(node, "sticky", "/", &[("cookie", &format!("atoll_id={id}"))]).await;
            assert_eq!(again.json()["page"]["variant"], *variant);
            assert_eq!(again.header("set-cookie"), "");
        }
        *counts.entry(variant).or_default() += 1;
    }
    assert_eq!(counts.len(), 2, "{counts:?}");
    let secure = node.request("sticky", "/").over(Protocol::Https2).send().await.unwrap();
    assert!(secure.header("set-cookie").ends_with("; Secure"), "{}", secure.header("set-cookie"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variants_act_before_the_worker() {
    let node = &*NODE.node().await;
    node.deploy("acting", &tell("old")).await;
    let path = node.api().in_account("/workers/scripts/acting/versions?deployable=true");
    let versions = node.api().call(Method::GET, &path, &Value::Null).await.unwrap();
    let old = versions["items"][0]["id"].as_str().unwrap().to_owned();
    node.deploy("acting", &tell("new")).await;
    node.deploy("elsewhere", &tell("elsewhere")).await;
    let on_path = |path: &str, mut rule: Value| {
        rule["when"] = json!({ "path": { "prefix": path } });
        rule["name"] = json!(path.trim_start_matches('/'));
        rule
    };
    set(node, "acting", json!({ "rule": [
        on_path("/version", json!({ "version": old })),
        on_path("/worker", json!({ "worker": "elsewhere" })),
        on_path("/gone", json!({ "worker": "nowhere" })),
        on_path("/rewrite", json!({ "rewrite": "/in{rest}" })),
        on_path("/redirect", json!({ "redirect": { "location": "/to{rest}{query}", "status": 307 } })),
        on_path("/headers", json!({
            "request_headers": { "x-plan": "pro" },
            "response_headers": { "x-worker": "rule", "x-old": false, "set-cookie": "a=1" },
        })),
        on_path("/variables", json!({ "variables": { "color": "red" } })),
        { "name": "country", "when": { "country": "AT" }, "redirect": "https://{host}/at" },
    ] }))
    .await;
    let told = async |path: &str| get(node, "acting", path, &[("x-plan", "free")]).await.json();
    assert_eq!(told("/").await["name"], "new");
    assert_eq!(told("/version").await["name"], "old");
    assert_eq!(told("/worker").await["name"], "elsewhere");
    assert_eq!(told("/gone").await["name"], "new");
    let url = told("/rewrite/x?q=1").await["url"].as_str().unwrap().to_owned();
    assert!(url.ends_with("/in/x?q=1") && url.starts_with("http://acting."), "{url}");
    assert_eq!(told("/variables").await["variables"], json!({ "color": "red" }));
    let redirected = get(node, "acting", "/redirect//evil.example?q=1", &[]).await;
    assert_eq!(redirected.status, 307);
    assert_eq!(redirected.header("location"), "/to//evil.example?q=1");
    assert!(redirected.body.is_empty() && !redirected.header("cf-ray").is_empty());
    let headers = get(node, "acting", "/headers", &[("x-plan", "free")]).await;
    assert_eq!((headers.header("x-worker"), headers.header("x-old")), ("rule", ""));
    assert_eq!(headers.header("set-cookie"), "a=1");
    assert_eq!(headers.json()["plan"], "pro");
    let austrian =
        node.request("acting", "/x").from("127.0.9.1".parse().unwrap()).send().await.unwrap();
    assert_eq!(austrian.status, 302);
    assert!(austrian.header("location").ends_with("/at"), "{}", austrian.header("location"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_see_what_was_decided() {
    let node = &*NODE.node().await;
    node.deploy("flags", &tell("flags")).await;
    let without = get(node, "flags", "/", &[]).await.json();
    assert_eq!(without["page"]["errorCode"], "FLAG_NOT_FOUND");
    assert_eq!((&without["on"], &without["experiments"]), (&json!(false), &json!({})));
    set(
        node,
        "flags",
        json!({ "rule": [
        { "name": "page", "variants": [{ "name": "a", "value": "A" }], "variables": null },
        { "name": "all", "layer": "2" },
        { "name": "off", "layer": "3", "enabled": false },
    ] }),
    )
    .await;
    let told = get(node, "flags", "/", &[]).await.json();
    assert_eq!(
        told["page"],
        json!({ "flagKey": "page", "value": "A", "variant": "a", "reason": "STATIC", "flagMetadata": {} })
    );
    assert_eq!(told["on"], true);
    assert_eq!(
        (&told["missing"]["value"], &told["missing"]["reason"]),
        (&json!(7), &json!("ERROR"))
    );
    assert_eq!(
        (&told["wrong"]["value"], &told["wrong"]["errorCode"]),
        (&json!(7), &json!("TYPE_MISMATCH"))
    );
    let given: Vec<_> = told["experiments"].as_object().unwrap().keys().cloned().collect();
    assert_eq!((given, &told["keys"]), (vec!["page".to_owned(), "all".to_owned()], &json!([])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_force_nothing_and_a_switch_holds_over_deploys() {
    let node = &*NODE.node().await;
    node.deploy("forced", &tell("forced")).await;
    let token: Value = {
        let output = node.atoll(&["--json", "rules", "token"]).await;
        serde_json::from_str(&output.stdout).unwrap()
    };
    let document = json!({
        "preview_token_sha256": token["preview_token_sha256"],
        "rule": [{ "name": "page", "percent": 0, "variants": [{ "name": "a" }, { "name": "b" }] }],
    });
    set(node, "forced", document.clone()).await;
    let asks = [("atoll-preview", "page=b"), ("atoll-explain", "1")];
    let stranger = get(node, "forced", "/", &asks).await;
    assert_eq!(stranger.json()["page"]["reason"], "DEFAULT");
    assert_eq!(stranger.header("atoll-explain"), "");
    let knows = [asks[0], asks[1], ("atoll-preview-token", token["token"].as_str().unwrap())];
    let tester = get(node, "forced", "/", &knows).await;
    assert_eq!(tester.json()["page"]["variant"], "b");
    assert_eq!(tester.json()["token"], Value::Null);
    assert_eq!(tester.header("atoll-explain"), "page=b (PREVIEW)");

    let mut all = document;
    all["rule"][0]["percent"] = json!(100);
    set(node, "forced", all.clone()).await;
    assert_eq!(get(node, "forced", "/", &[]).await.json()["page"]["reason"], "SPLIT");
    let disabled = node.atoll(&["rules", "disable", "page", "--name", "forced"]).await;
    assert!(disabled.success && disabled.stdout.contains("switched off"), "{disabled:?}");
    set(node, "forced", all).await;
    assert_eq!(get(node, "forced", "/", &[]).await.json()["page"]["reason"], "DISABLED");
    assert!(node.atoll(&["rules", "enable", "page", "--name", "forced"]).await.success);
    assert_eq!(get(node, "forced", "/", &[]).await.json()["page"]["reason"], "SPLIT");
    assert!(node.atoll(&["rules", "delete", "--yes", "--name", "forced"]).await.success);
    assert_eq!(get(node, "forced", "/", &[]).await.json()["page"]["errorCode"], "FLAG_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_sets_shows_and_tries_rules() {
    let node = &*NODE.node().await;
    node.deploy("cli", &tell("cli")).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rules.toml");
    let path = file.to_str().unwrap();
    std::fs::write(&file, "[[rule]]\nname = \"shop\"\nwhen = { contry = \"DE\" }\n").unwrap();
    let refused = node.atoll(&["rules", "set", path, "--name", "cli"]).await;
    assert!(!refused.success);
    let told = format!("{path}:3:10: unknown key \"contry\": did you mean \"country\"?");
    assert!(refused.stderr.contains(&told), "{}", refused.stderr);
    std::fs::write(
        &file,
        "[[rule]]\nname = \"shop\"\npercent = 50\nwhen = { country = \"DE\" }\nrewrite = \"/de{path}\"\n",
    )
    .unwrap();
    let set = node.atoll(&["rules", "set", path, "--name", "cli"]).await;
    assert_eq!(
        (set.success, set.stdout.as_str()),
        (true, "shop\tmain\ton\ton 50 %, nobody 50 %\n")
    );
    let shown = node.atoll(&["rules", "show", "--name", "cli"]).await;
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(shown["document"]["rule"][0]["name"], "shop");
    let test =
        ["rules", "test", "https://a.example/x", "--country", "DE", "--name", "cli", "--unit", "2"];
    // Bucket 2 of the seed is published: the unit is drawn alike everywhere.
    let bucket = atoll_router::rules::bucket("shop", "2");
    let tried = node.atoll(&test).await;
    let (variant, outcome) = if bucket < 5_000 { ("on", "SPLIT") } else { ("-", "no part") };
    let first = tried.stdout.lines().next().unwrap_or_default();
    assert_eq!(first, format!("shop\tmain\t{variant}\t{bucket}\t{outcome}"), "{tried:?}");
    let unfit = node.atoll(&["rules", "test", "/x", "--name", "cli"]).await;
    assert!(unfit.stderr.contains("is no URL"), "{}", unfit.stderr);
}
