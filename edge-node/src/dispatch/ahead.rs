//! What requests to a host touch, asked for as soon as the host is known: before the route is looked up, and before any
//! of it is waited for. Nothing here decides about a request.

use std::cell::RefCell;
use std::hash::BuildHasher;
use std::rc::{Rc, Weak};

use atoll_isolate::Footprint;
use rustc_hash::{FxBuildHasher, FxHashMap};

/// Hosts of one thread that are known at once.
const HOSTS_MAX: usize = 16_384;

/// The footprints of one thread's instances, by the hosts that they were last called for.
#[derive(Default)]
pub(super) struct Ahead {
    /// By the hosts' hashes: for two that share one the wrong lines are fetched, and nothing else.
    hosts: RefCell<FxHashMap<u64, Weak<Footprint>>>,
}

impl Ahead {
    /// Has what a request to a host touches fetched, if that is known.
    pub(super) fn fetch(&self, host: &str) {
        let hosts = self.hosts.borrow();
        if let Some(footprint) = hosts.get(&key(host)).and_then(Weak::upgrade) {
            footprint.prefetch();
        }
    }

    /// Notes which instance a host's requests lead to.
    pub(super) fn note(&self, host: &str, footprint: &Rc<Footprint>) {
        let mut hosts = self.hosts.borrow_mut();
        if hosts.len() >= HOSTS_MAX {
            hosts.retain(|_, footprint| footprint.strong_count() > 0);
        }
        if hosts.len() >= HOSTS_MAX {
            // Those that are called come back within some calls.
            hosts.clear();
        }
        hosts.insert(key(host), Rc::downgrade(footprint));
    }
}

/// A host as clients name it.
fn key(host: &str) -> u64 {
    FxBuildHasher.hash_one(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_forgets_those_that_are_gone_and_never_knows_too_many() {
        let ahead = Ahead::default();
        let live = Rc::<Footprint>::default();
        let known = |host: &str| ahead.hosts.borrow().contains_key(&key(host));
        ahead.note("live", &live);
        for n in 0..2 * HOSTS_MAX {
            ahead.note(&format!("gone-{n}"), &Rc::default());
        }
        assert!(ahead.hosts.borrow().len() <= HOSTS_MAX);
        assert!(known("live"));
        ["live", "gone-0", "never-known"].iter().for_each(|host| ahead.fetch(host));
        for n in 0..2 * HOSTS_MAX {
            ahead.note(&format!("live-{n}"), &live);
        }
        assert!(ahead.hosts.borrow().len() <= HOSTS_MAX);
    }
}
