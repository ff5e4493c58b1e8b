//! What a variant does, and what all decisions of a request come to together.

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::decision::Decision;
use super::rule_set::RuleSet;
use super::script::Scripted;
use super::template::Template;

/// What a variant does with the request. Nothing, where only scripts look at it.
#[derive(Clone, Debug, Default)]
pub(super) struct Action {
    pub(super) target: Option<Picked>,
    pub(super) path: Option<PathAction>,
    pub(super) request_headers: Box<[HeaderChange]>,
    pub(super) response_headers: Box<[HeaderChange]>,
    pub(super) variables: Map<String, Value>,
}

impl Action {
    pub(super) fn acts_on_request(&self) -> bool {
        self.target.is_some() || !self.request_headers.is_empty()
    }

    pub(super) fn looks_at_place(&self) -> bool {
        match &self.path {
            Some(PathAction::Rewrite(path) | PathAction::Redirect(_, path)) => {
                path.looks_at_place()
            }
            None => false,
        }
    }
}

/// Who answers instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Picked {
    /// This version of the worker.
    Version(Box<str>),
    /// Another worker of the account, by name.
    Worker(Box<str>),
}

/// What becomes of the address.
#[derive(Clone, Debug)]
pub(super) enum PathAction {
    Rewrite(Template),
    Redirect(StatusCode, Template),
}

/// A header that is set, or removed where it has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderChange {
    /// The header.
    pub name: HeaderName,
    /// Its value; none removes it.
    pub value: Option<HeaderValue>,
}

/// What all variants that a request got do with it together. Where layers disagree, the earlier one has its way.
/// It is looked up anew wherever it is needed: that costs less than to carry what comes of it.
#[derive(Clone, Copy, Debug)]
pub struct Effects<'r> {
    set: &'r RuleSet,
    decision: &'r Decision,
    /// What a script decided after the rules.
    scripted: Option<&'r Scripted>,
}

/// What becomes of an address, filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEffect {
    /// The path and query that the worker sees.
    Rewrite(String),
    /// The client is sent elsewhere.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: StatusCode,
        /// Where to.
        location: String,
    },
}

impl<'r> Effects<'r> {
    pub(super) fn new(set: &'r RuleSet, decision: &'r Decision) -> Self {
        Self { set, decision, scripted: None }
    }

    /// Adds what a script decided. Where it disagrees with the rules, they have their way.
    pub fn with_scripted(self, scripted: &'r Scripted) -> Self {
        Self { scripted: Some(scripted), ..self }
    }

    /// Who answers instead of the worker that the route leads to.
    pub fn picked(&self) -> Option<&'r Picked> {
        self.actions().find_map(|action| action.target.as_ref())
    }

    /// Hands out the changes for the worker, at most one of each header.
    pub fn request_headers(&self, each: impl FnMut(&'r HeaderChange)) {
        self.headers(|action| &action.request_headers, each);
    }

    /// Hands out the changes for the client, at most one of each header.
    pub fn response_headers(&self, each: impl FnMut(&'r HeaderChange)) {
        self.headers(|action| &action.response_headers, each);
    }

    /// What was given, then what the script wants.
    fn actions(&self) -> impl Iterator<Item = &'r Action> + use<'r> {
        let Self { set, decision, scripted } = *self;
        let given = decision.assigned.iter().map(move |assigned| set.action(assigned));
        given.chain(scripted.map(Scripted::action))
    }

    fn headers(
        &self,
        of: impl Fn(&'r Action) -> &'r [HeaderChange],
        mut each: impl FnMut(&'r HeaderChange),
    ) {
        for (at, action) in self.actions().enumerate() {
            for change in of(action) {
                let mut earlier = self.actions().take(at).flat_map(&of);
                if at == 0 || earlier.all(|known| known.name != change.name) {
                    each(change);
                }
            }
        }
    }
}
