//! One rule, compiled: when it holds, who takes part, and which variant they get.

use serde_json::Value;

use super::action::Action;
use super::condition::Condition;
use super::guardrail::Guardrail;
use super::murmur3::Seed;
use super::schedule::{Plan, Schedule};

/// A rule of a set.
#[derive(Clone, Debug)]
pub struct Rule {
    pub(super) name: Box<str>,
    pub(super) state: State,
    pub(super) layer: usize,
    /// The part of the layer's buckets that is the rule's.
    pub(super) range: Option<(u16, u16)>,
    pub(super) when: Option<Condition>,
    pub(super) requires: Box<[Requirement]>,
    /// The places of the holdouts whose units it leaves out.
    pub(super) holdouts: Box<[usize]>,
    pub(super) unit: usize,
    pub(super) seed_text: Box<str>,
    pub(super) seed: Seed,
    pub(super) plan: Plan,
    pub(super) schedule: Schedule,
    pub(super) variants: Box<[Variant]>,
    pub(super) preview: Preview,
    /// Whether something is drawn.
    pub(super) is_experiment: bool,
    /// The place of the variant that others are measured by.
    pub(super) control: usize,
    pub(super) guardrail: Option<Guardrail>,
    /// A bit for each variant that was taken back.
    pub(super) rolled_back: u64,
}

/// Whether a rule is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is.
    On,
    /// Its document says that it is not.
    Disabled,
    /// It was switched off, whatever its document says.
    SwitchedOff,
}

/// Who may force a variant of a rule on themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preview {
    /// Anybody, while the rule is in force.
    Open,
    /// Who has the set's token.
    #[default]
    Token,
    /// Nobody.
    Off,
}

/// Another rule that must have given one of some variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Requirement {
    pub(super) rule: usize,
    /// A bit for each variant.
    pub(super) variants: u64,
}

/// One of the things that a rule can decide.
#[derive(Clone, Debug)]
pub struct Variant {
    pub(super) name: Box<str>,
    pub(super) value: Option<Value>,
    pub(super) action: Action,
}

impl Rule {
    /// Its name, unlike any other of the set.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is in force.
    pub fn state(&self) -> State {
        self.state
    }

    /// Its variants, as the document orders them.
    pub fn variants(&self) -> &[Variant] {
        &self.variants
    }

    /// The seed of its buckets: a new one draws everybody anew.
    pub fn seed(&self) -> &str {
        &self.seed_text
    }

    /// Whether something is drawn, so that there is something to compare.
    pub fn is_experiment(&self) -> bool {
        self.is_experiment
    }

    /// Whether those who get nothing are what its only variant is compared with.
    pub fn compares_with_nobody(&self) -> bool {
        self.variants.len() == 1 && self.is_experiment
    }

    /// The place of the variant that others are measured by.
    pub fn control(&self) -> usize {
        self.control
    }

    /// What its variants must keep to.
    pub fn guardrail(&self) -> Option<&Guardrail> {
        self.guardrail.as_ref()
    }

    /// Whether a variant was taken back.
    pub fn is_rolled_back(&self, variant: usize) -> bool {
        self.rolled_back & (1 << variant) != 0
    }

    /// How many of the 10,000 buckets each variant has at a time.
    pub fn buckets(&self, now_ms: u64) -> Vec<u16> {
        self.schedule.counts(now_ms, self.variants.len())
    }
}

impl Variant {
    /// Its name, unlike any other of the rule.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a script gets as the flag's value: by default, the name.
    pub fn value(&self) -> Value {
        self.value.clone().unwrap_or_else(|| Value::from(&*self.name))
    }

    /// Who answers instead, where the variant says so.
    pub fn picked(&self) -> Option<&super::Picked> {
        self.action.target.as_ref()
    }
}
