//! What one snapshot has that another has not: as it is sent to serving processes, and as those who follow
//! snapshots find out what to do.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::section::{Change, Owner};
use super::{
    AccountId, LiveWorker, Route, Schedule, Snapshot, VersionId, WorkerDocument, WorkerRules,
};

/// What makes one snapshot of another.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Difference {
    /// The revision that it builds on.
    pub(super) before: u64,
    /// The revision that it leads to.
    pub(super) revision: u64,
    pub(super) workers: Change<LiveWorker>,
    pub(super) routes: Change<Route>,
    pub(super) schedules: Change<Schedule>,
    pub(super) subdomains: Change<(AccountId, String)>,
    /// All of them, where they change.
    pub(super) certificates: Option<Arc<[String]>>,
    pub(super) rules: Change<WorkerRules>,
    pub(super) regions: Change<WorkerDocument>,
    pub(super) pools: Change<WorkerDocument>,
}

impl Snapshot {
    /// What this has that an earlier one had not, and the other way around. What they share is not looked at.
    pub fn since(&self, before: &Self) -> Difference {
        Difference {
            before: before.revision,
            revision: self.revision,
            workers: self.workers.since(&before.workers),
            routes: self.routes.since(&before.routes),
            schedules: self.schedules.since(&before.schedules),
            subdomains: self.subdomains.since(&before.subdomains),
            certificates: (self.certificates != before.certificates)
                .then(|| self.certificates.clone()),
            rules: self.rules.since(&before.rules),
            regions: self.regions.since(&before.regions),
            pools: self.pools.since(&before.pools),
        }
    }

    /// The snapshot that a difference leads to; none where it builds on another revision. What has not changed is
    /// shared.
    pub fn with(&self, difference: Difference) -> Option<Self> {
        (difference.before == self.revision).then(|| Self {
            revision: difference.revision,
            workers: self.workers.with(difference.workers),
            routes: self.routes.with(difference.routes),
            schedules: self.schedules.with(difference.schedules),
            subdomains: self.subdomains.with(difference.subdomains),
            certificates: difference.certificates.unwrap_or_else(|| self.certificates.clone()),
            rules: self.rules.with(difference.rules),
            regions: self.regions.with(difference.regions),
            pools: self.pools.with(difference.pools),
        })
    }

    /// Those whose routing may be another than by an earlier snapshot. A change of a subdomain is one of all of the
    /// account's workers.
    pub(crate) fn rerouted_since(&self, before: &Self) -> BTreeSet<Owner> {
        let mut owners = self.redeployed_since(before);
        owners.extend(self.routes.since(&before.routes).owners().cloned());
        owners.extend(self.regions.since(&before.regions).owners().cloned());
        owners.extend(self.pools.since(&before.pools).owners().cloned());
        for account in self.subdomains.since(&before.subdomains).owners() {
            for snapshot in [self, before] {
                let workers = snapshot.workers.of_account(&account.account);
                owners.extend(workers.iter().map(|live| Owner::from(&live.worker)));
            }
        }
        owners
    }

    /// Those whose deployments or rules may name other versions than by an earlier snapshot.
    pub(crate) fn redeployed_since(&self, before: &Self) -> BTreeSet<Owner> {
        let (workers, rules) =
            (self.workers.since(&before.workers), self.rules.since(&before.rules));
        workers.owners().chain(rules.owners()).cloned().collect()
    }

    /// The versions that an owner's deployment and rules name.
    pub(crate) fn versions_of<'a>(&'a self, owner: &Owner) -> impl Iterator<Item = &'a VersionId> {
        let deployed = self.workers.of(owner).iter().flat_map(|live| live.versions());
        deployed.chain(self.rules.of(owner).iter().flat_map(|rules| &rules.versions))
    }
}
