//! The promise: a real browser reaches workers over HTTP/3, and opens WebSockets to them. Needs Chromium (Debian's
//! package `chromium`); without it the tests say so and pass.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use atoll_tests::{Authority, Issued, Node, NodeOptions, Script, eventually_within};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::PublicKeyData as _;
use sha2::{Digest as _, Sha256};

const HOST: &str = "page.demo.localhost";
/// How long a browser may take for a page.
const BROWSER_MAX: Duration = Duration::from_secs(120);
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

const PAGE: &str = "
export default { async fetch(request) {
  const protocol = request.cf.httpProtocol;
  if (request.method === 'POST') return new Response(`${protocol} ${(await request.text()).length}`);
  return new Response(`<p>first ${protocol}</p><p id=later></p><script>
    (async () => {
      const answer = await fetch('/', { method: 'POST', body: 'x'.repeat(200000) });
      document.getElementById('later').textContent = 'then ' + await answer.text();
    })();
  </script>`, { headers: { 'content-type': 'text/html' } });
} };";

/// A page that speaks with its own host over a WebSocket, and says by a POST what came of it.
const SOCKET_PAGE: &str = r#"
export default { async fetch(request, env) {
  const { pathname, protocol } = new URL(request.url);
  if (request.headers.get("upgrade") === "websocket") {
    const [client, server] = new WebSocketPair();
    server.accept();
    server.addEventListener("message", ({ data }) => {
      if (data === "close") return server.close(4004, "as asked");
      server.send(typeof data === "string" ? `${request.cf.httpProtocol}: ${data}` : data);
    });
    const headers = { "sec-websocket-protocol": "second" };
    return new Response(null, { status: 101, webSocket: client, headers });
  }
  if (request.method === "POST") {
    await env.KV.put(protocol, await request.text());
    return new Response();
  }
  return new Response(`<script>
    const seen = [];
    const socket = new WebSocket(location.origin.replace("http", "ws") + "/socket", ["first", "second"]);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => { seen.push("open " + socket.protocol); socket.send("hello"); };
    socket.onmessage = ({ data }) => {
      seen.push(typeof data === "string" ? data : "bytes " + data.byteLength);
      if (seen.length === 2) socket.send(new Uint8Array(200000));
      if (seen.length === 3) socket.send("close");
    };
    socket.onerror = () => seen.push("error");
    socket.onclose = ({ code, reason, wasClean }) => {
      seen.push(["close", code, reason, wasClean].join(" "));
      fetch("/", { method: "POST", body: seen.join(", ") });
    };
  </script>`, { headers: { "content-type": "text/html" } });
} };"#;

fn browser() -> Option<&'static str> {
    let runs = |browser: &&str| Command::new(browser).arg("--version").output().is_ok();
    BROWSERS.into_iter().find(runs)
}

/// The browser without a window, for one host of a node with this certificate.
fn headless(browser: &str, profile: &Path, issued: &Issued) -> tokio::process::Command {
    let pin = STANDARD.encode(Sha256::digest(issued.key.subject_public_key_info()));
    let mut command = tokio::process::Command::new(browser);
    command.args(["--headless=new", "--no-sandbox", "--disable-gpu"]);
    command.arg(format!("--user-data-dir={}", profile.display()));
    command.arg(format!("--host-resolver-rules=MAP {HOST} 127.0.0.1"));
    command.arg(format!("--ignore-certificate-errors-spki-list={pin}"));
    command.kill_on_drop(true);
    command
}

async fn node_with(issued: &Issued) -> Node {
    let config = format!(
        "[tls]\ncertificates = [{{ cert = {:?}, key = {:?} }}]\n",
        issued.cert_path, issued.key_path
    );
    Node::start(NodeOptions::with_config(&config)).await
}

#[tokio::test]
async fn chromium_opens_websockets_with_and_without_tls() {
    let Some(browser) = browser() else {
        return eprintln!("skipped: no Chromium is installed (apt-get install chromium)");
    };
    let authority = Authority::new("servers");
    let issued = authority.issue(&[HOST]);
    let node = node_with(&issued).await;
    let namespace = node.api().create_namespace("seen").await;
    node.deploy("page", &Script::module(SOCKET_PAGE).bind_kv("KV", &namespace)).await;
    let addresses = node.addresses();
    for (scheme, port) in [("http", addresses.http.port()), ("https", addresses.https.port())] {
        let profile = tempfile::tempdir().unwrap();
        let mut command = headless(browser, profile.path(), &issued);
        // It stays until it is killed.
        command.arg("--remote-debugging-port=0").arg(format!("{scheme}://{HOST}:{port}/"));
        command.stderr(Stdio::null());
        let running = command.spawn().unwrap();
        let told = eventually_within(BROWSER_MAX, "the page tells what it saw", async || {
            node.api().kv_get(&namespace, &format!("{scheme}:")).await
        });
        let told = String::from_utf8(told.await.to_vec()).unwrap();
        drop(running);
        let seen: Vec<_> = told.split(", ").collect();
        assert_eq!(seen.len(), 4, "{scheme}: {told}");
        assert_eq!(seen[0], "open second", "{scheme}");
        assert!(seen[1].starts_with("HTTP/") && seen[1].ends_with(": hello"), "{scheme}: {told}");
        assert_eq!(seen[2], "bytes 200000", "{scheme}");
        assert_eq!(seen[3], "close 4004 as asked true", "{scheme}");
        eprintln!("{scheme}: {told}");
    }
}

#[tokio::test]
async fn chromium_loads_and_posts_over_http3() {
    let Some(browser) = browser() else {
        return eprintln!("skipped: no Chromium is installed (apt-get install chromium)");
    };
    let authority = Authority::new("servers");
    let issued = authority.issue(&[HOST]);
    let node = node_with(&issued).await;
    node.deploy("page", &Script::module(PAGE)).await;
    let at = format!("{HOST}:{}", node.addresses().https.port());
    let profile = tempfile::tempdir().unwrap();
    let mut command = headless(browser, profile.path(), &issued);
    command.args(["--dump-dom", "--virtual-time-budget=10000"]);
    command.arg(format!("--origin-to-force-quic-on={at}")).arg(format!("https://{at}/"));
    let output = tokio::time::timeout(BROWSER_MAX, command.output());
    let output = output.await.expect("the browser ends").unwrap();
    let page = String::from_utf8_lossy(&output.stdout);
    for text in ["first HTTP/3", "then HTTP/3 200000"] {
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(page.contains(text), "{text:?} is missing in {page}\n{errors}");
    }
}
