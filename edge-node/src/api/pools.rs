//! A worker's origin pools: read, replaced and removed as a whole.

use atoll_router::origins::OriginPool;
use axum::Router;
use axum::extract::State;
use axum::routing::get;
use serde_json::{Value, json};

use super::ApiState;
use super::auth::Target;
use super::body::JsonBody;
use super::envelope::{Answer, ApiError, Envelope};

pub(super) fn routes() -> Router<ApiState> {
    const POOLS: &str = "/accounts/{account}/workers/scripts/{worker}/pools";
    Router::new().route(POOLS, get(view).put(replace).delete(remove))
}

async fn view(State(state): State<ApiState>, Target(target): Target) -> Answer {
    let pools = state.registry(move |registry| registry.pools(&target)).await?;
    Envelope::new(json!(pools))
}

async fn replace(
    State(state): State<ApiState>,
    Target(target): Target,
    JsonBody(document): JsonBody<Value>,
) -> Answer {
    let pools: Vec<OriginPool> = serde_json::from_value(document)
        .map_err(|error| ApiError::invalid(format!("the pools cannot be used: {error}")))?;
    let set = pools.clone();
    state.registry(move |registry| registry.set_pools(&target, &set)).await?;
    Envelope::new(json!(pools))
}

async fn remove(State(state): State<ApiState>, Target(target): Target) -> Answer {
    state.registry(move |registry| registry.set_pools(&target, &[])).await?;
    Envelope::new(json!([]))
}
