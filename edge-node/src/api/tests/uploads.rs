//! Uploads, versions, deployments, settings and secrets.

use super::*;
use crate::registry::{Binding, ModuleKind, WorkerName, WorkerRef};

const SCRIPT: &str = "A/workers/scripts/w";

fn target(client: &Client) -> WorkerRef {
    WorkerRef { account: client.account.clone(), worker: WorkerName::new("w") }
}

#[tokio::test]
async fn an_upload_is_stored_deployed_and_given_back() {
    let node = node();
    let revision = node.registry.snapshot().revision;
    let metadata = json!({
        "main_module": "index.js",
        "bindings": [
            { "type": "plain_text", "name": "VAR", "text": "v" },
            { "type": "secret_text", "name": "KEY", "text": "s" },
            { "type": "json", "name": "N", "json": 5 },
        ],
        "compatibility_date": "2026-01-31",
        "annotations": { "workers/message": "first" },
        "observability": { "enabled": true },
    });
    let modules: [(&str, &str, &[u8]); 4] = [
        ("index.js", MODULE, b"export default {}"),
        ("./abc-add.wasm", "application/wasm", &[0, 0x61, 0x73, 0x6d]),
        ("sub/t.txt", "text/plain", b"hi"),
        ("index.js.map", "application/source-map", b"{}"),
    ];
    let path = format!("{SCRIPT}?excludeScript=true&bindings_inherit=strict");
    let (status, body) = node.a.upload(Method::PUT, &path, metadata, &modules).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let result = &body["result"];
    assert_eq!((result["id"].as_str(), result["startup_time_ms"].as_u64()), (Some("w"), Some(2)));
    let snapshot = node.registry.snapshot();
    assert!(snapshot.revision > revision);
    let id = &snapshot.workers[0].deployment.versions[0].0;
    assert_eq!(result["deployment_id"], id.as_str());
    let version = node.registry.version(id).unwrap().unwrap();
    let kinds: Vec<_> = version.modules.iter().map(|module| module.kind).collect();
    let expected =
        [ModuleKind::EsModule, ModuleKind::Wasm, ModuleKind::Text, ModuleKind::SourceMap];
    assert_eq!(kinds, expected);
    assert_eq!(version.modules[1].name, "./abc-add.wasm");
    assert_eq!(version.handlers, ["fetch"]);

    let view = node.a.get(&format!("{SCRIPT}/versions/{id}")).await;
    assert_eq!(view["resources"]["bindings"][1], json!({ "type": "secret_text", "name": "KEY" }));
    assert!(!view.to_string().contains("\"s\""));
    let settings = node.a.get(&format!("{SCRIPT}/script-settings")).await;
    assert_eq!(settings["observability"]["enabled"], true);

    let content = format!("{SCRIPT}/content/v2?version={id}");
    let response = node.a.send(Method::GET, &content, "", Bytes::new()).await;
    assert_eq!(response.headers()["cf-entrypoint"], "index.js");
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    let (status, body) = {
        let mut form = bytes_of(response).await.to_vec();
        let boundary = kind.split("boundary=").nth(1).unwrap();
        let metadata = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"metadata\"\r\n\r\n{}\r\n",
            json!({ "main_module": "index.js" })
        );
        form.splice(0..0, metadata.into_bytes());
        let path = format!("{SCRIPT}/versions?bindings_inherit=strict");
        json_of(node.a.send(Method::POST, &path, &kind, form.into()).await).await
    };
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(body["result"]["resources"]["script"]["etag"], version.content_hash);
    assert_eq!(node.registry.snapshot().workers[0].deployment.versions[0].0, *id);
}

#[tokio::test]
async fn a_service_worker_has_blobs_by_name() {
    let node = node();
    let metadata = json!({
        "body_part": "i.js",
        "bindings": [{ "type": "text_blob", "name": "T", "part": "T" }],
    });
    let (kind, body) = form(&[
        ("T", "/home/me/t.txt", "text/plain", b"hi".to_vec()),
        ("metadata", "", "", metadata.to_string().into_bytes()),
        ("i.js", "i.js", "application/javascript", b"addEventListener".to_vec()),
    ]);
    let (status, answer) = json_of(node.a.send(Method::PUT, SCRIPT, &kind, body).await).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let response = node.a.send(Method::GET, SCRIPT, "", Bytes::new()).await;
    assert_eq!(bytes_of(response).await, "addEventListener");
}

#[tokio::test]
async fn what_cannot_run_is_refused_with_a_reason() {
    let node = node_with(LimitsConfig { script_bytes_max: 1 << 20, ..Default::default() });
    let main = json!({ "main_module": "index.js" });
    let good: (&str, &str, &[u8]) = ("index.js", MODULE, b"1");
    let large = vec![b' '; (1 << 20) + 1];
    for (path, metadata, modules, code, message) in [
        (
            SCRIPT,
            main.clone(),
            vec![("index.js", MODULE, &b"throw 1"[..])],
            10_021,
            "Uncaught Error: no\n    at index.js:1:7",
        ),
        (
            SCRIPT,
            main.clone(),
            vec![("other.js", MODULE, b"1")],
            10_021,
            "main module index.js is not uploaded",
        ),
        (SCRIPT, main.clone(), vec![good, ("./index.js", MODULE, b"2")], 10_021, "uploaded twice"),
        (
            SCRIPT,
            main.clone(),
            vec![good, ("a.py", "text/x-python", b"2")],
            10_021,
            "text/x-python",
        ),
        (
            SCRIPT,
            main.clone(),
            vec![("index.js", MODULE, &large[..])],
            10_027,
            "larger than 1048576",
        ),
        (SCRIPT, json!({}), vec![good], 10_021, "neither main_module nor body_part"),
        (
            SCRIPT,
            json!({ "main_module": "index.js", "compatibility_date": "soon" }),
            vec![good],
            10_021,
            "compatibility_date",
        ),
        (
            SCRIPT,
            json!({ "main_module": "index.js", "assets": { "jwt": "x" } }),
            vec![good],
            10_021,
            "assets are not supported",
        ),
        (
            SCRIPT,
            json!({ "main_module": "index.js", "bindings": [{ "type": "r2_bucket", "name": "B", "bucket_name": "b" }] }),
            vec![good],
            10_021,
            "binding B of type r2_bucket is not supported",
        ),
        ("A/workers/scripts/Bad.Name", main.clone(), vec![good], 10_021, "worker name"),
    ] {
        let (_, body) = node.a.upload(Method::PUT, path, metadata, &modules).await;
        let (found, text) = fault_of(&body);
        assert_eq!(found, code, "{text}");
        assert!(text.contains(message), "{text:?} lacks {message:?}");
    }
    assert!(node.registry.snapshot().workers.is_empty());
    let (_, body) =
        node.a.upload(Method::POST, "A/workers/scripts/w/versions", main, &[good]).await;
    assert_eq!(fault_of(&body).0, 10_007);
    let (code, _) = node.a.fault(Method::PUT, SCRIPT, json!({})).await;
    assert_eq!(code, 20_400);
}

#[tokio::test]
async fn earlier_bindings_are_kept_and_inherited() {
    let node = node();
    node.a
        .deploy(
            "w",
            json!([
                { "type": "secret_text", "name": "KEY", "text": "s" },
                { "type": "plain_text", "name": "VAR", "text": "v" },
            ]),
        )
        .await;
    node.a.deploy("w", json!([])).await;
    let latest = node.registry.latest_version(&target(&node.a)).unwrap().unwrap();
    assert_eq!(latest.bindings, [Binding::SecretText { name: "KEY".into(), text: "s".into() }]);
    let metadata = json!({
        "main_module": "index.js",
        "bindings": [{ "type": "inherit", "name": "GONE" }, { "type": "inherit", "name": "LOST" }],
    });
    let path = format!("{SCRIPT}?bindings_inherit=strict");
    let (_, body) =
        node.a.upload(Method::PUT, &path, metadata, &[("index.js", MODULE, b"1")]).await;
    assert_eq!(body["errors"].as_array().unwrap().len(), 2);
    let (code, message) = fault_of(&body);
    assert_eq!(code, 10_057);
    assert!(message.starts_with("inherit binding 'GONE' is invalid: "), "{message}");
}

#[tokio::test]
async fn secrets_and_settings_deploy_a_copy() {
    let node = node();
    let secrets = format!("{SCRIPT}/secrets");
    let secret = json!({ "name": "K", "text": "s3cret", "type": "secret_text" });
    assert_eq!(node.a.fault(Method::PUT, &secrets, secret.clone()).await.0, 10_007);
    let first =
        node.a.deploy("w", json!([{ "type": "plain_text", "name": "VAR", "text": "v" }])).await;
    node.a.done(Method::PUT, &secrets, secret.clone()).await;
    assert_eq!(node.a.get(&secrets).await, json!([{ "name": "K", "type": "secret_text" }]));
    let live = node.registry.snapshot().workers[0].deployment.versions[0].0.clone();
    assert_ne!(first["deployment_id"], live.as_str());
    let version = node.registry.version(&live).unwrap().unwrap();
    assert_eq!(
        version.bindings[1],
        Binding::SecretText { name: "K".into(), text: "s3cret".into() }
    );
    assert_eq!(version.modules.len(), 1);

    let patch = json!({ "bindings": [
        { "type": "plain_text", "name": "VAR" },
        { "type": "secret_text", "name": "K" },
        { "type": "secret_text", "name": "K2", "text": "two" },
    ]});
    let (kind, body) = form(&[("settings", "", "", patch.to_string().into_bytes())]);
    let path = format!("{SCRIPT}/settings");
    let (status, body) = json_of(node.a.send(Method::PATCH, &path, &kind, body).await).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let latest = node.registry.latest_version(&target(&node.a)).unwrap().unwrap();
    assert_eq!(latest.bindings.len(), 3);
    assert_eq!(latest.bindings[0], Binding::PlainText { name: "VAR".into(), text: "v".into() });
    assert_eq!(latest.bindings[1], version.bindings[1]);
    let path = format!("{secrets}/K?url_encoded=true");
    node.a.done(Method::DELETE, &path, Value::Null).await;
    assert_eq!(node.a.get(&path.replace("/K?", "?")).await.as_array().unwrap().len(), 1);

    let module: (&str, &str, &[u8]) = ("index.js", MODULE, b"2");
    let versions = format!("{SCRIPT}/versions");
    let metadata = json!({ "main_module": "index.js" });
    let (_, body) = node.a.upload(Method::POST, &versions, metadata, &[module]).await;
    assert_eq!(node.a.fault(Method::PUT, &secrets, secret).await.0, 10_215);
    let id = body["result"]["id"].clone();
    let all =
        json!({ "strategy": "percentage", "versions": [{ "version_id": id, "percentage": 100 }] });
    node.a.done(Method::POST, &format!("{SCRIPT}/deployments"), all).await;
    let newest = &node.a.get(&format!("{SCRIPT}/deployments")).await["deployments"][0];
    assert_eq!(newest["versions"][0]["version_id"], id);
}

#[tokio::test]
async fn schedules_and_subdomains_are_switched() {
    let node = node();
    node.a.deploy("w", json!([])).await;
    let path = format!("{SCRIPT}/schedules");
    node.a.done(Method::PUT, &path, json!([{ "cron": "*/5 * * * *" }])).await;
    assert_eq!(node.a.get(&path).await["schedules"][0]["cron"], "*/5 * * * *");
    assert_eq!(node.registry.snapshot().schedules.len(), 1);
    let (code, message) = node.a.fault(Method::PUT, &path, json!([{ "cron": "99 * * * *" }])).await;
    assert!(code == 10_021 && message.contains("99 * * * *"), "{message}");
    let path = format!("{SCRIPT}/subdomain");
    assert_eq!(node.a.get(&path).await["enabled"], true);
    node.a.done(Method::POST, &path, json!({ "enabled": false })).await;
    assert_eq!(node.a.get(&path).await, json!({ "enabled": false, "previews_enabled": false }));
    assert!(!node.registry.snapshot().workers[0].workers_dev);
}
