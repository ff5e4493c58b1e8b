//! Regions of workers over the API.

use super::*;

const REGIONS: &str = "A/workers/scripts/w/regions";

#[tokio::test]
async fn regions_are_set_seen_and_removed() {
    let node = node();
    assert_eq!(node.a.fault(Method::GET, REGIONS, Value::Null).await.0, 10_007);
    node.a.deploy("w", json!([])).await;
    assert_eq!(node.a.get(REGIONS).await, json!({}));
    let both = json!({ "allow": ["eu", "us"], "route": [{ "pattern": "a.b/*", "pin": "eu" }] });
    assert_eq!(node.a.done(Method::PUT, REGIONS, both.clone()).await, both);
    assert_eq!(node.a.get(REGIONS).await, both);
    let settings = node.a.get("A/workers/scripts/w/script-settings").await;
    assert_eq!(settings["regions"], both, "settings show them, too");
    for (wrong, expected) in [
        (json!({ "pin": "eu", "allow": ["eu"] }), "pin stands alone"),
        (json!({ "pinn": "eu" }), "unknown field `pinn`"),
    ] {
        let (_, message) = node.a.fault(Method::PUT, REGIONS, wrong).await;
        assert!(message.contains(expected), "{message}");
    }
    // What a deploy says of other settings leaves them, and a new version too.
    node.a.deploy("w", json!([])).await;
    assert_eq!(node.a.get(REGIONS).await, both);
    assert_eq!(node.b.fault(Method::GET, REGIONS, Value::Null).await.0, 10_007);
    node.a.done(Method::DELETE, REGIONS, Value::Null).await;
    assert_eq!(node.a.get(REGIONS).await, json!({}));
}
