//! A blocking HTTP/1.1 client, enough to check a server's answer and to deploy to a node through
//! its REST API.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::http::{Bodies, Parser, Response};

const TIMEOUT: Duration = Duration::from_secs(30);
const BOUNDARY: &str = "atoll-bench-boundary";

/// Sends one request on a connection of its own.
pub(crate) fn request(
    target: SocketAddr,
    line: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Response, String> {
    exchange(target, line, headers, body).map_err(|error| format!("{line}: {error}"))
}

fn exchange(
    target: SocketAddr,
    line: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Response> {
    let mut stream = TcpStream::connect_timeout(&target, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut message = format!("{line} HTTP/1.1\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        message.push_str(&format!("{name}: {value}\r\n"));
    }
    message.push_str("\r\n");
    stream.write_all(message.as_bytes())?;
    stream.write_all(body)?;

    let mut parser = Parser::new(Bodies::Keep);
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let fed = parser.feed(&buffer[..read]);
        if let Some(response) = fed.map_err(|why| std::io::Error::other(why.0))? {
            return Ok(response);
        }
    }
}

/// The REST API of a node, for one account.
pub(crate) struct Api {
    admin: SocketAddr,
    token: String,
    account: String,
}

impl Api {
    /// Finds the token's account.
    pub(crate) fn connect(admin: SocketAddr, token: String) -> Result<Self, String> {
        let mut api = Self { admin, token, account: String::new() };
        let memberships = api.call("GET", "/memberships", "application/json", b"")?;
        let account = memberships[0]["account"]["id"].as_str();
        api.account = account.ok_or("the token belongs to no account")?.to_owned();
        Ok(api)
    }

    /// Makes a KV namespace that holds one pair; answers its id.
    pub(crate) fn namespace_with(&self, key: &str, value: &str) -> Result<String, String> {
        let namespaces = format!("/accounts/{}/storage/kv/namespaces", self.account);
        let created =
            self.call("POST", &namespaces, "application/json", br#"{"title":"bench"}"#)?;
        let id = created["id"].as_str().ok_or("the new namespace has no id")?.to_owned();
        let path = format!("{namespaces}/{id}/values/{key}");
        self.call("PUT", &path, "text/plain", value.as_bytes())?;
        Ok(id)
    }

    /// Uploads a worker of one module and gives it its address.
    pub(crate) fn upload(&self, worker: &str, source: &str, bindings: Value) -> Result<(), String> {
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
        self.call("PUT", &path, &content_type, body.as_bytes())?;
        let subdomain = format!("{path}/subdomain");
        self.call("POST", &subdomain, "application/json", br#"{"enabled":true}"#).map(drop)
    }

    fn call(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> Result<Value, String> {
        let line = format!("{method} /client/v4{path}");
        let response = request(
            self.admin,
            &line,
            &[
                ("host", "localhost"),
                ("authorization", &format!("Bearer {}", self.token)),
                ("content-type", content_type),
            ],
            body,
        )?;
        let text = String::from_utf8_lossy(&response.body);
        let mut envelope: Value = serde_json::from_str(&text)
            .map_err(|error| format!("{line}: status {}: {error}: {text}", response.status))?;
        if envelope["success"] != true {
            return Err(format!("{line}: status {}: {text}", response.status));
        }
        Ok(envelope["result"].take())
    }
}
