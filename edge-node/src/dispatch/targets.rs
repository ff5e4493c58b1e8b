//! What routes lead to: the deployed workers of one registry snapshot, swapped whole at every change.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use atoll_router::regions::{RegionPolicy, RegionRules};
use atoll_router::{Match, Pattern, RouteTable, Router, Scheme};

use super::admission::{Admission, WorkerGate};
use super::rules::LiveRules;
use crate::experiments::Recorder;
use crate::observe::{OriginStanding, STANDINGS_MAX};
use crate::origins::{Checkers, LivePools, live_pools};
use crate::registry::{LiveWorker, Snapshot, VersionId, WorkerRef, WorkerRules};

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
        deciding: &HashSet<VersionId>,
    ) -> Self {
        let mut end = 0.0;
        let shares = live.deployment.versions.iter().map(|(version, percentage)| {
            end += percentage;
            (version.clone(), end)
        });
        let shares: Vec<_> = shares.collect();
        let picked = rules.iter().flat_map(|rules| rules.versions());
        let mut versions = shares.iter().map(|(version, _)| version).chain(picked);
        let has_script = versions.any(|version| deciding.contains(version));
        let (worker, gate) = (live.worker.clone(), OnceLock::new());
        Self { worker, shares, rules, has_script, regions: None, gate }
    }

    /// The same worker where another policy holds.
    fn with_regions(&self, policy: &RegionPolicy) -> Self {
        Self {
            worker: self.worker.clone(),
            shares: self.shares.clone(),
            rules: self.rules.clone(),
            has_script: self.has_script,
            regions: (!policy.is_empty()).then(|| Arc::new(policy.clone())),
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

#[derive(Default)]
struct Index {
    by_worker: HashMap<WorkerRef, Arc<Target>>,
    versions: HashSet<VersionId>,
    /// Those that have a script that decides about requests.
    deciding: HashSet<VersionId>,
    /// Of workers that have some.
    pools: HashMap<WorkerRef, LivePools>,
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

    /// Replaces everything by what the snapshot says.
    pub fn swap(&self, snapshot: &Snapshot) {
        let mut live_rules = self.compile_rules(snapshot);
        let regions = parse_regions(snapshot);
        let deciding: HashSet<VersionId> = snapshot.deciding.iter().cloned().collect();
        let target = |live: &LiveWorker| {
            let target = Target::new(live, live_rules.remove(&live.worker), &deciding);
            let target = match regions.get(&live.worker) {
                Some(regions) => target.with_regions(&regions.policy),
                None => target,
            };
            (live.worker.clone(), Arc::new(target))
        };
        let by_worker: HashMap<WorkerRef, Arc<Target>> =
            snapshot.workers.iter().map(target).collect();
        let rules = snapshot.routes.iter().filter_map(|route| {
            // The API refuses patterns that do not parse.
            let pattern = Pattern::parse(&route.pattern)
                .inspect_err(|error| tracing::error!(pattern = route.pattern, %error, "stored route is not usable"))
                .ok()?;
            let target = match &route.worker {
                None => None,
                Some(name) => {
                    let worker = WorkerRef { account: route.account.clone(), worker: name.clone() };
                    Some(on_route(by_worker.get(&worker)?, regions.get(&worker), &route.pattern))
                }
            };
            Some((pattern, target))
        });
        let subdomains: HashMap<_, _> =
            snapshot.subdomains.iter().map(|(account, name)| (account, name.as_str())).collect();
        let hosts = snapshot.workers.iter().filter(|live| live.workers_dev).filter_map(|live| {
            let subdomain = subdomains.get(&live.worker.account)?;
            let host = format!("{}.{subdomain}.{}", live.worker.worker, self.domain);
            Some((host, by_worker.get(&live.worker)?.clone()))
        });
        self.router.swap(RouteTable::build(rules, hosts));
        let versions = snapshot
            .workers
            .iter()
            .flat_map(|live| live.deployment.versions.iter().map(|(version, _)| version.clone()))
            .chain(snapshot.rules.iter().flat_map(|rules| rules.versions.iter().cloned()))
            .collect();
        let pools = live_pools(snapshot, &self.index.load().pools, &self.checkers);
        self.index.store(Arc::new(Index { by_worker, versions, deciding, pools }));
    }

    /// The rules of a snapshot's workers. Those that have not changed are not compiled again.
    fn compile_rules(&self, snapshot: &Snapshot) -> HashMap<WorkerRef, Arc<LiveRules>> {
        let before = self.index.load();
        let scripts: HashSet<&VersionId> = snapshot.deciding.iter().collect();
        let mut sources: HashMap<&WorkerRef, Cow<'_, WorkerRules>> =
            snapshot.rules.iter().map(|source| (&source.worker, Cow::Borrowed(source))).collect();
        // A script decides after rules, be there none.
        for live in &snapshot.workers {
            let mut versions = live.deployment.versions.iter();
            if versions.any(|(version, _)| scripts.contains(version)) {
                sources
                    .entry(&live.worker)
                    .or_insert_with(|| Cow::Owned(WorkerRules::none(live.worker.clone())));
            }
        }
        let compiled = sources.values().filter_map(|source| {
            let known = before.by_worker.get(&source.worker).and_then(|target| target.rules());
            Some((source.worker.clone(), LiveRules::compile(source, known, &self.recorder)?))
        });
        compiled.collect()
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

/// Where the workers of a snapshot may run that say something of it.
fn parse_regions(snapshot: &Snapshot) -> HashMap<&WorkerRef, RegionRules> {
    let parsed = snapshot.regions.iter().map(|source| {
        // The API refuses what cannot be used: a newer release may have set these.
        let rules = serde_json::from_str(&source.document).inspect_err(|error| {
            tracing::error!(worker = %source.worker.worker, %error, "regions are not understood: the worker serves nothing until this node runs the release that set them");
        });
        (&source.worker, rules.unwrap_or_else(|_| nowhere()))
    });
    parsed.collect()
}

/// What is not understood must not let a worker run where it may not.
fn nowhere() -> RegionRules {
    let policy = RegionPolicy { pin: Some(String::new()), ..RegionPolicy::default() };
    RegionRules { policy, ..RegionRules::default() }
}

/// A worker as requests by one of its routes find it.
fn on_route(target: &Arc<Target>, regions: Option<&RegionRules>, pattern: &str) -> Arc<Target> {
    let own = regions.and_then(|rules| rules.routes.iter().find(|own| own.pattern == pattern));
    own.map_or_else(|| target.clone(), |own| Arc::new(target.with_regions(&own.policy)))
}
