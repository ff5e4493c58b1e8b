//! Deployments: which versions serve, and what served before.

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ApiState;
use super::auth::Target;
use super::body::JsonBody;
use super::envelope::{Answer, ApiError, Envelope};
use super::time::iso8601;
use super::upload::check_annotations;
use crate::registry::{Deployment, VersionId};

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/accounts/{account}/workers/scripts/{worker}/deployments", get(list).post(deploy))
}

async fn list(State(state): State<ApiState>, Target(target): Target) -> Answer {
    let deployments = state.registry(move |registry| registry.deployments(&target)).await?;
    let deployments: Vec<Value> = deployments.iter().map(deployment_json).collect();
    Envelope::new(json!({ "deployments": deployments }))
}

#[derive(Deserialize)]
struct NewDeployment {
    #[serde(default)]
    strategy: Option<String>,
    versions: Vec<Share>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Share {
    version_id: VersionId,
    percentage: f64,
}

async fn deploy(
    State(state): State<ApiState>,
    Target(target): Target,
    JsonBody(new): JsonBody<NewDeployment>,
) -> Answer {
    if let Some(strategy) = new.strategy.filter(|strategy| strategy != "percentage") {
        return Err(ApiError::invalid(format!(
            "deployment strategy {strategy:?} is not supported: use percentage"
        )));
    }
    check_annotations(&new.annotations)?;
    let shares = new.versions.into_iter().map(|share| (share.version_id, share.percentage));
    let shares = shares.collect();
    let deployment =
        state.registry(move |registry| registry.deploy(&target, shares, new.annotations)).await?;
    Envelope::new(deployment_json(&deployment))
}

fn deployment_json(deployment: &Deployment) -> Value {
    let versions = deployment
        .versions
        .iter()
        .map(|(id, percentage)| json!({ "version_id": id, "percentage": percentage }));
    json!({
        "id": deployment.id,
        "source": "wrangler",
        "strategy": "percentage",
        "author_email": "",
        "created_on": iso8601(deployment.created_ms),
        "annotations": deployment.annotations,
        "versions": versions.collect::<Vec<_>>(),
    })
}
