//! Secrets of a worker: each change deploys a copy of its latest version.

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ApiState;
use super::auth::Target;
use super::bindings::{Inherit, Wanted};
use super::body::JsonBody;
use super::envelope::{Answer, ApiError, Envelope};
use crate::registry::{Binding, RegistryError, Version};

const TRIGGERED_BY: &str = "workers/triggered_by";

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/accounts/{account}/workers/scripts/{worker}/secrets", get(list).put(put))
        .route(
            "/accounts/{account}/workers/scripts/{worker}/secrets/{name}",
            get(view).delete(delete),
        )
}

async fn list(State(state): State<ApiState>, Target(target): Target) -> Answer {
    let version = state.registry(move |registry| registry.latest_outline(&target)).await?;
    let names = version.as_ref().map(secret_names).unwrap_or_default();
    Envelope::list(names.into_iter().map(|name| secret_json(&name)).collect())
}

fn secret_names(version: &Version) -> Vec<String> {
    let secrets = version.bindings.iter().filter(|b| matches!(b, Binding::SecretText { .. }));
    secrets.map(|binding| binding.name().to_owned()).collect()
}

fn secret_json(name: &str) -> Value {
    json!({ "name": name, "type": "secret_text" })
}

#[derive(Deserialize)]
struct NewSecret {
    name: String,
    text: String,
}

async fn put(
    State(state): State<ApiState>,
    Target(target): Target,
    JsonBody(new): JsonBody<NewSecret>,
) -> Answer {
    let name = new.name.clone();
    let requested = [json!({ "type": "secret_text", "name": new.name, "text": new.text })];
    // The checks are those of an upload that has this binding alone.
    let checked = Wanted {
        requested: &requested,
        keep: None,
        inherit: Inherit::Strict,
        previous: None,
        namespaces: &Default::default(),
        modules: &[],
    }
    .resolve()?;
    state
        .registry(move |registry| {
            registry.revise(&target, |version| {
                version.bindings.retain(|binding| binding.name() != new.name);
                version.bindings.extend(checked.iter().cloned());
                version.annotations.insert(TRIGGERED_BY.to_owned(), "secret".to_owned());
                super::bindings::check_count(&version.bindings)
            })
        })
        .await?;
    Envelope::new(secret_json(&name))
}

#[derive(Deserialize)]
struct SecretPath {
    name: String,
}

async fn view(
    State(state): State<ApiState>,
    Target(target): Target,
    Path(path): Path<SecretPath>,
) -> Answer {
    let version = state.registry(move |registry| registry.latest_outline(&target)).await?;
    let names = version.as_ref().map(secret_names).unwrap_or_default();
    match names.contains(&path.name) {
        true => Envelope::new(secret_json(&path.name)),
        false => Err(ApiError::not_found(format!("secret {} does not exist", path.name))),
    }
}

async fn delete(
    State(state): State<ApiState>,
    Target(target): Target,
    Path(path): Path<SecretPath>,
) -> Answer {
    let name = path.name;
    state
        .registry(move |registry| {
            registry.revise(&target, |version| {
                let before = version.bindings.len();
                version.bindings.retain(|binding| {
                    !matches!(binding, Binding::SecretText { name: known, .. } if *known == name)
                });
                if version.bindings.len() == before {
                    return Err(RegistryError::Invalid(format!("secret {name} does not exist")));
                }
                version.annotations.insert(TRIGGERED_BY.to_owned(), "secret".to_owned());
                Ok(())
            })
        })
        .await?;
    Envelope::new(Value::Null)
}
