//! Rules: who takes part, with what weights, and when that changes.

use serde_json::Value;

use super::super::allotment::Shares;
use super::super::condition::Condition;
use super::super::error::Step;
use super::super::facts::numbered;
use super::super::instant::parse_instant;
use super::super::murmur3::Seed;
use super::super::rule::{Preview, Requirement, Rule, Variant};
use super::super::rule_set::Overlay;
use super::super::schedule::{Plan, Point, Schedule};
use super::action::ACTION_KEYS;
use super::guardrail::rolled_back;
use super::reader::{Member, Reader, Walk, unknown};
use super::{Builder, RULES_MAX, VARIANTS_MAX, buckets, state};

/// Points of one ramp.
const RAMP_POINTS_MAX: usize = 100;

const KEYS: [&str; 15] = [
    "name",
    "description",
    "enabled",
    "layer",
    "range",
    "when",
    "requires",
    "unit",
    "seed",
    "percent",
    "ramp",
    "variants",
    "preview",
    "control",
    "guardrail",
];
const PREVIEWS: [(&str, Preview); 3] =
    [("open", Preview::Open), ("token", Preview::Token), ("off", Preview::Off)];

/// The variant of a rule that lists none.
pub(super) const ONLY_VARIANT: &str = "on";

/// A rule whose names of others are not looked up yet.
pub(super) struct Draft {
    pub(super) rule: Rule,
    /// Its place in the document.
    pub(super) index: usize,
    pub(super) layer: Option<String>,
    pub(super) requires: Vec<(String, Vec<String>)>,
}

impl Builder {
    pub(super) fn rules(&mut self, value: &Value, unit: usize, overlay: &Overlay) -> Vec<Draft> {
        let count = value.as_array().map_or(0, Vec::len);
        self.limit(count, RULES_MAX, "rules");
        if count > RULES_MAX {
            return Vec::new();
        }
        self.each_at(value, "an array of rules", |builder, index, value| {
            builder.rule(value, index, unit, overlay)
        })
    }

    fn rule(
        &mut self,
        value: &Value,
        index: usize,
        unit: usize,
        overlay: &Overlay,
    ) -> Option<Draft> {
        let known: Vec<&str> = KEYS.iter().chain(&ACTION_KEYS).copied().collect();
        let members = self.reader.object(value, &known);
        let name = self.required_name(&members)?;
        let reader = &mut self.reader;
        reader.member(&members, "description", Reader::text);
        let enabled = reader.member(&members, "enabled", Reader::boolean).unwrap_or(true);
        let layer = reader.member(&members, "layer", Reader::name);
        let range = reader.member(&members, "range", Reader::range);
        let seed_text = reader.member(&members, "seed", Reader::name).unwrap_or(name.clone());
        let previews = PREVIEWS.map(|(word, _)| word);
        let preview = reader.member(&members, "preview", |r, value| r.word(value, &previews));
        let preview = preview.map_or(Preview::default(), |place| PREVIEWS[place].1);
        let requires = self.member(&members, "requires", Self::required).unwrap_or_default();
        let own = self.member(&members, "unit", Self::unit);
        let unit = own.map_or(unit, |own| numbered(&mut self.names.units, own));
        let when = self.member(&members, "when", |b, value| b.conditions(value, unit, &seed_text));
        let prefix = when.as_ref().and_then(Condition::path_prefix);
        let (variants, weights) = self.variants(&members, &name, prefix);
        let plan = self.plan(&members, &variants, &weights);
        self.check_statuses(&members, &variants, &plan);
        let names: Vec<&str> = variants.iter().map(|variant| &*variant.name).collect();
        let control = self.control(&members, &names);
        let guardrail = self.reader.member(&members, "guardrail", Reader::guardrail);
        let rolled_back = rolled_back(overlay, &name, &names);
        let past = overlay.history.get(&name).and_then(|history| history.past(&names));
        let rule = Rule {
            state: state(enabled, &name, overlay),
            name: name.into(),
            layer: 0,
            range,
            when,
            requires: Box::default(),
            holdouts: Box::default(),
            unit,
            seed: Seed::new(&seed_text),
            seed_text: seed_text.into(),
            schedule: Schedule::new(&plan, past.as_ref()),
            is_experiment: variants.len() > 1 || !plan.is_constant(),
            plan,
            variants: variants.into(),
            preview,
            control,
            guardrail,
            rolled_back,
        };
        Some(Draft { rule, index, layer, requires })
    }

    /// `{ rule = "variant" }` or `{ rule = ["variant", "variant"] }`.
    fn required(&mut self, value: &Value) -> Option<Vec<(String, Vec<String>)>> {
        let members = self.reader.any_object(value);
        let read = |(name, value): &Member<'_>| {
            let step = Step::Key((*name).to_owned());
            let variants = self.reader.within(step, |reader| reader.texts(value));
            ((*name).to_owned(), variants)
        };
        Some(members.iter().map(read).collect())
    }

    /// Looks up what a rule requires.
    pub(super) fn requirements(
        &mut self,
        rules: &mut [Rule],
        place: usize,
        index: usize,
        required: &[(String, Vec<String>)],
    ) {
        if required.is_empty() {
            return;
        }
        let look_up = |builder: &mut Self| {
            let wanted = required.iter().filter_map(|(name, variants)| {
                builder.within(Step::Key(name.clone()), |b| {
                    b.requirement(rules, rules[place].layer, name, variants)
                })
            });
            wanted.collect()
        };
        rules[place].requires = self.within(Step::Key("rule".to_owned()), |b| {
            b.within(Step::Index(index), |b| b.within(Step::Key("requires".to_owned()), look_up))
        });
    }

    /// Only rules of earlier layers have decided when a rule is looked at, so there can be no circle.
    fn requirement(
        &mut self,
        rules: &[Rule],
        layer: usize,
        name: &str,
        variants: &[String],
    ) -> Option<Requirement> {
        let found = rules.iter().position(|rule| *rule.name == *name && rule.layer < layer);
        let Some(place) = found else {
            let earlier = rules.iter().filter(|rule| rule.layer < layer);
            let names: Vec<&str> = earlier.map(|rule| &*rule.name).collect();
            let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            self.reader.report(format!(
                "{name:?} is no rule of an earlier layer, which alone can be required: there is {known}"
            ));
            return None;
        };
        let known: Vec<&str> = rules[place].variants.iter().map(|variant| &*variant.name).collect();
        let mut bits = 0;
        for variant in variants {
            match known.iter().position(|known| known == variant) {
                Some(at) => bits |= 1 << at,
                None => self.reader.report(unknown("variant", variant, &known)),
            }
        }
        Some(Requirement { rule: place, variants: bits })
    }

    /// The variants with their weights. A rule that lists none is its own only variant.
    fn variants(
        &mut self,
        members: &[Member<'_>],
        rule: &str,
        prefix: Option<usize>,
    ) -> (Vec<Variant>, Vec<f64>) {
        let listed = members.iter().any(|(key, _)| *key == "variants");
        if !listed {
            let (value, action) = self.action(members, rule, ONLY_VARIANT, prefix);
            let value = value.or(Some(Value::Bool(true)));
            return (vec![Variant { name: ONLY_VARIANT.into(), value, action }], vec![1.0]);
        }
        for key in ACTION_KEYS.iter().filter(|key| members.iter().any(|(found, _)| found == *key)) {
            self.within(Step::Key((*key).to_owned()), |builder| {
                builder.reader.report("a rule with variants leaves this to them: move it there");
            });
        }
        let known: Vec<&str> = ["name", "weight"].iter().chain(&ACTION_KEYS).copied().collect();
        let read = |builder: &mut Self, value| {
            let members = builder.reader.object(value, &known);
            let name = builder.required_name(&members)?;
            let weight = builder.reader.member(&members, "weight", Reader::weight).unwrap_or(1.0);
            let (value, action) = builder.action(&members, rule, &name, prefix);
            Some((Variant { name: name.into(), value, action }, weight))
        };
        let found = self.member(members, "variants", |b, value| {
            Some(b.each(value, "an array of variants", read))
        });
        let (variants, weights): (Vec<_>, Vec<_>) = found.unwrap_or_default().into_iter().unzip();
        self.limit(variants.len(), VARIANTS_MAX, "variants");
        self.unique(variants.iter().map(|variant| &*variant.name), "variant");
        if weights.iter().sum::<f64>() == 0.0 {
            self.reader.report("no variant has any weight: give one of them a `weight` over 0");
        }
        (variants, weights)
    }

    /// The rule's shares over time.
    fn plan(&mut self, members: &[Member<'_>], variants: &[Variant], weights: &[f64]) -> Plan {
        let percent = self.reader.member(members, "percent", Reader::percent).unwrap_or(100.0);
        let points = self.member(members, "ramp", |builder, value| {
            let points = builder.each(value, "an array of points", |b, value| {
                b.ramp_point(value, variants, weights, percent)
            });
            builder.limit(points.len(), RAMP_POINTS_MAX, "points");
            if points.is_empty() {
                builder.reader.report("a ramp has at least one point: { at = \"…\", percent = 5 }");
            }
            if !points.is_sorted_by_key(|point| point.at_ms) {
                builder.reader.report("the points of a ramp are in the order of their times");
            }
            Some(points)
        });
        let constant = || vec![Point { at_ms: 0, shares: Shares::new(weights, percent) }];
        Plan::new(points.filter(|points| !points.is_empty()).unwrap_or_else(constant))
    }

    fn ramp_point(
        &mut self,
        value: &Value,
        variants: &[Variant],
        weights: &[f64],
        percent: f64,
    ) -> Option<Point> {
        let members = self.reader.object(value, &["at", "percent", "weights"]);
        let reader = &mut self.reader;
        let at_ms = reader.member(&members, "at", Reader::instant);
        if at_ms.is_none() && !members.iter().any(|(key, _)| *key == "at") {
            reader
                .report("`at` is missing: when the point is reached, such as 2026-11-26T14:00:00Z");
        }
        let percent = reader.member(&members, "percent", Reader::percent).unwrap_or(percent);
        let names: Vec<&str> = variants.iter().map(|variant| &*variant.name).collect();
        let own = reader.member(&members, "weights", |reader, value| {
            let members = reader.object(value, &names);
            let weight = |name: &&str| reader.member(&members, name, Reader::weight).unwrap_or(0.0);
            Some(names.iter().map(weight).collect::<Vec<_>>())
        });
        let shares = Shares::new(own.as_deref().unwrap_or(weights), percent);
        Some(Point { at_ms: at_ms?, shares })
    }

    /// Browsers keep permanent redirects for good, so they are no way to try something out.
    fn check_statuses(&mut self, members: &[Member<'_>], variants: &[Variant], plan: &Plan) {
        let permanent = variants.iter().any(|variant| variant.action.is_permanent_redirect());
        let may_differ = !plan.is_constant() || members.iter().any(|(key, _)| *key == "range");
        if permanent && may_differ {
            self.reader.report(
                "browsers keep redirects of status 301 and 308 for good, and not everybody is sent there \
                 by this rule: use 302 or 307",
            );
        }
    }
}

impl Reader {
    fn weight(&mut self, value: &Value) -> Option<f64> {
        self.number(value, 0.0, 1_000_000.0)
    }

    pub(super) fn instant(&mut self, value: &Value) -> Option<u64> {
        let text = self.text(value)?;
        let instant = parse_instant(&text);
        if instant.is_none() {
            self.report(format!(
                "{text:?} is no time: write it with its offset, such as 2026-11-26T14:00:00Z"
            ));
        }
        instant
    }

    /// `[from, to]` in percent, as buckets.
    fn range(&mut self, value: &Value) -> Option<(u16, u16)> {
        let ends = self.each(value, "two percentages, such as [0, 50]", Self::percent);
        match ends[..] {
            [from, to] if from < to => Some((buckets(from), buckets(to))),
            _ => {
                self.report("a range is two percentages, the smaller one first, such as [0, 50]");
                None
            }
        }
    }
}
