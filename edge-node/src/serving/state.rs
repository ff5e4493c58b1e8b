//! The node's state as a serving process sees it: snapshots that the supervisor sends, and versions that it
//! is asked for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{oneshot, watch};

use crate::process::{FromServing, LinkSender};
use crate::registry::{Snapshot, Version, VersionId};
use crate::state::{ServingState, StateError};

/// Versions that are being asked for at once.
const WANTED_MAX: usize = 4_096;

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
}

impl Requests {
    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
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
        let requests = Requests { link, numbered: AtomicU64::default(), waiting: Mutex::default() };
        let snapshots = watch::Sender::new(Arc::new(snapshot));
        Self { snapshots, requests: Arc::new(requests) }
    }

    /// Takes over a new snapshot.
    pub(super) fn publish(&self, snapshot: Snapshot) {
        self.snapshots.send_replace(Arc::new(snapshot));
    }

    /// Hands an answer to whoever asked. Nobody may wait any more.
    pub(super) fn answer(&self, request: u64, answer: Answer) {
        let asked = self.requests.waiting().remove(&request);
        if let Some(asked) = asked {
            let _ = asked.send(answer);
        }
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
        Box::pin(async move { requests.ask(id).await })
    }
}
