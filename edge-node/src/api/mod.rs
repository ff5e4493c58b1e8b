//! The REST API under `/client/v4`, in Cloudflare's shapes, for wrangler and Atoll's own command
//! line. It changes the registry and the KV store; it serves no worker's traffic.

mod accounts;
mod auth;
mod bindings;
mod body;
mod check;
mod content;
mod deployments;
mod envelope;
mod kv;
mod kv_values;
mod routes;
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

use atoll_kv::KvStore;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::{Router, middleware};
use tokio::sync::Semaphore;

pub use check::{CheckError, CheckReport, ScriptCheck};
pub use server::serve;

use crate::config::LimitsConfig;
use crate::observe::{Health, ReportHub, health_routes};
use crate::registry::{Registry, RegistryError};
use envelope::{ApiError, code};
use tails::Tails;

const PREFIX: &str = "/client/v4";
/// Uploads that are read and checked at once; each holds its script in memory.
const UPLOADS_IN_FLIGHT_MAX: usize = 4;
/// Large KV bodies that are read at once.
const BULKS_IN_FLIGHT_MAX: usize = 4;

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
}

/// The configuration and what requests share. Cloning is cheap.
#[derive(Clone)]
struct ApiState {
    config: Arc<ApiConfig>,
    uploads: Arc<Semaphore>,
    bulks: Arc<Semaphore>,
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
}

/// Everything that the admin listener serves: the API, metrics and health.
pub fn router(config: ApiConfig) -> Router {
    let health = health_routes(config.health.clone(), config.hub.metrics().clone());
    let state = ApiState {
        config: Arc::new(config),
        uploads: Arc::new(Semaphore::new(UPLOADS_IN_FLIGHT_MAX)),
        bulks: Arc::new(Semaphore::new(BULKS_IN_FLIGHT_MAX)),
        tails: Tails::default(),
    };
    let authenticated = Router::new()
        .merge(accounts::routes())
        .merge(workers::routes())
        .merge(scripts::routes())
        .merge(versions::routes())
        .merge(deployments::routes())
        .merge(settings::routes())
        .merge(secrets::routes())
        .merge(schedules::routes())
        .merge(routes::routes())
        .merge(kv::routes())
        .merge(kv_values::routes())
        .merge(tails::routes())
        .fallback(no_such_endpoint)
        .method_not_allowed_fallback(no_such_endpoint)
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
    ApiError::new(
        StatusCode::NOT_FOUND,
        code::NO_SUCH_ENDPOINT,
        format!("this node has no {method} {}", uri.path()),
    )
}

/// Refuses work beyond a limit at once, so that it does not pile up in memory.
fn admit(permits: &Arc<Semaphore>) -> Result<tokio::sync::OwnedSemaphorePermit, ApiError> {
    permits.clone().try_acquire_owned().map_err(|_| {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            code::BUSY,
            "the node is busy with other large requests: try again in a moment",
        )
    })
}
