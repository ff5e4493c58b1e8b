//! Who is let in, and to what.

use super::*;

#[tokio::test]
async fn nothing_is_served_without_a_token() {
    let node = node();
    let stranger = Client { token: "atoll_nope".into(), ..node.a.clone() };
    let none = Client { token: String::new(), ..node.a.clone() };
    for path in ["/user", "/accounts", "A/workers/scripts", "A/nothing", "/zones"] {
        for client in [&stranger, &none] {
            let (status, body) = client.call(Method::GET, path, Value::Null).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
            assert_eq!(fault_of(&body).0, 10_000);
        }
    }
    let request = Request::get("/healthz").body(Body::empty()).unwrap();
    let response = node.router.clone().call(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let request = Request::get("/metrics").body(Body::empty()).unwrap();
    let metrics = bytes_of(node.router.clone().call(request).await.unwrap()).await;
    assert!(String::from_utf8_lossy(&metrics).contains("atoll_build_info"));
    let request = Request::get("/readyz").body(Body::empty()).unwrap();
    let response = node.router.clone().call(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_token_sees_only_its_account() {
    let node = node();
    node.a.deploy("w", json!([])).await;
    let namespace =
        node.a.done(Method::POST, "A/storage/kv/namespaces", json!({ "title": "n" })).await;
    let id = namespace["id"].as_str().unwrap();
    let trespasser = Client { token: node.b.token.clone(), ..node.a.clone() };
    for path in
        ["A/workers/scripts", "A/workers/scripts/w/versions", "A/tokens", "A/storage/kv/namespaces"]
    {
        let (code, _) = trespasser.fault(Method::GET, path, Value::Null).await;
        assert_eq!(code, 9_109, "{path}");
    }
    let path = format!("A/storage/kv/namespaces/{id}/values/k");
    assert_eq!(trespasser.fault(Method::GET, &path, Value::Null).await.0, 9_109);
    assert_eq!(node.b.fault(Method::GET, &path, Value::Null).await.0, 10_013);
    assert_eq!(node.b.fault(Method::DELETE, "A/workers/scripts/w", Value::Null).await.0, 10_007);
    assert_eq!(node.b.get("/accounts").await.as_array().unwrap().len(), 1);
    assert_eq!(node.b.get("/memberships").await[0]["account"]["id"], json!(node.b.account));
    let bound = json!({
        "main_module": "index.js",
        "bindings": [{ "type": "kv_namespace", "name": "KV", "namespace_id": id }],
    });
    let module: (&str, &str, &[u8]) = ("index.js", MODULE, b"1");
    let (_, body) = node.b.upload(Method::PUT, "A/workers/scripts/w", bound, &[module]).await;
    let (code, message) = fault_of(&body);
    assert_eq!(code, 10_021);
    assert!(message.contains("KV") && message.contains("kv_namespace"), "{message}");
    let version = node.a.get("A/workers/scripts/w/versions").await["items"][0]["id"].clone();
    node.b.deploy("w", json!([])).await;
    let path = format!("A/workers/scripts/w/versions/{}", version.as_str().unwrap());
    node.b.fault(Method::GET, &path, Value::Null).await;
    let split = json!({ "versions": [{ "version_id": version, "percentage": 100 }] });
    node.b.fault(Method::POST, "A/workers/scripts/w/deployments", split).await;
}

#[tokio::test]
async fn tokens_are_scoped_and_revocable() {
    let node = node();
    let made = node
        .a
        .done(
            Method::POST,
            "A/tokens",
            json!({ "name": "ci", "scopes": ["kv-read", "tokens-write"] }),
        )
        .await;
    let limited = Client { token: made["value"].as_str().unwrap().into(), ..node.a.clone() };
    assert_eq!(limited.get("/user/tokens/verify").await["status"], "active");
    limited.get("A/storage/kv/namespaces").await;
    for (method, path, body) in [
        (Method::POST, "A/storage/kv/namespaces", json!({ "title": "x" })),
        (Method::GET, "A/workers/scripts", Value::Null),
        (Method::POST, "A/tokens", json!({ "name": "more", "scopes": ["kv-write"] })),
        (Method::POST, "/accounts", json!({ "name": "more" })),
    ] {
        assert_eq!(limited.fault(method, path, body).await.0, 9_109, "{path}");
    }
    assert_eq!(node.a.get("A/tokens").await.as_array().unwrap().len(), 2);
    let path = format!("A/tokens/{}", made["id"].as_str().unwrap());
    node.a.done(Method::DELETE, &path, Value::Null).await;
    assert_eq!(limited.fault(Method::GET, "/user", Value::Null).await.0, 10_000);
}

#[tokio::test]
async fn routes_and_subdomains_belong_to_one_account() {
    let node = node();
    node.a.deploy("w", json!([])).await;
    node.b.deploy("w", json!([])).await;
    let routes = "A/workers/scripts/w/routes";
    node.a
        .done(
            Method::PUT,
            routes,
            json!([{ "pattern": "example.com/*", "zone_name": "example.com" }]),
        )
        .await;
    for pattern in ["example.com/x", "*example.com/*", "w.demo.localhost/*", "*.localhost/*"] {
        let (code, message) =
            node.b.fault(Method::PUT, routes, json!([{ "pattern": pattern }])).await;
        assert_eq!(code, 10_020, "{pattern}: {message}");
    }
    let zone = node.a.get("/zones?name=example.com&account.id=x").await[0]["id"].clone();
    let path = format!("/zones/{}/workers/routes", zone.as_str().unwrap());
    assert_eq!(node.a.get(&path).await[0]["script"], "w");
    assert_eq!(node.b.get(&path).await, json!([]));
    node.a.done(Method::POST, &path, json!({ "pattern": "example.com/raw/*" })).await;
    assert_eq!(node.a.get("A/workers/routes").await.as_array().unwrap().len(), 2);
    assert_eq!(node.a.get("A/workers/subdomain").await, json!({ "subdomain": "demo" }));
    let (code, _) =
        node.b.fault(Method::PUT, "A/workers/subdomain", json!({ "subdomain": "demo" })).await;
    assert_eq!(code, 10_031);
    node.b.done(Method::PUT, "A/workers/subdomain", json!({ "subdomain": "mine" })).await;
    node.a.done(Method::DELETE, "A/workers/services/w?force=false", Value::Null).await;
    let patterns: Vec<_> =
        node.registry.snapshot().routes.iter().map(|route| route.pattern.clone()).collect();
    assert_eq!(patterns, ["example.com/raw/*"]);
}
