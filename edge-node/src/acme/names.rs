//! Which names get certificates.

use std::collections::{BTreeSet, HashSet};

use crate::config::{AcmeConfig, is_certifiable};
use crate::registry::Snapshot;

/// The names of the configuration, and, if it says so, the hosts of routes that nobody has uploaded a certificate
/// for: as many as it allows, in the order of their letters.
pub(super) fn wanted(
    config: &AcmeConfig,
    domain: &str,
    snapshot: &Snapshot,
    uploaded: &HashSet<String>,
) -> BTreeSet<String> {
    let mut wanted: BTreeSet<String> = config.domains.iter().cloned().collect();
    if !config.routes {
        return wanted;
    }
    let own = |host: &str| {
        host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    let covered = |host: &str| {
        let wildcard = host.split_once('.').map(|(_, parent)| format!("*.{parent}"));
        uploaded.contains(host) || wildcard.is_some_and(|wildcard| uploaded.contains(&wildcard))
    };
    let served = snapshot.routes.iter().filter(|route| route.worker.is_some());
    let hosts: BTreeSet<String> = served.filter_map(|route| host_of(&route.pattern)).collect();
    let fit = |host: &String| {
        is_certifiable(host) && !own(host) && !covered(host) && !config.domains.contains(host)
    };
    wanted.extend(hosts.into_iter().filter(fit).take(config.route_domains_max));
    wanted
}

/// The one host that a route's pattern has; none where it has many.
fn host_of(pattern: &str) -> Option<String> {
    let rest = pattern.split_once("://").map_or(pattern, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    (!host.contains('*')).then(|| host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::registry::{AccountId, Route, WorkerName};

    #[test]
    fn names_come_from_the_configuration_and_from_routes() {
        let route = |pattern: &str, worker: Option<&str>| Route {
            id: pattern.into(),
            account: AccountId::new("a"),
            pattern: pattern.into(),
            worker: worker.map(WorkerName::new),
        };
        let routes = [
            route("https://B.example/x*", Some("w")),
            route("b.example/y*", Some("w")),
            route("off.example/*", None),
            route("*.c.example/*", Some("w")),
            route("has.example/*", Some("w")),
            route("below.star.example/*", Some("w")),
            route("w.demo.node.example/*", Some("w")),
            route("localhost/*", Some("w")),
            route("z.example/*", Some("w")),
        ];
        let routes = routes.map(Arc::new).to_vec().into();
        let snapshot = Snapshot { routes, ..Snapshot::default() };
        let uploaded = HashSet::from(["has.example".to_owned(), "*.star.example".to_owned()]);
        let check = |routes: &str, expected: &[&str]| {
            let toml = format!("terms_accepted = true\ndomains = ['a.example']\n{routes}");
            let config: AcmeConfig = toml::from_str(&toml).unwrap();
            let wanted = wanted(&config, "node.example", &snapshot, &uploaded);
            assert_eq!(wanted.iter().map(String::as_str).collect::<Vec<_>>(), expected);
        };
        check("", &["a.example"]);
        check("routes = true", &["a.example", "b.example", "z.example"]);
        check("routes = true\nroute_domains_max = 1", &["a.example", "b.example"]);
    }
}
