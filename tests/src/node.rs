//! A node under test: the real binary on free ports with a data directory of its own.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use tempfile::TempDir;

use crate::api::Api;
use crate::binary::atoll_binary;
use crate::client::{Protocol, Request};
use crate::clock::eventually;
use crate::script::Script;

/// What a failing test shows of a node's output.
const OUTPUT_SHOWN_BYTES: usize = 16 * 1024;

/// How a node is started.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Threads that run workers.
    pub threads: usize,
    /// The configuration file's text, in TOML; the harness sets the addresses by flags.
    pub config: String,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self { threads: 2, config: String::new() }
    }
}

impl NodeOptions {
    /// Options with a configuration file.
    pub fn with_config(config: &str) -> Self {
        Self { config: config.to_owned(), ..Self::default() }
    }
}

/// Where a node listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// Plain HTTP/1.1 and HTTP/2.
    pub http: SocketAddr,
    /// The same over TLS.
    pub https: SocketAddr,
    /// The REST API, metrics and health.
    pub admin: SocketAddr,
}

/// A running node. Dropping it kills the process; a failing test shows what the node wrote.
pub struct Node {
    options: NodeOptions,
    process: Process,
    api: Api,
    // Removed after the process has ended: fields are dropped in order.
    dir: TempDir,
}

impl Node {
    /// Starts a fresh node and waits until it is ready.
    ///
    /// # Panics
    /// Panics when the node does not become ready in time.
    pub async fn start(options: NodeOptions) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        std::fs::write(dir.path().join("node.toml"), &options.config)
            .expect("the configuration can be written");
        let process = Process::start(&options, dir.path()).await;
        let api = process.api(dir.path()).await;
        Self { options, process, api, dir }
    }

    /// Where the node listens now.
    pub fn addresses(&self) -> Addresses {
        self.process.addresses
    }

    /// The REST API as the first account.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The node's data directory.
    pub fn data_dir(&self) -> PathBuf {
        data_dir(self.dir.path())
    }

    /// Deploys a worker through the REST API.
    ///
    /// # Panics
    /// Panics when the node refuses it.
    pub async fn deploy(&self, worker: &str, script: &Script) {
        if let Err(error) = self.api.upload(worker, script).await {
            panic!("the upload of {worker} is refused: {error}");
        }
    }

    /// A GET of one of the first account's workers over HTTP/1.1, to be changed and sent.
    pub fn request(&self, worker: &str, path: &str) -> Request {
        self.request_to_host(&format!("{worker}.demo.localhost"), path)
    }

    /// A GET with any Host header.
    pub fn request_to_host(&self, host: &str, path: &str) -> Request {
        Request::new(self.process.addresses, host, path)
    }

    /// The body of a GET that must succeed.
    ///
    /// # Panics
    /// Panics when the answer is not 200.
    pub async fn text(&self, worker: &str, path: &str) -> String {
        let reply = self.request(worker, path).send().await.expect("the node answers");
        assert_eq!(reply.status, 200, "{worker}{path}: {}", reply.text());
        reply.text()
    }

    /// Ends the process at once, as a crash does.
    pub fn kill9(&mut self) {
        self.process.end();
    }

    /// Starts the node again on its data directory, with new ports.
    pub async fn restart(&mut self) {
        self.process.end();
        self.process = Process::start(&self.options, self.dir.path()).await;
        self.api = self.process.api(self.dir.path()).await;
    }

    /// Asks the node to drain (SIGTERM), without waiting.
    pub fn terminate(&self) {
        let id = self.process.child.id().to_string();
        let status = Command::new("sh").arg("-c").arg(format!("kill -TERM {id}")).status();
        assert!(status.is_ok_and(|status| status.success()), "cannot signal process {id}");
    }

    /// Waits for the process to end by itself.
    pub async fn exit_status(&mut self) -> ExitStatus {
        let child = &mut self.process.child;
        eventually("the node ends by itself", async || {
            child.try_wait().expect("a child can be waited for")
        })
        .await
    }

    /// Drains the node: SIGTERM, then the status that it ends with.
    pub async fn drain(&mut self) -> ExitStatus {
        self.terminate();
        self.exit_status().await
    }

    /// Resident memory of the node and the processes that it started, in bytes.
    pub fn memory_rss_bytes(&self) -> u64 {
        process_tree(self.process.child.id()).into_iter().map(resident_bytes).sum()
    }

    /// What the node has written so far.
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// Prints the end of what the node has written.
    pub(crate) fn show_output(&self) {
        self.process.show_output();
    }
}

fn data_dir(dir: &Path) -> PathBuf {
    dir.join("data")
}

/// One process and what it writes.
struct Process {
    child: Child,
    output: Arc<Mutex<String>>,
    addresses: Addresses,
}

impl Process {
    async fn start(options: &NodeOptions, dir: &Path) -> Self {
        let mut command = Command::new(atoll_binary());
        command.arg("serve").arg("--config").arg(dir.join("node.toml"));
        command.arg("--data").arg(data_dir(dir));
        command.args(["--domain", "localhost", "--threads", &options.threads.to_string()]);
        for listener in ["--http", "--https", "--admin"] {
            command.args([listener, "127.0.0.1:0"]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the node's binary can be started");
        let output = Arc::default();
        collect(child.stdout.take().expect("stdout is piped"), Arc::clone(&output));
        collect(child.stderr.take().expect("stderr is piped"), Arc::clone(&output));
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let addresses = Addresses { http: unknown, https: unknown, admin: unknown };
        let mut process = Self { child, output, addresses };
        process.await_ready().await;
        process
    }

    /// Waits for the line that names the addresses, and for readiness. A node that ends before is
    /// a failure at once.
    async fn await_ready(&mut self) {
        self.addresses = eventually("the node names its addresses", async || {
            let found = self.output().lines().find_map(listening);
            if found.is_none() {
                let ended = self.child.try_wait().expect("a child can be waited for");
                assert!(ended.is_none(), "the node ended at its start: {ended:?}");
            }
            found
        })
        .await;
        let request = Request::new(self.addresses, "localhost", "/readyz").over(Protocol::Admin);
        eventually("the node is ready", async || {
            request.clone().send().await.ok().filter(|reply| reply.status == 200)
        })
        .await;
    }

    async fn api(&self, dir: &Path) -> Api {
        let token = std::fs::read_to_string(data_dir(dir).join("root.token"))
            .expect("the first start writes the API token");
        Api::connect(self.addresses, token.trim()).await
    }

    fn output(&self) -> String {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn show_output(&self) {
        let output = self.output();
        let from = output.len().saturating_sub(OUTPUT_SHOWN_BYTES);
        let from = (from..=output.len()).find(|&at| output.is_char_boundary(at)).unwrap_or(0);
        eprintln!("--- the node wrote ---\n{}--- end of the node's output ---", &output[from..]);
    }

    fn end(&mut self) {
        // Both fail only when the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            self.show_output();
        }
    }
}

fn collect(pipe: impl Read + Send + 'static, output: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
            output.push_str(&line);
            output.push('\n');
        }
    });
}

fn listening(line: &str) -> Option<Addresses> {
    let (_, fields) = line.split_once("listening ")?;
    let field = |name: &str| {
        let value = fields.split_whitespace().find_map(|field| field.strip_prefix(name))?;
        value.parse().ok()
    };
    Some(Addresses { http: field("http=")?, https: field("https=")?, admin: field("admin=")? })
}

/// The process and everything below it.
fn process_tree(root: u32) -> Vec<u32> {
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(&id) = tree.get(next) {
        let tasks = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let children = std::fs::read_to_string(task.path().join("children"));
            tree.extend(
                children
                    .unwrap_or_default()
                    .split_whitespace()
                    .filter_map(|id| id.parse::<u32>().ok()),
            );
        }
        next += 1;
    }
    tree
}

fn resident_bytes(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}
