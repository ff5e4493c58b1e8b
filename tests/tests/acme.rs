//! The promise: a node gets certificates from an ACME authority, renews them, keeps serving by the old ones when the
//! authority fails, and says what the authority says. Needs Debian's package `pebble`; where it cannot be had the
//! tests say so and pass.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use atoll_kv::contract::nats::NatsServers;
use atoll_tests::{
    AcmeOptions, AcmeServer, Node, NodeOptions, Origin, Script, TlsClient, eventually,
    eventually_within, fixture,
};
use http::Method;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

const HOST: &str = "shop.example.test";
const LONG: AcmeOptions = AcmeOptions { life_s: 90 * 24 * 3_600 };
const ORDER_MAX: Duration = Duration::from_secs(90);

async fn listed(node: &Node) -> Vec<Value> {
    let path = format!("/accounts/{}/atoll/certificates", node.api().account());
    node.api().call(Method::GET, &path, &Value::Null).await.unwrap().as_array().unwrap().clone()
}

/// Waits until the list says so of the host.
async fn standing(node: &Node, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    eventually_within(ORDER_MAX, what, async || {
        listed(node).await.into_iter().find(|item| item["hosts"][0] == HOST && is(item))
    })
    .await
}

async fn served(node: &Node) -> CertificateDer<'static> {
    TlsClient::new().get(node.addresses().https, HOST, "/").await.unwrap().certificate
}

/// What the node serves by once it is not its own certificate any more.
async fn issued(node: &Node) -> CertificateDer<'static> {
    let own = CertificateDer::from_pem_file(node.data_dir().join("tls/self-signed.crt.pem"));
    let own = own.unwrap();
    eventually("the certificate serves", async || {
        let now = served(node).await;
        (now != own).then_some(now)
    })
    .await
}

fn is_active(item: &Value) -> bool {
    item["status"] == "active"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http01_brings_a_certificate_which_is_renewed_and_outlives_the_authority() {
    let Some(mut server) = AcmeServer::start(AcmeOptions { life_s: 30 }).await else { return };
    let config =
        format!("{}domains = [{HOST:?}]\ncontact = [\"mailto:a@example.test\"]\n", server.config());
    let node = Node::start(NodeOptions::with_config(&config)).await;
    server.http.lead_to(node.addresses().http);
    standing(&node, "a certificate is issued", is_active).await;
    let first = issued(&node).await;
    let renewed = eventually_within(ORDER_MAX, "it is renewed", async || {
        let now = served(&node).await;
        (now != first).then_some(now)
    })
    .await;

    server.kill();
    let failed = standing(&node, "the failure is told", |item| !item["error"].is_null()).await;
    let error = failed["error"].as_str().unwrap();
    assert!(error.contains("cannot be used") && error.contains("refused"), "{error}");
    assert_eq!(served(&node).await, renewed, "the old certificate serves on");
    let (_, health) = node.admin_text("/healthz").await;
    assert!(health.contains(&format!("certificate {HOST}: ")), "{health}");
    assert!(health.contains("error: the authority cannot be used"), "{health}");
    let (_, metrics) = node.admin_text("/metrics").await;
    for line in ["atoll_acme_failures_total ", "atoll_certificate_left_seconds{host=\"shop"] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_alpn01_brings_a_certificate_for_a_route_and_never_reaches_a_worker() {
    let Some(server) = AcmeServer::start(LONG).await else { return };
    let config = format!("{}routes = true\nchallenge = \"tls-alpn-01\"\n", server.config());
    let node = Node::start(NodeOptions::with_config(&config)).await;
    server.tls.lead_to(node.addresses().https);
    let script = Script::module(fixture("gate.js")).bind_text("VERSION", "v1");
    node.deploy("gate", &script).await;
    assert_eq!(listed(&node).await, Vec::<Value>::new(), "nothing asks for names of the node");
    let route = json!({ "pattern": format!("{HOST}/*"), "script": "gate" });
    let path = format!("/zones/{}/workers/routes", node.api().account());
    node.api().call(Method::POST, &path, &route).await.unwrap();
    let item = standing(&node, "a certificate is issued", is_active).await;
    assert_eq!(item["source"], "acme");
    issued(&node).await;
    let session = TlsClient::new().get(node.addresses().https, HOST, "/").await.unwrap();
    assert!(session.answer.ends_with("v1"), "{}", session.answer);
    let table = node.atoll(&["certificates", "list"]).await;
    assert!(table.stdout.contains(HOST) && table.stdout.contains("acme"), "{}", table.stdout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_answer_is_told_in_the_authoritys_words() {
    let Some(server) = AcmeServer::start(LONG).await else { return };
    let elsewhere = Origin::answering([127, 0, 0, 1].into(), "something else").await;
    server.http.lead_to(elsewhere.address());
    let config = format!("{}domains = [{HOST:?}]\n", server.config());
    let node = Node::start(NodeOptions::with_config(&config)).await;
    let own = served(&node).await;
    let item = standing(&node, "the failure is told", |item| !item["error"].is_null()).await;
    let error = item["error"].as_str().unwrap();
    assert!(error.contains("the authority says: ") && error.contains("(unauthorized)"), "{error}");
    assert_eq!(item["status"], "pending_issuance");
    assert_eq!(served(&node).await, own, "the node's own certificate serves on");
    let path = "/.well-known/acme-challenge/unknown";
    let reply = node.request_to_host(HOST, path).send().await.unwrap();
    assert_eq!(reply.status, 404, "only what is pending is answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_of_a_cluster_answers_and_serves() {
    let Some(server) = AcmeServer::start(LONG).await else { return };
    let nats = NatsServers::start(1);
    let options = |name: &str, key: Option<Vec<u8>>, more: &str| {
        let url = nats.url(0);
        let config = format!(
            "{more}[cluster]\nnats = [{url:?}]\nname = {name:?}\nregion = \"here\"\nshards = 1\n"
        );
        NodeOptions { threads: 1, processes: Some(1), config, key, ..NodeOptions::default() }
    };
    let first = Node::start(options("one", None, "")).await;
    let key = std::fs::read(first.data_dir().join("node.key")).unwrap();
    server.http.lead_to(first.addresses().http);
    let acme = format!("{}domains = [{HOST:?}]\n", server.config());
    let second = Node::start(options("two", Some(key), &acme)).await;
    standing(&second, "a certificate is issued", is_active).await;
    assert_eq!(issued(&first).await, issued(&second).await);
}
