//! Versions of a worker: upload without deploying, list, view.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ApiState;
use super::auth::Target;
use super::bindings;
use super::envelope::{Answer, ApiError, Envelope};
use super::scripts::{self, UploadQuery};
use super::time::iso8601;
use crate::registry::{Deploy, Missing, RegistryError, Version, VersionId, WorkerRef};

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/accounts/{account}/workers/scripts/{worker}/versions", get(list).post(upload))
        .route("/accounts/{account}/workers/scripts/{worker}/versions/{id}", get(view))
}

async fn upload(
    State(state): State<ApiState>,
    Target(target): Target,
    Query(query): Query<UploadQuery>,
    request: Request,
) -> Answer {
    let version = scripts::accept(&state, target, &query, request, Deploy::Later).await?;
    Envelope::new(version_json(&version))
}

async fn list(State(state): State<ApiState>, Target(target): Target) -> Answer {
    let versions = state.registry(move |registry| registry.versions(&target)).await?;
    let items: Vec<Value> = versions.iter().map(version_json).collect();
    let count = items.len();
    let info = json!({ "page": 1, "per_page": count, "count": count, "total_count": count });
    Ok(Envelope::new(json!({ "items": items }))?.with_info(info))
}

#[derive(Deserialize)]
struct VersionPath {
    id: String,
}

async fn view(
    State(state): State<ApiState>,
    Target(target): Target,
    Path(path): Path<VersionPath>,
) -> Answer {
    let version = find(&state, target, VersionId::new(path.id)).await?;
    Envelope::new(version_json(&version))
}

/// A version of this worker: another worker's or account's is not found.
pub(super) async fn find(
    state: &ApiState,
    target: WorkerRef,
    id: VersionId,
) -> Result<Arc<Version>, ApiError> {
    state
        .registry(move |registry| {
            registry.worker(&target)?;
            let version = registry.version(&id)?.filter(|version| version.worker == target);
            version.ok_or(RegistryError::NotFound { what: Missing::Version(id.to_string()) })
        })
        .await
}

pub(super) fn version_json(version: &Version) -> Value {
    let created = iso8601(version.created_ms);
    json!({
        "id": version.id,
        "number": version.number,
        "metadata": {
            "created_on": created,
            "modified_on": created,
            "source": "wrangler",
            "author_id": "",
            "author_email": "",
            "has_preview": false,
        },
        "annotations": version.annotations,
        "resources": {
            "bindings": bindings::shown(&version.bindings),
            "script": {
                "etag": version.content_hash,
                "handlers": version.handlers,
                "last_deployed_from": "wrangler",
            },
            "script_runtime": {
                "compatibility_date": version.compatibility_date,
                "compatibility_flags": version.compatibility_flags,
                "usage_model": "standard",
                "limits": version.limits,
            },
        },
        "startup_time_ms": version.startup_ms,
    })
}
