//! The promise: a real browser reaches workers over HTTP/3. Needs Chromium (Debian's package `chromium`); without
//! it the test says so and passes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use atoll_tests::{Authority, Node, NodeOptions, Script};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::PublicKeyData as _;
use sha2::{Digest as _, Sha256};

const HOST: &str = "page.demo.localhost";
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

fn browser() -> Option<&'static str> {
    let runs = |browser: &&str| Command::new(browser).arg("--version").output().is_ok();
    BROWSERS.into_iter().find(runs)
}

#[tokio::test]
async fn chromium_loads_and_posts_over_http3() {
    let Some(browser) = browser() else {
        return eprintln!("skipped: no Chromium is installed (apt-get install chromium)");
    };
    let authority = Authority::new("servers");
    let issued = authority.issue(&[HOST]);
    let config = format!(
        "[tls]\ncertificates = [{{ cert = {:?}, key = {:?} }}]\n",
        issued.cert_path, issued.key_path
    );
    let node = Node::start(NodeOptions::with_config(&config)).await;
    node.deploy("page", &Script::module(PAGE)).await;
    let at = format!("{HOST}:{}", node.addresses().https.port());
    let pin = STANDARD.encode(Sha256::digest(issued.key.subject_public_key_info()));
    let profile = tempfile::tempdir().unwrap();
    let mut command = tokio::process::Command::new(browser);
    command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]);
    command.arg("--virtual-time-budget=10000");
    command.arg(format!("--user-data-dir={}", profile.path().display()));
    command.arg(format!("--host-resolver-rules=MAP {HOST} 127.0.0.1"));
    command.arg(format!("--origin-to-force-quic-on={at}"));
    command.arg(format!("--ignore-certificate-errors-spki-list={pin}"));
    command.arg(format!("https://{at}/")).kill_on_drop(true);
    let output = tokio::time::timeout(std::time::Duration::from_secs(120), command.output());
    let output = output.await.expect("the browser ends").unwrap();
    let page = String::from_utf8_lossy(&output.stdout);
    for text in ["first HTTP/3", "then HTTP/3 200000"] {
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(page.contains(text), "{text:?} is missing in {page}\n{errors}");
    }
}
