//! Rules as a whole: what documents mean, and what must hold of every document.

mod documents;
mod experiments;
mod growthbook;
mod model;
mod problems;
mod statistics;
mod stickiness;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};

use super::*;
use crate::geo::Place;
use crate::pattern::Scheme;

/// A request, for tests.
#[derive(Clone, Debug)]
struct Sent {
    method: Method,
    host: String,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
    country: Option<String>,
    asn: Option<u32>,
    eu: Option<bool>,
    now_ms: u64,
    trusted: bool,
}

/// 2026-11-26T14:00:00Z, a Thursday.
const NOW_MS: u64 = 1_795_701_600_000;

impl Sent {
    fn get(target: &str) -> Self {
        let (path, query) = target.split_once('?').map_or((target, None), |(p, q)| (p, Some(q)));
        Self {
            method: Method::GET,
            host: "shop.example".to_owned(),
            path: path.to_owned(),
            query: query.map(str::to_owned),
            headers: HeaderMap::new(),
            country: None,
            asn: None,
            eu: None,
            now_ms: NOW_MS,
            trusted: false,
        }
    }

    fn header(mut self, name: &'static str, value: &str) -> Self {
        let value = HeaderValue::from_str(value).unwrap();
        self.headers.append(HeaderName::from_static(name), value);
        self
    }

    /// With an id of its own.
    fn unit(self, id: &str) -> Self {
        self.header("cookie", &format!("{UNIT_COOKIE}={id}"))
    }

    fn country(self, country: &str) -> Self {
        Self { country: Some(country.to_owned()), ..self }
    }

    fn visit<T>(&self, see: impl FnOnce(&Visit<'_>) -> T) -> T {
        let country = self.country.as_deref().map(Box::from);
        let place = Place { country, asn: self.asn, is_eu: self.eu, ..Place::default() };
        see(&Visit {
            scheme: Scheme::Https,
            host: &self.host,
            method: &self.method,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
            place: Some(&place),
            now_ms: self.now_ms,
            fresh_unit: &|| "fresh".to_owned(),
            trusted: self.trusted,
        })
    }

    fn decide(&self, rules: &RuleSet) -> Box<Decision> {
        self.visit(|visit| rules.evaluate(visit))
    }

    /// What was given, as `rule=variant other=variant`.
    fn given(&self, rules: &RuleSet) -> String {
        let decision = self.decide(rules);
        let given = decision.assigned.iter().map(|assigned| {
            let rule = &rules.rules()[assigned.rule];
            format!("{}={}", rule.name(), rule.variants()[assigned.variant].name())
        });
        given.collect::<Vec<_>>().join(" ")
    }
}

fn rules(document: Value) -> RuleSet {
    RuleSet::parse(&document, Overlay::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// A set of one rule that holds when the conditions do.
fn when(conditions: Value) -> RuleSet {
    rules(json!({ "rule": [{ "name": "r", "when": conditions }] }))
}
