//! Rules before dispatch: what they make of a request, and what the client is told along with its response.

use std::sync::Arc;
use std::time::Duration;

use atoll_isolate::ResponseBody;
use atoll_router::rules::{
    Decision, EXPLAIN, Effects, Geo, HeaderChange, Overlay, PREVIEW_TOKEN, PathEffect, Picked,
    Reason, RuleSet, SCRIPT, Scripted, UNIT_COOKIE, Visit,
};
use atoll_router::{Place, Scheme};
use http::header::{HeaderMap, HeaderName, HeaderValue, LOCATION, SET_COOKIE};
use http::{Request, Response, StatusCode};
use serde_json::json;
use smallvec::SmallVec;

use super::body::AnswerBody;
use crate::experiments::{Recorder, Tally};
use crate::registry::{WorkerRules, now_ms, random_hex_id};

/// Looked for in every request: its name is read once.
const PREVIEW_TOKEN_NAME: HeaderName = HeaderName::from_static(PREVIEW_TOKEN);

/// How long a client keeps the id that it is given, in seconds.
const UNIT_AGE_S: u32 = 365 * 24 * 60 * 60;

/// What the explanation says of a script, in characters.
const EXPLAINED_CHARS_MAX: usize = 1_000;

/// The rules of one worker, as all threads use them.
pub(super) struct LiveRules {
    source: WorkerRules,
    set: Arc<RuleSet>,
    looks_at_place: bool,
    /// Where it is noted what comes of decisions, if they compare anything.
    tally: Option<Arc<Tally>>,
}

impl LiveRules {
    /// Compiles rules, unless `before` is the same.
    pub(super) fn compile(
        source: &WorkerRules,
        before: Option<&Arc<Self>>,
        recorder: &Recorder,
    ) -> Option<Arc<Self>> {
        if let Some(before) = before.filter(|before| before.source == *source) {
            return Some(before.clone());
        }
        let document = serde_json::from_str(&source.document).unwrap_or_default();
        let overlay = serde_json::from_str::<Overlay>(&source.overlay).unwrap_or_default();
        // The API refuses what cannot be used: a newer release may have set these.
        let set = RuleSet::parse(&document, overlay).inspect_err(|error| {
            tracing::error!(worker = %source.worker.worker, %error, "rules are passed over: run the release that set them");
        });
        let set = Arc::new(set.ok()?);
        let tally = recorder.tally(&source.worker, &set);
        let looks_at_place = set.looks_at_place();
        Some(Arc::new(Self { source: source.clone(), set, looks_at_place, tally }))
    }

    /// Whether it matters where a request came from.
    pub(super) fn looks_at_place(&self) -> bool {
        self.looks_at_place
    }

    /// Whether it is to be noted how requests fare.
    pub(super) fn is_measured(&self) -> bool {
        self.tally.is_some()
    }

    /// Decides what becomes of a request.
    pub(super) fn judge<B>(self: &Arc<Self>, sent: &Sent<'_, B>) -> Ruling {
        let visit = sent.visit();
        let decision = self.set.evaluate(&visit);
        if let Some(tally) = &self.tally {
            tally.exposed(&decision);
        }
        let effects = self.set.effects(&decision, &visit);
        let on_response = OnResponse::new(&self.set, &decision, &effects, sent.scheme);
        let Effects { picked, path, request_headers, .. } = effects;
        Ruling {
            picked: picked.cloned(),
            path,
            request_headers: request_headers.into_iter().cloned().collect(),
            on_response,
            decided: Decided { by: Arc::new((self.clone(), decision)), script: Script::None },
        }
    }

    /// The worker whose script decides, where it is not the worker's own.
    pub(super) fn script(&self) -> Option<&str> {
        self.set.script()
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
    /// Where it came from; nothing where the rules do not look at that.
    pub(super) place: Option<&'a Place>,
    /// Whether anybody may force variants, as in development.
    pub(super) trusted: bool,
}

impl<B> Sent<'_, B> {
    /// As rules see it.
    pub(super) fn visit(&self) -> Visit<'_> {
        let uri = self.request.uri();
        Visit {
            scheme: self.scheme,
            host: self.host,
            method: self.request.method(),
            path: uri.path(),
            query: uri.query(),
            headers: self.request.headers(),
            geo: self.place.map(geo).unwrap_or_default(),
            now_ms: now_ms(),
            fresh_unit: &random_hex_id,
            trusted: self.trusted,
        }
    }
}

/// What a script decided after the rules.
#[derive(Clone)]
pub(super) enum Script {
    /// There is none.
    None,
    /// It decided nothing.
    Nothing,
    Decided(Arc<Scripted>),
    /// It failed, and why.
    Failed(Arc<str>),
}

/// Changes of headers that outlive the rules. Most requests have one, if any.
type Changes = SmallVec<[HeaderChange; 1]>;

/// What rules made of a request.
pub(super) struct Ruling {
    /// Who answers instead.
    pub(super) picked: Option<Picked>,
    /// What becomes of the address.
    pub(super) path: Option<PathEffect>,
    request_headers: Changes,
    pub(super) on_response: OnResponse,
    pub(super) decided: Decided,
}

impl Ruling {
    /// Whether the client is sent elsewhere.
    pub(super) fn is_redirect(&self) -> bool {
        matches!(self.path, Some(PathEffect::Redirect { .. }))
    }

    /// Adds what a script decided. Where it disagrees with the rules, they have their way.
    pub(super) fn add(&mut self, effects: Effects<'_>) {
        if self.picked.is_none() {
            self.picked = effects.picked.cloned();
        }
        if self.path.is_none() {
            self.path = effects.path;
        }
        add_headers(&mut self.request_headers, &effects.request_headers);
        add_headers(&mut self.on_response.headers, &effects.response_headers);
    }

    /// Remembers what became of a script.
    pub(super) fn note(&mut self, script: Script) {
        if let Some(explanation) = &mut self.on_response.explanation {
            *explanation = explained(explanation, &script);
        }
        self.decided.script = script;
    }

    /// Changes the request's headers, and takes away what is the operator's alone.
    pub(super) fn change_request(&self, headers: &mut HeaderMap) {
        headers.remove(&PREVIEW_TOKEN_NAME);
        for HeaderChange { name, value } in &self.request_headers {
            match value {
                Some(value) => drop(headers.insert(name, value.clone())),
                None => drop(headers.remove(name)),
            }
        }
    }
}

fn add_headers(all: &mut Changes, more: &[&HeaderChange]) {
    for change in more {
        if all.iter().all(|known| known.name != change.name) {
            all.push((*change).clone());
        }
    }
}

/// What became of the rules, and then of the script.
fn explained(rules: &HeaderValue, script: &Script) -> HeaderValue {
    let said = match script {
        Script::None => return rules.clone(),
        Script::Nothing => format!("{SCRIPT}: no decision"),
        Script::Decided(decision) => {
            format!("{SCRIPT}={} ({})", decision.variant(), Reason::TargetingMatch.as_str())
        }
        Script::Failed(why) => format!("{SCRIPT}: failed: {why}"),
    };
    let rules = rules.to_str().unwrap_or_default();
    let separator = if rules.is_empty() { "" } else { ", " };
    // What a script throws may be any text.
    let fit = |letter: &char| matches!(letter, ' '..='~');
    let text: String = said.chars().filter(fit).take(EXPLAINED_CHARS_MAX).collect();
    HeaderValue::try_from(format!("{rules}{separator}{text}")).unwrap_or_else(|_| rules_only(rules))
}

fn rules_only(rules: &str) -> HeaderValue {
    HeaderValue::from_str(rules).unwrap_or(HeaderValue::from_static(""))
}

/// A decision, for the worker that wants to know it.
#[derive(Clone)]
pub(super) struct Decided {
    by: Arc<(Arc<LiveRules>, Decision)>,
    script: Script,
}

impl Decided {
    /// Notes what the units did that the decision was made for.
    pub(super) fn track(&self, metric: &str, value: f64) {
        let (rules, decision) = &*self.by;
        if let Some(tally) = &rules.tally {
            tally.tracked(decision, metric, value);
        }
    }

    /// Notes how the request fared.
    pub(super) fn served(&self, status: StatusCode, latency: Duration) {
        let (rules, decision) = &*self.by;
        if let Some(tally) = &rules.tally {
            tally.served(decision, status.as_u16(), latency);
        }
    }

    /// The decision as JSON text.
    pub(super) fn flags(&self) -> String {
        let (rules, decision) = &*self.by;
        let mut details = rules.set.details(decision);
        let mut variables = rules.set.variables(decision);
        let of_script = match &self.script {
            Script::None => None,
            Script::Nothing => Some(json!({ "value": null, "reason": Reason::Default.as_str() })),
            Script::Decided(decision) => {
                for (name, value) in decision.variables() {
                    variables.entry(name).or_insert_with(|| value.clone());
                }
                Some(decision.details())
            }
            Script::Failed(why) => Some(json!({
                "value": null, "reason": "ERROR", "errorCode": "GENERAL", "errorMessage": why,
            })),
        };
        if let Some(of_script) = of_script {
            details.entry(SCRIPT).or_insert(of_script);
        }
        json!({ "details": details, "variables": variables }).to_string()
    }
}

/// What the client is told along with its response.
pub(super) struct OnResponse {
    headers: Changes,
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

    pub(super) fn apply<B>(self, response: &mut Response<B>) {
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
