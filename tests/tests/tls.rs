//! The promise: TLS 1.2 and 1.3 and nothing older; sessions outlive the processes that made them; certificates
//! are replaced while the node serves; clients are asked for certificates where the configuration says so.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use atoll_tests::{Authority, Node, NodeOptions, Script, TlsClient, eventually, fixture};
use http::Method;
use rustls::{HandshakeKind, ProtocolVersion};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const HOST: &str = "echo.demo.localhost";

async fn kind(client: &TlsClient, node: &Node) -> HandshakeKind {
    let session = client.get(node.addresses().https, HOST, "/").await.unwrap();
    assert!(session.answer.starts_with("HTTP/1.1 200"), "{}", session.answer);
    session.kind.unwrap()
}

async fn started(options: NodeOptions) -> Node {
    let node = Node::start(options).await;
    node.deploy("echo", &Script::module(fixture("echo.js"))).await;
    node
}

#[tokio::test]
async fn sessions_outlive_processes_and_nodes() {
    let options =
        || NodeOptions { key: Some(vec![7; 32]), processes: Some(1), ..NodeOptions::default() };
    let (mut node, twin) = (started(options()).await, started(options()).await);
    let stranger = started(NodeOptions { key: Some(vec![8; 32]), ..options() }).await;
    let client = TlsClient::new();
    assert_eq!(kind(&client, &node).await, HandshakeKind::Full);
    assert_eq!(kind(&client, &node).await, HandshakeKind::Resumed);
    let serving = node.serving_processes().await.unwrap()[0].pid.unwrap();
    node.kill_process(serving, "KILL");
    eventually("the process is replaced", async || {
        let processes = node.serving_processes().await?;
        (processes[0].state == "ready" && processes[0].pid != Some(serving)).then_some(())
    })
    .await;
    assert_eq!(kind(&client, &node).await, HandshakeKind::Resumed, "by a new process");
    node.restart_in_place().await;
    assert_eq!(kind(&client, &node).await, HandshakeKind::Resumed, "by a new start");
    assert_eq!(kind(&client, &twin).await, HandshakeKind::Resumed, "by another node with the key");
    assert_eq!(kind(&client, &stranger).await, HandshakeKind::Full, "by a node with another key");
}

/// A ClientHello that offers no version but this one, with suites that go with it.
fn client_hello(version: [u8; 2]) -> Vec<u8> {
    let suites = [0xc0, 0x13, 0xc0, 0x14, 0xc0, 0x09, 0xc0, 0x0a, 0x00, 0x2f, 0x00, 0x35];
    let mut body = version.to_vec();
    body.extend([9; 32]);
    body.push(0);
    body.extend((suites.len() as u16).to_be_bytes());
    body.extend(suites);
    body.extend([1, 0]);
    let mut message = vec![1, 0];
    message.extend((body.len() as u16).to_be_bytes());
    message.extend(body);
    let mut record = vec![22, 3, 1];
    record.extend((message.len() as u16).to_be_bytes());
    record.extend(message);
    record
}

#[tokio::test]
async fn nothing_older_than_tls_1_2_is_spoken() {
    const ALERT: u8 = 21;
    let node = started(NodeOptions::default()).await;
    for version in [[3, 0], [3, 1], [3, 2]] {
        let mut socket = TcpStream::connect(node.addresses().https).await.unwrap();
        socket.write_all(&client_hello(version)).await.unwrap();
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
        assert!(answer.first().is_none_or(|kind| *kind == ALERT), "{version:?}: {answer:?}");
    }
    let session = TlsClient::new().get(node.addresses().https, HOST, "/").await.unwrap();
    assert_eq!(session.version, Some(ProtocolVersion::TLSv1_3));
}

/// The issuer-given certificate that a host gets now.
async fn served(node: &Node, host: &str) -> Vec<u8> {
    let session = TlsClient::new().get(node.addresses().https, host, "/").await.unwrap();
    session.certificate.to_vec()
}

#[tokio::test]
async fn certificate_files_are_replaced_while_the_node_serves() {
    let authority = Authority::new("servers");
    let old = authority.issue(&["a.test"]);
    let config = format!(
        "[tls]\ncertificates = [{{ cert = {:?}, key = {:?} }}]\n",
        old.cert_path, old.key_path
    );
    let node = started(NodeOptions::with_config(&config)).await;
    assert_eq!(served(&node, "a.test").await, old.der.to_vec());
    // A half-written renewal keeps the old certificate in use, and the node says so.
    std::fs::write(&old.cert_path, "-----BEGIN CERTIFICATE-----\n").unwrap();
    eventually("the node reports the broken file", async || {
        node.output().contains("the certificates that were read before stay in use").then_some(())
    })
    .await;
    assert_eq!(served(&node, "a.test").await, old.der.to_vec());
    let new = authority.issue(&["a.test"]);
    node.signal("HUP");
    eventually("the new certificate serves", async || {
        (served(&node, "a.test").await == new.der.to_vec()).then_some(())
    })
    .await;
    let newer = authority.issue(&["a.test"]);
    eventually("a certificate serves without a signal", async || {
        (served(&node, "a.test").await == newer.der.to_vec()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_uploaded_certificate_serves_at_once_and_stays() {
    let mut node = started(NodeOptions::default()).await;
    let authority = Authority::new("servers");
    let issued = authority.issue(&["shop.test", "*.shop.test"]);
    let (cert, key) = (issued.cert_path.to_str().unwrap(), issued.key_path.to_str().unwrap());
    let added = node.atoll(&["certificates", "add", "--cert", cert, "--key", key]).await;
    assert!(added.success && added.stdout.contains("shop.test, *.shop.test"), "{added:?}");
    for host in ["shop.test", "www.shop.test"] {
        assert_eq!(served(&node, host).await, issued.der.to_vec(), "{host}");
    }
    assert_ne!(served(&node, "a.b.shop.test").await, issued.der.to_vec());
    let other = node.api().create_account("other").await;
    let upload = json!({
        "certificate": std::fs::read_to_string(cert).unwrap(),
        "private_key": std::fs::read_to_string(key).unwrap(),
    });
    let path = other.in_account("/atoll/certificates");
    let refused = other.call(Method::POST, &path, &upload).await.unwrap_err();
    assert_eq!(refused.status, 409, "{refused}");
    let mismatched = json!({
        "certificate": upload["certificate"],
        "private_key": authority.issue(&["x.test"]).key.serialize_pem(),
    });
    let path = node.api().in_account("/atoll/certificates");
    let refused = node.api().call(Method::POST, &path, &mismatched).await.unwrap_err();
    assert_eq!(refused.status, 400, "{refused}");
    node.restart().await;
    assert_eq!(served(&node, "shop.test").await, issued.der.to_vec());
    let list = node.api().call(Method::GET, &path, &Value::Null).await.unwrap();
    let id = list[0]["id"].as_str().unwrap();
    let removed = node.atoll(&["certificates", "remove", id]).await;
    assert!(removed.success, "{removed:?}");
    assert_ne!(served(&node, "shop.test").await, issued.der.to_vec());
}

#[tokio::test]
async fn workers_learn_of_client_certificates() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let config = format!(
        "[[tls.client]]\nhosts = [\"who.demo.localhost\"]\nca = {ca:?}\n\
         [[tls.client]]\nhosts = [\"must.demo.localhost\"]\nca = {ca:?}\nauth = \"required\"\n",
        ca = ours.path()
    );
    let node = Node::start(NodeOptions::with_config(&config)).await;
    let script = Script::module(
        "export default { fetch(request) { return Response.json(request.cf.tlsClientAuth ?? null); } };",
    );
    for worker in ["who", "must", "open"] {
        node.deploy(worker, &script).await;
    }
    let https = node.addresses().https;
    let seen = async |client: &TlsClient, worker: &str| {
        let host = format!("{worker}.demo.localhost");
        let answer = client.get(https, &host, "/").await.ok()?.answer;
        let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned();
        Some(serde_json::from_str::<Value>(&body).unwrap_or_else(|_| panic!("{answer}")))
    };
    let (none, alice) = (TlsClient::new(), TlsClient::with_certificate(&ours.issue(&["alice"])));
    let mallory = TlsClient::with_certificate(&others.issue(&["mallory"]));
    let fields = |seen: Option<Value>| {
        let seen = seen.unwrap();
        [&seen["certPresented"], &seen["certVerified"]]
            .map(|field| field.as_str().unwrap().to_owned())
    };
    assert_eq!(fields(seen(&none, "open").await), ["0", "NONE"]);
    assert_eq!(fields(seen(&none, "who").await), ["0", "NONE"]);
    let told = seen(&alice, "who").await;
    assert_eq!(told.as_ref().unwrap()["certSubjectDN"], "CN=alice");
    assert_eq!(told.as_ref().unwrap()["certIssuerDN"], "CN=ours");
    assert_eq!(fields(told), ["1", "SUCCESS"]);
    let unknown = "FAILED:unable to verify the first certificate";
    assert_eq!(fields(seen(&mallory, "who").await), ["1", unknown]);
    assert_eq!(fields(seen(&alice, "must").await), ["1", "SUCCESS"]);
    assert_eq!(seen(&none, "must").await, None);
    assert_eq!(seen(&mallory, "must").await, None);
    let around =
        none.get_as(https, "open.demo.localhost", "must.demo.localhost", "/").await.unwrap();
    assert!(around.answer.starts_with("HTTP/1.1 421"), "{}", around.answer);
    let plain = node.request("must", "/").send().await.unwrap();
    assert_eq!(plain.status, 403);
    assert_eq!(node.request("who", "/").send().await.unwrap().status, 200);
}
