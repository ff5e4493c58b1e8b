//! A debugger attaches to `atoll dev --inspect`, as Chrome DevTools would.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use axum::body::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// How long anything may take: only a test that fails waits for so long.
const PATIENCE: Duration = Duration::from_secs(60);

const PROJECT: &str = r#"
name = "debugged"
main = "index.js"
compatibility_date = "2025-01-01"
"#;

const WORKER: &str = r#"export default {
  fetch() {
    const answer = 42;
    debugger;
    console.log("resumed with", answer);
    return new Response("the answer is " + answer);
  },
};
"#;

/// `atoll dev --inspect` on a project of one file.
struct Dev {
    dir: tempfile::TempDir,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    http: String,
    ws: String,
}

async fn patiently<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| panic!("waited too long for {what}"))
}

fn write(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).unwrap();
}

impl Dev {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "wrangler.toml", PROJECT);
        write(dir.path(), "index.js", WORKER);
        let mut child = Command::new(env!("CARGO_BIN_EXE_atoll"))
            .args(["dev", "--inspect", "127.0.0.1:0", "--port", "0", "--https-port", "0"])
            .current_dir(dir.path())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut dev = Self { dir, child, lines, http: String::new(), ws: String::new() };
        // The two lines come in either order.
        let (mut http, mut ws) = (None, None);
        while http.is_none() || ws.is_none() {
            let line = dev.line().await;
            http = http.or_else(|| line.trim().strip_prefix("http://").map(str::to_owned));
            ws = ws.or_else(|| line.strip_prefix("debugger listening on ").map(str::to_owned));
        }
        dev.http = http.unwrap();
        dev.ws = ws.unwrap();
        dev
    }

    async fn line(&mut self) -> String {
        let line = patiently("a line of atoll dev", self.lines.next_line()).await;
        line.unwrap().expect("atoll dev goes on")
    }

    /// Saves other code and gives where its instance is debugged.
    async fn redeploy(&mut self, source: &str) -> String {
        write(self.dir.path(), "index.js", source);
        loop {
            if let Some(ws) = self.line().await.strip_prefix("debugger listening on ") {
                return ws.to_owned();
            }
        }
    }

    fn request(&self) -> tokio::task::JoinHandle<String> {
        let (address, host) = (loopback(&self.http), self.http.clone());
        tokio::spawn(async move { get(&address, &host, "/").await.1 })
    }

    /// The server for debuggers: host and port.
    fn inspector(&self) -> String {
        self.ws.split('/').nth(2).unwrap().to_owned()
    }

    /// Asks it to stop as Ctrl-C does, and waits for that.
    async fn stop(mut self) {
        let pid = self.child.id().unwrap().to_string();
        let asked = Command::new("kill").args(["-INT", &pid]).status().await.unwrap();
        assert!(asked.success());
        assert!(patiently("the end of atoll dev", self.child.wait()).await.unwrap().success());
    }
}

fn loopback(host: &str) -> String {
    format!("127.0.0.1:{}", host.rsplit(':').next().unwrap())
}

async fn get(address: &str, host: &str, path: &str) -> (u16, String) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(path).header("host", host).body(Empty::<Bytes>::new());
    let response = patiently("a response", sender.send_request(request.unwrap())).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// A client of the DevTools Protocol.
struct Debugger {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    last_id: u64,
    events: Vec<Value>,
}

impl Debugger {
    async fn attach(ws: &str) -> Self {
        let (socket, _) = patiently("a session", connect_async(ws)).await.unwrap();
        Self { socket, last_id: 0, events: Vec::new() }
    }

    async fn next(&mut self) -> Option<Value> {
        loop {
            match patiently("a message", self.socket.next()).await {
                Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    /// Sends a command and gives its result; events that come before it are kept.
    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let id = self.last_id;
        let command = json!({ "id": id, "method": method, "params": params });
        self.socket.send(Message::text(command.to_string())).await.unwrap();
        loop {
            let mut message = self.next().await.expect("the session is open");
            if message["id"] == json!(id) {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].take();
            }
            self.events.push(message);
        }
    }

    async fn event(&mut self, method: &str) -> Value {
        if let Some(at) = self.events.iter().position(|event| event["method"] == method) {
            return self.events.remove(at)["params"].take();
        }
        loop {
            let mut message = self.next().await.expect("the session is open");
            if message["method"] == method {
                return message["params"].take();
            }
            self.events.push(message);
        }
    }

    async fn enable(&mut self) {
        self.call("Runtime.enable", json!({})).await;
        self.call("Debugger.enable", json!({})).await;
    }

    async fn ended(mut self) {
        while self.next().await.is_some() {}
    }
}

/// A `debugger` statement holds the request until the debugger lets it go; the console reaches it too.
#[tokio::test(flavor = "multi_thread")]
async fn a_debugger_pauses_looks_and_resumes() {
    let dev = Dev::start().await;
    let mut debugger = Debugger::attach(&dev.ws).await;
    debugger.enable().await;
    let evaluated = debugger.call("Runtime.evaluate", json!({ "expression": "1 + 1" })).await;
    assert_eq!(evaluated["result"]["value"], 2);

    let response = dev.request();
    let paused = debugger.event("Debugger.paused").await;
    let frame = &paused["callFrames"][0];
    assert_eq!(frame["location"]["lineNumber"], 3);
    let look = json!({ "callFrameId": frame["callFrameId"], "expression": "answer * 10" });
    let seen = debugger.call("Debugger.evaluateOnCallFrame", look).await;
    assert_eq!(seen["result"]["value"], 420);
    assert!(!response.is_finished());
    debugger.call("Debugger.resume", json!({})).await;
    assert_eq!(response.await.unwrap(), "the answer is 42");

    let written = debugger.event("Runtime.consoleAPICalled").await;
    assert_eq!(written["type"], "log");
    assert_eq!(written["args"][0]["value"], "resumed with");
    assert_eq!(written["args"][1]["value"], 42);

    let at = json!({ "url": "file:///index.js", "lineNumber": 5 });
    debugger.call("Debugger.setBreakpointByUrl", at).await;
    let response = dev.request();
    debugger.event("Debugger.paused").await;
    debugger.call("Debugger.resume", json!({})).await;
    let paused = debugger.event("Debugger.paused").await;
    assert_eq!(paused["callFrames"][0]["location"]["lineNumber"], 5);
    // Whoever leaves lets go.
    drop(debugger);
    assert_eq!(response.await.unwrap(), "the answer is 42");
    dev.stop().await;
}

/// A new version is a new instance: the session of the old one ends and what it held goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_redeployment_ends_the_session_and_lets_go() {
    let mut dev = Dev::start().await;
    let mut debugger = Debugger::attach(&dev.ws).await;
    debugger.enable().await;
    let held = dev.request();
    debugger.event("Debugger.paused").await;
    let old = dev.ws.clone();
    let new = dev.redeploy(&WORKER.replace("the answer is", "now it is")).await;
    assert_ne!(old, new);
    debugger.ended().await;
    assert_eq!(held.await.unwrap(), "the answer is 42");
    let refused = connect_async(&old).await.unwrap_err();
    assert!(matches!(refused, tungstenite::Error::Http(answer) if answer.status() == 404));

    let mut debugger = Debugger::attach(&new).await;
    debugger.enable().await;
    let held = dev.request();
    debugger.event("Debugger.paused").await;
    // Stopping does not wait for the breakpoint.
    dev.stop().await;
    debugger.ended().await;
    assert_eq!(held.await.unwrap(), "now it is 42");
}

/// What `chrome://inspect` reads, and that a page of another site cannot.
#[tokio::test(flavor = "multi_thread")]
async fn instances_are_listed_for_local_hosts_only() {
    let dev = Dev::start().await;
    let inspector = dev.inspector();
    let (status, version) = get(&inspector, &inspector, "/json/version").await;
    let version: Value = serde_json::from_str(&version).unwrap();
    assert_eq!((status, &version["Protocol-Version"]), (200, &json!("1.3")));
    for path in ["/json", "/json/list"] {
        let (status, listed) = get(&inspector, &inspector, path).await;
        let listed: Value = serde_json::from_str(&listed).unwrap();
        assert_eq!((status, listed.as_array().unwrap().len()), (200, 1), "{listed}");
        assert_eq!(listed[0]["title"], "debugged");
        assert_eq!(listed[0]["type"], "node");
        assert_eq!(listed[0]["webSocketDebuggerUrl"], dev.ws.as_str());
    }
    for host in ["evil.example", "evil.example:9229", "127.0.0.1.evil.example"] {
        let (status, body) = get(&inspector, host, "/json/list").await;
        assert_eq!(status, 400, "{host}");
        assert!(!body.contains("/ws/"), "{host}");
    }
    assert_eq!(get(&inspector, &inspector, "/ws/unknown").await.0, 400);
    dev.stop().await;
}
