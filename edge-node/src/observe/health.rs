//! `/healthz`, `/readyz` and `/metrics` on the admin listener. They need no token: load balancers
//! and scrapers have none, and the answers name no secret.

use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::watch;

use super::Metrics;

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

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

/// The node's state, shared by those who change it and those who ask.
#[derive(Clone)]
pub struct Health {
    state: watch::Sender<NodeState>,
}

impl Default for Health {
    fn default() -> Self {
        Self { state: watch::Sender::new(NodeState::Starting) }
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
}

/// The three endpoints.
pub fn health_routes(health: Health, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(move || async move { ready(health.state()) }))
        .route("/metrics", get(move || async move { render(&metrics) }))
}

fn ready(state: NodeState) -> (StatusCode, &'static str) {
    match state {
        NodeState::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        NodeState::Ready => (StatusCode::OK, "ready\n"),
        NodeState::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

fn render(metrics: &Metrics) -> Response {
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
}
