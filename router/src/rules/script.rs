//! What a script decided about a request: read as a variant of a rule, and carried out like one.

use serde_json::{Map, Value, json};

use super::action::{Action, PathEffect};
use super::decision::Reason;
use super::error::RulesError;
use super::facts::{Facts, Names};
use super::parse;
use super::rule::Variant;
use super::rule_set::filled;
use super::visit::Visit;

/// The flag under which scripts' decisions are found.
pub const SCRIPT: &str = "script";

/// A script's decision.
#[derive(Clone, Debug)]
pub struct Scripted(Variant);

impl Scripted {
    /// Reads a decision.
    ///
    /// # Errors
    /// Fails with every problem and its place.
    pub fn parse(decision: &Value) -> Result<Self, RulesError> {
        parse::scripted(decision).map(Self)
    }

    /// The name that the script gave to its decision.
    pub fn variant(&self) -> &str {
        &self.0.name
    }

    /// What becomes of the address of the request that it was made about.
    pub fn path(&self, visit: &Visit<'_>) -> Option<PathEffect> {
        let names = Names::default();
        filled(self.0.action.path.as_ref()?, &Facts::new(visit, &names))
    }

    pub(super) fn action(&self) -> &Action {
        &self.0.action
    }

    /// The evaluation details as OpenFeature has them: `value`, `variant`, `reason`.
    pub fn details(&self) -> Value {
        let reason = Reason::TargetingMatch.as_str();
        json!({ "value": self.0.value(), "variant": self.0.name, "reason": reason })
    }

    /// Its variables.
    pub fn variables(&self) -> &Map<String, Value> {
        &self.0.action.variables
    }
}
