//! The promise: the KV binding does what Workers KV does, with its limits and error texts, and the
//! REST API sees the same data.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use atoll_tests::{NodeGuard, NodeOptions, Script, SharedNode, fixture};
use serde_json::{Value, json};

static NODE: SharedNode = SharedNode::new(NodeOptions::default);

/// A worker with a namespace of its own.
struct Bound {
    node: NodeGuard,
    worker: &'static str,
    namespace: String,
}

impl Bound {
    async fn new(worker: &'static str) -> Self {
        let node = NODE.node().await;
        let namespace = node.api().create_namespace(worker).await;
        node.deploy(worker, &Script::module(fixture("kv.js")).bind_kv("KV", &namespace)).await;
        Self { node, worker, namespace }
    }

    /// Does one operation in the worker: `{ ok }` or `{ error }`.
    async fn run(&self, operation: Value) -> Value {
        let reply = self.node.request(self.worker, "/").post(operation.to_string()).await.unwrap();
        assert_eq!(reply.status, 200, "{operation}: {}", reply.text());
        reply.json()
    }

    async fn ok(&self, operation: Value) -> Value {
        let mut answer = self.run(operation.clone()).await;
        assert!(answer.get("ok").is_some(), "{operation}: {answer}");
        answer["ok"].take()
    }
}

#[tokio::test]
async fn values_come_back_in_every_type() {
    let kv = Bound::new("kv-types").await;
    for (stored, stored_as) in [
        (json!("{\"a\":[1]}"), "text"),
        (json!([123, 34, 97, 34, 58, 91, 49, 93, 125]), "arrayBuffer"),
        (json!("{\"a\":[1]}"), "stream"),
    ] {
        kv.ok(json!({ "op": "put", "key": "k", "value": stored, "type": stored_as })).await;
        for (read_as, expected) in [
            ("text", json!("{\"a\":[1]}")),
            ("json", json!({ "a": [1] })),
            ("arrayBuffer", json!({ "bytes": [123, 34, 97, 34, 58, 91, 49, 93, 125] })),
            ("stream", json!({ "streamed": "{\"a\":[1]}" })),
        ] {
            let seen = kv.ok(json!({ "op": "get", "key": "k", "type": read_as })).await;
            assert_eq!(seen, expected, "stored as {stored_as}, read as {read_as}");
        }
    }
    assert_eq!(kv.ok(json!({ "op": "get", "key": "absent" })).await, Value::Null);
    assert_eq!(
        kv.ok(json!({ "op": "get", "keys": ["k", "absent"] })).await,
        json!({ "k": "{\"a\":[1]}", "absent": null })
    );
    kv.ok(json!({ "op": "delete", "key": "k" })).await;
    assert_eq!(kv.ok(json!({ "op": "get", "key": "k" })).await, Value::Null);
}

#[tokio::test]
async fn metadata_comes_back_with_values_and_lists() {
    let kv = Bound::new("kv-metadata").await;
    let options = json!({ "metadata": { "by": "Ada" }, "expirationTtl": 3600 });
    kv.ok(json!({ "op": "put", "key": "with", "value": "v", "options": options })).await;
    kv.ok(json!({ "op": "put", "key": "without", "value": "w" })).await;
    for (key, expected) in [
        ("with", json!({ "value": "v", "metadata": { "by": "Ada" } })),
        ("without", json!({ "value": "w", "metadata": null })),
        ("absent", json!({ "value": null, "metadata": null })),
    ] {
        assert_eq!(kv.ok(json!({ "op": "getWithMetadata", "key": key })).await, expected, "{key}");
    }
    let list = kv.ok(json!({ "op": "list" })).await;
    assert_eq!(list["keys"][0]["metadata"], json!({ "by": "Ada" }));
    assert!(list["keys"][0]["expiration"].is_u64(), "{list}");
    assert_eq!(list["keys"][1], json!({ "name": "without" }));
}

#[tokio::test]
async fn lists_page_through_a_prefix_in_order() {
    let kv = Bound::new("kv-list").await;
    for n in 0..25 {
        kv.ok(json!({ "op": "put", "key": format!("in/{n:02}"), "value": "" })).await;
    }
    kv.ok(json!({ "op": "put", "key": "out", "value": "" })).await;
    let (mut seen, mut cursor, mut pages) = (Vec::new(), Value::Null, 0);
    loop {
        let mut options = json!({ "prefix": "in/", "limit": 10 });
        if !cursor.is_null() {
            options["cursor"] = cursor;
        }
        let mut page = kv.ok(json!({ "op": "list", "options": options })).await;
        let names = page["keys"].as_array().unwrap().iter().map(|key| key["name"].clone());
        seen.extend(names.map(|name| name.as_str().unwrap().to_owned()));
        pages += 1;
        assert!(pages <= 4, "the list does not end");
        if page["list_complete"] == true {
            break;
        }
        cursor = page["cursor"].take();
    }
    let expected: Vec<String> = (0..25).map(|n| format!("in/{n:02}")).collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn what_is_out_of_bounds_is_refused_in_the_platforms_words() {
    let kv = Bound::new("kv-bounds").await;
    let put = |key: &str, options: Value| json!({ "op": "put", "key": key, "value": "v", "options": options });
    for (operation, expected) in [
        (put("k", json!({ "expirationTtl": 59 })), "Invalid expiration_ttl of 59"),
        (put("k", json!({ "expirationTtl": 0 })), "Invalid expiration_ttl of 0"),
        (put("k", json!({ "expiration": 1 })), "Invalid expiration of 1"),
        (put("k", json!({ "metadata": "m".repeat(1_025) })), "1024"),
        (put("", json!({})), "Key name cannot be empty"),
        (put(".", json!({})), "\".\" is not allowed as a key name"),
        (put("..", json!({})), "\"..\" is not allowed as a key name"),
        (put(&"k".repeat(513), json!({})), "exceeds key length limit of 512"),
        (
            json!({ "op": "putRepeated", "key": "k", "value": 25 * 1024 * 1024 + 1 }),
            "exceeds limit",
        ),
        (json!({ "op": "list", "options": { "limit": 1_001 } }), "1000"),
    ] {
        let answer = kv.run(operation).await;
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(error.contains(expected), "expected {expected:?}, seen {answer}");
    }
    assert_eq!(kv.ok(json!({ "op": "list" })).await["keys"], json!([]));
}

#[tokio::test]
async fn the_api_and_the_binding_see_the_same_data() {
    let kv = Bound::new("kv-api").await;
    let api = kv.node.api();
    kv.ok(json!({ "op": "put", "key": "from worker", "value": "w" })).await;
    api.kv_put(&kv.namespace, "from%2Fapi", "a").await.unwrap();
    assert_eq!(api.kv_get(&kv.namespace, "from%20worker").await.unwrap(), "w");
    assert_eq!(kv.ok(json!({ "op": "get", "key": "from/api" })).await, "a");
    let path = api.in_account(&format!("/storage/kv/namespaces/{}/keys", kv.namespace));
    let keys = api.call(http::Method::GET, &path, &Value::Null).await.unwrap();
    let names: BTreeSet<&str> =
        keys.as_array().unwrap().iter().filter_map(|key| key["name"].as_str()).collect();
    assert_eq!(names, BTreeSet::from(["from worker", "from/api"]));
}

#[tokio::test]
async fn namespaces_and_accounts_are_apart() {
    let kv = Bound::new("kv-mine").await;
    let other = Bound::new("kv-other").await;
    kv.ok(json!({ "op": "put", "key": "k", "value": "mine" })).await;
    assert_eq!(other.ok(json!({ "op": "get", "key": "k" })).await, Value::Null);

    let stranger = kv.node.api().create_account("kv-stranger").await;
    assert!(stranger.kv_get(&kv.namespace, "k").await.is_none());
    assert!(stranger.kv_put(&kv.namespace, "k", "theirs").await.is_err());
    let script = Script::module(fixture("kv.js")).bind_kv("KV", &kv.namespace);
    let refused = stranger.upload("thief", &script).await.unwrap_err();
    assert!(refused.status.is_client_error(), "{refused}");
    assert_eq!(kv.ok(json!({ "op": "get", "key": "k" })).await, "mine");
}
