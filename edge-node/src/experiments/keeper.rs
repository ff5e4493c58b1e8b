//! Takes in what the node's processes saw: straight into the store, or in a cluster through a log from which every
//! node takes in the same.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use atoll_kv::log::{
    Append, ChangeLog, Deliveries, Delivery, Identity, LogEngine, LogOptions, Lost, Position,
};
use atoll_router::rules::RuleSet;
use futures_util::StreamExt;
use tokio::sync::{Mutex, mpsc};

use super::batch::{Batch, Served};
use super::results::{ExperimentResults, results};
use super::store::{Applied, Store, StoreError, StoreLimits};
use crate::registry::{Owner, Registry, Snapshot, WorkerRef, now_ms};

/// Where the store lies in the data directory, or in its part for the cluster.
const FILE: &str = "experiments.sqlite";
/// Batches of serving processes that wait to be taken in.
const QUEUED_MAX: usize = 256;
/// The log that the nodes of a cluster share.
const LOG: &str = "experiments";
/// How long a node may be away and still catch up.
const TTL: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Exposures and outcomes in one record, well below the smallest payload that servers take.
const ITEMS_MAX: usize = 4_000;
/// How long an append may take.
const APPEND_MAX: Duration = Duration::from_secs(5);
/// The pause before the log is followed again.
const PAUSE: Duration = Duration::from_secs(1);

/// The results of experiments, kept. Clones share them.
#[derive(Clone)]
pub(crate) struct Experiments(Arc<Kept>);

struct Kept {
    store: Arc<Store>,
    sender: mpsc::Sender<Batch>,
    receiver: Mutex<mpsc::Receiver<Batch>>,
    /// Batches that were lost on the way.
    lost: AtomicU64,
}

impl Experiments {
    /// Opens what is kept in a directory.
    pub(crate) fn open(directory: &Path) -> Result<Self, StoreError> {
        let store = Arc::new(Store::open(&directory.join(FILE), StoreLimits::default())?);
        let (sender, receiver) = mpsc::channel(QUEUED_MAX);
        let lost = AtomicU64::new(0);
        Ok(Self(Arc::new(Kept { store, sender, receiver: Mutex::new(receiver), lost })))
    }

    /// Takes what a process saw, unless too much waits. Never blocks.
    pub(crate) fn take(&self, mut batch: Batch) {
        // Whatever time the process says.
        batch.at_ms = now_ms();
        if !batch.is_empty() && self.0.sender.try_send(batch).is_err() {
            self.lose();
        }
    }

    fn lose(&self) {
        if self.0.lost.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!("what processes saw of experiments is lost: too much waits to be kept");
        }
    }

    /// What is known of the experiments that a worker's rules are about. Blocks.
    pub(crate) fn results(
        &self,
        worker: &WorkerRef,
        set: &RuleSet,
        now_ms: u64,
    ) -> Result<Vec<ExperimentResults>, StoreError> {
        Ok(results(set, &self.0.store.totals(worker)?, now_ms))
    }

    /// Exposures, outcomes and batches that were left out so far, for want of room. Blocks.
    pub(crate) fn dropped(&self) -> Result<u64, StoreError> {
        Ok(self.0.store.dropped()? + self.0.lost.load(Ordering::Relaxed))
    }

    /// How the variants of a rule fared since a time. Blocks.
    pub(super) fn served_since(
        &self,
        worker: &WorkerRef,
        rule: &str,
        seed: &str,
        since_ms: u64,
    ) -> Result<Vec<(String, Served)>, StoreError> {
        self.0.store.served_since(worker, rule, seed, since_ms)
    }

    /// Takes in what comes, on a node by itself. Never ends.
    pub(crate) async fn keep(self, registry: Registry) {
        let mut receiver = self.0.receiver.lock().await;
        while let Some(mut batch) = receiver.recv().await {
            batch.retain_sound(there(&registry.snapshot()));
            self.apply(batch, None).await;
        }
    }

    /// Tells the cluster what comes, and takes in what its nodes tell. Never ends.
    pub(crate) async fn keep_in_cluster(self, registry: Registry, engine: impl LogEngine) {
        let options = LogOptions { append_timeout: APPEND_MAX, ..LogOptions::default() };
        let log = engine.log(LOG, options);
        tokio::join!(self.tell(&registry, &*log), self.follow(&*log));
    }

    async fn tell(&self, registry: &Registry, log: &dyn ChangeLog) {
        let mut receiver = self.0.receiver.lock().await;
        while let Some(mut batch) = receiver.recv().await {
            batch.retain_sound(there(&registry.snapshot()));
            for part in batch.split(ITEMS_MAX) {
                let payload = rmp_serde::to_vec_named(&part).expect("a batch is plain data");
                if let Err(error) = log.append(Append::new("seen", payload).ttl(TTL)).await {
                    tracing::debug!(%error, "other nodes cannot be told of experiments now");
                    self.lose();
                }
            }
        }
    }

    async fn follow(&self, log: &dyn ChangeLog) {
        loop {
            if let Some(position) = self.position(log).await {
                self.take_in(log.subscribe(position.clone()), position).await;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Where to go on: where the store stands, or at the beginning of the log that is there.
    async fn position(&self, log: &dyn ChangeLog) -> Option<Position> {
        let store = self.0.store.clone();
        match tokio::task::spawn_blocking(move || store.position()).await.ok()? {
            Ok(Some(Applied { identity, sequence })) => {
                Some(Position { identity: Some(Identity(identity.into())), sequence })
            }
            Ok(None) => {
                let state = log.state().await.ok()?;
                Some(Position { identity: Some(state.identity), sequence: 0 })
            }
            Err(error) => {
                tracing::error!(%error, "experiments of other nodes are not followed");
                None
            }
        }
    }

    /// Takes in records until the log cannot be followed any further from there.
    async fn take_in(&self, mut records: Deliveries, from: Position) {
        let identity = from.identity;
        while let Some(delivery) = records.next().await {
            match delivery {
                Delivery::Record(record) => {
                    let Ok(batch) = rmp_serde::from_slice::<Batch>(&record.payload) else {
                        tracing::warn!(
                            record.sequence,
                            "a record of experiments is not understood"
                        );
                        continue;
                    };
                    let at = identity.as_ref().map(|identity| Applied {
                        identity: identity.to_string(),
                        sequence: record.sequence,
                    });
                    self.apply(batch, at).await;
                }
                Delivery::CaughtUp { .. } | Delivery::Resumed => {}
                Delivery::Lost(lost) => {
                    tracing::warn!(%lost, "results of experiments may lack something");
                    return self.after(lost, identity).await;
                }
            }
        }
    }

    /// Where to go on after a loss: nothing is counted twice.
    async fn after(&self, lost: Lost, known: Option<Identity>) {
        let (identity, sequence) = match lost {
            Lost::IdentityChanged(identity) => (Some(identity), 0),
            Lost::RolledBack { last } => (known, last),
            Lost::Rewritten { at } => (known, at),
            Lost::Gap { after } => (known, after),
            _ => return,
        };
        if let Some(identity) = &identity {
            let at = Applied { identity: identity.to_string(), sequence };
            let store = self.0.store.clone();
            let stood = tokio::task::spawn_blocking(move || store.stand_at(&at)).await;
            if let Ok(Err(error)) = stood {
                tracing::error!(%error, "experiments are followed from an old place");
            }
        }
    }

    async fn apply(&self, batch: Batch, at: Option<Applied>) {
        let store = self.0.store.clone();
        let applied = tokio::task::spawn_blocking(move || store.apply(&batch, at.as_ref())).await;
        match applied {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "what was seen of experiments is lost"),
            Err(error) => tracing::error!(%error, "keeping results of experiments failed"),
        }
    }
}

/// Whether a worker has a rule. What is seen of others cannot be told from what a process made up.
fn there(snapshot: &Snapshot) -> impl Fn(&WorkerRef, &str) -> bool {
    move |worker, rule| {
        let name = format!("\"{rule}\"");
        let rules = snapshot.rules.of(&Owner::from(worker));
        rules.iter().any(|rules| rules.document.contains(&name))
    }
}
