//! Rules before dispatch: what they make of a request, and what the client is told along with its response.

use std::sync::Arc;
use std::time::Instant;

use atoll_isolate::ResponseBody;
use atoll_router::rules::{
    Decision, EXPLAIN, Effects, HeaderChange, Overlay, PREVIEW_TOKEN, PathEffect, Picked, Reason,
    RuleSet, SCRIPT, Scripted, UNIT_COOKIE, Visit,
};
use atoll_router::{Place, Scheme};
use http::header::{HeaderMap, HeaderName, HeaderValue, LOCATION, SET_COOKIE};
use http::{Request, Response, StatusCode};
use serde_json::json;

use super::body::AnswerBody;
use crate::experiments::{Exposure, Recorder, Tally};
use crate::registry::{WorkerRules, random_hex_id};

/// Its name is read once.
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
    looks_at_time: bool,
    acts_on_request: bool,
    acts_on_path: bool,
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
        Some(Arc::new(Self {
            source: source.clone(),
            looks_at_place: set.looks_at_place(),
            looks_at_time: set.looks_at_time(),
            acts_on_request: set.acts_on_request(),
            acts_on_path: set.acts_on_path(),
            set,
            tally,
        }))
    }

    /// Whether it matters where a request came from.
    pub(super) fn looks_at_place(&self) -> bool {
        self.looks_at_place
    }

    /// Whether it matters when a request came.
    pub(super) fn looks_at_time(&self) -> bool {
        self.looks_at_time
    }

    /// Decides what becomes of a request.
    pub(super) fn judge<B>(self: Arc<Self>, sent: &Sent<'_, B>) -> Ruling {
        let begun = self.tally.as_ref().map(|_| Instant::now());
        let visit = sent.visit();
        let decision = self.set.evaluate(&visit);
        let by = Arc::new(Judged { decision, rules: self, scheme: sent.scheme, begun });
        let path = match by.rules.acts_on_path {
            true => by.rules.set.path(&by.decision, &visit),
            false => None,
        };
        let decided = Decided { by, script: Script::None, exposure: Exposure::ToBeNoted };
        Ruling { path, decided }
    }

    /// The worker whose script decides, where it is not the worker's own.
    pub(super) fn script(&self) -> Option<&str> {
        self.set.script()
    }
}

/// A request with what its rules may look at.
pub(super) struct Sent<'a, B> {
    pub(super) request: &'a Request<B>,
    pub(super) scheme: Scheme,
    pub(super) host: &'a str,
    /// Where it came from; nothing where the rules do not look at that.
    pub(super) place: Option<&'a Place>,
    /// Milliseconds since the Unix epoch; nothing where the rules do not look at the time.
    pub(super) now_ms: Option<u64>,
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
            place: self.place,
            now_ms: self.now_ms.unwrap_or_default(),
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

/// What rules made of a request, and its script after them.
pub(super) struct Ruling {
    /// What becomes of the address.
    pub(super) path: Option<PathEffect>,
    pub(super) decided: Decided,
}

impl Ruling {
    /// Whether the client is sent elsewhere.
    pub(super) fn is_redirect(&self) -> bool {
        matches!(self.path, Some(PathEffect::Redirect { .. }))
    }

    /// Adds where a script sends the request. Where it disagrees with the rules, they have their way.
    pub(super) fn add_path(&mut self, scripted: &Scripted, visit: &Visit<'_>) {
        if self.path.is_none() {
            self.path = scripted.path(visit);
        }
    }

    /// Remembers what became of a script.
    pub(super) fn note(&mut self, script: Script) {
        self.decided.script = script;
    }
}

/// What became of the rules, and then of the script.
fn explained(rules: &str, script: &Script) -> HeaderValue {
    let said = match script {
        Script::None => return rules_only(rules),
        Script::Nothing => format!("{SCRIPT}: no decision"),
        Script::Decided(decision) => {
            format!("{SCRIPT}={} ({})", decision.variant(), Reason::TargetingMatch.as_str())
        }
        Script::Failed(why) => format!("{SCRIPT}: failed: {why}"),
    };
    let separator = if rules.is_empty() { "" } else { ", " };
    // What a script throws may be any text.
    let fit = |letter: &char| matches!(letter, ' '..='~');
    let text: String = said.chars().filter(fit).take(EXPLAINED_CHARS_MAX).collect();
    HeaderValue::try_from(format!("{rules}{separator}{text}")).unwrap_or_else(|_| rules_only(rules))
}

fn rules_only(rules: &str) -> HeaderValue {
    HeaderValue::from_str(rules).unwrap_or(HeaderValue::from_static(""))
}

/// What rules decided about one request.
struct Judged {
    rules: Arc<LiveRules>,
    decision: Box<Decision>,
    scheme: Scheme,
    /// When the request came, where it is noted how it fares.
    begun: Option<Instant>,
}

/// A decision, for whoever carries it out and for the worker that wants to know it.
#[derive(Clone)]
pub(super) struct Decided {
    by: Arc<Judged>,
    script: Script,
    exposure: Exposure,
}

impl Decided {
    fn effects(&self) -> Effects<'_> {
        let Judged { rules, decision, .. } = &*self.by;
        let effects = rules.set.effects(decision);
        match &self.script {
            Script::Decided(scripted) => effects.with_scripted(scripted),
            Script::None | Script::Nothing | Script::Failed(_) => effects,
        }
    }

    /// The rules that decided.
    pub(super) fn rules(&self) -> &LiveRules {
        &self.by.rules
    }

    /// What is done to the request; most rules do nothing to it.
    fn effects_on_request(&self) -> Option<Effects<'_>> {
        let acts = self.by.rules.acts_on_request || matches!(self.script, Script::Decided(_));
        acts.then(|| self.effects())
    }

    /// Who answers instead.
    pub(super) fn picked(&self) -> Option<&Picked> {
        self.effects_on_request()?.picked()
    }

    /// Whether the client asked for reasons and may know them.
    pub(super) fn is_explained(&self) -> bool {
        self.by.decision.trace.is_some()
    }

    /// Notes who sees what, before the request waits for something: outcomes count only after that.
    pub(super) fn note_exposure(&mut self) {
        let Judged { rules, decision, .. } = &*self.by;
        if let Some(tally) = &rules.tally {
            tally.exposed(decision);
        }
        self.exposure = Exposure::Noted;
    }

    /// Changes the request's headers, and takes away what is the operator's alone.
    pub(super) fn change_request(&self, headers: &mut HeaderMap) {
        if self.by.rules.set.has_token() {
            headers.remove(&PREVIEW_TOKEN_NAME);
        }
        let Some(effects) = self.effects_on_request() else { return };
        effects.request_headers(|HeaderChange { name, value }| match value {
            Some(value) => drop(headers.insert(name, value.clone())),
            None => drop(headers.remove(name)),
        });
    }

    /// Tells the client along with its response, and notes how the request fared and, unless that was done before,
    /// who sees what.
    pub(super) fn tell<B>(&self, response: &mut Response<B>) {
        let Judged { rules, decision, scheme, begun } = &*self.by;
        if let (Some(tally), Some(begun)) = (&rules.tally, begun) {
            tally.served(decision, self.exposure, response.status().as_u16(), begun.elapsed());
        }
        let headers = response.headers_mut();
        self.effects().response_headers(|HeaderChange { name, value }| match value {
            // Every cookie has a header of its own.
            Some(value) if name == SET_COOKIE => drop(headers.append(name, value.clone())),
            Some(value) => drop(headers.insert(name, value.clone())),
            None => drop(headers.remove(name)),
        });
        if let Some(unit) = decision.fresh_unit.as_deref().and_then(|id| unit_cookie(id, *scheme)) {
            headers.append(SET_COOKIE, unit);
        }
        if let Some(rules) = rules.set.explain(decision) {
            let explanation = explained(&rules, &self.script);
            headers.insert(HeaderName::from_static(EXPLAIN), explanation);
        }
    }

    /// Notes what the units did that the decision was made for.
    pub(super) fn track(&self, metric: &str, value: f64) {
        let Judged { rules, decision, .. } = &*self.by;
        if let Some(tally) = &rules.tally {
            tally.tracked(decision, metric, value);
        }
    }

    /// The decision as JSON text.
    pub(super) fn flags(&self) -> String {
        let Judged { rules, decision, .. } = &*self.by;
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

/// The cookie by which a client keeps the id that it was given.
fn unit_cookie(id: &str, scheme: Scheme) -> Option<HeaderValue> {
    let secure = if scheme == Scheme::Https { "; Secure" } else { "" };
    let cookie =
        format!("{UNIT_COOKIE}={id}; Path=/; Max-Age={UNIT_AGE_S}; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::try_from(cookie).ok()
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
