//! The API against a real registry and an in-memory KV store; scripts are started by a stand-in.

mod accounts;
mod kv;
mod pools;
mod regions;
mod rules;
mod tails;
mod uploads;

use std::sync::Arc;

use atoll_kv::SystemClock;
use atoll_kv::model::MemoryStore;
use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower_service::Service;

use super::*;
use crate::registry::{AccountId, Version};

/// Refuses scripts whose main module says so.
struct FakeCheck;

impl ScriptCheck for FakeCheck {
    fn check<'a>(&'a self, version: &'a Version) -> BoxFuture<'a, Result<CheckReport, CheckError>> {
        let broken = version.modules.iter().any(|module| module.bytes.starts_with(b"throw"));
        let result = match broken {
            true => Err(CheckError {
                message: "Uncaught Error: no".into(),
                stack: Some("    at index.js:1:7".into()),
            }),
            false => Ok(CheckReport { handlers: vec!["fetch".into()], startup_ms: 2 }),
        };
        Box::pin(std::future::ready(result))
    }
}

/// A node's API with two accounts.
struct Node {
    _dir: TempDir,
    registry: Registry,
    hub: ReportHub,
    router: Router,
    a: Client,
    b: Client,
}

#[derive(Clone)]
struct Client {
    router: Router,
    account: AccountId,
    token: String,
}

fn node() -> Node {
    node_with(LimitsConfig::default())
}

fn node_with(limits: LimitsConfig) -> Node {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(dir.path()).unwrap();
    registry.bootstrap().unwrap();
    let hub = ReportHub::new(Arc::default());
    let router = router(ApiConfig {
        registry: registry.clone(),
        kv: Arc::new(MemoryStore::new(Arc::new(SystemClock))),
        check: Arc::new(FakeCheck),
        hub: hub.clone(),
        health: Health::default(),
        domain: "localhost".into(),
        limits,
        node: super::NodeInfo {
            http: ([127, 0, 0, 1], 8080).into(),
            https: ([127, 0, 0, 1], 8443).into(),
        },
        in_use: watch::channel(u64::MAX).1,
        cluster: None,
        experiments: crate::experiments::Experiments::open(dir.path()).unwrap(),
    });
    let token = std::fs::read_to_string(dir.path().join("root.token")).unwrap();
    let account = registry.authenticate(&token).unwrap().unwrap().account;
    let a = Client { router: router.clone(), account, token };
    let account = registry.create_account("other", Some("other")).unwrap().id;
    let token = registry.create_token(&account, "t", &crate::registry::Scope::ALL).unwrap().text;
    let b = Client { router: router.clone(), account, token };
    Node { _dir: dir, registry, hub, router, a, b }
}

impl Client {
    /// `A` stands for the client's account.
    async fn send(&self, method: Method, path: &str, kind: &str, body: Bytes) -> Response<Body> {
        let path = match path.strip_prefix("A/") {
            Some(rest) => format!("/accounts/{}/{rest}", self.account),
            None => path.to_owned(),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{PREFIX}{path}"))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::HOST, "node.test:8787");
        if !kind.is_empty() {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let request = request.body(Body::from(body)).unwrap();
        self.router.clone().call(request).await.unwrap()
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        json_of(self.send(method, path, "text/plain;charset=UTF-8", body).await).await
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call(Method::GET, path, Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body["result"].clone()
    }

    /// A call that must succeed.
    async fn done(&self, method: Method, path: &str, body: Value) -> Value {
        let (status, body) = self.call(method, path, body).await;
        assert_eq!((status, &body["success"]), (StatusCode::OK, &json!(true)), "{path}: {body}");
        body["result"].clone()
    }

    /// The code and message of a call that must fail.
    async fn fault(&self, method: Method, path: &str, body: Value) -> (u64, String) {
        let (status, body) = self.call(method, path, body).await;
        assert!(!status.is_success(), "{path}: {body}");
        fault_of(&body)
    }

    async fn upload(
        &self,
        method: Method,
        path: &str,
        metadata: Value,
        modules: &[(&str, &str, &[u8])],
    ) -> (StatusCode, Value) {
        let mut parts = vec![("metadata", "", "", metadata.to_string().into_bytes())];
        parts.extend(
            modules.iter().map(|(name, kind, bytes)| (*name, *name, *kind, bytes.to_vec())),
        );
        let (kind, body) = form(&parts);
        json_of(self.send(method, path, &kind, body).await).await
    }

    /// Deploys a worker of one module, which must succeed.
    async fn deploy(&self, name: &str, bindings: Value) -> Value {
        let metadata = json!({ "main_module": "index.js", "bindings": bindings });
        let path = format!("A/workers/scripts/{name}");
        let (status, body) = self
            .upload(Method::PUT, &path, metadata, &[("index.js", MODULE, b"export default {}")])
            .await;
        assert_eq!(status, StatusCode::OK, "{body}");
        body["result"].clone()
    }
}

const MODULE: &str = "application/javascript+module";

fn fault_of(body: &Value) -> (u64, String) {
    assert_eq!(body["success"], false, "{body}");
    let fault = &body["errors"][0];
    (fault["code"].as_u64().unwrap(), fault["message"].as_str().unwrap().to_owned())
}

async fn bytes_of(response: Response<Body>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

async fn json_of(response: Response<Body>) -> (StatusCode, Value) {
    let status = response.status();
    (status, serde_json::from_slice(&bytes_of(response).await).unwrap())
}

/// Parts of a form: name, file name, Content-Type, bytes.
fn form(parts: &[(&str, &str, &str, Vec<u8>)]) -> (String, Bytes) {
    let mut body = Vec::new();
    for (name, file, kind, bytes) in parts {
        body.extend_from_slice(
            format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"").as_bytes(),
        );
        if !file.is_empty() {
            body.extend_from_slice(format!("; filename=\"{file}\"").as_bytes());
        }
        if !kind.is_empty() {
            body.extend_from_slice(format!("\r\nContent-Type: {kind}").as_bytes());
        }
        body.extend_from_slice(b"\r\n\r\n");
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--XX--\r\n");
    ("multipart/form-data; boundary=XX".to_owned(), body.into())
}
