//! KV namespaces and values.

use super::*;

const NAMESPACES: &str = "A/storage/kv/namespaces";

async fn namespace(client: &Client, title: &str) -> String {
    let made = client.done(Method::POST, NAMESPACES, json!({ "title": title })).await;
    format!("{NAMESPACES}/{}", made["id"].as_str().unwrap())
}

#[tokio::test]
async fn namespaces_are_listed_to_an_empty_page() {
    let node = node();
    for title in ["b", "a", "c"] {
        namespace(&node.a, title).await;
    }
    let titles = async |page: usize| -> Vec<Value> {
        let path = format!("{NAMESPACES}?per_page=2&order=title&direction=asc&page={page}");
        let page = node.a.get(&path).await;
        page.as_array().unwrap().iter().map(|namespace| namespace["title"].clone()).collect()
    };
    assert_eq!(titles(1).await, ["a", "b"]);
    assert_eq!(titles(2).await, ["c"]);
    assert!(titles(3).await.is_empty());
    let taken = node.a.fault(Method::POST, NAMESPACES, json!({ "title": "a" })).await;
    assert_eq!(taken.0, 10_014);
    assert_eq!(node.b.get(NAMESPACES).await, json!([]));
}

#[tokio::test]
async fn values_round_trip_under_any_key() {
    let node = node();
    let base = namespace(&node.a, "n").await;
    let path = format!("{base}/values/a%2Fb%2520c");
    let sent = Bytes::from_static(&[0, 255, 1]);
    let response = node.a.send(Method::PUT, &path, "", sent.clone()).await;
    assert_eq!(response.status(), StatusCode::OK);
    let response = node.a.send(Method::GET, &path, "", Bytes::new()).await;
    assert_eq!(bytes_of(response).await, sent);
    assert_eq!(node.a.get(&format!("{base}/keys")).await[0]["name"], "a/b%20c");

    let (kind, body) =
        form(&[("value", "", "", b"hello".to_vec()), ("metadata", "", "", br#"{"a":1}"#.to_vec())]);
    let path = format!("{base}/values/m?expiration_ttl=100");
    let (status, _) = json_of(node.a.send(Method::PUT, &path, &kind, body).await).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(node.a.get(&format!("{base}/metadata/m")).await, json!({ "a": 1 }));
    let response = node.a.send(Method::GET, &format!("{base}/values/m"), "", Bytes::new()).await;
    assert!(response.headers().contains_key("expiration"));
    assert_eq!(bytes_of(response).await, "hello");

    let short =
        node.a.fault(Method::PUT, &format!("{base}/values/x?expiration_ttl=1"), json!(1)).await;
    assert!(short.1.contains("Invalid expiration_ttl of 1"), "{}", short.1);
    node.a.done(Method::DELETE, &format!("{base}/values/m"), Value::Null).await;
    let missing = node.a.fault(Method::GET, &format!("{base}/values/m"), Value::Null).await;
    assert_eq!(missing.0, 10_009);
    let long = format!("{base}/values/{}", "k".repeat(513));
    assert!(node.a.fault(Method::PUT, &long, json!(1)).await.1.contains("key length limit of 512"));
}

#[tokio::test]
async fn bulk_operations_page_and_delete() {
    let node = node();
    let base = namespace(&node.a, "n").await;
    let pairs = json!([
        { "key": "a", "value": "1", "metadata": { "m": true } },
        { "key": "b", "value": "aGk=", "base64": true },
        { "key": "c", "value": "3" },
    ]);
    let done = node.a.done(Method::PUT, &format!("{base}/bulk"), pairs).await;
    assert_eq!(done["successful_key_count"], 3);
    let got =
        node.a.done(Method::POST, &format!("{base}/bulk/get"), json!({ "keys": ["b", "z"] })).await;
    assert_eq!(got, json!({ "values": { "b": { "value": "hi" }, "z": null } }));
    let (_, page) = node.a.call(Method::GET, &format!("{base}/keys?limit=2"), Value::Null).await;
    assert_eq!(
        page["result"],
        json!([{ "name": "a", "metadata": { "m": true } }, { "name": "b" }])
    );
    let cursor = page["result_info"]["cursor"].as_str().unwrap();
    let (_, page) = node
        .a
        .call(Method::GET, &format!("{base}/keys?limit=2&cursor={cursor}"), Value::Null)
        .await;
    assert_eq!(page["result"], json!([{ "name": "c" }]));
    assert_eq!(page["result_info"]["cursor"], "");
    node.a.done(Method::DELETE, &format!("{base}/bulk"), json!(["a", "c"])).await;
    assert_eq!(node.a.get(&format!("{base}/keys?prefix=b")).await, json!([{ "name": "b" }]));
    assert_eq!(node.a.get(&format!("{base}/keys?prefix=a")).await, json!([]));
    node.a.done(Method::PUT, &base, json!({ "title": "renamed" })).await;
    assert_eq!(node.a.get(&base).await["title"], "renamed");
    node.a.done(Method::DELETE, &base, Value::Null).await;
    assert_eq!(node.a.fault(Method::GET, &format!("{base}/keys"), Value::Null).await.0, 10_013);
}
