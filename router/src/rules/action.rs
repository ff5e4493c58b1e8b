//! What a variant does, and what all decisions of a request come to together.

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value};
use smallvec::SmallVec;

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

/// Changes of headers, at most one of each name. Few: they need no memory of their own.
pub type HeaderChanges<'r> = SmallVec<[&'r HeaderChange; 4]>;

/// What is to be done with a request. Where layers disagree, the earlier one has its way.
#[derive(Debug, Default)]
pub struct Effects<'r> {
    /// Who answers instead of the worker that the route leads to.
    pub picked: Option<&'r Picked>,
    /// What becomes of the address.
    pub path: Option<PathEffect>,
    /// For the worker.
    pub request_headers: HeaderChanges<'r>,
    /// For the client.
    pub response_headers: HeaderChanges<'r>,
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
    /// Adds what a later layer wants.
    pub(super) fn add(
        &mut self,
        action: &'r Action,
        fill: impl FnOnce(&PathAction) -> Option<PathEffect>,
    ) {
        if self.picked.is_none() {
            self.picked = action.target.as_ref();
        }
        if self.path.is_none()
            && let Some(path) = &action.path
        {
            self.path = fill(path);
        }
        add_headers(&mut self.request_headers, &action.request_headers);
        add_headers(&mut self.response_headers, &action.response_headers);
    }
}

fn add_headers<'r>(all: &mut HeaderChanges<'r>, more: &'r [HeaderChange]) {
    for change in more {
        if all.iter().all(|known| known.name != change.name) {
            all.push(change);
        }
    }
}
