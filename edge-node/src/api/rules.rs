//! Rules of a worker: read and replaced as a whole, switched one by one, and tried on requests that are not sent.

use atoll_router::rules::{
    Decision, EXPLAIN, HeaderChange, Outcome, PathEffect, Picked, RuleSet, State as RuleState,
    Trace, UNIT_COOKIE, Visit, parse_instant,
};
use atoll_router::{Place, Scheme};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, Uri};
use axum::routing::{get, post, put};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::ApiState;
use super::auth::Target;
use super::body::JsonBody;
use super::envelope::{Answer, ApiError, Envelope};
use super::time::iso8601;
use crate::registry::{StoredRules, Switch, now_ms, random_hex_id};

/// Headers of a request that is tried.
const HEADERS_MAX: usize = 100;

pub(super) fn routes() -> Router<ApiState> {
    const RULES: &str = "/accounts/{account}/workers/scripts/{worker}/rules";
    Router::new()
        .route(RULES, get(view).put(replace).delete(remove))
        .route(&format!("{RULES}/{{rule}}/switch"), put(switch))
        .route(&format!("{RULES}/test"), post(test))
}

async fn view(State(state): State<ApiState>, Target(target): Target) -> Answer {
    rules_json(state.registry(move |registry| registry.rules(&target)).await?)
}

async fn replace(
    State(state): State<ApiState>,
    Target(target): Target,
    JsonBody(document): JsonBody<Value>,
) -> Answer {
    let stored = state.registry(move |registry| registry.set_rules(&target, &document)).await?;
    rules_json(Some(stored))
}

async fn remove(State(state): State<ApiState>, Target(target): Target) -> Answer {
    state.registry(move |registry| registry.delete_rules(&target)).await?;
    rules_json(None)
}

#[derive(Deserialize)]
struct RulePath {
    rule: String,
}

#[derive(Deserialize)]
struct SwitchTo {
    on: bool,
}

async fn switch(
    State(state): State<ApiState>,
    Target(target): Target,
    Path(path): Path<RulePath>,
    JsonBody(to): JsonBody<SwitchTo>,
) -> Answer {
    let to = if to.on { Switch::On } else { Switch::Off };
    let stored =
        state.registry(move |registry| registry.switch_rule(&target, &path.rule, to)).await?;
    rules_json(Some(stored))
}

/// The document with what the node adds, and where every rule stands now.
fn rules_json(stored: Option<StoredRules>) -> Answer {
    let Some(stored) = stored else {
        return Envelope::new(json!({ "document": null, "rules": [] }));
    };
    let (set, now) = (stored.compile()?, now_ms());
    let rules = set.rules().iter().map(|rule| {
        let variants = rule.variants().iter().zip(rule.buckets(now)).enumerate();
        let variants = variants.map(|(place, (variant, buckets))| {
            let taken = rule.is_rolled_back(place);
            json!({ "name": variant.name(), "buckets": buckets, "rolled_back": taken })
        });
        let state = match rule.state() {
            RuleState::On => "on",
            RuleState::Disabled => "disabled",
            RuleState::SwitchedOff => "switched_off",
        };
        json!({
            "name": rule.name(),
            "layer": set.layer(rule),
            "state": state,
            "variants": variants.collect::<Vec<_>>(),
        })
    });
    Envelope::new(json!({
        "rules": rules.collect::<Vec<_>>(),
        "document": stored.document,
        "overlay": stored.overlay,
        "modified_on": iso8601(stored.modified_ms),
    }))
}

/// A request that is tried.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tried {
    url: String,
    method: Option<String>,
    #[serde(default)]
    headers: Vec<(String, String)>,
    country: Option<String>,
    continent: Option<String>,
    region: Option<String>,
    city: Option<String>,
    asn: Option<u32>,
    eu: Option<bool>,
    /// The client's automatic id.
    unit: Option<String>,
    /// When: RFC 3339.
    at: Option<String>,
}

async fn test(
    State(state): State<ApiState>,
    Target(target): Target,
    JsonBody(tried): JsonBody<Tried>,
) -> Answer {
    let stored = state.registry(move |registry| registry.rules(&target)).await?;
    let none = || ApiError::not_found("the worker has no rules: set some with `atoll rules set`");
    let set = stored.ok_or_else(none)?.compile()?;
    Envelope::new(tried.evaluate(&set)?)
}

impl Tried {
    fn evaluate(&self, set: &RuleSet) -> Result<Value, ApiError> {
        let invalid = |what: &str, text: &str| ApiError::invalid(format!("{text:?} is no {what}"));
        let uri: Uri = self.url.parse().map_err(|_| invalid("URL", &self.url))?;
        let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.authority()) else {
            return Err(invalid("URL: write it with https:// and its host", &self.url));
        };
        let method = self.method.as_deref().unwrap_or("GET");
        let method =
            Method::from_bytes(method.as_bytes()).map_err(|_| invalid("method", method))?;
        let now_ms = match &self.at {
            Some(at) => {
                parse_instant(at).ok_or_else(|| invalid("time such as 2026-11-26T14:00:00Z", at))?
            }
            None => now_ms(),
        };
        let (headers, place) = (self.header_map()?, self.place());
        let visit = Visit {
            scheme: if scheme == "https" { Scheme::Https } else { Scheme::Http },
            host: host.as_str(),
            method: &method,
            path: uri.path(),
            query: uri.query(),
            headers: &headers,
            place: Some(&place),
            now_ms,
            fresh_unit: &random_hex_id,
            trusted: true,
        };
        Ok(outcome_json(set, &set.evaluate(&visit), &visit))
    }

    fn place(&self) -> Place {
        let text = |text: &Option<String>| text.as_deref().map(Box::from);
        Place {
            country: text(&self.country),
            continent: text(&self.continent),
            region: text(&self.region),
            city: text(&self.city),
            asn: self.asn,
            is_eu: self.eu,
            ..Place::default()
        }
    }

    fn header_map(&self) -> Result<HeaderMap, ApiError> {
        if self.headers.len() > HEADERS_MAX {
            return Err(ApiError::invalid(format!(
                "a request that is tried has at most {HEADERS_MAX} headers"
            )));
        }
        let mut map = HeaderMap::new();
        for (name, value) in &self.headers {
            let wrong = |_| ApiError::invalid(format!("{name:?}: {value:?} is no header"));
            let value = HeaderValue::from_str(value).map_err(|e| wrong(e.to_string()))?;
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|e| wrong(e.to_string()))?;
            map.append(name, value);
        }
        if let Some(unit) = &self.unit {
            let cookie = HeaderValue::try_from(format!("{UNIT_COOKIE}={unit}"));
            map.append(
                COOKIE,
                cookie.map_err(|_| ApiError::invalid("the unit is no cookie's value"))?,
            );
        }
        map.insert(HeaderName::from_static(EXPLAIN), HeaderValue::from_static("1"));
        Ok(map)
    }
}

fn outcome_json(set: &RuleSet, decision: &Decision, visit: &Visit<'_>) -> Value {
    let effects = set.effects(decision);
    let (version, worker) = match effects.picked() {
        Some(Picked::Version(version)) => (Some(version), None),
        Some(Picked::Worker(worker)) => (None, Some(worker)),
        None => (None, None),
    };
    let path = set.path(decision, visit);
    let (rewrite, redirect) = match &path {
        Some(PathEffect::Rewrite(path)) => (Some(path), None),
        Some(PathEffect::Redirect { status, location }) => {
            (None, Some(json!({ "status": status.as_u16(), "location": location })))
        }
        None => (None, None),
    };
    let trace = decision.trace.as_deref().unwrap_or_default();
    json!({
        "rules": trace.iter().map(|trace| trace_json(set, trace)).collect::<Vec<_>>(),
        "version": version,
        "worker": worker,
        "rewrite": rewrite,
        "redirect": redirect,
        "request_headers": headers_json(|each| effects.request_headers(each)),
        "response_headers": headers_json(|each| effects.response_headers(each)),
        "variables": set.variables(decision),
        "fresh_unit": decision.fresh_unit.as_deref(),
    })
}

fn trace_json(set: &RuleSet, trace: &Trace) -> Value {
    let rule = &set.rules()[trace.rule];
    let variant = match trace.outcome {
        Outcome::Assigned(variant, _) => Some(rule.variants()[variant].name()),
        _ => None,
    };
    json!({
        "rule": rule.name(),
        "layer": set.layer(rule),
        "variant": variant,
        "outcome": trace.outcome.to_string(),
        "bucket": trace.bucket,
    })
}

fn headers_json(changes: impl FnOnce(&mut dyn FnMut(&HeaderChange))) -> Value {
    let mut all = Map::new();
    changes(&mut |HeaderChange { name, value }| {
        let value = value.as_ref().map(|value| String::from_utf8_lossy(value.as_bytes()));
        let value = value.map_or(Value::Bool(false), |value| json!(value));
        all.insert(name.to_string(), value);
    });
    Value::Object(all)
}
