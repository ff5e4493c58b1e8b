//! A blocking HTTP/1.1 client, enough to check a server's answer and to deploy to a node through
//! its REST API.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::http::{Bodies, Parser, Response};

const TIMEOUT: Duration = Duration::from_secs(30);
/// Connections that workers are uploaded on at the same time.
const UPLOADS_AT_ONCE: usize = 4;
const BOUNDARY: &str = "atoll-bench-boundary";

/// Sends one request on a connection of its own.
pub(crate) fn request(
    target: SocketAddr,
    line: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Response, String> {
    Connection::new(target).request(line, headers, body)
}

/// A connection that is made at its first request and kept for the next.
pub(crate) struct Connection {
    target: SocketAddr,
    stream: Option<TcpStream>,
}

impl Connection {
    pub(crate) fn new(target: SocketAddr) -> Self {
        Self { target, stream: None }
    }

    pub(crate) fn request(
        &mut self,
        line: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response, String> {
        let mut message = format!("{line} HTTP/1.1\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            message.push_str(&format!("{name}: {value}\r\n"));
        }
        message.push_str("\r\n");
        let message = [message.as_bytes(), body].concat();
        let kept = self.stream.is_some();
        let mut result = self.exchange(&message);
        if kept && result.is_err() {
            // The server may close a connection that it has kept.
            result = self.exchange(&message);
        }
        result.map_err(|error| format!("{line}: {error}"))
    }

    /// Keeps the connection only when the exchange succeeds.
    fn exchange(&mut self, message: &[u8]) -> std::io::Result<Response> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect_timeout(&self.target, TIMEOUT)?;
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        stream.write_all(message)?;
        let mut parser = Parser::new(Bodies::Keep);
        let mut buffer = [0; 16 * 1024];
        loop {
            let read = stream.read(&mut buffer)?;
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let fed = parser.feed(&buffer[..read]);
            if let Some(response) = fed.map_err(|why| std::io::Error::other(why.0))? {
                self.stream = Some(stream);
                return Ok(response);
            }
        }
    }
}

/// The REST API of a node, for one account.
pub(crate) struct Api {
    connection: Connection,
    token: String,
    account: String,
}

impl Api {
    /// Finds the token's account.
    pub(crate) fn connect(admin: SocketAddr, token: String) -> Result<Self, String> {
        let mut api = Self { connection: Connection::new(admin), token, account: String::new() };
        let memberships = api.call("GET", "/memberships", "application/json", b"")?;
        let account = memberships[0]["account"]["id"].as_str();
        api.account = account.ok_or("the token belongs to no account")?.to_owned();
        Ok(api)
    }

    /// Makes an account; answers its API.
    pub(crate) fn create_account(&mut self, subdomain: &str) -> Result<Self, String> {
        let body = serde_json::json!({ "name": subdomain, "subdomain": subdomain }).to_string();
        let created = self.call("POST", "/accounts", "application/json", body.as_bytes())?;
        let field = |name: &str| {
            let value = created[name].as_str().map(str::to_owned);
            value.ok_or_else(|| format!("the new account has no {name}"))
        };
        let connection = Connection::new(self.connection.target);
        Ok(Self { connection, token: field("token")?, account: field("id")? })
    }

    /// Makes a KV namespace that holds one pair; answers its id.
    pub(crate) fn namespace_with(&mut self, key: &str, value: &str) -> Result<String, String> {
        let namespaces = format!("/accounts/{}/storage/kv/namespaces", self.account);
        let created =
            self.call("POST", &namespaces, "application/json", br#"{"title":"bench"}"#)?;
        let id = created["id"].as_str().ok_or("the new namespace has no id")?.to_owned();
        let path = format!("{namespaces}/{id}/values/{key}");
        self.call("PUT", &path, "text/plain", value.as_bytes())?;
        Ok(id)
    }

    /// Uploads workers, `(name, source)` each, on several connections at a time; calls `done` after
    /// each.
    pub(crate) fn upload_all(
        &self,
        workers: &[(&str, &str)],
        done: impl Fn() + Sync,
    ) -> Result<(), String> {
        let next = AtomicUsize::new(0);
        let lane = || {
            let mut api = self.on_another_connection();
            while let Some((name, source)) = workers.get(next.fetch_add(1, Ordering::Relaxed)) {
                api.upload(name, source, Value::Array(Vec::new()))?;
                done();
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let lanes: Vec<_> = (0..UPLOADS_AT_ONCE).map(|_| scope.spawn(lane)).collect();
            let mut lanes = lanes.into_iter();
            lanes.try_for_each(|lane| {
                lane.join().unwrap_or_else(|_| Err("an upload panicked".to_owned()))
            })
        })
    }

    fn on_another_connection(&self) -> Self {
        Self {
            connection: Connection::new(self.connection.target),
            token: self.token.clone(),
            account: self.account.clone(),
        }
    }

    /// Uploads a worker of one module and gives it its address.
    pub(crate) fn upload(
        &mut self,
        worker: &str,
        source: &str,
        bindings: Value,
    ) -> Result<(), String> {
        self.upload_version(worker, source, bindings)?;
        let path = format!("/accounts/{}/workers/scripts/{worker}/subdomain", self.account);
        self.call("POST", &path, "application/json", br#"{"enabled":true}"#).map(drop)
    }

    /// Uploads a worker of one module, which serves from then on.
    pub(crate) fn upload_version(
        &mut self,
        worker: &str,
        source: &str,
        bindings: Value,
    ) -> Result<(), String> {
        let metadata = serde_json::json!({
            "main_module": "index.js",
            "compatibility_date": "2026-11-01",
            "bindings": bindings,
        });
        let body = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"metadata\"\r\n\r\n{metadata}\r\n\
             --{BOUNDARY}\r\nContent-Disposition: form-data; name=\"index.js\"; \
             filename=\"index.js\"\r\nContent-Type: application/javascript+module\r\n\r\n\
             {source}\r\n--{BOUNDARY}--\r\n"
        );
        let path = format!("/accounts/{}/workers/scripts/{worker}", self.account);
        let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
        self.call("PUT", &path, &content_type, body.as_bytes()).map(drop)
    }

    /// Replaces a worker's rules.
    pub(crate) fn set_rules(&mut self, worker: &str, rules: &Value) -> Result<(), String> {
        let path = format!("/accounts/{}/workers/scripts/{worker}/rules", self.account);
        self.call("PUT", &path, "application/json", rules.to_string().as_bytes()).map(drop)
    }

    /// Writes pairs of a namespace, as JSON.
    pub(crate) fn kv_bulk(&mut self, namespace: &str, pairs: &Value) -> Result<(), String> {
        let path = format!("/accounts/{}/storage/kv/namespaces/{namespace}/bulk", self.account);
        self.call("PUT", &path, "application/json", pairs.to_string().as_bytes()).map(drop)
    }

    /// How many keys a page of a namespace has, and the cursor of the next, empty at the end.
    pub(crate) fn kv_page(
        &mut self,
        namespace: &str,
        query: &str,
    ) -> Result<(usize, String), String> {
        let path =
            format!("/accounts/{}/storage/kv/namespaces/{namespace}/keys?{query}", self.account);
        let envelope = self.envelope("GET", &path, "application/json", b"")?;
        let names = envelope["result"].as_array().map_or(0, Vec::len);
        let cursor = envelope["result_info"]["cursor"].as_str().unwrap_or_default();
        Ok((names, cursor.to_owned()))
    }

    fn call(
        &mut self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> Result<Value, String> {
        Ok(self.envelope(method, path, content_type, body)?["result"].take())
    }

    fn envelope(
        &mut self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> Result<Value, String> {
        let line = format!("{method} /client/v4{path}");
        let authorization = format!("Bearer {}", self.token);
        let headers = [
            ("host", "localhost"),
            ("authorization", authorization.as_str()),
            ("content-type", content_type),
        ];
        let response = self.connection.request(&line, &headers, body)?;
        let text = String::from_utf8_lossy(&response.body);
        let envelope: Value = serde_json::from_str(&text)
            .map_err(|error| format!("{line}: status {}: {error}: {text}", response.status))?;
        if envelope["success"] != true {
            return Err(format!("{line}: status {}: {text}", response.status));
        }
        Ok(envelope)
    }
}
