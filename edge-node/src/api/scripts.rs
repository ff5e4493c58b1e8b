//! Uploading scripts: every upload makes a version, checked by starting it.

use std::collections::HashSet;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::Target;
use super::bindings::{Inherit, Wanted};
use super::content;
use super::envelope::{Answer, ApiError, Envelope, code};
use super::time::iso8601;
use super::upload::{self, Upload};
use super::{ApiState, workers};
use crate::registry::{
    AccountId, Deploy, NamespaceId, NamespaceOrder, Registry, RegistryError, ScriptFormat, Version,
    VersionId, Worker, WorkerRef, now_ms,
};

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route(
            "/accounts/{account}/workers/scripts/{worker}",
            get(download).put(put).delete(workers::delete_worker),
        )
        .route("/accounts/{account}/workers/scripts/{worker}/content", get(download))
        .route("/accounts/{account}/workers/scripts/{worker}/content/v2", get(content_v2))
}

#[derive(Deserialize)]
pub(super) struct UploadQuery {
    bindings_inherit: Option<String>,
}

impl UploadQuery {
    fn inherit(&self) -> Inherit {
        match self.bindings_inherit.as_deref() {
            Some("strict") => Inherit::Strict,
            _ => Inherit::Lenient,
        }
    }
}

async fn put(
    State(state): State<ApiState>,
    Target(target): Target,
    Query(query): Query<UploadQuery>,
    request: Request,
) -> Answer {
    let version = accept(&state, target.clone(), &query, request, Deploy::Now).await?;
    let worker = state.registry(move |registry| registry.worker(&target)).await?;
    Envelope::new(script_json(&worker, &version))
}

/// Reads an upload, checks it, and stores it as a version of the worker.
pub(super) async fn accept(
    state: &ApiState,
    target: WorkerRef,
    query: &UploadQuery,
    request: Request,
    deploy: Deploy,
) -> Result<Arc<Version>, ApiError> {
    target.worker.check()?;
    if deploy == Deploy::Later {
        let target = target.clone();
        state.registry(move |registry| registry.worker(&target)).await?;
    }
    let bytes_max = upload::form_bytes_max(&state.config.limits);
    let _room = state.room_for_body(request.headers(), bytes_max).await?;
    let upload = Upload::read(request, &state.config.limits).await?;
    let settings = upload.metadata.worker_settings();
    let mut version = assemble(state, target, query.inherit(), upload).await?;
    let checking = state.room_for_check().await?;
    let report = state
        .config
        .check
        .check(&version)
        .await
        .map_err(|e| ApiError::new(StatusCode::BAD_REQUEST, code::VALIDATION, e.to_string()))?;
    drop(checking);
    version.handlers = report.handlers;
    version.startup_ms = report.startup_ms;
    state
        .registry(move |registry| {
            let version = registry.add_version(version, deploy)?;
            if deploy == Deploy::Now && !settings.is_empty() {
                let mut merged = registry.worker(&version.worker)?.settings;
                workers::merge(&mut merged, settings);
                registry.set_worker_settings(&version.worker, &merged)?;
            }
            Ok(version)
        })
        .await
}

async fn assemble(
    state: &ApiState,
    target: WorkerRef,
    inherit: Inherit,
    upload: Upload,
) -> Result<Version, ApiError> {
    let worker = target.clone();
    let (previous, namespaces) = state
        .registry(move |registry| {
            Ok((registry.latest_version(&worker)?, owned_namespaces(registry, &worker.account)?))
        })
        .await?;
    let Upload { metadata, format, main_module, modules } = upload;
    let bindings = Wanted {
        requested: &metadata.bindings,
        keep: metadata.keep_bindings.as_deref(),
        inherit,
        previous: previous.as_deref(),
        namespaces: &namespaces,
        modules: &modules,
    }
    .resolve()?;
    Ok(Version {
        id: VersionId::random(),
        worker: target,
        number: 0,
        created_ms: now_ms(),
        format,
        main_module,
        content_hash: Version::hash_modules(&modules),
        modules,
        bindings,
        compatibility_date: metadata.compatibility_date,
        compatibility_flags: metadata.compatibility_flags,
        limits: metadata.limits,
        annotations: metadata.annotations,
        handlers: Vec::new(),
        startup_ms: 0,
    })
}

/// Every namespace of the account; their number is limited.
pub(super) fn owned_namespaces(
    registry: &Registry,
    account: &AccountId,
) -> Result<HashSet<NamespaceId>, RegistryError> {
    let page = registry.namespaces(account, NamespaceOrder::Id, 0, usize::MAX)?;
    Ok(page.namespaces.into_iter().map(|namespace| namespace.id).collect())
}

pub(super) fn script_json(worker: &Worker, version: &Version) -> Value {
    let mut script = workers::worker_json(worker);
    let more = json!({
        "etag": version.content_hash,
        "handlers": version.handlers,
        "has_modules": version.format == ScriptFormat::Modules,
        "entry_point": version.main_module,
        "deployment_id": version.id,
        "startup_time_ms": version.startup_ms,
        "compatibility_date": version.compatibility_date,
        "compatibility_flags": version.compatibility_flags,
        "modified_on": iso8601(worker.modified_ms),
    });
    if let Value::Object(more) = more {
        workers::merge(&mut script, more);
    }
    script
}

/// The script that serves: JavaScript of a service worker, a multipart form of modules.
async fn download(
    State(state): State<ApiState>,
    Target(target): Target,
) -> Result<Response, ApiError> {
    let version = serving(&state, target).await?;
    let main = version.modules.iter().find(|module| module.name == version.main_module);
    match (version.format, main) {
        (ScriptFormat::ServiceWorker, Some(script)) => {
            let kind = [(header::CONTENT_TYPE, "application/javascript")];
            Ok((kind, script.bytes.clone()).into_response())
        }
        _ => content::multipart(&version),
    }
}

#[derive(Deserialize)]
struct ContentQuery {
    version: Option<String>,
}

async fn content_v2(
    State(state): State<ApiState>,
    Target(target): Target,
    Query(query): Query<ContentQuery>,
) -> Result<Response, ApiError> {
    let version = match query.version {
        Some(id) => super::versions::find(&state, target, VersionId::new(id)).await?,
        None => serving(&state, target).await?,
    };
    content::multipart(&version)
}

/// The version with the largest share of the worker's newest deployment.
async fn serving(state: &ApiState, target: WorkerRef) -> Result<Arc<Version>, ApiError> {
    let name = target.worker.clone();
    let version = state
        .registry(move |registry| {
            let deployments = registry.deployments(&target)?;
            let shares = deployments.first().map_or(&[][..], |newest| &newest.versions);
            match shares.iter().max_by(|a, b| a.1.total_cmp(&b.1)) {
                Some((id, _)) => registry.version(id),
                None => Ok(None),
            }
        })
        .await?;
    version.ok_or_else(|| ApiError::not_found(format!("worker {name} has no deployment")))
}
