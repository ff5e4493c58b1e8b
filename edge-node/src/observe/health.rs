//! `/healthz`, `/readyz` and `/metrics` on the admin listener. They need no token: load balancers
//! and scrapers have none, and the answers name no secret.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::sync::watch;

use super::Metrics;

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The gauges that `/healthz` shows.
const FIGURES: [&str; 4] =
    ["isolates_live", "isolates_fit", "isolate_memory_bytes", "isolate_memory_bytes_max"];

/// Where a node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// The registry is opening, or a listener is not bound yet.
    Starting,
    /// It takes requests.
    Ready,
    /// It finishes what it accepted and takes nothing new.
    Draining,
}

/// Where a serving process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessState {
    /// It does not take requests yet.
    Starting,
    /// It takes requests.
    Ready,
    /// It is gone and will be started again.
    Down,
}

/// What the node says of one of its serving processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessStatus {
    /// Its process id; none while it is down.
    pub pid: Option<u32>,
    /// Where it is in its life.
    pub state: ProcessState,
    /// What confines it, once it has said so.
    pub sandbox: Option<String>,
    /// How often it was started again.
    pub restarts: u64,
}

impl Default for ProcessStatus {
    fn default() -> Self {
        Self { pid: None, state: ProcessState::Starting, sandbox: None, restarts: 0 }
    }
}

/// The node's state, shared by those who change it and those who ask.
#[derive(Clone)]
pub struct Health {
    state: watch::Sender<NodeState>,
    /// Empty when the node serves in its own process.
    processes: Arc<Mutex<Vec<ProcessStatus>>>,
    cluster: Arc<OnceLock<ClusterView>>,
    certificates: Arc<OnceLock<Lines>>,
}

/// Lines that are written when they are asked for.
type Lines = Box<dyn Fn() -> String + Send + Sync>;

/// How a cluster's node stands.
struct ClusterView {
    why_not_ready: Box<dyn Fn() -> Option<String> + Send + Sync>,
    lines: Lines,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            state: watch::Sender::new(NodeState::Starting),
            processes: Arc::default(),
            cluster: Arc::default(),
            certificates: Arc::default(),
        }
    }
}

impl Health {
    /// The current state.
    pub fn state(&self) -> NodeState {
        *self.state.borrow()
    }

    /// Says that every listener is bound. A node that drains stays draining.
    pub fn ready(&self) {
        self.state.send_if_modified(|state| {
            let starting = *state == NodeState::Starting;
            if starting {
                *state = NodeState::Ready;
            }
            starting
        });
    }

    /// Says that the node takes no new work.
    pub fn drain(&self) {
        self.state.send_replace(NodeState::Draining);
    }

    /// Has the node be ready only while nothing speaks against it, and shows how it stands to its cluster. It is
    /// called once.
    pub fn follow_cluster(
        &self,
        why_not_ready: impl Fn() -> Option<String> + Send + Sync + 'static,
        lines: impl Fn() -> String + Send + Sync + 'static,
    ) {
        let view = ClusterView { why_not_ready: Box::new(why_not_ready), lines: Box::new(lines) };
        let _ = self.cluster.set(view);
    }

    /// Has the health page say how certificates stand. It is called once.
    pub fn follow_certificates(&self, lines: impl Fn() -> String + Send + Sync + 'static) {
        let _ = self.certificates.set(Box::new(lines));
    }

    fn certificate_lines(&self) -> String {
        self.certificates.get().map(|lines| lines()).unwrap_or_default()
    }

    fn why_not_ready(&self) -> Option<String> {
        self.cluster.get().and_then(|cluster| (cluster.why_not_ready)())
    }

    fn cluster_lines(&self) -> String {
        self.cluster.get().map(|cluster| (cluster.lines)()).unwrap_or_default()
    }

    /// The serving processes.
    pub fn processes(&self) -> Vec<ProcessStatus> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what is said of the serving process at this place.
    pub fn update_process(&self, place: usize, change: impl FnOnce(&mut ProcessStatus)) {
        let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        if processes.len() <= place {
            processes.resize_with(place + 1, ProcessStatus::default);
        }
        change(&mut processes[place]);
    }
}

/// The three endpoints.
pub fn health_routes(health: Health, metrics: Arc<Metrics>) -> Router {
    let (alive, counted) = (health.clone(), metrics.clone());
    Router::new()
        .route(
            "/healthz",
            get(move || async move {
                let cluster = alive.cluster_lines();
                let (listed, figures) = (listed(&alive.processes()), figures(&counted));
                format!("ok\n{listed}{cluster}{figures}{}", alive.certificate_lines())
            }),
        )
        .route("/readyz", get(move || async move { ready(&health) }))
        .route("/metrics", get(move || async move { render(&metrics) }))
}

fn ready(health: &Health) -> (StatusCode, String) {
    let processes = health.processes();
    let serves = |process: &ProcessStatus| process.state == ProcessState::Ready;
    let (status, word) = match health.state() {
        NodeState::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting".to_owned()),
        NodeState::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining".to_owned()),
        NodeState::Ready if processes.is_empty() || processes.iter().any(serves) => {
            match health.why_not_ready() {
                None => (StatusCode::OK, "ready".to_owned()),
                Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not current: {why}")),
            }
        }
        NodeState::Ready => (StatusCode::SERVICE_UNAVAILABLE, "restarting".to_owned()),
    };
    (status, format!("{word}\n{}", listed(&processes)))
}

/// One line for each serving process.
fn listed(processes: &[ProcessStatus]) -> String {
    let mut text = String::new();
    for (place, process) in processes.iter().enumerate() {
        let pid = process.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let state = match process.state {
            ProcessState::Starting => "starting",
            ProcessState::Ready => "ready",
            ProcessState::Down => "down",
        };
        let sandbox = process.sandbox.as_deref().unwrap_or("-");
        let restarts = process.restarts;
        let _ = writeln!(
            text,
            "process {place}: pid={pid} state={state} restarts={restarts} sandbox={sandbox}"
        );
    }
    text
}

/// One line for each gauge that says how full the node is, over all processes.
fn figures(metrics: &Metrics) -> String {
    let gauges = metrics.gauges();
    let shown = FIGURES.iter().filter_map(|name| Some((name, gauges.get(*name)?.1)));
    shown.map(|(name, value)| format!("{name}: {value}\n")).collect()
}

fn render(metrics: &Arc<Metrics>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], metrics.render()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draining_node_never_becomes_ready_again() {
        let health = Health::default();
        assert_eq!(health.state(), NodeState::Starting);
        health.ready();
        assert_eq!(health.state(), NodeState::Ready);
        health.drain();
        health.ready();
        assert_eq!(health.state(), NodeState::Draining);
    }

    #[test]
    fn health_says_how_full_the_node_is() {
        let metrics = Metrics::default();
        metrics.add_gauge("isolates_live", "Live", || 7);
        metrics.add_gauge("isolates_fit", "Fit", || 4_000);
        assert_eq!(figures(&metrics), "isolates_live: 7\nisolates_fit: 4000\n");
    }

    #[test]
    fn a_node_is_ready_while_one_process_serves() {
        let health = Health::default();
        health.ready();
        assert_eq!(ready(&health), (StatusCode::OK, "ready\n".to_owned()));
        let check = |place, state, expected| {
            health.update_process(place, |process| {
                *process = ProcessStatus { pid: Some(7), state, ..ProcessStatus::default() };
            });
            assert_eq!(ready(&health).0, expected);
        };
        check(1, ProcessState::Starting, StatusCode::SERVICE_UNAVAILABLE);
        check(0, ProcessState::Ready, StatusCode::OK);
        check(1, ProcessState::Ready, StatusCode::OK);
        check(0, ProcessState::Down, StatusCode::OK);
        check(1, ProcessState::Down, StatusCode::SERVICE_UNAVAILABLE);
        assert!(ready(&health).1.contains("process 1: pid=7 state=down restarts=0 sandbox=-\n"));
    }
}
