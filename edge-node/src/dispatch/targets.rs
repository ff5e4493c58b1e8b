//! What routes lead to: the deployed workers of one registry snapshot, swapped whole at every change.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use atoll_isolate::Places;
use atoll_router::regions::{RegionPolicy, RegionRules};
use atoll_router::{Match, RouteChanges, RouteTable, Router, Scheme, SharedMap};

use super::admission::{Admission, WorkerGate};
use super::rules::LiveRules;
use crate::experiments::Recorder;
use crate::observe::{OriginStanding, STANDINGS_MAX};
use crate::origins::{Checkers, LivePools};
use crate::registry::{
    LiveWorker, Owner, Snapshot, VersionId, WorkerDocument, WorkerRef, WorkerRules,
};

/// A deployed worker, as a request finds it.
pub struct Target {
    /// The worker.
    pub worker: WorkerRef,
    /// The versions that serve, with the upper end of each one's share of 100.
    shares: Vec<(VersionId, f64)>,
    rules: Option<Arc<LiveRules>>,
    /// Whether some version of it, deployed or picked by its rules, has a script that decides about requests.
    has_script: bool,
    /// Where it may run, unless that is anywhere.
    regions: Option<Arc<RegionPolicy>>,
    /// Looked up when the first call comes.
    gate: OnceLock<Arc<WorkerGate>>,
}

impl Target {
    fn new(
        live: &LiveWorker,
        rules: Option<Arc<LiveRules>>,
        regions: Option<&RegionRules>,
    ) -> Self {
        let mut end = 0.0;
        let shares = live.deployment.versions.iter().map(|(version, percentage)| {
            end += percentage;
            (version.clone(), end)
        });
        Self {
            worker: live.worker.clone(),
            shares: shares.collect(),
            rules,
            has_script: !live.deciding.is_empty(),
            regions: regions.and_then(|regions| shared(&regions.policy)),
            gate: OnceLock::new(),
        }
    }

    /// The same worker where another policy holds.
    fn with_regions(&self, policy: &RegionPolicy) -> Self {
        Self {
            worker: self.worker.clone(),
            shares: self.shares.clone(),
            rules: self.rules.clone(),
            has_script: self.has_script,
            regions: shared(policy),
            gate: OnceLock::new(),
        }
    }

    /// Where it may run, unless that is anywhere.
    pub(super) fn regions(&self) -> Option<&Arc<RegionPolicy>> {
        self.regions.as_ref()
    }

    /// What decides about its requests before they reach it.
    pub(super) fn rules(&self) -> Option<&Arc<LiveRules>> {
        self.rules.as_ref()
    }

    /// Whether a version of it may have a script that decides about requests.
    pub(super) fn has_script(&self) -> bool {
        self.has_script
    }

    /// Where its calls are let in.
    pub(super) fn gate(&self, admission: &Admission) -> &Arc<WorkerGate> {
        self.gate.get_or_init(|| admission.gate(&self.worker))
    }

    /// Adds what letting a call in touches.
    fn add_places(&self, places: &mut Places) {
        places.value(self);
        places.value(self.shares.as_slice());
        places.value(self.worker.account.as_str());
        places.value(self.worker.worker.as_str());
        for (version, _) in &self.shares {
            places.value(version.as_str());
        }
        if let Some(gate) = self.gate.get() {
            places.value(&**gate);
        }
    }

    /// Picks the version whose share holds `draw`, a number from 0 to 100.
    pub fn version(&self, draw: f64) -> Option<&VersionId> {
        let found = self.shares.iter().find(|(_, end)| draw < *end);
        found.or(self.shares.last()).map(|(version, _)| version)
    }

    /// Whether only one version serves, so that there is nothing to draw.
    pub fn single(&self) -> Option<&VersionId> {
        match self.shares.as_slice() {
            [(version, _)] => Some(version),
            _ => None,
        }
    }
}

/// What is looked up beside routes. The next one shares with it what has not changed.
#[derive(Clone, Default)]
struct Index {
    /// What it was made of.
    snapshot: Snapshot,
    by_worker: SharedMap<WorkerRef, Arc<Target>>,
    versions: SharedMap<VersionId, ()>,
    /// Those that have a script that decides about requests.
    deciding: SharedMap<VersionId, ()>,
    /// Of workers that have some.
    pools: SharedMap<WorkerRef, LivePools>,
}

/// The route table and the index of workers. Reads take no lock.
pub struct Targets {
    router: Router<Arc<Target>>,
    index: ArcSwap<Index>,
    domain: String,
    recorder: Recorder,
    checkers: Checkers,
}

impl Targets {
    /// Makes the table for a snapshot, with workers' own hosts below `domain`.
    pub(crate) fn new(domain: &str, recorder: Recorder, snapshot: &Snapshot) -> Self {
        let targets = Self {
            router: Router::new(RouteTable::empty()),
            index: ArcSwap::default(),
            domain: domain.to_owned(),
            recorder,
            checkers: Checkers::default(),
        };
        targets.swap(snapshot);
        targets
    }

    /// Replaces everything by what the snapshot says. What has not changed stays the same. Snapshots come one after
    /// the other.
    pub fn swap(&self, snapshot: &Snapshot) {
        let before = self.index.load_full();
        let mut index = Index { snapshot: snapshot.clone(), ..(*before).clone() };
        let mut routes = self.router.load().change();
        let changed = snapshot.rerouted_since(&before.snapshot);
        // One may get what another gives up.
        for owner in &changed {
            self.remove(owner, &before.snapshot, &mut index, &mut routes);
        }
        for owner in &changed {
            self.insert(owner, &before, &mut index, &mut routes);
        }
        self.router.swap(routes.done());
        self.index.store(Arc::new(index));
    }

    /// Takes away what leads to an owner and what is known of it.
    fn remove(
        &self,
        owner: &Owner,
        before: &Snapshot,
        index: &mut Index,
        routes: &mut RouteChanges<Arc<Target>>,
    ) {
        for route in before.routes.of(owner) {
            routes.remove(&route.pattern);
        }
        for version in before.versions_of(owner) {
            index.versions.remove(version);
        }
        for live in before.workers.of(owner) {
            live.deciding.iter().for_each(|version| index.deciding.remove(version));
            self.own_host(before, live).iter().for_each(|host| routes.remove_host(host));
        }
        if let Some(worker) = owner.worker() {
            index.by_worker.remove(&worker);
            index.pools.remove(&worker);
        }
    }

    /// Puts in what the index's snapshot says of an owner.
    fn insert(
        &self,
        owner: &Owner,
        before: &Index,
        index: &mut Index,
        routes: &mut RouteChanges<Arc<Target>>,
    ) {
        let snapshot = index.snapshot.clone();
        let regions = snapshot.regions.of(owner).first().map(|source| parse_regions(source));
        let target = snapshot.workers.of(owner).first().map(|live| {
            let rules = self.compile_rules(&snapshot, live, before);
            let target = Arc::new(Target::new(live, rules, regions.as_ref()));
            if let Some(host) = self.own_host(&snapshot, live) {
                routes.insert_host(&host, target.clone());
            }
            live.deciding.iter().for_each(|version| index.deciding.insert(version.clone(), ()));
            index.by_worker.insert(live.worker.clone(), target.clone());
            target
        });
        for version in snapshot.versions_of(owner) {
            index.versions.insert(version.clone(), ());
        }
        for source in snapshot.pools.of(owner) {
            let known = before.pools.get(&source.worker);
            if let Some(pools) = LivePools::of(source, known, &self.checkers) {
                index.pools.insert(source.worker.clone(), pools);
            }
        }
        for route in snapshot.routes.of(owner) {
            let target = match (&route.worker, &target) {
                (None, _) => None,
                (Some(_), None) => continue,
                (Some(_), Some(target)) => Some(on_route(target, regions.as_ref(), &route.pattern)),
            };
            // The API refuses patterns that do not parse.
            if let Err(error) = routes.insert(&route.pattern, target) {
                tracing::error!(pattern = route.pattern, %error, "stored route is not usable");
            }
        }
    }

    /// `<worker>.<subdomain>.<domain>`, if the worker answers there.
    fn own_host(&self, snapshot: &Snapshot, live: &LiveWorker) -> Option<String> {
        let account = Owner { account: live.worker.account.clone(), worker: None };
        let named = snapshot.subdomains.of(&account).first().filter(|_| live.workers_dev)?;
        Some(format!("{}.{}.{}", live.worker.worker, named.1, self.domain))
    }

    /// The rules of a worker. Those that have not changed are not compiled again.
    fn compile_rules(
        &self,
        snapshot: &Snapshot,
        live: &LiveWorker,
        before: &Index,
    ) -> Option<Arc<LiveRules>> {
        let source = match snapshot.rules.of(&Owner::from(&live.worker)).first() {
            Some(source) => Cow::Borrowed(&**source),
            // A script decides after rules, be there none.
            None if !live.deciding.is_empty() => Cow::Owned(WorkerRules::none(live.worker.clone())),
            None => return None,
        };
        let known = before.by_worker.get(&live.worker).and_then(|target| target.rules());
        LiveRules::compile(&source, known, &self.recorder)
    }

    /// The worker that a URL leads to.
    pub fn route(&self, scheme: Scheme, host: &str, path_and_query: &str) -> Option<Arc<Target>> {
        match self.router.load().match_url(scheme, host, path_and_query) {
            Match::Target(target) => Some(target.clone()),
            Match::Excluded | Match::None => None,
        }
    }

    /// The worker that serves a host, if it is only one.
    pub fn sole_of_host(&self, host: &str) -> Option<Arc<Target>> {
        let table = self.router.load();
        let mut targets = table.of_host(host);
        let first = targets.next()?;
        targets.all(|target| Arc::ptr_eq(target, first)).then(|| first.clone())
    }

    /// Adds what finding a worker by its host touches.
    pub(super) fn add_places(&self, host: &str, worker: &WorkerRef, places: &mut Places) {
        let table = self.router.load();
        table.places(host).for_each(|place| places.address(place));
        if let Some(target) = table.of_host(host).find(|target| target.worker == *worker) {
            target.add_places(places);
        }
    }

    /// A worker by name.
    pub fn worker(&self, worker: &WorkerRef) -> Option<Arc<Target>> {
        self.index.load().by_worker.get(worker).cloned()
    }

    /// The origin pools of a worker that has some.
    pub(super) fn pools(&self, worker: &WorkerRef) -> Option<LivePools> {
        let index = self.index.load();
        // Where nobody has any, looking is free.
        if index.pools.is_empty() { None } else { index.pools.get(worker).cloned() }
    }

    /// How the origins of all workers' pools stand.
    pub(crate) fn origin_standings(&self) -> Vec<OriginStanding> {
        let index = self.index.load();
        index.pools.values().flat_map(LivePools::standings).take(STANDINGS_MAX).collect()
    }

    /// Whether a version has a script that decides about requests.
    pub(super) fn decides(&self, version: &VersionId) -> bool {
        self.index.load().deciding.contains(version)
    }

    /// Whether a version serves.
    pub fn serves(&self, version: &VersionId) -> bool {
        self.index.load().versions.contains(version)
    }
}

/// Where a worker may run.
fn parse_regions(source: &WorkerDocument) -> RegionRules {
    // The API refuses what cannot be used: a newer release may have set these.
    let rules = serde_json::from_str(&source.document).inspect_err(|error| {
        tracing::error!(worker = %source.worker.worker, %error, "regions are not understood: the worker serves nothing until this node runs the release that set them");
    });
    rules.unwrap_or_else(|_| nowhere())
}

/// What is not understood must not let a worker run where it may not.
fn nowhere() -> RegionRules {
    let policy = RegionPolicy { pin: Some(String::new()), ..RegionPolicy::default() };
    RegionRules { policy, ..RegionRules::default() }
}

/// A policy, if it says anything.
fn shared(policy: &RegionPolicy) -> Option<Arc<RegionPolicy>> {
    (!policy.is_empty()).then(|| Arc::new(policy.clone()))
}

/// A worker as requests by one of its routes find it.
fn on_route(target: &Arc<Target>, regions: Option<&RegionRules>, pattern: &str) -> Arc<Target> {
    let own = regions.and_then(|rules| rules.routes.iter().find(|own| own.pattern == pattern));
    own.map_or_else(|| target.clone(), |own| Arc::new(target.with_regions(&own.policy)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Deploy, Registry, test_version};

    /// What a table made of the snapshot alone says of some URLs, and this one.
    fn agree(targets: &Targets, snapshot: &Snapshot, hosts: &[&str]) {
        let anew = Targets::new("localhost", Recorder::default(), snapshot);
        for host in hosts {
            let found = |targets: &Targets| {
                let target = targets.route(Scheme::Http, host, "/x")?;
                Some((target.worker.clone(), target.single().cloned()))
            };
            assert_eq!(found(targets), found(&anew), "{host}");
        }
        for version in snapshot.workers.iter().flat_map(|live| live.versions()) {
            assert!(targets.serves(version));
        }
        let (index, other) = (targets.index.load(), anew.index.load());
        assert_eq!(index.versions.len(), other.versions.len());
        assert_eq!(index.by_worker.len(), other.by_worker.len());
    }

    #[test]
    fn a_swap_leaves_alone_what_has_not_changed() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(dir.path()).unwrap();
        let account = registry.create_account("a", Some("a")).unwrap().id;
        let deploy = |name: &str| {
            let version = test_version(&account, name, name, Vec::new());
            registry.add_version(version, Deploy::Now).unwrap()
        };
        let (one, other) = (deploy("one"), deploy("other"));
        registry.replace_routes(&one.worker, &["*.b.c/*".into(), "x.b.c/y".into()]).unwrap();
        registry.replace_routes(&other.worker, &["x.b.c/*".into()]).unwrap();
        let targets = Targets::new("localhost", Recorder::default(), &registry.snapshot());
        let hosts = ["one.a.localhost", "other.a.localhost", "one.z.localhost", "x.b.c", "y.b.c"];
        let check = |same: bool| {
            let before = targets.worker(&other.worker);
            targets.swap(&registry.snapshot());
            let after = targets.worker(&other.worker);
            agree(&targets, &registry.snapshot(), &hosts);
            let kept = match (&before, &after) {
                (Some(before), Some(after)) => Arc::ptr_eq(before, after),
                _ => false,
            };
            assert_eq!(kept, same);
        };
        check(true);
        deploy("one");
        check(true);
        assert!(!targets.serves(&one.id));
        registry.replace_routes(&one.worker, &["y.b.c/*".into()]).unwrap();
        check(true);
        registry.set_subdomain(&account, "z").unwrap();
        check(false);
        deploy("other");
        check(false);
        registry.delete_worker(&one.worker).unwrap();
        check(true);
        registry.delete_worker(&other.worker).unwrap();
        check(false);
        assert!(targets.router.load().is_empty());
    }
}
