//! Workers as things with a name: list, delete, and where they answer without a route.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::ApiState;
use super::auth::{Caller, Target};
use super::body::JsonBody;
use super::envelope::{Answer, ApiError, Envelope, code};
use super::time::iso8601;
use crate::registry::{HostPattern, SubdomainSettings, Version, Worker, WorkerName};

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/accounts/{account}/workers/scripts", get(list))
        .route("/accounts/{account}/workers/services/{worker}", get(service).delete(delete_worker))
        .route(
            "/accounts/{account}/workers/subdomain",
            get(account_subdomain).put(set_account_subdomain),
        )
        .route(
            "/accounts/{account}/workers/scripts/{worker}/subdomain",
            get(worker_subdomain).post(set_worker_subdomain),
        )
        .route("/accounts/{account}/workers/scripts/{worker}/references", get(references))
        .route("/accounts/{account}/workers/tails/by-consumer/{worker}", get(tail_producers))
}

async fn list(State(state): State<ApiState>, caller: Caller) -> Answer {
    let account = caller.account().clone();
    let rows: Vec<(Worker, Option<Version>)> = state
        .registry(move |registry| {
            let mut newest: HashMap<WorkerName, Version> = HashMap::new();
            let workers = registry.workers(&account)?;
            for worker in &workers {
                if let Some(version) = registry.latest_outline(&worker.worker)? {
                    newest.insert(worker.worker.worker.clone(), version);
                }
            }
            let rows = workers.into_iter().map(|worker| {
                let version = newest.remove(&worker.worker.worker);
                (worker, version)
            });
            Ok(rows.collect())
        })
        .await?;
    let scripts = rows.iter().map(|(worker, version)| match version {
        Some(version) => super::scripts::script_json(worker, version),
        None => worker_json(worker),
    });
    Envelope::list(scripts.collect())
}

pub(super) fn worker_json(worker: &Worker) -> Value {
    json!({
        "id": worker.worker.worker,
        "tag": worker.tag,
        "tags": worker.settings.get("tags").cloned().unwrap_or_else(|| json!([])),
        "created_on": iso8601(worker.created_ms),
        "modified_on": iso8601(worker.modified_ms),
        "usage_model": "standard",
        "last_deployed_from": "wrangler",
    })
}

/// Puts the keys of `changes` in place of those of `target`, a JSON object.
pub(super) fn merge(target: &mut Value, changes: Map<String, Value>) {
    match target {
        Value::Object(target) => target.extend(changes),
        other => *other = Value::Object(changes),
    }
}

async fn service(State(state): State<ApiState>, Target(target): Target) -> Answer {
    let worker = state.registry(move |registry| registry.worker(&target)).await?;
    Envelope::new(json!({
        "id": worker.worker.worker,
        "default_environment": { "environment": "production", "script": worker_json(&worker) },
        "created_on": iso8601(worker.created_ms),
        "modified_on": iso8601(worker.modified_ms),
    }))
}

pub(super) async fn delete_worker(State(state): State<ApiState>, Target(target): Target) -> Answer {
    let worker = target.clone();
    state.registry(move |registry| registry.delete_worker(&worker)).await?;
    state.tails.close_worker(&target);
    Envelope::new(json!({ "id": target.worker }))
}

async fn account_subdomain(State(state): State<ApiState>, caller: Caller) -> Answer {
    let id = caller.account().clone();
    let account = state.registry(move |registry| registry.account(&id)).await?;
    let subdomain = account.subdomain.ok_or_else(|| {
        ApiError::new(
            StatusCode::NOT_FOUND,
            code::WORKER_NOT_FOUND,
            "the account has no subdomain: register one with PUT",
        )
    })?;
    Envelope::new(json!({ "subdomain": subdomain }))
}

#[derive(Deserialize)]
struct NewSubdomain {
    subdomain: String,
}

async fn set_account_subdomain(
    State(state): State<ApiState>,
    caller: Caller,
    JsonBody(new): JsonBody<NewSubdomain>,
) -> Answer {
    let account = caller.account().clone();
    let hosts = HostPattern::below(&format!("{}.{}", new.subdomain, state.config.domain));
    let snapshot = state.config.registry.snapshot();
    let foreign = snapshot.routes.iter().filter(|route| route.account != account);
    if foreign
        .filter_map(|route| HostPattern::of_route(&route.pattern).ok())
        .any(|pattern| pattern.overlaps(&hosts))
    {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            code::SUBDOMAIN_TAKEN,
            format!("subdomain {} is already taken", new.subdomain),
        ));
    }
    let subdomain = new.subdomain.clone();
    state.registry(move |registry| registry.set_subdomain(&account, &subdomain)).await?;
    Envelope::new(json!({ "subdomain": new.subdomain }))
}

async fn worker_subdomain(State(state): State<ApiState>, Target(target): Target) -> Answer {
    let worker = state.registry(move |registry| registry.worker(&target)).await?;
    subdomain_json(worker.subdomain)
}

#[derive(Deserialize)]
struct SubdomainBody {
    enabled: bool,
    previews_enabled: Option<bool>,
}

async fn set_worker_subdomain(
    State(state): State<ApiState>,
    Target(target): Target,
    JsonBody(body): JsonBody<SubdomainBody>,
) -> Answer {
    let enabled = body.enabled;
    let previews_enabled = body.previews_enabled.unwrap_or(enabled);
    let subdomain = SubdomainSettings { enabled, previews_enabled };
    state.registry(move |registry| registry.set_worker_subdomain(&target, subdomain)).await?;
    subdomain_json(subdomain)
}

fn subdomain_json(subdomain: SubdomainSettings) -> Answer {
    Envelope::new(json!({
        "enabled": subdomain.enabled,
        "previews_enabled": subdomain.previews_enabled,
    }))
}

/// Workers that are bound to this one, so that a client can warn before it is deleted.
async fn references(State(state): State<ApiState>, Target(target): Target) -> Answer {
    let incoming: Vec<Value> = state
        .registry(move |registry| {
            registry.worker(&target)?;
            let snapshot = registry.snapshot();
            let mut incoming = Vec::new();
            for live in snapshot.workers.of_account(&target.account) {
                for (id, _) in &live.deployment.versions {
                    if registry.version(id)?.is_some_and(|v| is_bound_to(&v, &target.worker)) {
                        let name = &live.worker.worker;
                        incoming.push(
                            json!({ "service": name, "environment": "production", "name": name }),
                        );
                        break;
                    }
                }
            }
            Ok(incoming)
        })
        .await?;
    Envelope::new(json!({ "services": { "incoming": incoming, "outgoing": [] } }))
}

fn is_bound_to(version: &Arc<Version>, worker: &WorkerName) -> bool {
    version.worker.worker != *worker
        && version.bindings.iter().any(|binding| {
            matches!(binding, crate::registry::Binding::Service { service, .. } if service == worker)
        })
}

/// Tail workers do not exist here, so none has producers.
async fn tail_producers() -> Answer {
    Envelope::list(Vec::new())
}
