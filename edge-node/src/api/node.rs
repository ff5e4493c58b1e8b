//! What the node says of itself to a client: where its workers answer.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use serde_json::json;

use super::ApiState;
use super::envelope::{Answer, Envelope};

/// Where the node's workers answer.
#[derive(Clone, Copy, Debug)]
pub struct NodeInfo {
    /// Over plain HTTP.
    pub http: SocketAddr,
    /// Over TLS.
    pub https: SocketAddr,
}

pub(super) fn routes() -> Router<ApiState> {
    Router::new().route("/accounts/{account}/atoll/node", get(node))
}

async fn node(State(state): State<ApiState>) -> Answer {
    Envelope::new(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "domain": state.config.domain,
        "http": state.config.node.http,
        "https": state.config.node.https,
        "processes": state.config.health.processes(),
    }))
}
