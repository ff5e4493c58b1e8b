//! A worker's origin pools: read, replaced and removed as a whole; and how their origins stand on this node.

use atoll_router::origins::{Condition, OriginPool, Standing};
use axum::Router;
use axum::extract::State;
use axum::routing::get;
use serde_json::{Value, json};

use super::ApiState;
use super::auth::Target;
use super::body::JsonBody;
use super::envelope::{Answer, ApiError, Envelope};
use crate::observe::OriginStanding;

pub(super) fn routes() -> Router<ApiState> {
    const POOLS: &str = "/accounts/{account}/workers/scripts/{worker}/pools";
    const STATUS: &str = "/accounts/{account}/workers/scripts/{worker}/pools/status";
    let pools = get(view).put(replace).delete(remove);
    Router::new().route(POOLS, pools).route(STATUS, get(status))
}

async fn status(State(state): State<ApiState>, Target(target): Target) -> Answer {
    let worker = target.clone();
    let pools = state.registry(move |registry| registry.pools(&worker)).await?;
    let metrics = state.config.hub.metrics();
    let standings = metrics.standings(&target);
    let shown = pools.iter().map(|pool| {
        let origins = pool.origins.iter().map(|origin| {
            let is_it =
                |one: &&OriginStanding| one.host == pool.host && one.origin == origin.address;
            let all: Vec<_> = standings.iter().filter(is_it).map(|one| one.standing).collect();
            let mut shown = standing(&all);
            shown["address"] = json!(origin.address);
            shown["weight"] = json!(origin.weight);
            let totals = metrics.origin_totals(&target, &pool.host, &origin.address);
            shown["requests"] = json!(totals);
            shown
        });
        json!({
            "host": pool.host,
            "steering": pool.steering,
            "origins": origins.collect::<Vec<_>>(),
        })
    });
    let cluster = state.config.cluster.as_ref();
    Envelope::new(json!({
        "node": cluster.map(|cluster| cluster.config().name.clone()),
        "pools": shown.collect::<Vec<_>>(),
    }))
}

/// How an origin stands in the serving processes that use it.
fn standing(all: &[Standing]) -> Value {
    let count =
        |of: fn(&Condition) -> bool| all.iter().filter(|standing| of(&standing.condition)).count();
    let left_ms = all.iter().filter_map(|standing| match standing.condition {
        Condition::Ejected(left) => Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        _ => None,
    });
    let heads: Vec<u64> = all.iter().filter_map(|standing| standing.head_us).collect();
    let head_us = (!heads.is_empty()).then(|| heads.iter().sum::<u64>() / heads.len() as u64);
    json!({
        "healthy": count(|condition| matches!(condition, Condition::Up)),
        "ejected": count(|condition| matches!(condition, Condition::Ejected(_))),
        "failing_checks": count(|condition| matches!(condition, Condition::Ill)),
        "ejected_ms": left_ms.max(),
        "outstanding": all.iter().map(|standing| standing.in_flight).sum::<u64>(),
        "latency_us": head_us,
    })
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
