//! What a worker says of regions, and what that means for a request that came to a node of one region.

use serde::{Deserialize, Serialize};

use crate::pattern::{Pattern, PatternError};

/// Regions that one policy names in each list.
pub const REGIONS_MAX: usize = 16;
/// Routes with a policy of their own.
const ROUTES_MAX: usize = 100;
/// Bytes of a region's name, as in a node's configuration.
const NAME_BYTES_MAX: usize = 64;

/// A worker's policy, and those of its routes that have their own. This is what a project has under
/// `atoll.regions`, and what the API takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionRules {
    /// For every request that no route says otherwise for.
    #[serde(flatten)]
    pub policy: RegionPolicy,
    /// For requests that came by one of the worker's routes.
    #[serde(default, rename = "route", skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteRegions>,
}

/// The policy of one route, in place of the worker's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteRegions {
    /// The route's pattern, as the worker's routes have it.
    pub pattern: String,
    /// What holds there.
    #[serde(flatten)]
    pub policy: RegionPolicy,
}

/// Where requests may be served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionPolicy {
    /// Only there, in whichever is nearest; anywhere when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// In the first of these that has a healthy node, else where the request came.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefer: Vec<String>,
    /// Only there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<String>,
}

/// A policy contradicts itself, or names no regions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// A name that no node can have.
    #[error("{key}: {name:?} is no region: 1 to {NAME_BYTES_MAX} letters, digits, -, _ or .")]
    Name {
        /// Where it stands.
        key: &'static str,
        /// As written.
        name: String,
    },
    /// Too many names.
    #[error("{key}: at most {REGIONS_MAX} regions")]
    TooMany {
        /// Where they stand.
        key: &'static str,
    },
    /// `pin` beside another key.
    #[error("pin stands alone: \"only in one region\" leaves nothing to allow or prefer")]
    PinAndMore,
    /// A region that is preferred and not allowed.
    #[error("prefer: {0:?} is not among the regions that allow names")]
    PreferredButNotAllowed(String),
    /// Too many routes.
    #[error("route: at most {ROUTES_MAX} routes have regions of their own")]
    TooManyRoutes,
    /// A pattern that is none.
    #[error("route: {pattern:?} is no route's pattern: {cause}")]
    Pattern {
        /// As written.
        pattern: String,
        /// What is wrong.
        cause: PatternError,
    },
    /// A route without a policy.
    #[error("route: {0:?} says nothing: add allow, prefer or pin")]
    EmptyRoute(String),
}

/// One thing to try for a request, in the policy's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Serve it on the node that has it.
    Here,
    /// Send it to the nearest node of any of these regions.
    Nearest(&'a [String]),
}

impl RegionRules {
    /// Checks that it can be acted upon.
    ///
    /// # Errors
    /// With the first thing that is wrong.
    pub fn check(&self) -> Result<(), RegionError> {
        self.policy.check()?;
        if self.routes.len() > ROUTES_MAX {
            return Err(RegionError::TooManyRoutes);
        }
        for RouteRegions { pattern, policy } in &self.routes {
            if let Err(cause) = Pattern::parse(pattern) {
                return Err(RegionError::Pattern { pattern: pattern.clone(), cause });
            }
            if policy.is_empty() {
                return Err(RegionError::EmptyRoute(pattern.clone()));
            }
            policy.check()?;
        }
        Ok(())
    }

    /// Whether it says nothing at all.
    pub fn is_empty(&self) -> bool {
        self.policy.is_empty() && self.routes.is_empty()
    }
}

impl RegionPolicy {
    /// Whether it says nothing: every node serves what comes to it.
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.prefer.is_empty() && self.pin.is_none()
    }

    /// Whether a node of this region may serve.
    pub fn permits(&self, region: &str) -> bool {
        match &self.pin {
            Some(pin) => pin == region,
            None => self.allow.is_empty() || self.allow.iter().any(|allowed| allowed == region),
        }
    }

    /// What to try, in this order, on a node of this region. After the last step the request is refused.
    pub fn steps(&self, here: &str) -> Vec<Step<'_>> {
        if let Some(pin) = &self.pin {
            let there = Step::Nearest(std::slice::from_ref(pin));
            return vec![if pin == here { Step::Here } else { there }];
        }
        let mut steps = Vec::with_capacity(self.prefer.len() + 1);
        for preferred in &self.prefer {
            if preferred == here {
                steps.push(Step::Here);
                return steps;
            }
            steps.push(Step::Nearest(std::slice::from_ref(preferred)));
        }
        steps.push(if self.permits(here) { Step::Here } else { Step::Nearest(&self.allow) });
        steps
    }

    fn check(&self) -> Result<(), RegionError> {
        let pinned = self.pin.as_slice();
        for (key, names) in [("allow", &*self.allow), ("prefer", &self.prefer), ("pin", pinned)] {
            if names.len() > REGIONS_MAX {
                return Err(RegionError::TooMany { key });
            }
            if let Some(name) = names.iter().find(|name| !is_name(name)) {
                return Err(RegionError::Name { key, name: name.clone() });
            }
        }
        if self.pin.is_some() && !(self.allow.is_empty() && self.prefer.is_empty()) {
            return Err(RegionError::PinAndMore);
        }
        match self.prefer.iter().find(|preferred| !self.permits(preferred)) {
            Some(stray) => Err(RegionError::PreferredButNotAllowed(stray.clone())),
            None => Ok(()),
        }
    }
}

/// As people write it: `pin eu`, `allow eu us, prefer us`.
impl std::fmt::Display for RegionPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pinned = self.pin.as_slice();
        let mut separator = "";
        for (key, names) in [("pin", pinned), ("allow", &self.allow), ("prefer", &self.prefer)] {
            if !names.is_empty() {
                write!(f, "{separator}{key} {}", names.join(" "))?;
                separator = ", ";
            }
        }
        if separator.is_empty() { f.write_str("anywhere") } else { Ok(()) }
    }
}

fn is_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules(json: serde_json::Value) -> RegionRules {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_policy_says_what_to_try_in_which_order() {
        let check = |policy: serde_json::Value, here: &str, expected: &[&[&str]]| {
            let policy = rules(policy).policy;
            let steps: Vec<Vec<&str>> = policy
                .steps(here)
                .into_iter()
                .map(|step| match step {
                    Step::Here => vec!["here"],
                    Step::Nearest(regions) => regions.iter().map(String::as_str).collect(),
                })
                .collect();
            assert_eq!(steps, expected, "{policy} in {here}");
        };
        check(json!({}), "eu", &[&["here"]]);
        check(json!({ "pin": "eu" }), "eu", &[&["here"]]);
        check(json!({ "pin": "eu" }), "us", &[&["eu"]]);
        check(json!({ "allow": ["eu", "us"] }), "us", &[&["here"]]);
        check(json!({ "allow": ["eu", "us"] }), "asia", &[&["eu", "us"]]);
        check(json!({ "prefer": ["eu", "us"] }), "eu", &[&["here"]]);
        check(json!({ "prefer": ["eu", "us"] }), "us", &[&["eu"], &["here"]]);
        check(json!({ "prefer": ["eu", "us"] }), "asia", &[&["eu"], &["us"], &["here"]]);
        let both = json!({ "allow": ["eu", "us"], "prefer": ["us"] });
        check(both.clone(), "asia", &[&["us"], &["eu", "us"]]);
        check(both.clone(), "eu", &[&["us"], &["here"]]);
        check(both, "us", &[&["here"]]);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let check = |json: serde_json::Value, expected: &str| {
            let told = rules(json).check().unwrap_err().to_string();
            assert!(told.contains(expected), "{told}");
        };
        check(json!({ "pin": "eu", "allow": ["eu"] }), "pin stands alone");
        check(json!({ "pin": "e u" }), "is no region");
        check(json!({ "allow": [""] }), "allow: \"\" is no region");
        check(json!({ "allow": ["eu"], "prefer": ["us"] }), "\"us\" is not among");
        check(json!({ "prefer": vec!["eu"; REGIONS_MAX + 1] }), "at most 16");
        check(json!({ "route": [{ "pattern": "a.b/*" }] }), "says nothing");
        check(json!({ "route": [{ "pattern": "a.*.b", "pin": "eu" }] }), "no route's pattern");
        assert_eq!(rules(json!({ "allow": ["eu", "us"], "prefer": ["us"] })).check(), Ok(()));
        let routes = json!({ "route": [{ "pattern": "a.b/*", "pin": "eu" }] });
        assert_eq!(rules(routes).check(), Ok(()));
    }

    #[test]
    fn unknown_keys_are_refused() {
        let check = |json, expected: &str| {
            let told = serde_json::from_value::<RegionRules>(json).unwrap_err().to_string();
            assert!(told.contains(expected), "{told}");
        };
        check(json!({ "pinned": "eu" }), "unknown field `pinned`");
        check(json!({ "route": [{ "pattern": "a.b/*", "pinned": "eu" }] }), "`pinned`");
    }

    #[test]
    fn policies_are_told_in_a_few_words() {
        let check = |json, expected: &str| assert_eq!(rules(json).policy.to_string(), expected);
        check(json!({}), "anywhere");
        check(json!({ "pin": "eu" }), "pin eu");
        check(json!({ "allow": ["eu", "us"], "prefer": ["us"] }), "allow eu us, prefer us");
    }
}
