//! Where a worker may run: read, replaced and removed as a whole.

use atoll_router::regions::RegionRules;
use axum::Router;
use axum::extract::State;
use axum::routing::get;
use serde_json::{Value, json};

use super::ApiState;
use super::auth::Target;
use super::body::JsonBody;
use super::envelope::{Answer, ApiError, Envelope};

pub(super) fn routes() -> Router<ApiState> {
    const REGIONS: &str = "/accounts/{account}/workers/scripts/{worker}/regions";
    Router::new().route(REGIONS, get(view).put(replace).delete(remove))
}

async fn view(State(state): State<ApiState>, Target(target): Target) -> Answer {
    let regions = state.registry(move |registry| registry.regions(&target)).await?;
    Envelope::new(json!(regions))
}

async fn replace(
    State(state): State<ApiState>,
    Target(target): Target,
    JsonBody(document): JsonBody<Value>,
) -> Answer {
    let regions: RegionRules = serde_json::from_value(document)
        .map_err(|error| ApiError::invalid(format!("the regions cannot be used: {error}")))?;
    let set = regions.clone();
    state.registry(move |registry| registry.set_regions(&target, &set)).await?;
    Envelope::new(json!(regions))
}

async fn remove(State(state): State<ApiState>, Target(target): Target) -> Answer {
    let none = RegionRules::default();
    state.registry(move |registry| registry.set_regions(&target, &none)).await?;
    Envelope::new(json!({}))
}
