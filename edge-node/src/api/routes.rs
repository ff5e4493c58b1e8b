//! Routes, also in the shape of zones: this node has no DNS zones, so every host that is asked for
//! is one, owned by the caller's account.

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, put};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ApiState;
use super::auth::{Caller, Target};
use super::body::JsonBody;
use super::envelope::{Answer, ApiError, Envelope, code};
use crate::registry::{AccountId, HostPattern, Route, WorkerName};

const ZONE_NAME_BYTES_MAX: usize = 253;

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/accounts/{account}/workers/scripts/{worker}/routes", get(of_worker).put(replace))
        .route("/accounts/{account}/workers/routes", get(of_account))
        .route("/accounts/{account}/workers/scripts/{worker}/domains/records", put(custom_domains))
        .route("/zones", get(zones))
        .route("/zones/{zone}", get(zone))
        .route("/zones/{zone}/workers/routes", get(of_zone).post(add))
        .route("/zones/{zone}/workers/routes/{id}", get(view).put(update).delete(delete))
}

async fn of_account(State(state): State<ApiState>, caller: Caller) -> Answer {
    list(&state, caller.account(), |_| true)
}

async fn of_worker(State(state): State<ApiState>, Target(target): Target) -> Answer {
    list(&state, &target.account, |route| route.worker.as_ref() == Some(&target.worker))
}

async fn of_zone(
    State(state): State<ApiState>,
    caller: Caller,
    Path(path): Path<ZonePath>,
) -> Answer {
    let zone = zone_name(&path.zone)?;
    let below = HostPattern::below(&zone);
    list(&state, caller.account(), |route| {
        HostPattern::of_route(&route.pattern)
            .is_ok_and(|host| host.overlaps(&below) || host.matches(&zone))
    })
}

fn list(state: &ApiState, account: &AccountId, wanted: impl Fn(&Route) -> bool) -> Answer {
    let snapshot = state.config.registry.snapshot();
    let own = snapshot.routes.of_account(account).iter().filter(|route| wanted(route));
    let mut own: Vec<_> = own.collect();
    own.sort_by_key(|route| &route.pattern);
    Envelope::list(own.into_iter().map(|route| route_json(route)).collect())
}

#[derive(Deserialize)]
struct NewRoute {
    pattern: String,
    #[serde(default)]
    custom_domain: bool,
    /// The worker; wrangler leaves it out where the path names it.
    #[serde(default)]
    script: Option<WorkerName>,
}

async fn replace(
    State(state): State<ApiState>,
    Target(target): Target,
    JsonBody(new): JsonBody<Vec<NewRoute>>,
) -> Answer {
    if let Some(route) = new.iter().find(|route| route.custom_domain) {
        return Err(no_custom_domains(&route.pattern));
    }
    let patterns: Vec<String> = new.into_iter().map(|route| route.pattern).collect();
    ensure_not_of_others(&state, &target.account, &patterns)?;
    let routes =
        state.registry(move |registry| registry.replace_routes(&target, &patterns)).await?;
    Envelope::list(routes.iter().map(route_json).collect())
}

async fn custom_domains(Target(target): Target) -> Result<Envelope, ApiError> {
    Err(no_custom_domains(target.worker.as_str()))
}

fn no_custom_domains(of: &str) -> ApiError {
    ApiError::invalid(format!(
        "{of}: custom domains are not supported by this node: write a route such as example.com/*"
    ))
}

/// `<worker>.<subdomain>.<domain>` hosts of other accounts cannot be routed away.
pub(super) fn ensure_not_of_others(
    state: &ApiState,
    account: &AccountId,
    patterns: &[String],
) -> Result<(), ApiError> {
    let snapshot = state.config.registry.snapshot();
    let others: Vec<HostPattern> = snapshot
        .subdomains
        .iter()
        .filter(|named| named.0 != *account)
        .map(|named| HostPattern::below(&format!("{}.{}", named.1, state.config.domain)))
        .collect();
    for pattern in patterns {
        let host = HostPattern::of_route(pattern)?;
        if others.iter().any(|other| other.overlaps(&host)) {
            return Err(ApiError::new(
                StatusCode::CONFLICT,
                code::ROUTE_TAKEN,
                format!("{pattern} is already taken: its host is another account's"),
            ));
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct ZoneQuery {
    name: Option<String>,
}

async fn zones(caller: Caller, Query(query): Query<ZoneQuery>) -> Answer {
    let zones = query.name.iter().map(|name| zone_json(name, caller.account()));
    Envelope::list(zones.collect::<Result<_, _>>()?)
}

#[derive(Deserialize)]
struct ZonePath {
    zone: String,
}

async fn zone(caller: Caller, Path(path): Path<ZonePath>) -> Answer {
    Envelope::new(zone_json(&zone_name(&path.zone)?, caller.account())?)
}

async fn add(
    State(state): State<ApiState>,
    caller: Caller,
    JsonBody(new): JsonBody<NewRoute>,
) -> Answer {
    let account = caller.account().clone();
    ensure_not_of_others(&state, &account, std::slice::from_ref(&new.pattern))?;
    let route = state
        .registry(move |registry| registry.add_route(&account, &new.pattern, new.script.as_ref()))
        .await?;
    Envelope::new(route_json(&route))
}

#[derive(Deserialize)]
struct RoutePath {
    id: String,
}

async fn view(
    State(state): State<ApiState>,
    caller: Caller,
    Path(path): Path<RoutePath>,
) -> Answer {
    let snapshot = state.config.registry.snapshot();
    let own = snapshot.routes.of_account(caller.account());
    match own.iter().find(|route| route.id == path.id) {
        Some(route) => Envelope::new(route_json(route)),
        None => Err(ApiError::not_found(format!("route {} does not exist", path.id))),
    }
}

async fn update(
    State(state): State<ApiState>,
    caller: Caller,
    Path(path): Path<RoutePath>,
    JsonBody(new): JsonBody<NewRoute>,
) -> Answer {
    let account = caller.account().clone();
    ensure_not_of_others(&state, &account, std::slice::from_ref(&new.pattern))?;
    let route = state
        .registry(move |registry| {
            registry.update_route(&account, &path.id, &new.pattern, new.script.as_ref())
        })
        .await?;
    Envelope::new(route_json(&route))
}

async fn delete(
    State(state): State<ApiState>,
    caller: Caller,
    Path(path): Path<RoutePath>,
) -> Answer {
    let account = caller.account().clone();
    let id = path.id.clone();
    state.registry(move |registry| registry.delete_route(&account, &id)).await?;
    Envelope::new(json!({ "id": path.id }))
}

fn route_json(route: &Route) -> Value {
    json!({ "id": route.id, "pattern": route.pattern, "script": route.worker })
}

/// A zone's id is its name in hexadecimal: nothing needs to be stored.
fn zone_json(name: &str, account: &AccountId) -> Result<Value, ApiError> {
    let name = name.to_ascii_lowercase();
    if name.is_empty() || name.len() > ZONE_NAME_BYTES_MAX {
        return Err(ApiError::invalid(format!(
            "a zone's name has 1 to {ZONE_NAME_BYTES_MAX} bytes"
        )));
    }
    let id = hex::encode(&name);
    Ok(json!({ "id": id, "name": name, "status": "active", "account": { "id": account } }))
}

fn zone_name(id: &str) -> Result<String, ApiError> {
    hex::decode(id)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| ApiError::not_found(format!("zone {id} does not exist")))
}
