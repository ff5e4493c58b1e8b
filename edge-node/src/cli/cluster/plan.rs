//! What a cluster on one machine consists of: folders, ports, and the configuration files of its servers and
//! nodes, which are written anew at each start.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use super::super::error::CliError;
use super::ClusterDevArgs;
use crate::preflight::{Machine, bytes_per_process};
use crate::registry::{make_key, private_file};

/// The user that nodes and servers are to the servers.
const USER: &str = "atoll";
/// The file of the user's password.
const PASSWORD_FILE: &str = "nats.password";
/// The key that all nodes share.
const KEY_FILE: &str = "node.key";
/// What a command holds while it runs the cluster.
const LOCK_FILE: &str = "lock";
/// Where the servers' ports for each other begin.
const ROUTE_PORT: u16 = 6222;
/// Where the nodes' ports for each other begin.
const PEER_PORT: u16 = 9443;
/// Numbers of servers that a cluster can have.
const SERVERS: [u16; 2] = [1, 3];
/// What one isolate may hold, which is the least that a node needs.
const MEMORY_BYTES_MIN: u64 = 128 << 20;

/// A cluster on this machine.
pub(super) struct Plan {
    pub(super) dir: PathBuf,
    pub(super) servers: Vec<Server>,
    pub(super) nodes: Vec<Node>,
    /// Keeps other commands away.
    _lock: File,
}

/// A NATS server of it.
pub(super) struct Server {
    pub(super) name: String,
    pub(super) client: SocketAddr,
    route: SocketAddr,
    pub(super) config: PathBuf,
    pub(super) log: PathBuf,
    store: PathBuf,
}

/// A node of it.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) region: String,
    pub(super) http: SocketAddr,
    pub(super) https: SocketAddr,
    pub(super) admin: SocketAddr,
    peer: SocketAddr,
    pub(super) config: PathBuf,
    pub(super) data_dir: PathBuf,
}

/// What the node of a number is called, from 1.
pub(super) fn node_name(number: u16) -> String {
    format!("node-{number}")
}

fn server_name(number: u16) -> String {
    format!("nats-{number}")
}

impl Plan {
    /// Makes the folder and everything in it that nodes and servers read.
    pub(super) fn make(args: &ClusterDevArgs) -> Result<Self, CliError> {
        let dir = std::path::absolute(&args.data).map_err(CliError::at(&args.data))?;
        private_dir(&dir)?;
        let lock = lock(&dir)?;
        let before = |name: fn(u16) -> String| {
            (1..).take_while(|number| dir.join(name(*number)).is_dir()).count() as u16
        };
        let servers = server_count(args, before(server_name))?;
        let nodes = args.nodes.unwrap_or(match before(node_name) {
            0 => 3,
            before => before.min(super::NODES_MAX),
        });
        let mut ports = Ports::default();
        let servers = (1..=servers).map(|n| Server::plan(&dir, n, args, &mut ports)).collect();
        let nodes = (1..=nodes).map(|n| Node::plan(&dir, n, args, &mut ports)).collect();
        let plan = Self { dir, servers, nodes, _lock: lock };
        plan.write()?;
        Ok(plan)
    }

    fn write(&self) -> Result<(), CliError> {
        let failed = |error: crate::registry::RegistryError| CliError::Failed(error.to_string());
        make_key(&self.dir.join(KEY_FILE)).map_err(failed)?;
        let password = private_file::read_or_create(&self.dir.join(PASSWORD_FILE), || {
            hex::encode(rand::random::<[u8; 16]>()).into_bytes()
        });
        let password = String::from_utf8_lossy(&password.map_err(failed)?).trim().to_owned();
        for server in &self.servers {
            private_dir(&server.store)?;
            write(&server.config, &self.server_config(server, &password))?;
        }
        for node in &self.nodes {
            write(&node.config, &self.node_config(node, &password))?;
        }
        Ok(())
    }

    fn server_config(&self, server: &Server, password: &str) -> String {
        let Server { name, client, route, log, store, .. } = server;
        let user = format!("{{ user: {USER}, password: {} }}", quoted(password));
        let mut text = format!(
            "# Made by `atoll cluster dev`, anew at each start.\n\
             server_name: {name}\n\
             listen: \"{client}\"\n\
             authorization: {user}\n\
             log_file: {}\n\
             logfile_size_limit: 10MB\n\
             logfile_max_num: 2\n\
             jetstream {{ store_dir: {}, sync_interval: always }}\n",
            quoted(&log.to_string_lossy()),
            quoted(&store.to_string_lossy()),
        );
        if self.servers.len() > 1 {
            let routes = self
                .servers
                .iter()
                .map(|other| quoted(&format!("nats-route://{USER}:{password}@{}", other.route)));
            let routes = routes.collect::<Vec<_>>().join(", ");
            text += &format!(
                "cluster {{ name: atoll-dev, listen: \"{route}\", authorization: {user}, routes: [{routes}] }}\n"
            );
        }
        text
    }

    fn node_config(&self, node: &Node, password: &str) -> String {
        let Node { name, region, http, https, admin, peer, data_dir, .. } = node;
        let count = self.nodes.len();
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let share = bytes_per_process(&Machine::read(), count as u64);
        let memory = share.map_or_else(String::new, |bytes| {
            format!("\n[memory]\nprocess_bytes_max = {}\n", bytes.max(MEMORY_BYTES_MIN))
        });
        let url = |server: &Server| format!("nats://{USER}:{password}@{}", server.client);
        let urls: Vec<String> = self.servers.iter().map(url).collect();
        format!(
            "# Made by `atoll cluster dev`, anew at each start.\n\
             data_dir = {}\n\
             http = \"{http}\"\n\
             https = \"{https}\"\n\
             admin = \"{admin}\"\n\
             # The node's share of this machine.\n\
             threads = {}\n\
             processes = 1\n\
             {memory}\n\
             [cluster]\n\
             nats = {urls:?}\n\
             name = \"{name}\"\n\
             region = {}\n\
             replicas = {}\n\
             key_file = {}\n\
             peer = \"{peer}\"\n\
             explain = true\n\
             advertise_http = \"http://{http}\"\n\
             advertise_admin = \"http://{admin}\"\n",
            quoted(&data_dir.to_string_lossy()),
            (cores / count).max(1),
            quoted(region),
            self.servers.len(),
            quoted(&self.dir.join(KEY_FILE).to_string_lossy()),
        )
    }
}

impl Server {
    fn plan(dir: &Path, number: u16, args: &ClusterDevArgs, ports: &mut Ports) -> Self {
        let name = server_name(number);
        Self {
            client: ports.take(args.nats_port, number),
            route: ports.take(beside(args.nats_port, ROUTE_PORT), number),
            config: dir.join(format!("{name}.conf")),
            log: dir.join(format!("{name}.log")),
            store: dir.join(&name),
            name,
        }
    }
}

impl Node {
    fn plan(dir: &Path, number: u16, args: &ClusterDevArgs, ports: &mut Ports) -> Self {
        let name = node_name(number);
        let region = args.regions.iter().cycle().nth(usize::from(number) - 1);
        Self {
            region: region.cloned().unwrap_or_else(|| "default".to_owned()),
            http: ports.take(args.port, number),
            https: ports.take(args.https_port, number),
            admin: ports.take(args.admin_port, number),
            peer: ports.take(beside(args.admin_port, PEER_PORT), number),
            config: dir.join(format!("{name}.toml")),
            data_dir: dir.join(&name),
            name,
        }
    }
}

/// Where a row of ports begins that nobody chooses: anywhere, as the row beside it does.
fn beside(other: u16, first: u16) -> u16 {
    if other == 0 { 0 } else { first }
}

/// Ports that are free now. They are held until all are chosen, so that none is chosen twice.
#[derive(Default)]
struct Ports(Vec<TcpListener>);

impl Ports {
    /// The port of a number in a row that begins at `first`, or another where that is taken; any where the row
    /// begins at 0.
    fn take(&mut self, first: u16, number: u16) -> SocketAddr {
        let wanted = if first == 0 { 0 } else { first.saturating_add(number - 1) };
        let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let listener = bind(wanted).or_else(|_| bind(0));
        let found = listener.ok().and_then(|listener| {
            let address = listener.local_addr().ok()?;
            self.0.push(listener);
            Some(address)
        });
        // Whoever listens there says what is wrong.
        found.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, wanted)))
    }
}

/// How many servers there are to be: their files say for how many each record was kept.
fn server_count(args: &ClusterDevArgs, before: u16) -> Result<u16, CliError> {
    let asked = args.servers.as_deref().and_then(|text| text.parse().ok());
    match (asked, before) {
        (None, 0) => Ok(SERVERS[0]),
        (Some(asked), 0) => Ok(asked),
        (None, before) => Ok(before),
        (Some(asked), before) if asked == before => Ok(asked),
        (Some(_), before) => Err(CliError::Usage(format!(
            "the cluster in {} has {before} NATS server(s): leave out --servers, or begin another with --data",
            args.data.display()
        ))),
    }
}

fn private_dir(dir: &Path) -> Result<(), CliError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(CliError::at(dir))
}

fn lock(dir: &Path) -> Result<File, CliError> {
    let path = dir.join(LOCK_FILE);
    let file = File::create(&path).map_err(CliError::at(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::Error(error)) => Err(CliError::at(&path)(error)),
        Err(std::fs::TryLockError::WouldBlock) => Err(CliError::Failed(format!(
            "the cluster in {} is running: stop it first, or begin another with --data",
            dir.display()
        ))),
    }
}

/// Writes a file that holds a password.
fn write(path: &Path, text: &str) -> Result<(), CliError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = File::options();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(CliError::at(path))
}

/// A text in quotes, as TOML and NATS's configuration read it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::config::NodeConfig;

    fn args(dir: &Path, more: &[&str]) -> ClusterDevArgs {
        let begin = ["atoll", "cluster", "dev", "--port", "0", "--https-port", "0"];
        let ports = ["--admin-port", "0", "--nats-port", "0", "--data"];
        let all = begin.iter().chain(&ports).copied().chain([dir.to_str().unwrap()]);
        let cli = Cli::parse_from(all.chain(more.iter().copied()));
        let Command::Cluster(super::super::ClusterCommand::Dev(args)) = cli.command else {
            panic!("it is this command")
        };
        args
    }

    #[test]
    fn a_plan_is_taken_up_again() {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan::make(&args(dir.path(), &["--servers", "3", "--nodes", "4"])).unwrap();
        assert_eq!((plan.servers.len(), plan.nodes.len()), (3, 4));
        let regions: Vec<_> = plan.nodes.iter().map(|node| node.region.as_str()).collect();
        assert_eq!(regions, ["eu", "us", "asia", "eu"]);
        let second = Plan::make(&args(dir.path(), &[])).err().unwrap().to_string();
        assert!(second.contains("is running"), "{second}");
        for node in &plan.nodes {
            std::fs::create_dir(&node.data_dir).unwrap();
        }
        drop(plan);
        let other = Plan::make(&args(dir.path(), &["--servers", "1"])).err().unwrap().to_string();
        assert!(other.contains("has 3 NATS server(s)"), "{other}");
        let again = Plan::make(&args(dir.path(), &[])).unwrap();
        assert_eq!((again.servers.len(), again.nodes.len()), (3, 4));
    }

    #[test]
    fn nodes_can_read_what_is_written_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan::make(&args(dir.path(), &["--servers", "3"])).unwrap();
        for node in &plan.nodes {
            let config = NodeConfig::read(&node.config).unwrap();
            let cluster = config.cluster.unwrap();
            cluster.check().unwrap();
            assert_eq!((cluster.replicas, cluster.nats.len()), (3, 3));
            assert_eq!((config.http, config.admin), (node.http, node.admin));
        }
    }
}
