//! Three nodes far from each other, and a record of what their workers did.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_kv::contract::nats::NatsServers;
use atoll_tests::{
    Answer, FaultProxy, Link, Namespace, Node, NodeOptions, Origin, Request, Script, eventually,
    free_port,
};
use http::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;

pub(crate) const EU: &str = "eu";
pub(crate) const US: &str = "us";
pub(crate) const ASIA: &str = "asia";

/// The regions, each with the time that the way to its node takes in one direction.
const REGIONS: [(&str, Duration); 3] = [
    (EU, Duration::from_millis(20)),
    (US, Duration::from_millis(5)),
    (ASIA, Duration::from_millis(10)),
];

/// Records, echoes, streams, or tells what it sees.
const WORKER: &str = r#"
export default {
  async fetch(request, env) {
    const url = new URL(request.url);
    const record = (what) => fetch(new URL(what, env.RECORD)).then((r) => r.text());
    if (url.pathname === "/echo") return new Response(request.body);
    if (url.pathname === "/endless") {
      const chunk = new Uint8Array(1 << 20);
      let n = 0;
      const body = new ReadableStream({
        async pull(controller) {
          await record(`/chunk/${n++}`);
          controller.enqueue(chunk);
        },
      }, { highWaterMark: 0 });
      return new Response(body);
    }
    const id = url.searchParams.get("id");
    if (id) await record(`/done/${id}`);
    const wait = Number(url.searchParams.get("wait") ?? 0);
    if (wait > 0) await scheduler.wait(wait);
    const headers = Object.fromEntries(request.headers);
    return Response.json({ url: request.url, cf: request.cf, headers, text: await request.text() });
  },
};
"#;

/// The cluster, and the ways between its nodes.
pub(crate) struct World<Ways = Vec<FaultProxy>> {
    pub(crate) nodes: Vec<Node>,
    pub(super) ways: Ways,
    pub(super) record: Record,
    pub(super) _servers: NatsServers,
}

/// What workers did. Some servers write it down, which all nodes reach at the same URL.
#[derive(Default)]
pub(crate) struct Record {
    servers: Vec<Origin>,
    done: Arc<Mutex<Vec<String>>>,
}

impl Record {
    /// Writes down what comes to this socket as well.
    pub(super) fn listen(&mut self, listener: std::net::TcpListener) {
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let done = self.done.clone();
        self.servers.push(Origin::on(listener, move |head| {
            let path = head.split(' ').nth(1).unwrap_or_default();
            done.lock().unwrap().push(path.to_owned());
            Answer::Whole(
                "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".into(),
            )
        }));
    }
}

pub(super) fn place(region: &str) -> usize {
    REGIONS.iter().position(|(name, _)| *name == region).unwrap()
}

impl World {
    pub(crate) async fn start() -> Self {
        let servers = NatsServers::start(1);
        let mut record = Record::default();
        record.listen(std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let (mut nodes, mut ways) = (Vec::new(), Vec::new());
        for (region, delay) in REGIONS {
            let listens = free_port();
            let way = FaultProxy::start(listens).await;
            way.set(Link::Slow(delay));
            let config = config(&servers, region, listens, way.address());
            join(&mut nodes, config, None).await;
            ways.push(way);
        }
        Self { nodes, ways, record, _servers: servers }
    }

    /// Changes the way to a region's node.
    pub(crate) fn link(&self, region: &str, link: Link) {
        self.ways[place(region)].set(link);
    }

    /// The way as it usually is.
    pub(crate) fn heal(&self, region: &str) {
        self.link(region, Link::Slow(REGIONS[place(region)].1));
    }
}

impl<Ways> World<Ways> {
    pub(crate) fn node(&self, region: &str) -> &Node {
        &self.nodes[place(region)]
    }

    pub(crate) fn node_mut(&mut self, region: &str) -> &mut Node {
        &mut self.nodes[place(region)]
    }

    /// Deploys the worker under a name, with its regions, and waits until all nodes serve it.
    pub(crate) async fn deploy(&self, name: &str, regions: &Value) {
        self.deploy_module(name, WORKER, regions).await;
    }

    /// The same with any worker. It finds the record by `env.RECORD`.
    pub(crate) async fn deploy_module(&self, name: &str, module: &str, regions: &Value) {
        let node = &self.nodes[0];
        let record =
            json!({ "type": "plain_text", "name": "RECORD", "text": self.record.servers[0].url() });
        node.deploy(name, &Script::module(module.to_owned()).bind(record)).await;
        let path = node.api().in_account(&format!("/workers/scripts/{name}/regions"));
        node.api().call(Method::PUT, &path, regions).await.unwrap();
        let told = node.api().call(Method::GET, "/nodes", &Value::Null).await.unwrap();
        let revision = told["revision"].as_u64().unwrap();
        eventually("all nodes serve by it", async || {
            let told = node.api().call(Method::GET, "/nodes", &Value::Null).await.ok()?;
            let nodes = told["nodes"].as_array()?;
            let all = nodes.iter().all(|node| node["revision"].as_u64() >= Some(revision));
            (nodes.len() == REGIONS.len() && all).then_some(())
        })
        .await;
    }

    /// Waits until every node has measured the ways to the others, and its serving process was told.
    pub(crate) async fn all_know_each_other(&self) {
        for node in &self.nodes {
            eventually("all are reached", async || {
                let told = node.api().call(Method::GET, "/nodes", &Value::Null).await.ok()?;
                let others = told["nodes"].as_array()?.iter().filter(|row| row["this"] != true);
                (others.filter(|row| row["rtt_us"].is_u64()).count() == 2).then_some(())
            })
            .await;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }

    /// A GET of a worker on a region's node, that asks who served it.
    pub(crate) fn ask(&self, worker: &str, region: &str) -> Request {
        self.ask_path(worker, region, "/")
    }

    pub(crate) fn ask_path(&self, worker: &str, region: &str, path: &str) -> Request {
        self.node(region).request(worker, path).header("atoll-explain", "1")
    }

    /// The region that serves a GET; the whole answer where none does.
    pub(crate) async fn served(&self, worker: &str, region: &str) -> String {
        let answer = self.ask(worker, region).send().await.unwrap();
        let decision = answer.header("atoll-decision");
        let served = decision.split("served=").nth(1).and_then(|rest| rest.split('"').nth(3));
        served.map_or_else(|| format!("{decision} {}", answer.text()), str::to_owned)
    }

    /// What workers have recorded.
    pub(crate) fn recorded(&self) -> Vec<String> {
        self.record.done.lock().unwrap().clone()
    }
}

/// Starts one more node of the cluster.
pub(super) async fn join(nodes: &mut Vec<Node>, config: String, namespace: Option<Namespace>) {
    let key = nodes.first().map(|first| std::fs::read(first.data_dir().join("node.key")).unwrap());
    let options = NodeOptions { threads: 1, processes: Some(1), config, key, namespace };
    nodes.push(Node::start(options).await);
}

pub(super) fn config(
    servers: &NatsServers,
    region: &str,
    listens: SocketAddr,
    reached: SocketAddr,
) -> String {
    let place = match region {
        US => "[[geo.networks]]\ncidr = \"127.0.0.0/8\"\ncountry = \"JP\"\ncity = \"Kyoto\"\n",
        _ => "",
    };
    format!(
        "[cluster]\nnats = [{:?}]\nname = \"node-{region}\"\nregion = {region:?}\nshards = 1\n\
         peer = \"{listens}\"\nadvertise_peer = \"{reached}\"\nexplain = true\n\
         [outbound]\nallow = [\"127.0.0.0/8\"]\n{place}",
        servers.url(0)
    )
}
