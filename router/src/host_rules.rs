//! The rules of one host: those that it was given, by their texts, and what they come to.

use std::collections::{BTreeMap, HashMap};
use std::ptr;

use crate::pattern::{PathPattern, Scheme};
use crate::prefix::PrefixMap;

/// A rule of a host. Without a target it is a negative one.
#[derive(Clone, Debug)]
pub(crate) struct Rule<T> {
    pub(crate) scheme: Option<Scheme>,
    pub(crate) path: PathPattern,
    pub(crate) target: Option<T>,
}

/// What a host was given.
#[derive(Clone, Debug)]
pub(crate) struct GivenRules<T> {
    /// The target of everything that no rule is for.
    pub(crate) entry: Option<T>,
    /// By the text of their patterns: of equal rules the last one counts.
    pub(crate) rules: BTreeMap<Box<str>, Rule<T>>,
}

impl<T> Default for GivenRules<T> {
    fn default() -> Self {
        Self { entry: None, rules: BTreeMap::new() }
    }
}

/// The rules of one host, as they are looked up.
#[derive(Debug)]
pub(crate) struct HostRules<T> {
    given: GivenRules<T>,
    exact: HashMap<Box<str>, SchemeRules<T>>,
    prefixes: PrefixMap<SchemeRules<T>>,
}

/// The rules of one path.
#[derive(Clone, Debug)]
struct SchemeRules<T> {
    any: Option<Option<T>>,
    http: Option<Option<T>>,
    https: Option<Option<T>>,
}

impl<T: Clone> HostRules<T> {
    /// None where nothing was given.
    pub(crate) fn of(given: GivenRules<T>) -> Option<Self> {
        if given.entry.is_none() && given.rules.is_empty() {
            return None;
        }
        let mut exact: HashMap<Box<str>, SchemeRules<T>> = HashMap::new();
        let mut prefixes: HashMap<Box<str>, SchemeRules<T>> = HashMap::new();
        for rule in given.rules.values() {
            let rules = match &rule.path {
                PathPattern::Exact(path) => exact.entry(path.clone()).or_default(),
                PathPattern::Prefix(prefix) => prefixes.entry(prefix.clone()).or_default(),
            };
            *rules.of(rule.scheme) = Some(rule.target.clone());
        }
        let prefixes = prefixes.into_iter();
        let prefixes =
            PrefixMap::build(prefixes.map(|(prefix, rules)| (Box::from(prefix.as_bytes()), rules)));
        Some(Self { given, exact, prefixes })
    }

    /// What the host was given.
    pub(crate) fn given(&self) -> &GivenRules<T> {
        &self.given
    }

    /// The target of the most specific rule; the inner one is none of a negative rule.
    pub(crate) fn find(&self, scheme: Scheme, path_and_query: &str) -> Option<Option<&T>> {
        if !self.exact.is_empty()
            && let Some(target) = self.exact.get(path_and_query).and_then(|r| r.find(scheme))
        {
            return Some(target.as_ref());
        }
        let mut prefixes = self.prefixes.beginning(path_and_query.as_bytes());
        match prefixes.find_map(|rules| rules.find(scheme)) {
            Some(target) => Some(target.as_ref()),
            None => self.given.entry.as_ref().map(Some),
        }
    }

    /// The targets that can be found. One may come more than once.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &T> {
        let rules = self.exact.values().chain(self.prefixes.values());
        let all = rules.flat_map(|rules| [&rules.any, &rules.http, &rules.https]);
        all.flatten().flatten().chain(&self.given.entry)
    }

    /// Where a lookup begins.
    pub(crate) fn places(&self) -> [*const u8; 2] {
        [ptr::from_ref(&self.given.entry).cast(), ptr::from_ref(&self.prefixes).cast()]
    }

    /// The number of rules and host entries.
    pub(crate) fn count(&self) -> usize {
        self.given.rules.len() + usize::from(self.given.entry.is_some())
    }
}

impl<T> SchemeRules<T> {
    fn of(&mut self, scheme: Option<Scheme>) -> &mut Option<Option<T>> {
        match scheme {
            None => &mut self.any,
            Some(Scheme::Http) => &mut self.http,
            Some(Scheme::Https) => &mut self.https,
        }
    }

    fn find(&self, scheme: Scheme) -> Option<&Option<T>> {
        let named = match scheme {
            Scheme::Http => &self.http,
            Scheme::Https => &self.https,
        };
        named.as_ref().or(self.any.as_ref())
    }
}

impl<T> Default for SchemeRules<T> {
    fn default() -> Self {
        Self { any: None, http: None, https: None }
    }
}
