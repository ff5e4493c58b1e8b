//! A worker's settings: those of its version, whose change makes a new one, and its own.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::ApiState;
use super::auth::Target;
use super::bindings::{self, Inherit, Wanted};
use super::body::{self, JSON_BYTES_MAX, JsonBody};
use super::envelope::{Answer, ApiError, Envelope};
use super::scripts::owned_namespaces;
use super::upload::check_compatibility;
use super::workers::merge;
use crate::registry::{Registry, RegistryError, Version, WorkerRef};

const SCRIPT_SETTINGS: [&str; 4] = ["logpush", "observability", "tags", "tail_consumers"];

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/accounts/{account}/workers/scripts/{worker}/settings", get(read).patch(change))
        .route(
            "/accounts/{account}/workers/scripts/{worker}/script-settings",
            get(read_own).patch(change_own),
        )
}

async fn read(State(state): State<ApiState>, Target(target): Target) -> Answer {
    let worker = target.clone();
    let (worker, version) = state
        .registry(move |registry| {
            Ok((registry.worker(&worker)?, registry.latest_outline(&worker)?))
        })
        .await?;
    let version = version
        .ok_or_else(|| ApiError::not_found(format!("worker {} has no version", target.worker)))?;
    let mut settings = own_settings(&worker.settings);
    merge(&mut settings, version_settings(&version));
    Envelope::new(settings)
}

fn version_settings(version: &Version) -> Map<String, Value> {
    let settings = json!({
        "bindings": bindings::shown(&version.bindings),
        "compatibility_date": version.compatibility_date,
        "compatibility_flags": version.compatibility_flags,
        "limits": version.limits,
        "annotations": version.annotations,
        "usage_model": "standard",
        "placement": {},
    });
    match settings {
        Value::Object(settings) => settings,
        _ => Map::new(),
    }
}

#[derive(Deserialize)]
struct Change {
    bindings: Option<Vec<Value>>,
    compatibility_date: Option<String>,
    compatibility_flags: Option<Vec<String>>,
}

/// Changes bindings: one that has only a name and a type stays as it is.
async fn change(State(state): State<ApiState>, Target(target): Target, request: Request) -> Answer {
    let change: Change = match body::is_multipart(request.headers()) {
        true => {
            let parts = body::read_multipart(request, JSON_BYTES_MAX).await?;
            let part = parts.iter().find(|part| part.name == "settings");
            let part =
                part.ok_or_else(|| ApiError::malformed("there is no part named settings"))?;
            body::parse_json(&part.bytes)?
        }
        false => body::parse_json(&body::read(request.into_body(), JSON_BYTES_MAX).await?)?,
    };
    let flags = change.compatibility_flags.as_deref().unwrap_or_default();
    check_compatibility(change.compatibility_date.as_deref(), flags)?;
    let version = state.registry(move |registry| apply(registry, &target, change)).await?;
    Envelope::new(Value::Object(version_settings(&version)))
}

fn apply(
    registry: &Registry,
    target: &WorkerRef,
    change: Change,
) -> Result<Arc<Version>, RegistryError> {
    let namespaces = owned_namespaces(registry, &target.account)?;
    registry.revise(target, |version| {
        if let Some(requested) = &change.bindings {
            let requested: Vec<Value> = requested.iter().map(kept_as_inherited).collect();
            let wanted = Wanted {
                requested: &requested,
                keep: Some(&[]),
                inherit: Inherit::Lenient,
                previous: Some(version),
                namespaces: &namespaces,
                modules: &version.modules,
            };
            let resolved = wanted.resolve().map_err(|e| {
                let messages: Vec<String> = e.faults.into_iter().map(|f| f.message).collect();
                RegistryError::Invalid(messages.join("; "))
            })?;
            version.bindings = resolved;
        }
        if let Some(date) = &change.compatibility_date {
            version.compatibility_date = Some(date.clone());
        }
        if let Some(flags) = &change.compatibility_flags {
            version.compatibility_flags.clone_from(flags);
        }
        version.annotations.insert("workers/triggered_by".to_owned(), "secret".to_owned());
        Ok(())
    })
}

fn kept_as_inherited(binding: &Value) -> Value {
    let only_named = binding.as_object().is_some_and(|object| {
        object.len() == 2 && object.contains_key("name") && object.contains_key("type")
    });
    match only_named && binding["type"] != "version_metadata" {
        true => json!({ "type": "inherit", "name": binding["name"] }),
        false => binding.clone(),
    }
}

async fn read_own(State(state): State<ApiState>, Target(target): Target) -> Answer {
    let worker = state.registry(move |registry| registry.worker(&target)).await?;
    Envelope::new(own_settings(&worker.settings))
}

fn own_settings(stored: &Value) -> Value {
    let mut settings = json!({
        "logpush": false,
        "observability": { "enabled": false },
        "tags": [],
        "tail_consumers": [],
    });
    if let Value::Object(stored) = stored {
        merge(&mut settings, stored.clone());
    }
    settings
}

async fn change_own(
    State(state): State<ApiState>,
    Target(target): Target,
    JsonBody(mut change): JsonBody<Map<String, Value>>,
) -> Answer {
    change.retain(|key, value| SCRIPT_SETTINGS.contains(&key.as_str()) && !value.is_null());
    if change.get("tail_consumers").and_then(Value::as_array).is_some_and(|list| !list.is_empty()) {
        return Err(ApiError::invalid(
            "tail_consumers are not supported by this node: remove them from the project",
        ));
    }
    let settings = state
        .registry(move |registry| {
            let mut settings = registry.worker(&target)?.settings;
            merge(&mut settings, change);
            registry.set_worker_settings(&target, &settings)?;
            Ok(settings)
        })
        .await?;
    Envelope::new(own_settings(&settings))
}
