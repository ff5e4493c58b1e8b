//! The route table: from scheme, host and path to a target, the most specific rule winning.
//!
//! Specificity is compared in this order: an exact host before a wildcard one, and the longer
//! wildcard suffix first; an exact path before a prefix, and the longer prefix first (so
//! `x/images/*` beats `x/images*`); a rule that names the scheme before one that does not. A
//! negative rule wins by the same order and takes the URL away from every broader one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::host_rules::{GivenRules, HostRules, Rule};
use crate::pattern::{HOST_BYTES_MAX, HostPattern, Pattern, PatternError, Scheme, bare_host};
use crate::prefix::PrefixMap;
use crate::shared_map::SharedMap;

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
/// of rules of one host. The next table shares with it what has not changed.
#[derive(Clone, Debug)]
pub struct RouteTable<T> {
    hosts: SharedMap<Box<str>, Arc<HostRules<T>>>,
    suffixes: Suffixes<T>,
    /// Rules and host entries.
    count: usize,
}

/// The rules of wildcard hosts, by their suffixes, and the same keyed by the suffix reversed, which makes it a prefix
/// of the reversed host.
#[derive(Clone, Debug)]
struct Suffixes<T> {
    by_suffix: Arc<BTreeMap<Box<str>, Arc<HostRules<T>>>>,
    reversed: Arc<PrefixMap<Arc<HostRules<T>>>>,
}

/// Changes of a table that lead to the next one.
#[derive(Debug)]
pub struct RouteChanges<T> {
    table: RouteTable<T>,
    /// What the hosts are given whose rules change.
    hosts: HashMap<HostPattern, GivenRules<T>>,
}

impl<T: Clone> RouteTable<T> {
    /// A table without routes.
    pub fn empty() -> Self {
        let (by_suffix, reversed) = (Arc::default(), Arc::new(PrefixMap::build([])));
        Self { hosts: SharedMap::default(), suffixes: Suffixes { by_suffix, reversed }, count: 0 }
    }

    /// Begins with changes.
    pub fn change(&self) -> RouteChanges<T> {
        RouteChanges { table: self.clone(), hosts: HashMap::new() }
    }

    /// Finds the most specific rule for a URL. The host may be in any case and carry a port;
    /// `path_and_query` begins with `/` and includes the query.
    pub fn match_url(&self, scheme: Scheme, host: &str, path_and_query: &str) -> Match<&T> {
        let mut buffer = [0; HOST_BYTES_MAX];
        let Some(folded) = fold(host, &mut buffer) else { return Match::None };
        let named = std::str::from_utf8(folded).ok().and_then(|host| self.hosts.get(host));
        let mut found = named.and_then(|rules| rules.find(scheme, path_and_query));
        if found.is_none() {
            folded.reverse();
            let mut suffixes = self.suffixes.reversed.beginning(folded);
            found = suffixes.find_map(|rules| rules.find(scheme, path_and_query));
        }
        match found {
            Some(Some(target)) => Match::Target(target),
            Some(None) => Match::Excluded,
            None => Match::None,
        }
    }

    /// The targets of all rules for exactly this host, in any case; of the longest wildcard suffix when there
    /// are none. A target may come more than once.
    pub fn of_host(&self, host: &str) -> impl Iterator<Item = &T> {
        let mut buffer = [0; HOST_BYTES_MAX];
        let rules = fold(host, &mut buffer).and_then(|folded| {
            let named = std::str::from_utf8(folded).ok().and_then(|host| self.hosts.get(host));
            named.or_else(|| {
                folded.reverse();
                self.suffixes.reversed.beginning(folded).next()
            })
        });
        rules.into_iter().flat_map(|rules| rules.targets())
    }

    /// Where in memory a lookup for exactly this host looks, for who wants it there before: hints, never to be read.
    pub fn places(&self, host: &str) -> impl Iterator<Item = *const u8> {
        let mut buffer = [0; HOST_BYTES_MAX];
        let host = fold(host, &mut buffer).and_then(|folded| std::str::from_utf8(folded).ok());
        let entry = host.and_then(|host| self.hosts.places(host));
        let rules =
            host.and_then(|host| self.hosts.get(host)).map(|rules| HostRules::places(rules));
        entry.into_iter().flatten().chain(rules.into_iter().flatten())
    }

    /// The number of rules and host entries that it has.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether the table has no route at all.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn rules(&self, host: &HostPattern) -> Option<&Arc<HostRules<T>>> {
        match host {
            HostPattern::Exact(host) => self.hosts.get(host),
            HostPattern::Suffix(suffix) => self.suffixes.by_suffix.get(suffix),
        }
    }
}

impl<T: Clone> RouteChanges<T> {
    /// Adds a rule, which is negative without a target, in place of one of the same text. Of equal rules the one with
    /// the last text counts.
    ///
    /// # Errors
    /// When the text is no pattern.
    pub fn insert(&mut self, text: &str, target: Option<T>) -> Result<(), PatternError> {
        let Pattern { scheme, host, path } = Pattern::parse(text)?;
        self.of(host).rules.insert(text.into(), Rule { scheme, path, target });
        Ok(())
    }

    /// Takes a rule away.
    pub fn remove(&mut self, text: &str) {
        // What is no pattern was not added.
        if let Ok(pattern) = Pattern::parse(text) {
            self.of(pattern.host).rules.remove(text);
        }
    }

    /// Has a whole host lead to one target, such as `worker.subdomain.domain`. That is less specific than any rule
    /// that names the same host.
    pub fn insert_host(&mut self, host: &str, target: T) {
        self.of(whole(host)).entry = Some(target);
    }

    /// Takes away that a whole host leads to a target.
    pub fn remove_host(&mut self, host: &str) {
        self.of(whole(host)).entry = None;
    }

    /// The table that the changes lead to.
    pub fn done(self) -> RouteTable<T> {
        let Self { mut table, hosts } = self;
        let mut suffixes = None;
        for (host, given) in hosts {
            table.count -= table.rules(&host).map_or(0, |rules| rules.count());
            let rules = HostRules::of(given).map(Arc::new);
            table.count += rules.as_ref().map_or(0, |rules| rules.count());
            match (host, rules) {
                (HostPattern::Exact(host), Some(rules)) => table.hosts.insert(host, rules),
                (HostPattern::Exact(host), None) => table.hosts.remove(&host),
                (HostPattern::Suffix(suffix), rules) => {
                    let all = suffixes.get_or_insert_with(|| (*table.suffixes.by_suffix).clone());
                    match rules {
                        Some(rules) => all.insert(suffix, rules),
                        None => all.remove(&suffix),
                    };
                }
            }
        }
        if let Some(suffixes) = suffixes {
            table.suffixes = Suffixes::of(suffixes);
        }
        table
    }

    fn of(&mut self, host: HostPattern) -> &mut GivenRules<T> {
        let table = &self.table;
        self.hosts.entry(host).or_insert_with_key(|host| {
            table.rules(host).map_or_else(GivenRules::default, |rules| rules.given().clone())
        })
    }
}

impl<T> Suffixes<T> {
    fn of(by_suffix: BTreeMap<Box<str>, Arc<HostRules<T>>>) -> Self {
        let reversed = by_suffix
            .iter()
            .map(|(suffix, rules)| (suffix.bytes().rev().collect::<Box<[u8]>>(), rules.clone()));
        Self { reversed: Arc::new(PrefixMap::build(reversed)), by_suffix: Arc::new(by_suffix) }
    }
}

impl<T: Clone> Default for RouteTable<T> {
    fn default() -> Self {
        Self::empty()
    }
}

fn whole(host: &str) -> HostPattern {
    HostPattern::Exact(bare_host(host).to_ascii_lowercase().into())
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pattern::PathPattern;

    fn table(rules: &[(&str, Option<u32>)], hosts: &[(&str, u32)]) -> RouteTable<u32> {
        let mut changes = RouteTable::empty().change();
        hosts.iter().for_each(|(host, target)| changes.insert_host(host, *target));
        rules.iter().for_each(|(text, target)| changes.insert(text, *target).unwrap());
        changes.done()
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

    type Rules = Vec<(String, bool)>;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn agrees_with_the_naive_model(
            texts in texts(),
            before in texts(),
            hosts in proptest::collection::vec("([ab]\\.)?[ab]\\.[ab]", 0..4),
            https in any::<bool>(),
            host in "([ab]{1,2}\\.)?[ab]\\.[ab]",
            path in "/[xy/]{0,5}(\\?x)?",
        ) {
            // Of equal rules the one with the last text counts, and there is one of each text.
            let texts: BTreeMap<String, bool> = texts.into_iter().collect();
            let rules: Vec<_> = texts
                .iter()
                .filter_map(|(text, positive)| Some((text, Pattern::parse(text).ok()?, *positive)))
                .enumerate()
                .map(|(at, (text, pattern, positive))| (text, pattern, positive.then_some(at)))
                .collect();
            let hosts: BTreeMap<String, usize> = hosts.into_iter().zip(1000..).collect();
            // The table comes of another one, whose rules and hosts go.
            let mut changes = RouteTable::empty().change();
            before.iter().for_each(|(text, _)| drop(changes.insert(text, Some(2000))));
            changes.insert_host("a.a", 2001);
            let earlier = changes.done();
            let mut changes = earlier.change();
            before.iter().for_each(|(text, _)| changes.remove(text));
            changes.remove_host("A.a");
            rules.iter().for_each(|(text, _, target)| changes.insert(text, *target).unwrap());
            hosts.iter().for_each(|(host, target)| changes.insert_host(host, *target));
            let table = changes.done();
            prop_assert_eq!(table.len(), rules.len() + hosts.len());
            let scheme = if https { Scheme::Https } else { Scheme::Http };
            let found = match table.match_url(scheme, &host, &path) {
                Match::Target(target) => Match::Target(*target),
                Match::Excluded => Match::Excluded,
                Match::None => Match::None,
            };
            let rules: Vec<_> =
                rules.into_iter().map(|(_, pattern, target)| (pattern, target)).collect();
            let hosts: Vec<_> = hosts.into_iter().collect();
            prop_assert_eq!(found, naive(&rules, &hosts, (scheme, &host, &path)));
        }
    }

    fn texts() -> impl Strategy<Value = Rules> {
        let pattern = "(http://|https://)?\\*?[abA]?\\.?a\\.b(/[xy/]{0,4}\\*?)?";
        proptest::collection::vec((pattern, any::<bool>()), 0..30)
    }

    #[test]
    fn the_next_table_shares_the_rules_of_other_hosts() {
        let before = table(&[("*.b.c/*", Some(1)), ("x.b/*", Some(2))], &[("y.b", 3)]);
        let mut changes = before.change();
        changes.remove("x.b/*");
        let after = changes.done();
        assert_eq!(after.match_url(Scheme::Http, "x.b", "/"), Match::None);
        let same = |host: &str| {
            let of =
                |table: &RouteTable<u32>| std::ptr::from_ref(table.of_host(host).next().unwrap());
            of(&before) == of(&after)
        };
        assert!(same("z.b.c") && same("y.b"));
        assert_eq!((before.len(), after.len()), (3, 2));
    }
}
