//! Versions that brought a serving process down: they get no instance until their time is over.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustc_hash::FxHashSet;

use crate::registry::{AccountId, Version, VersionId, WorkerName, WorkerRef};

/// Versions that must not run now. Reads take no lock; the set is swapped whole.
#[derive(Default)]
pub struct Quarantined {
    versions: ArcSwap<FxHashSet<VersionId>>,
}

impl Quarantined {
    /// Whether the version must not run now.
    pub fn contains(&self, version: &VersionId) -> bool {
        let versions = self.versions.load();
        !versions.is_empty() && versions.contains(version)
    }

    /// Says which versions must not run from now on.
    pub fn replace(&self, versions: impl IntoIterator<Item = VersionId>) {
        self.versions.store(Arc::new(versions.into_iter().collect()));
    }
}

/// Whose code a process executed when it crashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Culprit {
    /// The worker.
    pub worker: WorkerRef,
    /// Its version.
    pub version: VersionId,
}

impl Culprit {
    /// How crash reports call an instance of the version.
    pub fn label(version: &Version) -> String {
        let WorkerRef { account, worker } = &version.worker;
        format!("{account}/{worker}/{}", version.id)
    }

    /// Understands such a label.
    pub fn parse(label: &str) -> Option<Self> {
        if !label.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let mut parts = label.split('/');
        let (account, worker, version) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || [account, worker, version].contains(&"") {
            return None;
        }
        let worker =
            WorkerRef { account: AccountId::new(account), worker: WorkerName::new(worker) };
        Some(Self { worker, version: VersionId::new(version) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_understood() {
        let check = |label: &str, good: bool| assert_eq!(Culprit::parse(label).is_some(), good);
        check("a/w/v", true);
        check("", false);
        check("a/w", false);
        check("a//v", false);
        check("a/w/v/x", false);
        check("a/w/v\u{1b}", false);
        assert_eq!(Culprit::parse("a/w/v").unwrap().version, VersionId::new("v"));
    }
}
