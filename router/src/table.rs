//! The route table: from scheme, host and path to a target, the most specific rule winning.
//!
//! Specificity is compared in this order: an exact host before a wildcard one, and the longer
//! wildcard suffix first; an exact path before a prefix, and the longer prefix first (so
//! `x/images/*` beats `x/images*`); a rule that names the scheme before one that does not. A
//! negative rule wins by the same order and takes the URL away from every broader one.

use std::collections::HashMap;

use crate::pattern::{HOST_BYTES_MAX, HostPattern, PathPattern, Pattern, Scheme, bare_host};
use crate::prefix::PrefixMap;

/// What a URL leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match<T> {
    /// A rule or a host entry names this target.
    Target(T),
    /// The most specific rule is a negative one.
    Excluded,
    /// No rule matches.
    None,
}

/// An immutable table of routes. Lookups allocate nothing and take time logarithmic in the number
/// of rules of one host.
#[derive(Debug)]
pub struct RouteTable<T> {
    targets: Vec<Option<T>>,
    hosts: HashMap<Box<str>, PathRules>,
    /// Keyed by the suffix reversed, which makes it a prefix of the reversed host.
    suffixes: PrefixMap<PathRules>,
}

/// The rules of one host.
#[derive(Debug)]
struct PathRules {
    exact: HashMap<Box<str>, SchemeRules>,
    prefixes: PrefixMap<SchemeRules>,
    /// All of them.
    rules: Box<[u32]>,
}

/// The rules of one path, as indices into the table's targets.
#[derive(Clone, Copy, Debug, Default)]
struct SchemeRules {
    any: Option<u32>,
    http: Option<u32>,
    https: Option<u32>,
}

/// The rules of one host while the table is being built.
#[derive(Default)]
struct Draft {
    exact: HashMap<Box<str>, SchemeRules>,
    prefixes: HashMap<Box<str>, SchemeRules>,
}

impl<T> RouteTable<T> {
    /// A table without routes.
    pub fn empty() -> Self {
        Self::build([], [])
    }

    /// Builds a table from rules (`None`: a negative route) and from whole hosts that lead to one
    /// target, such as `worker.subdomain.domain`. A host entry is less specific than any rule that
    /// names the same host. Of equal rules the last one stays.
    pub fn build(
        rules: impl IntoIterator<Item = (Pattern, Option<T>)>,
        hosts: impl IntoIterator<Item = (String, T)>,
    ) -> Self {
        let mut targets = Vec::new();
        let mut exact: HashMap<Box<str>, Draft> = HashMap::new();
        let mut suffixes: HashMap<Box<str>, Draft> = HashMap::new();
        for (host, target) in hosts {
            let host = bare_host(&host).to_ascii_lowercase().into_boxed_str();
            // No path is shorter than "", so every rule for the host is more specific.
            let path = PathPattern::Prefix("".into());
            exact.entry(host).or_default().add(None, path, targets.len() as u32);
            targets.push(Some(target));
        }
        for (pattern, target) in rules {
            let draft = match pattern.host {
                HostPattern::Exact(host) => exact.entry(host).or_default(),
                HostPattern::Suffix(suffix) => suffixes.entry(suffix).or_default(),
            };
            draft.add(pattern.scheme, pattern.path, targets.len() as u32);
            targets.push(target);
        }
        Self {
            targets,
            hosts: exact.into_iter().map(|(host, draft)| (host, draft.finish())).collect(),
            suffixes: PrefixMap::build(suffixes.into_iter().map(|(suffix, draft)| {
                (suffix.bytes().rev().collect::<Box<[u8]>>(), draft.finish())
            })),
        }
    }

    /// Finds the most specific rule for a URL. The host may be in any case and carry a port;
    /// `path_and_query` begins with `/` and includes the query.
    pub fn match_url(&self, scheme: Scheme, host: &str, path_and_query: &str) -> Match<&T> {
        let mut buffer = [0; HOST_BYTES_MAX];
        let Some(folded) = fold(host, &mut buffer) else { return Match::None };
        let named = std::str::from_utf8(folded).ok().and_then(|host| self.hosts.get(host));
        if let Some(rule) = named.and_then(|rules| rules.find(scheme, path_and_query)) {
            return self.outcome(rule);
        }
        folded.reverse();
        let found = self.suffixes.beginning(folded).find_map(|r| r.find(scheme, path_and_query));
        found.map_or(Match::None, |rule| self.outcome(rule))
    }

    /// The targets of all rules for exactly this host, in any case; of the longest wildcard suffix when there
    /// are none. A target may come more than once.
    pub fn of_host(&self, host: &str) -> impl Iterator<Item = &T> {
        let mut buffer = [0; HOST_BYTES_MAX];
        let rules = fold(host, &mut buffer).and_then(|folded| {
            let named = std::str::from_utf8(folded).ok().and_then(|host| self.hosts.get(host));
            named.or_else(|| {
                folded.reverse();
                self.suffixes.beginning(folded).next()
            })
        });
        let rules = rules.map_or(&[][..], |found| &found.rules);
        rules.iter().filter_map(|rule| self.targets[*rule as usize].as_ref())
    }

    /// The number of rules and host entries the table was built from.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether the table has no route at all.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    fn outcome(&self, rule: u32) -> Match<&T> {
        self.targets[rule as usize].as_ref().map_or(Match::Excluded, Match::Target)
    }
}

impl<T> Default for RouteTable<T> {
    fn default() -> Self {
        Self::empty()
    }
}

/// A host without its port, in lower case. No pattern is longer than a name of DNS, and no name that long has
/// a worker.
fn fold<'a>(host: &str, buffer: &'a mut [u8; HOST_BYTES_MAX]) -> Option<&'a mut [u8]> {
    let host = bare_host(host);
    let folded = buffer.get_mut(..host.len())?;
    folded.copy_from_slice(host.as_bytes());
    folded.make_ascii_lowercase();
    Some(folded)
}

impl Draft {
    fn add(&mut self, scheme: Option<Scheme>, path: PathPattern, rule: u32) {
        let rules = match path {
            PathPattern::Exact(path) => self.exact.entry(path).or_default(),
            PathPattern::Prefix(prefix) => self.prefixes.entry(prefix).or_default(),
        };
        match scheme {
            None => rules.any = Some(rule),
            Some(Scheme::Http) => rules.http = Some(rule),
            Some(Scheme::Https) => rules.https = Some(rule),
        }
    }

    fn finish(self) -> PathRules {
        let all = self.exact.values().chain(self.prefixes.values());
        let rules = all.flat_map(|rules| [rules.any, rules.http, rules.https]).flatten().collect();
        let prefixes = self.prefixes.into_iter();
        PathRules {
            rules,
            exact: self.exact,
            prefixes: PrefixMap::build(
                prefixes.map(|(prefix, rules)| (Box::from(prefix.as_bytes()), rules)),
            ),
        }
    }
}

impl PathRules {
    fn find(&self, scheme: Scheme, path_and_query: &str) -> Option<u32> {
        if !self.exact.is_empty()
            && let Some(rule) = self.exact.get(path_and_query).and_then(|r| r.find(scheme))
        {
            return Some(rule);
        }
        self.prefixes.beginning(path_and_query.as_bytes()).find_map(|rules| rules.find(scheme))
    }
}

impl SchemeRules {
    fn find(self, scheme: Scheme) -> Option<u32> {
        let named = match scheme {
            Scheme::Http => self.http,
            Scheme::Https => self.https,
        };
        named.or(self.any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(rules: &[(&str, Option<u32>)], hosts: &[(&str, u32)]) -> RouteTable<u32> {
        RouteTable::build(
            rules.iter().map(|(text, target)| (Pattern::parse(text).unwrap(), *target)),
            hosts.iter().map(|(host, target)| (host.to_string(), *target)),
        )
    }

    #[test]
    fn a_host_has_the_targets_of_its_own_rules() {
        let rules = [("*.b.c/*", Some(1)), ("x.b.c/one*", Some(2)), ("x.b.c/two", None)];
        let table = table(&rules, &[("x.b.c", 3), ("y.c", 4)]);
        for (host, expected) in [
            ("X.b.c:443", vec![2, 3]),
            ("other.b.c", vec![1]),
            ("y.c", vec![4]),
            ("z.c", vec![]),
            (&"long.".repeat(99), vec![]),
        ] {
            let mut targets: Vec<u32> = table.of_host(host).copied().collect();
            targets.sort_unstable();
            assert_eq!(targets, expected, "{host}");
        }
    }

    #[test]
    fn the_most_specific_rule_wins() {
        let table = table(
            &[
                ("*/*", Some(0)),
                ("*example.com/*", Some(1)),
                ("*.example.com/*", Some(2)),
                ("www.example.com/*", Some(3)),
                ("www.example.com/images*", Some(4)),
                ("www.example.com/images/*", Some(5)),
                ("www.example.com/images/private/*", None),
                ("www.example.com/images/private/logo.png", Some(6)),
                ("https://www.example.com/*", Some(7)),
                ("api.demo.localhost/v2/*", Some(9)),
            ],
            &[("API.demo.localhost", 8)],
        );
        let check = |scheme, host: &str, path: &str, expected: Match<u32>| {
            let found = match table.match_url(scheme, host, path) {
                Match::Target(target) => Match::Target(*target),
                Match::Excluded => Match::Excluded,
                Match::None => Match::None,
            };
            assert_eq!(found, expected, "{host}{path}");
        };
        use Scheme::{Http, Https};
        check(Http, "other.org", "/", Match::Target(0));
        check(Http, "myexample.com", "/", Match::Target(1));
        check(Http, "example.com", "/", Match::Target(1));
        check(Http, "a.example.com", "/", Match::Target(2));
        check(Http, "WWW.Example.com:8080", "/", Match::Target(3));
        check(Https, "www.example.com", "/x", Match::Target(7));
        check(Https, "www.example.com", "/images", Match::Target(4));
        check(Http, "www.example.com", "/images?x", Match::Target(4));
        check(Http, "www.example.com", "/images/a", Match::Target(5));
        check(Http, "www.example.com", "/images/private/a", Match::Excluded);
        check(Http, "www.example.com", "/images/private/logo.png", Match::Target(6));
        check(Http, "www.example.com", "/images/private/logo.png?x", Match::Excluded);
        check(Http, "api.demo.localhost:80", "/", Match::Target(8));
        check(Http, "api.demo.localhost", "*", Match::Target(8));
        check(Http, "api.demo.localhost", "/v2/x", Match::Target(9));
    }

    #[test]
    fn an_unknown_or_absurd_host_matches_nothing() {
        let table = table(&[("a.b/*", Some(1))], &[]);
        assert_eq!(table.match_url(Scheme::Http, "", "/"), Match::None);
        assert_eq!(table.match_url(Scheme::Http, "b", "/"), Match::None);
        assert_eq!(table.match_url(Scheme::Http, &"a".repeat(10_000), "/"), Match::None);
        assert_eq!(RouteTable::<u32>::empty().match_url(Scheme::Http, "a.b", "/"), Match::None);
    }

    /// Ranks every rule by itself and takes the best: the definition, without the data structure.
    fn naive(
        rules: &[(Pattern, Option<usize>)],
        hosts: &[(String, usize)],
        url: (Scheme, &str, &str),
    ) -> Match<usize> {
        let (scheme, host, path) = url;
        let rank = |pattern: &Pattern| {
            let host = match &pattern.host {
                HostPattern::Exact(_) => usize::MAX,
                HostPattern::Suffix(suffix) => suffix.len(),
            };
            let path = match &pattern.path {
                PathPattern::Exact(_) => usize::MAX,
                PathPattern::Prefix(prefix) => prefix.len() + 1,
            };
            (host, path, pattern.scheme.is_some())
        };
        let entries = hosts
            .iter()
            .filter(|(name, _)| name == host)
            .map(|(_, target)| ((usize::MAX, 0, false), Some(*target)));
        let matching = rules
            .iter()
            .filter(|(pattern, _)| pattern.matches(scheme, host, path))
            .map(|(pattern, target)| (rank(pattern), *target));
        match entries.chain(matching).max_by_key(|(rank, _)| *rank) {
            Some((_, Some(target))) => Match::Target(target),
            Some((_, None)) => Match::Excluded,
            None => Match::None,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn agrees_with_the_naive_model(
            texts in proptest::collection::vec(
                ("(http://|https://)?\\*?[ab]?\\.?a\\.b(/[xy/]{0,4}\\*?)?", any::<bool>()), 0..30),
            hosts in proptest::collection::vec("([ab]\\.)?[ab]\\.[ab]", 0..4),
            https in any::<bool>(),
            host in "([ab]{1,2}\\.)?[ab]\\.[ab]",
            path in "/[xy/]{0,5}(\\?x)?",
        ) {
            let rules: Vec<_> = texts
                .iter()
                .filter_map(|(text, positive)| Some((Pattern::parse(text).ok()?, *positive)))
                .enumerate()
                .map(|(at, (pattern, positive))| (pattern, positive.then_some(at)))
                .collect();
            let hosts: Vec<_> = hosts.into_iter().zip(1000..).collect();
            let scheme = if https { Scheme::Https } else { Scheme::Http };
            let table = RouteTable::build(rules.clone(), hosts.clone());
            let found = match table.match_url(scheme, &host, &path) {
                Match::Target(target) => Match::Target(*target),
                Match::Excluded => Match::Excluded,
                Match::None => Match::None,
            };
            prop_assert_eq!(found, naive(&rules, &hosts, (scheme, &host, &path)));
        }
    }
}
