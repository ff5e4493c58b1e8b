//! What a node must agree on with its cluster before it follows any log: whose the logs are, and how many shards
//! there are. Both stand in the log `kv-meta`, written by the cluster's first node. Logs that were made anew,
//! or by another cluster, are empty: a replica that followed them would forget all it has.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{BLOBS, Inner, META, ReplicatedStore, log_name};
use crate::log::{
    Absent, Append, ChangeLog, Expect, Freshness, LogEngine, LogError, LogOptions, LogState,
    Retention,
};

/// Where the cluster's id stands.
const CLUSTER: &str = "cluster";
/// Where the number of shards stands.
const SHARDS: &str = "shards";
/// The pause before the log is asked again.
const PAUSE: Duration = Duration::from_millis(200);
/// The pause before a log is asked again that said no.
const REFUSED_PAUSE: Duration = Duration::from_secs(2);
/// Logs that are made at once.
const MADE_AT_ONCE: usize = 4;

/// Whether a node may follow the logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Agreement {
    /// That is not known yet.
    Unknown,
    /// It may.
    Same,
    /// It must not, and why.
    Other(Arc<str>),
}

impl ReplicatedStore {
    /// Makes the logs of a cluster that begins, and notes in them whose they are. Doing it again changes nothing.
    ///
    /// # Errors
    /// `Refused` where the logs are another cluster's, and those of the engine.
    pub async fn found(engine: &dyn LogEngine, cluster: &str, shards: u16) -> Result<(), LogError> {
        let open = |name: &str| {
            let retention = Retention::LastPerSubject;
            engine.log(
                name,
                LogOptions { absent: Absent::Create, retention, ..LogOptions::default() },
            )
        };
        let meta = open(META);
        for (subject, wanted) in [(CLUSTER, cluster.to_owned()), (SHARDS, shards.to_string())] {
            let found = first(&*meta, subject, &wanted).await?;
            if found != wanted {
                let why = match subject {
                    CLUSTER => another_cluster(),
                    _ => another_number(&found, shards),
                };
                return Err(LogError::Refused(why.into()));
            }
        }
        let names = (0..shards).map(log_name).chain([BLOBS.to_owned()]);
        let made: Vec<_> = names.map(|name| open(&name).state()).collect();
        let made: Vec<LogState> =
            stream::iter(made).buffer_unordered(MADE_AT_ONCE).try_collect().await?;
        tracing::debug!(logs = made.len(), "a cluster's logs are made");
        Ok(())
    }

    /// Whether the logs are a cluster's, of so many shards: for a node that has nothing of it yet, and should not
    /// begin on servers that have lost what it is to have.
    ///
    /// # Errors
    /// `Refused` where they are not, and those of the engine.
    pub async fn verify(
        engine: &dyn LogEngine,
        cluster: &str,
        shards: u16,
    ) -> Result<(), LogError> {
        let options = LogOptions {
            absent: Absent::Wait,
            retention: Retention::LastPerSubject,
            ..LogOptions::default()
        };
        let meta = engine.log(META, options);
        match ask(Some(cluster), shards, &*meta).await? {
            Agreement::Other(why) => Err(LogError::Refused(why)),
            _ => Ok(()),
        }
    }
}

/// Finds out whether this node agrees with its cluster, and again whenever that is in doubt, until the store is
/// closed.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut closed = inner.closed.subscribe();
    tokio::select! {
        () = keep(&inner) => {}
        // The sender is in `inner`.
        _ = closed.wait_for(|closed| *closed) => {}
    }
}

async fn keep(inner: &Inner) {
    let mut agreement = inner.agreement.subscribe();
    // The sender is in `inner`.
    while agreement.wait_for(|agreement| *agreement != Agreement::Same).await.is_ok() {
        match check(inner).await {
            Ok(Agreement::Other(_)) => tokio::time::sleep(REFUSED_PAUSE).await,
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "cannot ask whose the key-value logs are");
                inner.status.change(0, |health| health.fault = Some(error.to_string().into()));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Asks, and tells everybody.
pub(super) async fn check(inner: &Inner) -> Result<Agreement, LogError> {
    let found = ask(inner.options.cluster.as_deref(), inner.options.shards, &*inner.meta).await?;
    let changed = inner.agreement.send_replace(found.clone()) != found;
    if let (Agreement::Other(why), true) = (&found, changed) {
        tracing::error!(%why, "the key-value logs are not followed");
    }
    Ok(found)
}

async fn ask(
    cluster: Option<&str>,
    shards: u16,
    meta: &dyn ChangeLog,
) -> Result<Agreement, LogError> {
    let other = |why: String| Ok(Agreement::Other(why.into()));
    let Some(cluster) = cluster else {
        let found = first(meta, SHARDS, &shards.to_string()).await?;
        return match found == shards.to_string() {
            true => Ok(Agreement::Same),
            false => other(another_number(&found, shards)),
        };
    };
    if text(meta, CLUSTER).await?.as_deref() != Some(cluster) {
        return other(another_cluster());
    }
    match text(meta, SHARDS).await? {
        Some(found) if found == shards.to_string() => Ok(Agreement::Same),
        found => other(another_number(found.as_deref().unwrap_or("none"), shards)),
    }
}

/// What stands on a subject, which is `wanted` if nothing stood there.
async fn first(meta: &dyn ChangeLog, subject: &str, wanted: &str) -> Result<String, LogError> {
    if let Some(found) = text(meta, subject).await? {
        return Ok(found);
    }
    let append = Append::new(subject, wanted.to_owned()).expect(Expect::LastOnSubject(0));
    match meta.append(append).await {
        // Another node was faster.
        Err(LogError::Conflict) => {
            text(meta, subject).await?.ok_or_else(|| LogError::Unavailable("it is gone".into()))
        }
        appended => appended.map(|_| wanted.to_owned()),
    }
}

async fn text(meta: &dyn ChangeLog, subject: &str) -> Result<Option<String>, LogError> {
    let record = meta.last_on(subject.to_owned(), Freshness::Latest).await?;
    Ok(record.map(|record| String::from_utf8_lossy(&record.payload).into_owned()))
}

fn another_cluster() -> String {
    "the key-value streams are not this cluster's: restore the NATS servers' files, or give the cluster another \
     prefix"
        .to_owned()
}

fn another_number(found: &str, shards: u16) -> String {
    format!(
        "the cluster has another number of shards, {found} and not {shards}: configure this node alike (shards)"
    )
}
