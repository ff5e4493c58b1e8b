//! Rules of workers over the API.

use super::*;
use crate::registry::{WorkerName, WorkerRef};

const RULES: &str = "A/workers/scripts/w/rules";

#[tokio::test]
async fn rules_are_set_seen_switched_and_removed() {
    let node = node();
    assert_eq!(node.a.fault(Method::GET, RULES, Value::Null).await.0, 10_007);
    node.a.deploy("w", json!([])).await;
    assert_eq!(node.a.get(RULES).await, json!({ "document": null, "rules": [] }));
    let document = json!({ "rule": [{ "name": "r", "percent": 25 }] });
    let set = node.a.done(Method::PUT, RULES, document.clone()).await;
    let variants = json!([{ "name": "on", "buckets": 2_500, "rolled_back": false }]);
    let rule = json!({ "name": "r", "layer": "main", "state": "on", "variants": variants });
    assert_eq!((&set["document"], &set["rules"][0]), (&document, &rule));
    let switch = format!("{RULES}/r/switch");
    let off = node.a.done(Method::PUT, &switch, json!({ "on": false })).await;
    assert_eq!(off["rules"][0]["state"], "switched_off");
    assert_eq!(node.a.done(Method::PUT, &switch, json!({ "on": true })).await["rules"][0], rule);
    let none = format!("{RULES}/x/switch");
    assert_eq!(node.a.fault(Method::PUT, &none, json!({ "on": true })).await.0, 20_404);
    let (code, message) =
        node.a.fault(Method::PUT, RULES, json!({ "rule": [{ "nam": "r" }] })).await;
    assert_eq!(code, 10_021);
    assert!(message.contains("rule[0].nam: unknown key"), "{message}");
    assert_eq!(node.a.get(RULES).await["document"], document);
    // Another account has neither this worker nor its rules.
    assert_eq!(node.b.fault(Method::GET, RULES, Value::Null).await.0, 10_007);
    node.a.done(Method::DELETE, RULES, Value::Null).await;
    assert_eq!(node.a.get(RULES).await["document"], Value::Null);
}

#[tokio::test]
async fn a_request_is_tried_without_being_sent() {
    let node = node();
    node.a.deploy("w", json!([])).await;
    let test = format!("{RULES}/test");
    let tried = json!({
        "url": "https://a.example/x?y", "country": "DE", "headers": [["x-plan", "pro"]],
        "at": "2026-11-26T14:00:00Z",
    });
    assert_eq!(node.a.fault(Method::POST, &test, tried.clone()).await.0, 20_404);
    let document = json!({ "rule": [{
        "name": "r",
        "when": { "country": "DE", "header": { "x-plan": "pro" }, "time": { "days": ["thu"] } },
        "redirect": "/de{path}{query}",
    }] });
    node.a.done(Method::PUT, RULES, document).await;
    let outcome = node.a.done(Method::POST, &test, tried.clone()).await;
    assert_eq!(outcome["redirect"], json!({ "status": 302, "location": "/de/x?y" }));
    assert_eq!(outcome["rules"][0]["outcome"], "TARGETING_MATCH");
    for (key, value) in
        [("url", "/x"), ("at", "soon"), ("method", "a b"), ("unit", "a\nb"), ("more", "x")]
    {
        let mut wrong = tried.clone();
        wrong[key] = json!(value);
        let (status, body) = node.a.call(Method::POST, &test, wrong).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{key}: {body}");
    }
}

#[tokio::test]
async fn variants_that_were_taken_back_come_back_by_a_switch_alone() {
    let node = node();
    node.a.deploy("w", json!([])).await;
    let document =
        json!({ "rule": [{ "name": "r", "variants": [{ "name": "a" }, { "name": "b" }] }] });
    node.a.done(Method::PUT, RULES, document.clone()).await;
    let worker = WorkerRef { account: node.a.account.clone(), worker: WorkerName::new("w") };
    node.registry.roll_back(&worker, "r", "b", "slow").unwrap();
    // The first reason stays.
    node.registry.roll_back(&worker, "r", "b", "slower").unwrap();
    let again = node.a.done(Method::PUT, RULES, document).await;
    assert_eq!(again["rules"][0]["variants"][1]["rolled_back"], true);
    let results = format!("{RULES}/results");
    let found = node.a.get(&results).await;
    let variants = &found["experiments"][0]["variants"];
    assert_eq!((&variants[0]["share"], &variants[1]["share"]), (&json!(1.0), &json!(0.0)));
    assert_eq!(variants[1]["rolled_back"]["why"], "slow");
    assert_eq!(node.b.fault(Method::GET, &results, Value::Null).await.0, 10_007);
    let switch = format!("{RULES}/r/switch");
    let on = node.a.done(Method::PUT, &switch, json!({ "on": true })).await;
    assert_eq!(on["rules"][0]["variants"][1]["rolled_back"], false);
    assert!(on["overlay"]["guarded_since_ms"]["r"].is_u64(), "{on}");
}
