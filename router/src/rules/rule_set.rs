//! A set of rules, compiled: evaluated as a whole against a request, without I/O and without a clock.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::action::{Action, Effects, PathAction, PathEffect};
use super::allotment::{Allotment, OUT};
use super::condition::Condition;
use super::decision::{Assigned, Decision, LeftOut, Outcome, Reason, Trace};
use super::error::RulesError;
use super::facts::{Facts, Names};
use super::guardrail::RollBack;
use super::murmur3::Seed;
use super::parse;
use super::preview::Asked;
use super::rule::{Preview, Requirement, Rule, State};
use super::schedule::{Moment, Past};
use super::visit::Visit;

/// Rules of which at most one decides a request, in order.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) name: Box<str>,
    pub(super) seed: Seed,
    /// The places of its rules.
    pub(super) rules: Box<[usize]>,
}

/// Units that some rules leave out, so that one can see what the rules do together.
#[derive(Clone, Debug)]
pub(super) struct Holdout {
    pub(super) seed: Seed,
    pub(super) unit: usize,
    /// The buckets from 0 to this are held out.
    pub(super) end: u16,
}

/// What a node knows of a document's rules and the document does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Overlay {
    /// Rules that are switched off.
    pub switched_off: BTreeSet<String>,
    /// Who had which bucket when weights last changed, by rule.
    pub history: BTreeMap<String, RuleHistory>,
    /// Variants that were taken back, by rule.
    pub rolled_back: BTreeMap<String, BTreeMap<String, RollBack>>,
    /// Since when guardrails look at a rule anew, by rule: milliseconds since the Unix epoch.
    pub guarded_since_ms: BTreeMap<String, u64>,
}

/// Who had which bucket at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleHistory {
    /// Milliseconds since the Unix epoch.
    pub as_of_ms: u64,
    /// By variant, ranges of buckets, the end excluded.
    pub buckets: BTreeMap<String, Vec<(u16, u16)>>,
}

/// Rules of one worker, compiled.
#[derive(Clone, Debug)]
pub struct RuleSet {
    pub(super) names: Names,
    pub(super) layers: Box<[Layer]>,
    pub(super) holdouts: Box<[Holdout]>,
    /// In the document's order.
    pub(super) rules: Box<[Rule]>,
    /// How many of them are experiments.
    pub(super) experiments: usize,
    pub(super) token_sha256: Option<[u8; 32]>,
    /// The worker whose script decides after the rules.
    pub(super) script: Option<Box<str>>,
    /// Whether anybody may force variants of some rule.
    pub(super) open: bool,
    pub(super) overlay: Overlay,
}

impl RuleSet {
    /// Compiles a document.
    ///
    /// # Errors
    /// Fails with every problem of the document and its place, up to a limit.
    pub fn parse(document: &Value, overlay: Overlay) -> Result<Self, RulesError> {
        parse::rule_set(document, overlay)
    }

    /// The rules, as the document orders them.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What the node added to the document.
    pub fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    /// Whether it matters where a request came from: to some condition, or to an address that is filled in.
    pub fn looks_at_place(&self) -> bool {
        let paths =
            |rule: &Rule| rule.variants.iter().any(|variant| variant.action.looks_at_place());
        let when = |rule: &Rule| rule.when.as_ref().is_some_and(Condition::looks_at_place);
        self.rules.iter().any(|rule| when(rule) || paths(rule))
    }

    /// Whether it matters when a request came: to some condition, or to a ramp.
    pub fn looks_at_time(&self) -> bool {
        let when = |rule: &Rule| rule.when.as_ref().is_some_and(Condition::looks_at_time);
        self.rules.iter().any(|rule| when(rule) || rule.schedule.moves())
    }

    /// Whether some variant acts upon the request itself: who answers it, or with what headers.
    pub fn acts_on_request(&self) -> bool {
        let mut variants = self.rules.iter().flat_map(|rule| &rule.variants);
        variants.any(|variant| variant.action.acts_on_request())
    }

    /// Whether some variant acts upon the address of a request.
    pub fn acts_on_path(&self) -> bool {
        self.rules
            .iter()
            .flat_map(|rule| &rule.variants)
            .any(|variant| variant.action.path.is_some())
    }

    /// Whether somebody may have a token that previews variants.
    pub fn has_token(&self) -> bool {
        self.token_sha256.is_some()
    }

    /// The worker whose script decides after the rules, where it is not the worker's own.
    pub fn script(&self) -> Option<&str> {
        self.script.as_deref()
    }

    /// The layer that a rule is in.
    pub fn layer(&self, rule: &Rule) -> &str {
        &self.layers[rule.layer].name
    }

    /// A rule by name, and its place.
    pub fn rule(&self, name: &str) -> Option<(usize, &Rule)> {
        self.rules.iter().enumerate().find(|(_, rule)| *rule.name == *name)
    }

    /// What the node adds to a document that takes this one's place: a rule of the same name and seed moves as
    /// few units as can be, and what was switched off stays off.
    ///
    /// # Errors
    /// Fails when the document is no set of rules.
    pub fn overlay_of_next(&self, document: &Value, now_ms: u64) -> Result<Overlay, RulesError> {
        let next = Self::parse(document, Overlay::default())?;
        let mut overlay = Overlay::default();
        for rule in &next.rules {
            let Some((_, before)) = self.rule(&rule.name) else { continue };
            let name = rule.name.to_string();
            if before.state == State::SwitchedOff {
                overlay.switched_off.insert(name.clone());
            }
            if let Some(since) = self.overlay.guarded_since_ms.get(&name) {
                overlay.guarded_since_ms.insert(name.clone(), *since);
            }
            if let Some(variants) = self.overlay.rolled_back.get(&name) {
                let mut kept = variants.clone();
                kept.retain(|variant, _| rule.variants.iter().any(|v| *v.name == **variant));
                overlay.rolled_back.insert(name.clone(), kept);
            }
            if before.seed_text != rule.seed_text {
                continue;
            }
            let same = before.plan == rule.plan
                && before
                    .variants
                    .iter()
                    .map(|v| &v.name)
                    .eq(rule.variants.iter().map(|v| &v.name));
            let history = match same {
                true => self.overlay.history.get(&name).cloned(),
                false => Some(before.history(now_ms)),
            };
            overlay.history.extend(history.map(|history| (name, history)));
        }
        Ok(overlay)
    }

    /// Decides what becomes of a request. A decision is large and handed on: it is made in its box.
    pub fn evaluate(&self, visit: &Visit<'_>) -> Box<Decision> {
        let asked = Asked::of(visit, self.token_sha256.as_ref(), self.open);
        let mut facts = Facts::new(visit, &self.names);
        let mut decision = Box::<Decision>::default();
        if asked.explain {
            decision.trace = Some(Vec::new());
        }
        Evaluation { set: self, facts: &facts, asked: &asked, decision: &mut decision }.run();
        decision.fresh_unit = facts.take_fresh_unit();
        decision
    }

    /// What a decision means for the request that it was made for, but for its address.
    pub fn effects<'r>(&'r self, decision: &'r Decision) -> Effects<'r> {
        Effects::new(self, decision)
    }

    /// What becomes of the address of the request that a decision was made for.
    pub fn path(&self, decision: &Decision, visit: &Visit<'_>) -> Option<PathEffect> {
        let mut paths = decision.assigned.iter().filter_map(|a| self.action(a).path.as_ref());
        let first = paths.next()?;
        let facts = Facts::new(visit, &self.names);
        std::iter::once(first).chain(paths).find_map(|path| filled(path, &facts))
    }

    pub(super) fn action(&self, assigned: &Assigned) -> &Action {
        &self.rules[assigned.rule].variants[assigned.variant].action
    }
}

pub(super) fn filled(path: &PathAction, facts: &Facts<'_>) -> Option<PathEffect> {
    match path {
        PathAction::Rewrite(template) => Some(PathEffect::Rewrite(template.fill_path(facts))),
        PathAction::Redirect(status, template) => {
            let location = template.fill(facts);
            // It would never end.
            let here = is_here(&location, facts.visit);
            (!here).then_some(PathEffect::Redirect { status: *status, location })
        }
    }
}

/// Whether a location is where the request is already.
fn is_here(location: &str, visit: &Visit<'_>) -> bool {
    let location = location.split_once('#').map_or(location, |(url, _)| url);
    let rest = match location.split_once("://") {
        Some((scheme, rest)) => {
            let host = rest.get(..visit.host.len());
            if scheme != visit.scheme.as_str()
                || !host.is_some_and(|host| host.eq_ignore_ascii_case(visit.host))
            {
                return false;
            }
            &rest[visit.host.len()..]
        }
        None => location,
    };
    let (path, query) = rest.split_once('?').map_or((rest, None), |(p, q)| (p, Some(q)));
    let path = if path.is_empty() { "/" } else { path };
    path == visit.path && query.unwrap_or("") == visit.query.unwrap_or("")
}

impl Rule {
    /// What units of a variant get that was taken back.
    fn instead(&self) -> Outcome {
        match self.variants.len() {
            1 => Outcome::RolledBack,
            _ => Outcome::Assigned(self.control, Reason::RolledBack),
        }
    }

    fn history(&self, now_ms: u64) -> RuleHistory {
        let past = self.schedule.past(now_ms);
        let mut buckets: BTreeMap<String, Vec<(u16, u16)>> = BTreeMap::new();
        for (start, run) in past.allotment.runs().filter(|(_, run)| run.owner != OUT) {
            let name = self.variants[usize::from(run.owner)].name.to_string();
            buckets.entry(name).or_default().push((start, run.end));
        }
        RuleHistory { as_of_ms: now_ms, buckets }
    }
}

impl RuleHistory {
    /// The same by variants' places. Those that are gone had nothing; nor had anybody when it makes no sense.
    pub(super) fn past(&self, variants: &[&str]) -> Option<Past> {
        let place = |name: &str| variants.iter().position(|variant| *variant == name);
        let ranges = self.buckets.iter().filter_map(|(name, ranges)| {
            let owner = u8::try_from(place(name)?).ok()?;
            Some(ranges.iter().map(move |(from, to)| (owner, *from, *to)))
        });
        let allotment = Allotment::of_ranges(ranges.flatten())?;
        Some(Past { as_of_ms: self.as_of_ms, allotment })
    }
}

/// One evaluation under way.
struct Evaluation<'e, 'v> {
    set: &'e RuleSet,
    facts: &'e Facts<'v>,
    asked: &'e Asked<'v>,
    decision: &'e mut Decision,
}

impl Evaluation<'_, '_> {
    fn run(mut self) {
        let set = self.set;
        let mut drawn = 0;
        for layer in &set.layers {
            let forced = if self.asked.is_none() { None } else { self.forced(layer) };
            let mut taken = false;
            for place in &layer.rules {
                let (outcome, bucket) = match forced {
                    Some((rule, variant)) if rule == *place => {
                        (Outcome::Assigned(variant, Reason::Preview), None)
                    }
                    Some(_) => (Outcome::LayerTaken, None),
                    None if taken => (Outcome::LayerTaken, None),
                    None => self.decide(layer, &set.rules[*place]),
                };
                match outcome {
                    Outcome::Assigned(variant, reason) => {
                        taken = true;
                        let rule = &set.rules[*place];
                        let unit =
                            (reason == Reason::Split).then(|| self.facts.unit_hash(rule.unit));
                        drawn += usize::from(unit.is_some() && rule.is_experiment);
                        let given = Assigned { rule: *place, variant, reason, unit };
                        self.decision.assigned.push(given);
                    }
                    Outcome::Out => self.leave_out(*place),
                    _ => {}
                }
                match &mut self.decision.trace {
                    Some(trace) => trace.push(Trace { rule: *place, outcome, bucket }),
                    None if taken => break,
                    None => {}
                }
            }
        }
        // Units that were drawn for stand in the decision already.
        if drawn < set.experiments {
            self.decision.units = self.facts.known_units();
        }
    }

    /// Notes a unit that got nothing, where that is what the rule's only variant is compared with.
    #[inline(never)]
    fn leave_out(&mut self, place: usize) {
        let rule = &self.set.rules[place];
        if rule.compares_with_nobody() {
            let unit = self.facts.unit_hash(rule.unit);
            self.decision.left_out.push(LeftOut { rule: place, unit });
        }
    }

    /// The rule of a layer for which the request asks for a variant, as far as it may.
    #[cold]
    fn forced(&self, layer: &Layer) -> Option<(usize, usize)> {
        layer.rules.iter().find_map(|place| {
            let rule = &self.set.rules[*place];
            let allowed = match rule.preview {
                Preview::Open => self.asked.trusted || rule.state == State::On,
                Preview::Token => self.asked.trusted,
                Preview::Off => false,
            };
            let wanted = self.asked.variant(&rule.name).filter(|_| allowed)?;
            let variant = rule.variants.iter().position(|variant| *variant.name == *wanted)?;
            Some((*place, variant))
        })
    }

    /// What a rule says of the request, and the unit's bucket where it came to that.
    fn decide(&self, layer: &Layer, rule: &Rule) -> (Outcome, Option<u16>) {
        if rule.state != State::On {
            return (Outcome::Disabled, None);
        }
        if !rule.requires.is_empty() && !self.is_met(&rule.requires) {
            return (Outcome::Requirement, None);
        }
        if rule.when.as_ref().is_some_and(|when| !when.holds(self.facts)) {
            return (Outcome::Condition, None);
        }
        let narrow = rule.range.is_some() || !rule.holdouts.is_empty();
        if narrow && let Some(outcome) = self.kept_out(layer, rule) {
            return (outcome, None);
        }
        self.draw(rule)
    }

    #[inline(never)]
    fn is_met(&self, requires: &[Requirement]) -> bool {
        requires.iter().all(|requirement| {
            let given = self.set.given(self.decision, requirement.rule);
            given.is_some_and(|given| requirement.variants & (1 << given.variant) != 0)
        })
    }

    /// Whether the unit is not in the rule's part of the layer, or in a holdout.
    #[inline(never)]
    fn kept_out(&self, layer: &Layer, rule: &Rule) -> Option<Outcome> {
        if let Some((from, to)) = rule.range {
            let bucket = layer.seed.bucket(self.facts.unit(rule.unit));
            if !(from..to).contains(&bucket) {
                return Some(Outcome::Range(bucket));
            }
        }
        rule.holdouts.iter().find_map(|holdout| {
            let holdout = &self.set.holdouts[*holdout];
            let bucket = holdout.seed.bucket(self.facts.unit(holdout.unit));
            (bucket < holdout.end).then_some(Outcome::Holdout(bucket))
        })
    }

    fn draw(&self, rule: &Rule) -> (Outcome, Option<u16>) {
        let moment = rule.schedule.at(self.facts.visit.now_ms);
        if let Moment::Whole(owner) = moment
            && owner != OUT
        {
            if rule.is_rolled_back(usize::from(owner)) {
                return (rule.instead(), None);
            }
            let reason = match (&rule.range, &rule.when) {
                (Some(_), _) => Reason::Split,
                (None, Some(_)) => Reason::TargetingMatch,
                (None, None) => Reason::Static,
            };
            return (Outcome::Assigned(usize::from(owner), reason), None);
        }
        if let Moment::Whole(_) = moment {
            return (Outcome::Out, None);
        }
        let bucket = rule.seed.bucket(self.facts.unit(rule.unit));
        match moment.owner(bucket) {
            OUT => (Outcome::Out, Some(bucket)),
            owner if rule.is_rolled_back(usize::from(owner)) => (rule.instead(), Some(bucket)),
            owner => (Outcome::Assigned(usize::from(owner), Reason::Split), Some(bucket)),
        }
    }
}
