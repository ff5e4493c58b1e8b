//! Starts the servers and nodes of a cluster on this machine, says what to open, and ends them in their order.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;

use super::super::client::Client;
use super::super::error::CliError;
use super::super::session::Session;
use super::super::stop;
use super::child::{Kept, Life, Wanted, keep};
use super::plan::{Node, Plan};
use super::{ClusterDevArgs, DATA_DIR, program};
use crate::registry::ROOT_TOKEN_FILE;

/// How long servers and nodes may take until all are ready.
const START_MAX: Duration = Duration::from_secs(120);
/// The pause between two looks at what starts.
const POLL: Duration = Duration::from_millis(100);
/// How often a child may end before all are ready, until that is given up.
const DEATHS_MAX: u32 = 3;

pub(crate) async fn run(session: &Session, args: ClusterDevArgs) -> Result<(), CliError> {
    let program = program::find(session, args.nats_server.as_deref()).await?;
    let plan = Plan::make(&args)?;
    let mut cluster = Running::start(session, &plan, &program);
    let asked = stop::asked();
    tokio::pin!(asked);
    let outcome = tokio::select! {
        ready = cluster.ready(session, &plan) => ready,
        () = &mut asked => Err(CliError::Failed("stopped before all nodes were ready".into())),
    };
    let outcome = match outcome {
        Ok(()) => {
            show(session, &plan, &args.data, &cluster);
            asked.await;
            Ok(())
        }
        Err(error) => Err(error),
    };
    session.terminal.note("stopping the nodes, then the servers; Ctrl-C again kills them");
    cluster.stop().await.map_err(|error| CliError::Failed(error.to_string()))?;
    outcome
}

/// A group of children that begin and end together.
struct Group {
    wanted: watch::Sender<Wanted>,
    children: Vec<(String, watch::Receiver<Life>)>,
    keepers: Vec<JoinHandle<()>>,
}

/// A cluster that runs.
struct Running {
    servers: Group,
    nodes: Group,
}

impl Group {
    fn start(session: &Session, children: impl Iterator<Item = Kept>) -> Self {
        let wanted = watch::Sender::new(Wanted::Running);
        let (mut known, mut keepers) = (Vec::new(), Vec::new());
        for kept in children {
            let life = watch::Sender::new(Life::default());
            known.push((kept.name.clone(), life.subscribe()));
            keepers.push(tokio::spawn(keep(session.terminal, kept, life, wanted.subscribe())));
        }
        Self { wanted, children: known, keepers }
    }

    /// Fails when a child ends again and again.
    async fn fails(&self) -> CliError {
        loop {
            let failing = self.children.iter().find(|(_, life)| life.borrow().deaths >= DEATHS_MAX);
            if let Some((name, _)) = failing {
                return CliError::Failed(format!("{name} does not start, see above"));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Ends the children; kills them when `kill` comes first.
    async fn stop(
        &mut self,
        kill: &mut (impl Future<Output = ()> + Unpin),
    ) -> Result<(), JoinError> {
        self.wanted.send_replace(Wanted::Stopped);
        let mut killed = false;
        for keeper in &mut self.keepers {
            if !killed {
                tokio::select! {
                    ended = &mut *keeper => {
                        ended?;
                        continue;
                    }
                    () = &mut *kill => killed = true,
                }
                self.wanted.send_replace(Wanted::Killed);
            }
            keeper.await?;
        }
        Ok(())
    }
}

impl Running {
    /// Starts everything: nodes wait for servers by themselves, and for the one that begins the cluster.
    fn start(session: &Session, plan: &Plan, program: &Path) -> Self {
        let servers = plan.servers.iter().enumerate().map(|(number, server)| Kept {
            name: server.name.clone(),
            color: plan.nodes.len() + number,
            program: Some(program.to_owned()),
            arguments: vec!["-c".into(), server.config.clone().into()],
            log: Some(server.log.clone()),
        });
        let nodes = plan.nodes.iter().enumerate().map(|(number, node)| Kept {
            name: node.name.clone(),
            color: number,
            program: None,
            arguments: vec!["serve".into(), "--config".into(), node.config.clone().into()],
            log: None,
        });
        Self { servers: Group::start(session, servers), nodes: Group::start(session, nodes) }
    }

    /// Waits until every node says that it is ready.
    async fn ready(&self, session: &Session, plan: &Plan) -> Result<(), CliError> {
        let count = plan.nodes.len();
        // No spinner: the nodes' lines would come between.
        session.terminal.note(format!(
            "starting {} NATS server(s) and {count} node(s) in {}",
            plan.servers.len(),
            plan.dir.display()
        ));
        let ready = async {
            for server in &plan.servers {
                while TcpStream::connect(server.client).await.is_err() {
                    tokio::time::sleep(POLL).await;
                }
            }
            while ready_nodes(&plan.nodes[0]).await < count {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::select! {
            in_time = timeout(START_MAX, ready) => in_time.map_err(|_| {
                let s = START_MAX.as_secs();
                CliError::Failed(format!("not all nodes are ready after {s} s, see above"))
            }),
            error = self.servers.fails() => Err(error),
            error = self.nodes.fails() => Err(error),
        }
    }

    /// Ends the nodes, which need the servers for that, and then the servers.
    async fn stop(&mut self) -> Result<(), JoinError> {
        let kill = stop::asked();
        tokio::pin!(kill);
        self.nodes.stop(&mut kill).await?;
        self.servers.stop(&mut kill).await
    }
}

/// How many nodes of its cluster a node knows to be ready.
async fn ready_nodes(node: &Node) -> usize {
    let Ok(token) = std::fs::read_to_string(node.data_dir.join(ROOT_TOKEN_FILE)) else { return 0 };
    let client = Client::new(&format!("http://{}", node.admin), token.trim());
    let Ok(answer) = client.get::<Value>("/nodes").await else { return 0 };
    let nodes = answer["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    nodes.iter().filter(|node| node["ready"] == true).count()
}

fn show(session: &Session, plan: &Plan, data: &Path, cluster: &Running) {
    let terminal = session.terminal;
    let pids = |group: &Group| -> Vec<u32> {
        group.children.iter().map(|(_, life)| life.borrow().pid.unwrap_or(0)).collect()
    };
    let pids_of_nodes = pids(&cluster.nodes);
    if terminal.json {
        let node = |(node, pid): (&Node, &u32)| {
            json!({
                "name": node.name,
                "region": node.region,
                "http": node.http,
                "https": node.https,
                "admin": node.admin,
                "data_dir": node.data_dir,
                "pid": pid,
            })
        };
        let nodes: Vec<Value> = plan.nodes.iter().zip(&pids_of_nodes).map(node).collect();
        let server = |(server, pid): (&super::plan::Server, u32)| json!({ "name": server.name, "listen": server.client, "pid": pid });
        let servers: Vec<Value> =
            plan.servers.iter().zip(pids(&cluster.servers)).map(server).collect();
        terminal.json(&json!({ "nodes": nodes, "servers": servers }));
        return;
    }
    let row = |(node, pid): (&Node, &u32)| {
        let worker = format!("http://<worker>.demo.localhost:{}", node.http.port());
        let secure = format!("https://<worker>.demo.localhost:{}", node.https.port());
        let api = format!("http://{}", node.admin);
        vec![node.name.clone(), node.region.clone(), worker, secure, api, pid.to_string()]
    };
    let rows = plan.nodes.iter().zip(&pids_of_nodes).map(row).collect();
    let headings = ["node", "region", "workers", "or", "API", "process"];
    terminal.table(&headings, rows);
    terminal.line("\nin another terminal:");
    if data != Path::new(DATA_DIR) {
        let node = &plan.nodes[0];
        let token = node.data_dir.join(ROOT_TOKEN_FILE);
        terminal.line(format!("  export ATOLL_API_URL=http://{}", node.admin));
        terminal.line(format!("  export ATOLL_API_TOKEN=$(cat {})", token.display()));
    }
    let last = plan.nodes.last().map_or("", |node| &node.name);
    let pid = pids_of_nodes.last().copied().unwrap_or(0);
    for (command, what) in [
        ("atoll init my-worker".to_owned(), "a project".to_owned()),
        ("atoll deploy my-worker".to_owned(), "to all nodes".to_owned()),
        ("atoll nodes".to_owned(), "who is there".to_owned()),
        (format!("kill -9 {pid}"), format!("ends {last}; it comes back")),
    ] {
        terminal.line(format!("  {command:<24}{}", terminal.dim(&what)));
    }
    terminal.line(format!("\nstate in {}; Ctrl-C stops everything", data.display()));
}
