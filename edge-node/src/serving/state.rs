//! The node's state as a serving process sees it: snapshots that the supervisor sends, and versions that it
//! is asked for. Versions are immutable, so those that were sent once are kept, and those that are deployed are
//! asked for before anybody calls them, as far as there is room.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use moka::sync::Cache;
use tokio::sync::{oneshot, watch};

use crate::process::{FromServing, LinkError, LinkSender};
use crate::registry::{Difference, Snapshot, Version, VersionId, WorkerRef};
use crate::state::{ServingState, StateError};

/// Versions that are being asked for at once.
const WANTED_MAX: usize = 4_096;

/// What kept versions weigh together, in bytes of their modules.
const KEPT_BYTES_MAX: u64 = 64 << 20;

/// How long nothing is asked for ahead after the supervisor could not answer.
const AHEAD_RETRY: Duration = Duration::from_secs(1);

/// How long the supervisor may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// What the supervisor says of a version.
pub(super) type Answer = Result<Option<Version>, String>;

/// State over the control link. Cheap to clone.
#[derive(Clone)]
pub(super) struct LinkState {
    snapshots: watch::Sender<Arc<Snapshot>>,
    requests: Arc<Requests>,
}

struct Requests {
    link: LinkSender<FromServing>,
    numbered: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    kept: Cache<VersionId, Arc<Version>>,
}

impl Requests {
    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A version that is kept, or what the supervisor says of it.
    async fn version(&self, id: VersionId) -> Result<Option<Arc<Version>>, StateError> {
        if let Some(version) = self.kept.get(&id) {
            return Ok(Some(version));
        }
        let version = self.ask(id.clone()).await?;
        if let Some(version) = &version {
            self.kept.insert(id, version.clone());
        }
        Ok(version)
    }

    /// Whether what is kept leaves no room for a version of ordinary size.
    fn is_full(&self) -> bool {
        self.kept.run_pending_tasks();
        self.kept.weighted_size() > KEPT_BYTES_MAX / 10 * 9
    }

    async fn ask(&self, id: VersionId) -> Result<Option<Arc<Version>>, StateError> {
        let request = self.numbered.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            if waiting.len() >= WANTED_MAX {
                return Err(StateError("too many versions are being loaded".to_owned()));
            }
            waiting.insert(request, answer);
        }
        let _forget = Forget { requests: self, request };
        let gone = || StateError("the supervisor is gone".to_owned());
        self.link
            .send(&FromServing::WantVersion { request, id }, Vec::new())
            .await
            .map_err(|_| gone())?;
        match tokio::time::timeout(ANSWER_MAX, answered).await {
            Ok(Ok(answer)) => Ok(answer.map_err(StateError)?.map(Arc::new)),
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(StateError("the supervisor does not answer in time".to_owned())),
        }
    }
}

/// Takes a request out of those that wait, however it ends.
struct Forget<'a> {
    requests: &'a Requests,
    request: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.requests.waiting().remove(&self.request);
    }
}

impl LinkState {
    /// The state before anything is known.
    pub(super) fn new(link: LinkSender<FromServing>) -> Self {
        let weigh = |_: &VersionId, version: &Arc<Version>| version.weight();
        let kept = Cache::builder().max_capacity(KEPT_BYTES_MAX).weigher(weigh).build();
        let (numbered, waiting) = (AtomicU64::default(), Mutex::default());
        let requests = Requests { link, numbered, waiting, kept };
        let snapshots = watch::Sender::default();
        Self { snapshots, requests: Arc::new(requests) }
    }

    /// Takes over what a new snapshot has that this one has not.
    ///
    /// # Errors
    /// When it builds on another snapshot: the supervisor is not understood then.
    pub(super) fn take_over(&self, difference: Difference) -> Result<(), LinkError> {
        let next = self.snapshots.borrow().with(difference);
        let next = next.ok_or(LinkError::OutOfTurn("a change of another snapshot"))?;
        self.snapshots.send_replace(Arc::new(next));
        Ok(())
    }

    /// Asks for what is deployed of the workers that `is_home` says yes to, one version after the other, while there
    /// is room for more, and hands it to `prepare`. Ends with the snapshots.
    pub(super) async fn fetch_ahead(
        self,
        is_home: impl Fn(&WorkerRef) -> bool,
        prepare: impl Fn(&Version),
    ) {
        let mut snapshots = self.snapshots.subscribe();
        let mut ahead = Ahead::default();
        loop {
            for gone in ahead.follow(&snapshots.borrow_and_update().clone(), &is_home) {
                self.requests.kept.invalidate(&gone);
            }
            let next = if self.requests.is_full() { None } else { ahead.wanted.pop_first() };
            let Some(id) = next else {
                match snapshots.changed().await {
                    Ok(()) => continue,
                    Err(_) => return,
                }
            };
            match self.requests.version(id).await {
                Ok(Some(version)) => prepare(&version),
                Ok(None) => {}
                // Whoever calls it is told; the supervisor may only be busy.
                Err(_) => tokio::time::sleep(AHEAD_RETRY).await,
            }
        }
    }

    /// Hands an answer to whoever asked. Nobody may wait any more.
    pub(super) fn answer(&self, request: u64, answer: Answer) {
        let asked = self.requests.waiting().remove(&request);
        if let Some(asked) = asked {
            let _ = asked.send(answer);
        }
    }
}

/// What is still to be asked for ahead.
#[derive(Default)]
struct Ahead {
    snapshot: Arc<Snapshot>,
    wanted: BTreeSet<VersionId>,
}

impl Ahead {
    /// Takes over a snapshot. Gives the versions that nothing names any more.
    fn follow(
        &mut self,
        snapshot: &Arc<Snapshot>,
        is_home: impl Fn(&WorkerRef) -> bool,
    ) -> Vec<VersionId> {
        let before = std::mem::replace(&mut self.snapshot, snapshot.clone());
        let mut gone = Vec::new();
        for owner in snapshot.redeployed_since(&before) {
            let known: BTreeSet<_> = before.versions_of(&owner).cloned().collect();
            let named: BTreeSet<_> = snapshot.versions_of(&owner).cloned().collect();
            if owner.worker().is_none_or(|worker| is_home(&worker)) {
                self.wanted.extend(named.difference(&known).cloned());
            }
            for version in known.difference(&named) {
                self.wanted.remove(version);
                gone.push(version.clone());
            }
        }
        gone
    }
}

impl ServingState for LinkState {
    fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.subscribe()
    }

    fn version(
        &self,
        id: &VersionId,
    ) -> BoxFuture<'static, Result<Option<Arc<Version>>, StateError>> {
        let (requests, id) = (self.requests.clone(), id.clone());
        Box::pin(async move { requests.version(id).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{FrameLimits, ToServing, open};
    use crate::registry::{AccountId, Deployment, LiveWorker, Section, WorkerName};

    fn snapshot(revision: u64, versions: &[(&str, &str)]) -> Snapshot {
        let live = |(worker, version): &(&str, &str)| LiveWorker {
            worker: WorkerRef { account: AccountId::new("a"), worker: WorkerName::new(*worker) },
            deployment: Deployment {
                id: (*version).to_owned(),
                created_ms: 0,
                versions: vec![(VersionId::new(*version), 100.0)],
                annotations: Default::default(),
            },
            workers_dev: true,
            deciding: Vec::new(),
        };
        let workers = Section::from(versions.iter().map(live).map(Arc::new).collect::<Vec<_>>());
        Snapshot { revision, workers, ..Snapshot::default() }
    }

    /// Changes that came together are told together, and a registry that follows a log back has an older revision.
    #[tokio::test]
    async fn a_process_has_what_it_was_told_last_whatever_came_between() {
        let (ours, _theirs) = tokio::net::UnixStream::pair().unwrap();
        let limits = FrameLimits { header_bytes_max: 1, payload_bytes_max: 0 };
        let state = LinkState::new(open::<FromServing, ToServing>(ours, limits).0);
        let mut told = Snapshot::default();
        for next in [
            snapshot(7, &[("x", "1"), ("y", "2")]),
            snapshot(9, &[("x", "3"), ("y", "2"), ("z", "4")]),
            snapshot(2, &[("y", "2")]),
            snapshot(2, &[("y", "5")]),
        ] {
            state.take_over(next.since(&told)).unwrap();
            assert_eq!(**state.snapshots.borrow(), next);
            told = next;
        }
        let other = snapshot(8, &[]).since(&snapshot(7, &[("x", "1")]));
        let refused = state.take_over(other).unwrap_err().to_string();
        assert!(refused.contains("another snapshot"), "{refused}");
        assert_eq!(**state.snapshots.borrow(), told);
    }

    #[test]
    fn each_version_is_wanted_once_and_only_while_it_is_named() {
        let mut ahead = Ahead::default();
        let id = VersionId::new;
        let mut follow = |revision, versions: &[(&str, &str)]| {
            let is_home = |worker: &WorkerRef| worker.worker.as_str() != "far";
            let gone = ahead.follow(&Arc::new(snapshot(revision, versions)), is_home);
            (gone, std::mem::take(&mut ahead.wanted).into_iter().collect::<Vec<_>>())
        };
        let first = [("x", "1"), ("y", "2"), ("far", "9")];
        assert_eq!(follow(1, &first), (vec![], vec![id("1"), id("2")]));
        let second = [("x", "3"), ("y", "2"), ("far", "9")];
        assert_eq!(follow(2, &second), (vec![id("1")], vec![id("3")]));
        assert_eq!(follow(3, &[("x", "3"), ("far", "9")]), (vec![id("2")], vec![]));
    }
}
