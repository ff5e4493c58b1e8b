//! A node under test: the real binary on free ports with a data directory of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use tempfile::TempDir;
use tokio::net::TcpSocket;

use crate::Failure;
use crate::api::Api;
use crate::binary::atoll_binary;
use crate::captured::{Captured, send_signal};
use crate::client::{Protocol, Request};
use crate::clock::{WAIT_MAX, eventually};
use crate::metrics::Metrics;
use crate::netns::Namespace;
use crate::process::Process;
use crate::project::CommandOutput;
use crate::script::Script;

/// How a node is started.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Threads that run workers.
    pub threads: usize,
    /// Serving processes that share them; as many as the node chooses when absent.
    pub processes: Option<usize>,
    /// The configuration file's text, in TOML; the harness sets the addresses by flags.
    pub config: String,
    /// The file `node.key`, for a node of a cluster that has one.
    pub key: Option<Vec<u8>>,
    /// The network in which the node runs; the test's own when absent.
    pub namespace: Option<Namespace>,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self { threads: 2, processes: None, config: String::new(), key: None, namespace: None }
    }
}

impl NodeOptions {
    /// Options with a configuration file.
    pub fn with_config(config: &str) -> Self {
        Self { config: config.to_owned(), ..Self::default() }
    }
}

/// Where a node listens.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Plain HTTP/1.1 and HTTP/2.
    pub http: SocketAddr,
    /// The same over TLS.
    pub https: SocketAddr,
    /// The REST API, metrics and health.
    pub admin: SocketAddr,
    /// The network in which they are, when it is not the test's own.
    pub namespace: Option<Namespace>,
}

impl Addresses {
    /// A socket in the network in which they are.
    pub(crate) fn socket(&self) -> std::io::Result<TcpSocket> {
        match &self.namespace {
            None => TcpSocket::new_v4(),
            Some(namespace) => namespace.within(TcpSocket::new_v4),
        }
    }
}

/// A serving process, as the node's health page has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServingProcess {
    /// Its id while it lives.
    pub pid: Option<u32>,
    /// `starting`, `ready` or `down`.
    pub state: String,
}

/// A running node. Dropping it kills the process; a failing test shows what the node wrote.
pub struct Node {
    options: NodeOptions,
    child: Child,
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
        let dir = prepared(&options);
        let child = Child::start(&options, dir.path(), None).await;
        child.ready().await;
        let api = child.api(dir.path()).await;
        Self { options, child, api, dir }
    }

    /// Where the node listens now.
    pub fn addresses(&self) -> Addresses {
        self.child.addresses.clone()
    }

    /// The REST API as the first account.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The node's data directory.
    pub fn data_dir(&self) -> PathBuf {
        data_dir(self.dir.path())
    }

    /// Deploys a worker through the REST API, to be reached at its subdomain.
    ///
    /// # Panics
    /// Panics when the node refuses it.
    pub async fn deploy(&self, worker: &str, script: &Script) {
        if let Err(error) = self.api.upload(worker, script).await {
            panic!("the upload of {worker} is refused: {error}");
        }
        if let Err(error) = self.api.enable_subdomain(worker).await {
            panic!("the subdomain of {worker} is refused: {error}");
        }
    }

    /// A GET of one of the first account's workers over HTTP/1.1, to be changed and sent.
    pub fn request(&self, worker: &str, path: &str) -> Request {
        self.request_to_host(&format!("{worker}.demo.localhost"), path)
    }

    /// A GET with any Host header.
    pub fn request_to_host(&self, host: &str, path: &str) -> Request {
        Request::new(self.addresses(), host, path)
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

    /// Starts a node that must refuse to run; answers what it wrote.
    ///
    /// # Panics
    /// Panics when it runs.
    pub async fn refused(options: NodeOptions) -> String {
        let dir = prepared(&options);
        let mut captured = Captured::spawn(&mut command(&options, dir.path(), None));
        // The first start in a cluster waits for its servers.
        let status = captured.exit_status_within(2 * WAIT_MAX).await;
        assert!(!status.success(), "the node runs");
        captured.output()
    }

    /// Runs `atoll COMMAND...` as the first account.
    ///
    /// # Panics
    /// Panics when the binary cannot be started, or does not end.
    pub async fn atoll(&self, arguments: &[&str]) -> CommandOutput {
        crate::project::run(&self.api, arguments.iter().map(AsRef::as_ref)).await
    }

    /// Sends a signal to the node's first process.
    pub fn signal(&self, name: &str) {
        self.child.captured.signal(name);
    }

    /// Sends a signal (`STOP`, `CONT`) to all of the node's processes.
    pub fn signal_all(&self, name: &str) {
        for process in self.processes() {
            process.signal(name);
        }
    }

    /// Forgets all that an ended node kept but its key: what starts next is another node with its name.
    ///
    /// # Panics
    /// Panics when the files cannot be removed.
    pub fn wipe(&self) {
        let key = self.data_dir().join("node.key");
        let kept = std::fs::read(&key).expect("the node has a key");
        std::fs::remove_dir_all(self.data_dir()).expect("the data can be removed");
        std::fs::create_dir(self.data_dir()).expect("a directory can be made");
        std::fs::write(key, kept).expect("it is writable");
    }

    /// Ends the process at once, as a crash does.
    pub fn kill9(&mut self) {
        self.child.captured.kill();
    }

    /// Starts the node again on its data directory, with new ports.
    pub async fn restart(&mut self) {
        self.restart_unready().await;
        self.child.ready().await;
    }

    /// Starts the node again on its data directory, with new ports, and waits until it answers: it may have
    /// reasons not to be ready.
    pub async fn restart_unready(&mut self) {
        self.child.captured.kill();
        self.child = Child::start(&self.options, self.dir.path(), None).await;
        self.api = self.child.api(self.dir.path()).await;
    }

    /// Waits until the node says that it is ready.
    pub async fn ready(&self) {
        self.child.ready().await;
    }

    /// What the node says at a path of its admin listener that needs no token, and with which status.
    pub async fn admin_text(&self, path: &str) -> (u16, String) {
        let request = self.request_to_host("localhost", path).over(Protocol::Admin);
        let reply = request.send().await.expect("the node answers");
        (reply.status.as_u16(), reply.text())
    }

    /// Ends the process as a crash does, and starts it again where it listened.
    pub async fn restart_in_place(&mut self) {
        self.restart_in_place_unready().await;
        self.child.ready().await;
    }

    /// Ends the process as a crash does, starts it again where it listened, and waits until it answers.
    pub async fn restart_in_place_unready(&mut self) {
        self.child.captured.kill();
        let addresses = Some(self.addresses());
        self.child = Child::start(&self.options, self.dir.path(), addresses).await;
        self.api = self.child.api(self.dir.path()).await;
    }

    /// Asks the node to drain (SIGTERM), without waiting.
    pub fn terminate(&self) {
        self.child.captured.signal("TERM");
    }

    /// Waits for the process to end by itself.
    pub async fn exit_status(&mut self) -> ExitStatus {
        self.child.captured.exit_status().await
    }

    /// Drains the node: SIGTERM, then the status that it ends with.
    pub async fn drain(&mut self) -> ExitStatus {
        self.terminate();
        self.exit_status().await
    }

    /// What the node has counted so far.
    ///
    /// # Errors
    /// Fails when the node does not answer.
    pub async fn metrics(&self) -> Result<Metrics, Failure> {
        let request = self.request_to_host("localhost", "/metrics").over(Protocol::Admin);
        Ok(Metrics::new(request.send().await?.text()))
    }

    /// The node's process and those that it started, as far as they live.
    pub fn processes(&self) -> Vec<Process> {
        Process::tree(self.child.captured.id())
    }

    /// Resident memory of the node and the processes that it started, in bytes.
    pub fn memory_rss_bytes(&self) -> u64 {
        self.processes().into_iter().map(Process::resident_bytes).sum()
    }

    /// The serving processes, when the node says something of them.
    pub async fn serving_processes(&self) -> Option<Vec<ServingProcess>> {
        let request = self.request_to_host("localhost", "/healthz").over(Protocol::Admin);
        let text = request.send().await.ok()?.text();
        let lines = text.lines().filter(|line| line.starts_with("process "));
        let process = |line: &str| {
            let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name));
            Some(ServingProcess {
                pid: field("pid=")?.parse().ok(),
                state: field("state=")?.to_owned(),
            })
        };
        lines.map(process).collect()
    }

    /// Sends a signal (`KILL`, `SEGV`) to one of the node's processes.
    pub fn kill_process(&self, process: u32, signal: &str) {
        let own = self.processes().into_iter().any(|own| own.id() == process);
        assert!(own, "{process} is no process of the node");
        send_signal(process, signal);
    }

    /// Open descriptors of the node's first process.
    pub fn descriptors(&self) -> usize {
        self.processes().first().map_or(0, |process| process.descriptors())
    }

    /// What the node has written so far.
    pub fn output(&self) -> String {
        self.child.captured.output()
    }

    /// Prints the end of what the node has written.
    pub(crate) fn show_output(&self) {
        self.child.captured.show_output();
    }
}

/// A directory with what the options say.
fn prepared(options: &NodeOptions) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    std::fs::write(dir.path().join("node.toml"), &options.config)
        .expect("the configuration can be written");
    if let Some(key) = &options.key {
        std::fs::create_dir(data_dir(dir.path())).expect("a directory can be made");
        std::fs::write(data_dir(dir.path()).join("node.key"), key).expect("it is writable");
    }
    dir
}

/// The command that starts the binary, on free ports unless the addresses are given.
fn command(options: &NodeOptions, dir: &Path, at: Option<Addresses>) -> Command {
    let mut command = Command::new(atoll_binary());
    command.arg("serve").arg("--config").arg(dir.join("node.toml"));
    command.arg("--data").arg(data_dir(dir));
    command.args(["--domain", "localhost", "--threads", &options.threads.to_string()]);
    if let Some(processes) = options.processes {
        command.args(["--processes", &processes.to_string()]);
    }
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let at = at.map_or([free; 3], |at| [at.http, at.https, at.admin]);
    for (listener, address) in ["--http", "--https", "--admin"].into_iter().zip(at) {
        command.args([listener, &address.to_string()]);
    }
    command
}

fn data_dir(dir: &Path) -> PathBuf {
    dir.join("data")
}

/// The node's process and where it listens.
struct Child {
    captured: Captured,
    addresses: Addresses,
}

impl Child {
    async fn start(options: &NodeOptions, dir: &Path, at: Option<Addresses>) -> Self {
        let mut command = command(options, dir, at);
        let mut captured = match &options.namespace {
            None => Captured::spawn(&mut command),
            Some(namespace) => namespace.within(|| Captured::spawn(&mut command)),
        };
        let named = captured.line("the node names its addresses", listening).await;
        let addresses = Addresses { namespace: options.namespace.clone(), ..named };
        Self { captured, addresses }
    }

    async fn ready(&self) {
        let request =
            Request::new(self.addresses.clone(), "localhost", "/readyz").over(Protocol::Admin);
        eventually("the node is ready", async || {
            request.clone().send().await.ok().filter(|reply| reply.status == 200)
        })
        .await;
    }

    async fn api(&self, dir: &Path) -> Api {
        let token = std::fs::read_to_string(data_dir(dir).join("root.token"))
            .expect("the first start writes the API token");
        Api::connect(self.addresses.clone(), token.trim()).await
    }
}

fn listening(line: &str) -> Option<Addresses> {
    let (_, fields) = line.split_once("listening ")?;
    let field = |name: &str| {
        let value = fields.split_whitespace().find_map(|field| field.strip_prefix(name))?;
        value.parse().ok()
    };
    let [http, https, admin] = [field("http=")?, field("https=")?, field("admin=")?];
    Some(Addresses { http, https, admin, namespace: None })
}
