//! The nodes of the cluster: who is there, and who serves by a change before it is answered.

use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::get;
use serde_json::{Value, json};
use tokio::time::timeout_at;

use super::ApiState;
use super::envelope::{Answer, Envelope};
use crate::cluster::Cluster;

/// How long a change may take to be in use everywhere before it is answered all the same.
const USE_WAIT_MAX: Duration = Duration::from_secs(5);
/// Answers of changes are small; a larger one is passed on as it is.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

pub(super) fn routes() -> Router<ApiState> {
    Router::new().route("/nodes", get(list))
}

async fn list(State(state): State<ApiState>) -> Answer {
    let revision = state.config.registry.snapshot().revision;
    let nodes = match &state.config.cluster {
        Some(cluster) => cluster.peers().rows(&cluster.config().name, Instant::now()),
        None => Vec::new(),
    };
    Envelope::new(json!({
        "clustered": state.config.cluster.is_some(),
        "revision": revision,
        "nodes": nodes,
    }))
}

/// Answers a change once every thread serves by it, on every node that is there: whoever deployed sees it at
/// the next request. In a cluster the answer says which nodes do.
pub(super) async fn await_use(
    State(state): State<ApiState>,
    request: Request,
    next: Next,
) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    let before = state.config.registry.snapshot().revision;
    let response = next.run(request).await;
    let revision = state.config.registry.snapshot().revision;
    let deadline = tokio::time::Instant::now() + USE_WAIT_MAX;
    let mut in_use = state.config.in_use.clone();
    let used = in_use.wait_for(|in_use| *in_use >= revision);
    if timeout_at(deadline, used).await.is_err() {
        tracing::warn!(revision, "a change is not in use everywhere yet");
    }
    match &state.config.cluster {
        Some(cluster) if revision != before && response.status().is_success() => {
            let nodes = await_nodes(cluster, revision, deadline).await;
            with_nodes(response, &nodes).await
        }
        _ => response,
    }
}

/// Waits for the other nodes, and says which of them serve by the revision.
async fn await_nodes(
    cluster: &Cluster,
    revision: u64,
    deadline: tokio::time::Instant,
) -> Vec<Value> {
    let all = timeout_at(deadline, cluster.peers().all_serve(revision)).await;
    let nodes = cluster.peers().serving(revision, Instant::now());
    if all.is_err() {
        let stragglers: Vec<_> =
            nodes.iter().filter(|(_, serves)| !serves).map(|(name, _)| &**name).collect();
        tracing::warn!(revision, ?stragglers, "nodes do not serve by a change yet");
    }
    let node = |(name, serves): (String, bool)| json!({ "name": name, "status": if serves { "ok" } else { "straggler" } });
    nodes.into_iter().map(node).collect()
}

/// Adds the nodes to an answer's envelope, beside what Cloudflare's clients look for.
async fn with_nodes(response: Response, nodes: &[Value]) -> Response {
    let is_json =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    let is_small = response.body().size_hint().upper().is_some_and(|most| most <= ANSWER_BYTES_MAX);
    if !is_json || !is_small {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let Ok(bytes) = to_bytes(body, usize::MAX).await else {
        return Response::from_parts(head, Body::empty());
    };
    let Ok(Value::Object(mut envelope)) = serde_json::from_slice(&bytes) else {
        return Response::from_parts(head, Body::from(bytes));
    };
    envelope.insert("nodes".to_owned(), Value::from(nodes));
    head.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(head, Body::from(Value::Object(envelope).to_string()))
}
