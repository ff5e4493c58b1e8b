//! The node's state as a serving process sees it: snapshots that the supervisor sends, and versions that it
//! is asked for. Versions are immutable, so those that were sent once are kept, and those that are deployed are
//! asked for before anybody calls them, as far as there is room.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use moka::sync::Cache;
use tokio::sync::{oneshot, watch};

use crate::process::{FromServing, LinkSender};
use crate::registry::{Snapshot, Version, VersionId};
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
    pub(super) fn new(link: LinkSender<FromServing>, snapshot: Snapshot) -> Self {
        let weigh = |_: &VersionId, version: &Arc<Version>| version.weight();
        let kept = Cache::builder().max_capacity(KEPT_BYTES_MAX).weigher(weigh).build();
        let (numbered, waiting) = (AtomicU64::default(), Mutex::default());
        let requests = Requests { link, numbered, waiting, kept };
        let snapshots = watch::Sender::new(Arc::new(snapshot));
        Self { snapshots, requests: Arc::new(requests) }
    }

    /// Takes over a new snapshot.
    pub(super) fn publish(&self, snapshot: Snapshot) {
        self.snapshots.send_replace(Arc::new(snapshot));
    }

    /// Asks for what is deployed, one version after the other, until there is no room for more, and hands it to
    /// `prepare`. Ends with the snapshots.
    pub(super) async fn fetch_ahead(self, prepare: impl Fn(&Version)) {
        let mut snapshots = self.snapshots.subscribe();
        let mut asked: HashSet<VersionId> = HashSet::new();
        loop {
            let deployed = deployed(&snapshots.borrow_and_update());
            for gone in asked.extract_if(|id| !deployed.contains(id)) {
                self.requests.kept.invalidate(&gone);
            }
            for id in deployed {
                if self.requests.is_full() || !asked.insert(id.clone()) {
                    continue;
                }
                match self.requests.version(id).await {
                    Ok(Some(version)) => prepare(&version),
                    Ok(None) => {}
                    // Whoever calls it is told; the supervisor may only be busy.
                    Err(_) => tokio::time::sleep(AHEAD_RETRY).await,
                }
            }
            if snapshots.changed().await.is_err() {
                return;
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

/// The versions that a snapshot's deployments and rules name.
fn deployed(snapshot: &Snapshot) -> HashSet<VersionId> {
    let workers = snapshot.workers.iter();
    let by_rules = snapshot.rules.iter().flat_map(|rules| rules.versions.iter().cloned());
    let shares = workers.flat_map(|live| live.deployment.versions.iter().map(|(id, _)| id.clone()));
    shares.chain(by_rules).collect()
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
