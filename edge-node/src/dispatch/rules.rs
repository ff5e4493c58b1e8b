//! Rules before dispatch: what they make of a request, and what the client is told along with its response.

use std::sync::Arc;

use atoll_isolate::ResponseBody;
use atoll_router::rules::{
    Decision, EXPLAIN, Effects, Geo, HeaderChange, Overlay, PREVIEW_TOKEN, PathEffect, Picked,
    RuleSet, UNIT_COOKIE, Visit,
};
use atoll_router::{Place, Scheme};
use http::header::{HeaderMap, HeaderName, HeaderValue, LOCATION, SET_COOKIE};
use http::{Request, Response, StatusCode};
use serde_json::json;

use super::body::AnswerBody;
use crate::registry::{WorkerRules, now_ms, random_hex_id};

/// How long a client keeps the id that it is given, in seconds.
const UNIT_AGE_S: u32 = 365 * 24 * 60 * 60;

/// The rules of one worker, as all threads use them.
pub(super) struct LiveRules {
    source: WorkerRules,
    set: RuleSet,
}

impl LiveRules {
    /// Compiles rules, unless `before` is the same.
    pub(super) fn compile(source: &WorkerRules, before: Option<&Arc<Self>>) -> Option<Arc<Self>> {
        if let Some(before) = before.filter(|before| before.source == *source) {
            return Some(before.clone());
        }
        let document = serde_json::from_str(&source.document).unwrap_or_default();
        let overlay = serde_json::from_str::<Overlay>(&source.overlay).unwrap_or_default();
        // The API refuses what cannot be used: a newer release may have set these.
        let set = RuleSet::parse(&document, overlay).inspect_err(|error| {
            tracing::error!(worker = %source.worker.worker, %error, "rules are passed over: run the release that set them");
        });
        Some(Arc::new(Self { source: source.clone(), set: set.ok()? }))
    }

    /// Decides what becomes of a request.
    pub(super) fn judge<B>(self: &Arc<Self>, sent: &Sent<'_, B>) -> Ruling {
        let uri = sent.request.uri();
        let visit = Visit {
            scheme: sent.scheme,
            host: sent.host,
            method: sent.request.method(),
            path: uri.path(),
            query: uri.query(),
            headers: sent.request.headers(),
            geo: geo(sent.place),
            now_ms: now_ms(),
            fresh_unit: &random_hex_id,
            trusted: sent.trusted,
        };
        let decision = self.set.evaluate(&visit);
        let effects = self.set.effects(&decision, &visit);
        let on_response = OnResponse::new(&self.set, &decision, &effects, sent.scheme);
        let Effects { picked, path, request_headers, .. } = effects;
        Ruling {
            picked: picked.cloned(),
            path,
            request_headers: request_headers.into_iter().cloned().collect(),
            on_response,
            decided: Decided(Arc::new((self.clone(), decision))),
        }
    }
}

fn geo(place: &Place) -> Geo<'_> {
    Geo {
        country: place.country.as_deref(),
        continent: place.continent.as_deref(),
        region: place.region.as_deref(),
        region_code: place.region_code.as_deref(),
        city: place.city.as_deref(),
        postal_code: place.postal_code.as_deref(),
        timezone: place.timezone.as_deref(),
        asn: place.asn,
        eu: place.is_eu,
    }
}

/// A request with what its rules may look at.
pub(super) struct Sent<'a, B> {
    pub(super) request: &'a Request<B>,
    pub(super) scheme: Scheme,
    pub(super) host: &'a str,
    pub(super) place: &'a Place,
    /// Whether anybody may force variants, as in development.
    pub(super) trusted: bool,
}

/// What rules made of a request.
pub(super) struct Ruling {
    /// Who answers instead.
    pub(super) picked: Option<Picked>,
    /// What becomes of the address.
    pub(super) path: Option<PathEffect>,
    request_headers: Vec<HeaderChange>,
    pub(super) on_response: OnResponse,
    pub(super) decided: Decided,
}

impl Ruling {
    /// Changes the request's headers, and takes away what is the operator's alone.
    pub(super) fn change_request(&self, headers: &mut HeaderMap) {
        headers.remove(PREVIEW_TOKEN);
        for HeaderChange { name, value } in &self.request_headers {
            match value {
                Some(value) => drop(headers.insert(name, value.clone())),
                None => drop(headers.remove(name)),
            }
        }
    }
}

/// A decision, for the worker that wants to know it.
#[derive(Clone)]
pub(super) struct Decided(Arc<(Arc<LiveRules>, Decision)>);

impl Decided {
    /// The decision as JSON text.
    pub(super) fn flags(&self) -> String {
        let (rules, decision) = &*self.0;
        let (details, variables) = (rules.set.details(decision), rules.set.variables(decision));
        json!({ "details": details, "variables": variables }).to_string()
    }
}

/// What the client is told along with its response.
#[derive(Default)]
pub(super) struct OnResponse {
    headers: Vec<HeaderChange>,
    unit: Option<HeaderValue>,
    explanation: Option<HeaderValue>,
}

impl OnResponse {
    fn new(set: &RuleSet, decision: &Decision, effects: &Effects<'_>, scheme: Scheme) -> Self {
        let unit = decision.fresh_unit.as_deref().and_then(|id| {
            let secure = if scheme == Scheme::Https { "; Secure" } else { "" };
            let cookie = format!(
                "{UNIT_COOKIE}={id}; Path=/; Max-Age={UNIT_AGE_S}; HttpOnly; SameSite=Lax{secure}"
            );
            HeaderValue::try_from(cookie).ok()
        });
        let explanation = set.explain(decision).and_then(|text| HeaderValue::try_from(text).ok());
        let headers = effects.response_headers.iter().map(|change| (*change).clone()).collect();
        Self { headers, unit, explanation }
    }

    /// Whether the client asked for reasons and may know them.
    pub(super) fn is_explained(&self) -> bool {
        self.explanation.is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.unit.is_none() && self.explanation.is_none()
    }

    pub(super) fn apply<B>(self, mut response: Response<B>) -> Response<B> {
        let headers = response.headers_mut();
        for HeaderChange { name, value } in self.headers {
            match value {
                // Every cookie has a header of its own.
                Some(value) if name == SET_COOKIE => drop(headers.append(name, value)),
                Some(value) => drop(headers.insert(name, value)),
                None => drop(headers.remove(name)),
            }
        }
        if let Some(unit) = self.unit {
            headers.append(SET_COOKIE, unit);
        }
        if let Some(explanation) = self.explanation {
            headers.insert(HeaderName::from_static(EXPLAIN), explanation);
        }
        response
    }
}

/// Sends the client elsewhere.
pub(super) fn redirect(status: StatusCode, location: &str) -> Response<AnswerBody> {
    let mut response =
        Response::new(AnswerBody::Here(ResponseBody::Full(Some(bytes::Bytes::new()))));
    *response.status_mut() = status;
    // Templates and requests' addresses have no character that a header value may not have.
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}
