//! What comes of a worker's rules: `GET …/rules/results`.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use serde_json::json;

use super::ApiState;
use super::auth::Target;
use super::envelope::{Answer, ApiError, Envelope};
use crate::experiments::StoreError;
use crate::registry::now_ms;

pub(super) fn routes() -> Router<ApiState> {
    Router::new().route("/accounts/{account}/workers/scripts/{worker}/rules/results", get(view))
}

async fn view(State(state): State<ApiState>, Target(target): Target) -> Answer {
    let worker = target.clone();
    let stored = state.registry(move |registry| registry.rules(&worker)).await?;
    let Some(stored) = stored else { return Envelope::new(json!({ "experiments": [] })) };
    let (set, kept) = (stored.compile()?, state.config.experiments.clone());
    let found = tokio::task::spawn_blocking(move || {
        let results = kept.results(&target, &set, now_ms())?;
        Ok::<_, StoreError>(json!({ "experiments": results, "dropped_on_node": kept.dropped()? }))
    });
    Envelope::new(found.await.map_err(ApiError::internal)?.map_err(ApiError::internal)?)
}
