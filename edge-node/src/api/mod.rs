//! The REST API under `/client/v4`, in Cloudflare's shapes, for wrangler and Atoll's own command
//! line. It changes the registry and the KV store; it serves no worker's traffic.

mod accounts;
mod auth;
mod bindings;
mod body;
mod certificates;
mod check;
mod content;
mod deployments;
mod envelope;
mod kv;
mod kv_values;
mod node;
mod nodes;
mod pools;
mod regions;
mod routes;
mod rule_results;
mod rules;
mod schedules;
mod scripts;
mod secrets;
mod server;
mod settings;
mod tail_message;
mod tails;
#[cfg(test)]
mod tests;
mod time;
mod upload;
mod versions;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use atoll_kv::KvStore;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

pub use check::{CheckError, CheckReport, ScriptCheck};
pub use node::NodeInfo;
pub use server::serve;

use crate::cluster::Cluster;
use crate::config::LimitsConfig;
use crate::experiments::Experiments;
use crate::observe::{Health, ReportHub, health_routes};
use crate::registry::{Registry, RegistryError};
use envelope::{ApiError, code};
use tails::Tails;

pub(crate) const PREFIX: &str = "/client/v4";
/// Scripts that are started at once to check them.
const CHECKS_IN_FLIGHT_MAX: usize = 4;
/// Bodies of uploads and KV writes that are in memory at once, in KiB.
const BODIES_KIB_MAX: usize = 512 << 10;
/// How long a request waits for others to make room, in milliseconds.
const ROOM_WAIT_MS_MAX: u64 = 20_000;

/// What the API acts upon.
pub struct ApiConfig {
    /// Accounts, workers, versions, routes.
    pub registry: Registry,
    /// Values of KV namespaces.
    pub kv: Arc<dyn KvStore>,
    /// Starts uploaded scripts.
    pub check: Arc<dyn ScriptCheck>,
    /// Where live tails listen, and the metrics.
    pub hub: ReportHub,
    /// Whether the node takes requests.
    pub health: Health,
    /// The domain of `<worker>.<subdomain>.<domain>`.
    pub domain: String,
    /// Limits of uploaded scripts.
    pub limits: LimitsConfig,
    /// What clients are told of the node.
    pub node: NodeInfo,
    /// The revision of the registry that everyone who serves has in use.
    pub in_use: watch::Receiver<u64>,
    /// The node's part in its cluster, if it has one.
    pub(crate) cluster: Option<Cluster>,
    /// What is kept of experiments.
    pub(crate) experiments: Experiments,
}

/// The configuration and what requests share. Cloning is cheap.
#[derive(Clone)]
struct ApiState {
    config: Arc<ApiConfig>,
    checks: Arc<Semaphore>,
    bodies_kib: Arc<Semaphore>,
    tails: Tails,
}

impl ApiState {
    /// Runs an operation of the registry where it may block.
    async fn registry<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Registry) -> Result<T, RegistryError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let registry = self.config.registry.clone();
        tokio::task::spawn_blocking(move || operation(&registry))
            .await
            .map_err(ApiError::internal)?
            .map_err(ApiError::from)
    }

    /// Reserves memory for a body of at most `bytes_max` bytes, until the permit is dropped.
    async fn room_for_body(
        &self,
        headers: &HeaderMap,
        bytes_max: usize,
    ) -> Result<OwnedSemaphorePermit, ApiError> {
        let announced = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse().ok())
            .unwrap_or(bytes_max);
        let kib = announced.min(bytes_max).div_ceil(1 << 10).clamp(1, BODIES_KIB_MAX);
        room(&self.bodies_kib, u32::try_from(kib).unwrap_or(u32::MAX)).await
    }

    /// Waits until a script may be started.
    async fn room_for_check(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        room(&self.checks, 1).await
    }
}

async fn room(permits: &Arc<Semaphore>, count: u32) -> Result<OwnedSemaphorePermit, ApiError> {
    let acquired = permits.clone().acquire_many_owned(count);
    match tokio::time::timeout(Duration::from_millis(ROOM_WAIT_MS_MAX), acquired).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            code::BUSY,
            "the node is busy with other large requests: try again in a moment",
        )),
    }
}

/// Everything that the admin listener serves: the API, metrics and health.
pub fn router(config: ApiConfig) -> Router {
    let health = health_routes(config.health.clone(), config.hub.metrics().clone());
    let state = ApiState {
        config: Arc::new(config),
        checks: Arc::new(Semaphore::new(CHECKS_IN_FLIGHT_MAX)),
        bodies_kib: Arc::new(Semaphore::new(BODIES_KIB_MAX)),
        tails: Tails::default(),
    };
    let authenticated = Router::new()
        .merge(accounts::routes())
        .merge(node::routes())
        .merge(nodes::routes())
        .merge(workers::routes())
        .merge(scripts::routes())
        .merge(versions::routes())
        .merge(deployments::routes())
        .merge(settings::routes())
        .merge(secrets::routes())
        .merge(schedules::routes())
        .merge(routes::routes())
        .merge(pools::routes())
        .merge(regions::routes())
        .merge(rules::routes())
        .merge(rule_results::routes())
        .merge(certificates::routes())
        .merge(kv::routes())
        .merge(kv_values::routes())
        .merge(tails::routes())
        .fallback(no_such_endpoint)
        .method_not_allowed_fallback(no_such_endpoint)
        .layer(middleware::from_fn_with_state(state.clone(), nodes::await_use))
        .layer(middleware::from_fn_with_state(state.clone(), auth::authenticate));
    // A tail's socket is opened without a header: the secret is in its URL.
    let api = Router::new().merge(tails::socket_route()).merge(authenticated);
    Router::new()
        .nest(PREFIX, api)
        .fallback(no_such_endpoint)
        // Every handler reads its body within a limit of its own.
        .layer(DefaultBodyLimit::disable())
        .with_state(state)
        .merge(health)
}

async fn no_such_endpoint(method: axum::http::Method, uri: axum::http::Uri) -> ApiError {
    let path = uri.path();
    let message = match path.starts_with(PREFIX) {
        true => format!("this node has no {method} {path}"),
        false => format!("this node has no {method} {path}: its API lies under {PREFIX}"),
    };
    ApiError::new(StatusCode::NOT_FOUND, code::NO_SUCH_ENDPOINT, message)
}
