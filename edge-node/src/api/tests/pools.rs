//! Origin pools of workers over the API.

use super::*;

const POOLS: &str = "A/workers/scripts/w/pools";

#[tokio::test]
async fn pools_are_set_seen_and_removed() {
    let node = node();
    assert_eq!(node.a.fault(Method::GET, POOLS, Value::Null).await.0, 10_007);
    node.a.deploy("w", json!([])).await;
    assert_eq!(node.a.get(POOLS).await, json!([]));
    let pools = json!([{ "host": "api.example.com", "origins": [{ "address": "http://10.0.0.5" }],
        "health": { "path": "/up" } }]);
    let set = node.a.done(Method::PUT, POOLS, pools).await;
    let pool = json!({ "host": "api.example.com", "steering": "failover", "failures": 3,
        "ejection_s_max": 60, "connect_timeout_ms": 2_000,
        "origins": [{ "address": "http://10.0.0.5", "weight": 1 }],
        "health": { "path": "/up", "interval_s": 10, "timeout_ms": 2_000, "healthy": 2,
            "unhealthy": 2 } });
    assert_eq!(set, json!([pool]), "with the defaults");
    assert_eq!(node.a.get(POOLS).await, set);
    for (wrong, expected) in [
        (json!([{ "host": "a.b", "origins": [] }]), "pool \"a.b\": it has 0 origins"),
        (json!([{ "hosts": "a.b", "origins": [] }]), "unknown field `hosts`"),
        (json!({ "host": "a.b" }), "expected a sequence"),
    ] {
        let (_, message) = node.a.fault(Method::PUT, POOLS, wrong).await;
        assert!(message.contains(expected), "{message}");
    }
    node.a.deploy("w", json!([])).await;
    assert_eq!(node.a.get(POOLS).await, set, "a new version leaves them");
    assert_eq!(node.b.fault(Method::GET, POOLS, Value::Null).await.0, 10_007);
    node.a.done(Method::DELETE, POOLS, Value::Null).await;
    assert_eq!(node.a.get(POOLS).await, json!([]));
}
