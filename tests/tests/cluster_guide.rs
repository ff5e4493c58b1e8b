//! The promise: the configurations of `docs/cluster.md` work as they stand there, but for names, ports and folders.
//! Servers know each other and nodes by TLS and credentials, and what is wrong with those is said.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use atoll_kv::nats_program;
use atoll_tests::{Node, NodeOptions, Script, eventually, fixture, free_port};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, SanType,
};
use serde_json::{Value, json};
use tempfile::TempDir;

const REGIONS: [&str; 3] = ["eu", "us", "asia"];
const PASSWORD: &str = "a-long-and-random-password";

/// The block of the guide that begins with a line.
fn block(first: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cluster.md");
    let page = std::fs::read_to_string(page).unwrap();
    let blocks = page.split("\n```").skip(1).step_by(2);
    let mut blocks = blocks.map(|block| block.split_once('\n').unwrap().1);
    let found = blocks.find(|block| block.lines().next() == Some(first));
    found.unwrap_or_else(|| panic!("the guide has a block {first:?}")).to_owned()
}

/// Certificates as the guide has openssl make them, of an authority of their own.
struct Authority(Issuer<'static, rcgen::KeyPair>, String);

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let name = format!(
            "authority {}",
            std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0)
        );
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self(Issuer::new(params, key), pem)
    }

    /// A certificate and its key.
    fn issue(&self) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

/// A server as the guide has it, with its folder in place of `/etc/nats` and `/var/lib/nats`.
struct Server {
    dir: PathBuf,
    client: u16,
    monitor: u16,
    child: Option<Child>,
}

/// The three servers. They are killed when it is dropped.
struct Servers {
    dir: TempDir,
    authority: Authority,
    servers: Vec<Server>,
    names: Vec<(String, String)>,
}

impl Servers {
    /// Starts them with the guide's file, in which texts are replaced: first those given, then names and ports.
    fn start(replaced: &[(&str, &str)]) -> Self {
        let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let ports: Vec<u16> = (0..3 * REGIONS.len()).map(|_| free_port().port()).collect();
        let mut names = Vec::new();
        for (number, region) in REGIONS.iter().enumerate() {
            let (client, route) = (ports[number], ports[3 + number]);
            names.push((format!("nats-{region}.example.com:4222"), format!("localhost:{client}")));
            names.push((format!("nats-{region}.example.com:6222"), format!("localhost:{route}")));
        }
        std::fs::write(dir.path().join("nats-ca.pem"), &authority.1).unwrap();
        let mut servers = Self { dir, authority, servers: Vec::new(), names };
        for (number, region) in REGIONS.iter().enumerate() {
            servers.prepare(
                region,
                [ports[number], ports[3 + number], ports[6 + number]],
                replaced,
            );
        }
        (0..REGIONS.len()).for_each(|number| servers.spawn(number));
        servers
    }

    fn prepare(&mut self, region: &str, ports: [u16; 3], replaced: &[(&str, &str)]) {
        let dir = self.dir.path().join(region);
        std::fs::create_dir(&dir).unwrap();
        let (certificate, key) = self.authority.issue();
        for (file, text) in
            [("server.pem", &certificate), ("server-key.pem", &key), ("ca.pem", &self.authority.1)]
        {
            std::fs::write(dir.join(file), text).unwrap();
        }
        let mut text = block("# /etc/nats/nats.conf on nats-eu");
        for (from, to) in replaced {
            assert!(text.contains(from), "the guide's file has {from:?}");
            text = text.replace(from, to);
        }
        // The lines that the guide says are different on each server.
        for line in
            ["server_name: nats-", "client_advertise: \"nats-", "cluster_advertise: \"nats-"]
        {
            assert!(text.contains(&format!("{line}eu")), "{line}");
            text = text.replace(&format!("{line}eu"), &format!("{line}{region}"));
        }
        let [client, route, monitor] = ports;
        let text = self
            .local(&text)
            .replace("0.0.0.0:4222", &format!("127.0.0.1:{client}"))
            .replace("0.0.0.0:6222", &format!("127.0.0.1:{route}"))
            .replace("127.0.0.1:8222", &format!("127.0.0.1:{monitor}"))
            .replace("/etc/nats/", &format!("{}/", dir.display()))
            .replace("/var/lib/nats", &dir.join("store").display().to_string());
        std::fs::write(dir.join("nats.conf"), text).unwrap();
        self.servers.push(Server { dir, client, monitor, child: None });
    }

    /// A text of the guide's with this machine's names and passwords.
    fn local(&self, text: &str) -> String {
        let text = text.replace("PASSWORD", PASSWORD);
        self.names.iter().fold(text, |text, (from, to)| text.replace(from, to))
    }

    fn spawn(&mut self, number: usize) {
        let cache = std::env::home_dir().unwrap().join(".cache/atoll-tests");
        let program = nats_program::install(&cache).unwrap();
        let server = &mut self.servers[number];
        let log = std::fs::File::options().create(true).append(true).open(server.dir.join("log"));
        let mut command = Command::new(program);
        command.arg("-c").arg(server.dir.join("nats.conf"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.unwrap());
        server.child = Some(command.spawn().unwrap());
    }

    fn kill(&mut self, number: usize) {
        if let Some(mut child) = self.servers[number].child.take() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Waits until a server says that it has everything.
    async fn healthy(&self, number: usize) {
        let url = ("127.0.0.1", self.servers[number].monitor);
        eventually("the server has everything", async || {
            let mut stream = std::net::TcpStream::connect(url).ok()?;
            stream.set_read_timeout(Some(std::time::Duration::from_secs(5))).ok()?;
            std::io::Write::write_all(&mut stream, b"GET /healthz HTTP/1.0\r\n\r\n").ok()?;
            let answer = std::io::read_to_string(stream).ok()?;
            answer.contains(r#"{"status":"ok"}"#).then_some(())
        })
        .await;
    }

    /// The options of the guide's node in a region, with texts replaced.
    fn node(&self, region: &str, key: Option<Vec<u8>>, replaced: &[(&str, &str)]) -> NodeOptions {
        let mut text = block("# /etc/atoll/node.toml on edge-eu-1");
        for (from, to) in replaced {
            assert!(text.contains(from), "the guide's file has {from:?}");
            text = text.replace(from, to);
        }
        let config = self
            .local(&text)
            .replace("edge-eu-1", &format!("edge-{region}-1"))
            .replace("region = \"eu\"", &format!("region = {region:?}"))
            // Fewer streams: several clusters of three servers share a test machine.
            .replace("replicas = 3", "replicas = 3\nshards = 4")
            .replace("/etc/atoll/", &format!("{}/", self.dir.path().display()));
        NodeOptions { threads: 1, processes: Some(1), config, key, ..NodeOptions::default() }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        (0..self.servers.len()).for_each(|number| self.kill(number));
        if !std::thread::panicking() {
            return;
        }
        for Server { dir, client, .. } in &self.servers {
            let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
            let end: Vec<_> = log.lines().rev().take(30).collect();
            eprintln!("--- {} on {client} ---", dir.display());
            end.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

fn key_of(node: &Node) -> Vec<u8> {
    std::fs::read(node.data_dir().join("node.key")).unwrap()
}

async fn deployed(by: &Node, on: &[&Node], text: &str) {
    let script = Script::module(fixture("gate.js")).bind_text("VERSION", text);
    eventually("a deploy is taken", async || by.api().upload("gate", &script).await.ok()).await;
    by.api().enable_subdomain("gate").await.unwrap();
    for node in on {
        eventually("the worker answers", async || {
            let reply = node.request("gate", "/").send().await.ok()?;
            (reply.status == 200 && reply.text() == text).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_regions_work_as_documented() {
    let mut servers = Servers::start(&[]);
    let eu = Node::start(servers.node("eu", None, &[])).await;
    let us = Node::start(servers.node("us", Some(key_of(&eu)), &[])).await;
    // The guide's domain is in the configuration, and the harness's on the command line.
    deployed(&eu, &[&eu, &us], "one").await;
    // An empty server takes the place of one that is gone, and then another one may go.
    for number in 0..3 {
        servers.healthy(number).await;
    }
    servers.kill(2);
    std::fs::remove_dir_all(servers.servers[2].dir.join("store")).unwrap();
    servers.spawn(2);
    servers.healthy(2).await;
    servers.kill(1);
    deployed(&us, &[&eu, &us], "two").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_credentials_and_certificates_is_said() {
    let servers = Servers::start(&[]);
    let eu = Node::start(servers.node("eu", None, &[])).await;
    let other = servers.dir.path().join("other-ca.pem");
    std::fs::write(&other, Authority::new().1).unwrap();
    std::fs::write(servers.dir.path().join("empty.pem"), "nothing").unwrap();
    let refused = async |replaced: &[(&str, &str)], expected: &str| {
        let options = servers.node("us", Some(key_of(&eu)), replaced);
        let told = Node::refused(options).await;
        assert!(told.contains(expected), "{expected:?} is not in:\n{told}");
        assert!(!told.contains(PASSWORD), "the log has a password:\n{told}");
    };
    let wrong_password = [("atoll:PASSWORD", "atoll:wrong")];
    let wrong_authority = [("/etc/atoll/nats-ca.pem", other.to_str().unwrap())];
    tokio::join!(
        refused(&wrong_password, "authorization violation"),
        refused(&wrong_authority, "invalid peer certificate: UnknownIssuer"),
    );
    refused(&[("nats-ca.pem", "absent.pem")], "absent.pem: No such file").await;
    refused(&[("nats-ca.pem", "empty.pem")], "it holds no certificate in PEM").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_may_be_known_by_nkeys_and_certificates() {
    let user = KeyPair::new_user();
    let whole = block("# /etc/nats/nats.conf on nats-eu");
    let accounts = &whole[whole.find("accounts {").unwrap()..whole.find("system_account").unwrap()];
    let with_nkey = block("# accounts with an nkey").replace("PUBLIC_KEY", &user.public_key());
    // The system account goes with the block that it stands in.
    let outer = "\ntls {\n";
    let replaced = [
        (accounts, &*with_nkey),
        ("system_account: SYS", ""),
        (outer, "\ntls {\n  verify: true\n"),
    ];
    let servers = Servers::start(&replaced);
    let (certificate, key) = servers.authority.issue();
    for (file, text) in
        [("node.nk", &*user.seed().unwrap()), ("node.pem", &certificate), ("node-key.pem", &key)]
    {
        std::fs::write(servers.dir.path().join(file), text).unwrap();
    }
    let replaced = [
        ("atoll:PASSWORD@", ""),
        ("replicas = 3", "replicas = 3\ncredentials = \"/etc/atoll/node.nk\""),
        (
            "required = true",
            "required = true\ncert = \"/etc/atoll/node.pem\"\nkey = \"/etc/atoll/node-key.pem\"",
        ),
    ];
    let eu = Node::start(servers.node("eu", None, &replaced)).await;
    let us = Node::start(servers.node("us", Some(key_of(&eu)), &replaced)).await;
    deployed(&us, &[&eu, &us], "one").await;
}

/// A token of NATS's, as `nsc` makes them.
fn token(issuer: &KeyPair, subject: &str, claims: Value) -> String {
    let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let head = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let body = json!({
        "jti": "A", "iat": 1, "iss": issuer.public_key(), "sub": subject, "name": "atoll",
        "nats": claims,
    });
    let text = format!("{}.{}", encode(&head), encode(&body));
    let signature = issuer.sign(text.as_bytes()).unwrap();
    format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_may_be_known_by_credentials_of_an_operator() {
    let (operator, system) = (KeyPair::new_operator(), KeyPair::new_account());
    let (account, user) = (KeyPair::new_account(), KeyPair::new_user());
    let operator_token =
        token(&operator, &operator.public_key(), json!({ "type": "operator", "version": 2 }));
    let of_account = |account: &KeyPair, storage: i64| {
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
            "conn": -1, "leaf": -1, "mem_storage": storage, "disk_storage": storage,
            "streams": storage, "consumer": storage,
        });
        let claims = json!({ "type": "account", "version": 2, "limits": limits });
        token(&operator, &account.public_key(), claims)
    };
    let user_token = token(
        &account,
        &user.public_key(),
        json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 }),
    );
    let with_operator = block("# an operator")
        .replace("OPERATOR_JWT", &operator_token)
        .replace("SYSTEM_ACCOUNT_KEY", &system.public_key())
        .replace("SYSTEM_ACCOUNT_JWT", &of_account(&system, 0))
        .replace("ACCOUNT_KEY", &account.public_key())
        .replace("ACCOUNT_JWT", &of_account(&account, -1));
    let whole = block("# /etc/nats/nats.conf on nats-eu");
    let accounts = &whole[whole.find("accounts {").unwrap()..];
    let servers = Servers::start(&[(accounts, &*with_operator)]);
    let credentials = format!(
        "-----BEGIN NATS USER JWT-----\n{user_token}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap()
    );
    std::fs::write(servers.dir.path().join("node.creds"), credentials).unwrap();
    let replaced = [
        ("atoll:PASSWORD@", ""),
        ("replicas = 3", "replicas = 3\ncredentials = \"/etc/atoll/node.creds\""),
    ];
    let eu = Node::start(servers.node("eu", None, &replaced)).await;
    let us = Node::start(servers.node("us", Some(key_of(&eu)), &replaced)).await;
    deployed(&us, &[&eu, &us], "one").await;
}
