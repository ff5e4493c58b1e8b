//! A client of the REST API, as one account.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::Failure;
use crate::client::{Protocol, Reply, Request};
use crate::node::Addresses;
use crate::script::Script;

/// Keys that one request may read.
const KEYS_OF_A_READ: usize = 100;

/// The API said no.
#[derive(Debug)]
pub struct ApiError {
    /// The status of the answer.
    pub status: StatusCode,
    /// The first error's code.
    pub code: Option<i64>,
    /// The whole answer.
    pub text: String,
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "status {}: {}", self.status, self.text)
    }
}

/// The REST API with a token, for one account.
#[derive(Clone)]
pub struct Api {
    addresses: Addresses,
    token: String,
    account: String,
}

impl Api {
    pub(crate) async fn connect(addresses: Addresses, token: &str) -> Self {
        let mut api = Self { addresses, token: token.to_owned(), account: String::new() };
        let memberships = api
            .call(Method::GET, "/memberships", &Value::Null)
            .await
            .expect("the token has a membership");
        let id = memberships[0]["account"]["id"].as_str();
        id.expect("a membership names its account").clone_into(&mut api.account);
        api
    }

    /// The account's id.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// The token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The API's base URL, as wrangler and the CLI take it.
    pub fn base_url(&self) -> String {
        format!("http://{}/client/v4", self.addresses.admin)
    }

    /// Makes another account, and a client for it.
    ///
    /// # Panics
    /// Panics when the API refuses.
    pub async fn create_account(&self, name: &str) -> Self {
        let body = json!({ "name": name, "subdomain": name });
        let account =
            self.call(Method::POST, "/accounts", &body).await.expect("an account can be made");
        let token = account["token"].as_str().expect("a new account comes with its token");
        Self::connect(self.addresses.clone(), token).await
    }

    /// Uploads a script, which serves all of the worker's requests from then on. A new worker has
    /// no address until [`Self::enable_subdomain`].
    ///
    /// # Errors
    /// Fails when the API refuses the script.
    pub async fn upload(&self, worker: &str, script: &Script) -> Result<Value, ApiError> {
        let (content_type, form) = script.form();
        let path = self.in_account(&format!("/workers/scripts/{worker}"));
        let request = self.request(Method::PUT, &path).header("content-type", &content_type);
        result(send(request.body(form)).await?)
    }

    /// Lets a worker answer at `<worker>.<subdomain>.<domain>`, as a deploy by the CLI does.
    ///
    /// # Errors
    /// Fails when the API refuses.
    pub async fn enable_subdomain(&self, worker: &str) -> Result<(), ApiError> {
        let path = self.in_account(&format!("/workers/scripts/{worker}/subdomain"));
        self.call(Method::POST, &path, &json!({ "enabled": true })).await.map(drop)
    }

    /// Makes a KV namespace; answers its id.
    ///
    /// # Panics
    /// Panics when the API refuses.
    pub async fn create_namespace(&self, title: &str) -> String {
        let path = self.in_account("/storage/kv/namespaces");
        let created = self.call(Method::POST, &path, &json!({ "title": title })).await;
        let created = created.expect("a namespace can be made");
        created["id"].as_str().expect("a namespace has an id").to_owned()
    }

    /// A request for one key of a namespace: a GET reads it, a PUT stores the body, a DELETE deletes it.
    pub fn kv_request(&self, method: Method, namespace: &str, key: &str) -> Request {
        self.request(method, &self.value_path(namespace, key))
    }

    /// All keys of a namespace and their values, which must be text.
    ///
    /// # Errors
    /// Fails when the API refuses.
    pub async fn kv_all(&self, namespace: &str) -> Result<BTreeMap<String, String>, ApiError> {
        let path = self.in_account(&format!("/storage/kv/namespaces/{namespace}"));
        let names = self.kv_names(namespace).await?;
        let mut all = BTreeMap::new();
        for keys in names.chunks(KEYS_OF_A_READ) {
            let read = json!({ "keys": keys });
            let mut found = self.call(Method::POST, &format!("{path}/bulk/get"), &read).await?;
            for key in keys {
                if let Value::String(value) = found["values"][key]["value"].take() {
                    all.insert(key.clone(), value);
                }
            }
        }
        Ok(all)
    }

    /// The names of all keys of a namespace.
    ///
    /// # Errors
    /// Fails when the API refuses.
    pub async fn kv_names(&self, namespace: &str) -> Result<Vec<String>, ApiError> {
        let path = self.in_account(&format!("/storage/kv/namespaces/{namespace}/keys"));
        let (mut names, mut cursor) = (Vec::new(), String::new());
        loop {
            let reply = send(self.request(Method::GET, &format!("{path}?cursor={cursor}"))).await?;
            let info = serde_json::from_slice(&reply.body).unwrap_or(Value::Null);
            info["result_info"]["cursor"].as_str().unwrap_or_default().clone_into(&mut cursor);
            let page = result(reply)?;
            let page = page.as_array().into_iter().flatten();
            names.extend(page.filter_map(|key| key["name"].as_str().map(str::to_owned)));
            if cursor.is_empty() {
                return Ok(names);
            }
        }
    }

    /// Stores a value.
    ///
    /// # Errors
    /// Fails when the API refuses.
    pub async fn kv_put(
        &self,
        namespace: &str,
        key: &str,
        value: impl Into<Bytes>,
    ) -> Result<(), ApiError> {
        let path = self.value_path(namespace, key);
        let request = self.request(Method::PUT, &path).body(value.into());
        result(send(request).await?).map(drop)
    }

    /// Stores a value on a node that may die meanwhile.
    ///
    /// # Errors
    /// Fails unless the node acknowledges the value.
    pub async fn try_kv_put(
        &self,
        namespace: &str,
        key: &str,
        value: impl Into<Bytes>,
    ) -> Result<(), Failure> {
        let path = self.value_path(namespace, key);
        let reply = self.request(Method::PUT, &path).body(value.into()).send().await?;
        result(reply).map(drop).map_err(|error| error.to_string().into())
    }

    /// A value's bytes, when the key exists.
    ///
    /// # Panics
    /// Panics on any answer but 200 and 404.
    pub async fn kv_get(&self, namespace: &str, key: &str) -> Option<Bytes> {
        let path = self.value_path(namespace, key);
        let reply = send(self.request(Method::GET, &path)).await.expect("the API answers");
        match reply.status.as_u16() {
            200 => Some(reply.body),
            404 => None,
            status => panic!("status {status}: {}", reply.text()),
        }
    }

    /// Calls any path below `/client/v4` with a JSON body (none for null); answers `result`.
    ///
    /// # Errors
    /// Fails when the envelope says so.
    pub async fn call(&self, method: Method, path: &str, body: &Value) -> Result<Value, ApiError> {
        let mut request = self.request(method, path);
        if !body.is_null() {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        result(send(request).await?)
    }

    /// A path below this account's.
    pub fn in_account(&self, path: &str) -> String {
        format!("/accounts/{}{path}", self.account)
    }

    fn value_path(&self, namespace: &str, key: &str) -> String {
        self.in_account(&format!("/storage/kv/namespaces/{namespace}/values/{key}"))
    }

    fn request(&self, method: Method, path: &str) -> Request {
        Request::new(self.addresses.clone(), "localhost", &format!("/client/v4{path}"))
            .over(Protocol::Admin)
            .method(method)
            .header("authorization", &format!("Bearer {}", self.token))
    }
}

/// Without an answer it fails as the gateway of a node that is down would.
async fn send(request: Request) -> Result<Reply, ApiError> {
    request.send().await.map_err(|error| ApiError {
        status: StatusCode::BAD_GATEWAY,
        code: None,
        text: format!("the API does not answer: {error}"),
    })
}

fn result(reply: Reply) -> Result<Value, ApiError> {
    let mut envelope: Value = serde_json::from_slice(&reply.body).unwrap_or(Value::Null);
    if envelope["success"] == true {
        return Ok(envelope["result"].take());
    }
    let code = envelope["errors"][0]["code"].as_i64();
    Err(ApiError { status: reply.status, code, text: reply.text() })
}
