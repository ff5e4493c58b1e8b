//! What was decided for one request, and why.

use std::fmt::{self, Write as _};

use serde_json::{Map, Value, json};
use smallvec::SmallVec;

use super::rule::State;
use super::rule_set::RuleSet;

/// The longest text of reasons, in bytes.
const EXPLANATION_BYTES_MAX: usize = 4_096;

/// A variant that a request got, and why. The words are those of OpenFeature.
#[derive(Clone, Debug)]
pub struct Assigned {
    /// The rule's place in the set.
    pub rule: usize,
    /// The variant's place in the rule.
    pub variant: usize,
    /// Why this one.
    pub reason: Reason,
    /// The [`unit_hash`](super::unit_hash) of the unit that was drawn for; none where there was nothing to draw.
    pub unit: Option<u64>,
}

/// Why a rule decided as it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is nothing but this variant.
    Static,
    /// The rule's conditions hold, and there is nothing but this variant.
    TargetingMatch,
    /// By the unit's bucket.
    Split,
    /// Somebody asked for it who may.
    Preview,
    /// The unit's own variant was taken back: this is the control.
    RolledBack,
    /// The rule did not decide.
    Default,
    /// The rule is not in force.
    Disabled,
}

impl Reason {
    /// The word of OpenFeature, as far as it has one.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Static => "STATIC",
            Self::TargetingMatch => "TARGETING_MATCH",
            Self::Split => "SPLIT",
            Self::Preview => "PREVIEW",
            Self::RolledBack => "ROLLED_BACK",
            Self::Default => "DEFAULT",
            Self::Disabled => "DISABLED",
        }
    }
}

/// What became of one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It gave this variant.
    Assigned(usize, Reason),
    /// It is not in force.
    Disabled,
    /// An earlier rule of its layer decided.
    LayerTaken,
    /// A rule that it requires did not give the variant.
    Requirement,
    /// Its conditions do not hold.
    Condition,
    /// The unit's bucket of the layer is not in its range.
    Range(u16),
    /// A holdout has the unit.
    Holdout(u16),
    /// The unit's bucket is nobody's.
    Out,
    /// The only variant was taken back.
    RolledBack,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Assigned(_, reason) => f.write_str(reason.as_str()),
            Self::Disabled => f.write_str("off"),
            Self::LayerTaken => f.write_str("layer taken"),
            Self::Requirement => f.write_str("requirement not met"),
            Self::Condition => f.write_str("conditions do not hold"),
            Self::Range(bucket) => write!(f, "not in range (layer bucket {bucket})"),
            Self::Holdout(bucket) => write!(f, "held out (holdout bucket {bucket})"),
            Self::Out => f.write_str("no part"),
            Self::RolledBack => f.write_str("rolled back"),
        }
    }
}

/// What became of a rule, for whoever wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The rule's place in the set.
    pub rule: usize,
    /// What became of it.
    pub outcome: Outcome,
    /// The unit's bucket, where it was drawn.
    pub bucket: Option<u16>,
}

/// A unit that was drawn for and got nothing.
#[derive(Clone, Debug)]
pub struct LeftOut {
    /// The rule's place in the set.
    pub rule: usize,
    /// The [`unit_hash`](super::unit_hash) of the unit.
    pub unit: u64,
}

/// What was decided for one request.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// At most one for each layer, in their order.
    pub assigned: SmallVec<[Assigned; 2]>,
    /// The id that the client is to keep in its cookie, when it had none and one was needed.
    pub fresh_unit: Option<Box<str>>,
    /// Units that got nothing and are what a rule's only variant is compared with.
    pub left_out: Vec<LeftOut>,
    /// By source of units, the [`unit_hash`](super::unit_hash) of the one that the request has, where some experiment
    /// did not draw.
    pub units: Box<[Option<u64>]>,
    /// What became of every rule, when that was asked for by somebody who may.
    pub trace: Option<Vec<Trace>>,
}

impl RuleSet {
    /// The place of the variant that a rule gave, and why.
    pub fn given<'d>(&self, decision: &'d Decision, rule: usize) -> Option<&'d Assigned> {
        decision.assigned.iter().find(|assigned| assigned.rule == rule)
    }

    /// The [`unit_hash`](super::unit_hash) of the unit that a rule draws for, if the request has one.
    pub fn unit_of(&self, decision: &Decision, rule: usize) -> Option<u64> {
        *decision.units.get(self.rules[rule].unit)?
    }

    /// Every rule's evaluation details as OpenFeature has them, under the rule's name: `value`, `variant`,
    /// `reason`. A rule that did not decide has no variant and null as its value.
    pub fn details(&self, decision: &Decision) -> Map<String, Value> {
        let detail = |(place, rule): (usize, &super::Rule)| {
            let detail = match self.given(decision, place) {
                Some(assigned) => {
                    let variant = &rule.variants[assigned.variant];
                    json!({
                        "value": variant.value(),
                        "variant": variant.name,
                        "reason": assigned.reason.as_str(),
                    })
                }
                None => {
                    let reason =
                        if rule.state == State::On { Reason::Default } else { Reason::Disabled };
                    json!({ "value": null, "reason": reason.as_str() })
                }
            };
            (rule.name.to_string(), detail)
        };
        self.rules.iter().enumerate().map(detail).collect()
    }

    /// The variables of all variants that were given. Of equal names the earlier layer's stays.
    pub fn variables(&self, decision: &Decision) -> Map<String, Value> {
        let mut all = Map::new();
        for assigned in &decision.assigned {
            for (name, value) in
                &self.rules[assigned.rule].variants[assigned.variant].action.variables
            {
                all.entry(name).or_insert_with(|| value.clone());
            }
        }
        all
    }

    /// What became of every rule, in one line: `checkout=b (SPLIT, bucket 17), home: conditions do not hold`.
    pub fn explain(&self, decision: &Decision) -> Option<String> {
        let mut text = String::new();
        for Trace { rule, outcome, bucket } in decision.trace.as_ref()? {
            let rule = &self.rules[*rule];
            let separator = if text.is_empty() { "" } else { ", " };
            let _ = write!(text, "{separator}{}", rule.name);
            let drawn = bucket.map(|bucket| format!(", bucket {bucket}")).unwrap_or_default();
            let _ = match outcome {
                Outcome::Assigned(variant, _) => {
                    write!(text, "={} ({outcome}{drawn})", rule.variants[*variant].name)
                }
                _ => write!(text, ": {outcome}{drawn}"),
            };
            if text.len() > EXPLANATION_BYTES_MAX {
                text.truncate(EXPLANATION_BYTES_MAX);
                break;
            }
        }
        Some(text)
    }
}
